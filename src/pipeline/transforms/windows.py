"""Spend per customer and hour."""

from __future__ import annotations

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from pipeline.contracts import WIDE_MONEY
from pipeline.transforms.events import created_orders

__all__ = ["customer_hourly_spend"]


def customer_hourly_spend(orders: DataFrame) -> DataFrame:
    """One row per customer and tumbling hour of event time (UTC, half-open) with a created order.

    customer_id, window_start, window_end, hourly_spend (gross: a cancelled order still counts), order_count, and
    last_event_time, by which totals per customer can be told without the events.
    """
    spend = (
        created_orders(orders, "customer_id", "total")
        .groupBy("customer_id", F.window("event_time", "1 hour"))
        .agg(
            F.sum("total").cast(WIDE_MONEY).alias("hourly_spend"),
            F.count(F.lit(1)).alias("order_count"),
            F.max("event_time").alias("last_event_time"),
        )
    )
    return spend.select(
        "customer_id",
        F.col("window.start").alias("window_start"),
        F.col("window.end").alias("window_end"),
        "hourly_spend",
        "order_count",
        "last_event_time",
    )
