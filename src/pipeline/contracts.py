"""What events, tables and violations are: names, types, limits and identities.

Everything here is plain data. Nothing builds a Column, so importing it needs no session.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timezone
from decimal import Decimal
from typing import NamedTuple

from pyspark.sql import types as T

CONTRACT_VERSION = 1

ORDERS = "orders"
PRODUCTS = "products"
TEXT_LINES = "text-lines"

ORDER_CREATED = "order_created"
ORDER_CANCELLED = "order_cancelled"
EVENT_TYPES = (ORDER_CREATED, ORDER_CANCELLED)

PENDING = "pending"
COMPLETED = "completed"
CANCELLED = "cancelled"
STATUSES = (PENDING, COMPLETED, CANCELLED)

ACCEPTED = "accepted"
DEAD = "dead"
TOMBSTONE = "tombstone"
FATES = (ACCEPTED, DEAD, TOMBSTONE)

FIXED = "fixed"
REPAIRED = "repaired"
DISCARDED = "discarded"
DEAD_LETTER_STATUSES = (DEAD, FIXED, REPAIRED, DISCARDED)
"""What has been decided on a dead letter: nothing, a patch that is yet to be replayed, a patch that passed, to let it lie."""

MAX_VALUE_BYTES = 1_048_576
MAX_ID_CHARACTERS = 128
MAX_QUANTITY = 1_000_000
MAX_NESTING_LEVELS = 1_000
MAX_NUMBER_DIGITS = 1_000
MAX_AMOUNT_DIGITS = 10
AMOUNT_DECIMALS = 2
FIRST_YEAR = 2000
MAX_CLOCK_SKEW_MINUTES = 5
LATENESS_MINUTES = 10
LATENESS = f"{LATENESS_MINUTES} minutes"

MAX_AMOUNT = Decimal(10) ** MAX_AMOUNT_DIGITS - Decimal(10) ** -AMOUNT_DECIMALS
FIRST_INSTANT = datetime(FIRST_YEAR, 1, 1, tzinfo=timezone.utc)
LAST_INSTANT = datetime.max.replace(tzinfo=timezone.utc)
"""With an offset, what is still written in four digits may be in the year 10000."""

MONEY = T.DecimalType(12, 2)
WIDE_MONEY = T.DecimalType(38, 2)
"""Wide enough for any sum of amounts times quantities that one record, or one log, can hold."""

TOO_LARGE = "too_large"
NOT_UTF8 = "not_utf8"
NOT_JSON = "not_json"
ORDER_VIOLATIONS = ("event_type", "order_id", "customer_id", "total", "status", "items", "timestamp")
"""In the order that they have within one record."""

RECORD_IDENTITY = ("topic", "partition", "offset")


class Limits(NamedTuple):
    """What a value must be beside its type: one of `values`, from `least` to `most`, of 1 to `max_characters`; null is not judged."""

    values: tuple[str, ...] = ()
    least: Decimal | int | datetime | None = None
    most: Decimal | int | None = None
    max_characters: int | None = None


IDENTIFIER = Limits(max_characters=MAX_ID_CHARACTERS)
AMOUNT = Limits(least=Decimal(0), most=MAX_AMOUNT)
EVENT_TIME = Limits(least=FIRST_INSTANT)

ORDER_LIMITS: Mapping[str, Limits] = {
    "event_type": Limits(values=EVENT_TYPES),
    "order_id": IDENTIFIER,
    "customer_id": IDENTIFIER,
    "total": AMOUNT,
    "status": Limits(values=STATUSES),
    "event_time": EVENT_TIME,
}
ITEM_LIMITS: Mapping[str, Limits] = {
    "product_id": IDENTIFIER,
    "price": AMOUNT,
    "quantity": Limits(least=1, most=MAX_QUANTITY),
}
"""The rules for typed values, where no bytes are left to be decoded: tables, DataFrames, events before they are sent."""
OPTIONAL_ITEM_FIELDS = frozenset({"quantity"})
"""Of a line; an absent quantity is 1."""

HEADERS = T.ArrayType(
    T.StructType([T.StructField("key", T.StringType()), T.StructField("value", T.BinaryType())])
)

ITEMS = T.ArrayType(
    T.StructType(
        [
            T.StructField("product_id", T.StringType()),
            T.StructField("price", MONEY),
            T.StructField("quantity", T.IntegerType()),
        ]
    )
)

RECORD_ADDRESS = (
    T.StructField("topic", T.StringType(), nullable=False),
    T.StructField("partition", T.IntegerType(), nullable=False),
    T.StructField("offset", T.LongType(), nullable=False),
)

CONTRACT_VERSION_FIELD = T.StructField("contract_version", T.IntegerType(), nullable=False)

RAW_EVENTS = T.StructType(
    [
        *RECORD_ADDRESS,
        T.StructField("kafka_timestamp", T.TimestampType()),
        T.StructField("key", T.BinaryType()),
        T.StructField("value", T.BinaryType()),
        T.StructField("headers", HEADERS),
    ]
)

ORDER = T.StructType(
    [
        T.StructField("event_type", T.StringType(), nullable=False),
        T.StructField("order_id", T.StringType(), nullable=False),
        T.StructField("customer_id", T.StringType(), nullable=False),
        T.StructField("total", MONEY),
        T.StructField("status", T.StringType(), nullable=False),
        T.StructField("items", ITEMS),
        T.StructField("event_time", T.TimestampType(), nullable=False),
    ]
)

ORDER_EVENTS = T.StructType([*ORDER.fields, *RECORD_ADDRESS, CONTRACT_VERSION_FIELD])

DEAD_LETTERS = T.StructType(
    [
        *RECORD_ADDRESS,
        T.StructField("kafka_timestamp", T.TimestampType()),
        T.StructField("key", T.BinaryType()),
        T.StructField("value", T.BinaryType()),
        T.StructField("violations", T.ArrayType(T.StringType()), nullable=False),
        CONTRACT_VERSION_FIELD,
    ]
)

LINES = T.StructType(
    [
        T.StructField("line", T.StringType(), nullable=False),
        *RECORD_ADDRESS,
        T.StructField("kafka_timestamp", T.TimestampType()),
    ]
)
