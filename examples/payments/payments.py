"""Payments: what a record of the topic `payments` must be, and what each region takes in an hour."""

from __future__ import annotations

from pyspark.sql import DataFrame
from pyspark.sql import functions as F
from pyspark.sql import types as T

from pipeline.contracts import LATENESS, WIDE_MONEY
from pipeline.kinds import Kind, amount, choice, identifier
from pipeline.transforms.events import counted_once
from pipeline.views import View, start_of_hour

METHOD = choice("method", "card", "transfer", "cash")

PAYMENTS = Kind(
    "payments",
    table="payment_events",
    key="payment_id",
    fields=(identifier("payment_id"), identifier("region"), amount("amount"), METHOD),
)


def hourly_takings(payments: DataFrame) -> DataFrame:
    """One row per region and hour of event time (UTC): region, window_start, window_end, takings, payment_count."""
    watermarked = payments.withWatermark("event_time", LATENESS)
    takings = (
        counted_once(watermarked, PAYMENTS.identity, ("region", "amount"))
        .groupBy("region", F.window("event_time", "1 hour"))
        .agg(F.sum("amount").cast(WIDE_MONEY).alias("takings"), F.count(F.lit(1)).alias("payment_count"))
    )
    return takings.select("region", "window.*", "takings", "payment_count").toDF(*COLUMNS.names)


COLUMNS = (
    T.StructType()
    .add("region", "string")
    .add("window_start", "timestamp")
    .add("window_end", "timestamp")
    .add("takings", WIDE_MONEY)
    .add("payment_count", "long")
)

HOURLY_TAKINGS = View(
    name="hourly_takings",
    version=1,
    define=hourly_takings,
    inputs=("payments",),
    output_mode="update",
    schema=COLUMNS,
    keys=("region", "window_start"),
    settles_by="window_end",
    horizon=start_of_hour,
)

KINDS = (PAYMENTS,)
VIEWS = (HOURLY_TAKINGS,)
