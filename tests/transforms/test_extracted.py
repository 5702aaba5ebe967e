"""Rows of texts: typed, or a dead letter with its reason; what may not be rounded or guessed is not."""

from __future__ import annotations

import json
from datetime import datetime
from decimal import Decimal
from typing import Any

import pytest
from pyspark.sql import SparkSession

from pipeline.tables import ETL_DEAD_LETTERS, RAW_CUSTOMERS, RAW_ORDERS, SCHEMAS, STAGED_ROWS
from pipeline.transforms.extracted import accepted, dead_letters, judged

TEXTS: dict[str, str | None] = {
    "order_id": "o1",
    "customer_id": "c1",
    "product_id": "p1",
    "total": "10.00",
    "cost": "4",
    "status": "completed",
    "created_at": "2026-01-01 12:00:00+00",
    "updated_at": "2026-01-01 12:00:00.123456+00",
}

Outcome = tuple[list[dict[str, Any]], list[tuple[Any, ...]]]


def outcome(spark: SparkSession, *texts: dict[str, str | None]) -> Outcome:
    """The accepted orders, and (key, reason) of the dead ones."""
    rows = spark.createDataFrame([("orders", json.dumps(one)) for one in texts], SCHEMAS[STAGED_ROWS])
    found = judged(rows, table="orders", stored=spark.createDataFrame([], SCHEMAS[RAW_ORDERS]))
    letters = dead_letters(found, run=7)
    assert letters.schema.names == SCHEMAS[ETL_DEAD_LETTERS].names
    taken = accepted(found, table="orders")
    assert taken.schema.simpleString() == SCHEMAS[RAW_ORDERS].simpleString()
    dead = sorted((row.key or "", row.reason) for row in letters.collect())
    return [row.asDict() for row in taken.collect()], dead


def test_texts_become_exact_values(spark: SparkSession) -> None:
    taken, dead = outcome(spark, TEXTS)
    assert dead == []
    assert taken == [
        {
            "order_id": "o1",
            "customer_id": "c1",
            "product_id": "p1",
            "total": Decimal("10.00"),
            "cost": Decimal("4.00"),
            "status": "completed",
            "created_at": datetime(2026, 1, 1, 12),  # noqa: DTZ001
            "updated_at": datetime(2026, 1, 1, 12, 0, 0, 123456),  # noqa: DTZ001
        }
    ]


def test_every_form_of_a_value_in_one_pass(spark: SparkSession) -> None:
    """One query for all of them: each order's id says what its total, or its time, is."""
    money = {
        "1.500": Decimal("1.50"), "-0.5": Decimal("-0.50"), "+5": Decimal("5.00"), "007": Decimal("7.00"),
        "9999999999.99": Decimal("9999999999.99"),
        "10000000000": None, "12.345": None, "0.001": None, " 1.5": None, "1.5 ": None, "1,50": None, "$1.00": None,
        "1e2": None, "NaN": None, "Infinity": None, "٣": None, ".5": None, "": None, "abc": None, "1.0\n": None,
    }  # fmt: skip
    noon = datetime(2026, 1, 1, 12)  # noqa: DTZ001
    times = {
        "2026-01-01 12:00:00+00": noon, "2026-01-01 12:00:00": noon, "2026-01-01T12:00:00Z": noon,
        "2026-01-01 13:30:00+01:30": noon, "2026-01-01": datetime(2026, 1, 1),  # noqa: DTZ001
        "infinity": None, "2026-02-30 12:00:00+00": None, "T12:00:00Z": None, "12:00:00": None, "now": None,
        "2026-01-01 12:00:00 Europe/Paris": None, "1767225600": None, "0044-03-15 12:00:00+00 BC": None, "": None,
        "0001-01-01 00:00:00+01": None, "9999-12-31 23:59:59-01": None,
    }  # fmt: skip
    rows = [{**TEXTS, "order_id": f"m{text}", "total": text} for text in money]
    rows += [{**TEXTS, "order_id": f"t{text}", "created_at": text} for text in times]
    taken, dead = outcome(spark, *rows)
    by_id = {row["order_id"]: row for row in taken}
    assert {text: by_id.get(f"m{text}", {}).get("total") for text in money} == money
    assert {text: by_id.get(f"t{text}", {}).get("created_at") for text in times} == times
    assert dict(dead) == {
        **{f"m{text}": "total: not decimal(12,2)" for text, value in money.items() if value is None},
        **{f"t{text}": "created_at: not timestamp" for text, value in times.items() if value is None},
    }


def test_all_faults_of_a_row_are_told(spark: SparkSession) -> None:
    taken, dead = outcome(
        spark, {**TEXTS, "customer_id": None, "total": "abc", "updated_at": None}, {**TEXTS, "order_id": None}
    )
    assert taken == []
    assert dead == [
        ("", "order_id: null"),
        ("o1", "customer_id: null; total: not decimal(12,2); updated_at: null"),
    ]


def test_of_rows_with_one_key_the_latest_is_taken(spark: SparkSession) -> None:
    latest = {**TEXTS, "total": "2", "updated_at": "2026-01-01 12:00:02+00"}
    broken = {**TEXTS, "total": "x", "updated_at": "2026-01-01 12:00:03+00"}
    earlier = {**TEXTS, "total": "1", "updated_at": "2026-01-01 12:00:01+00"}
    taken, dead = outcome(spark, earlier, broken, latest, earlier)
    assert [row["total"] for row in taken] == [Decimal("2.00")]
    assert dead == [("o1", "order_id: another row has it"), ("o1", "total: not decimal(12,2)")]


def test_of_customers_only_the_key_and_the_time_are_required(spark: SparkSession) -> None:
    names = SCHEMAS["raw_customers"].names
    texts: dict[str, str | None] = dict.fromkeys(names)
    rows = spark.createDataFrame(
        [
            ("customers", json.dumps({**texts, "customer_id": "c1", "updated_at": "2026-01-01 12:00:00+00"})),
            ("customers", json.dumps({**texts, "customer_id": "c2"})),
            ("orders", json.dumps(TEXTS)),
        ],
        SCHEMAS[STAGED_ROWS],
    )
    found = judged(rows, table="customers", stored=spark.createDataFrame([], SCHEMAS[RAW_CUSTOMERS]))
    assert [row.customer_id for row in accepted(found, table="customers").collect()] == ["c1"]
    (letter,) = dead_letters(found, run=7).collect()
    assert letter.asDict() == {
        "run": 7,
        "table": "customers",
        "key": "c2",
        "row": json.dumps({**texts, "customer_id": "c2"}),
        "reason": "updated_at: null",
    }


@pytest.mark.parametrize(
    "text", ["'; DROP TABLE fact_orders; --", '"}{', "${env:HOME}", "\\N", "\t\n,", "Zoë 🛒"]
)
def test_a_text_stays_as_it_is(spark: SparkSession, text: str) -> None:
    taken, _ = outcome(spark, {**TEXTS, "status": text})
    assert [row["status"] for row in taken] == [text]
