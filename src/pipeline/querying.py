"""`pipeline query`: the rows of a view without a Spark session, by DuckDB over the Delta tables.

The answer is the one that Spark gives (`serving.read`): the rule of the merge and its pinned versions are the same. A
lake that is not on this machine's file system is read by Spark.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from datetime import datetime
from typing import Any

import duckdb
from deltalake import DeltaTable
from deltalake.exceptions import TableNotFoundError

from pipeline import checkpoints
from pipeline.errors import UsageError
from pipeline.served import Layer, State, Table, columns_of, layer_sql, needed_views
from pipeline.settings import Settings
from pipeline.tables import checkpoint_path, local_path, view_path
from pipeline.views import VIEWS, View

__all__ = ["query"]

Row = tuple[Any, ...]


def query(
    settings: Settings,
    view: str,
    *,
    layer: Layer = "served",
    where: str | None = None,
    limit: int | None = None,
    order_by: tuple[str, bool] | None = None,
) -> tuple[list[str], Iterable[Row]]:
    """The view's column names and its rows, times as UTC datetimes without zone; `order_by` is (column, descending).

    Raises UsageError where the condition or a column is wrong, RefusedToStart where the layer has no table yet.
    """
    asked = VIEWS[view]
    columns = columns_of(asked, layer)
    is_local = local_path(settings.lake.root) is not None
    condition = _condition(where, columns, dialect="duckdb" if is_local else "spark")
    tail = _tail(view, columns, condition=condition, order_by=order_by, limit=limit)
    return columns, (_by_duckdb if is_local else _by_spark)(settings, asked, layer, tail)


def _condition(where: str | None, columns: list[str], *, dialect: str) -> str | None:
    if where is None:
        return None
    from pipeline.conditions import (
        as_condition,
    )  # most questions have none, and the parser takes its time to load

    return as_condition(where, columns=columns, dialect=dialect)


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


def _by_duckdb(settings: Settings, view: View, layer: Layer, tail: str) -> Iterator[Row]:
    states = {needed.name: _state(settings, needed) for needed in needed_views(view)}
    session = _Session()
    sql = layer_sql(view, layer, states, session.relation)
    return session.rows(f"SELECT * FROM ({sql}) AS answer {tail}")


def _by_spark(settings: Settings, view: View, layer: Layer, tail: str) -> Iterator[Row]:
    from pipeline import serving
    from pipeline.session import session

    spark = session(settings)
    rows = spark.sql(
        f"SELECT * FROM {{answer}} {tail}", answer=serving.read(spark, settings, view, layer=layer)
    )
    return (tuple(row) for row in rows.toLocalIterator())


class _Session:
    """A DuckDB of its own, in memory, that sees the tables it is given and no file."""

    def __init__(self) -> None:
        self._connection = duckdb.connect(config={"enable_external_access": "false"})
        self._connection.execute("SET TimeZone = 'UTC'")
        self._relations = 0

    def relation(self, table: Table) -> str:
        self._relations += 1
        name = f"table_{self._relations}"
        rows = DeltaTable(table.path, version=table.version).to_pyarrow_dataset()
        self._connection.register(name, rows)
        return name

    def rows(self, sql: str) -> Iterator[Row]:
        self._connection.execute("SET lock_configuration = true")
        try:
            batches = self._connection.sql(sql).to_arrow_reader()
            for batch in batches:
                yield from zip(*map(_values, batch.columns), strict=True)
        except duckdb.Error as error:
            raise UsageError(f"the view cannot be asked that: {str(error).splitlines()[0]}") from error


def _values(column: Any) -> list[Any]:
    values: list[Any] = column.to_pylist()
    return [value.replace(tzinfo=None) if isinstance(value, datetime) else value for value in values]


def _state(settings: Settings, view: View) -> State:
    """The newest state. The watermark is read before the speed table, which is then at least as new."""
    root = settings.lake.root
    batch = _opened(view_path(root, view.name, "batch", view.version))
    published = _published(batch) if batch else None
    watermark = checkpoints.newest_watermark(None, checkpoint_path(root, view.query))
    speed_path = view_path(root, view.name, "speed", view.version)
    speed = _opened(speed_path)
    return State(
        view=view,
        batch=published[0] if published else None,
        speed=Table(speed_path, speed.version()) if speed else None,
        horizon=published[1] if published else None,
        watermark=watermark,
    )


def _opened(path: str) -> DeltaTable | None:
    try:
        return DeltaTable(path)
    except TableNotFoundError:
        return None


def _published(batch: DeltaTable) -> tuple[Table, datetime | None] | None:
    """The newest commit that says what its rows are, and the horizon it says."""
    for commit in batch.history():
        if "userMetadata" in commit:
            horizon = json.loads(commit["userMetadata"])["horizon"]
            version = int(commit["version"])
            return Table(batch.table_uri, version), datetime.fromisoformat(horizon) if horizon else None
    return None
