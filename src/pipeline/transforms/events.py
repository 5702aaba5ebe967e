"""Which events a view counts: one of each identity, behind one watermark."""

from __future__ import annotations

from collections.abc import Sequence

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from pipeline.contracts import LATENESS, ORDER_CANCELLED, ORDER_CREATED

__all__ = ["cancelled_orders", "counted_once", "created_orders"]


def created_orders(orders: DataFrame, *columns: str) -> DataFrame:
    """One row per created order and instant: order_id, event_time (UTC, watermarked by 10 minutes) and `columns`."""
    created = orders.where(F.col("event_type") == ORDER_CREATED)
    return counted_once(created.withWatermark("event_time", LATENESS), ("order_id", "event_time"), columns)


def cancelled_orders(orders: DataFrame) -> DataFrame:
    """The cancellations, duplicates included: order_id, event_time (UTC, watermarked by 10 minutes)."""
    cancelled = orders.where(F.col("event_type") == ORDER_CANCELLED)
    return cancelled.select("order_id", "event_time").withWatermark("event_time", LATENESS)


def counted_once(events: DataFrame, identity: Sequence[str], columns: Sequence[str]) -> DataFrame:
    """One row per identity: the columns of the identity, and `columns` of one of its events.

    A batch takes the first in (partition, offset). A stream has no order over its partitions and takes the first it
    meets; where contents differ under one identity, the two may disagree, and reconciling calls that conflicting.
    """
    if events.isStreaming:
        return events.select(*identity, *columns).dropDuplicates([*identity])
    first = F.min_by(F.struct(*columns), F.struct("partition", "offset")).alias("first")
    # Brought together first, they are sorted once: few come twice, so there is little to be gained where they lie.
    return events.repartition(*identity).groupBy(*identity).agg(first).select(*identity, "first.*")
