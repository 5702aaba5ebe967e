"""Going past one record that Spark cannot read, on the record: `skipped_records` says which, why, who and when.

A Kafka source reads every offset between the ends of two batches, so the record gets a batch of its own, which is entered as
finished without being run. That is sound for ingest because it keeps no state. Each step leaves a checkpoint that an
ordinary start can go on from, and the whole may be repeated.
"""

from __future__ import annotations

import getpass
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any

from pyspark.sql import SparkSession

from pipeline import catalog, checkpoints, files, ingest, ledger
from pipeline.checkpoints import micro_batch
from pipeline.errors import RefusedToStart, UnreadableRecord, UsageError
from pipeline.kafka_check import require_topics
from pipeline.lag import observer
from pipeline.settings import Settings
from pipeline.sinks import Transaction, append, create_table, transactions
from pipeline.sources import kafka_options, kafka_topics, kind_of_topic
from pipeline.starting import session
from pipeline.stopping import stop_requests
from pipeline.streaming import await_all, guarded
from pipeline.tables import SCHEMAS, SKIPPED_RECORDS, checkpoint_path, table_path

__all__ = ["Address", "run"]


@dataclass(frozen=True)
class Address:
    topic: str
    partition: int
    offset: int

    @classmethod
    def of(cls, text: str) -> Address:
        """TOPIC:PARTITION:OFFSET; UsageError for anything else."""
        found = re.fullmatch(r"([^:]+):([0-9]{1,9}):([0-9]{1,18})", text)
        if found is None:
            raise UsageError(f"--skip takes TOPIC:PARTITION:OFFSET, as the error gave it; came {text!r}.")
        return cls(found[1], int(found[2]), int(found[3]))

    def __str__(self) -> str:
        return f"{self.topic}:{self.partition}:{self.offset}"


def run(settings: Settings, address: Address, *, reason: str) -> None:
    """Bring ingest to the record, and past it. Raises RefusedToStart when the record can be read, or has been."""
    require_topics(
        settings.kafka.bootstrap_servers, [*kind_of_topic(settings)], options=kafka_options(settings)
    )
    spark, root = session(settings), settings.lake.root
    _position(spark, root, address)  # refused before anything is made where ingest has not begun
    topics = kafka_topics(settings, [*catalog.kinds(settings)])
    with guarded(spark, query=ingest.QUERY, root=root, tables=ingest.written_tables(settings), topics=topics):
        position = _position(spark, root, address)
        if position > address.offset:
            raise RefusedToStart(
                f"{address} has been read: ingest stands at offset {position}. Nothing to skip."
            )
        _require_unreadable(spark, settings, address)
        create_table(spark, table_path(root, SKIPPED_RECORDS), SCHEMAS[SKIPPED_RECORDS])
        if position < address.offset:
            _run_up_to(spark, settings, address)
        _enter_as_finished(spark, settings, address, reason=reason)


def _position(spark: SparkSession, root: str, address: Address) -> int:
    """The offset of the record's partition at which ingest goes on."""
    places = checkpoints.next_offsets(spark, checkpoint_path(root, ingest.QUERY))
    for topic, partition, offset in places:
        if (topic, partition) == (address.topic, address.partition):
            return offset
    raise RefusedToStart(f"Ingest has not come to {address} yet: it reads no such partition. Run it first.")


def _require_unreadable(spark: SparkSession, settings: Settings, address: Address) -> None:
    """A record that can be read is not to be skipped: if it is bad, it is a dead letter."""

    def at(offset: int) -> str:
        return json.dumps({address.topic: {str(address.partition): offset}})

    records = (
        spark.read.format("kafka")
        .option("kafka.bootstrap.servers", settings.kafka.bootstrap_servers)
        .option("assign", json.dumps({address.topic: [address.partition]}))
        .option("startingOffsets", at(address.offset))
        .option("endingOffsets", at(address.offset + 1))
        .options(**kafka_options(settings))
    )
    try:
        records.load().select("timestamp").collect()
    except Exception as error:  # the JVM's, told apart by its words
        if "has timestamp value" in str(error):
            return
        raise
    raise RefusedToStart(
        f"{address} can be read by Spark. Nothing to skip: if it is bad, it is a dead letter."
    )


def _run_up_to(spark: SparkSession, settings: Settings, address: Address) -> None:
    """One ordinary batch that ends before the record. Spark plans the next one over it, and fails at it."""
    before = _finished(spark, settings.lake.root)
    _plan_next(spark, settings, address, end=address.offset)
    try:
        with stop_requests() as stop, observer(spark, settings, "ingest", [ingest.QUERY]) as watcher:
            await_all(
                [ingest.start_ingest(spark, settings, once=True)],
                root=settings.lake.root,
                stop=stop,
                observer=watcher,
            )
    except UnreadableRecord:
        if _finished(spark, settings.lake.root) == before:
            raise  # there is another one before it


def _enter_as_finished(spark: SparkSession, settings: Settings, address: Address, *, reason: str) -> None:
    root = settings.lake.root
    checkpoint = checkpoint_path(root, ingest.QUERY)
    number = _plan_next(spark, settings, address, end=address.offset + 1)
    transaction = Transaction(ingest.QUERY, checkpoints.generation(spark, checkpoint) or "", number)
    row = (
        address.topic, address.partition, address.offset, reason, getpass.getuser(), datetime.now(timezone.utc),
    )  # fmt: skip
    rows = spark.createDataFrame([row], SCHEMAS[SKIPPED_RECORDS]).coalesce(1)
    append(rows, table_path(root, SKIPPED_RECORDS), transaction=transaction)
    ledger.record(spark, root, micro_batch(spark, checkpoint, number), transaction=transaction, counts={})
    finished = files.read_text(spark, f"{checkpoint}/commits/{number - 1}") if number else None
    files.write_atomically(
        spark, f"{checkpoint}/commits/{number}", finished or 'v1\n{"nextBatchWatermarkMs":0}'
    )


def _plan_next(spark: SparkSession, settings: Settings, address: Address, *, end: int) -> int:
    """Let the next batch read the record's partition up to `end` and nothing else; its number.

    A batch that was planned over the record and wrote nothing, because it could not be read, gives way.
    """
    root = settings.lake.root
    checkpoint = checkpoint_path(root, ingest.QUERY)
    planned = checkpoints.last_batch(spark, checkpoint)
    finished = _finished(spark, root)
    if planned is None:
        raise RefusedToStart(f"Ingest has not come to {address} yet. Run it first.")
    text = files.read_text(spark, f"{checkpoint}/offsets/{planned}") or ""
    number = finished + 1
    if planned > finished:
        _require_untouched(spark, settings, planned)
    places: dict[str, dict[str, int]] = {}
    for topic, partition, offset in checkpoints.next_offsets(spark, checkpoint):
        places.setdefault(topic, {})[str(partition)] = offset
    places[address.topic][str(address.partition)] = end
    version, metadata = text.splitlines()[:2]
    planned_text = "\n".join([version, metadata, json.dumps(places, separators=(",", ":"))])
    files.write_atomically(spark, f"{checkpoint}/offsets/{number}", planned_text)
    return number


def _require_untouched(spark: SparkSession, settings: Settings, planned: int) -> None:
    generation = checkpoints.generation(spark, checkpoint_path(settings.lake.root, ingest.QUERY))
    application = Transaction(ingest.QUERY, generation or "", planned).application
    for table in ingest.written_tables(settings):
        taken: Mapping[str, Any] = transactions(spark, table)
        if taken.get(application, -1) >= planned:
            raise RefusedToStart(
                f"Batch {planned} of ingest is begun, and {table} has its rows already. Let it finish first: pipeline ingest --once"
            )


def _finished(spark: SparkSession, root: str) -> int:
    newest = checkpoints.last_committed_batch(spark, checkpoint_path(root, ingest.QUERY))
    return -1 if newest is None else newest
