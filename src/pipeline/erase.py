"""`pipeline erase --customer ID`: a customer's rows go out of the log and every table, and what kept state is made anew.

The addresses of the records are entered first (`erased_records`, which names nobody), so that the audit never meets a hole that it
cannot explain. The same commit says that the erasure is under way, and the last one of a run that it is over: a run that was broken
off is done by the next from its beginning. Then the rows go, table by table. The state of a streaming
query cannot be changed, so each view that may hold the customer in it is streamed anew from the log, as a version of its own, and
promoted; its other versions are removed with their checkpoints.

What has been removed stays in the tables' history until `pipeline maintain` removes the files.
"""

from __future__ import annotations

import json
import re
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
from pipeline.delta_log import commits, newest_version
from pipeline.errors import CheckFailed, KafkaUnreachable, RefusedToStart
from pipeline.failpoints import failpoint
from pipeline.kinds import Kind
from pipeline.settings import Settings
from pipeline.sinks import append_with, commit_lock, create_table, keeping_metadata
from pipeline.sources import has_change_feed, kafka_options, kafka_topics
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

__all__ = ["Erased", "Named", "Report", "run"]

_WHO = "customer_id"
_BY_ADDRESS = (DEAD_LETTERS, REPAIRS, LATE_EVENTS)
_BY_COLUMN = (RAW_ORDERS, RAW_CUSTOMERS, FACT_ORDERS, STAGED_FACTS)
_BY_TEXT = {
    ETL_DEAD_LETTERS: "row",
    STAGED_ROWS: "row",
    QUALITY_RESULTS: "observed",
    RECONCILIATION: "unexplained_keys",
}
_IS_UNDER_WAY = "is_under_way"
_FILES = ("reconciliation.md", "report.html")
_STOP_SECONDS = 120.0


@dataclass(frozen=True)
class Erased:
    """A table (or file) with the rows that went, and those of the customer that its newest version still holds."""

    table: str
    rows: int
    hits: int


@dataclass(frozen=True)
class Named:
    """A record, by its address, or a table's row, that names the id in a text that is no JSON: it may be somebody else's."""

    place: str
    text: str


@dataclass(frozen=True)
class Report:
    """`records` of the log went. `rebuilt` are the views that were streamed anew, each with the version that is live now.

    `by_text` are those that went because the id stands in their text. `mentions` are records of others, and texts, in which the
    id occurs: they are left. Files of earlier versions are removed
    by the first `pipeline maintain` after `history_until`. `kafka_until`: by topic, when Kafka forgets a record that comes
    now (None: never, or it is not known).
    """

    records: int
    tables: Sequence[Erased]
    rebuilt: Mapping[str, str]
    by_text: Sequence[Named]
    mentions: int
    history_until: datetime
    kafka_until: Mapping[str, datetime | None]

    @property
    def hits(self) -> int:
        return sum(one.hits for one in self.tables)


def run(
    settings: Settings,
    customer: str,
    *,
    takes_text: Callable[[Sequence[Named]], bool],
    is_confirmed: Callable[[int], bool],
) -> Report | None:
    """Erase, and look again; `takes_text` is shown what names the id by its text alone, and says whether it goes, too;
    `is_confirmed` is told how many records of the log it is about. None where it says no.

    Raises CheckFailed where a view that was made anew is not the live one but for the customer.
    """
    spark = session(settings)
    if newest_version(spark, table_path(settings.lake.root, RAW_EVENTS)) is None:
        raise RefusedToStart(f"there is no log in the lake {settings.lake.root}: nothing to erase.")
    candidates = _candidates(spark, settings, customer).persist()
    by_text = [*_named(candidates), *_named_rows(spark, settings, customer)]
    with_text = bool(by_text) and takes_text(by_text)
    addresses = (candidates if with_text else candidates.where("is_sure")).select(*RECORD_IDENTITY).distinct()
    count = addresses.count()
    if not is_confirmed(count):
        return None
    is_to_rebuild = count > 0 or _is_under_way(spark, settings)
    _enter(spark, settings, addresses)
    candidates.unpersist()
    failpoint("erase: entered")
    _stop(spark, settings, _queries(spark, settings))
    tables = _tables(spark, settings, customer, with_text=with_text)
    before = {name: _hits(spark, settings, path, is_of) for name, (path, is_of) in tables.items()}
    for name, (path, is_of) in tables.items():
        if before[name]:
            with step(f"erase from {name}: {before[name]} rows"):
                _remove(spark, settings, path, is_of)
            failpoint("erase: out of a table")
    rebuilt = _rebuild(spark, settings) if is_to_rebuild else {}
    _remove_files(settings, customer)
    left = _tables(spark, settings, customer, with_text=with_text)
    known = [*dict.fromkeys([*before, *left])]
    report = Report(
        records=count,
        tables=[
            Erased(name, before.get(name, 0), _hits(spark, settings, *left[name]) if name in left else 0)
            for name in known
        ],
        rebuilt=rebuilt,
        by_text=by_text if with_text else [],
        mentions=_mentions(spark, settings, customer),
        history_until=datetime.now(timezone.utc) + timedelta(hours=settings.maintain.retention_hours),
        kafka_until=_kafka_until(settings),
    )
    if not report.hits:
        failpoint("erase: over")
        nothing = spark.createDataFrame([], SCHEMAS[ERASED_RECORDS])
        append_with(nothing, table_path(settings.lake.root, ERASED_RECORDS), metadata={_IS_UNDER_WAY: False})
    return report


def _of_customers(settings: Settings) -> list[Kind]:
    """The kinds of events that are some customer's."""
    return [
        kind for kind in catalog.kinds(settings).values() if not kind.is_text and _WHO in kind.schema.names
    ]


def _candidates(spark: SparkSession, settings: Settings, customer: str) -> DataFrame:
    """The records of the log that are the customer's by a field or by the key (`is_sure`), or that are no JSON and name the id:
    address, is_sure, text.
    """
    root = settings.lake.root
    typed = [
        spark.read.format("delta").load(table_path(root, kind.table)).select(*RECORD_IDENTITY, _WHO)
        for kind in _of_customers(settings)
    ]
    events = reduce(DataFrame.unionByName, typed)
    own = events.where(F.col(_WHO) == customer).select(
        *RECORD_IDENTITY, F.lit(True).alias("is_sure"), F.lit("").alias("text")
    )
    raw = spark.read.format("delta").load(table_path(root, RAW_EVENTS))
    topics = kafka_topics(settings, [kind.name for kind in _of_customers(settings)]).names
    others = raw.where(F.col("topic").isin(*topics)).join(events, on=[*RECORD_IDENTITY], how="left_anti")
    text = F.col("value").cast("string")
    is_sure = _is_by_field(text, customer) | _is_key(customer)
    named = others.where(is_sure | _is_by_text(text, customer))
    return own.unionByName(named.select(*RECORD_IDENTITY, is_sure.alias("is_sure"), text.alias("text")))


def _named(candidates: DataFrame) -> list[Named]:
    rows = candidates.where("NOT is_sure").orderBy(*RECORD_IDENTITY).collect()
    return [Named(f"{row['topic']} {row['partition']} {row['offset']}", row["text"]) for row in rows]


def _named_rows(spark: SparkSession, settings: Settings, customer: str) -> list[Named]:
    """The rows of tables that only their text may make the customer's."""
    found = []
    for name, column in _BY_TEXT.items():
        path = table_path(settings.lake.root, name)
        if newest_version(spark, path) is not None:
            text = F.concat_ws(" ", column)
            rows = spark.read.format("delta").load(path).where(_is_by_text(text, customer)).select(text)
            found += [Named(name, row[0]) for row in rows.collect()]
    return found


def _parsed(text: Column) -> Column:
    """An object, or list, of JSON as one text for all ways of writing it, escaped only where JSON needs it; null where it is none."""
    written = F.to_json(F.try_parse_json(text))
    return F.when(written.rlike(r"^[{\[]"), written)


def _is_by_field(text: Column, customer: str) -> Column:
    """Whether it is JSON with a customer_id, at any depth, that is the id (an integer is taken as its text)."""
    quoted = re.escape(json.dumps(customer, ensure_ascii=False))
    number = f"|{customer}" if re.fullmatch(r"0|-?[1-9][0-9]*", customer) else ""
    field = rf'"{_WHO}":(?:\[[^\[\]]*?)?(?:{quoted}{number})[,}}\]]'
    return F.coalesce(_parsed(text).rlike(field), F.lit(False))


def _is_by_text(text: Column, customer: str) -> Column:
    """Whether it is no JSON, and the id stands in it."""
    return _parsed(text).isNull() & _names(text, customer)


def _names(text: Column, customer: str) -> Column:
    """Whether the id stands in the text as a word of its own, as it is or in the escapes of JSON."""
    word = "".join(map(_escaped, customer))
    return F.coalesce(text.rlike(f"(?<![A-Za-z0-9_-]){word}(?![A-Za-z0-9_-])"), F.lit(False))


def _escaped(character: str) -> str:
    """A pattern for every way in which JSON may write the character."""
    units = character.encode("utf-16-be").hex()
    by_number = "".join(rf"\\u(?i:{units[at : at + 4]})" for at in range(0, len(units), 4))
    short = json.dumps(character, ensure_ascii=False)[1:-1] if character != "/" else r"\/"
    return f"(?:{re.escape(character)}|{re.escape(short)}|{by_number})"


def _is_key(customer: str) -> Column:
    return F.coalesce(F.col("key") == F.lit(customer.encode()), F.lit(False))


def _is_under_way(spark: SparkSession, settings: Settings) -> bool:
    """Whether an erasure was begun that nobody has finished, or that a version finished which did not say so."""
    path = table_path(settings.lake.root, ERASED_RECORDS)
    if newest_version(spark, path) is None:
        return False
    told = (one.metadata for one in commits(spark, path) if one.metadata is not None)
    return bool(next(told, {}).get(_IS_UNDER_WAY, True))


def _enter(spark: SparkSession, settings: Settings, addresses: DataFrame) -> None:
    path = table_path(settings.lake.root, ERASED_RECORDS)
    create_table(spark, path, SCHEMAS[ERASED_RECORDS])
    with commit_lock(path):
        known = spark.read.format("delta").load(path).select(*RECORD_IDENTITY)
        new = addresses.join(known, on=[*RECORD_IDENTITY], how="left_anti")
        rows = new.withColumn("erased_at", F.lit(datetime.now(timezone.utc)).cast("timestamp"))
        rows = rows.select(*SCHEMAS[ERASED_RECORDS].names).coalesce(1)
        append_with(rows, path, metadata={_IS_UNDER_WAY: True})


def _tables(
    spark: SparkSession, settings: Settings, customer: str, *, with_text: bool
) -> dict[str, tuple[str, Column | None]]:
    """By name the tables that may hold the customer's rows, of those that are there: path, and which rows are (None: by address)."""
    root = settings.lake.root
    found: dict[str, tuple[str, Column | None]] = {
        name: (table_path(root, name), None)
        for name in (RAW_EVENTS, *_BY_ADDRESS, *(kind.table for kind in _of_customers(settings)))
    }
    is_of_customer = F.col(_WHO) == customer
    found |= {name: (table_path(root, name), is_of_customer) for name in _BY_COLUMN}
    for name, column in _BY_TEXT.items():
        text = F.concat_ws(" ", column)
        is_of = _is_by_field(text, customer)
        found[name] = (table_path(root, name), is_of | _is_by_text(text, customer) if with_text else is_of)
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
    """Stream anew what may hold the customer in its state; the live version by view."""
    concerned = {
        name: live
        for name, live in versions.live_views(spark, settings).items()
        if _may_hold(spark, settings, live)
    }
    streamed = [name for name, live in concerned.items() if _has_begun(spark, settings, live)]
    if streamed:
        promotion.replay(settings, streamed, once=True, anew=True)
        failpoint("erase: streamed anew")
    rebuilt = {}
    for name in streamed:
        found = promotion.promote(settings, name, is_confirmed=lambda _: True)
        if found is not None and found.unexplained:
            raise CheckFailed(
                f"{name}: the version {found.new} that was made without the customer differs from the live one in "
                f"{found.unexplained} rows without a cause, so it is not promoted. The rows of the customer are gone; the state of "
                f"the live version's query may still hold them.\nLook at them: pipeline promote {name}. Then erase again."
            )
        failpoint("erase: promoted")
        rebuilt[name] = versions.read(spark, settings).line(name).live.label
    for live in concerned.values():
        _drop_others(spark, settings, live)
    return rebuilt


def _may_hold(spark: SparkSession, settings: Settings, view: View) -> bool:
    """Whether its query has read the customer's events, or streams a table that rows have been taken out of, which it cannot."""
    customers = {kind.name for kind in _of_customers(settings)}
    return bool(customers & {*view.inputs}) or _streams_files(spark, settings, view)


def _streams_files(spark: SparkSession, settings: Settings, view: View) -> bool:
    """Whether it streams a table by its files, and not by its change feed: such a stream does not read over rows that were taken out."""
    if versions.source_of(spark, settings, view) != "log":
        return False
    kinds = catalog.kinds(settings)
    paths = [table_path(settings.lake.root, kinds[kind].table) for kind in view.inputs]
    return not all(has_change_feed(spark, path) for path in paths)


def _has_begun(spark: SparkSession, settings: Settings, view: View) -> bool:
    return files.exists(spark, f"{checkpoint_path(settings.lake.root, view.query)}/metadata")


def _drop_others(spark: SparkSession, settings: Settings, view: View) -> None:
    """Also those that have no tables yet, or none any more."""
    line = versions.read(spark, settings).line(view.name)
    kept = [*line.before, *([line.next] if line.next is not None else [])]
    labels = dict.fromkeys(
        [*maintain.labels(spark, settings.lake.root, view.name), *(made.label for made in kept)]
    )
    for label in labels:
        other = labelled(view, label)
        if label != line.live.label:
            _stop(spark, settings, [other.query])
            maintain.drop(spark, settings, other)
            failpoint("erase: a version dropped")


def _queries(spark: SparkSession, settings: Settings) -> list[str]:
    """Those that cannot go on beside an erasure: live ones that stream files of the log, and all that is being made beside the live ones."""
    known = versions.read(spark, settings)
    views = catalog.views(settings).values()
    live = [known.live(view) for view in views]
    made = [known.next(view) for view in views]
    return [
        *(view.query for view in live if _streams_files(spark, settings, view)),
        *(view.query for view in made if view is not None),
    ]


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
