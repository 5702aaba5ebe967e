"""The contract of orders, asked of a DataFrame in a batch: columns, types, nulls, values. Public functions for jobs of one's own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from pipeline.contracts import ORDER
from pipeline.errors import DataContractError, ValidationError
from pipeline.transforms.limits import is_of_type, order_violations
from pipeline.transforms.totals import calculate_order_totals

__all__ = [
    "REQUIRED_FIELDS",
    "OrderContract",
    "calculate_order_totals",
    "validate_required_fields",
]

REQUIRED_FIELDS = tuple(field.name for field in ORDER.fields if not field.nullable)


@dataclass(frozen=True)
class OrderContract:
    """What typed orders must be, by the rules of the stream; `columns` are those of the contract that must be there."""

    columns: Sequence[str] = tuple(ORDER.names)

    def validate(self, orders: DataFrame) -> DataFrame:
        """The same orders. Raises the first of the `errors`; its message counts the others."""
        found = self.errors(orders)
        if not found:
            return orders
        others = ", ".join(f"{error.column} ({error.rule}, {error.count})" for error in found[1:])
        first = found[0]
        message = first.message + (f" Also: {others}." if others else "")
        raise DataContractError(message, column=first.column, count=first.count, rule=first.rule)

    def errors(self, orders: DataFrame) -> list[DataContractError]:
        """One error for each column and rule that rows break, columns that are missing first; reads the orders once."""
        there = {field.name: field.dataType for field in orders.schema.fields}
        right = [
            name for name in self.columns if name in there and is_of_type(there[name], ORDER[name].dataType)
        ]
        checks = order_violations(right)
        counted = orders.agg(
            F.count("*").alias("rows"),
            *[F.count_if(check).alias(_label(*key)) for key, check in checks.items()],
        ).collect()[0]
        missing = [_missing(name, counted["rows"]) for name in self.columns if name not in there]
        mistyped = [
            _mistyped(name, there[name].simpleString(), counted["rows"])
            for name in self.columns
            if name in there and name not in right
        ]
        broken = [_broken(column, rule, counted[_label(column, rule)]) for column, rule in checks]
        return [*missing, *mistyped, *(error for error in broken if error.count)]


def validate_required_fields(rows: DataFrame, *, fields: Sequence[str] = REQUIRED_FIELDS) -> DataFrame:
    """The same rows. Raises ValidationError with the first of the fields that is missing, or null in any row, and in how many."""
    there = [name for name in fields if name in rows.columns]
    nulls = [F.count_if(F.col(name).isNull()).alias(name) for name in there]
    counted = rows.agg(F.count("*").alias("rows"), *nulls).collect()[0].asDict()
    for name in fields:
        count = counted["rows"] if name not in there else counted[name]
        if name not in there or count:
            raise ValidationError(
                f"The required field {name} is {'missing' if name not in there else 'null'} in {count} of "
                f"{counted['rows']} rows.",
                column=name,
                count=count,
            )
    return rows


def _label(column: str, rule: str) -> str:
    return f"{rule}: {column}"


def _missing(column: str, rows: int) -> DataContractError:
    return DataContractError(
        f"The column {column} is missing, in all {rows} rows.", column=column, count=rows, rule="missing"
    )


def _mistyped(column: str, came: str, rows: int) -> DataContractError:
    wanted = ORDER[column].dataType.simpleString()
    return DataContractError(
        f"The column {column} must be {wanted}, but is {came}, in all {rows} rows. Cast it, or decode it by the contract.",
        column=column,
        count=rows,
        rule="type",
    )


def _broken(column: str, rule: str, count: int) -> DataContractError:
    what = "is null" if rule == "null" else "has a value that the contract refuses"
    return DataContractError(
        f"The column {column} {what} in {count} rows.", column=column, count=count, rule=rule
    )
