"""The kinds of events: what a topic holds, where the log keeps it, and what makes two events the same one.

Orders and text are decoded by rules of their own. Any other kind is a list of fields, each with its rule, and that is all
there is to say of it: `decode` makes the typed columns and the violations from the list.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from pyspark.sql import types as T

from pipeline.contracts import AMOUNT as AMOUNT_LIMITS
from pipeline.contracts import (
    CONTRACT_VERSION_FIELD,
    MONEY,
    ORDER,
    ORDERS,
    PRODUCTS,
    RAW_EVENTS,
    RECORD_ADDRESS,
    TEXT_LINES,
    Limits,
)
from pipeline.contracts import IDENTIFIER as IDENTIFIER_LIMITS

__all__ = ["KINDS", "Field", "Kind", "amount", "choice", "identifier"]

_NOT_OURS = {
    "contract_version",
    "event_time",
    "fate",
    "headers",
    "items",
    "kafka_timestamp",
    "key",
    "kind",
    "offset",
    "partition",
    "timestamp",
    "topic",
    "value",
    "violations",
}


@dataclass(frozen=True)
class Field:
    """A field of the JSON object, and a column of the same name; its name is the violation when its rule is broken.

    `identifier`: 1 to 128 characters, a number is taken as its text. `amount`: money, 0 ≤ amount < 10^10 with at most 2
    decimals by value. `choice`: one of `values`. Null means absent, and absent breaks the rule of a required field.
    """

    name: str
    rule: Literal["identifier", "amount", "choice"]
    values: tuple[str, ...] = ()
    is_required: bool = True

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[a-z][a-z0-9_]{0,62}", self.name) or self.name in _NOT_OURS:
            raise ValueError(
                f"field {self.name!r}: a name is of a-z, 0-9 and _, and none of {', '.join(sorted(_NOT_OURS))}"
            )
        if (self.rule == "choice") != bool(self.values):
            raise ValueError(f"field {self.name!r}: values belong to a choice, and a choice needs them")

    @property
    def limits(self) -> Limits:
        return {"identifier": IDENTIFIER_LIMITS, "amount": AMOUNT_LIMITS}.get(
            self.rule, Limits(values=self.values)
        )


def identifier(name: str, *, required: bool = True) -> Field:
    return Field(name, "identifier", is_required=required)


def amount(name: str, *, required: bool = True) -> Field:
    return Field(name, "amount", is_required=required)


def choice(name: str, *values: str, required: bool = True) -> Field:
    return Field(name, "choice", values, is_required=required)


@dataclass(frozen=True)
class Kind:
    """A kind of event. Its `name` is that of its topic, unless the configuration gives it another one.

    Two events are the same when they have the same `key` (one of the fields) and `event_time`, and, of a kind `by_type`,
    the same event_type. `table` has the accepted ones; text (no key, no time) is nothing but its bytes.

    Beside `fields` each event has a `timestamp`, required, by the rule that orders have; it becomes `event_time`.
    """

    name: str
    table: str
    key: str = ""
    fields: tuple[Field, ...] = ()
    event: T.StructType | None = None
    by_type: bool = False

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[a-z][a-z0-9_-]{0,62}", self.name) or self.name in _NOT_OURS:
            raise ValueError(
                f"kind {self.name!r}: a name is of a-z, 0-9, - and _, and none of {', '.join(sorted(_NOT_OURS))}"
            )
        if self.fields and self.key not in {field.name for field in self.fields if field.is_required}:
            raise ValueError(f"kind {self.name!r}: its key {self.key!r} must be one of its required fields")
        if len({field.name for field in self.fields}) < len(self.fields):
            raise ValueError(f"kind {self.name!r}: two of its fields have the same name")

    @property
    def is_text(self) -> bool:
        return not self.key

    @property
    def identity(self) -> tuple[str, ...]:
        """The columns by which two events are the same one."""
        return (*(("event_type",) if self.by_type else ()), self.key, "event_time")

    @property
    def columns(self) -> T.StructType:
        """What an event says, without its address."""
        if self.event is not None:
            return self.event
        told = [T.StructField(field.name, _type(field), not field.is_required) for field in self.fields]
        return T.StructType([*told, T.StructField("event_time", T.TimestampType(), nullable=False)])

    @property
    def schema(self) -> T.StructType:
        """What `table` holds."""
        if self.is_text:
            return RAW_EVENTS
        return T.StructType([*self.columns.fields, *RECORD_ADDRESS, CONTRACT_VERSION_FIELD])


def _type(field: Field) -> T.DataType:
    return MONEY if field.rule == "amount" else T.StringType()


KINDS = {
    kind.name: kind
    for kind in (
        Kind(ORDERS, table="order_events", key="order_id", event=ORDER, by_type=True),
        Kind(
            PRODUCTS,
            table="product_events",
            key="product_id",
            fields=(
                identifier("product_id"),
                identifier("name"),
                identifier("product_category"),
                amount("price"),
                amount("cost"),
            ),
        ),
        Kind(TEXT_LINES, table="raw_events"),
    )
}
"""The kinds that every lake has."""
