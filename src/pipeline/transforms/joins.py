"""Order lines with their product, creations with their cancellation: outer joins bounded in event time.

Each join gives every match; a view keeps the best of them (`View.precedence`), whatever comes after it. A stream could pick the best one itself only by waiting until the larger bound has passed.
"""

from __future__ import annotations

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F
from pyspark.sql import types as T

from pipeline.contracts import LATENESS
from pipeline.transforms.events import cancelled_orders, created_orders

__all__ = ["enriched_orders", "order_outcomes", "profit_margin", "with_profit_margin"]

_REACH = "INTERVAL 24 HOURS"
_MARGIN = T.DecimalType(18, 4)


def enriched_orders(orders: DataFrame, products: DataFrame) -> DataFrame:
    """A row per line of a created order and product version at or before it, at most 24 hours old; without one, a row of nulls.

    order_id, line (from 0), customer_id, event_time, product_id, quantity, price, name, product_category, cost, and the
    version's version_time, version_partition, version_offset.
    """
    created = created_orders(orders, "customer_id", "items")
    lines = created.select(
        "order_id", "customer_id", "event_time", F.posexplode("items").alias("line", "item")
    ).select("order_id", "line", "customer_id", "event_time", "item.*")
    versions = products.withWatermark("event_time", LATENESS).select(
        F.col("product_id").alias("version_product_id"),
        "name",
        "product_category",
        "cost",
        F.col("event_time").alias("version_time"),
        F.col("partition").alias("version_partition"),
        F.col("offset").alias("version_offset"),
    )
    is_same_product = F.col("product_id") == F.col("version_product_id")
    is_known = F.col("version_time") <= F.col("event_time")
    is_recent = F.col("version_time") >= F.col("event_time") - F.expr(_REACH)
    matches = lines.join(versions, on=is_same_product & is_known & is_recent, how="left_outer")
    return matches.select(
        "order_id",
        "line",
        "customer_id",
        "event_time",
        "product_id",
        "quantity",
        "price",
        "name",
        "product_category",
        "cost",
        "version_time",
        "version_partition",
        "version_offset",
    )


def with_profit_margin(lines: DataFrame) -> DataFrame:
    """With profit_margin (4 decimals), of price and cost."""
    return lines.withColumn("profit_margin", profit_margin(F.col("price"), F.col("cost")))


def order_outcomes(orders: DataFrame) -> DataFrame:
    """A row per created order and cancellation of its order_id at or after it within 24 hours; without one, a row of nulls.

    order_id, customer_id, total, created_at, cancelled_at, seconds_to_cancel (whole seconds).
    """
    created = created_orders(orders, "customer_id", "total").withColumnRenamed("event_time", "created_at")
    cancelled = cancelled_orders(orders).select(
        F.col("order_id").alias("cancelled_order_id"), F.col("event_time").alias("cancelled_at")
    )
    is_same_order = F.col("order_id") == F.col("cancelled_order_id")
    is_after = F.col("cancelled_at") >= F.col("created_at")
    is_in_reach = F.col("cancelled_at") <= F.col("created_at") + F.expr(_REACH)
    matches = created.join(cancelled, on=is_same_order & is_after & is_in_reach, how="left_outer")
    micros = F.unix_micros("cancelled_at") - F.unix_micros("created_at")
    return matches.select(
        "order_id",
        "customer_id",
        "total",
        "created_at",
        "cancelled_at",
        _div(micros, F.lit(1_000_000)).alias("seconds_to_cancel"),
    )


def profit_margin(price: Column, cost: Column) -> Column:
    """(price − cost) / price with 4 decimals, half away from zero; null where price is 0 or either is unknown.

    In whole cents: a decimal quotient is itself rounded, and rounding twice can be off by one.
    """
    cents = (price * 100).cast(T.LongType())
    tenthousandths = (cents - (cost * 100).cast(T.LongType())) * 10_000
    magnitude = _div(F.abs(tenthousandths) * 2 + F.abs(cents), F.abs(cents) * 2)
    rounded = magnitude * (F.signum(tenthousandths) * F.signum(cents)).cast(T.LongType())
    margin = (rounded.cast(T.DecimalType(18, 0)) * F.lit("0.0001").cast(T.DecimalType(4, 4))).cast(_MARGIN)
    return F.when(price != 0, margin)


def _div(dividend: Column, divisor: Column) -> Column:
    """The integral quotient of two whole numbers."""
    return F.call_function("div", dividend, divisor)
