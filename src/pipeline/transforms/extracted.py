"""Rows of the shop's tables as texts, made into typed rows or dead letters; each is exactly one of them.

The form of a text is judged before any cast, because casts are more lenient than they may be with money and times
(`12.345` would be rounded, ` 1.5` trimmed, `T03:04:05Z` be today).
"""

from __future__ import annotations

from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F
from pyspark.sql import types as T

from pipeline.shop import KEYS, SCHEMAS

__all__ = ["accepted", "dead_letters", "judged"]

_DECIMAL = r"\A[+-]?[0-9]+(\.[0-9]+)?\z"
_OVER_TWO_DECIMALS = r"\.[0-9]{2}[0-9]*[1-9]"
_INSTANT = r"\A[0-9]{4}-[0-9]{2}-[0-9]{2}([ T][0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{1,6})?(Z|[+-][0-9]{2}(:[0-9]{2})?)?)?\z"


def judged(rows: DataFrame, *, table: str, stored: DataFrame) -> DataFrame:
    """Of `rows` (table, row: JSON of texts) each of this table, with its `key`, what it is `typed` (a struct), and the
    `reason` why it cannot be taken (null: it can).

    A required column that is null, a text that is not of its column's type, and another row with the same key are
    reasons; a row with several names all of its own. Of rows with one key the latest by `updated_at` is taken, of equal times
    the one whose JSON is the larger text, unless the one that is `stored` (in the typed table) is later.
    """
    schema, key = SCHEMAS[table], KEYS[table]
    texts = T.StructType([T.StructField(name, T.StringType()) for name in schema.names])
    own = rows.where(F.col("table") == table).select("table", "row", F.from_json("row", texts).alias("text"))
    values = {field.name: _typed(F.col("text")[field.name], field.dataType) for field in schema.fields}
    faults = F.array_compact(F.array(*[_fault(field, values[field.name]) for field in schema.fields]))
    judged_alone = own.select(
        "table",
        "row",
        F.col("text")[key].alias("key"),
        F.struct(*[value.alias(name) for name, value in values.items()]).alias("typed"),
        F.nullif(F.array_join(faults, "; "), F.lit("")).alias("reason"),
    )
    latest = Window.partitionBy("key", F.col("reason").isNull()).orderBy(
        F.col("typed.updated_at").desc(), F.col("row").desc()
    )
    known = stored.select(F.col(key).alias("key"), F.col("updated_at").alias("stored_at"))
    is_other_later = (F.row_number().over(latest) > 1) | (F.col("typed.updated_at") < F.col("stored_at"))
    repeated = F.when(is_other_later, F.lit(f"{key}: another row has it"))
    return (
        judged_alone.join(known, on="key", how="left")
        .withColumn("reason", F.coalesce("reason", repeated))
        .select("table", "row", "key", "typed", "reason")
    )


def accepted(rows: DataFrame, *, table: str) -> DataFrame:
    """Of the table's judged rows those that are taken, typed, one for each key."""
    return rows.where(F.col("reason").isNull()).select("typed.*").select(*SCHEMAS[table].names)


def dead_letters(rows: DataFrame, *, run: int) -> DataFrame:
    """Of judged rows those that are not taken: run, table, key, row and reason; equal ones once."""
    letters = rows.where(F.col("reason").isNotNull())
    number = F.lit(run).cast(T.LongType()).alias("run")
    return letters.select(number, "table", "key", "row", "reason").dropDuplicates()


def _typed(text: Column, kind: T.DataType) -> Column:
    """The value; null where the text is null or not of the type."""
    if isinstance(kind, T.DecimalType):
        return F.when(text.rlike(_DECIMAL) & ~text.rlike(_OVER_TWO_DECIMALS), text.try_cast(kind))
    if isinstance(kind, T.TimestampType):
        time = text.try_cast(kind)
        # an offset may lead out of the years 1 to 9999, which are all that others can hold
        return F.when(text.rlike(_INSTANT) & F.year(time).between(1, 9999), time)
    return text


def _fault(field: T.StructField, value: Column) -> Column:
    """What is wrong with the column of this row; null where nothing is."""
    text = F.col("text")[field.name]
    is_uncastable = value.isNull() & text.isNotNull()
    uncastable = F.when(is_uncastable, F.lit(f"{field.name}: not {field.dataType.simpleString()}"))
    if field.nullable:
        return uncastable
    return F.when(text.isNull(), F.lit(f"{field.name}: null")).otherwise(uncastable)
