"""The benchmarks' events and their answers, as the independent reading of contract and views has them."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

import duckdb
import pytest

from reference import VIEWS, Record, accepted_log, classify

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

from events import made

EVENTS = 20_000


@pytest.fixture(scope="module")
def database() -> duckdb.DuckDBPyConnection:
    return made(events=EVENTS, seed=3, hours=6)


@pytest.fixture(scope="module")
def records(database: duckdb.DuckDBPyConnection) -> list[Record]:
    """As Kafka would have them: an offset counts within its partition, in the order of sending."""
    found = []
    for topic, table in (("orders", "order_records"), ("products", "product_records")):
        places = Counter[int]()
        rows = database.execute(f"SELECT partition, arrival_ms, key, value FROM {table} ORDER BY number")
        for partition, arrival_ms, key, value in rows.fetchall():
            found.append(
                Record(topic, partition, places[partition], arrival_ms, key.encode(), value.encode())
            )
            places[partition] += 1
    return found


def test_events_are_spoiled_as_they_say(database: duckdb.DuckDBPyConnection, records: list[Record]) -> None:
    [(malformed,)] = database.execute("SELECT count(*) FROM orders WHERE said.malformed > 0").fetchall()
    fates = Counter(classify(record, "orders").fate for record in records if record.topic == "orders")
    assert malformed > 0
    assert fates == {"accepted": EVENTS + 4 - malformed, "dead": malformed}


def test_spend_is_that_of_the_view(database: duckdb.DuckDBPyConnection, records: list[Record]) -> None:
    found = database.execute(
        "SELECT customer_id, window_start, hourly_spend, order_count FROM hourly_spend ORDER BY ALL"
    ).fetchall()
    wanted = [
        (
            row["customer_id"],
            row["window_start"].replace(tzinfo=None),
            row["hourly_spend"],
            row["order_count"],
        )
        for row in VIEWS["customer_hourly_spend"](accepted_log(records), None)
        if not row["customer_id"].startswith("closing")
    ]
    assert found == sorted(wanted)


def test_what_is_sure_is_what_came_in_time(database: duckdb.DuckDBPyConnection) -> None:
    [(late, least, most)] = database.execute(
        "SELECT (SELECT count(*) FROM created WHERE is_too_late), sum(sure_count), sum(order_count) FROM hourly_spend"
    ).fetchall()
    assert late > 0
    assert most - least == late


def test_lines_have_the_version_that_the_view_gives_them(
    database: duckdb.DuckDBPyConnection, records: list[Record]
) -> None:
    found = database.execute(
        "SELECT order_id, product_id, name, cost FROM enriched_lines ORDER BY ALL"
    ).fetchall()
    wanted = [
        (row["order_id"], row["product_id"], row["name"], row["cost"])
        for row in VIEWS["enriched_orders"](accepted_log(records), None)
        if not row["order_id"].startswith("closing")
    ]
    assert found == sorted(wanted, key=lambda row: row[:2])
