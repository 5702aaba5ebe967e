"""What `--where` may say: one condition over a view's columns, which means the same to Spark and to DuckDB.

The text is parsed, never passed on. Each node of the tree is given a type, and is written anew for an engine by the table of
meanings below. What is not in it is refused in words, because the engines differ there: casts and text as a number, lower and upper beyond
ASCII, arithmetic of decimals, division, parts of seconds. A literal is made a value of the type that it is compared with here, so no engine
converts one.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from decimal import Context, Decimal, InvalidOperation
from typing import Literal

import sqlglot
from pyspark.sql import types as T
from sqlglot import expressions as E
from sqlglot.errors import SqlglotError

from pipeline.errors import UsageError

__all__ = ["Engine", "as_condition"]

Engine = Literal["duckdb", "spark"]

_MAX_CHARACTERS = 10_000
_MOST_DIGITS = 200
_INTEGERS = range(-(2**63), 2**63)
_ESCAPED = re.compile(r"(?:[^\\]|\\[%_\\])*", re.DOTALL)
_ISO = re.compile(r"\d{4}-\d\d-\d\d([T ]\d\d:\d\d(:\d\d(\.\d{1,6})?)?(Z|[+-]\d\d:\d\d)?)?", re.ASCII)
_TEMPLATE = {ord(one): f"\\u{ord(one):04x}" for one in "${}"}
"""Of Spark's, and of spark.sql in Python: without these signs a text is no template that they fill in."""
_UNITS = {
    "WEEK": timedelta(weeks=1), "DAY": timedelta(days=1), "HOUR": timedelta(hours=1), "MINUTE": timedelta(minutes=1), "SECOND": timedelta(seconds=1),
}  # fmt: skip
_SIGNS: Mapping[type[E.Expr], str] = {E.EQ: "=", E.NEQ: "<>", E.LT: "<", E.LTE: "<=", E.GT: ">", E.GTE: ">="}
_PARTS = ("year", "month", "day", "hour", "minute")
"""Of a time in UTC, as whole numbers: functions that both engines have under these names."""
_TRUNCATED_TO = ("year", "month", "day", "hour", "minute")

_TEXT, _BOOLEAN, _TIME, _INTEGER = T.StringType(), T.BooleanType(), T.TimestampType(), T.LongType()


@dataclass(frozen=True)
class _Value:
    """A piece of a condition: its type, and how an engine writes it; a literal is its value, which has no type of an engine yet."""

    kind: T.DataType | None
    written: str = ""
    literal: str | Decimal | datetime | None = None


def as_condition(text: str, *, columns: Mapping[str, T.DataType], engine: Engine) -> str:
    """The condition, which is written as in Spark SQL, for an engine; `columns` are the view's, with their types.

    Raises UsageError where it is not one condition, names another column, or says what the engines do not understand alike.
    """
    if len(text) > _MAX_CHARACTERS:
        raise UsageError(f"--where takes at most {_MAX_CHARACTERS:,} characters; came {len(text):,}.")
    try:
        found = _Writer(columns, engine).of(_parsed(text))
    except RecursionError:
        raise UsageError("--where is nested too deeply.") from None
    if found.kind != _BOOLEAN:
        raise UsageError(f"--where takes a condition such as customer_id = 'c1'; {text[:80]!r} is a value.")
    return found.written


def _parsed(text: str) -> E.Expr:
    try:
        trees = sqlglot.parse(f"SELECT 1 WHERE {text}", read="spark")
    except SqlglotError:
        raise UsageError(
            f"--where takes a condition such as customer_id = 'c1' AND total > 5; {text[:80]!r} is none. Is a quote or a bracket missing?"
        ) from None
    only = trees[0] if len(trees) == 1 else None
    if not isinstance(only, E.Select) or {name for name, value in only.args.items() if value} != {
        "expressions",
        "where",
    }:
        raise UsageError(f"--where takes one condition; came {text[:80]!r}.")
    condition = only.args["where"].this
    assert isinstance(condition, E.Expr)
    return condition


class _Writer:
    """Writes conditions over these columns for one engine."""

    def __init__(self, columns: Mapping[str, T.DataType], engine: Engine) -> None:
        self._columns, self._is_spark = columns, engine == "spark"
        self._meanings: Mapping[type[E.Expr], Callable[..., _Value]] = {
            E.Paren: lambda node: self.of(node.this),
            E.And: self._joined,
            E.Or: self._joined,
            E.Not: self._negated,
            E.Boolean: lambda node: _Value(_BOOLEAN, "TRUE" if node.this else "FALSE"),
            E.Column: self._column,
            E.Literal: self._literal,
            E.Neg: self._minus,
            E.Cast: self._time_literal,
            E.TryCast: self._time_literal,
            E.Date: self._day,
            E.TsOrDsToDate: self._day,
            E.Add: self._moved,
            E.Sub: self._moved,
            E.NullSafeEQ: self._null_safe,
            E.NullSafeNEQ: self._null_safe,
            E.Between: self._between,
            E.In: self._among,
            E.Is: self._is_null,
            E.Like: self._like,
            E.StartsWith: self._starts_with,
            E.Length: self._length,
            E.Coalesce: self._coalesced,
            E.TimestampTrunc: self._truncated,
            E.Year: self._part,
            E.Month: self._part,
            E.Day: self._part,
            E.DayOfMonth: self._part,
            E.Hour: self._part,
            E.Minute: self._part,
            E.Extract: self._part,
            **dict.fromkeys(_SIGNS, self._compared),
        }

    def of(self, node: E.Expr) -> _Value:
        meaning = self._meanings.get(type(node))
        if meaning is None:
            raise _refused(node, _INSTEAD.get(type(node), _IN_GENERAL))
        return meaning(node)

    def _condition(self, node: E.Expr) -> str:
        found = self.of(node)
        if found.kind != _BOOLEAN:
            raise _refused(node, "a condition is wanted here, such as customer_id = 'c1'")
        return found.written

    def _joined(self, node: E.Connector) -> _Value:
        word = "AND" if isinstance(node, E.And) else "OR"
        return _Value(_BOOLEAN, f"({self._condition(node.left)} {word} {self._condition(node.right)})")

    def _negated(self, node: E.Not) -> _Value:
        return _Value(_BOOLEAN, f"(NOT {self._condition(node.this)})")

    def _column(self, node: E.Column) -> _Value:
        name = node.name.lower()
        if node.table or name not in self._columns:
            raise UsageError(
                f"--where names {node.sql(dialect='spark')!r}, which is no column of the view.\n"
                f"Its columns: {', '.join(self._columns)}."
            )
        return _Value(self._columns[name], f"`{name}`" if self._is_spark else f'"{name}"')

    def _literal(self, node: E.Literal) -> _Value:
        if node.is_string:
            return _Value(None, literal=str(node.this))
        try:
            number = Decimal(str(node.this))
        except InvalidOperation:
            number = Decimal("nan")
        if (
            not number.is_finite()
            or max(abs(number.adjusted()), len(number.as_tuple().digits)) > _MOST_DIGITS
        ):
            raise _refused(node, f"a number is written as 12 or 1.50, of at most {_MOST_DIGITS} digits")
        return _Value(None, literal=number)

    def _minus(self, node: E.Neg) -> _Value:
        value = self.of(node.this).literal
        if not isinstance(value, Decimal):
            raise _refused(node, "a minus stands before a number only; put the number on the other side")
        return _Value(None, literal=value.copy_negate())

    def _time_literal(self, node: E.Cast | E.TryCast) -> _Value:
        """TIMESTAMP '…' and DATE '…'; a column's day (`CAST(event_time AS DATE)`)."""
        wanted, inside = node.to.this, self.of(node.this)
        kinds = E.DataType.Type
        if isinstance(inside.literal, str) and wanted in (
            kinds.TIMESTAMP,
            kinds.TIMESTAMPTZ,
            kinds.TIMESTAMPLTZ,
            kinds.DATE,
        ):
            return _Value(None, literal=_instant(node, inside.literal))
        if inside.kind == _TIME and wanted == kinds.DATE:
            return self._start_of("day", inside)
        raise _refused(node, "a column is compared as what it is, without a cast")

    def _day(self, node: E.Expr) -> _Value:
        """The beginning of a time's day, by which days are compared."""
        inside = self.of(node.this)
        if isinstance(inside.literal, str):
            return _Value(None, literal=_instant(node, inside.literal))
        return self._start_of("day", self._of_kind(node, inside, _TIME))

    def _moved(self, node: E.Binary) -> _Value:
        """A time literal and an interval; a number literal and another."""
        one = self.of(node.left).literal
        sign = 1 if isinstance(node, E.Add) else -1
        if isinstance(node.right, E.Interval) and isinstance(one, datetime):
            return _Value(None, literal=_added(node, one, sign, node.right))
        other = None if isinstance(node.right, E.Interval) else self.of(node.right).literal
        if isinstance(one, Decimal) and isinstance(other, Decimal):
            moved = other if sign > 0 else other.copy_negate()
            return _Value(None, literal=Context(prec=4 * _MOST_DIGITS).add(one, moved))
        raise _refused(
            node, "nothing is added to a column: put the number, or the interval, on the other side"
        )

    def _compared(self, node: E.Binary) -> _Value:
        left, right = self._alike(node, self.of(node.left), self.of(node.right))
        return _Value(_BOOLEAN, f"({left} {_SIGNS[type(node)]} {right})")

    def _null_safe(self, node: E.Binary) -> _Value:
        left, right = self._alike(node, self.of(node.left), self.of(node.right))
        same = f"({left} <=> {right})" if self._is_spark else f"({left} IS NOT DISTINCT FROM {right})"
        return _Value(_BOOLEAN, f"(NOT {same})" if isinstance(node, E.NullSafeNEQ) else same)

    def _between(self, node: E.Between) -> _Value:
        if node.args.get("symmetric"):
            raise _refused(node, "give the smaller bound first")
        this, values = self._alike_all(node, node.args["low"], node.args["high"])
        return _Value(_BOOLEAN, f"({this} BETWEEN {' AND '.join(values)})")

    def _among(self, node: E.In) -> _Value:
        if not node.expressions or {name for name, value in node.args.items() if value} != {
            "this",
            "expressions",
        }:
            raise _refused(node, "IN takes a list of values")
        this, values = self._alike_all(node, *node.expressions)
        return _Value(_BOOLEAN, f"({this} IN ({', '.join(values)}))")

    def _is_null(self, node: E.Is) -> _Value:
        if isinstance(node.expression, E.Boolean):
            this = self._condition(node.this)
            wanted = "TRUE" if node.expression.this else "FALSE"
            return _Value(
                _BOOLEAN, f"(COALESCE({this}, {'FALSE' if node.expression.this else 'TRUE'}) = {wanted})"
            )
        if not isinstance(node.expression, E.Null):
            raise _refused(node, "IS takes NULL, TRUE or FALSE")
        return _Value(_BOOLEAN, f"({self._typed(node, self.of(node.this))} IS NULL)")

    def _like(self, node: E.Like) -> _Value:
        this, pattern = self._of_kind(node, self.of(node.this), _TEXT), self.of(node.expression).literal
        if not isinstance(pattern, str) or not _ESCAPED.fullmatch(pattern):
            raise _refused(node, r"LIKE takes a text, in which \ stands before %, _ or \ only")
        return _Value(_BOOLEAN, rf"({this.written} LIKE {self._text(pattern)} ESCAPE {self._text(chr(92))})")

    def _starts_with(self, node: E.StartsWith) -> _Value:
        texts = [self._of_kind(node, self.of(one), _TEXT).written for one in (node.this, node.expression)]
        return _Value(_BOOLEAN, f"{'startswith' if self._is_spark else 'starts_with'}({', '.join(texts)})")

    def _length(self, node: E.Length) -> _Value:
        """In characters (code points)."""
        return _Value(_INTEGER, f"length({self._of_kind(node, self.of(node.this), _TEXT).written})")

    def _coalesced(self, node: E.Coalesce) -> _Value:
        first, *others = (self.of(one) for one in (node.this, *node.expressions))
        if first.kind is None:
            raise _refused(node, "the first of COALESCE is a column")
        pairs = [self._alike(node, first, one) for one in others]
        return _Value(first.kind, f"COALESCE({', '.join([first.written, *(value for _, value in pairs)])})")

    def _truncated(self, node: E.TimestampTrunc) -> _Value:
        unit = node.args["unit"].name.lower()
        if unit not in _TRUNCATED_TO:
            raise _refused(node, f"date_trunc takes {', '.join(_TRUNCATED_TO)}")
        return self._start_of(unit, self._of_kind(node, self.of(node.this), _TIME))

    def _start_of(self, unit: str, time: _Value) -> _Value:
        return _Value(_TIME, f"date_trunc('{unit}', {time.written})")

    def _part(self, node: E.Expr) -> _Value:
        """year(…) and its like, and EXTRACT(YEAR FROM …)."""
        is_extract = isinstance(node, E.Extract)
        name = (
            node.this.name.lower() if is_extract else type(node).__name__.lower().replace("dayofmonth", "day")
        )
        inside = _inner(node.expression if is_extract else node.this)
        if name not in _PARTS:
            raise _refused(node, f"of a time there are {', '.join(_PARTS)}")
        return _Value(_INTEGER, f"{name}({self._of_kind(node, self.of(inside), _TIME).written})")

    def _of_kind(self, node: E.Expr, value: _Value, kind: T.DataType) -> _Value:
        """The value as one of this type."""
        if value.kind is None:
            return _Value(kind, self._of_type(node, value.literal, kind))
        if value.kind != kind:
            raise _refused(
                node, f"{value.written} is {value.kind.simpleString()}, and {kind.simpleString()} is wanted"
            )
        return value

    def _typed(self, node: E.Expr, value: _Value) -> str:
        if value.kind is None:
            raise _refused(node, "a column is wanted here")
        return value.written

    def _alike(self, node: E.Expr, one: _Value, other: _Value) -> tuple[str, str]:
        """Both as values of one type: that of the one that is no literal."""
        if one.kind is None and other.kind is None:
            raise _refused(node, "one side of a comparison is a column")
        if one.kind is None or other.kind is None:
            kind = one.kind or other.kind
            assert kind is not None
            return (
                one.written if one.kind else self._of_type(node, one.literal, kind),
                other.written if other.kind else self._of_type(node, other.literal, kind),
            )
        if _family(one.kind) != _family(other.kind):
            raise _refused(
                node, f"{one.kind.simpleString()} and {other.kind.simpleString()} are not compared"
            )
        return one.written, other.written

    def _alike_all(self, node: E.Between | E.In, *others: E.Expr) -> tuple[str, list[str]]:
        """What is compared, and each of the others, as values of one type; a literal has one type for all of them."""
        this = self.of(node.this)
        pairs = [self._alike(node, this, self.of(one)) for one in others]
        if len({one for one, _ in pairs}) > 1:
            raise _refused(
                node, "the values are of several types: write a comparison with each, joined by OR"
            )
        return pairs[0][0], [value for _, value in pairs]

    def _of_type(self, node: E.Expr, value: object, kind: T.DataType) -> str:
        """The literal as a value of the type. A number or a time may come as a text."""
        if isinstance(kind, T.StringType) and isinstance(value, str):
            return self._text(value)
        if isinstance(kind, T.TimestampType) and isinstance(value, (str, datetime)):
            time = value if isinstance(value, datetime) else _instant(node, value)
            text = time.strftime("%H:%M:%S.%f")
            return (
                f"{'TIMESTAMP' if self._is_spark else 'TIMESTAMPTZ'} '{time.date().isoformat()} {text}+00:00'"
            )
        if isinstance(kind, (T.IntegralType, T.DecimalType)) and isinstance(value, (str, Decimal)):
            return self._number(node, _as_number(node, value), kind)
        raise _refused(node, f"a value of {kind.simpleString()} is wanted; came {str(value)[:40]!r}")

    def _number(self, node: E.Expr, number: Decimal, kind: T.DataType) -> str:
        if not isinstance(kind, T.DecimalType):
            if number != number.to_integral_value() or int(number) not in _INTEGERS:
                raise _refused(node, "a whole number of 64 bits is wanted")
            return f"CAST({int(number)} AS BIGINT)"
        decimals = f"{number:f}".partition(".")[2].rstrip("0")
        if (
            not number.is_finite()
            or number.copy_abs() >= Decimal(10) ** (kind.precision - kind.scale)
            or len(decimals) > kind.scale
        ):
            raise _refused(
                node, f"a number of {kind.simpleString()} is wanted: with at most {kind.scale} decimals"
            )
        return f"CAST('{number:f}' AS DECIMAL({kind.precision}, {kind.scale}))"

    def _text(self, text: str) -> str:
        if not self._is_spark:
            return "'" + text.replace("'", "''") + "'"
        return "'" + text.replace("\\", "\\\\").replace("'", "\\'").translate(_TEMPLATE) + "'"


def _family(kind: T.DataType) -> str:
    """Types of one family are compared without a loss: whole numbers, and decimals of one scale."""
    if isinstance(kind, T.IntegralType):
        return "integer"
    return f"decimal, {kind.scale}" if isinstance(kind, T.DecimalType) else kind.simpleString()


def _as_number(node: E.Expr, value: str | Decimal) -> Decimal:
    if isinstance(value, str) and not re.fullmatch(r"[+-]?[0-9]{1,40}(\.[0-9]{1,40})?", value):
        raise _refused(node, f"a number is wanted; came {value[:40]!r}")
    return Decimal(value)


def _instant(node: E.Expr, text: str) -> datetime:
    """A time without an offset is UTC."""
    try:
        if not _ISO.fullmatch(text):
            raise ValueError("one way to write it")
        time = datetime.fromisoformat(text)
        return time.replace(tzinfo=timezone.utc) if time.tzinfo is None else time.astimezone(timezone.utc)
    except (ValueError, OverflowError):
        raise _refused(node, f"a time such as 2026-01-01T12:00:00Z is wanted; came {text[:40]!r}") from None


def _interval(node: E.Interval) -> timedelta:
    unit = node.args["unit"].name.upper() if node.args.get("unit") else ""
    count = node.this.name if node.this is not None else ""
    if unit.removesuffix("S") not in _UNITS or not re.fullmatch(r"[0-9]{1,9}", count):
        raise _refused(node, f"an interval is written as INTERVAL 2 HOURS, of {', '.join(_UNITS).lower()}")
    return int(count) * _UNITS[unit.removesuffix("S")]


def _added(node: E.Expr, time: datetime, sign: int, interval: E.Interval) -> datetime:
    try:
        return time + sign * _interval(interval)
    except OverflowError:
        raise _refused(node, "that is before the year 1 or after 9999") from None


def _inner(node: E.Expr) -> E.Expr:
    """What sqlglot has put a conversion around."""
    while isinstance(node, (E.TsOrDsToDate, E.TsOrDsToTimestamp)):
        node = node.this
    return node


_IN_GENERAL = (
    "it takes comparisons of the view's columns, AND, OR, NOT, BETWEEN, IN, IS NULL, LIKE, startswith, length, coalesce, date, date_trunc, "
    "year, month, day, hour and minute"
)
_INSTEAD: Mapping[type[E.Expr], str] = {
    E.Null: "write IS NULL or IS NOT NULL",
    E.Lower: "beyond ASCII the engines differ: compare the text as it is, or by IN",
    E.Upper: "beyond ASCII the engines differ: compare the text as it is, or by IN",
    E.ILike: "beyond ASCII the engines differ: compare by LIKE, or by IN",
    E.Concat: r"a quote inside a text is written \'",
    E.Mul: "put what a column is multiplied with on the other side",
    E.Div: "put what a column is divided by on the other side",
}


def _refused(node: E.Expr, instead: str) -> UsageError:
    return UsageError(f"--where does not take {node.sql(dialect='spark', comments=False)[:80]!r}: {instead}.")
