"""The views of a lake as Spark sees them: as DataFrames, and as `pipeline.<view>` in the session's catalog."""

from __future__ import annotations

from pyspark.sql import DataFrame, SparkSession

from pipeline import catalog, checkpoints
from pipeline.published import published
from pipeline.served import Layer, State, Table, layer_sql, needed_views
from pipeline.settings import Settings
from pipeline.sources import table_version
from pipeline.tables import checkpoint_path, view_path
from pipeline.views import View

__all__ = ["read", "register", "states"]


def read(spark: SparkSession, settings: Settings, view: View, *, layer: Layer = "served") -> DataFrame:
    """The rows of one layer, with the view's columns (served windows have `is_final` too).

    Raises RefusedToStart where the layer has no table yet.
    """
    return spark.sql(layer_sql(view, layer, states(spark, settings, view), _relation))


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
        served = layer_sql(view, "served", found, _relation)
        spark.sql(f"CREATE OR REPLACE VIEW pipeline.{view.name} AS {served}")
        made.append(f"pipeline.{view.name}")
    return made


def states(spark: SparkSession | None, settings: Settings, view: View) -> dict[str, State]:
    """The newest state of each view that an answer about this one needs; without a session only of a lake on this machine."""
    return {needed.name: _state(spark, settings, needed) for needed in needed_views(view)}


def _state(spark: SparkSession | None, settings: Settings, view: View) -> State:
    """The newest state. The watermark is read before the speed table, which is then at least as new."""
    newest = published(spark, settings, view)
    watermark = checkpoints.newest_watermark(spark, checkpoint_path(settings.lake.root, view.query))
    path = view_path(settings.lake.root, view.name, "speed", view.version)
    version = table_version(spark, path)
    return State(
        view=view,
        batch=Table(newest.path, newest.version) if newest else None,
        speed=Table(path, version) if version is not None else None,
        horizon=newest.horizon if newest else None,
        watermark=watermark,
    )


def _relation(table: Table) -> str:
    return f"(SELECT * FROM delta.`{table.path.replace('`', '``')}` VERSION AS OF {table.version})"
