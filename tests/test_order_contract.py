"""The contract asked of a DataFrame: what is broken, where, and how often; and the sums of orders, to the cent."""

from __future__ import annotations

from datetime import datetime, timezone
from decimal import Decimal
from typing import Any

import pytest
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql import types as T

from pipeline.contracts import ITEMS, MONEY, ORDER, RAW_EVENTS, WIDE_MONEY
from pipeline.errors import CheckFailed, DataContractError, ValidationError
from pipeline.kinds import KINDS as EVENT_KINDS
from pipeline.order_contract import OrderContract, calculate_order_totals, validate_required_fields
from pipeline.transforms.decode import accepted_events, classify
from reference import KINDS
from reference.fuzz import as_records, fuzz_records

NOON = datetime(2026, 1, 1, 12, tzinfo=timezone.utc)
GOOD: dict[str, Any] = {
    "event_type": "order_created",
    "order_id": "o1",
    "customer_id": "c1",
    "total": Decimal("10.00"),
    "status": "pending",
    "items": [("p1", Decimal("2.50"), 4)],
    "event_time": NOON,
}
NULLABLE = T.StructType([T.StructField(field.name, field.dataType) for field in ORDER.fields])


def orders(spark: SparkSession, *changes: dict[str, Any]) -> DataFrame:
    """A good order for each of the changes made to it."""
    rows = [tuple({**GOOD, **change}.values()) for change in changes]
    return spark.createDataFrame(rows, NULLABLE)


def found(frame: DataFrame) -> list[tuple[str, str, int]]:
    return [(error.column, error.rule, error.count) for error in OrderContract().errors(frame)]


def test_good_orders_are_what_they_were(spark: SparkSession) -> None:
    cancelled = {"event_type": "order_cancelled", "total": None, "items": None, "status": "cancelled"}
    edges = {
        "order_id": "😀" * 128,
        "total": Decimal("9999999999.99"),
        "items": [("p", Decimal(0), 1_000_000)],
        "event_time": datetime(2000, 1, 1, tzinfo=timezone.utc),
    }
    without_quantity = {"items": [("p1", Decimal("2.50"), None)]}
    frame = orders(spark, {}, cancelled, edges, without_quantity)
    assert OrderContract().validate(frame) is frame
    assert validate_required_fields(frame) is frame


def test_each_rule_names_its_column_and_how_many_rows_break_it(spark: SparkSession) -> None:
    frame = orders(
        spark,
        {},
        {"order_id": None},
        {"order_id": ""},
        {"order_id": "x" * 129},
        {"customer_id": None},
        {"customer_id": None},
        {"event_type": "order_updated"},
        {"status": "Pending"},
        {"status": None},
        {"total": Decimal("-0.01")},
        {"total": None},
        {"items": [("p1", None, 1)]},
        {"items": [("p1", Decimal(1), 0)]},
        {"items": [("p1", Decimal(1), 1_000_001)]},
        {"items": [("", Decimal(1), 1)]},
        {"items": [None]},
        {"event_time": datetime(1999, 12, 31, 23, 59, 59, 999_999, tzinfo=timezone.utc)},
    )
    assert found(frame) == [
        ("order_id", "null", 1),
        ("customer_id", "null", 2),
        ("status", "null", 1),
        ("total", "null", 1),
        ("event_type", "value", 1),
        ("order_id", "value", 2),
        ("total", "value", 1),
        ("status", "value", 1),
        ("event_time", "value", 1),
        ("items", "value", 5),
    ]


def test_the_first_error_is_raised_and_counts_the_others(spark: SparkSession) -> None:
    frame = orders(spark, {"status": "x"}, {"order_id": None}, {})
    with pytest.raises(DataContractError) as caught:
        OrderContract().validate(frame)
    assert (caught.value.column, caught.value.rule, caught.value.count) == ("order_id", "null", 1)
    assert "status (value, 1)" in caught.value.message
    assert isinstance(caught.value, ValidationError)
    assert isinstance(caught.value, CheckFailed)


def test_missing_columns_and_types_come_first(spark: SparkSession) -> None:
    frame = orders(spark, {"order_id": None}, {}).drop("customer_id").withColumn("total", F.lit("10.00"))
    assert found(frame) == [("customer_id", "missing", 2), ("total", "type", 2), ("order_id", "null", 1)]


def test_only_the_columns_that_are_asked_for_must_be_there(spark: SparkSession) -> None:
    frame = orders(spark, {"status": "x"}).select("order_id", "status")
    assert OrderContract(columns=["order_id"]).errors(frame) == []
    assert [error.column for error in OrderContract(columns=["order_id", "status"]).errors(frame)] == [
        "status"
    ]


def test_what_the_stream_accepts_the_contract_accepts(spark: SparkSession) -> None:
    records = as_records(fuzz_records(1500, seed=5))
    rows = [
        (one.topic, one.partition, one.offset, datetime.fromtimestamp(one.timestamp_ms / 1000, timezone.utc), one.key,
         one.value, [], KINDS[one.topic])
        for one in records
    ]  # fmt: skip
    schema = T.StructType([*RAW_EVENTS.fields, T.StructField("kind", T.StringType())])
    accepted = (
        accepted_events(classify(spark.createDataFrame(rows, schema)), EVENT_KINDS["orders"])
        .select(*ORDER.names)
        .cache()
    )
    assert accepted.count() > 100
    assert found(accepted) == []


def test_a_required_field_that_is_missing_or_null(spark: SparkSession) -> None:
    frame = orders(spark, {"customer_id": None}, {"customer_id": None}, {})
    with pytest.raises(ValidationError) as caught:
        validate_required_fields(frame)
    assert (caught.value.column, caught.value.count) == ("customer_id", 2)
    with pytest.raises(ValidationError) as caught:
        validate_required_fields(frame, fields=["order_id", "region"])
    assert (caught.value.column, caught.value.count) == ("region", 3)


def test_totals_are_exact_sums_of_the_lines(spark: SparkSession) -> None:
    lines = spark.createDataFrame(
        [
            ("a", Decimal("0.10"), 3),
            ("a", Decimal("0.20"), 1),
            ("b", Decimal("9999999999.99"), 1_000_000),
            ("b", Decimal("9999999999.99"), 1_000_000),
            ("c", Decimal("1.00"), None),
            ("d", None, 2),
            ("d", Decimal("1.00"), 2),
        ],
        T.StructType(
            [
                T.StructField("order_id", T.StringType()),
                T.StructField("price", MONEY),
                T.StructField("quantity", T.IntegerType()),
            ]
        ),
    )
    totals = calculate_order_totals(lines)
    assert {row.order_id: row.order_total for row in totals.collect()} == {
        "a": Decimal("0.50"),
        "b": Decimal("19999999999980000.00"),
        "c": Decimal("1.00"),
        "d": None,
    }
    assert totals.schema["order_total"].dataType == WIDE_MONEY


def test_totals_of_orders_with_their_items(spark: SparkSession) -> None:
    schema = T.StructType([T.StructField("order_id", T.StringType()), T.StructField("items", ITEMS)])
    frame = spark.createDataFrame(
        [("a", [("p", Decimal("0.10"), 3), ("q", Decimal("0.05"), 1)]), ("b", [])], schema
    )
    assert {row.order_id: row.order_total for row in calculate_order_totals(frame).collect()} == {
        "a": Decimal("0.35"),
        "b": None,
    }
