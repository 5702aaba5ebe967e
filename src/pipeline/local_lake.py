"""DuckDB over the Delta tables of this machine, which deltalake opens: no JVM."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import Any

import duckdb
from deltalake import DeltaTable
from pyarrow.dataset import Dataset, FileSystemDataset

from pipeline.served import Table

__all__ = ["DuckDb", "Row"]

Row = tuple[Any, ...]


class DuckDb:
    """A DuckDB of its own, in memory, that sees the tables it is given and no file."""

    def __init__(self) -> None:
        self._connection = duckdb.connect(config={"enable_external_access": "false"})
        self._connection.execute("SET TimeZone = 'UTC'")
        self._connection.execute("SET lock_configuration = true")
        self._relations = 0

    def relation(self, table: Table) -> str:
        """The name by which SQL knows the table."""
        self._relations += 1
        name = f"table_{self._relations}"
        self._connection.register(name, _dataset(DeltaTable(table.path, version=table.version)))
        return name

    def rows(self, sql: str) -> Iterator[Row]:
        """The rows of the answer, times as UTC datetimes without zone. Raises duckdb.Error."""
        batches = self._connection.sql(sql).to_arrow_reader()
        for batch in batches:
            yield from zip(*map(_values, batch.columns), strict=True)


def _dataset(table: DeltaTable) -> Dataset:
    """The rows, without what the table's log says of each file's smallest and largest values.

    deltalake 1.6.6 takes those of decimals as doubles, and a filter would pass over files that hold what it asks for. Parquet has
    statistics of its own.
    """
    rows = table.to_pyarrow_dataset()
    if table.metadata().partition_columns or not isinstance(rows, FileSystemDataset):
        return rows
    fragments = [rows.format.make_fragment(name, rows.filesystem) for name in rows.files]
    return FileSystemDataset(fragments, rows.schema, rows.format, rows.filesystem)


def _values(column: Any) -> list[Any]:
    values: list[Any] = column.to_pylist()
    return [value.replace(tzinfo=None) if isinstance(value, datetime) else value for value in values]
