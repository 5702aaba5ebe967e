"""The batch layer: each view over the whole log at one table version, up to a horizon, replaced in one commit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from functools import partial
from typing import Any, Literal

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql import types as T

from pipeline import delta_log, late, ledger
from pipeline.console import step
from pipeline.contracts import (
    CONTRACT_VERSION,
    ORDERS,
    PRODUCTS,
    RECORD_ADDRESS,
    RECORD_IDENTITY,
    REPAIRED,
    TEXT_LINES,
)
from pipeline.errors import RefusedToStart
from pipeline.failpoints import failpoint
from pipeline.session import session, side_by_side
from pipeline.settings import Settings
from pipeline.sinks import create_table, replace
from pipeline.sources import read_events, read_version, table_version
from pipeline.tables import (
    BATCH_LEDGER,
    ORDER_EVENTS,
    PRODUCT_EVENTS,
    RAW_EVENTS,
    REPAIRS,
    SCHEMAS,
    table_path,
    view_path,
)
from pipeline.views import VIEWS, View, best_of_each_key, settled

__all__ = [
    "KEPT_HISTORY",
    "Evidence",
    "Origin",
    "Published",
    "Snapshot",
    "batch_rows",
    "enter_late_events",
    "events_of",
    "evidence",
    "facts_of",
    "lateness",
    "published",
    "run",
    "seed_of",
    "snapshot",
    "unrepaired",
]

Origin = Literal["typed", "raw"]

_LATENESS = timedelta(minutes=10)
KEPT_HISTORY = {"delta.logRetentionDuration": "interval 3650 days"}
"""For tables of few commits, one of which says what their rows are: it must never be cleaned away."""


@dataclass(frozen=True)
class Snapshot:
    """The versions of the log's tables that one batch run reads."""

    versions: Mapping[str, int]


@dataclass(frozen=True)
class Published:
    """A batch table as readers see it: its path, version, and the horizon of that same commit (None: of no horizon)."""

    path: str
    version: int
    horizon: datetime | None
    log: Snapshot
    made_at: datetime
    origin: Origin = "typed"


@dataclass(frozen=True)
class Evidence:
    """What the speed queries are judged by, as of one moment: the log, the ledger's entries, and how far each query is judged.

    `scopes` are by view, of those whose query has begun; `repaired` are the addresses of repaired dead letters.
    """

    log: Snapshot
    entries: DataFrame
    scopes: Mapping[str, late.Scope]
    repaired: DataFrame


def run(
    settings: Settings,
    *,
    views: Sequence[str] = (),
    until: datetime | None = None,
    source: Origin = "typed",
) -> None:
    """Recompute the views (all by default) from the log and publish each in one commit.

    `until` is by default the newest event time in the log minus 10 minutes. Raises RefusedToStart when there is no log.
    """
    spark = session(settings)
    log = snapshot(spark, settings)
    until = until or newest_event_time(spark, settings, log) - _LATENESS

    def publish(name: str) -> None:
        with step(f"batch {name}"):
            _publish(spark, settings, VIEWS[name], log=log, until=until, origin=source)

    side_by_side(spark, [partial(publish, name) for name in views or VIEWS])
    found = evidence(spark, settings)
    if found.scopes:
        with step("late events: which are counted now"):
            enter_late_events(spark, settings, found)
            counted = _counted(spark, settings, found, views=views or [*VIEWS])
            late.heal(spark, settings.lake.root, counted=counted)


def evidence(spark: SparkSession, settings: Settings) -> Evidence:
    """What is known by now, with the finished batches of every query entered in the ledger.

    The log is read after the ledger, so that it holds all that the ledger's entries of ingest name.
    """
    root = settings.lake.root
    log = snapshot(spark, settings)
    create_table(spark, table_path(root, BATCH_LEDGER), SCHEMAS[BATCH_LEDGER])
    finished = {}
    for view in VIEWS.values():
        newest = ledger.catch_up(spark, root, view.query)
        if newest is not None:
            finished[view.query] = newest
    generations = ledger.generations(spark, root, [ledger.INGEST, *finished])
    entries = ledger.entries(spark, root, generations)
    judged = ledger.judged(entries, finished) if finished else {}
    scopes = {}
    for view in VIEWS.values():
        if view.query in judged:
            seed = seed_of(spark, settings, view)
            counts_from = seed.horizon if seed else None
            scopes[view.name] = late.Scope(view, generations[view.query], judged[view.query], counts_from)
    log = snapshot(spark, settings) if scopes else log
    return Evidence(log, entries, scopes, _repaired(spark, settings))


def enter_late_events(spark: SparkSession, settings: Settings, found: Evidence) -> None:
    """Enter what the queries missed and `late_events` does not have yet."""
    events = {
        kind: unrepaired(events_of(spark, settings, kind, log=found.log), found)
        for kind in (ORDERS, PRODUCTS)
    }
    late.enter(
        spark,
        settings.lake.root,
        events=events,
        entries=found.entries,
        scopes=[*found.scopes.values()],
        counted=_counted(spark, settings, found, views=[*found.scopes]),
        basis=_basis(found),
    )


def _basis(found: Evidence) -> dict[str, Any]:
    """What decides which events are late: how far each query is judged, and which records were repaired."""
    scopes = {
        name: [scope.generation, scope.judged, scope.counts_from.isoformat() if scope.counts_from else None]
        for name, scope in sorted(found.scopes.items())
    }
    return {"judged": scopes, "repairs": found.log.versions.get(REPAIRS)}


def lateness(settings: Settings, *, views: Sequence[str] = ()) -> list[late.Lateness]:
    """How late events came for each view (all by default), with those that are entered now."""
    spark = session(settings)
    found = evidence(spark, settings)
    if found.scopes:
        with step("late events"):
            enter_late_events(spark, settings, found)
    return late.lateness(spark, settings.lake.root, views or [*VIEWS])


def unrepaired(events: DataFrame, found: Evidence) -> DataFrame:
    """The events that were accepted as they came: a repaired one was dead when the queries read it."""
    return events.join(F.broadcast(found.repaired), on=[*RECORD_IDENTITY], how="left_anti")


def _repaired(spark: SparkSession, settings: Settings) -> DataFrame:
    path = table_path(settings.lake.root, REPAIRS)
    if table_version(spark, path) is None:
        return spark.createDataFrame([], T.StructType([*RECORD_ADDRESS]))
    repairs = spark.read.format("delta").load(path)
    return repairs.where(F.col("status") == REPAIRED).select(*RECORD_IDENTITY)


def _counted(
    spark: SparkSession, settings: Settings, found: Evidence, *, views: Sequence[str]
) -> dict[str, late.Counted]:
    """What the published batch forms of these views count, of those that a horizon cuts."""
    counted = {}
    for name in views:
        form = published(spark, settings, VIEWS[name])
        if form is None or form.horizon is None:
            continue
        is_same = all(
            form.log.versions[table] == found.log.versions[table] for table in (ORDER_EVENTS, PRODUCT_EVENTS)
        )
        held = [events_of(spark, settings, kind, log=form.log) for kind in (ORDERS, PRODUCTS)]
        counted[name] = late.Counted(form.horizon, form.made_at, None if is_same else held)
    return counted


def snapshot(spark: SparkSession, settings: Settings) -> Snapshot:
    """The newest version of each of the log's tables, and of the repairs to it, if there are any."""
    versions = {}
    for name in (RAW_EVENTS, ORDER_EVENTS, PRODUCT_EVENTS):
        version = table_version(spark, table_path(settings.lake.root, name))
        if version is None:
            raise RefusedToStart(
                f"there is no {name} in the lake {settings.lake.root}: nothing has been ingested yet.\n"
                "Run `pipeline ingest` first (`--once` ingests what is there), or set lake.root to the lake you mean."
            )
        versions[name] = version
    repairs = table_version(spark, table_path(settings.lake.root, REPAIRS))
    return Snapshot(versions if repairs is None else {**versions, REPAIRS: repairs})


def newest_event_time(spark: SparkSession, settings: Settings, log: Snapshot) -> datetime:
    """The newest event time of orders and products in the log. Raises RefusedToStart where it holds neither."""
    newest = [
        read_version(spark, table_path(settings.lake.root, name), log.versions[name])
        .agg(F.max("event_time").alias("newest"))
        .collect()[0]["newest"]
        for name in (ORDER_EVENTS, PRODUCT_EVENTS)
    ]
    known: list[datetime] = [time.replace(tzinfo=timezone.utc) for time in newest if time is not None]
    if not known:
        raise RefusedToStart(
            f"the log in {settings.lake.root} holds no accepted event yet, so a batch has no horizon.\n"
            "Ingest some orders first, or name one with --until."
        )
    return max(known)


def batch_rows(
    spark: SparkSession,
    settings: Settings,
    view: View,
    *,
    log: Snapshot,
    horizon: datetime | None,
    origin: Origin = "typed",
) -> DataFrame:
    """The view's rows over the log, of all time or up to a horizon."""
    events = [events_of(spark, settings, kind, log=log, origin=origin) for kind in view.inputs]
    if horizon is not None and view.settles_by is None:
        events = [rows.where(F.col("event_time") < horizon) for rows in events]
    rows = best_of_each_key(view.define(*events), view=view).select(*view.schema.names)
    return rows if horizon is None else settled(rows, view=view, horizon=horizon)


def published(spark: SparkSession, settings: Settings, view: View) -> Published | None:
    """What the newest batch run of the view has published; None before the first."""
    path = view_path(settings.lake.root, view.name, "batch", view.version)
    newest = table_version(spark, path)
    versions = range(newest, -1, -1) if newest is not None else ()
    return next((facts for version in versions if (facts := _facts(spark, path, version))), None)


def seed_of(spark: SparkSession, settings: Settings, view: View) -> Published | None:
    """The batch form that the view's speed table began as; None where it began empty.

    Its commit comes before the query's first. A crash in between leaves several: the last of them counts.
    """
    if not view.is_seeded:
        return None
    path = view_path(settings.lake.root, view.name, "speed", view.version)
    newest = table_version(spark, path)
    seed = None
    for version in range(1, (newest or 0) + 1):
        facts = _facts(spark, path, version)
        if facts is None:
            break
        seed = facts
    return seed


def facts_of(horizon: datetime | None, log: Snapshot, **more: Any) -> dict[str, Any]:
    """What a commit says of its rows, for `published` and `seed_of` to read."""
    return {"horizon": horizon.isoformat() if horizon else None, "log": dict(log.versions), **more}


def _facts(spark: SparkSession, path: str, version: int) -> Published | None:
    """What a commit says of its rows; None where it says nothing."""
    found = delta_log.commit(spark, path, version)
    if found is None or found.metadata is None:
        return None
    facts = found.metadata
    horizon = datetime.fromisoformat(facts["horizon"]) if facts["horizon"] else None
    return Published(
        path, version, horizon, Snapshot(facts["log"]), found.made_at, facts.get("origin", "typed")
    )


def _publish(
    spark: SparkSession, settings: Settings, view: View, *, log: Snapshot, until: datetime, origin: Origin
) -> None:
    path = view_path(settings.lake.root, view.name, "batch", view.version)
    create_table(spark, path, view.schema, properties=KEPT_HISTORY)
    failpoint("batch: table made")
    horizon = view.horizon(until) if view.horizon else None
    rows = batch_rows(spark, settings, view, log=log, horizon=horizon, origin=origin)
    facts = facts_of(horizon, log, until=until.isoformat(), contract_version=CONTRACT_VERSION, origin=origin)
    replace(rows, path, metadata=facts)
    failpoint("batch: replaced")


def events_of(
    spark: SparkSession, settings: Settings, kind: str, *, log: Snapshot, origin: Origin = "typed"
) -> DataFrame:
    """The accepted events of one kind in this snapshot of the log."""
    typed = {ORDERS: ORDER_EVENTS, PRODUCTS: PRODUCT_EVENTS, TEXT_LINES: RAW_EVENTS}[kind]
    version = log.versions[RAW_EVENTS if origin == "raw" else typed]
    return read_events(
        spark, settings, kind, version=version, origin=origin, repairs=log.versions.get(REPAIRS)
    )
