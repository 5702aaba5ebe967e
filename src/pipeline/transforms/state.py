"""Totals per customer, as keyed state of our own in a stream."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timezone
from decimal import Decimal
from typing import Any

from pyspark.sql import DataFrame, Row
from pyspark.sql import functions as F
from pyspark.sql import types as T
from pyspark.sql.streaming.stateful_processor import StatefulProcessor, StatefulProcessorHandle

from pipeline.contracts import WIDE_MONEY
from pipeline.transforms.events import created_orders

__all__ = ["customer_totals"]

_TOTALS = T.StructType(
    [
        T.StructField("order_count", T.LongType()),
        T.StructField("total_spend", WIDE_MONEY),
        T.StructField("last_event_time", T.TimestampType()),
    ]
)
_ROWS = T.StructType([T.StructField("customer_id", T.StringType()), *_TOTALS.fields])
_ROW = Row(*_ROWS.names)


def customer_totals(orders: DataFrame, *, seed: DataFrame | None = None) -> DataFrame:
    """One row per customer: customer_id, order_count, total_spend (gross), last_event_time (UTC), over created orders.

    A stream keeps the totals as keyed state, begins with those of `seed` (rows of the same form) and gives a customer's
    row again whenever it changes: several times in a micro-batch that has more of the customer's orders than an Arrow batch
    holds (10,000), the last of them with the highest order_count. A batch adds up: transformWithState finds no state coordinator in a batch (Spark 4.2).
    """
    created = created_orders(orders, "customer_id", "total")
    if not orders.isStreaming:
        return created.groupBy("customer_id").agg(
            F.count(F.lit(1)).alias("order_count"),
            F.sum("total").cast(WIDE_MONEY).alias("total_spend"),
            F.max("event_time").alias("last_event_time"),
        )
    return created.groupBy("customer_id").transformWithState(
        statefulProcessor=_Totals(),
        outputStructType=_ROWS,
        outputMode="Update",
        timeMode="None",
        initialState=seed.groupBy("customer_id") if seed is not None else None,
    )


class _Totals(StatefulProcessor):
    """Adds each customer's new orders to what is known of the customer.

    By rows: most customers have an order or two in a micro-batch, and a pandas frame for each of them costs twice as much.
    """

    def init(self, handle: StatefulProcessorHandle) -> None:
        self._totals = handle.getValueState("totals", _TOTALS)

    def handleInputRows(  # noqa: N802 (Spark's name)
        self,
        key: Any,
        rows: Iterator[Row],
        timerValues: Any,  # noqa: ARG002, N803 (Spark's name)
    ) -> Iterator[Row]:
        order_count, total_spend, last_event_time = self._known()
        for order in rows:
            order_count += 1
            total_spend += order.total
            time = _in_utc(order.event_time)
            last_event_time = time if last_event_time is None else max(last_event_time, time)
        totals = (order_count, total_spend, last_event_time)
        self._totals.update(totals)
        yield _ROW(key[0], *totals)

    def handleInitialState(self, key: Any, initialState: Row, timerValues: Any) -> None:  # noqa: ARG002, N802, N803
        order_count, total_spend, last_event_time = (initialState[name] for name in _TOTALS.names)
        self._totals.update((order_count, total_spend, _in_utc(last_event_time)))

    def close(self) -> None:
        pass

    def _known(self) -> tuple[int, Decimal, datetime | None]:
        return self._totals.get() or (0, Decimal(0), None)


def _in_utc(time: datetime) -> datetime:
    """Without its zone, as state takes and gives it; in the rows that come in Spark names the zone."""
    return time.astimezone(timezone.utc).replace(tzinfo=None)
