"""The contract's rules for typed values, as conditions on columns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pyspark.sql import Column
from pyspark.sql import functions as F
from pyspark.sql import types as T

from pipeline.contracts import (
    ITEM_LIMITS,
    OPTIONAL_ITEM_FIELDS,
    ORDER,
    ORDER_CREATED,
    ORDER_LIMITS,
    Limits,
)

__all__ = ["breaks", "is_of_type", "order_violations"]


def breaks(value: Column, limits: Limits) -> Column:
    """Whether the value is against one of the limits; false for null."""
    conditions = [
        *([~value.isin(*limits.values)] if limits.values else []),
        *([value < F.lit(limits.least)] if limits.least is not None else []),
        *([value > F.lit(limits.most)] if limits.most is not None else []),
        *([~F.length(value).between(1, limits.max_characters)] if limits.max_characters else []),
    ]
    return F.coalesce(F.greatest(*conditions, F.lit(False), F.lit(False)), F.lit(False))


def order_violations(columns: Sequence[str]) -> Mapping[tuple[str, str], Column]:
    """For each rule, as (column, `null` or `value`), whether a row of typed orders breaks it.

    Only rules about the named columns; each has the type that the contract gives it.
    """
    required = [field.name for field in ORDER.fields if not field.nullable]
    nulls = {(name, "null"): F.col(name).isNull() for name in columns if name in required}
    if {"total", "event_type"} <= {*columns}:
        is_created = F.col("event_type").eqNullSafe(ORDER_CREATED)
        nulls["total", "null"] = F.col("total").isNull() & is_created
    values = {
        (name, "value"): breaks(F.col(name), ORDER_LIMITS[name]) for name in columns if name in ORDER_LIMITS
    }
    if "items" in columns:
        values["items", "value"] = F.coalesce(F.exists("items", _item_is_broken), F.lit(False))
    return {**nulls, **values}


def _item_is_broken(item: Column) -> Column:
    broken = [item.isNull()]
    for name, limits in ITEM_LIMITS.items():
        broken += [] if name in OPTIONAL_ITEM_FIELDS else [item[name].isNull()]
        broken.append(breaks(item[name], limits))
    return F.greatest(*broken)


def is_of_type(given: T.DataType, wanted: T.DataType) -> bool:
    """Whether the types are the same, null or not."""
    return given.simpleString() == wanted.simpleString()
