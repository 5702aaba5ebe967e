"""Where everything lies under `lake.root`, and what the tables of this pipeline hold beside the contract's."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal
from urllib.parse import unquote, urlsplit

from pyspark.sql import types as T

from pipeline import contracts, shop
from pipeline.errors import UsageError
from pipeline.kinds import KINDS

__all__ = [
    "BATCH_LEDGER",
    "BATCH_METRICS",
    "DEAD_LETTERS",
    "ERASED_RECORDS",
    "ETL_DEAD_LETTERS",
    "FACT_ORDERS",
    "LATE_EVENTS",
    "OFFSET_GAPS",
    "ORDER_EVENTS",
    "PRODUCT_EVENTS",
    "QUALITY_RESULTS",
    "RAW_CUSTOMERS",
    "RAW_EVENTS",
    "RAW_ORDERS",
    "RAW_PRODUCTS",
    "RECONCILIATION",
    "REPAIRS",
    "SCHEMAS",
    "SKIPPED_RECORDS",
    "STAGED_FACTS",
    "STAGED_ROWS",
    "VIEW_VERSIONS",
    "Layer",
    "checkpoint_path",
    "elt_path",
    "local_path",
    "table_path",
    "view_path",
]

Layer = Literal["speed", "batch"]
_Part = Literal["speed", "batch", "feed", "history"]

RAW_EVENTS = "raw_events"
ORDER_EVENTS = "order_events"
PRODUCT_EVENTS = "product_events"
DEAD_LETTERS = "dead_letters"
LATE_EVENTS = "late_events"
BATCH_LEDGER = "batch_ledger"
BATCH_METRICS = "batch_metrics"
SKIPPED_RECORDS = "skipped_records"
ERASED_RECORDS = "erased_records"
REPAIRS = "repairs"
OFFSET_GAPS = "offset_gaps"
RECONCILIATION = "reconciliation"
QUALITY_RESULTS = "quality_results"
VIEW_VERSIONS = "view_versions"
RAW_ORDERS = "raw_orders"
RAW_CUSTOMERS = "raw_customers"
RAW_PRODUCTS = "raw_products"
FACT_ORDERS = "fact_orders"
ETL_DEAD_LETTERS = "etl_dead_letters"
STAGED_ROWS = "staged_rows"
STAGED_FACTS = "staged_facts"

_LATE_EVENTS = T.StructType(
    [
        T.StructField("query", T.StringType(), nullable=False),
        T.StructField("key", T.StringType(), nullable=False),
        T.StructField("event_time", T.TimestampType(), nullable=False),
        T.StructField("watermark", T.TimestampType(), nullable=False),
        T.StructField("lateness_seconds", T.DecimalType(18, 6), nullable=False),
        *contracts.RECORD_ADDRESS,
        T.StructField("batch_id", T.LongType(), nullable=False),
        T.StructField("generation", T.StringType(), nullable=False),
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

_BATCH_METRICS = T.StructType(
    [
        T.StructField("query", T.StringType()),
        T.StructField("generation", T.StringType()),
        T.StructField("batch_id", T.LongType()),
        T.StructField("started_at", T.TimestampType()),
        T.StructField("duration_ms", T.LongType()),
        T.StructField("planning_ms", T.LongType()),
        T.StructField("writing_ms", T.LongType()),
        T.StructField("records_read", T.LongType()),
        T.StructField("records_behind", T.LongType()),
        T.StructField("watermark", T.TimestampType()),
        T.StructField("state_rows", T.LongType()),
        T.StructField("state_memory_bytes", T.LongType()),
    ]
)
"""A row for each micro-batch, as Spark reported it when it had ended; what a killed process had not kept yet is missing. `records_behind`
is what the topics held then that was not read, `state_rows` is null where Spark does not count them."""

_SKIPPED_RECORDS = T.StructType(
    [
        *contracts.RECORD_ADDRESS,
        T.StructField("reason", T.StringType(), nullable=False),
        T.StructField("author", T.StringType(), nullable=False),
        T.StructField("skipped_at", T.TimestampType(), nullable=False),
    ]
)

_ERASED_RECORDS = T.StructType(
    [*contracts.RECORD_ADDRESS, T.StructField("erased_at", T.TimestampType(), nullable=False)]
)
"""The addresses of records that were removed from the log on somebody's behalf, and nothing that says of whom."""

_DECISION = [
    T.StructField("status", T.StringType(), nullable=False),
    T.StructField("patch", T.StringType()),
    T.StructField("patch_form", T.StringType()),
    T.StructField("repaired_value", T.BinaryType()),
    T.StructField("author", T.StringType(), nullable=False),
    T.StructField("reason", T.StringType(), nullable=False),
    T.StructField("made_at", T.TimestampType(), nullable=False),
    T.StructField("replayed_at", T.TimestampType()),
]

_EARLIER_DECISION = T.StructType([T.StructField(field.name, field.dataType) for field in _DECISION])
"""Delta enforces nothing inside of an array, and refuses a column that asks for it."""

_REPAIRS = T.StructType(
    [
        *contracts.RECORD_ADDRESS,
        T.StructField("kind", T.StringType(), nullable=False),
        *_DECISION,
        T.StructField("history", T.ArrayType(_EARLIER_DECISION), nullable=False),
    ]
)
"""What has been decided on a dead letter, one row for each, with the decisions before it in `history`, oldest first. `status` is
fixed (a patch that is not replayed yet), repaired (replayed, and it passed) or discarded; `patch_form` is merge, value or
`bulk:<names>`, and `repaired_value` what the patch makes of the original, which stays as it is in raw_events and dead_letters."""

_OFFSET_GAPS = T.StructType(
    [
        T.StructField("topic", T.StringType(), nullable=False),
        T.StructField("partition", T.IntegerType(), nullable=False),
        T.StructField("first_offset", T.LongType(), nullable=False),
        T.StructField("end_offset", T.LongType(), nullable=False),
        T.StructField("checked_at", T.TimestampType(), nullable=False),
    ]
)
"""Offsets, half-open, at which Kafka was asked and holds no committed record; kept, because Kafka forgets."""

_RECONCILIATION = T.StructType(
    [
        T.StructField("run_at", T.TimestampType(), nullable=False),
        T.StructField("view", T.StringType(), nullable=False),
        T.StructField("horizon", T.TimestampType()),
        T.StructField("batch_version", T.LongType(), nullable=False),
        T.StructField("speed_version", T.LongType(), nullable=False),
        T.StructField("log_versions", T.MapType(T.StringType(), T.LongType()), nullable=False),
        *[
            T.StructField(name, T.LongType(), nullable=False)
            for name in ("compared", "equal", "late", "repaired", "conflicting", "contract_changed")
        ],
        T.StructField("open", T.LongType(), nullable=False),
        T.StructField("unexplained", T.LongType(), nullable=False),
        T.StructField("late_events", T.LongType(), nullable=False),
        T.StructField("unexplained_keys", T.ArrayType(T.StringType()), nullable=False),
    ]
)
"""A row for each view and run of reconcile: how many rows were compared, and how many differ from which cause."""

_ETL_DEAD_LETTERS = T.StructType(
    [
        T.StructField("run", T.LongType(), nullable=False),
        T.StructField("table", T.StringType(), nullable=False),
        T.StructField("key", T.StringType()),
        T.StructField("row", T.StringType(), nullable=False),
        T.StructField("reason", T.StringType(), nullable=False),
    ]
)
"""A row of the source that could not be taken, as JSON of texts, once; `run` is the first that met it so."""

_STAGED_ROWS = T.StructType(
    [
        T.StructField("table", T.StringType(), nullable=False),
        T.StructField("row", T.StringType(), nullable=False),
    ]
)
"""What the newest extract has read of the source: its rows as JSON of texts. The commit says from which snapshot."""

_QUALITY_RESULTS = T.StructType(
    [
        T.StructField("run_at", T.TimestampType(), nullable=False),
        T.StructField("table", T.StringType(), nullable=False),
        T.StructField("table_version", T.LongType()),
        T.StructField("expectation", T.StringType(), nullable=False),
        T.StructField("outcome", T.StringType(), nullable=False),
        T.StructField("observed", T.StringType(), nullable=False),
        T.StructField("expected", T.StringType(), nullable=False),
        T.StructField("unexpected_count", T.LongType()),
    ]
)
"""A row for each expectation and run of quality. `outcome` is passed, warned, failed or skipped (there is no such table)."""

_VIEW_VERSIONS = T.StructType(
    [
        T.StructField("view", T.StringType()),
        T.StructField("version", T.StringType()),
        T.StructField("became", T.StringType()),
        T.StructField("at", T.TimestampType()),
    ]
)
"""What became of the versions of a view, as it happened: begun (beside the live one), live (by a promotion or a rollback), dropped. Which
one is live the newest commit says (`versions`)."""

SCHEMAS = {
    SKIPPED_RECORDS: _SKIPPED_RECORDS,
    ERASED_RECORDS: _ERASED_RECORDS,
    RAW_EVENTS: contracts.RAW_EVENTS,
    ORDER_EVENTS: contracts.ORDER_EVENTS,
    PRODUCT_EVENTS: KINDS[contracts.PRODUCTS].schema,
    DEAD_LETTERS: contracts.DEAD_LETTERS,
    LATE_EVENTS: _LATE_EVENTS,
    BATCH_LEDGER: _BATCH_LEDGER,
    BATCH_METRICS: _BATCH_METRICS,
    REPAIRS: _REPAIRS,
    OFFSET_GAPS: _OFFSET_GAPS,
    RECONCILIATION: _RECONCILIATION,
    QUALITY_RESULTS: _QUALITY_RESULTS,
    VIEW_VERSIONS: _VIEW_VERSIONS,
    RAW_ORDERS: shop.SCHEMAS[shop.ORDERS],
    RAW_CUSTOMERS: shop.SCHEMAS[shop.CUSTOMERS],
    RAW_PRODUCTS: shop.SCHEMAS[shop.PRODUCTS],
    FACT_ORDERS: shop.FACT_ORDERS,
    ETL_DEAD_LETTERS: _ETL_DEAD_LETTERS,
    STAGED_ROWS: _STAGED_ROWS,
    STAGED_FACTS: shop.FACT_ORDERS,
}


def table_path(root: str, name: str) -> str:
    return f"{root}/{_plain(name)}"


def view_path(root: str, view: str, layer: _Part, version: int | str) -> str:
    """`version` is the view's label."""
    return f"{root}/views/{_plain(view)}/v{_plain(str(version))}/{_plain(layer)}"


def elt_path(root: str) -> str:
    """Below it lies each dbt model that is a table, as `<schema>/<model>`."""
    return f"{root}/elt"


def checkpoint_path(root: str, query: str) -> str:
    return f"{root}/_checkpoints/{_plain(query)}"


def _plain(name: str) -> str:
    """The name, which is to be a folder's. Raises UsageError where it could lead elsewhere."""
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}", name, re.ASCII):
        raise UsageError(
            f"{name[:80]!r} is no name of a table, a view or a query: letters, digits and _ . - are taken."
        )
    return name


def local_path(location: str) -> Path | None:
    """The location as a path of this machine; None when it lies on another file system (hdfs, s3a, …)."""
    parts = urlsplit(location)
    if len(parts.scheme) > 1 and parts.scheme != "file":
        return None
    return Path(unquote(parts.path)) if parts.scheme == "file" else Path(location)
