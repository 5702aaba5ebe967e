"""Which version of a view readers see: one pointer for the lake, which moves in one commit.

A view's tables carry a version. The one that its definition in the code has is live until a version that was made beside it
is promoted; from then on it is what the newest commit of `view_versions` says. Who asks as of a moment asks that table as of
then. Everything that reads or writes a view's tables takes the view from here, and the paths, the query's name and the
checkpoint follow from it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timezone
from typing import Any, Literal

import pyarrow as pa
from deltalake import CommitProperties, write_deltalake
from pyspark.sql import SparkSession
from pyspark.sql import functions as F
from pyspark.sql.pandas.types import to_arrow_schema

from pipeline import catalog, checkpoints, files
from pipeline.delta_log import commit, newest_version, version_at
from pipeline.errors import DefinitionChanged
from pipeline.published import KEPT_HISTORY, Origin
from pipeline.settings import Settings
from pipeline.sinks import append_with, commit_lock, create_table
from pipeline.tables import SCHEMAS, VIEW_VERSIONS, checkpoint_path, local_path, table_path
from pipeline.views import Source, View, labelled

__all__ = [
    "Line",
    "Made",
    "Versions",
    "changing",
    "enter",
    "forget",
    "live_until",
    "live_views",
    "read",
    "require_same_definition",
    "source_of",
]

_ORIGINAL = re.compile(r"v(\d+)")


@dataclass(frozen=True)
class Made:
    """A version by the label of its tables, what its query reads, and what the history of its feed is made of."""

    label: str
    source: Source | None = None
    origin: Origin = "typed"

    def of(self, view: View) -> View:
        """The view in this version."""
        return replace(labelled(view, self.label), source=self.source)


@dataclass(frozen=True)
class Line:
    """The versions of one view: the live one, those that were live before (the newest last), and the one that is being made.

    `count` is how many have been made beside a live one: labels are not used again.
    """

    live: Made
    before: tuple[Made, ...] = ()
    next: Made | None = None
    count: int = 0


@dataclass(frozen=True)
class Versions:
    """The lines of the views, by name, at one moment; a view that never had a second version has none."""

    lines: Mapping[str, Line]
    originals: Mapping[str, Made]

    def line(self, view: str) -> Line:
        """The line of the view of that name."""
        return self.lines.get(view) or Line(self.originals[view])

    def live(self, view: View) -> View:
        """The version that readers see."""
        return self.line(view.name).live.of(view)

    def next(self, view: View) -> View | None:
        """The version that is being made beside it; None where none is."""
        made = self.line(view.name).next
        return None if made is None else made.of(view)


def read(spark: SparkSession | None, settings: Settings, *, as_of: datetime | None = None) -> Versions:
    """The lines as they are, or were at a moment; without a session only of a lake on this machine.

    A line begins when a version is begun beside the live one. So the first that is said of a view is true of all time before.
    """
    lines = _lines(spark, settings, as_of)
    unknown = [view for view in catalog.views(settings).values() if view.name not in lines]
    return Versions(lines, {view.name: _original(spark, settings, view) for view in unknown})


def live_views(spark: SparkSession | None, settings: Settings) -> Mapping[str, View]:
    """Each view with the version that readers see now."""
    known = read(spark, settings)
    return {name: known.live(view) for name, view in catalog.views(settings).items()}


def require_same_definition(settings: Settings, views: Sequence[View]) -> None:
    """Raise DefinitionChanged where a version was made by another definition than the code has: it cannot go on with it."""
    for view in views:
        now = catalog.views(settings)[view.name].version
        if view.version != now:
            raise DefinitionChanged(
                f"{view.name}: the live version {view.label} was made by version {view.version} of the definition, and the code "
                f"has version {now}.\nReaders keep the live one meanwhile. Make the new one beside it, and switch when it is "
                f"there:\n  pipeline replay {view.name}\n  pipeline promote {view.name}",
                view=view.name,
                live=view.label,
                version=now,
            )


def source_of(spark: SparkSession | None, settings: Settings, view: View) -> Literal["feed", "kafka", "log"]:
    """What the view's query reads. One that has begun goes on with what it has read, for a checkpoint cannot change its sources:
    `speed.source` decides for those that begin. Without a session only in a lake on this machine.
    """
    if view.source is not None:
        return view.source
    begun = checkpoints.reads(spark, checkpoint_path(settings.lake.root, view.query))
    return begun or ("kafka" if settings.speed.source == "kafka" else "log")


def changing(settings: Settings) -> AbstractContextManager[None]:
    """What is read and entered inside the block, no other process changes meanwhile (on a local file system)."""
    return commit_lock(table_path(settings.lake.root, VIEW_VERSIONS))


def enter(spark: SparkSession | None, settings: Settings, view: str, line: Line, *, became: str) -> None:
    """Put the line in place of the view's one, in one commit; `became` is what its live or next version is now: live, begun.

    Without a session only in a lake on this machine. To be called inside of `changing`.
    """
    known = _lines(spark, settings, None)
    lines = {name: asdict(one) for name, one in {**known, view: line}.items()}
    subject = line.live if became == "live" else line.next
    assert subject is not None
    row = (view, subject.label, became, datetime.now(timezone.utc))
    _commit(spark, settings, row, {"lines": lines})


def forget(spark: SparkSession | None, settings: Settings, version: View) -> None:
    """Take a version that is not live out of its view's line, in one commit; none where it is not in it. Inside of `changing`."""
    lines = _lines(spark, settings, None)
    line = lines.get(version.name)
    if line is None:
        return
    left = replace(
        line,
        before=tuple(made for made in line.before if made.label != version.label),
        next=None if line.next is not None and line.next.label == version.label else line.next,
    )
    if left != line:
        told = {name: asdict(one) for name, one in {**lines, version.name: left}.items()}
        _commit(
            spark,
            settings,
            (version.name, version.label, "dropped", datetime.now(timezone.utc)),
            {"lines": told},
        )


def live_until(spark: SparkSession, settings: Settings, version: View) -> datetime | None:
    """When another version took the place of this one; None where it is live, or never was."""
    path = table_path(settings.lake.root, VIEW_VERSIONS)
    if newest_version(spark, path) is None:
        return None
    rows = spark.read.format("delta").load(path).where(F.col("view") == version.name).orderBy("at").collect()
    became_live = [
        (row["version"], row["at"].replace(tzinfo=timezone.utc)) for row in rows if row["became"] == "live"
    ]
    is_first = version.label not in {row["version"] for row in rows}  # it was there before there was a line
    labels = [*([version.label] if is_first else []), *(label for label, _ in became_live)]
    times = [at for _, at in became_live] if is_first else [at for _, at in became_live[1:]]
    ends = [end for label, end in zip(labels, times, strict=False) if label == version.label]
    is_live = bool(labels) and labels[-1] == version.label
    return None if is_live else max(ends, default=None)


def _commit(
    spark: SparkSession | None, settings: Settings, row: tuple[Any, ...], metadata: Mapping[str, Any]
) -> None:
    path, schema = table_path(settings.lake.root, VIEW_VERSIONS), SCHEMAS[VIEW_VERSIONS]
    if local_path(path) is not None:
        told = pa.Table.from_pylist(
            [dict(zip(schema.names, row, strict=True))], to_arrow_schema(schema, timezone="UTC")
        )
        text = json.dumps(metadata, sort_keys=True)
        properties = CommitProperties(custom_metadata={"userMetadata": text})
        write_deltalake(path, told, mode="append", configuration=KEPT_HISTORY, commit_properties=properties)
    else:
        spark = spark or SparkSession.builder.getOrCreate()
        create_table(spark, path, schema, properties=KEPT_HISTORY)
        append_with(spark.createDataFrame([row], schema).coalesce(1), path, metadata=metadata)


def _lines(spark: SparkSession | None, settings: Settings, as_of: datetime | None) -> dict[str, Line]:
    path = table_path(settings.lake.root, VIEW_VERSIONS)
    newest = newest_version(spark, path)
    if newest is None:
        return {}
    if as_of is None:
        return _told(spark, path, range(newest, -1, -1))
    then = version_at(spark, path, as_of)
    found = {} if then is None else _told(spark, path, range(then, -1, -1))
    for version in range(0 if then is None else then + 1, newest + 1):
        found = {**_told(spark, path, [version]), **found}
    return found


def _told(spark: SparkSession | None, path: str, versions: Sequence[int]) -> dict[str, Line]:
    """What the first of these commits that says anything says."""
    for version in versions:
        made = commit(spark, path, version)
        if made is not None and made.metadata is not None:
            return {name: _line(told) for name, told in made.metadata["lines"].items()}
    return {}


def _line(told: Mapping[str, Any]) -> Line:
    return Line(
        live=Made(**told["live"]),
        before=tuple(Made(**one) for one in told["before"]),
        next=Made(**told["next"]) if told["next"] else None,
        count=told["count"],
    )


def _original(spark: SparkSession | None, settings: Settings, view: View) -> Made:
    """The version of the definition; as long as that has no tables, the newest earlier one that has."""
    names = files.names(spark, f"{settings.lake.root}/views/{view.name}")
    begun = {int(found[1]) for found in map(_ORIGINAL.fullmatch, names) if found}
    earlier = [number for number in begun if number < view.version]
    if view.version in begun or not earlier:
        return Made(view.label)
    return Made(f"{max(earlier)}")
