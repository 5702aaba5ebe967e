"""`pipeline query`: the rows of a view without a Spark session, by DuckDB over the Delta tables.

The answer is the one that Spark gives (`serving.read`): the rule of the merge and its pinned versions are the same. A
lake that is not on this machine's file system is read by Spark.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import datetime
from typing import Literal

import duckdb
from pyspark.sql import types as T

from pipeline import catalog, serving
from pipeline.errors import UsageError
from pipeline.local_lake import DuckDb, Row, failure
from pipeline.served import Layer, columns_of, layer_sql
from pipeline.settings import Settings
from pipeline.tables import local_path
from pipeline.views import View

__all__ = ["query"]


def query(
    settings: Settings,
    view: str,
    *,
    layer: Layer = "served",
    where: str | None = None,
    limit: int | None = None,
    order_by: tuple[str, bool] | None = None,
    as_of: datetime | None = None,
) -> tuple[list[str], Iterable[Row]]:
    """The view's column names and its rows, times as UTC datetimes without zone; `order_by` is (column, descending).

    With `as_of` all tables and the horizon are taken as they were then.

    Raises UsageError where the condition or a column is wrong, LakeUnreachable where a table cannot be read, RefusedToStart where the layer has no table yet.
    """
    asked = catalog.views(settings)[view]
    columns = columns_of(asked, layer)
    is_local = local_path(settings.lake.root) is not None
    condition = _condition(where, asked, columns, engine="duckdb" if is_local else "spark")
    tail = _tail(view, columns, condition=condition, order_by=order_by, limit=limit)
    return columns, (_by_duckdb if is_local else _by_spark)(settings, asked, layer, tail, as_of)


def _condition(
    where: str | None, view: View, columns: list[str], *, engine: Literal["duckdb", "spark"]
) -> str | None:
    if where is None:
        return None
    from pipeline.conditions import (
        as_condition,
    )  # most questions have none, and the parser takes its time to load

    known = {field.name: field.dataType for field in view.schema}
    types = {
        name: known.get(name, T.BooleanType()) for name in columns
    }  # is_final is of the served form alone
    return as_condition(where, columns=types, engine=engine)


def _tail(
    view: str,
    columns: list[str],
    *,
    condition: str | None,
    order_by: tuple[str, bool] | None,
    limit: int | None,
) -> str:
    """What follows FROM; nulls are sorted as Spark does by default."""
    parts = [f"WHERE {condition}"] if condition else []
    if order_by is not None:
        name, is_descending = order_by
        if name not in columns:
            raise UsageError(f"{view} has no column {name!r} to sort by.\nIts columns: {', '.join(columns)}.")
        parts.append(f"ORDER BY {name} {'DESC NULLS LAST' if is_descending else 'ASC NULLS FIRST'}")
    if limit is not None:
        parts.append(f"LIMIT {limit}")
    return " ".join(parts)


def _by_duckdb(
    settings: Settings, view: View, layer: Layer, tail: str, as_of: datetime | None
) -> Iterator[Row]:
    asked = DuckDb()
    sql = layer_sql(view, layer, serving.states(None, settings, view, as_of=as_of), asked.relation)
    return _rows(asked, f"SELECT * FROM ({sql}) AS answer {tail}", settings.lake.root)


def _rows(asked: DuckDb, sql: str, root: str) -> Iterator[Row]:
    try:
        yield from asked.rows(sql)
    except (duckdb.Error, OSError) as error:
        raise failure(error, root) from error


def _by_spark(
    settings: Settings, view: View, layer: Layer, tail: str, as_of: datetime | None
) -> Iterator[Row]:
    from pipeline.starting import session

    spark = session(settings)
    rows = spark.sql(
        f"SELECT * FROM {{answer}} {tail}",
        answer=serving.read(spark, settings, view, layer=layer, as_of=as_of),
    )
    return (tuple(row) for row in rows.toLocalIterator())
