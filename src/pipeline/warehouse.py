"""The warehouse in Postgres: its fact table, what each run has loaded, and the views computed from it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import datetime
from importlib import resources
from itertools import islice
from typing import Any, TypeAlias

import psycopg
from psycopg import sql

from pipeline.errors import AlreadyRunning, RefusedToStart
from pipeline.failpoints import failpoint
from pipeline.postgres import Connection, address, connected
from pipeline.shop import FACT_ORDERS

__all__ = [
    "Refused",
    "Run",
    "as_json",
    "from_json",
    "is_loaded",
    "load",
    "newest_run",
    "opened",
    "refresh_views",
]

QUERY = "etl_orders"
FACTS_AT_ONCE = 10_000
_LOCK = 0x65746C5F6F726465  # "etl_orde": any number will do that nobody else takes in this database

Fact: TypeAlias = Sequence[str | None]
Refused: TypeAlias = tuple[Fact, str]
"""A fact and why the warehouse does not take it."""


@dataclass(frozen=True)
class Run:
    """A run: the snapshot of which source it has read, for which lake, and each table's watermark."""

    number: int
    source: str
    snapshot: str
    lake: str
    watermarks: Mapping[str, datetime | None]

    @property
    def oldest_open(self) -> int:
        """The first transaction that had not ended in the snapshot, which Postgres writes as first:next:open,open,…"""
        return int(self.snapshot.partition(":")[0])


def as_json(run: Run) -> dict[str, Any]:
    """The run in what JSON knows, for a commit to carry."""
    times = {table: time and time.isoformat() for table, time in run.watermarks.items()}
    return {**asdict(run), "watermarks": times}


def from_json(found: Mapping[str, Any]) -> Run:
    times = found["watermarks"].items()
    watermarks = {table: time and datetime.fromisoformat(time) for table, time in times}
    return Run(**{**found, "watermarks": watermarks})


@contextmanager
def opened(url: str) -> Iterator[Connection]:
    """The warehouse with its tables, for this process alone. Raises AlreadyRunning while another process has it."""
    with connected(url, autocommit=True) as connection:
        (is_ours,) = connection.execute("SELECT pg_try_advisory_lock(%s)", (_LOCK,)).fetchone() or (False,)
        if not is_ours:
            raise AlreadyRunning(
                f"Another etl-orders is at work on the warehouse {address(url)}. Wait for its end; if its process is gone, "
                "its connection ends with it.",
                query=QUERY,
            )
        (has_tables,) = connection.execute("SELECT to_regclass('etl_watermarks') IS NOT NULL").fetchone() or (
            0,
        )
        if not has_tables:
            _execute_file(connection, "warehouse.sql")
        yield connection


def newest_run(connection: Connection) -> Run | None:
    """The newest run that has loaded; None before the first."""
    found = connection.execute(
        "SELECT run, source, snapshot::text, lake FROM etl_runs ORDER BY run DESC LIMIT 1"
    ).fetchone()
    watermarks: dict[str, datetime | None] = dict(
        connection.execute("SELECT table_name, watermark FROM etl_watermarks").fetchall()
    )
    if found is None:
        return None
    number, source, snapshot, lake = found
    return Run(number, source, snapshot, lake, watermarks)


def is_loaded(connection: Connection, run: Run) -> bool:
    """Whether the warehouse has this run already. Raises RefusedToStart where it is neither its newest nor the next one."""
    before = newest_run(connection)
    if before is not None and (before.number, before.snapshot) == (run.number, run.snapshot):
        return True
    if run.number != (before.number if before else 0) + 1:
        raise RefusedToStart(
            f"The extract is of run {run.number}, and the warehouse's newest is {before.number if before else 'none'}: it has "
            "been loaded from another extract. Start again with the extract."
        )
    return False


def load(
    connection: Connection, facts: Iterable[Fact], *, run: Run, then: Callable[[Sequence[Refused]], None]
) -> None:
    """Put the facts in by key, and the run and its watermarks with them, in one transaction.

    `facts` are in the order of FACT_ORDERS, as texts. `then` is called before the transaction's end, with the facts that the
    warehouse's types or constraints refuse, and why: what it does is done only where all else has succeeded.
    """
    with connection.transaction():
        connection.execute("CREATE TEMPORARY TABLE new_facts (LIKE fact_orders) ON COMMIT DROP")
        count, refused, rest = 0, list[Refused](), iter(facts)
        while some := list(islice(rest, FACTS_AT_ONCE)):
            denied = _put(connection, some)
            count += len(some) - len(denied)
            refused += denied
        _enter(connection, run, facts=count)
        failpoint("etl: upserted")
        then(refused)


def refresh_views(connection: Connection) -> None:
    """Compute the materialized views anew, and make those that are not there."""
    with connection.transaction():
        _execute_file(connection, "materialized_views.sql")


def _put(connection: Connection, facts: Sequence[Fact]) -> list[Refused]:
    """Put in what can be; the others, found by halves, are told with the reason."""
    try:
        with connection.transaction():
            _copy(connection, facts)
            failpoint("etl: copied")
            _upsert(connection)
            connection.execute("SET CONSTRAINTS ALL IMMEDIATE")  # none may wait for the transaction's end
            connection.execute("TRUNCATE new_facts")
    except (psycopg.DataError, psycopg.IntegrityError) as error:
        if len(facts) == 1:
            return [(facts[0], error.diag.message_primary or str(error))]
        half = len(facts) // 2
        return _put(connection, facts[:half]) + _put(connection, facts[half:])
    return []


def _copy(connection: Connection, facts: Iterable[Fact]) -> None:
    with connection.cursor().copy(sql.SQL("COPY new_facts ({}) FROM STDIN").format(_columns())) as copy:
        for fact in facts:
            copy.write_row(fact)


def _upsert(connection: Connection) -> None:
    assignments = [
        sql.SQL("{0} = EXCLUDED.{0}").format(sql.Identifier(name))
        for name in FACT_ORDERS.names
        if name != "order_id"
    ]
    connection.execute(
        sql.SQL(
            "INSERT INTO fact_orders AS stored ({columns}) SELECT {columns} FROM new_facts ON CONFLICT (order_id) "
            "DO UPDATE SET {assignments} WHERE stored.* IS DISTINCT FROM EXCLUDED.*"
        ).format(columns=_columns(), assignments=sql.SQL(", ").join(assignments))
    )


def _enter(connection: Connection, run: Run, *, facts: int) -> None:
    connection.execute(
        "INSERT INTO etl_runs (run, source, snapshot, lake, facts) VALUES (%s, %s, %s::pg_snapshot, %s, %s)",
        (run.number, run.source, run.snapshot, run.lake, facts),
    )
    connection.cursor().executemany(
        "INSERT INTO etl_watermarks (table_name, watermark, run) VALUES (%s, %s, %s) "
        "ON CONFLICT (table_name) DO UPDATE SET watermark = EXCLUDED.watermark, run = EXCLUDED.run",
        [(table, watermark, run.number) for table, watermark in run.watermarks.items()],
    )


def _columns() -> sql.Composable:
    return sql.SQL(", ").join(sql.Identifier(name) for name in FACT_ORDERS.names)


def _execute_file(connection: Connection, name: str) -> None:
    connection.execute((resources.files("pipeline") / name).read_bytes())
