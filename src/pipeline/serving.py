"""The served views: batch rows before the horizon, speed rows from it on.

The rule of the merge is SQL over named tables, in one place: `query` runs it, and `register` stores it as views for
notebooks. Table versions are pinned before anything is read, so an answer is of one published batch, never of two.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from pyspark.errors import AnalysisException, ParseException
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from pipeline import batch, checkpoints
from pipeline.errors import RefusedToStart, UsageError
from pipeline.session import session
from pipeline.settings import Settings
from pipeline.sources import read_version, table_version
from pipeline.tables import checkpoint_path, view_path
from pipeline.views import VIEWS, View

__all__ = ["Layer", "State", "columns_of", "query", "read", "register", "state_of"]

Layer = Literal["served", "speed", "batch"]

_NO_HORIZON = "0001-01-01 00:00:00"

_SPEND = """
SELECT *, TRUE AS is_final FROM {batch}
UNION ALL
SELECT *, COALESCE(window_end <= {watermark}, FALSE) AS is_final FROM {speed} WHERE window_end > {horizon}
"""

_ROWS = """
SELECT * FROM {batch}
UNION ALL
SELECT * FROM {speed} WHERE {settles_by} >= {horizon}
"""

_TOTALS = """
SELECT customer_id, CAST(SUM(order_count) AS BIGINT) AS order_count,
       CAST(SUM(total_spend) AS DECIMAL(38, 2)) AS total_spend, MAX(last_event_time) AS last_event_time
FROM (
    SELECT customer_id, order_count, total_spend, last_event_time FROM {batch}
    UNION ALL
    SELECT customer_id, order_count, hourly_spend, last_event_time FROM ({spend}) AS spend
    WHERE window_start >= {horizon}
) AS parts
GROUP BY customer_id
"""

_COUNTS = "SELECT * FROM {speed}"

_SPEND_VIEW = VIEWS["customer_hourly_spend"]


@dataclass(frozen=True)
class State:
    """What a view's two tables hold at one moment: each as (path, version), None where it does not exist yet.

    `watermark` is the one by which the speed layer has closed windows.
    """

    view: View
    batch: tuple[str, int] | None
    speed: tuple[str, int] | None
    horizon: datetime | None
    watermark: datetime | None


def query(
    settings: Settings,
    view: str,
    *,
    layer: Layer = "served",
    where: str | None = None,
    limit: int | None = None,
    order_by: tuple[str, bool] | None = None,
) -> tuple[list[str], Iterable[tuple[Any, ...]]]:
    """The view's column names and its rows, times as UTC datetimes without zone; `order_by` is (column, descending).

    Raises UsageError where the condition or a column is wrong, RefusedToStart where the layer has no table yet.
    """
    rows = read(session(settings), settings, VIEWS[view], layer=layer)
    try:
        if where is not None:
            rows = rows.where(where)
        if order_by is not None:
            name, is_descending = order_by
            rows = rows.orderBy(F.desc(name) if is_descending else F.asc(name))
        if limit is not None:
            rows = rows.limit(limit)
        return rows.columns, (tuple(row) for row in rows.toLocalIterator())
    except (AnalysisException, ParseException) as error:
        raise UsageError(
            f"{view} cannot be asked that: {_first_line(error)}\nIts columns: {', '.join(rows.columns)}"
        ) from error


def read(spark: SparkSession, settings: Settings, view: View, *, layer: Layer = "served") -> DataFrame:
    """The rows of one layer, with the view's columns (the served spend has `is_final` too)."""
    state = state_of(spark, settings, view)
    if layer == "served":
        return spark.sql(_served_sql(spark, settings, state)).select(*columns_of(view, layer))
    table = state.speed if layer == "speed" else state.batch
    if table is None:
        raise _nothing_yet(settings, view, layer)
    return read_version(spark, *table).select(*columns_of(view, layer))


def register(spark: SparkSession, settings: Settings) -> list[str]:
    """Make the served views as they are now available as `pipeline.<view>` in the session's catalog; their names.

    A view without any table yet is left out. Call it again to see what has come since.
    """
    spark.sql("CREATE DATABASE IF NOT EXISTS pipeline")
    made = []
    for view in VIEWS.values():
        state = state_of(spark, settings, view)
        if state.batch is None and state.speed is None:
            continue
        columns = ", ".join(f"`{name}`" for name in columns_of(view, "served"))
        served = _served_sql(spark, settings, state)
        spark.sql(
            f"CREATE OR REPLACE VIEW pipeline.{view.name} AS SELECT {columns} FROM ({served}) AS served"
        )
        made.append(f"pipeline.{view.name}")
    return made


def columns_of(view: View, layer: Layer) -> list[str]:
    has_finality = layer == "served" and view is _SPEND_VIEW
    return [*view.columns, "is_final"] if has_finality else [*view.columns]


def state_of(spark: SparkSession, settings: Settings, view: View) -> State:
    """The newest state. The watermark is read before the speed table, which is then at least as new."""
    newest = batch.published(spark, settings, view)
    checkpoint = checkpoint_path(settings.lake.root, view.query)
    watermark = checkpoints.newest_watermark(spark, checkpoint)
    path = view_path(settings.lake.root, view.name, "speed", view.version)
    version = table_version(spark, path)
    return State(
        view=view,
        batch=(newest.path, newest.version) if newest else None,
        speed=(path, version) if version is not None else None,
        horizon=newest.horizon if newest else None,
        watermark=watermark,
    )


def _served_sql(spark: SparkSession, settings: Settings, state: State) -> str:
    view = state.view
    if state.batch is None and state.speed is None and view.name != "customer_totals":
        raise _nothing_yet(settings, view, "served")
    if view.name == "customer_totals":
        spend_state = state_of(spark, settings, _SPEND_VIEW)
        if state.batch is None and spend_state.batch is None and spend_state.speed is None:
            raise _nothing_yet(settings, view, "served")
        return _merge(_TOTALS, state, spend=_merge(_SPEND, spend_state))
    if view.name == "word_counts":
        return _merge(_COUNTS, state)
    return _merge(_SPEND if view is _SPEND_VIEW else _ROWS, state)


def _merge(rule: str, state: State, **parts: str) -> str:
    """The rule with its tables and times filled in; none of them comes from a user's text."""
    return rule.format(
        batch=_relation(state.batch, state),
        speed=_relation(state.speed, state),
        horizon=_timestamp(state.horizon) if state.horizon else f"TIMESTAMP '{_NO_HORIZON}'",
        watermark=_timestamp(state.watermark) if state.watermark else "NULL",
        settles_by=state.view.settles_by,
        **parts,
    )


def _relation(table: tuple[str, int] | None, state: State) -> str:
    if table is None:
        columns = ", ".join(
            f"CAST(NULL AS {field.dataType.simpleString()}) AS `{field.name}`" for field in state.view.schema
        )
        return f"(SELECT {columns} WHERE FALSE)"
    path, version = table
    return f"(SELECT * FROM delta.`{path.replace('`', '``')}` VERSION AS OF {version})"


def _timestamp(time: datetime) -> str:
    return f"TIMESTAMP '{time:%Y-%m-%d %H:%M:%S.%f}'"


def _nothing_yet(settings: Settings, view: View, layer: Layer) -> RefusedToStart:
    command = "batch" if layer == "batch" else "speed"
    return RefusedToStart(
        f"{view.name} has no {layer} rows yet in the lake {settings.lake.root}.\n"
        f"Run `pipeline {command} {view.name}` first, or set lake.root to the lake you mean."
    )


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0]
