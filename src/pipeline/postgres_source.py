"""The shop's tables in their Postgres, read side by side by Spark, all in one snapshot of the source.

The snapshot is that of a read-only transaction which stays open while Spark reads: Postgres lets other connections of the
same database take it over (`pg_export_snapshot`, `SET TRANSACTION SNAPSHOT`), so each of Spark's does, also one of a
task that is tried again. A table's share of each connection is a range of its blocks (`ctid`), which needs no key of a
certain type and no index, and within a snapshot each row lies in one block.

What has changed since an earlier snapshot is told by the transaction that wrote a row (`xmin`), not only by a column of
times: a transaction may commit long after the times in its rows. Every transaction before the oldest one that was open
then (`pg_snapshot_xmin`) had ended, so its rows have been read. All later ones are read again, whether they had ended
or not. Who was open cannot be asked one by one: a snapshot does not list subtransactions, and rows written after a
SAVEPOINT carry the number of theirs.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from functools import reduce
from itertools import pairwise

import psycopg
from psycopg import sql
from pyspark.sql import DataFrame, SparkSession

from pipeline.errors import SourceMismatch
from pipeline.postgres import Connection, connected, jdbc_options, refused, unreachable

__all__ = ["Since", "Source", "changed", "columns_of", "newest", "opened", "reaching", "rows_as_json"]

FETCHED_ROWS = 10_000
BLOCK_BYTES = 8192
BLOCKS_WORTH_A_CONNECTION = 512
_NUMBERS = 2**32
"""A row holds the lower 32 bits of its transaction's number."""
_TIMES = ("timestamp with time zone", "timestamp without time zone", "date")


@dataclass(frozen=True)
class Source:
    """An open source: `identity` is another one when the numbers of its transactions have begun anew.

    `snapshot` is as Postgres writes it, with its `next_transaction`; by `name` others take it over.
    """

    connection: Connection
    url: str
    schema: str
    identity: str
    name: str
    snapshot: str
    next_transaction: int


@dataclass(frozen=True)
class Since:
    """What an earlier run has read: all of the transactions before `oldest_open`, and rows of times up to `recent`."""

    oldest_open: int
    recent: datetime | None


_SNAPSHOT = """
SELECT concat_ws('/', control.system_identifier, checkpoint.timeline_id, here.oid),
       pg_export_snapshot(), snapshot::text, pg_snapshot_xmax(snapshot)::text::bigint
FROM pg_current_snapshot() AS snapshot, pg_control_system() AS control, pg_control_checkpoint() AS checkpoint,
     pg_database AS here WHERE here.datname = current_database()
"""


_COLUMNS = """
SELECT attname, format_type(atttypid, NULL)
FROM pg_attribute JOIN pg_class ON pg_class.oid = attrelid
WHERE attrelid = to_regclass(format('%%I.%%I', %s::text, %s::text)) AND attnum > 0 AND NOT attisdropped AND relkind IN ('r', 'p')
"""
_SIZE = """
SELECT greatest(pg_relation_size(own), (SELECT max(pg_relation_size(relid)) FROM pg_partition_tree(own)))
FROM CAST(format('%%I.%%I', %s::text, %s::text) AS regclass) AS own
"""
_IS_UNIQUE = """
SELECT EXISTS (
    SELECT FROM pg_index JOIN pg_class ON pg_class.oid = indrelid JOIN pg_attribute ON attrelid = indrelid AND attnum = indkey[0]
    WHERE indrelid = to_regclass(format('%%I.%%I', %s::text, %s::text)) AND attname = %s AND indnkeyatts = 1
      AND indisunique AND indisvalid AND indpred IS NULL AND (relkind = 'p' OR NOT relhassubclass))
"""


@contextmanager
def opened(url: str, *, schema: str, tables: Sequence[str]) -> Iterator[Source]:
    """The source at one snapshot, for as long as the block runs. Raises SourceMismatch where a table is not there."""
    with connected(url) as connection:
        connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        connection.read_only = True
        for table in tables:
            _hold(connection, schema, table)
        found = connection.execute(_SNAPSHOT).fetchone()
        assert found is not None
        yield Source(connection, url, schema, *found)


def _hold(connection: Connection, schema: str, table: str) -> None:
    """Keep the table from being rewritten, which would move its rows to other blocks; the snapshot is not taken by this."""
    try:
        connection.execute(
            sql.SQL("LOCK TABLE {} IN ACCESS SHARE MODE").format(sql.Identifier(schema, table))
        )
    except psycopg.ProgrammingError as error:
        raise SourceMismatch(
            f"The source has no table {schema}.{table} that can be read: {error.diag.message_primary}.\n"
            "Is postgres.source_schema right, and may the user read it?",
            table=table,
        ) from error


def columns_of(source: Source, table: str, *, wanted: Sequence[str]) -> Mapping[str, str]:
    """The type by name of each wanted column, in their order. Raises SourceMismatch that names those that are missing."""
    found: dict[str, str] = dict(source.connection.execute(_COLUMNS, (source.schema, table)).fetchall())
    missing = [name for name in wanted if name not in found]
    if not found:
        raise SourceMismatch(
            f"The source's {source.schema}.{table} is not a table: a view's rows do not say by which transaction they were "
            "written. Name the schema of the tables themselves in postgres.source_schema.",
            table=table,
        )
    if missing:
        raise SourceMismatch(
            f"The source's table {source.schema}.{table} has no column {', '.join(missing)}; it has {', '.join(found)}.\n"
            "Nothing has been read. Bring the column back, or read another schema (postgres.source_schema).",
            table=table,
            columns=missing,
        )
    return {name: found[name] for name in wanted}


def newest(source: Source, table: str, column: str) -> datetime | None:
    """The latest time in the column of the years 1 to 9998, which Python can hold and reckon with; None without one, and where
    it is no column of times.
    """
    query = sql.SQL(
        "SELECT max({column}::timestamptz) FROM {table} "
        "WHERE isfinite({column}) AND {column} >= '0001-01-01' AND {column} < '9999-01-01'"
    )
    if columns_of(source, table, wanted=[column])[column] not in _TIMES:
        return None
    named = query.format(column=sql.Identifier(column), table=sql.Identifier(source.schema, table))
    found: tuple[datetime | None] = source.connection.execute(named).fetchone() or (None,)
    return found[0]


def changed(source: Source, table: str, *, key: str, by: str, since: Since | None) -> sql.Composable:
    """The condition for what may be new since then, or changed, with all other rows of the same `key`; `by` names the column of
    times.

    So which of a key's rows counts is told by all of them, also when only one has been touched.
    """
    if since is None:
        return sql.SQL("TRUE")
    own = _touched(source, table, by=by, since=since)
    (is_unique,) = source.connection.execute(_IS_UNIQUE, (source.schema, table, key)).fetchone() or (False,)
    if is_unique:
        return own
    return sql.SQL(
        "coalesce({key}::text, '') IN (SELECT coalesce({key}::text, '') FROM {table} WHERE {own})"
    ).format(key=sql.Identifier(key), table=sql.Identifier(source.schema, table), own=own)


def _touched(source: Source, table: str, *, by: str, since: Since) -> sql.Composable:
    """A row's number is that of its latest transaction but for a multiple of 2^32, so old rows may be taken for new ones,
    which only costs a second look, and new ones never for old.
    """
    last = source.next_transaction - 1
    is_written_since = sql.SQL("(({last} - xmin::text::bigint) & {mask}) <= {span}").format(
        last=sql.Literal(last), mask=sql.Literal(_NUMBERS - 1), span=sql.Literal(last - since.oldest_open)
    )
    if since.recent is None or columns_of(source, table, wanted=[by])[by] not in _TIMES:
        return is_written_since
    is_recent = sql.SQL("{} >= {}").format(sql.Identifier(by), sql.Literal(since.recent))
    return sql.SQL("({} OR {})").format(is_recent, is_written_since)


def rows_as_json(
    spark: SparkSession,
    source: Source,
    table: str,
    *,
    columns: Sequence[str],
    where: sql.Composable,
    connections: int,
) -> DataFrame:
    """The table's rows that fulfil `where`: `table`, and the `row` as JSON of the texts that Postgres makes of its columns."""
    texts = sql.SQL(", ").join(
        sql.SQL("{}, {}::text").format(sql.Literal(name), sql.Identifier(name)) for name in columns
    )
    query = sql.SQL(
        '(SELECT {} AS "table", json_build_object({})::text AS "row" FROM {} WHERE {} AND {}) AS found'
    )
    place = sql.Identifier(source.schema, table)
    shares = [
        query.format(sql.Literal(table), texts, place, share, where)
        for share in _shares(source, table, connections)
    ]
    return reduce(DataFrame.unionAll, [_read(spark, source, share) for share in shares])


def _read(spark: SparkSession, source: Source, query: sql.Composable) -> DataFrame:
    take_over = sql.SQL(
        "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY; SET TRANSACTION SNAPSHOT {}; "
        "SET LOCAL TIME ZONE 'UTC'; SET LOCAL datestyle TO 'ISO'"
    ).format(sql.Literal(source.name))
    options = {
        **jdbc_options(source.connection),
        "dbtable": query.as_string(source.connection),
        "sessionInitStatement": take_over.as_string(source.connection),
        "fetchsize": str(FETCHED_ROWS),  # also what keeps a connection in one transaction
    }
    return spark.read.format("jdbc").options(**options).load()


def _shares(source: Source, table: str, connections: int) -> list[sql.Composable]:
    """Conditions of which each row fulfils one: ranges of blocks, as many as there are connections for a large table."""
    blocks = _blocks(source, table)
    count = max(1, min(connections, blocks // BLOCKS_WORTH_A_CONNECTION))
    bounds = [None, *(f"({blocks * number // count},0)" for number in range(1, count)), None]
    return [_between(first, end) for first, end in pairwise(bounds)]


def _between(first: str | None, end: str | None) -> sql.Composable:
    ends = ((">=", first), ("<", end))
    limits = [
        sql.SQL(f"ctid {sign} {{}}::tid").format(sql.Literal(tid)) for sign, tid in ends if tid is not None
    ]
    return sql.SQL(" AND ").join(limits) if limits else sql.SQL("TRUE")


def _blocks(source: Source, table: str) -> int:
    """The table's, or those of its largest partition."""
    (size,) = source.connection.execute(_SIZE, (source.schema, table)).fetchone() or (0,)
    return int(size or 0) // BLOCK_BYTES


@contextmanager
def reaching(source: Source) -> Iterator[None]:
    """What Spark's connections say: PostgresUnreachable of a source that has gone away, PostgresRefused of one that answers."""
    try:
        yield
    except Exception as error:
        if "org.postgresql.util.PSQLException" not in str(error):
            raise
        reason = next(line for line in str(error).splitlines() if "PSQLException" in line)
        told = reason.partition("PSQLException: ")[2]
        kind = refused if _is_of_server(told) and _answers(source) else unreachable
        raise kind(source.url, told) from error


def _is_of_server(told: str) -> bool:
    """The driver writes what a server says of a statement behind its severity, in the server's language (`ERROR: `)."""
    return re.match(r"(?!FATAL|PANIC)\w+: ", told) is not None


def _answers(source: Source) -> bool:
    """Whether the connection is there that holds the snapshot: without it Spark's are refused too."""
    try:
        source.connection.execute("SELECT 1")
    except psycopg.OperationalError:
        return False
    return True
