"""Patches of rejected values: bytes in, bytes out; None where a patch has nothing to take hold of.

Plain Python, because a patch must leave what it does not touch as it was written, and Spark cannot: `from_json` and
`to_json` print a number anew, through a double. Only the standard library, because the command line names the repairs
before it loads anything.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

__all__ = ["BULK_REPAIRS", "BulkRepair", "Patch", "bulk_patch", "merge_patch", "value_patch"]

MERGE = "merge"
VALUE = "value"
BULK = "bulk:"

LOCAL_TIME = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(?:\.[0-9]{1,6})?")
INTEGER = re.compile(r"[1-9][0-9]{0,6}")

Event = dict[str, Any]


@dataclass(frozen=True)
class Patch:
    """`form` is merge, value or `bulk:<names>`; `text` is what the person gave, None for a bulk repair."""

    form: str
    text: str | None
    apply: Callable[[bytes], bytes | None]


@dataclass(frozen=True)
class BulkRepair:
    """`description` says which values it changes, and how."""

    description: str
    apply: Callable[[bytes], bytes | None]


@dataclass(frozen=True)
class _Number:
    """A JSON number as it is written."""

    text: str


def merge_patch(text: str) -> Patch:
    """The JSON merge patch (RFC 7396). Raises ValueError unless `text` is a JSON object."""
    patch = _parsed(text)
    if not isinstance(patch, dict):
        raise ValueError("it is no JSON object")
    return Patch(MERGE, text, partial(_apply_merge, text))


def value_patch(text: str) -> Patch:
    """A whole new value, whatever the old one is."""
    return Patch(VALUE, text, partial(_apply_value, text.encode()))


def bulk_patch(names: Sequence[str]) -> Patch:
    """The bulk repairs of these names, one after the other; None where not one of them applies."""
    return Patch(BULK + ",".join(names), None, partial(_apply_bulk, tuple(names)))


def _apply_merge(text: str, value: bytes) -> bytes | None:
    event = _event(value)
    return None if event is None else _bytes_of(_merged(event, _parsed(text)))


def _apply_value(replacement: bytes, _: bytes) -> bytes:
    return replacement


def _apply_bulk(names: Sequence[str], value: bytes) -> bytes | None:
    repaired = value
    for name in names:
        repaired = BULK_REPAIRS[name].apply(repaired) or repaired
    return None if repaired == value else repaired


def _merged(target: Any, patch: Any) -> Any:
    if not isinstance(patch, dict):
        return patch
    merged = dict(target) if isinstance(target, dict) else {}
    for name, value in patch.items():
        if value is None:
            merged.pop(name, None)
        else:
            merged[name] = _merged(merged.get(name), value)
    return merged


def _changing(change: Callable[[Event], Event]) -> Callable[[bytes], bytes | None]:
    return partial(_apply_change, change)


def _apply_change(change: Callable[[Event], Event], value: bytes) -> bytes | None:
    event = _event(value)
    if event is None:
        return None
    changed = change(event)
    return None if changed == event else _bytes_of(changed)


def _in_utc(event: Event) -> Event:
    time = event.get("timestamp")
    if not isinstance(time, str) or not LOCAL_TIME.fullmatch(time):
        return event
    return {**event, "timestamp": f"{time}Z"}


def _trimmed(event: Event) -> Event:
    return {
        name: _trimmed_items(value) if name == "items" else _stripped(value) for name, value in event.items()
    }


def _trimmed_items(items: Any) -> Any:
    return _with_items(items, lambda item: {name: _stripped(value) for name, value in item.items()})


def _stripped(value: Any) -> Any:
    return value.strip() if isinstance(value, str) else value


def _in_lower_case(event: Event) -> Event:
    words = {
        name: event[name].lower() for name in ("event_type", "status") if isinstance(event.get(name), str)
    }
    return {**event, **words}


def _with_numeric_quantities(event: Event) -> Event:
    if "items" not in event:
        return event
    return {**event, "items": _with_items(event["items"], _with_numeric_quantity)}


def _with_numeric_quantity(item: Event) -> Event:
    quantity = item.get("quantity")
    if not isinstance(quantity, str) or not INTEGER.fullmatch(quantity):
        return item
    return {**item, "quantity": _Number(quantity)}


def _with_items(items: Any, change: Callable[[Event], Event]) -> Any:
    if not isinstance(items, list):
        return items
    return [change(item) if isinstance(item, dict) else item for item in items]


def _from_latin_1(value: bytes) -> bytes | None:
    try:
        value.decode()
    except UnicodeDecodeError:
        return value.decode("latin-1").encode()
    return None


BULK_REPAIRS: Mapping[str, BulkRepair] = {
    "assume-utc": BulkRepair("a timestamp without an offset is UTC: Z is put after it", _changing(_in_utc)),
    "trim": BulkRepair(
        "white space around the texts of an event and of its items is cut off", _changing(_trimmed)
    ),
    "lower-case": BulkRepair("event_type and status are put in lower case", _changing(_in_lower_case)),
    "unquote-quantities": BulkRepair(
        'a quantity in quotes ("2") becomes a number', _changing(_with_numeric_quantities)
    ),
    "assume-latin-1": BulkRepair("bytes that are not UTF-8 are read as ISO-8859-1", _from_latin_1),
}
"""What can be done to many letters by its name. None of them invents a value."""


def _event(value: bytes) -> Event | None:
    """The JSON object that the bytes hold; None where they hold none, or one that is nested too deeply for Python."""
    try:
        event = _parsed(value.decode())
    except (ValueError, RecursionError):
        return None
    return event if isinstance(event, dict) else None


def _parsed(text: str) -> Any:
    return json.loads(text, parse_int=_Number, parse_float=_Number, parse_constant=_refuse)


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")


def _bytes_of(event: Event) -> bytes | None:
    try:
        return _written(event).encode()
    except RecursionError:
        return None


def _written(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ",".join([f"{_quoted(name)}:{_written(one)}" for name, one in value.items()]) + "}"
    if isinstance(value, list):
        return "[" + ",".join([_written(one) for one in value]) + "]"
    if isinstance(value, _Number):
        return value.text
    return _quoted(value) if isinstance(value, str) else json.dumps(value)


def _quoted(text: str) -> str:
    """The text as JSON; as it stands, but for half of a surrogate pair, which has no bytes and is escaped."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return json.dumps(text)
    return json.dumps(text, ensure_ascii=False)
