"""The batch layer: each view over the whole log at one table version, up to a horizon, replaced in one commit."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import Any, Literal

from delta.tables import DeltaTable
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from pipeline.console import step
from pipeline.contracts import CONTRACT_VERSION, ORDERS, PRODUCTS, TEXT_LINES
from pipeline.errors import RefusedToStart
from pipeline.failpoints import failpoint
from pipeline.session import session
from pipeline.settings import Settings
from pipeline.sinks import create_table, replace
from pipeline.sources import read_events, read_version, table_version
from pipeline.tables import ORDER_EVENTS, PRODUCT_EVENTS, RAW_EVENTS, table_path, view_path
from pipeline.views import VIEWS, View, best_of_each_key, settled

__all__ = [
    "KEPT_HISTORY",
    "Origin",
    "Published",
    "Snapshot",
    "batch_rows",
    "events_of",
    "facts_of",
    "published",
    "run",
    "seed_of",
    "snapshot",
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
    for name in views or [*VIEWS]:
        with step(f"batch {name}"):
            _publish(spark, settings, VIEWS[name], log=log, until=until, origin=source)


def snapshot(spark: SparkSession, settings: Settings) -> Snapshot:
    """The newest version of each of the log's tables."""
    versions = {}
    for name in (RAW_EVENTS, ORDER_EVENTS, PRODUCT_EVENTS):
        version = table_version(spark, table_path(settings.lake.root, name))
        if version is None:
            raise RefusedToStart(
                f"there is no {name} in the lake {settings.lake.root}: nothing has been ingested yet.\n"
                "Run `pipeline ingest` first (`--once` ingests what is there), or set lake.root to the lake you mean."
            )
        versions[name] = version
    return Snapshot(versions)


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
    return _newest_facts(spark, view_path(settings.lake.root, view.name, "batch", view.version))


def seed_of(spark: SparkSession, settings: Settings, view: View) -> Published | None:
    """The batch form that the view's speed table began as; None where it began empty."""
    if not view.is_seeded:
        return None
    return _newest_facts(spark, view_path(settings.lake.root, view.name, "speed", view.version))


def facts_of(horizon: datetime | None, log: Snapshot, **more: Any) -> dict[str, Any]:
    """What a commit says of its rows, for `published` and `seed_of` to read."""
    return {"horizon": horizon.isoformat() if horizon else None, "log": dict(log.versions), **more}


def _newest_facts(spark: SparkSession, path: str) -> Published | None:
    """The newest commit of the table that says what its rows are."""
    if not DeltaTable.isDeltaTable(spark, path):
        return None
    history = DeltaTable.forPath(spark, path).history().where(F.col("userMetadata").isNotNull())
    newest = history.orderBy(F.desc("version")).limit(1).collect()
    if not newest:
        return None
    facts = json.loads(newest[0]["userMetadata"])
    horizon = datetime.fromisoformat(facts["horizon"]) if facts["horizon"] else None
    return Published(path, int(newest[0]["version"]), horizon, Snapshot(facts["log"]))


def _publish(
    spark: SparkSession, settings: Settings, view: View, *, log: Snapshot, until: datetime, origin: Origin
) -> None:
    path = view_path(settings.lake.root, view.name, "batch", view.version)
    create_table(spark, path, view.schema, properties=KEPT_HISTORY)
    failpoint("batch: table made")
    horizon = view.horizon(until) if view.horizon else None
    rows = batch_rows(spark, settings, view, log=log, horizon=horizon, origin=origin)
    facts = facts_of(horizon, log, until=until.isoformat(), contract_version=CONTRACT_VERSION)
    replace(rows, path, metadata=facts)
    failpoint("batch: replaced")


def events_of(
    spark: SparkSession, settings: Settings, kind: str, *, log: Snapshot, origin: Origin = "typed"
) -> DataFrame:
    """The accepted events of one kind in this snapshot of the log."""
    typed = {ORDERS: ORDER_EVENTS, PRODUCTS: PRODUCT_EVENTS, TEXT_LINES: RAW_EVENTS}[kind]
    version = log.versions[RAW_EVENTS if origin == "raw" else typed]
    return read_events(spark, settings, kind, version=version, origin=origin)
