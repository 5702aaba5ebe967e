"""Rows and settings as text: the same words in JSON, CSV and tables. Times are ISO-8601 in UTC with Z, money is exact."""

from __future__ import annotations

import base64
import csv
import io
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import date, datetime, timezone
from decimal import Decimal
from typing import Any

__all__ = ["csv_lines", "json_lines", "table_cells", "yaml_lines"]


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
        return _instant(value)
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


def _instant(value: datetime) -> str:
    """A time without zone is taken as UTC."""
    in_utc = value.replace(tzinfo=timezone.utc) if value.tzinfo is None else value.astimezone(timezone.utc)
    return in_utc.replace(tzinfo=None).isoformat() + "Z"
