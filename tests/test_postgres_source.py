"""What may have changed in the source is told by its transactions: no row is missed, however late it is committed."""

from __future__ import annotations

import random
import time
from contextlib import ExitStack
from datetime import datetime, timedelta
from typing import Any

import psycopg
import pytest
from psycopg import sql

from pipeline import postgres_source
from pipeline.devservices import postgres
from pipeline.errors import PostgresRefused, PostgresUnreachable, SourceMismatch
from pipeline.postgres import connected, is_passing
from pipeline.postgres_source import Since
from shopping import at, databases, execute, insert, make_tables, order, rows

pytestmark = pytest.mark.postgres

OVERLAP = timedelta(minutes=10)


@pytest.fixture(scope="module")
def database(postgres_server: postgres.Server) -> str:
    return databases(postgres_server)[0]


@pytest.fixture
def url(database: str) -> str:
    """A database with the shop's tables, all empty."""
    make_tables(database)
    return database


def run(url: str, since: Since | None) -> tuple[dict[str, str], Since]:
    """The status by order of what a run reads, and from where on the next one does."""
    with postgres_source.opened(url, schema="public", tables=["orders"]) as source:
        where = postgres_source.changed(source, "orders", key="order_id", by="updated_at", since=since)
        found = source.connection.execute(
            sql.SQL("SELECT order_id, status FROM orders WHERE {}").format(where)
        )
        newest = postgres_source.newest(source, "orders", "updated_at")
        recent = newest - OVERLAP if newest else None
        return dict(found.fetchall()), Since(int(source.snapshot.split(":")[0]), recent)


class Shop:
    """A shop in which time goes on: each sale is an hour after the one before, far more than the overlap."""

    def __init__(self, url: str, rng: random.Random) -> None:
        self.url, self.rng, self.sales = url, rng, 0

    def sell(self, connection: psycopg.Connection[Any], updated_at: datetime | None = None) -> None:
        self.sales += 1
        time = updated_at or at(60 * self.sales)
        insert(connection, "orders", order(f"o{self.sales}", updated_at=time))

    def sell_some(self) -> None:
        with psycopg.connect(self.url) as connection:
            for _ in range(self.rng.randint(1, 3)):
                self.sell(connection)

    def begin_long_sale(self, connection: psycopg.Connection[Any]) -> None:
        """Rows of a transaction that stays open: with old times, inside of a savepoint, or of an order that is there."""
        connection.execute("SELECT 1")  # so that what follows are savepoints of one transaction
        for _ in range(self.rng.randint(1, 3)):
            kind = self.rng.choice(["plain", "savepoint", "update", "backdated"])
            if kind == "plain":
                self.sell(connection)
            elif kind == "savepoint":
                with connection.transaction():
                    self.sell(connection)
            elif kind == "update":
                chosen = f"o{self.rng.randint(1, max(1, self.sales))}"
                connection.execute("SET lock_timeout = '10ms'")
                try:
                    with connection.transaction():
                        connection.execute(
                            "UPDATE orders SET status = 'cancelled' WHERE order_id = %s", [chosen]
                        )
                except psycopg.errors.LockNotAvailable:
                    self.sell(connection)
            else:
                self.sell(connection, updated_at=at(-100_000))


@pytest.mark.parametrize("seed", range(50))
def test_a_transaction_open_for_longer_than_the_overlap_and_two_runs_loses_no_row(
    url: str, seed: int
) -> None:
    rng = random.Random(seed)
    shop, known, since = Shop(url, rng), {}, None
    shop.sell_some()
    with ExitStack() as stack:
        waiting = []
        for _ in range(rng.randint(1, 3)):
            shop.sell_some()
            connection = stack.enter_context(psycopg.connect(url))
            shop.begin_long_sale(connection)
            waiting.append(connection)
        for _ in range(2 + rng.randint(0, 2)):
            found, since = run(url, since)
            known |= found
            shop.sell_some()
        assert len(known) < shop.sales
        rng.shuffle(waiting)
        for connection in waiting:
            connection.commit()
            if rng.random() < 0.5:
                found, since = run(url, since)
                known |= found
                shop.sell_some()
    for _ in range(2):
        found, since = run(url, since)
        known |= found
    assert known == dict(rows(url, "SELECT order_id, status FROM orders"))


def test_what_has_been_read_is_not_read_again_but_for_the_overlap(url: str) -> None:
    with psycopg.connect(url) as connection:
        insert(connection, "orders", *(order(f"o{number}", updated_at=at(number)) for number in range(100)))
    found, since = run(url, None)
    assert len(found) == 100
    found, since = run(url, since)
    assert sorted(found) == [f"o{number}" for number in range(89, 100)]
    execute(url, "UPDATE orders SET status = 'pending' WHERE order_id = 'o3'")
    found, since = run(url, since)
    assert found["o3"] == "pending"
    assert len(found) == 12


def test_a_number_is_right_beyond_32_bits_too(url: str) -> None:
    execute(url, "INSERT INTO orders (order_id) VALUES ('old')")
    with postgres_source.opened(url, schema="public", tables=["orders"]) as source:
        (own,) = source.connection.execute("SELECT xmin::text::bigint FROM orders").fetchone() or (0,)

        def is_read(oldest_open: int, next_transaction: int) -> bool:
            later = postgres_source.Source(
                source.connection,
                url,
                "public",
                source.identity,
                source.name,
                source.snapshot,
                next_transaction,
            )
            where = postgres_source.changed(
                later, "orders", key="order_id", by="updated_at", since=Since(oldest_open, None)
            )
            query = sql.SQL("SELECT count(*) FROM orders WHERE {}").format(where)
            return source.connection.execute(query).fetchone() == (1,)

        epoch = 2**32
        assert is_read(own, own + 1)
        assert not is_read(own + 1, own + 1)
        assert not is_read(own + 1, own + 5)
        assert is_read(3 * epoch + own, 3 * epoch + own + 5)  # the row may be of this epoch
        assert not is_read(3 * epoch + own + 1, 3 * epoch + own + 5)
        assert is_read(
            2 * epoch + own - 7, 3 * epoch + own - 3
        )  # its last possible number is of the epoch before
        assert is_read(own, 4 * epoch)


@pytest.mark.parametrize(
    "schema", ['we"ird', "x'; DROP TABLE orders; --", "a.b", "%s", "{}", "Ünï cödé", "$1 ? :name"]
)
def test_a_name_is_a_name_whatever_it_says(url: str, schema: str) -> None:
    quoted = sql.Identifier(schema)
    with psycopg.connect(url) as connection:
        connection.execute(sql.SQL("CREATE SCHEMA {}").format(quoted))
        connection.execute(sql.SQL("CREATE TABLE {}.orders (LIKE public.orders)").format(quoted))
        connection.execute(sql.SQL("INSERT INTO {}.orders (order_id) VALUES ('o1')").format(quoted))
    with postgres_source.opened(url, schema=schema, tables=["orders"]) as source:
        assert postgres_source.columns_of(source, "orders", wanted=["order_id"]) == {"order_id": "text"}
        assert postgres_source._blocks(source, "orders") == 1
        assert postgres_source.newest(source, "orders", "updated_at") is None
    assert rows(url, "SELECT count(*) FROM public.orders") == [(0,)]


def test_each_row_lies_in_one_share(url: str) -> None:
    execute(
        url,
        "INSERT INTO orders (order_id, status) SELECT number::text, repeat('x', 500) FROM generate_series(1, 40000) number",
    )
    with postgres_source.opened(url, schema="public", tables=["orders"]) as source:
        shares = postgres_source._shares(source, "orders", 4)
        counts = [
            source.connection.execute(
                sql.SQL("SELECT count(*) FROM orders WHERE {}").format(share)
            ).fetchone()
            for share in shares
        ]
        assert len(counts) == 4
        assert sum(count for (count,) in counts if count) == 40_000  # type: ignore[misc]
        plan = source.connection.execute(
            sql.SQL("EXPLAIN SELECT * FROM orders WHERE {}").format(shares[1])
        ).fetchall()
        assert "Tid Range Scan" in str(plan)
    with postgres_source.opened(url, schema="public", tables=["customers"]) as source:
        assert len(postgres_source._shares(source, "customers", 4)) == 1


@pytest.mark.parametrize(
    "change",
    ["DROP TABLE orders", "ALTER TABLE orders RENAME TO sold; CREATE VIEW orders AS SELECT 1 AS order_id"],
)
def test_a_table_that_is_none_is_named(url: str, change: str) -> None:
    execute(url, change)
    with (
        pytest.raises(SourceMismatch) as raised,
        postgres_source.opened(url, schema="public", tables=["orders"]) as source,
    ):
        postgres_source.columns_of(source, "orders", wanted=["order_id"])
    assert (raised.value.table, raised.value.columns) == ("orders", ())


def test_missing_columns_are_all_named(url: str) -> None:
    execute(url, "ALTER TABLE orders DROP COLUMN cost, DROP COLUMN updated_at")
    with (
        postgres_source.opened(url, schema="public", tables=["orders"]) as source,
        pytest.raises(SourceMismatch) as raised,
    ):
        postgres_source.columns_of(source, "orders", wanted=["order_id", "cost", "updated_at"])
    assert (raised.value.table, raised.value.columns) == ("orders", ("cost", "updated_at"))


@pytest.mark.parametrize("place", ["127.0.0.1:1/shop", "127.0.0.1:{port}/no_such_database"])
def test_an_address_is_named_and_the_password_is_not(postgres_server: postgres.Server, place: str) -> None:
    where = place.format(port=postgres_server.port)
    password = (postgres_server.home / "password").read_text()
    with pytest.raises(PostgresUnreachable) as raised, connected(f"postgresql://pipeline:{password}@{where}"):
        pass
    assert raised.value.address == where
    assert where in raised.value.message
    assert password not in f"{raised.value.message}{raised.value.__cause__}"


def test_an_idle_connection_is_waited_for(url: str) -> None:
    execute(url, "ALTER ROLE pipeline SET idle_in_transaction_session_timeout = '100ms'")
    try:
        with postgres_source.opened(url, schema="public", tables=["orders"]) as source:
            time.sleep(0.5)
            assert postgres_source.newest(source, "orders", "updated_at") is None
    finally:
        execute(url, "ALTER ROLE pipeline RESET idle_in_transaction_session_timeout")


def test_a_server_that_goes_away_is_unreachable(url: str) -> None:
    def lose_connection() -> None:
        with connected(url) as connection:
            execute(url, f"SELECT pg_terminate_backend({connection.info.backend_pid})")
            connection.execute("SELECT 1")

    with pytest.raises(PostgresUnreachable):
        lose_connection()


@pytest.mark.parametrize(
    ("statement", "code"),
    [
        ("SELECT * FROM no_such_table", "42P01"),
        ("SELECT no_such_column FROM orders", "42703"),
        ("SELECT 1/0", "22012"),
        ("SET statement_timeout = 1; SELECT pg_sleep(9)", "57014"),
        ("SET transaction_read_only = on; DELETE FROM orders", "25006"),
        ("SET ROLE pg_monitor; SELECT * FROM pg_authid", "42501"),
        *(
            (f"DO $$ BEGIN RAISE SQLSTATE '{code}'; END $$", code)
            for code in ("53100", "40P01", "40001", "55P03")
        ),
    ],
)
def test_a_server_that_answers_and_refuses_is_told_by_what_it_means(
    url: str, statement: str, code: str
) -> None:
    with pytest.raises(PostgresRefused) as raised, connected(url, autocommit=True) as connection:
        connection.execute(statement)  # type: ignore[call-overload]
    assert raised.value.sqlstate == code
    assert is_passing(raised.value) == code.startswith("40")


def test_only_what_a_unique_index_does_not_rule_out_is_read_for_its_key(url: str) -> None:
    def condition() -> str:
        with postgres_source.opened(url, schema="public", tables=["orders"]) as source:
            since = Since(1, None)
            found = postgres_source.changed(source, "orders", key="order_id", by="updated_at", since=since)
            return found.as_string(source.connection)

    assert "coalesce" in condition()
    execute(url, "CREATE UNIQUE INDEX ON orders (order_id, created_at)")
    assert "coalesce" in condition()
    execute(url, "CREATE UNIQUE INDEX ON orders (order_id)")
    assert "coalesce" not in condition()
