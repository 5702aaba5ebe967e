"""An independent computation of the whole pipeline in plain Python: the judge the product is compared with.

It is written from the design alone and imports nothing of the product and no Spark.
"""

from __future__ import annotations

from .audit import Counts, audit_counts
from .contract import KINDS, Event, Item, Kind, OrderEvent, ProductEvent, TextLine, Verdict, classify
from .fuzz import FuzzRecord, as_records, fuzz_records
from .kafka_log import Record, read_records
from .views import (
    VIEWS,
    AcceptedLog,
    Row,
    accepted_log,
    customer_hourly_spend,
    customer_totals,
    default_until,
    enriched_orders,
    order_outcomes,
    word_counts,
    words,
)

__all__ = [
    "KINDS",
    "VIEWS",
    "AcceptedLog",
    "Counts",
    "Event",
    "FuzzRecord",
    "Item",
    "Kind",
    "OrderEvent",
    "ProductEvent",
    "Record",
    "Row",
    "TextLine",
    "Verdict",
    "accepted_log",
    "as_records",
    "audit_counts",
    "classify",
    "customer_hourly_spend",
    "customer_totals",
    "default_until",
    "enriched_orders",
    "fuzz_records",
    "order_outcomes",
    "read_records",
    "word_counts",
    "words",
]
