"""`pipeline maintain`: small files are put together, files and versions that nobody needs any more are removed.

It may run beside streams. Putting files together changes no row that counts, and says so in its commit (`dataChange` false), so a
stream that reads the table passes over it; on a local file system each table is done under its lock. Only tables that grow by small
commits are put together: the others are written anew as a whole, by a commit that says what their rows are. Of a speed table the
rows are left that count (`compaction`).

A file that has gone out of a table is kept for `maintain.retention_hours`, for whoever asks `--as-of` then; and longer where a
version of the table is named by something that still reads it: the checkpoint of a query that streams the log, a published batch
form, the seed of a query.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from itertools import islice
from typing import Literal

from delta.tables import DeltaTable
from pyspark.sql import SparkSession

from pipeline import catalog, checkpoints, compaction, files, ingest, versions
from pipeline.compaction import TARGET_BYTES
from pipeline.console import step
from pipeline.delta_log import commit, commits, newest_version
from pipeline.published import published, seed_of
from pipeline.reading import LocalTables, Size, SparkTables, Tables
from pipeline.settings import Settings
from pipeline.sinks import commit_lock, session_options
from pipeline.starting import session
from pipeline.stopping import running_queries
from pipeline.tables import (
    BATCH_METRICS,
    LATE_EVENTS,
    checkpoint_path,
    local_path,
    table_path,
    view_path,
)
from pipeline.versions import Line, Made
from pipeline.views import View, labelled

__all__ = ["Step", "drop", "labels", "run"]

_SMALL_COMMITS = (BATCH_METRICS, LATE_EVENTS)
_FOLDER = re.compile(r"v(\d+(?:r\d+)?)")
_AS_CONFIGURED = {"spark.databricks.delta.retentionDurationCheck.enabled": "false"}
"""Delta refuses less than its own week. Here a day is the least: no micro-batch writes for so long before it commits."""
_HOUR = timedelta(hours=1)


@dataclass(frozen=True)
class Step:
    """What was done, or would be: `compact` files of a table, `vacuum` those that are out of it, `drop` a version of a view.

    `files` is how many it is about, `bytes` what they hold where that is known. What `keeps` files longer than the setting says is
    named there.
    """

    action: Literal["compact", "vacuum", "drop"]
    table: str
    files: int
    bytes: int | None
    hours: int | None = None
    keeps: str = ""


@dataclass(frozen=True)
class _Pin:
    """A version of a table that something still reads."""

    version: int
    by: str


def run(settings: Settings, *, dry_run: bool) -> list[Step]:
    """What was done; with `dry_run` what would be, and nothing is changed."""
    spark = session(settings)
    done = [*_compact_all(spark, settings, dry_run=dry_run), *_drop_all(spark, settings, dry_run=dry_run)]
    return [*done, *_vacuum_all(spark, settings, dry_run=dry_run)]


def _compact_all(spark: SparkSession, settings: Settings, *, dry_run: bool) -> Iterator[Step]:
    sizes: Tables = LocalTables() if local_path(settings.lake.root) is not None else SparkTables(spark)
    for path, view in _grown_by_small_commits(spark, settings).items():
        size = sizes.size(path)
        if size is None or size.files < settings.maintain.max_files or (view and not _is_scattered(size)):
            continue
        name = path.removeprefix(f"{settings.lake.root}/")
        if not dry_run:
            with step(f"compact {name}"), commit_lock(path):
                _compact(spark, path, view)
        yield Step("compact", name, size.files, size.bytes)


def _is_scattered(size: Size) -> bool:
    """Whether files hold less than half the target on average. A speed table is written anew as a whole, so one of many full files
    waits until it has grown to twice as many.
    """
    return size.files * TARGET_BYTES >= 2 * size.bytes


def _compact(spark: SparkSession, path: str, view: View | None) -> None:
    """Files of less than half the target become files of about the target; larger ones are left alone, but for those of a view's
    speed table.
    """
    if view is not None:
        compaction.compact(spark, path, view)
        return
    options = {
        "spark.databricks.delta.optimize.minFileSize": str(TARGET_BYTES // 2),
        "spark.databricks.delta.optimize.maxFileSize": str(TARGET_BYTES),
    }
    with session_options(spark, options):
        DeltaTable.forPath(spark, path).optimize().executeCompaction()


def _grown_by_small_commits(spark: SparkSession, settings: Settings) -> dict[str, View | None]:
    """The tables, and of which view each is the speed table."""
    root = settings.lake.root
    known = versions.read(spark, settings)
    others = [*ingest.written_tables(settings), *(table_path(root, name) for name in _SMALL_COMMITS)]
    speed = {
        view_path(root, name, "speed", made.label): made.of(view)
        for name, view in catalog.views(settings).items()
        for made in _kept(known.line(name))
    }
    return {**dict.fromkeys(others), **speed}


def _kept(line: Line) -> list[Made]:
    """The live version, the one that a rollback goes back to, and the one that is being made."""
    return [line.live, *line.before[-1:], *([line.next] if line.next else [])]


def _drop_all(spark: SparkSession, settings: Settings, *, dry_run: bool) -> Iterator[Step]:
    """Versions of views that nobody has seen for the time of retention, and that no rollback goes back to."""
    root, now = settings.lake.root, datetime.now(timezone.utc)
    oldest = now - timedelta(hours=settings.maintain.retention_hours)
    known, running = versions.read(spark, settings), running_queries(root, spark=spark)
    for name, view in catalog.views(settings).items():
        kept = {made.label for made in _kept(known.line(name))}
        for label in labels(spark, root, name):
            version = labelled(view, label)
            if label in kept or version.query in running or _was_seen(spark, settings, version, oldest):
                continue
            folder = f"{root}/views/{name}/v{label}"
            size = files.size(spark, folder)
            if not dry_run:
                with step(f"drop {name} {label}"):
                    drop(spark, settings, version)
            yield Step("drop", f"views/{name}/v{label}", 0, size)


def drop(spark: SparkSession, settings: Settings, version: View) -> None:
    """Remove a version's tables and its checkpoint; no rollback goes back to it any more."""
    root = settings.lake.root
    with versions.changing(settings):
        versions.forget(spark, settings, version)
    files.remove(spark, checkpoint_path(root, version.query))
    files.remove(spark, f"{root}/views/{version.name}/v{version.label}")


def labels(spark: SparkSession, root: str, view: str) -> list[str]:
    """Of the versions of a view that have tables."""
    found = map(_FOLDER.fullmatch, files.names(spark, f"{root}/views/{view}"))
    return [name[1] for name in found if name]


def _was_seen(spark: SparkSession, settings: Settings, version: View, since: datetime) -> bool:
    """Whether readers saw the version, or something was written to it, at that time or later."""
    until = versions.live_until(spark, settings, version)
    folder = f"{settings.lake.root}/views/{version.name}/v{version.label}"
    newest = [
        made.made_at
        for layer in ("speed", "batch")
        for made in islice(commits(spark, f"{folder}/{layer}"), 1)
    ]
    return any(time >= since for time in (*newest, *([until] if until else [])))


def _vacuum_all(spark: SparkSession, settings: Settings, *, dry_run: bool) -> Iterator[Step]:
    pins = _pins(spark, settings)
    for path in _all_tables(spark, settings):
        name = path.removeprefix(f"{settings.lake.root}/")
        removable = _files_out_of(path)
        if removable == 0:
            continue
        hours, keeps = _kept_hours(spark, path, pins.get(path, ()), settings.maintain.retention_hours)
        if hours is None:
            yield Step("vacuum", name, 0, None, None, keeps)
            continue
        with session_options(spark, _AS_CONFIGURED):
            if dry_run:
                count = spark.sql(f"VACUUM delta.`{path}` RETAIN {hours} HOURS DRY RUN").count()
            else:
                with step(f"vacuum {name}"), commit_lock(path):
                    DeltaTable.forPath(spark, path).vacuum(hours)
                left = _files_out_of(path)
                count = 0 if removable is None or left is None else removable - left
        if count or keeps:
            yield Step("vacuum", name, count, None, hours, keeps)


def _all_tables(spark: SparkSession, settings: Settings) -> list[str]:
    """The tables of the lake that are there, of every version of a view. The feed of a rebuild never loses a file."""
    root = settings.lake.root
    paths = [table_path(root, name) for name in catalog.schemas(settings)]
    paths += [
        f"{root}/views/{name}/v{label}/{layer}"
        for name in catalog.views(settings)
        for label in labels(spark, root, name)
        for layer in ("speed", "batch")
    ]
    return [path for path in paths if newest_version(spark, path) is not None]


def _files_out_of(path: str) -> int | None:
    """How many data files lie there that the newest version has not; None where that takes too long to ask."""
    folder = local_path(path)
    size = LocalTables().size(path) if folder is not None else None
    if folder is None or size is None:
        return None
    held = sum(1 for file in folder.rglob("*.parquet") if "_delta_log" not in file.parts)
    return held - size.files


def _pins(spark: SparkSession, settings: Settings) -> dict[str, list[_Pin]]:
    """The versions of tables that something still reads, by path."""
    root, found = settings.lake.root, dict[str, list[_Pin]]()
    known = versions.read(spark, settings)
    for name, view in catalog.views(settings).items():
        for made in _kept(known.line(name)):
            version = made.of(view)
            for path, pin in _pins_of(spark, settings, version, root):
                found.setdefault(path, []).append(pin)
    return found


def _pins_of(spark: SparkSession, settings: Settings, view: View, root: str) -> Iterator[tuple[str, _Pin]]:
    checkpoint = checkpoint_path(root, view.query)
    for form, by in (
        (published(spark, settings, view), "batch form"),
        (seed_of(spark, settings, view), "seed"),
    ):
        if form is not None:
            yield form.path, _Pin(form.version, f"the {by} of {view.query}")
            for table, version in form.log.versions.items():
                yield table_path(root, table), _Pin(version, f"the {by} of {view.query}")
    read = checkpoints.versions_read(spark, checkpoint)
    is_of_log = checkpoints.last_batch(spark, checkpoint) is not None and not checkpoints.next_offsets(
        spark, checkpoint
    )
    if is_of_log and view.source is None:
        for source, reading in enumerate(view.reads):
            table = catalog.kinds(settings)[reading.kind].table
            yield table_path(root, table), _Pin(read.get(source, 0), f"the checkpoint of {view.query}")


def _kept_hours(
    spark: SparkSession, path: str, pins: Sequence[_Pin], retention_hours: int
) -> tuple[int | None, str]:
    """For how many hours files are kept, and for whom longer than the setting says; None where all must stay."""
    newest, now = newest_version(spark, path), datetime.now(timezone.utc)
    hours, keeps = retention_hours, ""
    for pin in pins:
        if pin.version == newest:
            continue  # what it reads is in the table
        made = commit(spark, path, pin.version)
        if made is None:
            return None, f"{pin.by} reads version {pin.version}, of which the table's log keeps no time"
        needed = math.ceil((now - made.made_at) / _HOUR) + 1
        if needed > hours:
            hours, keeps = needed, f"{pin.by} reads version {pin.version}"
    return hours, keeps
