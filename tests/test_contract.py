"""The contract against an independent reading of it: thousands of records, each built to break it somewhere."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import Any

from pyspark.sql import Row as SparkRow
from pyspark.sql import SparkSession
from pyspark.sql import types as T

from pipeline.contracts import RAW_EVENTS
from pipeline.transforms.decode import classify
from reference import KINDS
from reference import classify as judged
from reference.contract import OrderEvent, ProductEvent, Verdict
from reference.fuzz import as_records, fuzz_records

EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
RECORDS = T.StructType([*RAW_EVENTS.fields, T.StructField("kind", T.StringType())])


def test_every_verdict_is_the_one_that_plain_python_reaches(spark: SparkSession) -> None:
    records = as_records(fuzz_records(4000, seed=20260101))
    rows = [
        (
            record.topic,
            record.partition,
            record.offset,
            EPOCH + timedelta(milliseconds=record.timestamp_ms),
            record.key,
            record.value,
            [],
            KINDS[record.topic],
        )
        for record in records
    ]
    found = {
        (row.topic, row.partition, row.offset): row
        for row in classify(spark.createDataFrame(rows, RECORDS)).drop("key", "value", "headers").collect()
    }
    assert len(found) == len(records)
    fates = set()
    for record in records:
        row, verdict = (
            found[record.topic, record.partition, record.offset],
            judged(record, KINDS[record.topic]),
        )
        fates.add(verdict.fate)
        assert (row.fate, tuple(row.violations)) == (verdict.fate, verdict.violations), record
        assert _typed(row) == _expected(verdict), record
    assert fates == {"accepted", "dead", "tombstone"}


def _typed(row: SparkRow) -> Any:
    if row.order is not None:
        items = None if row.order["items"] is None else [tuple(item) for item in row.order["items"]]
        order = row.order
        time = order.event_time.replace(tzinfo=timezone.utc)
        return (order.event_type, order.order_id, order.customer_id, order.total, order.status, items, time)
    if row["product"] is not None:
        product = row["product"]
        time = product.event_time.replace(tzinfo=timezone.utc)
        return (product.product_id, product.name, product.product_category, product.price, product.cost, time)
    return row.line


def _expected(verdict: Verdict) -> Any:
    event = verdict.event
    if isinstance(event, OrderEvent):
        items = None if event.items is None else [(i.product_id, i.price, i.quantity) for i in event.items]
        return (
            event.event_type,
            event.order_id,
            event.customer_id,
            event.total,
            event.status,
            items,
            event.event_time,
        )
    if isinstance(event, ProductEvent):
        return (
            event.product_id,
            event.name,
            event.product_category,
            event.price,
            event.cost,
            event.event_time,
        )
    return event.text if event else None
