"""The views of a lake as Spark sees them: as DataFrames, and as `pipeline.<view>` in the session's catalog."""

from __future__ import annotations

from datetime import datetime
from functools import partial

from pyspark.sql import DataFrame, SparkSession

from pipeline import catalog, checkpoints, versions
from pipeline.delta_log import newest_transaction, version_at
from pipeline.published import published
from pipeline.served import Layer, Relation, State, Table, counting_rows, layer_sql, needed_views
from pipeline.settings import Settings
from pipeline.sources import table_version
from pipeline.tables import checkpoint_path, view_path
from pipeline.views import View

__all__ = ["read", "register", "speed_rows", "speed_sql", "states"]


def read(
    spark: SparkSession,
    settings: Settings,
    view: View,
    *,
    layer: Layer = "served",
    as_of: datetime | None = None,
) -> DataFrame:
    """The rows of one layer, with the view's columns (served windows have `is_final` too).

    Raises RefusedToStart where the layer has no table yet.
    """
    return spark.sql(
        layer_sql(view, layer, states(spark, settings, view, as_of=as_of), partial(_relation, spark))
    )


def register(spark: SparkSession, settings: Settings) -> list[str]:
    """Make the served views as they are now available as `pipeline.<view>` in the session's catalog; their names.

    A view without any table yet is left out. Call it again to see what has come since.
    """
    spark.sql("CREATE DATABASE IF NOT EXISTS pipeline")
    made = []
    for view in catalog.views(settings).values():
        found = states(spark, settings, view)
        if found[view.name].batch is None and found[view.name].speed is None:
            continue
        served = layer_sql(view, "served", found, partial(_relation, spark))
        spark.sql(f"CREATE OR REPLACE VIEW pipeline.{view.name} AS {served}")
        made.append(f"pipeline.{view.name}")
    return made


def speed_rows(spark: SparkSession, view: View, path: str, version: int) -> DataFrame:
    """The rows of this version of the view's speed table that count, for proofs: one of each key, unless the table has it twice."""
    return spark.sql(counting_rows(view, _relation(spark, Table(path, version)), shows_ties=True))


def speed_sql(spark: SparkSession, view: View, path: str, version: int) -> str:
    """A query for the rows of this version of the view's speed table that count, with columns that the view does not show."""
    return counting_rows(view, _relation(spark, Table(path, version)))


def states(
    spark: SparkSession | None, settings: Settings, view: View, *, as_of: datetime | None = None
) -> dict[str, State]:
    """The newest state, or that of one moment, of the live version of each view that an answer about this one needs.

    Without a session only of a lake on this machine.
    """
    known = versions.read(spark, settings, as_of=as_of)
    return {needed.name: _state(spark, settings, known.live(needed), as_of) for needed in needed_views(view)}


def _state(spark: SparkSession | None, settings: Settings, view: View, as_of: datetime | None) -> State:
    """The watermark is read before the speed table, which is then at least as new."""
    newest = published(spark, settings, view, as_of=as_of)
    path = view_path(settings.lake.root, view.name, "speed", view.label)
    if as_of is None:
        watermark = checkpoints.newest_watermark(spark, checkpoint_path(settings.lake.root, view.query))
        version = table_version(spark, path)
    else:
        version = version_at(spark, path, as_of)
        watermark = None if version is None else _watermark_at(spark, settings, view, path, version)
    return State(
        view=view,
        batch=Table(newest.path, newest.version) if newest else None,
        speed=Table(path, version) if version is not None else None,
        horizon=newest.horizon if newest else None,
        watermark=watermark,
    )


def _watermark_at(
    spark: SparkSession | None, settings: Settings, view: View, path: str, version: int
) -> datetime | None:
    """By which the newest batch that this version holds closed windows; None where Spark keeps it no more: then none counts as closed."""
    taken = newest_transaction(spark, path, version, query=view.query)
    if taken is None:
        return None
    return checkpoints.watermark_of(spark, checkpoint_path(settings.lake.root, view.query), taken[1])


def _relation(spark: SparkSession, table: Table) -> Relation:
    rows = f"SELECT * FROM delta.`{table.path.replace('`', '``')}` VERSION AS OF {table.version}"
    return Relation(f"({rows})", spark.sql(rows).columns)
