"""Where everything lies under `lake.root`, and what the tables of this pipeline hold beside the contract's."""

from __future__ import annotations

from pathlib import Path
from typing import Literal
from urllib.parse import unquote, urlsplit

from pyspark.sql import types as T

from pipeline import contracts

__all__ = [
    "BATCH_LEDGER",
    "DEAD_LETTERS",
    "LATE_EVENTS",
    "ORDER_EVENTS",
    "PRODUCT_EVENTS",
    "RAW_EVENTS",
    "SCHEMAS",
    "SKIPPED_RECORDS",
    "Layer",
    "checkpoint_path",
    "local_path",
    "table_path",
    "view_path",
]

Layer = Literal["speed", "batch"]

RAW_EVENTS = "raw_events"
ORDER_EVENTS = "order_events"
PRODUCT_EVENTS = "product_events"
DEAD_LETTERS = "dead_letters"
LATE_EVENTS = "late_events"
BATCH_LEDGER = "batch_ledger"
SKIPPED_RECORDS = "skipped_records"

_LATE_EVENTS = T.StructType(
    [
        T.StructField("query", T.StringType(), nullable=False),
        T.StructField("key", T.StringType(), nullable=False),
        T.StructField("event_time", T.TimestampType(), nullable=False),
        T.StructField("watermark", T.TimestampType(), nullable=False),
        T.StructField("lateness_seconds", T.DecimalType(18, 6), nullable=False),
        *contracts.RECORD_ADDRESS,
        T.StructField("batch_id", T.LongType(), nullable=False),
        T.StructField("healed_at", T.TimestampType()),
    ]
)

_BATCH_LEDGER = T.StructType(
    [
        T.StructField("query", T.StringType(), nullable=False),
        T.StructField("generation", T.StringType(), nullable=False),
        T.StructField("batch_id", T.LongType(), nullable=False),
        T.StructField("source", T.IntegerType(), nullable=False),
        T.StructField("topic", T.StringType(), nullable=False),
        T.StructField("partition", T.IntegerType(), nullable=False),
        T.StructField("first_offset", T.LongType(), nullable=False),
        T.StructField("end_offset", T.LongType(), nullable=False),
        T.StructField("watermark", T.TimestampType()),
        T.StructField("accepted", T.LongType()),
        T.StructField("dead", T.LongType()),
        T.StructField("tombstones", T.LongType()),
    ]
)
"""A row for each topic partition that a source of a query read in a micro-batch, offsets half-open. `watermark`: events at or before it were
dropped as late in this batch. The fates are ingest's; a query that only reads leaves them null."""

_SKIPPED_RECORDS = T.StructType(
    [
        *contracts.RECORD_ADDRESS,
        T.StructField("reason", T.StringType(), nullable=False),
        T.StructField("author", T.StringType(), nullable=False),
        T.StructField("skipped_at", T.TimestampType(), nullable=False),
    ]
)

SCHEMAS = {
    SKIPPED_RECORDS: _SKIPPED_RECORDS,
    RAW_EVENTS: contracts.RAW_EVENTS,
    ORDER_EVENTS: contracts.ORDER_EVENTS,
    PRODUCT_EVENTS: contracts.PRODUCT_EVENTS,
    DEAD_LETTERS: contracts.DEAD_LETTERS,
    LATE_EVENTS: _LATE_EVENTS,
    BATCH_LEDGER: _BATCH_LEDGER,
}


def table_path(root: str, name: str) -> str:
    return f"{root}/{name}"


def view_path(root: str, view: str, layer: Layer, version: int) -> str:
    return f"{root}/views/{view}/v{version}/{layer}"


def checkpoint_path(root: str, query: str) -> str:
    return f"{root}/_checkpoints/{query}"


def local_path(location: str) -> Path | None:
    """The location as a path of this machine; None when it lies on another file system (hdfs, s3a, …)."""
    parts = urlsplit(location)
    if len(parts.scheme) > 1 and parts.scheme != "file":
        return None
    return Path(unquote(parts.path)) if parts.scheme == "file" else Path(location)
