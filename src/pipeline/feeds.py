"""The feed of a rebuild: the log once more, in one Delta table that its query reads and nobody else.

First comes the history, in the order of event time, each commit a slice of it; then, commit by commit, what ingest has
appended since. What a commit holds it says itself: batches of ingest, by which the feed and the ledger speak of the same
offsets.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import reduce
from typing import Any

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from pipeline.delta_log import commit, newest_version
from pipeline.tables import view_path
from pipeline.views import View

__all__ = ["Facts", "as_feed", "facts_at", "feed_of", "feed_path", "newest_facts", "stream_of_feed"]


@dataclass(frozen=True)
class Facts:
    """What the feed holds up to a commit: `slices` of the history, and the batches of ingest, of this generation, up to `through`.

    `through` is None as long as the history is not complete.
    """

    generation: str
    slices: int
    through: int | None = None

    def as_metadata(self) -> dict[str, Any]:
        return asdict(self)


def feed_path(root: str, view: View) -> str:
    return view_path(root, view.name, "feed", view.label)


def feed_of(root: str, view: View) -> str | None:
    """Where the feed is that the view's query reads; None where it reads something else."""
    return feed_path(root, view) if view.source == "feed" else None


def as_feed(events: Mapping[str, DataFrame]) -> DataFrame:
    """Events of several kinds as rows of one table: `kind`, and in a column of its kind's name the event."""
    schemas = {kind: rows.schema for kind, rows in events.items()}
    parts = [
        rows.select(
            F.lit(kind).alias("kind"),
            *[
                F.struct("*").alias(name) if name == kind else F.lit(None).cast(schema).alias(name)
                for name, schema in schemas.items()
            ],
        )
        for kind, rows in events.items()
    ]
    return reduce(DataFrame.union, parts)


def stream_of_feed(spark: SparkSession, path: str, kind: str) -> DataFrame:
    """The events of one kind, one commit after the other from the first on: a micro-batch is one slice, or one addition."""
    feed = (
        spark.readStream.format("delta")
        .option("startingVersion", 0)
        .option("maxFilesPerTrigger", 1)
        .load(path)
    )
    return feed.where(F.col("kind") == kind).select(f"`{kind}`.*")


def newest_facts(spark: SparkSession | None, path: str) -> Facts | None:
    """None where there is no feed, or it holds nothing yet."""
    newest = newest_version(spark, path)
    return None if newest is None else facts_at(spark, path, newest)


def facts_at(spark: SparkSession | None, path: str, version: int) -> Facts | None:
    """What the feed holds at a version; None before its first slice."""
    for number in range(version, -1, -1):
        made = commit(spark, path, number)
        if made is not None and made.metadata is not None:
            return Facts(**made.metadata)
    return None
