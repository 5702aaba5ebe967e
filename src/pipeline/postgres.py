"""Reaching a Postgres: a connection of this process, and what Spark's JDBC reader needs for the same database."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeAlias
from urllib.parse import quote, urlencode

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from pipeline.errors import PostgresRefused, PostgresUnreachable

__all__ = ["Connection", "address", "connected", "is_passing", "jdbc_options", "refused", "unreachable"]

CONNECT_TIMEOUT_SECONDS = 10
_SHARED_PARAMETERS = ("sslmode", "sslrootcert", "sslcert", "sslkey")
"""What libpq and the JDBC driver name alike."""

# A connection that holds a snapshot or a lock is idle while Spark works. Not every version has all of these.
_WAIT_FOR_US = """
SELECT set_config(name, '0', false) FROM pg_settings
WHERE name IN ('idle_session_timeout', 'idle_in_transaction_session_timeout', 'transaction_timeout')
"""

_CONNECTIONS = ("08", "28", "3D", "533", "57P")
"""What the codes begin with that are about the connection itself: lost, not let in, too many, shut down."""
_PASSING = "40"
"""What the codes of a deadlock and of a failed serialization begin with: the transaction may be tried again."""
_ADVICE = {
    "22": "The value does not fit what the table can hold: compare the column's type with the one in warehouse.sql.",
    "23": "A constraint of the table forbids the row.",
    "25006": "The server or the transaction is read-only: name the primary server in the URL.",
    "40": "It was tried again and met others each time: who else writes there now?",
    "42501": "The user of the URL lacks a right: grant it, or name another user.",
    "42P01": "The table is not there: is the database the right one, and the search_path?",
    "42703": "The column is not there: tables that exist are changed by hand, as warehouse.sql has them.",
    "42804": "A column has another type than it should: compare it with warehouse.sql.",
    "53100": "The server's disk is full: free space there.",
    "53200": "The server is out of memory.",
    "54": "A limit of the server is exceeded.",
    "55P03": "Another transaction holds a lock for longer than lock_timeout: see pg_stat_activity.",
    "57014": "It took longer than statement_timeout, or someone cancelled it: raise the user's statement_timeout.",
    "58": "The server could not read or write its own files.",
}
"""What to do, by the beginning of Postgres' code for the error."""

Connection: TypeAlias = psycopg.Connection[tuple[Any, ...]]


@contextmanager
def connected(url: str, *, autocommit: bool = False) -> Iterator[Connection]:
    """A connection in UTC; without `autocommit` its transaction is committed at the block's end, or rolled back by an error.

    Raises PostgresUnreachable where the server does not let us in, or goes away inside the block, and PostgresRefused where
    it answers and refuses a statement.
    """
    given = {"connect_timeout": CONNECT_TIMEOUT_SECONDS, **conninfo_to_dict(url)}
    try:
        with psycopg.connect(make_conninfo("", **given), autocommit=True) as connection:
            connection.execute("SET TIME ZONE 'UTC'")
            connection.execute(_WAIT_FOR_US)
            connection.autocommit = autocommit
            yield connection
    except psycopg.Error as error:
        if _is_of_connection(error):
            raise unreachable(url, str(error)) from error
        if (
            error.sqlstate is None
        ):  # of the client, such as a value that it cannot read: no word of the server's
            raise
        raise refused(url, str(error), sqlstate=error.sqlstate) from error


def _is_of_connection(error: psycopg.Error) -> bool:
    """A connection that fails or breaks off mostly leaves no code."""
    if error.sqlstate is None:
        return isinstance(error, psycopg.OperationalError)
    return error.sqlstate.startswith(_CONNECTIONS)


def is_passing(error: Exception) -> bool:
    """Whether the same transaction, begun again, may well succeed."""
    code = error.sqlstate if isinstance(error, (psycopg.Error, PostgresRefused)) else None
    return (code or "").startswith(_PASSING)


def refused(url: str, reason: str, *, sqlstate: str | None = None) -> PostgresRefused:
    where = address(url)
    advice = [text for code, text in _ADVICE.items() if (sqlstate or "").startswith(code)]
    code = f" ({sqlstate})" if sqlstate else ""
    return PostgresRefused(
        f"Postgres at {where} refuses a statement{code}: {reason.strip()}\n"
        f"{advice[0] if advice else 'Nothing of the step has been stored there.'}",
        address=where,
        sqlstate=sqlstate,
    )


def unreachable(url: str, reason: str) -> PostgresUnreachable:
    where = address(url)
    return PostgresUnreachable(
        f"Postgres does not answer at {where}, or does not let us in: {reason.strip()}\nIs it running (`pipeline up` starts one "
        "on this machine), and are postgres.source_url and postgres.warehouse_url right?",
        address=where,
    )


def address(url: str) -> str:
    """host:port/database, without user and password."""
    given = conninfo_to_dict(url)
    return f"{given.get('host', 'localhost')}:{given.get('port', 5432)}/{given.get('dbname', '')}"


def jdbc_options(connection: Connection) -> Mapping[str, str]:
    """Options of Spark's JDBC reader for this connection's database, with the password that let it in."""
    info = connection.info
    host = f"[{info.host}]" if ":" in info.host else info.host
    given = info.get_parameters()
    shared = urlencode({name: given[name] for name in _SHARED_PARAMETERS if name in given})
    return {
        "url": f"jdbc:postgresql://{host}:{info.port}/{quote(info.dbname, safe='')}"
        + (shared and f"?{shared}"),
        "driver": "org.postgresql.Driver",
        "user": info.user,
        "password": info.password,
    }
