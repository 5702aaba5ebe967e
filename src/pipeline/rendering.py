"""Rows and settings as text: the same words in JSON, CSV and tables. Times are ISO-8601 in UTC with Z, money is exact."""

from __future__ import annotations

import base64
import csv
import io
import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import date, datetime
from decimal import Decimal
from typing import Any

from pipeline.instants import written

__all__ = ["csv_lines", "json_lines", "printable", "readable", "table_cells", "value_lines", "yaml_lines"]


JSON_TOKEN = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"|\{\s*\}|\[\s*\]|[{}\[\],:]|[^\s{}\[\],:"]+')


def json_lines(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> Iterator[str]:
    """One JSON object a row; decimals as strings, bytes in Base64."""
    for row in rows:
        yield json.dumps(
            {name: _plain(value) for name, value in zip(columns, row, strict=True)}, ensure_ascii=False
        )


def csv_lines(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> Iterator[str]:
    """A header and one record a row, quoted where needed; null is empty."""
    for row in ([*columns], *([_text(value) for value in row] for row in rows)):
        buffer = io.StringIO()
        csv.writer(buffer, lineterminator="").writerow(row)
        yield buffer.getvalue()


def table_cells(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> tuple[list[list[str]], list[str]]:
    """The texts of the rows, and the names of the columns that hold numbers."""
    values = [list(row) for row in rows]
    numbers = [
        name
        for place, name in enumerate(columns)
        if any(_is_number(row[place]) for row in values)
        and all(row[place] is None or _is_number(row[place]) for row in values)
    ]
    return [[_text(value) for value in row] for row in values], numbers


def yaml_lines(values: Mapping[str, Any], origins: Mapping[str, str]) -> Iterator[str]:
    """Dotted keys with their values, each followed by a comment that tells where the value came from."""
    written = {key: f"{key}: {json.dumps(value, ensure_ascii=False)}" for key, value in values.items()}
    width = min(80, max(map(len, written.values()), default=0))
    for key, line in written.items():
        yield f"{line:<{width}}  # {origins[key]}"


def readable(value: bytes) -> str:
    """Bytes of someone else as text; what is not UTF-8 is escaped."""
    return value.decode(errors="backslashreplace")


def printable(text: str) -> str:
    """The text with what a terminal would obey, or not show, written as an escape."""
    return "".join(
        one if one.isprintable() or one == "\t" else one.encode("unicode_escape").decode() for one in text
    )


def value_lines(value: bytes) -> Iterator[str]:
    """The value over several lines: JSON indented, every token as it is written; other text by its own lines."""
    text = readable(value)
    return _indented_json(text) if _is_json(value) else iter(text.split("\n"))


def _is_json(value: bytes) -> bool:
    try:
        # Not turned into numbers: one may have more digits than Python wants to read.
        json.loads(value.decode(), parse_int=str, parse_float=str)
    except (ValueError, RecursionError):
        return False
    return True


def _indented_json(text: str) -> Iterator[str]:
    level, line = 0, ""
    for token in JSON_TOKEN.findall(text):
        if token in ("}", "]"):
            yield line
            level -= 1
            line = "  " * level + token
        elif token in (",", "{", "["):
            yield line + token
            level += token != ","
            line = "  " * level
        elif token[0] in "{[":  # an empty one
            line += "".join(token.split())
        else:
            line += ": " if token == ":" else token
    yield line


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float, Decimal)) and not isinstance(value, bool)


def _text(value: Any) -> str:
    plain = _plain(value)
    if plain is None:
        return ""
    return plain if isinstance(plain, str) else json.dumps(plain, ensure_ascii=False)


def _plain(value: Any) -> Any:
    if isinstance(value, Decimal):
        return format(value, "f")
    if isinstance(value, datetime):
        return written(value)
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, (bytes, bytearray)):
        return base64.b64encode(value).decode("ascii")
    if isinstance(value, float) and not math.isfinite(value):
        return None  # JSON has no word for it
    if isinstance(value, Mapping):
        return {str(key): _plain(one) for key, one in value.items()}
    if hasattr(value, "asDict"):  # a struct, as Spark gives it
        return _plain(value.asDict())
    return [_plain(one) for one in value] if isinstance(value, (list, tuple)) else value
