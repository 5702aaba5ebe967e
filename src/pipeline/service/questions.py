"""What is asked of a view: parameters of a URL, of which each is a column's or known, with values of the column's type."""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Context, Decimal, InvalidOperation
from typing import Any, cast

from pyspark.sql import types as T

from pipeline.errors import UsageError
from pipeline.instants import instant
from pipeline.served import Layer, columns_of
from pipeline.views import View

__all__ = ["Cursor", "Question", "asked", "types_of"]

_COMPARED = {"": "=", "ne": "<>", "lt": "<", "lte": "<=", "gt": ">", "gte": ">="}
_OWN = ("layer", "order_by", "limit", "as_of", "cursor")
_LAYERS = ("served", "speed", "batch")
_MOST_VALUES = 200
_EXACT = Context(prec=38)
"""The digits of the widest decimal: Python's own 28 are fewer than money has."""


@dataclass(frozen=True)
class Cursor:
    """Where the next page begins, and of which versions: by view batch and speed version (None: none), watermark, and the label of the
    tables."""

    offset: int
    versions: Mapping[str, tuple[int | None, int | None, str | None, str]]
    of: str

    def __str__(self) -> str:
        text = json.dumps([self.offset, self.versions, self.of], separators=(",", ":"))
        return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")

    @classmethod
    def read(cls, text: str) -> Cursor:
        try:
            offset, versions, of = json.loads(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))
            found = {
                str(view): (_version(batch), _version(speed), _watermark(at), _label(label))
                for view, (batch, speed, at, label) in versions.items()
            }
            return cls(_version(offset) or 0, found, str(of))
        except (ValueError, TypeError, AttributeError, binascii.Error) as error:
            raise UsageError(
                "cursor: this is none; take it from the answer before, as it stands there."
            ) from error


@dataclass(frozen=True)
class Question:
    """`conditions` and `order` are SQL over the columns, `values` for the conditions' `?`."""

    view: View
    layer: Layer
    conditions: tuple[str, ...]
    values: tuple[Any, ...]
    order: tuple[str, ...]
    limit: int
    as_of: datetime | None
    cursor: Cursor | None = field(default=None, compare=False)

    @property
    def mark(self) -> str:
        """The same for all pages of a question."""
        told = [
            self.view.name,
            self.layer,
            self.conditions,
            [str(value) for value in self.values],
            self.order,
        ]
        return hashlib.sha256(json.dumps(told).encode()).hexdigest()[:16]

    @property
    def tail(self) -> str:
        """What follows FROM. The order is whole: one row has one place."""
        where = f"WHERE {' AND '.join(self.conditions)} " if self.conditions else ""
        offset = self.cursor.offset if self.cursor else 0
        return f"{where}ORDER BY {', '.join(self.order)} LIMIT {self.limit + 1} OFFSET {offset}"


def types_of(view: View, layer: Layer) -> dict[str, T.DataType]:
    known = {one.name: one.dataType for one in view.schema}
    return {name: known.get(name, T.BooleanType()) for name in columns_of(view, layer)}


def asked(view: View, parameters: Iterable[tuple[str, str]], *, max_rows: int) -> Question:
    """The question that the parameters make. Raises UsageError, which names the parameter."""
    given: dict[str, list[str]] = {}
    for name, value in parameters:
        given.setdefault(name, []).append(value)
    single = {name: _single(name, given.pop(name)) for name in _OWN if name in given}
    layer = single.get("layer", "served")
    if layer not in _LAYERS:
        raise UsageError(f"layer is one of {', '.join(_LAYERS)}; came {layer[:40]!r}.")
    types = types_of(view, cast("Layer", layer))
    conditions, values = [], []
    for name, texts in given.items():
        for condition, bound in _conditions(name, texts, types, view):
            conditions.append(condition)
            values += bound
    question = Question(
        view,
        cast("Layer", layer),
        tuple(conditions),
        tuple(values),
        tuple(_order(single.get("order_by"), types, view)),
        _limit(single.get("limit"), max_rows),
        instant(single["as_of"], option="as_of") if "as_of" in single else None,
        Cursor.read(single["cursor"]) if "cursor" in single else None,
    )
    if question.cursor and question.cursor.of != question.mark:
        raise UsageError("cursor: it is of another question. Ask the same one, with this cursor added.")
    return question


def _conditions(
    name: str, texts: list[str], types: Mapping[str, T.DataType], view: View
) -> Iterator[tuple[str, list[Any]]]:
    column, _, how = name.partition(".")
    if column not in types or how not in _COMPARED:
        raise UsageError(
            f"{view.name} has no parameter {name[:80]!r}. There are {', '.join(_OWN)}, and the columns {', '.join(types)}, each also "
            f"with {', '.join('.' + word for word in _COMPARED if word)}."
        )
    if len(texts) > _MOST_VALUES:
        raise UsageError(f"{name} takes at most {_MOST_VALUES} values; came {len(texts)}.")
    values = [_value(name, text, types[column]) for text in texts]
    if how == "":
        yield f'"{column}" IN ({", ".join("?" * len(values))})', values
    else:
        for value in values:
            yield f'"{column}" {_COMPARED[how]} ?', [value]


def _value(name: str, text: str, of: T.DataType) -> Any:
    if isinstance(of, T.StringType):
        return text
    if isinstance(of, T.TimestampType):
        return instant(text, option=name).replace(tzinfo=None)  # as DuckDb compares it, in UTC
    if isinstance(of, T.BooleanType):
        if text not in ("true", "false"):
            raise UsageError(f"{name} is true or false; came {text[:40]!r}.")
        return text == "true"
    try:
        number = Decimal(text) if len(text) <= 40 else Decimal("nan")
        scale = of.scale if isinstance(of, T.DecimalType) else 0
        if number.is_finite() and number == (
            exact := number.quantize(Decimal(1).scaleb(-scale), context=_EXACT)
        ):
            return exact if isinstance(of, T.DecimalType) else int(exact)
    except InvalidOperation:
        pass
    raise UsageError(f"{name} takes a number that fits {of.simpleString()}; came {text[:40]!r}.")


def _order(text: str | None, types: Mapping[str, T.DataType], view: View) -> Iterator[str]:
    """By the columns asked for (-column: the largest first; nulls as Spark sorts them), then by the keys."""
    named = text.split(",") if text else []
    for name in named:
        column = name.removeprefix("-")
        if column not in types:
            raise UsageError(
                f"order_by names {column[:80]!r}, which is no column of {view.name}. Its columns: {', '.join(types)}."
            )
        yield f'"{column}" DESC NULLS LAST' if name.startswith("-") else f'"{column}" ASC NULLS FIRST'
    yield from (f'"{key}" ASC' for key in view.keys if not {key, f"-{key}"} & {*named})


def _limit(text: str | None, max_rows: int) -> int:
    if text is None:
        return min(100, max_rows)
    if not (text.isascii() and text.isdecimal()) or len(text) > 9 or not 1 <= int(text) <= max_rows:
        raise UsageError(
            f"limit is a whole number from 1 to {max_rows} (serve.max_rows); came {text[:40]!r}."
        )
    return int(text)


def _single(name: str, values: list[str]) -> str:
    if len(values) > 1:
        raise UsageError(f"{name} stands {len(values)} times; once is enough.")
    return values[0]


def _version(value: object) -> int | None:
    if value is None or (isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**53):
        return value
    raise ValueError("no version")


def _label(value: object) -> str:
    if isinstance(value, str) and re.fullmatch(r"\d{1,9}(r\d{1,9})?", value, re.ASCII):
        return value
    raise ValueError("no label")


def _watermark(value: object) -> str | None:
    return None if value is None else datetime.fromisoformat(str(value)).isoformat()
