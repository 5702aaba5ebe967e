"""What is expected of the batch tables: quality.yml, read as strictly as the settings.

An unknown table, kind, key or column is a ConfigurationError with its place and the nearest name.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any, Literal

from pyspark.sql import types as T

from pipeline import conf_files, tables
from pipeline.catalog import Catalog
from pipeline.contracts import EVENT_TIME, ORDER_LIMITS, ORDERS, PRODUCTS, Limits
from pipeline.errors import ConfigurationError
from pipeline.kinds import KINDS, Kind

__all__ = ["Expectation", "TableExpectations", "load"]

Otherwise = Literal["warn", "fail"]


@dataclass(frozen=True)
class _Known:
    """By table or view its schema; and by table what the contract says of the columns, where the table says the same thing."""

    schemas: Mapping[str, T.StructType]
    limits: Mapping[str, Mapping[str, Limits]]

    @classmethod
    def of(cls, known: Catalog) -> _Known:
        kinds = {kind.table: kind for kind in known.kinds.values() if not kind.is_text}
        product = _limits(KINDS[PRODUCTS])
        bought = {name: product[name] for name in ("product_id", "cost")}
        return cls(
            {
                **tables.SCHEMAS,
                **{table: kind.schema for table, kind in kinds.items()},
                **{name: view.schema for name, view in known.views.items()},
            },
            {
                **{table: _limits(kind) for table, kind in kinds.items()},
                tables.FACT_ORDERS: {**ORDER_LIMITS, "cost": product["cost"]},
                tables.RAW_ORDERS: {**ORDER_LIMITS, **bought},
            },
        )


def _limits(kind: Kind) -> Mapping[str, Limits]:
    if kind.name == ORDERS:
        return ORDER_LIMITS
    return {**{field.name: field.limits for field in kind.fields}, "event_time": EVENT_TIME}


@dataclass(frozen=True)
class Expectation:
    """One thing to be judged: its kind (not_null, in_range, in_set, within_length, unique, freshness, row_count, distribution)
    with its arguments.
    """

    name: str
    kind: str
    arguments: Mapping[str, Any]
    otherwise: Otherwise


@dataclass(frozen=True)
class TableExpectations:
    """`if_missing` says what follows when there is no such table yet."""

    table: str
    if_missing: Literal["skip", "warn", "fail"]
    expectations: tuple[Expectation, ...]


def load(catalog: Catalog, file: Path | None = None) -> list[TableExpectations]:
    """The expectations of the file, by default those shipped as conf/quality.yml, on tables and views of the catalog.

    Raises ConfigurationError.
    """
    document = conf_files.read(file or conf_files.shipped_folder() / "quality.yml")
    known = _Known.of(catalog)
    return [_table(_Place(document, (name,), known), name, entry) for name, entry in document.tree.items()]


@dataclass(frozen=True)
class _Place:
    document: conf_files.Document
    path: tuple[str, ...]
    tables: _Known

    def below(self, key: str) -> _Place:
        return _Place(self.document, (*self.path, key), self.tables)

    def wrong(self, expected: str, nearest: str | None = None) -> ConfigurationError:
        source, dotted = self.document.where(self.path), ".".join(self.path)
        meant = f" Did you mean {nearest}?" if nearest else ""
        return ConfigurationError(
            f"{source}: {dotted}: {expected}.{meant}", source=source, key=dotted, nearest=nearest
        )

    def known(self, name: Any, names: Collection[str], what: str) -> Any:
        if name in names:
            return name
        close = difflib.get_close_matches(str(name), names, n=1) if isinstance(name, str) else []
        raise self.wrong(
            f"there is no {what} {name!r}; there are {', '.join(names)}", next(iter(close), None)
        )

    def keys(self, entry: Any, allowed: Collection[str], required: Collection[str]) -> Mapping[str, Any]:
        """The entry as a map with these keys, and no others."""
        if not isinstance(entry, dict):
            raise self.wrong(f"must be a map with the keys {', '.join(allowed)}")
        for key in entry:
            self.below(key).known(key, allowed, "key")
        for key in required:
            if key not in entry:
                raise self.wrong(f"the key {key} is missing")
        return entry


def _table(place: _Place, table: str, entry: Any) -> TableExpectations:
    place.known(table, place.tables.schemas, "table or view")
    keys = place.keys(entry, ("if_missing", "expectations"), ("if_missing", "expectations"))
    if_missing = place.below("if_missing").known(keys["if_missing"], ("skip", "warn", "fail"), "choice")
    below, named = place.below("expectations"), keys["expectations"]
    if not isinstance(named, dict):
        raise below.wrong("must be a map of names with what each expects")
    found = [
        one for name, body in named.items() for one in _expectations(below.below(name), table, name, body)
    ]
    return TableExpectations(table, if_missing, tuple(found))


def _expectations(place: _Place, table: str, name: str, body: Any) -> Iterator[Expectation]:
    if not isinstance(body, dict) or "expect" not in body:
        raise place.wrong(f"must be a map with the key expect: one of {', '.join(_KINDS)}")
    kind = place.below("expect").known(body["expect"], _KINDS, "kind of expectation")
    required, optional = _KINDS[kind]
    place.keys(body, ("expect", *required, *optional, "otherwise"), (*required, "otherwise"))
    otherwise = place.below("otherwise").known(body["otherwise"], ("warn", "fail"), "choice")
    given = {
        key: {**required, **optional}[key](place.below(key), place.tables.schemas[table], value)
        for key, value in body.items()
        if key not in ("expect", "otherwise")
    }
    if optional and not set(optional) & set(given):
        raise place.wrong(f"needs {' or '.join(optional)}")
    for own_name, own_kind, arguments in _single(name, kind, given, place.tables, table):
        yield Expectation(own_name, own_kind, arguments, otherwise)


def _single(
    name: str, kind: str, given: Mapping[str, Any], known: _Known, table: str
) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    """What one entry stands for: itself, one for each of several columns, or all that the contract says of the table."""
    if kind == "not_null":
        yield from ((f"{name}: {column}", kind, {"column": column}) for column in given["columns"])
    elif kind == "contract":
        yield from ((f"{name}: {one[1]['column']} {one[0]}", *one) for one in _contract(known, table))
    else:
        yield name, kind, given


def _contract(known: _Known, table: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    schema, limits = known.schemas[table], known.limits.get(table, {})
    yield from (("not_null", {"column": field.name}) for field in schema.fields if not field.nullable)
    for column, limit in limits.items():
        if column not in schema.names:
            continue
        if limit.values:
            yield "in_set", {"column": column, "values": limit.values}
        if limit.max_characters is not None:
            yield "within_length", {"column": column, "at_least": 1, "at_most": limit.max_characters}
        bounds = {"at_least": limit.least, "at_most": limit.most}
        if any(bound is not None for bound in bounds.values()):
            yield (
                "in_range",
                {"column": column} | {key: one for key, one in bounds.items() if one is not None},
            )


# --- the values of keys: each takes its place, the table's schema and what is written


def _column(place: _Place, schema: T.StructType, value: Any) -> str:
    return str(place.known(value, schema.names, "column"))


def _columns(place: _Place, schema: T.StructType, value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or not value:
        raise place.wrong("must be a list of columns")
    return tuple(_column(place, schema, one) for one in value)


def _number(place: _Place, _: T.StructType, value: Any) -> Decimal:
    try:
        if (
            isinstance(value, (int, float))
            and not isinstance(value, bool)
            and Decimal(str(value)).is_finite()
        ):
            return Decimal(str(value))
    except InvalidOperation:
        pass
    raise place.wrong(f"must be a number; came {value!r}")


def _not_negative(place: _Place, schema: T.StructType, value: Any) -> Decimal:
    number = _number(place, schema, value)
    if number < 0:
        raise place.wrong(f"must be 0 or more; came {value!r}")
    return number


def _count(place: _Place, schema: T.StructType, value: Any) -> int:
    number = _not_negative(place, schema, value)
    if number != int(number):
        raise place.wrong(f"must be a whole number; came {value!r}")
    return int(number)


def _values(place: _Place, _: T.StructType, value: Any) -> tuple[Any, ...]:
    if not isinstance(value, list) or not value or not all(isinstance(one, (str, int)) for one in value):
        raise place.wrong("must be a list of texts or whole numbers")
    return tuple(value)


def _shares(place: _Place, schema: T.StructType, value: Any) -> Mapping[str, float]:
    if not isinstance(value, dict) or not value:
        raise place.wrong("must be a map of values with their shares")
    shares = {name: float(_not_negative(place.below(name), schema, one)) for name, one in value.items()}
    if abs(sum(shares.values()) - 1) > 1e-6:
        raise place.wrong(f"the shares must add up to 1; they add up to {sum(shares.values()):g}")
    return shares


_Key = Callable[[_Place, T.StructType, Any], Any]

_KINDS: Mapping[str, tuple[Mapping[str, _Key], Mapping[str, _Key]]] = {
    "contract": ({}, {}),
    "not_null": ({"columns": _columns}, {}),
    "in_range": ({"column": _column}, {"at_least": _number, "at_most": _number}),
    "in_set": ({"column": _column, "values": _values}, {}),
    "unique": ({"columns": _columns}, {}),
    "freshness": ({"column": _column, "at_most_hours": _not_negative}, {}),
    "row_count": ({}, {"at_least": _count, "at_most": _count}),
    "distribution": ({"column": _column, "shares": _shares, "max_divergence": _not_negative}, {}),
}
"""By kind the keys that it must have, and those of which it needs one."""
