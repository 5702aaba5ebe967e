"""Kafka → raw_events, the tables of accepted events, dead_letters: one read, each record in each of its tables once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from functools import partial

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import types as T
from pyspark.sql.streaming.query import StreamingQuery

from pipeline import catalog, contracts, exporter, guards, ledger, lineage
from pipeline.checkpoints import MicroBatch, micro_batch
from pipeline.contract_rules import rules_of
from pipeline.contracts import ACCEPTED, DEAD
from pipeline.failpoints import failpoint
from pipeline.kafka_check import require_topics
from pipeline.lag import observer
from pipeline.session import side_by_side
from pipeline.settings import Settings
from pipeline.sinks import Transaction, append, create_table
from pipeline.sources import STREAMED, kafka_options, kafka_topics, kind_of_topic, stream_records
from pipeline.starting import session
from pipeline.stopping import stop_requests
from pipeline.streaming import BatchWriter, await_all, guarded, start
from pipeline.tables import (
    BATCH_LEDGER,
    DEAD_LETTERS,
    RAW_EVENTS,
    checkpoint_path,
    table_path,
)
from pipeline.transforms.decode import accepted_events, classify, dead_letters

__all__ = [
    "QUERY",
    "held",
    "require_all_topics",
    "run",
    "start_ingest",
    "stream_rows",
    "written_columns",
    "written_tables",
]

QUERY = ledger.INGEST
_RECORDS_OF_A_TASK = 5_000


def run(settings: Settings, *, once: bool) -> None:
    """Ingest until stopped, or with `once` what is there now."""
    require_all_topics(settings)
    spark, root = session(settings), settings.lake.root
    watching = observer(spark, settings, "ingest", [QUERY])
    with stop_requests() as stop, held(spark, settings), watching as watcher:
        await_all([start_ingest(spark, settings, once=once)], root=root, stop=stop, observer=watcher)


def require_all_topics(settings: Settings) -> None:
    """Raises KafkaUnreachable, TopicMissing: asked before a session is made."""
    require_topics(
        settings.kafka.bootstrap_servers, [*kind_of_topic(settings)], options=kafka_options(settings)
    )


@contextmanager
def held(spark: SparkSession, settings: Settings) -> Iterator[None]:
    """Ingest's query is this process's, behind its guards (`streaming.guarded`), and whoever follows the lineage is told of it."""
    root, topics = settings.lake.root, kafka_topics(settings, [*catalog.kinds(settings)])
    guards.require_space(root, query=QUERY, min_free_mebibytes=settings.lake.min_free_mebibytes)
    with (
        guarded(spark, query=QUERY, root=root, tables=written_tables(settings), topics=topics),
        _told(settings),
    ):
        yield


def _told(settings: Settings) -> AbstractContextManager[None]:
    servers = settings.kafka.bootstrap_servers
    return lineage.told(
        settings,
        "ingest",
        inputs=[lineage.topic(servers, name) for name in kind_of_topic(settings)],
        outputs=[lineage.table(table_path(settings.lake.root, name)) for name in _tables(settings)],
    )


def start_ingest(spark: SparkSession, settings: Settings, *, once: bool) -> StreamingQuery:
    root, kinds, schemas = settings.lake.root, catalog.kinds(settings), catalog.schemas(settings)
    tables = (*_tables(settings), BATCH_LEDGER)
    streamed = {RAW_EVENTS, *catalog.typed_tables(settings)}
    side_by_side(
        spark,
        [
            partial(
                create_table,
                spark,
                table_path(root, name),
                schemas[name],
                properties=STREAMED if name in streamed else None,
            )
            for name in tables
        ],
    )
    checkpoint = checkpoint_path(root, QUERY)
    guards.check_columns(spark, query=QUERY, checkpoint=checkpoint, tables=written_columns(settings))
    guards.note_rules(spark, checkpoint=checkpoint, rules=rules_of(kinds.values()))
    return start(
        stream_rows(spark, settings),
        query=QUERY,
        root=root,
        tables=written_tables(settings),
        min_free_mebibytes=settings.lake.min_free_mebibytes,
        output_mode="append",
        trigger=settings.ingest.trigger,
        once=once,
        write=_writer(settings),
    )


def stream_rows(spark: SparkSession, settings: Settings) -> DataFrame:
    """The classified records, not started. As part of the stream it is planned once, inside a batch it would be for each."""
    kinds = catalog.kinds(settings)
    records = stream_records(spark, settings, [*kinds], max_offsets=settings.ingest.max_offsets_per_trigger)
    return classify(records, kinds.values())


def written_tables(settings: Settings) -> list[str]:
    return [*written_columns(settings)]


def written_columns(settings: Settings) -> dict[str, T.StructType]:
    """By path of each table that ingest writes, what it holds."""
    root, schemas = settings.lake.root, catalog.schemas(settings)
    return {table_path(root, name): schemas[name] for name in (*_tables(settings), BATCH_LEDGER)}


def _tables(settings: Settings) -> tuple[str, ...]:
    return (RAW_EVENTS, *catalog.typed_tables(settings), DEAD_LETTERS)


def _writer(settings: Settings) -> BatchWriter:
    root = settings.lake.root

    def write(records: DataFrame, transaction: Transaction) -> None:
        failpoint("ingest: begun")
        spark, checkpoint = records.sparkSession, checkpoint_path(root, transaction.query)
        batch = micro_batch(spark, checkpoint, transaction.batch_id)
        classified = records.coalesce(_tasks(spark, batch)).persist()
        try:
            counts = ledger.fates(classified)
            _append_all(spark, _parts(settings, classified, counts), root, transaction)
            failpoint("ingest: all appended")
            ledger.record(spark, root, batch, transaction=transaction, counts=counts)
            exporter.count_fates(counts)
            failpoint("ingest: in the ledger")
        finally:
            classified.unpersist()

    return write


def _tasks(spark: SparkSession, batch: MicroBatch) -> int:
    """One for so many records, and no more than there are cores."""
    records = sum(part.end - part.first for part in batch.ranges)
    return max(1, min(spark.sparkContext.defaultParallelism, -(-records // _RECORDS_OF_A_TASK)))


def _parts(settings: Settings, classified: DataFrame, counts: ledger.Fates) -> dict[str, DataFrame]:
    """The rows of each table that the batch has any for."""
    topics, kinds = kind_of_topic(settings), catalog.kinds(settings).values()
    found = {
        (topics[topic], fate)
        for (topic, _), fates in counts.items()
        for fate, count in fates.items()
        if count
    }
    parts = {
        RAW_EVENTS: (bool(found), classified.select(*contracts.RAW_EVENTS.names)),
        **{
            kind.table: ((kind.name, ACCEPTED) in found, accepted_events(classified, kind))
            for kind in kinds
            if not kind.is_text
        },
        DEAD_LETTERS: (any(fate == DEAD for _, fate in found), dead_letters(classified)),
    }
    return {name: rows for name, (has_rows, rows) in parts.items() if has_rows}


def _append_all(
    spark: SparkSession, parts: Mapping[str, DataFrame], root: str, transaction: Transaction
) -> None:
    """Append to the tables side by side: most of a small append is waiting for its commit."""

    def append_part(name: str) -> None:
        failpoint(f"ingest: {name}")
        # One file: a stream of the table is bounded by files, and none of its batches may end inside of a commit.
        append(parts[name].coalesce(1), table_path(root, name), transaction=transaction)

    side_by_side(spark, [partial(append_part, name) for name in parts], at_a_time=len(parts))
