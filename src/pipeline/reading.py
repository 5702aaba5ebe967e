"""The Delta tables of a lake as somebody sees them who only looks: those of this machine by delta-rs, others by Spark."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Protocol, cast

import pyarrow as pa
import pyarrow.compute as pc
from delta.tables import DeltaTable as SparkDeltaTable
from deltalake import DeltaTable, QueryBuilder
from deltalake.exceptions import TableNotFoundError
from pyspark.sql import SparkSession

from pipeline.delta_log import local_table, newest_version
from pipeline.errors import RefusedToStart, UsageError
from pipeline.instants import in_utc, of_microseconds
from pipeline.tables import local_path

__all__ = ["LocalTables", "Row", "Size", "SparkTables", "Tables", "lake_here"]

Row = tuple[Any, ...]
"""Times are in UTC, with their zone."""

_INT96 = {
    "datafusion.execution.parquet.coerce_int96": "us",
    "datafusion.execution.parquet.coerce_int96_tz": "UTC",
}
"""Files of earlier lakes count nanoseconds, of which 64 bits hold no time before 1677 or after 2262."""


@dataclass(frozen=True)
class Size:
    """What a table holds at its newest version; `rows` is None where its log does not say."""

    version: int
    rows: int | None
    bytes: int
    files: int


class Tables(Protocol):
    def size(self, path: str) -> Size | None:
        """None where there is no table."""

    def newest(self, path: str, column: str) -> datetime | None:
        """The largest time in the column; None where the table has none. It may be a millisecond too small or too large."""

    def relation(self, path: str) -> str:
        """What SQL calls the table."""

    def rows(self, sql: str) -> Iterator[Row]: ...


class LocalTables:
    """By delta-rs, each table at the version that it had when it was first asked for."""

    def __init__(self) -> None:
        self._opened: dict[str, DeltaTable | None] = {}
        self._sql, self._names = QueryBuilder(_INT96), dict[str, str]()

    def size(self, path: str) -> Size | None:
        table = self._open(path)
        if table is None:
            return None
        files = _files(table)
        counts, sizes = files.column("num_records"), files.column("size_bytes")
        rows = None if counts.null_count else pc.sum(counts).as_py() or 0
        return Size(table.version(), rows, pc.sum(sizes).as_py() or 0, files.num_rows)

    def newest(self, path: str, column: str) -> datetime | None:
        table = self._open(path)
        files = _files(table) if table else None
        if files is None or f"max.{column}" not in files.column_names:
            return None
        return max((time for time in _values(files.column(f"max.{column}")) if time), default=None)

    def relation(self, path: str) -> str:
        table = self._open(path)
        assert table is not None
        if path not in self._names:
            self._names[path] = f"table_{len(self._names)}"
            self._sql.register(self._names[path], table)
        return self._names[path]

    def rows(self, sql: str) -> Iterator[Row]:
        answer = pa.RecordBatchReader.from_stream(self._sql.execute(sql))
        for batch in answer:
            yield from zip(*map(_values, batch.columns), strict=True)

    def _open(self, path: str) -> DeltaTable | None:
        if path not in self._opened:
            try:
                self._opened[path] = local_table(path)
            except TableNotFoundError:
                self._opened[path] = None
        return self._opened[path]


class SparkTables:
    def __init__(self, spark: SparkSession) -> None:
        self._spark = spark

    def size(self, path: str) -> Size | None:
        version = newest_version(self._spark, path)
        if version is None:
            return None
        table = SparkDeltaTable.forPath(self._spark, path)
        ((files, size),) = table.detail().select("numFiles", "sizeInBytes").collect()
        return Size(version, table.toDF().count(), size, files)

    def newest(self, path: str, column: str) -> datetime | None:
        ((newest,),) = self.rows(f"SELECT max({column}) FROM {self.relation(path)}")
        return cast("datetime | None", newest)

    def relation(self, path: str) -> str:
        return f"delta.`{path.replace('`', '``')}`"

    def rows(self, sql: str) -> Iterator[Row]:
        for row in self._spark.sql(sql).collect():
            yield tuple(in_utc(value) if isinstance(value, datetime) else value for value in row)


def lake_here(root: str, *, what: str) -> Path:
    """The lake as a folder of this machine. Raises UsageError where it lies elsewhere, RefusedToStart where there is none."""
    lake = local_path(root)
    if lake is None:
        raise UsageError(
            f"{what} reads a lake on this machine's file system; lake.root is {root}.\n"
            "Mount it or copy it, and name its path: --set lake.root=/path/to/lake"
        )
    if not lake.is_dir():
        raise RefusedToStart(
            f"there is no lake at {lake}: nothing has been ingested yet.\n"
            "Run `pipeline ingest` first (`--once` ingests what is there), or set lake.root to the lake you mean."
        )
    return lake


def _files(table: DeltaTable) -> pa.Table:
    """One row per file: num_records, size_bytes, and the smallest and largest values as `min.<column>` and `max.<column>`."""
    # pa.table would do the same, and load pandas, too.
    return pa.RecordBatchReader.from_stream(table.get_add_actions(flatten=True)).read_all()


def _values(column: Any) -> list[Any]:
    """The column's values, times with their zone."""
    if not pa.types.is_timestamp(column.type):
        return list(column.to_pylist())
    # As times they would load pandas, in which a third of the whole answer's time would go.
    micros = column.cast(pa.timestamp("us", "UTC")).cast(pa.int64()).to_pylist()
    return [None if one is None else of_microseconds(one) for one in micros]
