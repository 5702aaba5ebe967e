"""Sums of money are exact beyond what a double holds: 2⁵³ cents are 90,071,992,547,409.92."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal

import pytest
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from pipeline.contracts import ORDER_CREATED, ORDER_EVENTS
from pipeline.transforms.state import customer_totals
from pipeline.transforms.windows import customer_hourly_spend

DEAR = Decimal("9999999999.99")
ORDERS = 20_000


@pytest.mark.parametrize(
    ("view", "spend"), [(customer_hourly_spend, "hourly_spend"), (customer_totals, "total_spend")]
)
def test_a_sum_is_exact_to_the_cent(
    spark: SparkSession, view: Callable[[DataFrame], DataFrame], spend: str
) -> None:
    known = {
        "event_type": F.lit(ORDER_CREATED),
        "order_id": F.col("id").cast("string"),
        "customer_id": F.lit("c1"),
        "event_time": F.lit("2026-01-01T10:30:00Z").cast("timestamp"),
        "total": F.when(F.col("id") == 0, F.lit(Decimal("0.01"))).otherwise(F.lit(DEAR)),
        "partition": F.lit(0),
        "offset": F.col("id"),
    }
    orders = spark.range(ORDERS + 1).select(
        [known.get(field.name, F.lit(None)).cast(field.dataType).alias(field.name) for field in ORDER_EVENTS]
    )
    (row,) = view(orders).collect()
    assert (row[spend], row.order_count) == (ORDERS * DEAR + Decimal("0.01"), ORDERS + 1)
