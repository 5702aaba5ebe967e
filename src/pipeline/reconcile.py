"""Batch against speed, row by row, over what both have closed; each difference has a cause, or is `unexplained`.

Four computations meet: the batch table, the speed table, the view over the log as the batch run read it, and the view
over exactly those events that the ledger says the query read and did not drop as late. A difference is `late` only if
each table is to the cent what its own events give; everything else is `unexplained`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import reduce

from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F

from pipeline import batch, checkpoints, late, ledger
from pipeline.console import step
from pipeline.errors import RefusedToStart
from pipeline.session import session
from pipeline.settings import Settings
from pipeline.sources import read_version, table_version
from pipeline.tables import checkpoint_path, view_path
from pipeline.views import VIEWS, View, best_of_each_key, settled

__all__ = ["Agreement", "run"]

_SIDES = ("batch", "whole", "speed", "counted")


@dataclass(frozen=True)
class Agreement:
    """How many rows of a view both layers have closed, how they compare, and how many events came late for its query.

    `horizon` is the time up to which both are closed; None where nothing cuts the view.
    """

    view: str
    horizon: datetime | None
    compared: int
    equal: int
    late: int
    unexplained: int
    late_events: int


def run(settings: Settings, *, views: Sequence[str] = ()) -> list[Agreement]:
    """Compare the views (all by default), and enter what was late in `late_events`.

    Raises RefusedToStart where a layer has no table yet.
    """
    spark = session(settings)
    agreements = []
    for name in views or [*VIEWS]:
        with step(f"reconcile {name}"):
            agreements.append(_agreement(spark, settings, VIEWS[name]))
    return agreements


def _agreement(spark: SparkSession, settings: Settings, view: View) -> Agreement:
    ledger.catch_up(spark, settings.lake.root, view.query)
    newest = batch.published(spark, settings, view)
    speed = _speed_rows(spark, settings, view)
    if newest is None or speed is None:
        layer = "batch" if newest is None else "speed"
        raise RefusedToStart(
            f"{view.name} has no {layer} table yet: run `pipeline {layer} {view.name}` first."
        )
    if settings.speed.source == "log":
        raise RefusedToStart(
            "reconcile knows what a query has read from the offsets of Kafka; with speed.source: log there are none.\n"
            "Run the speed layer with speed.source: kafka to have it proven."
        )
    read = [
        events.persist()
        for events in late.read_by_query(spark, settings, view, log=batch.snapshot(spark, settings))
    ]
    missed = reduce(
        DataFrame.unionByName,
        [late.late_events(events, view=view, source=i) for i, events in enumerate(read)],
    ).persist()
    try:
        late.record(spark, settings, missed)
        horizon = _closed_by_both(spark, settings, view, newest)
        sides = _sides(spark, settings, view, newest=newest, speed=speed, read=read, horizon=horizon)
        counts = Counter(_causes(_compared(view, sides)))
        if view.settles_by is None:
            counts["unexplained"] += _changed_rows(spark, settings, view, newest)
        return Agreement(
            view=view.name,
            horizon=horizon,
            compared=sum(counts.values()),
            equal=counts["equal"],
            late=counts["late"],
            unexplained=counts["unexplained"],
            late_events=missed.count(),
        )
    finally:
        for cached in (missed, *read):
            cached.unpersist()


def _sides(
    spark: SparkSession,
    settings: Settings,
    view: View,
    *,
    newest: batch.Published,
    speed: DataFrame,
    read: Sequence[DataFrame],
    horizon: datetime | None,
) -> dict[str, DataFrame]:
    """The four computations, up to the horizon. A view that no horizon cuts is compared over what its query has read."""
    counted = _defined(view, [late.counted_events(rows, view=view, source=i) for i, rows in enumerate(read)])
    if view.settles_by is None:
        everything = _defined(view, read)
        return {"batch": everything, "whole": everything, "speed": speed, "counted": counted}
    sides = {
        "batch": read_version(spark, newest.path, newest.version),
        "whole": batch.batch_rows(spark, settings, view, log=newest.log, horizon=horizon),
        "speed": speed,
        "counted": counted,
    }
    if horizon is None:
        return {name: rows.limit(0) for name, rows in sides.items()}
    return {name: settled(rows, view=view, horizon=horizon) for name, rows in sides.items()}


def _causes(compared: DataFrame) -> dict[str, int]:
    return {row["cause"]: row["count"] for row in compared.groupBy("cause").count().collect()}


def _changed_rows(spark: SparkSession, settings: Settings, view: View, newest: batch.Published) -> int:
    """How many rows of the batch table are not what its own log gives up to its own horizon."""
    table = read_version(spark, newest.path, newest.version)
    whole = batch.batch_rows(spark, settings, view, log=newest.log, horizon=newest.horizon)
    sides = {"batch": table, "whole": whole, "speed": whole, "counted": whole}
    return _causes(_compared(view, sides)).get("unexplained", 0)


def _defined(view: View, read: Sequence[DataFrame]) -> DataFrame:
    """The view over these events, one DataFrame for each of its query's sources."""
    inputs = [
        reduce(
            lambda left, right: left.unionByName(right, allowMissingColumns=True),
            [rows for reading, rows in zip(view.reads, read, strict=True) if reading.kind == kind],
        )
        for kind in view.inputs
    ]
    return best_of_each_key(view.define(*inputs), view=view)


def _compared(view: View, sides: dict[str, DataFrame]) -> DataFrame:
    """Each key that any side has, with its `cause`: equal, late or unexplained."""
    values = F.struct(*[name for name in view.columns if name not in view.keys])
    rows = reduce(
        DataFrame.unionByName,
        [
            rows.select(*view.keys, values.alias("row"), F.lit(side).alias("side"))
            for side, rows in sides.items()
        ],
    )
    # A table holds a key once; were it twice, `twice` would tell.
    found = [F.max(F.when(F.col("side") == side, F.col("row"))).alias(side) for side in _SIDES]
    twice = F.count(F.lit(1)) > F.count_distinct("side")
    compared = rows.groupBy(*view.keys).agg(*found, twice.alias("twice"))
    is_told_by_events = _same("batch", "whole") & _same("speed", "counted") & ~F.col("twice")
    cause = F.when(~is_told_by_events, "unexplained").when(_same("batch", "speed"), "equal").otherwise("late")
    return compared.select(*view.keys, *_SIDES, cause.alias("cause"))


def _same(one: str, other: str) -> Column:
    return F.col(one).eqNullSafe(F.col(other))


def _closed_by_both(
    spark: SparkSession, settings: Settings, view: View, newest: batch.Published
) -> datetime | None:
    """The earlier of the batch's horizon and the one that the speed layer's watermark gives."""
    watermark = checkpoints.newest_watermark(spark, checkpoint_path(settings.lake.root, view.query))
    if view.horizon is None or newest.horizon is None or watermark is None:
        return None
    return min(newest.horizon, view.horizon(watermark))


def _speed_rows(spark: SparkSession, settings: Settings, view: View) -> DataFrame | None:
    path = view_path(settings.lake.root, view.name, "speed", view.version)
    version = table_version(spark, path)
    return None if version is None else read_version(spark, path, version)
