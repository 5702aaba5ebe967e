"""Reaching a Postgres: a connection of this process, and what Spark's JDBC reader needs for the same database."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeAlias
from urllib.parse import quote, urlencode

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from pipeline.errors import PostgresUnreachable

__all__ = ["Connection", "address", "connected", "jdbc_options", "unreachable"]

CONNECT_TIMEOUT_SECONDS = 10
_SHARED_PARAMETERS = ("sslmode", "sslrootcert", "sslcert", "sslkey")
"""What libpq and the JDBC driver name alike."""

# A connection that holds a snapshot or a lock is idle while Spark works. Not every version has all of these.
_WAIT_FOR_US = """
SELECT set_config(name, '0', false) FROM pg_settings
WHERE name IN ('idle_session_timeout', 'idle_in_transaction_session_timeout', 'transaction_timeout')
"""

Connection: TypeAlias = psycopg.Connection[tuple[Any, ...]]


@contextmanager
def connected(url: str, *, autocommit: bool = False) -> Iterator[Connection]:
    """A connection in UTC; without `autocommit` its transaction is committed at the block's end, or rolled back by an error.

    Raises PostgresUnreachable where the server does not let us in, or goes away inside the block.
    """
    given = {"connect_timeout": CONNECT_TIMEOUT_SECONDS, **conninfo_to_dict(url)}
    try:
        with psycopg.connect(make_conninfo("", **given), autocommit=True) as connection:
            connection.execute("SET TIME ZONE 'UTC'")
            connection.execute(_WAIT_FOR_US)
            connection.autocommit = autocommit
            yield connection
    except psycopg.OperationalError as error:
        raise unreachable(url, str(error)) from error


def unreachable(url: str, reason: str) -> PostgresUnreachable:
    where = address(url)
    return PostgresUnreachable(
        f"Postgres does not answer at {where}, or not as it should: {reason.strip()}\nIs it running (`pipeline up` starts one "
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
