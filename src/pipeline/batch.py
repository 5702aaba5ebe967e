"""The batch layer: each view over the whole log at one table version, up to a horizon, replaced in one commit."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from datetime import datetime, timedelta, timezone
from functools import partial

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from pipeline import ahead, catalog, evidence, late, lineage, versions
from pipeline.console import note, step
from pipeline.contracts import CONTRACT_VERSION, LATENESS_MINUTES
from pipeline.errors import RefusedToStart
from pipeline.failpoints import failpoint
from pipeline.incremental import kept_rows, typed_table_ids
from pipeline.instants import in_utc, written
from pipeline.published import KEPT_HISTORY, Origin, Snapshot, events_of, facts_of, published, snapshot
from pipeline.session import side_by_side
from pipeline.settings import Settings
from pipeline.sinks import commit_lock, create_table, replace
from pipeline.sources import read_version, table_version
from pipeline.starting import session
from pipeline.tables import table_path, view_path
from pipeline.views import View, best_of_each_key, is_settled, settled

__all__ = ["batch_rows", "horizon", "publish", "run"]

_LATENESS = timedelta(minutes=LATENESS_MINUTES)


def run(
    settings: Settings,
    *,
    views: Sequence[str] = (),
    until: datetime | None = None,
    source: Origin = "typed",
    incremental: bool = False,
) -> None:
    """Recompute the views (all by default) from the log and publish each in one commit.

    `until` is by default the newest event time in the log, of those that are not ahead of the clock, minus 10 minutes. With `incremental` the rows stay that no event
    since the last run can have changed (`incremental`). Raises RefusedToStart when there is no log.
    """
    spark = session(settings)
    known = versions.live_views(spark, settings)
    chosen = [known[name] for name in views or known]
    versions.require_same_definition(settings, chosen)
    publish(settings, chosen, until=until, source=source, incremental=incremental)
    found = evidence.collect(spark, settings)
    if found.scopes:
        with step("late events: which are counted now"):
            evidence.enter_late_events(spark, settings, found)
            counted = evidence.counted(spark, settings, found, views=views or [*known])
            late.heal(spark, settings.lake.root, counted=counted)


def horizon(settings: Settings, until: datetime | None) -> datetime:
    """`until`, or what stands for it by default. Raises RefusedToStart where there is no log, or none to tell it from."""
    spark = session(settings)
    return _until(spark, settings, snapshot(spark, settings), until)


def publish(
    settings: Settings,
    views: Sequence[View],
    *,
    until: datetime | None = None,
    source: Origin = "typed",
    incremental: bool = False,
) -> None:
    """As `run`, just these versions of views."""
    spark = session(settings)
    log = snapshot(spark, settings)
    until = _until(spark, settings, log, until)

    def publish_one(view: View) -> None:
        with step(f"batch {view.name}"), _told(settings, view, log):
            _publish(spark, settings, view, log=log, until=until, origin=source, incremental=incremental)

    side_by_side(spark, [partial(publish_one, view) for view in views])


def _told(settings: Settings, view: View, log: Snapshot) -> AbstractContextManager[None]:
    root, kinds = settings.lake.root, catalog.kinds(settings)
    names = [kinds[kind].table for kind in view.inputs]
    inputs = [lineage.table(table_path(root, name), log.versions[name]) for name in names]
    outputs = [lineage.table(view_path(root, view.name, "batch", view.label))]
    return lineage.told(settings, f"batch {view.name}", inputs=inputs, outputs=outputs)


def _until(spark: SparkSession, settings: Settings, log: Snapshot, given: datetime | None) -> datetime:
    return given or _default_until(spark, settings, log, now=datetime.now(timezone.utc))


def _default_until(spark: SparkSession, settings: Settings, log: Snapshot, *, now: datetime) -> datetime:
    """The newest event time in the log minus 10 minutes. One event that is ahead of the clock must not make all that is still
    to come a thing of the past; where all of them are, it is the clock that is wrong.

    Raises RefusedToStart where the log holds no accepted event.
    """
    in_time = F.when(F.col("event_time") <= F.lit(ahead.latest(now)), F.col("event_time"))
    newest_in_time, newest = [], []
    for name in catalog.typed_tables(settings):
        events = read_version(spark, table_path(settings.lake.root, name), log.versions[name])
        ((of_clock, of_all),) = events.agg(F.max(in_time), F.max("event_time")).collect()
        newest_in_time += [in_utc(of_clock)] if of_clock else []
        if of_all:
            newest.append(in_utc(of_all))
            if ahead.is_ahead(newest[-1], now):
                note(f"{ahead.of_events(name, newest[-1])}.")
    if not newest:
        raise RefusedToStart(
            f"the log in {settings.lake.root} holds no accepted event yet, so a batch has no horizon.\n"
            "Ingest some orders first, or name one with --until."
        )
    return max(newest_in_time or newest) - _LATENESS


def batch_rows(
    spark: SparkSession,
    settings: Settings,
    view: View,
    *,
    log: Snapshot,
    horizon: datetime | None,
    origin: Origin = "typed",
    since: datetime | None = None,
) -> DataFrame:
    """The view's rows over the log, of all time or up to a horizon; with `since` without those that it has settled."""
    events = [events_of(spark, settings, kind, log=log, origin=origin) for kind in view.inputs]
    if horizon is not None and view.settles_by is None:
        events = [rows.where(F.col("event_time") < horizon) for rows in events]
    if since is not None and view.looks_back is not None:
        events = [rows.where(F.col("event_time") >= since - view.looks_back) for rows in events]
    rows = best_of_each_key(view.define(*events), view=view)
    if since is not None:
        rows = rows.where(_is_made_anew(view, since))
    return rows if horizon is None else settled(rows, view=view, horizon=horizon)


def _is_made_anew(view: View, since: datetime) -> str:
    return f"NOT ({is_settled(view, since)})"


def _publish(
    spark: SparkSession,
    settings: Settings,
    view: View,
    *,
    log: Snapshot,
    until: datetime,
    origin: Origin,
    incremental: bool,
) -> None:
    begun_at = datetime.now(timezone.utc)
    path = view_path(settings.lake.root, view.name, "batch", view.label)
    create_table(spark, path, view.schema, properties=KEPT_HISTORY)
    failpoint("batch: table made")
    horizon = view.horizon(until) if view.horizon else None
    before = published(spark, settings, view)
    if horizon is not None and before is not None and before.horizon is not None and horizon < before.horizon:
        note(
            f"batch {view.name}: the horizon goes back, from {written(before.horizon)} to {written(horizon)}."
        )
    table_ids = typed_table_ids(spark, settings, view)
    kept = (
        kept_rows(spark, settings, view, log=log, horizon=horizon, table_ids=table_ids)
        if incremental and origin == "typed"
        else None
    )
    since = None if kept is None else kept.before
    rows = batch_rows(spark, settings, view, log=log, horizon=horizon, origin=origin, since=since)
    facts = facts_of(
        horizon,
        log,
        until=until.isoformat(),
        contract_version=CONTRACT_VERSION,
        origin=origin,
        begun_at=begun_at.isoformat(),
        table_ids=table_ids,
    )
    with commit_lock(path):
        if kept is not None and table_version(spark, path) != kept.version:
            raise RefusedToStart(
                f"another batch run has published {view.name} meanwhile. Run this one again."
            )
        replace(rows, path, metadata=facts, where=None if since is None else _is_made_anew(view, since))
    failpoint("batch: replaced")
