"""Times that Python's datetime cannot hold: each reader of a table gives them, and the rows beside them."""

from __future__ import annotations

import json
import threading
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from confluent_kafka import Producer
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from lake import at, fresh, order, send
from pipeline import batch, cli, ingest, speed
from pipeline.events import consume
from pipeline.instants import microseconds, of_microseconds
from pipeline.local_lake import DuckDb
from pipeline.reading import LocalTables, SparkTables
from pipeline.report.page import make
from pipeline.served import Table
from pipeline.settings import Settings
from pipeline.sinks import session_options

INT96 = {"spark.sql.parquet.outputTimestampType": "INT96"}
MICROS = [
    -100_000_000_000_000_000,
    -62_135_596_800_000_001,
    -62_135_596_800_000_000,
    -1,
    0,
    1_767_225_600_000_000,
    253_402_300_799_999_999,
    253_402_300_800_000_000,
    1_767_225_600_000_000_000,
]
"""Years -1199, 0, 1, 1969, 1970, 2026, 9999, 10000, 57971."""


@pytest.fixture(scope="module", params=["ours", "of an earlier lake", "both"])
def table(
    request: pytest.FixtureRequest, spark: SparkSession, tmp_path_factory: pytest.TempPathFactory
) -> str:
    """The times as `moment`, in the form of our files, of an earlier lake's, or every other one of each."""
    path = str(tmp_path_factory.mktemp("times") / "table")
    rows = spark.createDataFrame([(micros,) for micros in MICROS], "micros long")
    times = rows.select("micros", F.timestamp_micros("micros").alias("moment")).coalesce(1)
    is_even = F.col("micros") % 2 == 0
    parts: dict[str, list[tuple[Any, dict[str, str]]]] = {
        "ours": [(F.lit(True), {})],
        "of an earlier lake": [(F.lit(True), INT96)],
        "both": [(is_even, {}), (~is_even, INT96)],
    }
    for condition, options in parts[request.param]:
        with session_options(spark, options):
            times.where(condition).write.format("delta").mode("append").save(path)
    return path


def test_spark_gives_them(spark: SparkSession, table: str) -> None:
    rows = spark.read.format("delta").load(table).orderBy("micros")
    nested = rows.select(
        "micros", "moment", F.struct("moment").alias("inside"), F.array("moment").alias("list")
    )
    for row in [*nested.collect(), *nested.toLocalIterator()]:
        assert [microseconds(time) for time in (row["moment"], row["inside"]["moment"], *row["list"])] == [
            row["micros"]
        ] * 3
        assert row["moment"].tzinfo is None
    of_sql = SparkTables(spark)
    relation = of_sql.relation(table)
    assert [*of_sql.rows(f"SELECT moment FROM {relation} ORDER BY moment")] == [
        (of_microseconds(one),) for one in MICROS
    ]
    newest = of_sql.newest(table, "moment")
    assert newest is not None
    assert microseconds(newest) == MICROS[-1]


def test_delta_rs_gives_them(table: str) -> None:
    tables = LocalTables()
    relation = tables.relation(table)
    found = [*tables.rows(f"SELECT micros, moment FROM {relation} ORDER BY moment")]
    assert [(micros, microseconds(at)) for micros, at in found] == [(one, one) for one in MICROS]
    later = tables.rows(
        f"SELECT micros FROM {relation} WHERE moment >= TIMESTAMP '2100-01-01 00:00:00' ORDER BY moment"
    )
    assert [one for (one,) in later] == MICROS[6:]


def test_duckdb_gives_them(spark: SparkSession, table: str) -> None:
    version = spark.sql(f"DESCRIBE HISTORY delta.`{table}`").agg(F.max("version")).collect()[0][0]
    lake = DuckDb()
    relation = lake.relation(Table(table, version)).name
    found = [*lake.rows(f"SELECT micros, moment FROM {relation} ORDER BY moment")]
    assert [(micros, microseconds(at)) for micros, at in found] == [(one, one) for one in MICROS]
    assert {at.tzinfo for _, at in found} == {None}
    earlier = lake.rows(
        f"SELECT micros FROM {relation} WHERE moment < TIMESTAMP '2026-01-01 00:00:00' ORDER BY moment"
    )
    assert [one for (one,) in earlier] == MICROS[:5]


def test_ours_count_microseconds(spark: SparkSession, tmp_path: Path) -> None:
    """By which statistics, too, say what a file holds."""
    spark.range(1).coalesce(1).select(F.timestamp_micros("id").alias("moment")).write.format("delta").save(
        str(tmp_path / "t")
    )
    (file,) = (tmp_path / "t").glob("*.parquet")
    (column,) = pq.read_schema(file)
    assert str(pq.ParquetFile(file).schema.column(0).physical_type) == "INT64"
    assert str(column.type) == "timestamp[us, tz=UTC]"


MICROS_OF_KAFKA = 1_767_225_600_000_000
"""Where milliseconds are meant: the year 57971."""


@pytest.fixture(scope="module")
def odd(
    spark: SparkSession, base_settings: Settings, bootstrap: str, tmp_path_factory: pytest.TempPathFactory
) -> Settings:
    """A lake with what producers of odd clocks have sent, and good orders of other hours: ingested, and streamed."""
    here = fresh(base_settings, bootstrap, tmp_path_factory.mktemp("odd") / "lake")
    send(here, [order(f"o{number}", time=at(7 * number)) for number in range(4)])
    last_day = datetime(9999, 12, 31, 23, 59, 59, 999_999, tzinfo=timezone.utc)
    odd = [
        order("far", time=last_day, customer_id="c-far").value,
        order("farther", time=last_day, customer_id="c-far").value.replace(b"+00:00", b"-12:00"),  # type: ignore[union-attr]
        order("none", time=datetime(1, 1, 1, tzinfo=timezone.utc)).value,
        b"no json",
    ]
    producer = Producer({"bootstrap.servers": here.kafka.bootstrap_servers})
    for value in odd:
        producer.produce(here.kafka.topics.orders, value, "k", 1, timestamp=MICROS_OF_KAFKA)
    assert producer.flush(30) == 0
    ingest.run(here, once=True)
    speed.run(here, views=["customer_hourly_spend", "order_outcomes"], once=True)
    batch.run(here, views=["customer_hourly_spend"])
    return here


def run(here: Settings, *words: str) -> int:
    topics = here.kafka.topics
    values = {
        "lake.root": here.lake.root,
        "kafka.bootstrap_servers": here.kafka.bootstrap_servers,
        "kafka.topics.orders": topics.orders,
        "kafka.topics.products": topics.products,
        "kafka.topics.text_lines": topics.text_lines,
    }
    sets = [word for key, value in values.items() for word in ("--set", f"{key}={value}")]
    return cli.main([*words, "--env", "test", *sets])


@pytest.mark.kafka
def test_every_command_shows_a_log_of_odd_clocks(odd: Settings, capsys: pytest.CaptureFixture[str]) -> None:
    topic = odd.kafka.topics.orders
    assert run(odd, "dead-letters", "list", "--each", "--format", "json") == 0
    letters = {one["offset"]: one for one in map(json.loads, capsys.readouterr().out.splitlines())}
    assert {offset: one["violations"] for offset, one in letters.items()} == {
        1: ["timestamp"], 2: ["timestamp"], 3: ["not_json"],
    }  # fmt: skip
    assert {one["kafka_timestamp"] for one in letters.values()} == {"+57971-02-25T00:00:00Z"}
    assert run(odd, "dead-letters", "list", "--format", "json") == 0
    assert "+57971-02-25T00:00:00Z" in capsys.readouterr().out
    assert run(odd, "dead-letters", "show", f"{topic}:1:3") == 0
    assert "+57971-02-25T00:00:00Z" in capsys.readouterr().out
    assert run(odd, "query", "customer_hourly_spend", "--format", "json") == 0
    rows = [*map(json.loads, capsys.readouterr().out.splitlines())]
    ends = {row["window_end"] for row in rows}
    assert ends == {"2026-01-01T13:00:00Z", "+10000-01-01T00:00:00Z"}
    for words in (
        ["status"],
        ["status", "--format", "json"],
        ["plan"],
        ["late"],
        ["report"],
        ["audit"],
        ["reconcile", "customer_hourly_spend"],
    ):
        assert run(odd, *words) == 0, words
    assert "9999-12-31T23:59:59" in capsys.readouterr().out


@pytest.mark.kafka
def test_the_page_shows_a_log_of_odd_clocks(odd: Settings) -> None:
    page = make(odd).html
    assert "4 records ahead of the clock" in page
    assert "lies ahead of the clock: 1 window" in page


@pytest.mark.kafka
def test_a_consumer_goes_past_odd_clocks(odd: Settings) -> None:
    stop, met = threading.Event(), list[str]()

    def hear(what: str) -> None:
        met.append(what)
        if len(met) == 8:
            stop.set()

    consume(
        odd.kafka.bootstrap_servers,
        odd.kafka.topics.orders,
        group=odd.kafka.topics.orders,
        on_created=lambda event: hear(event.order_id),
        on_cancelled=lambda _: None,
        on_rejected=lambda _, violations: hear(violations[0]),
        stop=stop,
    )
    assert sorted(met) == ["far", "not_json", "o0", "o1", "o2", "o3", "timestamp", "timestamp"]
