"""Which rows of a batch form an incremental run leaves as they are: those that no event since the last run can have changed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from pyspark.sql import SparkSession

from pipeline import catalog
from pipeline.contracts import CONTRACT_VERSION
from pipeline.delta_log import oldest_added, table_id
from pipeline.published import Published, Snapshot, published
from pipeline.settings import Settings
from pipeline.sources import table_version
from pipeline.tables import table_path
from pipeline.views import View

__all__ = ["Kept", "kept_rows", "typed_table_ids"]


@dataclass(frozen=True)
class Kept:
    """The rows of a batch form, as it was at this version, that a time settles."""

    before: datetime
    version: int


def typed_table_ids(spark: SparkSession, settings: Settings, view: View) -> dict[str, str]:
    """By name of each table of accepted events that the view reads, what tells it from one made anew in its place."""
    root = settings.lake.root
    found = {name: table_id(spark, table_path(root, name)) for name in _tables(settings, view)}
    return {name: known for name, known in found.items() if known is not None}


def kept_rows(
    spark: SparkSession,
    settings: Settings,
    view: View,
    *,
    log: Snapshot,
    horizon: datetime | None,
    table_ids: Mapping[str, str],
) -> Kept | None:
    """The rows that came out of the last run as they would now; None where all have to be made anew.

    A row that a horizon settles is made of events before it alone. So the oldest event that the log has gained since the last
    run tells which rows may be others now; those after the last horizon are new. All are made anew after a run that read
    other tables, obeyed other rules or reached further, where the log has lost rows, and where the view cannot tell how far
    back its rows look.
    """
    last = _last_run(spark, settings, view)
    if last is None or last.horizon is None or view.horizon is None:
        return None
    is_same = last.table_ids == table_ids and last.contract_version == CONTRACT_VERSION
    if not is_same or last.origin != "typed" or horizon is None or horizon < last.horizon:
        return None
    since = last.horizon
    for name in _tables(settings, view):
        path, known = table_path(settings.lake.root, name), last.log.versions[name]
        try:
            oldest = oldest_added(spark, path, "event_time", after=known, through=log.versions[name])
        except LookupError:
            return None
        if oldest is not None:
            since = min(since, view.horizon(oldest))
    return Kept(since, last.version)


def _last_run(spark: SparkSession, settings: Settings, view: View) -> Published | None:
    """What the newest version of the batch form says of itself; None where it says nothing, or the view's rows have no time."""
    if view.settles_by is None or view.looks_back is None:
        return None
    last = published(spark, settings, view)
    return last if last is not None and last.version == table_version(spark, last.path) else None


def _tables(settings: Settings, view: View) -> list[str]:
    return [catalog.kinds(settings)[kind].table for kind in view.inputs]
