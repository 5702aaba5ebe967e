"""DuckDB over the Delta tables of this machine, which deltalake opens: no JVM."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import count
from typing import Any, NamedTuple

import duckdb
import pyarrow as pa
from pyarrow.dataset import Dataset, FileSystemDataset, ParquetReadOptions

from pipeline.delta_log import local_table, unreadable
from pipeline.errors import PipelineError, UsageError
from pipeline.instants import of_microseconds
from pipeline.served import Relation, Table
from pipeline.tables import local_path

__all__ = ["DuckDb", "Row", "failure"]

Row = tuple[Any, ...]


_MOST_TABLES = 100
_INT96 = ParquetReadOptions(coerce_int96_timestamp_unit="us")
"""Files of earlier lakes count nanoseconds, of which 64 bits hold no time before 1677 or after 2262."""


class _Opened(NamedTuple):
    """One version of the table that lies there now: a lake that is made anew has another file of that name."""

    path: str
    version: int
    file: tuple[int, int] | None


class DuckDb:
    """A DuckDB of its own, in memory, that sees the tables it is given and no file; for one thread at a time."""

    def __init__(self) -> None:
        self._connection = duckdb.connect(config={"enable_external_access": "false"})
        self._connection.execute("SET TimeZone = 'UTC'")
        # Of the rows of a key it makes one aggregate, which in DuckDB 2.0.0 may give a null in the order before a value where threads
        # meet (of its kind: duckdb issues 23677 and 24363).
        self._connection.execute("SET disabled_optimizers = 'top_n_window_elimination'")
        self._connection.execute("SET lock_configuration = true")
        self._names: OrderedDict[_Opened, str] = OrderedDict()
        self._numbers = count(1)

    def relation(self, table: Table) -> Relation:
        """The table as SQL knows it; the names of the last 100 stay the same."""
        opened = _Opened(table.path, table.version, _file(table))
        if opened not in self._names:
            self._names[opened] = f"table_{next(self._numbers)}"
            self._connection.register(self._names[opened], _dataset(opened))
        self._names.move_to_end(opened)
        if len(self._names) > _MOST_TABLES:
            self._connection.unregister(self._names.popitem(last=False)[1])
        return Relation(self._names[opened], _dataset(opened).schema.names)

    def interrupt(self) -> None:
        """From another thread: end what runs, with duckdb.InterruptException."""
        self._connection.interrupt()

    def rows(self, sql: str, values: Sequence[Any] = ()) -> Iterator[Row]:
        """The rows of the answer, times as UTC datetimes without zone; `values` are for its `?`. Raises duckdb.Error."""
        batches = self._connection.sql(sql, params=[*values] or None).to_arrow_reader()
        for batch in batches:
            yield from zip(*map(_values, batch.columns), strict=True)


def failure(error: duckdb.Error | OSError, root: str) -> PipelineError:
    """What an error of DuckDB means, over tables below `root`: what was asked is wrong, or its files cannot be read."""
    told = str(error)
    if isinstance(error, (OSError, duckdb.IOException)) or ".parquet" in told:
        return unreadable(root, error)
    if isinstance(error, duckdb.OutOfMemoryException):
        return UsageError(
            "this takes more memory than there is. Ask for less: a condition, a limit, or another layer."
        )
    return UsageError(f"the view cannot be asked that: {told.splitlines()[0]}")


def _file(table: Table) -> tuple[int, int] | None:
    folder = local_path(table.path)
    assert folder is not None
    try:
        found = (folder / "_delta_log" / f"{table.version:020d}.json").stat()
    except FileNotFoundError:  # cleaned away: a checkpoint stands for it
        return None
    return found.st_ino, found.st_mtime_ns


@lru_cache(maxsize=4 * _MOST_TABLES)
def _dataset(opened: _Opened) -> Dataset:
    """The rows, without what the table's log says of each file's smallest and largest values.

    deltalake 1.6.6 takes those of decimals as doubles, and a filter would pass over files that hold what it asks for. Parquet has
    statistics of its own.
    """
    table = local_table(opened.path, version=opened.version)
    rows = table.to_pyarrow_dataset(parquet_read_options=_INT96)
    if table.metadata().partition_columns or not isinstance(rows, FileSystemDataset):
        return rows
    fragments = [rows.format.make_fragment(name, rows.filesystem) for name in rows.files]
    return FileSystemDataset(fragments, rows.schema, rows.format, rows.filesystem)


def _values(column: Any) -> list[Any]:
    if not pa.types.is_timestamp(column.type):
        return list(column.to_pylist())
    micros = column.cast(pa.timestamp("us", column.type.tz)).cast(pa.int64()).to_pylist()
    return [None if one is None else of_microseconds(one, zone=None) for one in micros]
