"""The fact table of the shop's orders."""

from __future__ import annotations

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from pipeline.shop import FACT_ORDERS
from pipeline.transforms.joins import profit_margin

__all__ = ["fact_orders", "touched_orders"]


def fact_orders(orders: DataFrame, customers: DataFrame) -> DataFrame:
    """A row per order, with the segment and region of its customer, null where there is no such customer.

    `order_date`, `order_month` (its first day) and `created_at` are in UTC.
    """
    known = customers.select("customer_id", "segment", "region")
    enriched = orders.join(known, on="customer_id", how="left")
    return enriched.select(
        "order_id",
        "customer_id",
        "total",
        "cost",
        "status",
        "created_at",
        F.to_date("created_at").alias("order_date"),
        F.to_date(F.date_trunc("month", "created_at")).alias("order_month"),
        "segment",
        "region",
        profit_margin(F.col("total"), F.col("cost")).alias("profit_margin"),
    ).select(*FACT_ORDERS.names)


def touched_orders(orders: DataFrame, *, new_orders: DataFrame, new_customers: DataFrame) -> DataFrame:
    """Of all orders those that are new or changed, and those of customers that are: their facts may differ now."""
    own = orders.join(new_orders.select("order_id"), on="order_id", how="left_semi")
    of_customers = orders.join(new_customers.select("customer_id"), on="customer_id", how="left_semi")
    return own.unionByName(of_customers).dropDuplicates(["order_id"])
