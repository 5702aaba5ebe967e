"""The verdict on one order record, in plain Python: the one that decoding by Spark reaches.

Names, limits and identities are those of contracts.py. What remains, how a value may be written, is said twice: here for
one event and in transforms/ for millions, where only built-in functions are fast enough. Neither could run the other: a
session a message, or Python a row. That the two agree is a test over fuzzed records, against an independent third.
"""

from __future__ import annotations

import json
import re
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from decimal import Context, Decimal, InvalidOperation
from typing import Any, NamedTuple, TypeVar

from pipeline.contracts import (
    AMOUNT_DECIMALS,
    CANCELLED,
    ITEM_LIMITS,
    MAX_CLOCK_SKEW_MINUTES,
    MAX_NESTING_LEVELS,
    MAX_NUMBER_DIGITS,
    MAX_VALUE_BYTES,
    NOT_JSON,
    ORDER_CANCELLED,
    ORDER_CREATED,
    ORDER_LIMITS,
    ORDER_VIOLATIONS,
    PENDING,
    TOO_LARGE,
    Limits,
)
from pipeline.instants import of_milliseconds

__all__ = ["Item", "OrderEvent", "Verdict", "judged"]

# ASCII digits only, and to the very end: \d knows other scripts, and $ lets a line break pass.
_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?")
_INTEGER = re.compile(r"-?(?:0|[1-9][0-9]*)")
_INSTANT = re.compile(
    r"([0-9]{4}-[0-9]{2}-[0-9]{2}T(?:[01][0-9]|2[0-3]):[0-9]{2}:[0-9]{2})(?:\.([0-9]{1,6}))?"
    r"(Z|[+-](?:[01][0-9]|2[0-3]):[0-5][0-9])"
)
_UNCOUNTED_ZERO = re.compile(r"-?0[.eE](?=[+-]?[0-9]+\Z)")
_BRACKETS = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"|[\[\]{}]', re.DOTALL)

_CENT = Decimal(10) ** -AMOUNT_DECIMALS
_MOST_SKEW = timedelta(minutes=MAX_CLOCK_SKEW_MINUTES)
_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)

_deep_parsing = threading.Lock()


@dataclass(frozen=True)
class Item:
    """One line of an order."""

    product_id: str
    price: Decimal
    quantity: int = 1


@dataclass(frozen=True)
class OrderEvent:
    """An order that was created or cancelled; `total` is None only for a cancellation that names none.

    Two events with the same event_type, order_id and event_time are one event that came twice.
    """

    event_type: str
    order_id: str
    customer_id: str
    total: Decimal | None
    status: str
    items: tuple[Item, ...] | None
    event_time: datetime


class Verdict(NamedTuple):
    """An event, or the rules that are broken in contract order; neither for a tombstone."""

    event: OrderEvent | None = None
    violations: tuple[str, ...] = ()


class _Number(str):
    """A JSON number as it was written."""


def judged(value: bytes | None, *, timestamp_ms: int) -> Verdict:
    """The verdict on a record's value, by the value and the record's Kafka timestamp alone."""
    if value is None:
        return Verdict()
    if len(value) > MAX_VALUE_BYTES:
        return Verdict(violations=(TOO_LARGE,))
    try:
        fields = _fields(value)
    except ValueError:
        return Verdict(violations=(NOT_JSON,))
    return _judged_fields(fields, of_milliseconds(timestamp_ms))


Value = TypeVar("Value")


def _judged_fields(fields: Mapping[str, Any], kafka_time: datetime) -> Verdict:
    broken: set[str] = set()

    def read(name: str, rule: Callable[[], Value]) -> Value | None:
        try:
            return rule()
        except ValueError:
            broken.add(name)
            return None

    event_type = read("event_type", lambda: _text(fields.get("event_type"), ORDER_LIMITS["event_type"]))
    items = read("items", lambda: _items(fields.get("items")))
    total, default_status = None, CANCELLED if event_type == ORDER_CANCELLED else PENDING
    if fields.get("total") is not None:
        total = read("total", lambda: _amount(fields["total"], ORDER_LIMITS["total"]))
    elif event_type == ORDER_CREATED and "items" not in broken:
        total = read("total", lambda: _derived_total(items))
    status = fields.get("status")
    event = OrderEvent(
        event_type=event_type or "",
        order_id=read("order_id", lambda: _identifier(fields.get("order_id"), ORDER_LIMITS["order_id"]))
        or "",
        customer_id=read(
            "customer_id", lambda: _identifier(fields.get("customer_id"), ORDER_LIMITS["customer_id"])
        )
        or "",
        total=total,
        status=read(
            "status", lambda: default_status if status is None else _text(status, ORDER_LIMITS["status"])
        )
        or "",
        items=items,
        event_time=read("timestamp", lambda: _event_time(fields.get("timestamp"), kafka_time)) or _EPOCH,
    )
    if broken:
        return Verdict(violations=tuple(name for name in ORDER_VIOLATIONS if name in broken))
    return Verdict(event)


def _within(value: Value, limits: Limits) -> Value:
    known: Any = value
    if (
        (limits.values and known not in limits.values)
        or (limits.least is not None and known < limits.least)
        or (limits.most is not None and known > limits.most)
        or (limits.max_characters is not None and not 1 <= len(known) <= limits.max_characters)
    ):
        raise ValueError("against its limits")
    return value


def _text(value: Any, limits: Limits) -> str:
    if not isinstance(value, str) or isinstance(value, _Number):
        raise ValueError("not a string")
    return _within(value, limits)


def _identifier(value: Any, limits: Limits) -> str:
    """A string, or an integer as its text."""
    if isinstance(value, _Number) and _INTEGER.fullmatch(value):
        value = "0" if value == "-0" else str(value)
    return _text(value, limits)


def _amount(value: Any, limits: Limits) -> Decimal:
    """The exact amount of a number, or of a string that holds one in JSON's grammar."""
    if not isinstance(value, str) or not _NUMBER.fullmatch(value):
        raise ValueError("not a number")
    number = _decimal(value)
    if not number:
        return Decimal("0.00")
    _, digits, exponent = number.as_tuple()
    excess = -AMOUNT_DECIMALS - int(exponent)
    if excess > 0 and (excess >= len(digits) or any(digits[-excess:])):
        raise ValueError("too many decimals")
    # No rounding can happen any more: what is cut off are zeros.
    return _within(number, limits).quantize(_CENT, context=Context(prec=30))


def _decimal(text: str) -> Decimal:
    try:
        return Decimal(text)
    except InvalidOperation:  # an exponent beyond all bounds: nothing, or out of range
        mantissa = re.split("[eE]", text)[0]
        if mantissa.strip("-0.") == "":
            return Decimal(0)
        raise ValueError("out of range") from None


def _items(value: Any) -> tuple[Item, ...] | None:
    if value is None:
        return None
    if not isinstance(value, list):
        raise ValueError("not a list")
    return tuple(_item(line) for line in value)


def _item(line: Any) -> Item:
    if not isinstance(line, dict):
        raise ValueError("not an object")
    return Item(
        product_id=_identifier(line.get("product_id"), ITEM_LIMITS["product_id"]),
        price=_amount(line.get("price"), ITEM_LIMITS["price"]),
        quantity=_quantity(line.get("quantity"), ITEM_LIMITS["quantity"]),
    )


def _quantity(value: Any, limits: Limits) -> int:
    if value is None:
        return 1
    if not isinstance(value, _Number) or not _INTEGER.fullmatch(value):
        raise ValueError("not an integer")
    return int(_within(Decimal(value), limits))


def _derived_total(items: tuple[Item, ...] | None) -> Decimal:
    if not items:
        raise ValueError("neither total nor items")
    cents = sum(int(item.price.scaleb(AMOUNT_DECIMALS)) * item.quantity for item in items)
    most = ORDER_LIMITS["total"].most
    assert most is not None
    if cents > most * 10**AMOUNT_DECIMALS:
        raise ValueError("out of range")
    return Decimal(cents).scaleb(-AMOUNT_DECIMALS)


def _event_time(value: Any, kafka_time: datetime) -> datetime:
    written = _INSTANT.fullmatch(value) if isinstance(value, str) else None
    if written is None:
        raise ValueError("not a complete time")
    local, fraction, offset = written.groups()
    text = f"{local}.{(fraction or '').ljust(6, '0')}{'+00:00' if offset == 'Z' else offset}"
    try:
        instant = datetime.fromisoformat(text).astimezone(timezone.utc)
    except OverflowError as error:
        raise ValueError("out of range") from error
    if instant - kafka_time > _MOST_SKEW:
        raise ValueError("ahead of its record")
    return _within(instant, ORDER_LIMITS["event_time"])


def _fields(value: bytes) -> dict[str, Any]:
    """The one JSON object that the bytes hold, its numbers as they are written; of a repeated key the last. Else ValueError."""
    text = value.decode("utf-8")
    _require_shallow(text)
    try:
        fields = _parsed(text)
    except RecursionError:
        with _deep_recursion():
            fields = _parsed(text)
    if not isinstance(fields, dict):
        raise ValueError("not an object")
    return fields


def _parsed(text: str) -> Any:
    return json.loads(text, parse_int=_number, parse_float=_number, parse_constant=_refused)


def _number(text: str) -> _Number:
    """Also of a member that nobody reads: the parser of the stream refuses the whole text (Jackson 2.21). It does not count
    the 0 of a number that has either decimals or an exponent behind it, but not both.
    """
    if len(text) > MAX_NUMBER_DIGITS:
        counted = text[len(found[0]) - 1 :] if (found := _UNCOUNTED_ZERO.match(text)) else text
        if sum(map(counted.count, "0123456789")) > MAX_NUMBER_DIGITS:
            raise ValueError("too many digits")
    return _Number(text)


def _refused(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


def _require_shallow(text: str) -> None:
    level = 0
    for token in _BRACKETS.finditer(text):
        level += {"[": 1, "{": 1, "]": -1, "}": -1}.get(token[0], 0)
        if level > MAX_NESTING_LEVELS:
            raise ValueError("nested too deeply")


@contextmanager
def _deep_recursion() -> Iterator[None]:
    """Python's parser recurses once a level, and its limit counts the caller's frames too."""
    with _deep_parsing:
        before = sys.getrecursionlimit()
        sys.setrecursionlimit(before + 3 * MAX_NESTING_LEVELS)
        try:
            yield
        finally:
            sys.setrecursionlimit(before)
