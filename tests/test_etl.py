"""The shop in Postgres into the lake and the warehouse: the same tables whatever happens on the way."""

from __future__ import annotations

import json
import shutil
from contextlib import ExitStack
from dataclasses import replace
from datetime import date, datetime, timezone
from decimal import ROUND_HALF_UP, Decimal
from pathlib import Path
from typing import Any

import psycopg
import pytest
from pyspark.sql import DataFrame, SparkSession

from lake import rows_of
from pipeline import cli, etl, postgres_source, warehouse
from pipeline.delta_log import newest_version
from pipeline.devservices import postgres
from pipeline.errors import (
    AlreadyRunning,
    PostgresRefused,
    PostgresUnreachable,
    RefusedToStart,
    SourceMismatch,
)
from pipeline.failpoints import POINTS, watched
from pipeline.settings import Settings
from pipeline.shop import FACT_ORDERS, SCHEMAS
from pipeline.tables import ETL_DEAD_LETTERS, table_path
from shopping import NOON, at, customer, databases, execute, insert, order, product, rows, settings_for

pytestmark = pytest.mark.postgres

ETL_POINTS = [point for point in POINTS if point.startswith("etl: ")]
CHAINS = [ETL_POINTS[first::3] for first in range(3)]

Rows = list[tuple[Any, ...]]


@pytest.fixture
def settings(base_settings: Settings, postgres_server: postgres.Server, tmp_path: Path) -> Settings:
    """An empty shop, an empty warehouse and no lake yet."""
    return settings_for(base_settings, postgres_server, tmp_path / "lake")


class Crash(Exception):
    pass


def run_until(settings: Settings, point: str, *steps: str) -> None:
    """Run, and end at this point as if killed there."""

    def end(reached: str) -> None:
        if reached == point:
            raise Crash(point)

    with pytest.raises(Crash, match=point), watched(end):
        etl.run(settings, steps=steps or etl.STEPS)


def in_lake(spark: SparkSession, settings: Settings, table: str, *columns: str) -> Rows:
    """The table's rows, of these columns, sorted."""
    found = spark.read.format("delta").load(table_path(settings.lake.root, table))
    return [tuple(row.values()) for row in rows_of(found.select(*(columns or found.columns)))]


def in_warehouse(settings: Settings, table: str) -> Rows:
    return sorted(rows(settings.postgres.warehouse_url, f"SELECT * FROM {table}"), key=by_text)


def in_source(settings: Settings, table: str) -> Rows:
    """The table's good rows, sorted: in these tests those in which nothing required is null."""
    schema = SCHEMAS[table]
    required = " AND ".join(f"{field.name} IS NOT NULL" for field in schema.fields if not field.nullable)
    query = f"SELECT {', '.join(schema.names)} FROM {table} WHERE {required}"
    return sorted(rows(settings.postgres.source_url, query), key=by_text)


def by_text(row: tuple[Any, ...]) -> list[tuple[bool, str]]:
    return [(value is not None, str(value)) for value in row]


def expected_facts(settings: Settings) -> Rows:
    """What the facts must be, computed from the source without any of the code under test."""
    customers = {row[0]: row for row in in_source(settings, "customers")}
    facts = []
    for order_id, customer_id, _, total, cost, status, created_at, _ in in_source(settings, "orders"):
        margin = None
        if total:
            margin = ((total - cost) / total).quantize(Decimal("0.0001"), ROUND_HALF_UP)
        segment, region = customers[customer_id][3:5] if customer_id in customers else (None, None)
        day = created_at.astimezone(timezone.utc).date()
        facts.append(
            (order_id, customer_id, total, cost, status, created_at, day, day.replace(day=1), segment, region, margin)
        )  # fmt: skip
    return sorted(facts, key=by_text)


def check_tables(spark: SparkSession, settings: Settings, *, dead: set[tuple[str, str | None]]) -> None:
    """Raw tables and facts are what the source says, in lake and warehouse alike, and `dead` (table, key) are listed once."""
    for table in SCHEMAS:
        assert in_lake(spark, settings, f"raw_{table}") == in_source(settings, table)
    facts = expected_facts(settings)
    assert in_lake(spark, settings, "fact_orders") == facts
    assert in_warehouse(settings, "fact_orders") == facts
    letters = in_lake(spark, settings, ETL_DEAD_LETTERS, "table", "key", "row", "reason")
    assert len(letters) == len(set(letters))
    assert {(table, key) for table, key, _, _ in letters} == dead
    months: dict[date, list[tuple[Any, ...]]] = {}
    for fact in facts:
        months.setdefault(fact[7], []).append(fact)
    assert in_warehouse(settings, "mv_monthly_orders") == [
        (month, len(own), sum(fact[2] for fact in own), len({fact[1] for fact in own}))
        for month, own in sorted(months.items())
    ]


def test_a_run_and_what_changes_after_it(spark: SparkSession, settings: Settings) -> None:
    source = settings.postgres.source_url
    with psycopg.connect(source) as connection:
        insert(connection, "customers", customer("c1"), customer("c2", segment=None, region="east"))
        insert(connection, "products", product("p1"), product("p2", price=None))
        insert(
            connection,
            "orders",
            order("o1", total="3.00", cost="1.00"),
            order("o2", customer_id="c2", total="0.00"),
            order("o3", customer_id="nobody", created_at=datetime(2025, 12, 31, 23, 59, tzinfo=timezone.utc)),
            order("o4", total=None),
            order(None),
        )
    etl.run(settings)
    dead = {("orders", "o4"), ("orders", None)}
    check_tables(spark, settings, dead=dead)
    (letter,) = (one for one in in_lake(spark, settings, ETL_DEAD_LETTERS) if one[2] == "o4")
    assert (letter[0], letter[1], letter[4]) == (1, "orders", "total: null")
    assert json.loads(letter[3]) == {
        "order_id": "o4", "customer_id": "c1", "product_id": "p1", "total": None, "cost": "4.00", "status": "completed",
        "created_at": "2026-01-01 12:00:00+00", "updated_at": "2026-01-01 12:00:00+00",
    }  # fmt: skip

    kept = ["raw_orders", "raw_customers", "raw_products", "fact_orders", ETL_DEAD_LETTERS]
    versions = [newest_version(spark, table_path(settings.lake.root, table)) for table in kept]
    etl.run(settings)
    check_tables(spark, settings, dead=dead)
    assert [newest_version(spark, table_path(settings.lake.root, table)) for table in kept] == versions

    with psycopg.connect(source) as connection:
        insert(connection, "orders", order("o5", updated_at=at(-60 * 24 * 365)))
        insert(connection, "customers", customer("nobody", segment="public"))
        connection.execute("UPDATE customers SET region = 'west' WHERE customer_id = 'c1'")
        connection.execute("UPDATE orders SET total = 7 WHERE order_id = 'o4'")
    etl.run(settings)
    check_tables(spark, settings, dead=dead)

    shutil.rmtree(settings.lake.root)
    etl.run(settings)
    check_tables(spark, settings, dead={("orders", None)})  # o4 is good by now
    assert [run for (run,) in rows(settings.postgres.warehouse_url, "SELECT run FROM etl_runs ORDER BY 1")] == [
        1, 2, 3, 4,
    ]  # fmt: skip


@pytest.fixture(scope="module")
def busy_shop(
    base_settings: Settings, postgres_server: postgres.Server, tmp_path_factory: pytest.TempPathFactory
) -> Settings:
    """A shop that has been extracted once; each crash finds it as the one before has left it, and adds to it."""
    settings = settings_for(base_settings, postgres_server, tmp_path_factory.mktemp("crashes") / "lake")
    with psycopg.connect(settings.postgres.source_url) as connection:
        insert(connection, "customers", customer("c1"))
        insert(connection, "products", product("p1"))
        insert(connection, "orders", order("o1"))
    etl.run(settings)
    return settings


def make_changes(settings: Settings, number: int) -> None:
    """Something new for each of the steps to do."""
    with psycopg.connect(settings.postgres.source_url) as connection:
        insert(connection, "orders", order(f"o-{number}", updated_at=at(60 * number)))
        insert(connection, "orders", order(f"dead-{number}", cost=None, updated_at=at(60 * number)))
        insert(connection, "products", product(f"p-{number}", updated_at=at(60 * number)))
        connection.execute("UPDATE orders SET total = total + 1 WHERE order_id = 'o1'")
        connection.execute("UPDATE customers SET region = %s", [f"region {number}"])


def dead_in(settings: Settings) -> set[tuple[str, str | None]]:
    """What must be dead after all changes that were made."""
    found = rows(settings.postgres.source_url, "SELECT order_id FROM orders WHERE cost IS NULL")
    return {("orders", order_id) for (order_id,) in found}


@pytest.mark.parametrize("points", CHAINS, ids=", then ".join)
def test_runs_that_are_killed_one_after_the_other_give_the_same_tables(
    spark: SparkSession, busy_shop: Settings, points: list[str]
) -> None:
    """Each run finds what the kill before has left, and new changes; only the last one comes to its end."""
    changes = len(dead_in(busy_shop))
    for number, point in enumerate(points, start=changes):
        make_changes(busy_shop, number)
        run_until(busy_shop, point)
    etl.run(busy_shop)
    check_tables(spark, busy_shop, dead=dead_in(busy_shop))


def test_each_step_can_be_killed_and_tried_again_alone(spark: SparkSession, busy_shop: Settings) -> None:
    make_changes(busy_shop, len(dead_in(busy_shop)))
    for step, points in {
        etl.extract: ["etl: extracted"],
        etl.transform: ["etl: merged orders", "etl: dead letters", "etl: transformed"],
        etl.load: ["etl: facts in the lake", "etl: upserted", "etl: loaded"],
        etl.analyze: ["etl: analyzed"],
    }.items():
        for point in points:
            run_until(busy_shop, point, step.__name__)
        step(busy_shop)
        step(busy_shop)
    check_tables(spark, busy_shop, dead=dead_in(busy_shop))

    runs = "SELECT count(*) FROM etl_runs"
    before = rows(busy_shop.postgres.warehouse_url, runs)
    etl.extract(busy_shop)
    with pytest.raises(RefusedToStart, match="transform"):
        etl.load(busy_shop)
    assert rows(busy_shop.postgres.warehouse_url, runs) == before


def test_without_an_extract_there_is_nothing_to_do(spark: SparkSession, settings: Settings) -> None:
    for step in (etl.transform, etl.load):
        with pytest.raises(RefusedToStart, match="extract"):
            step(settings)


def test_fifty_transactions_open_for_longer_than_the_overlap_and_two_runs(
    spark: SparkSession, settings: Settings
) -> None:
    """Each of another shape; half of them are committed after two runs, the others after three."""
    source = settings.postgres.source_url
    with psycopg.connect(source) as connection:
        insert(connection, "customers", customer("c1"))
        insert(connection, "orders", *(order(f"old-{number}") for number in range(50)))
    with ExitStack() as stack:
        waiting = [stack.enter_context(psycopg.connect(source)) for _ in range(50)]
        for number, connection in enumerate(waiting):
            connection.execute("SELECT 1")  # so that what follows are savepoints of one transaction
            new = order(f"new-{number}", updated_at=at(number) if number % 3 else at(-100_000 - number))
            if number % 2:
                insert(connection, "orders", new)
            else:
                with connection.transaction():
                    insert(connection, "orders", new)
            if number % 5 == 0:
                connection.execute("UPDATE orders SET total = 99 WHERE order_id = %s", [f"old-{number}"])
        for hour in (10, 20):
            with psycopg.connect(source) as connection:
                insert(connection, "orders", order(f"hour-{hour}", updated_at=at(60 * hour)))
            etl.run(settings)
        assert len(in_warehouse(settings, "fact_orders")) == 52
        for connection in waiting[::2]:
            connection.commit()
        with psycopg.connect(source) as connection:
            insert(connection, "orders", order("hour-30", updated_at=at(60 * 30)))
        etl.run(settings)
        for connection in waiting[1::2]:
            connection.commit()
    etl.run(settings)
    assert len(in_warehouse(settings, "fact_orders")) == 103
    check_tables(spark, settings, dead=set())


PARTITIONED = """
CREATE SCHEMA parted;
CREATE TABLE parted.orders (LIKE public.orders, PRIMARY KEY (order_id, created_at)) PARTITION BY RANGE (created_at);
CREATE TABLE parted.old PARTITION OF parted.orders FOR VALUES FROM (MINVALUE) TO ('2026-01-01');
CREATE TABLE parted.new PARTITION OF parted.orders FOR VALUES FROM ('2026-01-01') TO (MAXVALUE);
CREATE TABLE parted.customers (LIKE public.customers);
CREATE TABLE parted.products (LIKE public.products);
INSERT INTO parted.customers (customer_id, region, updated_at) VALUES
    ('c1', 'east', '2026-01-01'), ('c1', 'west', '2026-01-02');
INSERT INTO parted.orders VALUES
    ('o1', 'c1', 'p1', 10, 4, 'completed', '2025-12-31', '2025-12-31'),
    ('o1', 'c1', 'p1', 20, 4, 'completed', '2026-01-02', '2026-01-02'),
    ('tie', 'c1', 'p1', 10, 4, 'completed', '2025-12-31', '2026-01-02'),
    ('tie', 'c1', 'p1', 20, 4, 'completed', '2026-01-02', '2026-01-02');
"""


def test_of_two_rows_with_one_key_the_later_counts_over_runs(spark: SparkSession, settings: Settings) -> None:
    settings = replace(settings, postgres=replace(settings.postgres, source_schema="parted"))
    source = settings.postgres.source_url
    execute(source, PARTITIONED)

    def check(total: int, *, letters: int) -> None:
        found = {fact[0]: (fact[2], fact[9]) for fact in in_warehouse(settings, "fact_orders")}
        assert found == {"o1": (total, "west"), "tie": (20, "west")}
        assert dict(in_lake(spark, settings, "fact_orders", "order_id", "total")) == {"o1": total, "tie": 20}
        assert len(in_lake(spark, settings, ETL_DEAD_LETTERS)) == letters

    etl.run(settings)
    check(20, letters=3)
    etl.run(settings)
    check(20, letters=3)
    execute(
        source,
        "UPDATE parted.old SET status = status",
        "UPDATE parted.customers SET region = region WHERE region = 'east'",
    )
    etl.run(settings)
    check(20, letters=3)
    execute(
        source,
        "DELETE FROM parted.new WHERE order_id = 'o1'",
        "UPDATE parted.old SET total = 5 WHERE order_id = 'o1'",
    )
    etl.run(settings)
    check(20, letters=4)
    execute(source, "UPDATE parted.old SET updated_at = '2026-01-03' WHERE order_id = 'o1'")
    etl.run(settings)
    check(5, letters=4)


def test_times_at_the_ends_of_what_postgres_holds(spark: SparkSession, settings: Settings) -> None:
    held = ["0001-01-01 00:00:00+00", "9999-12-31 23:59:59.999999+00"]
    dead = ["infinity", "-infinity", "0044-03-15 00:00:00+00 BC", "10000-01-01 00:00:00+00"]
    with psycopg.connect(settings.postgres.source_url) as connection:
        for time in held + dead:
            insert(connection, "orders", order(f"made {time}", created_at=time, updated_at=held[0]))
            insert(connection, "customers", customer(f"changed {time}", updated_at=time))
    for _ in range(2):
        etl.run(settings)
    facts = rows(
        settings.postgres.warehouse_url, "SELECT order_id, created_at::text FROM fact_orders ORDER BY 1"
    )
    assert facts == [(f"made {time}", time) for time in held]
    found = spark.read.format("delta").load(table_path(settings.lake.root, "fact_orders"))
    years = found.selectExpr("order_id", "year(created_at)", "year(order_date)").collect()
    assert sorted(tuple(row) for row in years) == [(f"made {held[0]}", 1, 1), (f"made {held[1]}", 9999, 9999)]
    keys = {key for (key,) in in_lake(spark, settings, ETL_DEAD_LETTERS, "key")}
    assert keys == {f"{what} {time}" for what in ("made", "changed") for time in dead}


def test_a_fact_that_the_warehouse_refuses_is_a_dead_letter_and_the_others_are_loaded(
    spark: SparkSession, settings: Settings
) -> None:
    with psycopg.connect(settings.postgres.source_url) as connection:
        insert(connection, "orders", *(order(f"o{number}", total=number) for number in range(1, 8)))
        insert(connection, "orders", order("large", total="12345.67"))
    with warehouse.opened(settings.postgres.warehouse_url):
        pass
    execute(
        settings.postgres.warehouse_url,
        "ALTER TABLE fact_orders ALTER total TYPE numeric(6, 2), ADD CONSTRAINT no_five CHECK (total <> 5)",
    )
    etl.run(settings)
    good = ["o1", "o2", "o3", "o4", "o6", "o7"]
    assert [fact[0] for fact in in_warehouse(settings, "fact_orders")] == good
    assert [key for (key,) in in_lake(spark, settings, "fact_orders", "order_id")] == good
    letters = in_lake(spark, settings, ETL_DEAD_LETTERS, "table", "key", "reason")
    assert [letter[:2] for letter in letters] == [("fact_orders", "large"), ("fact_orders", "o5")]
    assert "numeric field overflow" in letters[0][2]
    assert "no_five" in letters[1][2]


def test_what_the_warehouse_refuses_is_told_before_the_lake_has_the_facts(
    spark: SparkSession, settings: Settings
) -> None:
    with psycopg.connect(settings.postgres.source_url) as connection:
        insert(connection, "orders", order("o1"))
    with warehouse.opened(settings.postgres.warehouse_url):
        pass
    execute(settings.postgres.warehouse_url, "ALTER TABLE fact_orders RENAME COLUMN region TO place")
    with pytest.raises(PostgresRefused, match="region") as raised:
        etl.run(settings)
    assert raised.value.sqlstate == "42703"
    assert in_lake(spark, settings, "fact_orders") == []


ODD_SCHEMA = "x'; DROP TABLE orders; --"


def test_a_source_of_other_types_and_odd_names(spark: SparkSession, settings: Settings) -> None:
    settings = replace(settings, postgres=replace(settings.postgres, source_schema=ODD_SCHEMA))
    odd = f'"{ODD_SCHEMA}"'
    execute(
        settings.postgres.source_url,
        f"CREATE SCHEMA {odd}",
        f"CREATE TYPE {odd}.status AS ENUM ('completed', '''; DROP TABLE fact_orders; --')",
        f"CREATE TABLE {odd}.orders (order_id bigint, customer_id uuid, product_id integer, total text, cost double precision, "
        f"status {odd}.status, created_at timestamp, updated_at text, extra point, xml_too xml)",
        f"CREATE TABLE {odd}.customers (LIKE public.customers)",
        f"CREATE TABLE {odd}.products (LIKE public.products)",
        f"""INSERT INTO {odd}.orders VALUES
            (1, '00000000-0000-0000-0000-000000000001', 7, '12.50', 0.1, 'completed', '2026-01-01 12:00', '2026-01-01'),
            (2, '00000000-0000-0000-0000-000000000001', 7, 'a lot', 0.1, 'completed', '2026-01-01 12:00', '2026-01-01'),
            (3, '00000000-0000-0000-0000-000000000001', 7, '1', 0.001, 'completed', 'infinity', '2026-01-01'),
            (4, '00000000-0000-0000-0000-000000000001', 7, '1', 1, '''; DROP TABLE fact_orders; --',
             '2026-01-01 12:00', ''' OR 1 = 1; --')""",
    )
    etl.run(settings)
    ((order_id, _, total, cost, status, created_at, *_),) = in_warehouse(settings, "fact_orders")
    assert (order_id, total, cost) == ("1", Decimal("12.50"), Decimal("0.10"))
    assert (status, created_at) == ("completed", NOON)
    reasons = dict(in_lake(spark, settings, ETL_DEAD_LETTERS, "key", "reason"))
    assert reasons == {
        "2": "total: not decimal(12,2)",
        "3": "cost: not decimal(12,2); created_at: not timestamp",
        "4": "updated_at: not timestamp",
    }
    execute(
        settings.postgres.source_url, f"UPDATE {odd}.orders SET updated_at = '2026-01-02' WHERE order_id = 4"
    )
    etl.run(settings)
    facts = in_warehouse(settings, "fact_orders")
    assert [(fact[0], fact[4]) for fact in facts] == [
        ("1", "completed"),
        ("4", "'; DROP TABLE fact_orders; --"),
    ]
    assert rows(settings.postgres.source_url, "SELECT count(*) FROM public.orders") == [(0,)]


def orders_read_by_spark(spark: SparkSession, source: postgres_source.Source) -> DataFrame:
    return postgres_source.rows_as_json(
        spark,
        source,
        "orders",
        columns=["order_id"],
        where=postgres_source.changed(source, "orders", key="order_id", by="updated_at", since=None),
        connections=2,
    )


MANY = "INSERT INTO orders (order_id, status) SELECT '{}' || number, repeat('x', 500) FROM generate_series(1, 20000) number"


def test_all_of_spark_s_connections_read_one_snapshot(spark: SparkSession, settings: Settings) -> None:
    url = settings.postgres.source_url
    execute(url, MANY.format("a"), "UPDATE orders SET total = 1 WHERE random() < 0.1")
    with postgres_source.opened(url, schema="public", tables=["orders"]) as source:
        execute(url, MANY.format("b"), "UPDATE orders SET total = 2 WHERE random() < 0.5", "VACUUM orders")
        orders = orders_read_by_spark(spark, source)
        assert orders.rdd.getNumPartitions() == 2
        found = [json.loads(row.row)["order_id"] for row in orders.collect()]
        assert sorted(found) == sorted(f"a{number}" for number in range(1, 20_001))


def test_a_source_that_goes_away_while_spark_reads_is_unreachable(
    spark: SparkSession, settings: Settings
) -> None:
    url = settings.postgres.source_url

    def lose_source() -> None:
        with postgres_source.opened(url, schema="public", tables=["orders"]) as source:
            orders = orders_read_by_spark(spark, source)
            execute(url, f"SELECT pg_terminate_backend({source.connection.info.backend_pid})")
            with postgres_source.reaching(source):
                orders.collect()

    with pytest.raises(PostgresUnreachable, match="snapshot"):
        lose_source()


@pytest.mark.parametrize("table", [*SCHEMAS])
def test_a_missing_column_is_named_before_anything_is_done(settings: Settings, table: str) -> None:
    column = SCHEMAS[table].names[-2]
    execute(settings.postgres.source_url, f"ALTER TABLE {table} DROP COLUMN {column}")
    with pytest.raises(SourceMismatch) as raised:
        etl.run(settings)
    assert (raised.value.table, raised.value.columns) == (table, (column,))
    assert column in raised.value.message
    assert not Path(settings.lake.root).exists()
    assert rows(settings.postgres.warehouse_url, "SELECT count(*) FROM etl_runs") == [(0,)]


def test_one_at_a_time(settings: Settings) -> None:
    with warehouse.opened(settings.postgres.warehouse_url), pytest.raises(AlreadyRunning) as raised:
        etl.run(settings)
    assert raised.value.query == "etl_orders"


@pytest.mark.parametrize("key", ["postgres.source_url", "postgres.warehouse_url"])
def test_what_is_not_reachable_is_named_without_its_password(
    postgres_server: postgres.Server,
    key: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    source, target = databases(postgres_server)
    given = {
        "postgres.source_url": source,
        "postgres.warehouse_url": target,
        key: "postgresql://me:${env:HUNTER}@127.0.0.1:1/x",
    }
    monkeypatch.setenv("HUNTER", "hunter2")
    words = [word for name, url in given.items() for word in ("--set", f"{name}={url}")]
    assert cli.main(["etl-orders", "--debug", *words]) == 3
    told = capsys.readouterr()
    assert "127.0.0.1:1/x" in told.err
    assert "hunter2" not in told.err + told.out


def test_the_warehouse_has_the_columns_of_the_facts(settings: Settings) -> None:
    with warehouse.opened(settings.postgres.warehouse_url):
        pass
    columns = rows(
        settings.postgres.warehouse_url,
        "SELECT attname FROM pg_attribute WHERE attrelid = 'fact_orders'::regclass AND attnum > 0 ORDER BY attnum",
    )
    assert [name for (name,) in columns] == FACT_ORDERS.names


def test_a_step_that_loses_against_other_transactions_is_done_anew_three_times(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    tries = []

    def lose(*_: object) -> None:
        tries.append(1)
        raise psycopg.errors.DeadlockDetected

    monkeypatch.setitem(etl._STEPS, "load", lose)  # type: ignore[arg-type]
    with pytest.raises(PostgresRefused) as raised:
        etl.run(settings, steps=["load"])
    assert (len(tries), raised.value.sqlstate) == (3, "40P01")
