"""`pipeline erase --customer ID`: a customer's rows go out of the log and every table, and what kept state is made anew.

The addresses of the records are entered first (`erased_records`, which names nobody), so that the audit never meets a hole that it
cannot explain, and a run that was broken off is finished by the next. Then the rows go, table by table. The state of a streaming
query cannot be changed, so each view that may hold the customer in it is streamed anew from the log, as a version of its own, and
promoted; its other versions are removed with their checkpoints.

What has been removed stays in the tables' history until `pipeline maintain` removes the files.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from functools import reduce

from delta.tables import DeltaTable
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F

from pipeline import catalog, files, kafka_offsets, maintain, promotion, versions
from pipeline.console import step
from pipeline.contracts import RECORD_IDENTITY
from pipeline.delta_log import newest_version
from pipeline.errors import CheckFailed, KafkaUnreachable, RefusedToStart
from pipeline.kinds import Kind
from pipeline.settings import Settings
from pipeline.sinks import commit_lock, create_table, keeping_metadata
from pipeline.sources import kafka_options, kafka_topics
from pipeline.starting import session
from pipeline.stopping import running_queries, stop_queries
from pipeline.tables import (
    DEAD_LETTERS,
    ERASED_RECORDS,
    ETL_DEAD_LETTERS,
    FACT_ORDERS,
    LATE_EVENTS,
    QUALITY_RESULTS,
    RAW_CUSTOMERS,
    RAW_EVENTS,
    RAW_ORDERS,
    RECONCILIATION,
    REPAIRS,
    SCHEMAS,
    STAGED_FACTS,
    STAGED_ROWS,
    checkpoint_path,
    local_path,
    table_path,
)
from pipeline.views import View, labelled

__all__ = ["Erased", "Report", "run"]

_WHO = "customer_id"
_BY_ADDRESS = (DEAD_LETTERS, REPAIRS, LATE_EVENTS)
_BY_COLUMN = (RAW_ORDERS, RAW_CUSTOMERS, FACT_ORDERS, STAGED_FACTS)
_BY_TEXT = {
    ETL_DEAD_LETTERS: "row",
    STAGED_ROWS: "row",
    QUALITY_RESULTS: "observed",
    RECONCILIATION: "unexplained_keys",
}
_FILES = ("reconciliation.md", "report.html")
_STOP_SECONDS = 120.0


@dataclass(frozen=True)
class Erased:
    """A table (or file) with the rows that went, and those of the customer that its newest version still holds."""

    table: str
    rows: int
    hits: int


@dataclass(frozen=True)
class Report:
    """`records` of the log went. `rebuilt` are the views that were streamed anew, each with the version that is live now.

    `mentions` are records of others, and texts, in which the id occurs: they are left. Files of earlier versions are removed
    by the first `pipeline maintain` after `history_until`. `kafka_until`: by topic, when Kafka forgets a record that comes
    now (None: never, or it is not known).
    """

    records: int
    tables: Sequence[Erased]
    rebuilt: Mapping[str, str]
    mentions: int
    history_until: datetime
    kafka_until: Mapping[str, datetime | None]

    @property
    def hits(self) -> int:
        return sum(one.hits for one in self.tables)


def run(settings: Settings, customer: str, *, is_confirmed: Callable[[int], bool]) -> Report | None:
    """Erase, and look again; `is_confirmed` is told how many records of the log it is about. None where it says no.

    Raises CheckFailed where a view that was made anew is not the live one but for the customer.
    """
    spark = session(settings)
    if newest_version(spark, table_path(settings.lake.root, RAW_EVENTS)) is None:
        raise RefusedToStart(f"there is no log in the lake {settings.lake.root}: nothing to erase.")
    addresses = _addresses(spark, settings, customer).persist()
    count = addresses.count()
    if not is_confirmed(count):
        return None
    _enter(spark, settings, addresses)
    _stop(
        spark,
        settings,
        [
            view.query
            for view in versions.live_views(spark, settings).values()
            if _streams_log(settings, view)
        ],
    )
    tables = _tables(spark, settings, customer)
    before = {name: _hits(spark, settings, path, is_of) for name, (path, is_of) in tables.items()}
    for name, (path, is_of) in tables.items():
        if before[name]:
            with step(f"erase from {name}: {before[name]} rows"):
                _remove(spark, settings, path, is_of)
    rebuilt = _rebuild(spark, settings)
    _remove_files(settings, customer)
    left = _tables(spark, settings, customer)
    known = [*dict.fromkeys([*before, *left])]
    return Report(
        records=count,
        tables=[
            Erased(name, before.get(name, 0), _hits(spark, settings, *left[name]) if name in left else 0)
            for name in known
        ],
        rebuilt=rebuilt,
        mentions=_mentions(spark, settings, customer),
        history_until=datetime.now(timezone.utc) + timedelta(hours=settings.maintain.retention_hours),
        kafka_until=_kafka_until(settings),
    )


def _of_customers(settings: Settings) -> list[Kind]:
    """The kinds of events that are some customer's."""
    return [
        kind for kind in catalog.kinds(settings).values() if not kind.is_text and _WHO in kind.schema.names
    ]


def _addresses(spark: SparkSession, settings: Settings, customer: str) -> DataFrame:
    """The addresses of the customer's records in the log: events that were accepted, and of the others those that name the customer."""
    root = settings.lake.root
    typed = [
        spark.read.format("delta").load(table_path(root, kind.table)).select(*RECORD_IDENTITY, _WHO)
        for kind in _of_customers(settings)
    ]
    events = reduce(DataFrame.unionByName, typed)
    own = events.where(F.col(_WHO) == customer).select(*RECORD_IDENTITY)
    raw = spark.read.format("delta").load(table_path(root, RAW_EVENTS))
    topics = kafka_topics(settings, [kind.name for kind in _of_customers(settings)]).names
    others = raw.where(F.col("topic").isin(*topics)).join(events, on=[*RECORD_IDENTITY], how="left_anti")
    named = others.where(_names(F.col("value").cast("string"), customer) | _is_key(customer))
    return own.unionByName(named.select(*RECORD_IDENTITY)).distinct()


def _names(text: Column, customer: str) -> Column:
    """Whether the id stands in the text as a word of its own."""
    quoted = "\\Q" + customer.replace("\\E", "\\E\\\\E\\Q") + "\\E"
    return F.coalesce(text.rlike(f"(?<![A-Za-z0-9_-]){quoted}(?![A-Za-z0-9_-])"), F.lit(False))


def _is_key(customer: str) -> Column:
    return F.coalesce(F.col("key") == F.lit(customer.encode()), F.lit(False))


def _enter(spark: SparkSession, settings: Settings, addresses: DataFrame) -> None:
    path = table_path(settings.lake.root, ERASED_RECORDS)
    create_table(spark, path, SCHEMAS[ERASED_RECORDS])
    with commit_lock(path):
        known = spark.read.format("delta").load(path).select(*RECORD_IDENTITY)
        new = addresses.join(known, on=[*RECORD_IDENTITY], how="left_anti")
        rows = new.withColumn("erased_at", F.lit(datetime.now(timezone.utc)).cast("timestamp"))
        rows.select(*SCHEMAS[ERASED_RECORDS].names).coalesce(1).write.format("delta").mode("append").save(
            path
        )


def _tables(spark: SparkSession, settings: Settings, customer: str) -> dict[str, tuple[str, Column | None]]:
    """By name the tables that may hold the customer's rows, of those that are there: path, and which rows are (None: by address)."""
    root = settings.lake.root
    found: dict[str, tuple[str, Column | None]] = {
        name: (table_path(root, name), None)
        for name in (RAW_EVENTS, *_BY_ADDRESS, *(kind.table for kind in _of_customers(settings)))
    }
    is_of_customer = F.col(_WHO) == customer
    found |= {name: (table_path(root, name), is_of_customer) for name in _BY_COLUMN}
    for name, column in _BY_TEXT.items():
        found[name] = (table_path(root, name), _names(F.concat_ws(" ", column), customer))
    for view in catalog.views(settings).values():
        if _WHO not in view.schema.names:
            continue
        for label in maintain.labels(spark, root, view.name):
            for layer in ("speed", "batch"):
                path = f"{root}/views/{view.name}/v{label}/{layer}"
                found[path.removeprefix(f"{root}/")] = (path, is_of_customer)
    return {name: one for name, one in found.items() if newest_version(spark, one[0]) is not None}


def _erased(spark: SparkSession, settings: Settings) -> DataFrame:
    return (
        spark.read.format("delta")
        .load(table_path(settings.lake.root, ERASED_RECORDS))
        .select(*RECORD_IDENTITY)
    )


def _hits(spark: SparkSession, settings: Settings, path: str, is_of: Column | None) -> int:
    rows = spark.read.format("delta").load(path)
    if is_of is not None:
        return rows.where(is_of).count()
    return rows.join(F.broadcast(_erased(spark, settings)), on=[*RECORD_IDENTITY], how="left_semi").count()


def _remove(spark: SparkSession, settings: Settings, path: str, is_of: Column | None) -> None:
    """In one commit, which says of the rows that are left what the newest that said anything has said."""
    table = DeltaTable.forPath(spark, path)
    with commit_lock(path), keeping_metadata(spark, path):
        if is_of is not None:
            table.delete(is_of)
            return
        is_same = " AND ".join(f"stored.`{name}` = erased.`{name}`" for name in RECORD_IDENTITY)
        erased = _erased(spark, settings).distinct().alias("erased")
        table.alias("stored").merge(erased, is_same).whenMatchedDelete().execute()


def _rebuild(spark: SparkSession, settings: Settings) -> dict[str, str]:
    """Stream anew what began before the newest erasure and may hold the customer in its state; the live version by view."""
    concerned = {
        name: live
        for name, live in versions.live_views(spark, settings).items()
        if _may_hold(settings, live) and _began_before(spark, settings, live)
    }
    if concerned:
        promotion.replay(settings, [*concerned], once=True, anew=True)
    rebuilt = {}
    for name, live in concerned.items():
        found = promotion.promote(settings, name, is_confirmed=lambda _: True)
        if found is not None and found.unexplained:
            raise CheckFailed(
                f"{name}: the version {found.new} that was made without the customer differs from the live one in "
                f"{found.unexplained} rows without a cause, so it is not promoted. The rows of the customer are gone; the state of "
                f"the live version's query may still hold them.\nLook at them: pipeline promote {name}. Then erase again."
            )
        _drop_others(spark, settings, live)
        rebuilt[name] = versions.read(spark, settings).line(name).live.label
    return rebuilt


def _may_hold(settings: Settings, view: View) -> bool:
    """Whether its query has read the customer's events, or streams a table that rows have been taken out of, which it cannot."""
    customers = {kind.name for kind in _of_customers(settings)}
    return bool(customers & {*view.inputs}) or _streams_log(settings, view)


def _streams_log(settings: Settings, view: View) -> bool:
    return (view.source or settings.speed.source) == "log"


def _began_before(spark: SparkSession, settings: Settings, view: View) -> bool:
    checkpoint = checkpoint_path(settings.lake.root, view.query)
    began_at = files.modified_at(spark, f"{checkpoint}/metadata")
    path = table_path(settings.lake.root, ERASED_RECORDS)
    ((newest,),) = spark.read.format("delta").load(path).agg(F.max("erased_at")).collect()
    return began_at is not None and newest is not None and began_at <= newest.replace(tzinfo=timezone.utc)


def _drop_others(spark: SparkSession, settings: Settings, view: View) -> None:
    live = versions.read(spark, settings).line(view.name).live.label
    for label in maintain.labels(spark, settings.lake.root, view.name):
        other = labelled(view, label)
        if label != live:
            _stop(spark, settings, [other.query])
            maintain.drop(spark, settings, other)


def _stop(spark: SparkSession, settings: Settings, queries: Sequence[str]) -> None:
    root = settings.lake.root
    running = [query for query in running_queries(root, spark=spark) if query in queries]
    left = stop_queries(root, running, timeout_seconds=_STOP_SECONDS, spark=spark) if running else []
    if left:
        raise CheckFailed(
            f"Still running after {_STOP_SECONDS:.0f} s: {', '.join(left)}. End it, and erase again."
        )


def _remove_files(settings: Settings, customer: str) -> list[str]:
    """Reports beside the tables in which the id occurs; they are made anew by the commands that made them."""
    folder = local_path(settings.lake.root)
    found = [folder / name for name in _FILES if (folder / name).is_file()] if folder is not None else []
    named = [file for file in found if customer in file.read_text(encoding="utf-8")]
    for file in named:
        file.unlink()
    return [file.name for file in named]


def _mentions(spark: SparkSession, settings: Settings, customer: str) -> int:
    raw = spark.read.format("delta").load(table_path(settings.lake.root, RAW_EVENTS))
    return raw.where(_names(F.col("value").cast("string"), customer) | _is_key(customer)).count()


def _kafka_until(settings: Settings) -> dict[str, datetime | None]:
    """By topic, when Kafka forgets a record that comes now; None where it never does, or does not say."""
    topics = kafka_topics(settings, [kind.name for kind in _of_customers(settings)]).names
    servers, options = settings.kafka.bootstrap_servers, kafka_options(settings)
    try:
        can_be_asked = kafka_offsets.can_be_asked(options)
        known = kafka_offsets.retentions(servers, topics, options=options) if can_be_asked else {}
    except KafkaUnreachable:
        known = {}
    now = datetime.now(timezone.utc)
    return {
        topic: now + timedelta(milliseconds=known[topic]) if known.get(topic, -1) >= 0 else None
        for topic in topics
    }
