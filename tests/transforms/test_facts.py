"""An order's fact: the customer's segment and region, dates in UTC, an exact margin."""

from __future__ import annotations

from datetime import date, datetime, timezone
from decimal import Decimal
from typing import Any

from pyspark.sql import DataFrame, SparkSession

from pipeline import shop
from pipeline.transforms.facts import fact_orders, touched_orders

NEW_YEAR = datetime(2025, 12, 31, 23, 59, 59, 999999, tzinfo=timezone.utc)


def orders(spark: SparkSession, *given: dict[str, Any]) -> DataFrame:
    default = {
        "order_id": "o1",
        "customer_id": "c1",
        "product_id": "p1",
        "total": Decimal("10.00"),
        "cost": Decimal("4.00"),
        "status": "completed",
        "created_at": NEW_YEAR,
        "updated_at": NEW_YEAR,
    }
    return spark.createDataFrame([{**default, **one} for one in given], shop.SCHEMAS[shop.ORDERS])


def customers(spark: SparkSession, *given: tuple[str, str | None, str | None]) -> DataFrame:
    rows = [(name, None, None, segment, region, NEW_YEAR) for name, segment, region in given]
    return spark.createDataFrame(rows, shop.SCHEMAS[shop.CUSTOMERS])


def test_a_fact_is_the_order_with_its_customer(spark: SparkSession) -> None:
    facts = fact_orders(
        orders(spark, {}, {"order_id": "o2", "customer_id": "unknown"}),
        customers(spark, ("c1", "retail", None), ("c2", "public", "east")),
    )
    assert facts.schema.simpleString() == shop.FACT_ORDERS.simpleString()
    first, second = sorted(facts.collect())
    assert first.asDict() == {
        "order_id": "o1",
        "customer_id": "c1",
        "total": Decimal("10.00"),
        "cost": Decimal("4.00"),
        "status": "completed",
        "created_at": NEW_YEAR.replace(tzinfo=None),
        "order_date": date(2025, 12, 31),
        "order_month": date(2025, 12, 1),
        "segment": "retail",
        "region": None,
        "profit_margin": Decimal("0.6000"),
    }
    assert (second.order_id, second.segment, second.region) == ("o2", None, None)


def test_margins_are_rounded_once_and_away_from_zero(spark: SparkSession) -> None:
    margins = {
        ("10.00", "4.00"): "0.6000",
        ("0.00", "1.00"): None,
        ("3.00", "1.00"): "0.6667",
        ("3.00", "4.00"): "-0.3333",
        ("800.00", "799.96"): "0.0001",  # 0.00005
        ("800.00", "800.04"): "-0.0001",
        ("9999999999.99", "9999999999.99"): "0.0000",
        ("0.01", "9999999999.99"): "-999999999998.0000",
        ("-10.00", "5.00"): "1.5000",  # a credit
        ("-800.00", "-799.96"): "0.0001",
    }
    rows = [
        {"order_id": f"{number:02}", "total": Decimal(total), "cost": Decimal(cost)}
        for number, (total, cost) in enumerate(margins)
    ]
    facts = fact_orders(orders(spark, *rows), customers(spark)).orderBy("order_id").collect()
    wanted = [None if margin is None else Decimal(margin) for margin in margins.values()]
    assert [fact.profit_margin for fact in facts] == wanted


def test_an_order_is_touched_by_itself_and_by_its_customer(spark: SparkSession) -> None:
    kept = orders(
        spark,
        {"order_id": "same"},
        {"order_id": "new"},
        {"order_id": "moved", "customer_id": "c2"},
        {"order_id": "both", "customer_id": "c2"},
    )
    touched = touched_orders(
        kept,
        new_orders=kept.where("order_id IN ('new', 'both')"),
        new_customers=customers(spark, ("c2", None, None), ("c3", None, None)),
    )
    assert sorted(row.order_id for row in touched.collect()) == ["both", "moved", "new"]
