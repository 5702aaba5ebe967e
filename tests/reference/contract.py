"""The contract of the events, word for word, in plain Python: what is accepted, what is dead, and why.

A verdict depends on the value and the Kafka timestamp alone. Written from the design only; it shares nothing
with the product, which is judged by it.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from decimal import Decimal
from typing import Literal

from .kafka_log import Record

Kind = Literal["orders", "products", "text-lines"]
Fate = Literal["accepted", "dead", "tombstone"]

KINDS: Mapping[str, Kind] = {"orders": "orders", "products": "products", "text-lines": "text-lines"}
"""The kind of each topic, under the topics' default names."""

MAX_BYTES = 1_048_576
MAX_LEVELS = 1_000
MAX_CHARACTERS = 128
MAX_QUANTITY = 1_000_000
MAX_MONEY = Decimal(10) ** 10
MAX_AHEAD_MICROSECONDS = 5 * 60 * 1_000_000

EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
FIRST_INSTANT = datetime(2000, 1, 1, tzinfo=timezone.utc)

# ASCII digits and fullmatch throughout: \d knows other scripts' digits, and $ lets a last line break pass.
NUMBER = re.compile(r"(-?)(0|[1-9][0-9]*)(?:\.([0-9]+))?(?:[eE]([+-]?)([0-9]+))?")
INTEGER = re.compile(r"-?(0|[1-9][0-9]*)")
TIMESTAMP = re.compile(
    r"([0-9]{4})-([0-9]{2})-([0-9]{2})T([0-9]{2}):([0-9]{2}):([0-9]{2})(?:\.([0-9]{1,6}))?"
    r"(?:(Z)|([+-])([0-9]{2}):([0-9]{2}))"
)


@dataclass(frozen=True)
class Item:
    """One line of an order."""

    product_id: str
    price: Decimal
    quantity: int


@dataclass(frozen=True)
class OrderEvent:
    """An accepted creation or cancellation; `total` is None only for a cancellation that names none."""

    event_type: str
    order_id: str
    customer_id: str
    total: Decimal | None
    status: str
    items: tuple[Item, ...] | None
    event_time: datetime


@dataclass(frozen=True)
class ProductEvent:
    """An accepted version of a product."""

    product_id: str
    name: str
    product_category: str
    price: Decimal
    cost: Decimal
    event_time: datetime


@dataclass(frozen=True)
class TextLine:
    """An accepted text."""

    text: str


Event = OrderEvent | ProductEvent | TextLine


@dataclass(frozen=True)
class Verdict:
    """A record's fate; violations only when dead, an event only when accepted."""

    fate: Fate
    violations: tuple[str, ...] = ()
    event: Event | None = None


@dataclass(frozen=True)
class Number:
    """A JSON number as it was written."""

    text: str


class BrokenError(ValueError):
    """A value that its field's rule refuses."""


def classify(record: Record, kind: Kind) -> Verdict:
    """The one fate of a record, with its violations in the contract's order or its typed event."""
    if record.value is None:
        return Verdict("tombstone")
    if len(record.value) > MAX_BYTES:
        return Verdict("dead", ("too_large",))
    if kind == "text-lines":
        return _classify_text(record.value)
    try:
        fields = parse_object(record.value)
    except ValueError:
        return Verdict("dead", ("not_json",))
    if kind == "orders":
        return _classify_order(fields, record.timestamp_ms)
    return _classify_product(fields, record.timestamp_ms)


def _classify_text(value: bytes) -> Verdict:
    try:
        return Verdict("accepted", event=TextLine(value.decode("utf-8")))
    except UnicodeDecodeError:
        return Verdict("dead", ("not_utf8",))


def _classify_order(fields: Mapping[str, object], timestamp_ms: int) -> Verdict:
    violations: list[str] = []

    event_type = fields.get("event_type")
    if event_type not in ("order_created", "order_cancelled"):
        violations.append("event_type")

    order_id = customer_id = ""
    try:
        order_id = identifier(fields.get("order_id"))
    except BrokenError:
        violations.append("order_id")
    try:
        customer_id = identifier(fields.get("customer_id"))
    except BrokenError:
        violations.append("customer_id")

    items: tuple[Item, ...] | None = None
    items_are_broken = False
    try:
        items = order_items(fields.get("items"))
    except BrokenError:
        items_are_broken = True

    total: Decimal | None = None
    try:
        if fields.get("total") is not None:
            total = money(fields["total"])
        elif event_type == "order_created" and not items_are_broken:
            total = derived_total(items)
    except BrokenError:
        violations.append("total")

    status = fields.get("status")
    if status is None:
        status = "cancelled" if event_type == "order_cancelled" else "pending"
    elif status not in ("pending", "completed", "cancelled"):
        violations.append("status")

    if items_are_broken:
        violations.append("items")

    event_time = EPOCH
    try:
        event_time = instant(fields.get("timestamp"), timestamp_ms)
    except BrokenError:
        violations.append("timestamp")

    if violations:
        return Verdict("dead", tuple(violations))
    event = OrderEvent(str(event_type), order_id, customer_id, total, str(status), items, event_time)
    return Verdict("accepted", event=event)


def _classify_product(fields: Mapping[str, object], timestamp_ms: int) -> Verdict:
    violations: list[str] = []
    texts: dict[str, str] = {}
    for name in ("product_id", "name", "product_category"):
        try:
            texts[name] = identifier(fields.get(name))
        except BrokenError:
            violations.append(name)
    amounts: dict[str, Decimal] = {}
    for name in ("price", "cost"):
        try:
            amounts[name] = money(fields.get(name))
        except BrokenError:
            violations.append(name)
    event_time = EPOCH
    try:
        event_time = instant(fields.get("timestamp"), timestamp_ms)
    except BrokenError:
        violations.append("timestamp")
    if violations:
        return Verdict("dead", tuple(violations))
    return Verdict("accepted", event=ProductEvent(**texts, **amounts, event_time=event_time))  # type: ignore[arg-type]


def parse_object(value: bytes) -> dict[str, object]:
    """The one JSON object that the bytes hold, its numbers as written; ValueError for anything else."""
    text = value.decode("utf-8")
    if _levels(text) > MAX_LEVELS:
        raise ValueError("nested too deeply")
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(max(limit, 10 * MAX_LEVELS))  # the parser recurses once a level
    try:
        parsed = json.loads(text, parse_int=Number, parse_float=Number, parse_constant=_refuse_constant)
    finally:
        sys.setrecursionlimit(limit)
    if not isinstance(parsed, dict):
        raise ValueError("not an object")
    return parsed


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _levels(text: str) -> int:
    """The deepest nesting of brackets outside strings; the outermost is level 1. Stops past the limit."""
    level = deepest = 0
    for token in re.finditer(r'"[^"\\]*(?:\\.[^"\\]*)*"|[\[\]{}]', text, re.DOTALL):
        if token[0] in "[{":
            level += 1
            deepest = max(deepest, level)
            if deepest > MAX_LEVELS:
                break
        elif token[0] in "]}":
            level -= 1
    return deepest


def identifier(value: object) -> str:
    """A non-empty text of at most 128 code points; an integer is taken as its text."""
    if isinstance(value, Number) and INTEGER.fullmatch(value.text):
        value = value.text
    if not isinstance(value, str) or not 1 <= len(value) <= MAX_CHARACTERS:
        raise BrokenError(value)
    return value


def money(value: object) -> Decimal:
    """An amount from 0 to under 10^10 with two decimals, exact whatever its spelling."""
    text = value.text if isinstance(value, Number) else value
    written = NUMBER.fullmatch(text) if isinstance(text, str) else None
    if written is None:
        raise BrokenError(value)
    sign, whole, fraction, exponent_sign, exponent_digits = (part or "" for part in written.groups())
    digits = (whole + fraction).lstrip("0")
    if not digits:
        return Decimal("0.00")
    significant = digits.rstrip("0")
    exponent = _exponent(exponent_sign, exponent_digits) - len(fraction) + len(digits) - len(significant)
    if sign or exponent < -2 or len(significant) + exponent > 10:
        raise BrokenError(value)
    return _cents(int(significant) * 10 ** (exponent + 2))


def _exponent(sign: str, digits: str) -> int:
    digits = digits.lstrip("0")
    size = 10**18 if len(digits) > 18 else int(digits or "0")  # no value of 1 MiB makes up for 10^18 places
    return -size if sign == "-" else size


def _cents(cents: int) -> Decimal:
    return (Decimal(cents) / 100).quantize(Decimal("0.01"))


def order_items(value: object) -> tuple[Item, ...] | None:
    """The lines of an order, None when absent; one broken line breaks the list."""
    if value is None:
        return None
    if not isinstance(value, list):
        raise BrokenError(value)
    return tuple(_order_item(line) for line in value)


def _order_item(value: object) -> Item:
    if not isinstance(value, dict):
        raise BrokenError(value)
    return Item(
        identifier(value.get("product_id")), money(value.get("price")), _quantity(value.get("quantity"))
    )


def _quantity(value: object) -> int:
    if value is None:
        return 1
    if not isinstance(value, Number) or not INTEGER.fullmatch(value.text) or len(value.text) > 7:
        raise BrokenError(value)
    quantity = int(value.text)
    if not 1 <= quantity <= MAX_QUANTITY:
        raise BrokenError(value)
    return quantity


def derived_total(items: tuple[Item, ...] | None) -> Decimal:
    """Σ price × quantity of a creation that names no total."""
    if not items:
        raise BrokenError("neither total nor items")
    total = sum((item.price * item.quantity for item in items), Decimal("0.00"))
    if total >= MAX_MONEY:
        raise BrokenError(total)
    return total


def instant(value: object, timestamp_ms: int) -> datetime:
    """The event time in UTC: from the year 2000 on, at most 5 minutes after the Kafka timestamp."""
    written = TIMESTAMP.fullmatch(value) if isinstance(value, str) else None
    if written is None:
        raise BrokenError(value)
    year, month, day, hour, minute, second = (int(part) for part in written.groups()[:6])
    microsecond = int((written[7] or "").ljust(6, "0"))
    offset_hours, offset_minutes = int(written[10] or 0), int(written[11] or 0)
    if offset_hours > 23 or offset_minutes > 59:
        raise BrokenError(value)
    offset = timedelta(hours=offset_hours, minutes=offset_minutes)
    try:
        local = datetime(year, month, day, hour, minute, second, microsecond, tzinfo=timezone.utc)
        event_time = local + offset if written[9] == "-" else local - offset
    except (ValueError, OverflowError) as error:
        raise BrokenError(value) from error
    ahead = (event_time - EPOCH) // timedelta(microseconds=1) - timestamp_ms * 1_000
    if event_time < FIRST_INSTANT or ahead > MAX_AHEAD_MICROSECONDS:
        raise BrokenError(value)
    return event_time
