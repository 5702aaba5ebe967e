"""What orders come to, by their lines."""

from __future__ import annotations

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from pipeline.contracts import MONEY, WIDE_MONEY

__all__ = ["calculate_order_totals"]


def calculate_order_totals(orders: DataFrame) -> DataFrame:
    """One row per order: order_id, order_total = Σ price × quantity, exact, as decimal(38,2).

    `orders` has a row for each line (order_id, price, quantity), or a row for each order with its `items`. An absent quantity
    is 1. The total is null where a price is unknown, and for an order without lines: not what the known ones come to.
    """
    lines = orders
    if "items" in orders.columns:
        lines = orders.select("order_id", F.explode_outer("items").alias("item")).select("order_id", "item.*")
    price, quantity = F.col("price").cast(MONEY), F.coalesce("quantity", F.lit(1)).cast("int")
    amounts = lines.select("order_id", (price * quantity).alias("amount"))
    is_known = F.count_if(F.col("amount").isNull()) == 0
    total = F.when(is_known, F.sum("amount").cast(WIDE_MONEY)).alias("order_total")
    return amounts.groupBy("order_id").agg(total)
