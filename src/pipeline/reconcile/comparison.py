"""The two tables of a view as they are, key by key, over what both layers have closed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from functools import reduce

from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F

from pipeline import checkpoints
from pipeline.delta_log import newest_version
from pipeline.evidence import Evidence
from pipeline.published import Published, published
from pipeline.reconcile.flagged import events_read, flagged_events, is_met, view_over
from pipeline.settings import Settings
from pipeline.sources import read_version
from pipeline.tables import checkpoint_path, view_path
from pipeline.views import View

__all__ = ["batch_side", "batch_table", "closed_by_both", "compared_rows", "is_same"]


def compared_rows(sides: Mapping[str, DataFrame], *, view: View, horizon: datetime | None) -> DataFrame:
    """Each key that a side has, with both rows and a `verdict`: open, equal, differs, or twice where a table has a key twice."""
    values = F.struct(*[name for name in view.columns if name not in view.keys])
    rows = reduce(
        DataFrame.unionByName,
        [
            rows.select(
                *view.keys,
                values.alias("row"),
                _is_closed(view, horizon).alias("is_closed"),
                F.lit(side).alias("side"),
            )
            for side, rows in sides.items()
        ],
    )
    is_twice = F.count(F.lit(1)) > F.count_distinct("side")
    by_key = rows.groupBy(*view.keys).agg(
        *[F.max(F.when(F.col("side") == side, F.col("row"))).alias(side) for side in sides],
        F.bool_or("is_closed").alias("is_closed"),
        is_twice.alias("is_twice"),
    )
    verdict = (
        F.when(F.col("is_twice"), "twice")  # closed or not: no event makes two rows of a key
        .when(~F.col("is_closed"), "open")
        .when(is_same("batch", "speed"), "equal")
        .otherwise("differs")
    )
    return by_key.withColumn("verdict", verdict)


def _is_closed(view: View, horizon: datetime | None) -> Column:
    if view.settles_by is None:
        return F.lit(True)
    if horizon is None:
        return F.lit(False)
    time = F.col(view.settles_by)
    return time <= F.lit(horizon) if view.settles_by == "window_end" else time < F.lit(horizon)


def is_same(one: str, other: str) -> Column:
    return F.col(one).eqNullSafe(F.col(other))


def closed_by_both(
    spark: SparkSession, settings: Settings, view: View, newest: Published, found: Evidence
) -> datetime | None:
    """The earlier of the batch's horizon and the one that the watermark of the newest judged batch gives."""
    if view.horizon is None or newest.horizon is None:
        return None
    if view.settles_by is None:
        return newest.horizon
    scope = found.scopes.get(view.name)
    checkpoint = checkpoint_path(settings.lake.root, view.query)
    watermark = checkpoints.watermark_of(spark, checkpoint, scope.judged) if scope else None
    return min(newest.horizon, view.horizon(watermark)) if watermark else None


def batch_table(spark: SparkSession, settings: Settings, view: View) -> Published | None:
    """The batch table as it is: what was published last, at the table's newest version, if somebody has changed it since."""
    path = view_path(settings.lake.root, view.name, "batch", view.label)
    version = newest_version(spark, path)
    newest = published(spark, settings, view)
    if newest is None or version is None:
        return None
    return replace(newest, version=max(version, newest.version))


def batch_side(
    spark: SparkSession, settings: Settings, view: View, newest: Published, found: Evidence
) -> DataFrame:
    """The batch table; totals with what the query has counted from the batch's horizon on, as the served view adds it."""
    rows = read_version(spark, newest.path, newest.version)
    if not view.is_seeded or newest.horizon is None or view.name not in found.scopes:
        return rows
    flagged = [
        flagged_events(
            events_read(spark, settings, reading, found).where(F.col("event_time") >= F.lit(newest.horizon)),
            spark,
            settings,
            view,
            source,
            newest=newest,
            found=found,
        )
        for source, reading in enumerate(view.reads)
    ]
    recent = view_over(view, [events.where(is_met(view.reads[i])) for i, events in enumerate(flagged)])
    return (
        rows.select(*recent.columns)
        .unionByName(recent)
        .groupBy("customer_id")
        .agg(
            F.sum("order_count").cast("long").alias("order_count"),
            F.sum("total_spend").cast(view.schema["total_spend"].dataType).alias("total_spend"),
            F.max("last_event_time").alias("last_event_time"),
        )
    )
