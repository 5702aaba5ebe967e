"""What `--where` may say: one boolean expression over a view's columns, and nothing else.

The text is parsed, never passed on: what an engine gets is written anew from a tree of which every node is on the list
below. Subqueries, other tables, functions that read files or settings are not on it.
"""

from __future__ import annotations

from collections.abc import Collection

import sqlglot
from sqlglot import expressions as E
from sqlglot.errors import SqlglotError

from pipeline.errors import UsageError

__all__ = ["as_condition"]

_LOGIC = (E.And, E.Or, E.Not, E.Paren, E.Boolean, E.Null)
_COMPARISONS = (
    E.EQ,
    E.NEQ,
    E.GT,
    E.GTE,
    E.LT,
    E.LTE,
    E.NullSafeEQ,
    E.NullSafeNEQ,
    E.Between,
    E.In,
    E.Is,
    E.Like,
    E.ILike,
)
_VALUES = (
    E.Literal,
    E.Column,
    E.Identifier,
    E.Cast,
    E.TryCast,
    E.DataType,
    E.DataTypeParam,
    E.Interval,
    E.Var,
    E.Neg,
)
_ARITHMETIC = (E.Add, E.Sub, E.Mul, E.Div, E.Mod, E.Abs, E.Round, E.Floor, E.Ceil)
_FUNCTIONS = (
    E.Lower, E.Upper, E.Length, E.Trim, E.Substring, E.Concat, E.StartsWith, E.Coalesce, E.Case, E.If,
    E.Extract, E.TimestampTrunc, E.Date, E.Year, E.Month, E.Day,
)  # fmt: skip
_ALLOWED = (*_LOGIC, *_COMPARISONS, *_VALUES, *_ARITHMETIC, *_FUNCTIONS)

_KINDS = E.DataType.Type
_TYPES = (
    _KINDS.TEXT, _KINDS.VARCHAR, _KINDS.CHAR, _KINDS.BOOLEAN, _KINDS.TINYINT, _KINDS.SMALLINT, _KINDS.INT, _KINDS.BIGINT,
    _KINDS.DECIMAL, _KINDS.FLOAT, _KINDS.DOUBLE, _KINDS.DATE, _KINDS.TIMESTAMP, _KINDS.TIMESTAMPTZ, _KINDS.TIMESTAMPNTZ,
)  # fmt: skip

_MAX_CHARACTERS = 10_000


def as_condition(text: str, *, columns: Collection[str], dialect: str) -> str:
    """The condition, which is written as in Spark SQL, for an engine (a dialect of sqlglot).

    Raises UsageError where it is not one expression, names another column, or holds what a condition may not.
    """
    if len(text) > _MAX_CHARACTERS:
        raise UsageError(f"--where takes at most {_MAX_CHARACTERS:,} characters; came {len(text):,}.")
    try:
        tree = _parsed(text)
        for node in tree.walk():
            _require_allowed(node)
        for column in tree.find_all(E.Column):
            _require_column(column, columns)
        return tree.sql(dialect=dialect, comments=False)
    except RecursionError:
        raise UsageError("--where is nested too deeply.") from None


def _parsed(text: str) -> E.Expression:
    try:
        trees = sqlglot.parse(f"SELECT 1 WHERE {text}", read="spark")
    except SqlglotError as error:
        raise _not_a_condition(text, error) from None
    only = trees[0] if len(trees) == 1 else None
    if not isinstance(only, E.Select) or set(_used(only)) != {"expressions", "where"}:
        raise UsageError(f"--where takes one condition; came {text[:80]!r}.")
    condition = only.args["where"].this
    assert isinstance(condition, E.Expression)
    return condition


def _require_allowed(node: E.Expr) -> None:
    if not isinstance(node, _ALLOWED) or (isinstance(node, E.DataType) and node.this not in _TYPES):
        raise UsageError(
            f"--where takes comparisons of the view's columns; it may not hold {node.sql(dialect='spark')[:80]!r}."
        )


def _used(select: E.Select) -> list[str]:
    return [name for name, value in select.args.items() if value]


def _require_column(column: E.Column, columns: Collection[str]) -> None:
    if column.table or column.name.lower() not in columns:
        raise UsageError(
            f"--where names {column.sql(dialect='spark')!r}, which is no column of the view.\n"
            f"Its columns: {', '.join(columns)}."
        )


def _not_a_condition(text: str, error: SqlglotError) -> UsageError:
    first = str(error).splitlines()[0]
    return UsageError(f"--where takes a condition such as customer_id = 'c1'; {text[:80]!r} is none: {first}")
