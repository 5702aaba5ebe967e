"""What of the log a batch run reads, and what it has published: table versions, and what a commit says of its rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

from pyspark.sql import DataFrame, SparkSession

from pipeline import catalog, delta_log
from pipeline.delta_log import version_at
from pipeline.errors import RefusedToStart
from pipeline.settings import Settings
from pipeline.sources import read_events, table_version
from pipeline.tables import RAW_EVENTS, REPAIRS, table_path, view_path
from pipeline.views import View

__all__ = [
    "KEPT_HISTORY",
    "Origin",
    "Published",
    "Snapshot",
    "events_of",
    "facts_of",
    "log_versions",
    "published",
    "seed_of",
    "snapshot",
]

Origin = Literal["typed", "raw"]

KEPT_HISTORY = {"delta.logRetentionDuration": "interval 3650 days"}
"""For tables of few commits, one of which says what their rows are: it must never be cleaned away."""


@dataclass(frozen=True)
class Snapshot:
    """The versions of the log's tables that one batch run reads."""

    versions: Mapping[str, int]


@dataclass(frozen=True)
class Published:
    """A batch table as readers see it: its path, version, and the horizon of that same commit (None: of no horizon).

    `contract_version` and `table_ids`, of the typed tables by name, say by what rules and from which tables it was made.
    """

    path: str
    version: int
    horizon: datetime | None
    log: Snapshot
    made_at: datetime
    origin: Origin = "typed"
    contract_version: int | None = None
    table_ids: Mapping[str, str] = field(default_factory=dict)


def snapshot(spark: SparkSession, settings: Settings) -> Snapshot:
    """The newest version of each of the log's tables, and of the repairs to it, if there are any."""
    versions = log_versions(spark, settings, [RAW_EVENTS, *catalog.typed_tables(settings)])
    repairs = table_version(spark, table_path(settings.lake.root, REPAIRS))
    return Snapshot(versions if repairs is None else {**versions, REPAIRS: repairs})


def log_versions(spark: SparkSession, settings: Settings, tables: Sequence[str]) -> dict[str, int]:
    """The newest version of these tables of the log. Raises RefusedToStart where one is not there yet."""
    versions = {}
    for name in tables:
        version = table_version(spark, table_path(settings.lake.root, name))
        if version is None:
            raise RefusedToStart(
                f"there is no {name} in the lake {settings.lake.root}: nothing has been ingested yet.\n"
                "Run `pipeline ingest` first (`--once` ingests what is there), or set lake.root to the lake you mean."
            )
        versions[name] = version
    return versions


def events_of(
    spark: SparkSession, settings: Settings, kind: str, *, log: Snapshot, origin: Origin = "typed"
) -> DataFrame:
    """The accepted events of one kind in this snapshot of the log."""
    typed = catalog.kinds(settings)[kind].table
    version = log.versions[RAW_EVENTS if origin == "raw" else typed]
    return read_events(
        spark, settings, kind, version=version, origin=origin, repairs=log.versions.get(REPAIRS)
    )


def published(
    spark: SparkSession | None,
    settings: Settings,
    view: View,
    *,
    as_of: datetime | None = None,
    version: int | None = None,
) -> Published | None:
    """What the newest batch run of the view has published, or had by `as_of`, or by a version; None before the first."""
    path = view_path(settings.lake.root, view.name, "batch", view.label)
    newest = version
    if newest is None:
        newest = table_version(spark, path) if as_of is None else version_at(spark, path, as_of)
    versions = range(newest, -1, -1) if newest is not None else ()
    return next((facts for version in versions if (facts := _facts(spark, path, version))), None)


def seed_of(spark: SparkSession, settings: Settings, view: View) -> Published | None:
    """The batch form that the view's speed table began as; None where it began empty.

    Its commit comes before the query's first. A crash or a refusal in between leaves several, and a VACUUM commits of its own: the
    last that says what its rows are counts.
    """
    if not view.is_seeded:
        return None
    path = view_path(settings.lake.root, view.name, "speed", view.label)
    newest = table_version(spark, path)
    seed = None
    for version in range(1, (newest or 0) + 1):
        made = delta_log.commit(spark, path, version)
        if made is None or made.transactions:
            break
        seed = _facts(spark, path, version) or seed
    return seed


def facts_of(horizon: datetime | None, log: Snapshot, **more: Any) -> dict[str, Any]:
    """What a commit says of its rows, for `published` and `seed_of` to read."""
    return {"horizon": horizon.isoformat() if horizon else None, "log": dict(log.versions), **more}


def _facts(spark: SparkSession | None, path: str, version: int) -> Published | None:
    """What a commit says of its rows; None where it says nothing."""
    found = delta_log.commit(spark, path, version)
    if found is None or found.metadata is None:
        return None
    facts = found.metadata
    horizon = datetime.fromisoformat(facts["horizon"]) if facts["horizon"] else None
    return Published(
        path,
        version,
        horizon,
        Snapshot(facts["log"]),
        found.made_at,
        facts.get("origin", "typed"),
        facts.get("contract_version"),
        facts.get("table_ids", {}),
    )
