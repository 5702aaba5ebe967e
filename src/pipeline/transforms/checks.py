"""The rules for single fields: text as it stood in the JSON in, a typed value or null out.

Every function takes Columns and returns a Column that is null where the rule is broken *or* the field is absent, and
none can throw, also in ANSI mode. The form of a number or a time is judged by a regular expression before any cast,
because casts are more lenient than the contract (`" 1.5"`, `+5`, `٣`, a date without an offset).
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable

from pyspark.sql import Column
from pyspark.sql import functions as F
from pyspark.sql import types as T

from pipeline.contracts import (
    AMOUNT_DECIMALS,
    FIRST_YEAR,
    MAX_AMOUNT_DIGITS,
    MAX_CLOCK_SKEW_MINUTES,
    MAX_ID_CHARACTERS,
    MAX_QUANTITY,
    MONEY,
    WIDE_MONEY,
)

__all__ = [
    "amount",
    "bound",
    "derived_total",
    "event_time",
    "failed",
    "identifier",
    "item_is_broken",
    "typed_items",
]

PLAIN_AMOUNT = r"\A(?:0|[1-9][0-9]{0,9})(?:\.[0-9]{1,2}0{0,20})?\z"
JSON_NUMBER = r"\A(-?)(0|[1-9][0-9]*)(?:\.([0-9]+))?(?:[eE]([+-]?[0-9]+))?\z"
UNDERFLOW = r'"(?:total|price|cost|[^"\\]*+\\u[^"]*+)"[ \t\r\n]*+:[ \t\r\n]*+-?[0.]*+[1-9][0-9.]*+[eE]-0*+[1-9][0-9]{2}'
MAX_EXPONENT_DIGITS = 9
"""An exponent of more digits moves the point further than any text of at most 1 MiB can bring it back."""

INSTANT = r"\A[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(?:\.[0-9]{1,6})?%s\z"
UTC_INSTANT = INSTANT % "Z"
OFFSET_INSTANT = INSTANT % "[+-](?:[01][0-9]|2[0-3]):[0-5][0-9]"


def failed(holds: Column) -> Column:
    """Whether a check does not hold; one that evaluates to null has failed."""
    return ~F.coalesce(holds, F.lit(False))


def identifier(text: Column) -> Column:
    """The text where it has 1 to 128 characters (code points)."""
    return F.when(F.length(text).between(1, MAX_ID_CHARACTERS), text)


def amount(text: Column, document: Column) -> Column:
    """An amount of money as decimal(12,2), exact: JSON's grammar, 0 ≤ amount < 10^10, at most 2 decimals by value.

    The parser reads JSON numbers through a double and prints them anew (1.23E7), so an exponent is no rarity, and a
    number too small for a double comes as 0.0: only the document itself then tells.
    """
    is_suspicious_zero = text.isin("0.0", "-0.0")
    return F.when(is_suspicious_zero, F.when(~document.rlike(UNDERFLOW), F.lit(0).cast(MONEY))).otherwise(
        F.when(text.rlike(PLAIN_AMOUNT), text.try_cast(MONEY)).otherwise(_amount_by_digits(text))
    )


def _amount_by_digits(text: Column) -> Column:
    """The amount by arithmetic on the number's digits, which may be any many: kept digits × 10^scale."""

    def read(group: int) -> Column:
        return F.regexp_extract(text, JSON_NUMBER, group)

    number = F.struct(
        read(1).alias("sign"),
        F.ltrim(F.concat(read(2), read(3)), F.lit("0")).alias("digits"),
        F.length(read(3)).alias("decimals"),
        F.regexp_extract(read(4), "[1-9][0-9]*", 0).alias("exponent"),
        F.startswith(read(4), F.lit("-")).alias("shrinks"),
    )
    return F.when(text.rlike(JSON_NUMBER), bound(number, _amount_of_number))


def _amount_of_number(number: Column) -> Column:
    kept = F.rtrim(number["digits"], F.lit("0"))
    size = F.coalesce(number["exponent"].try_cast(T.IntegerType()), F.lit(0))
    exponent = F.when(number["shrinks"], -size).otherwise(size)
    parts = F.struct(
        kept.alias("kept"),
        (exponent - number["decimals"] + F.length(number["digits"]) - F.length(kept)).alias("scale"),
    )
    is_judgeable = F.length(number["exponent"]) <= MAX_EXPONENT_DIGITS
    return F.when(number["digits"] == "", F.lit(0).cast(MONEY)).when(
        (number["sign"] == "") & is_judgeable, bound(parts, _amount_of_parts)
    )


def _amount_of_parts(parts: Column) -> Column:
    is_exact = parts["scale"] >= -AMOUNT_DECIMALS
    is_in_range = F.length(parts["kept"]) + parts["scale"] <= MAX_AMOUNT_DIGITS
    return F.when(
        is_exact & is_in_range,
        F.concat(parts["kept"], F.lit("E"), parts["scale"].cast("string")).try_cast(MONEY),
    )


def bound(value: Column, body: Callable[[Column], Column]) -> Column:
    """`body` of a value that is computed once: a lambda over a list of one is the only `let` Spark has."""
    return F.get(F.transform(F.array(value), body), F.lit(0))


def typed_items(items: Column, document: Column) -> Column:
    """The lines of an order with typed fields; a field that breaks its rule is null, an absent quantity is 1."""

    def typed(item: Column) -> Column:
        quantity = F.coalesce(item["quantity"], F.lit(1))
        return F.struct(
            identifier(item["product_id"]).alias("product_id"),
            amount(item["price"], document).alias("price"),
            F.when(quantity.between(1, MAX_QUANTITY), quantity.try_cast(T.IntegerType())).alias("quantity"),
        )

    return F.transform(items, typed)


def item_is_broken(item: Column) -> Column:
    """Whether a typed line misses a field, which it does wherever one of the rules was broken."""
    return item["product_id"].isNull() | item["price"].isNull() | item["quantity"].isNull()


def derived_total(items: Column) -> Column:
    """Σ price × quantity over typed lines as decimal(12,2); null without lines and from 10^10 on."""

    def plus(total: Column, item: Column) -> Column:
        return (total + item["price"] * item["quantity"]).cast(WIDE_MONEY)

    total = F.aggregate(items, F.lit(0).cast(WIDE_MONEY), plus)
    return F.when(F.size(items) > 0, total.try_cast(MONEY))


def event_time(text: Column, kafka_timestamp: Column) -> Column:
    """The instant, where it is complete, from the year 2000 on, and at most 5 minutes ahead of its record."""
    instant = F.when(text.rlike(UTC_INSTANT), text.try_cast(T.TimestampType())).when(
        text.rlike(OFFSET_INSTANT), _instant_with_offset(text)
    )
    first = F.lit(dt.datetime(FIRST_YEAR, 1, 1, tzinfo=dt.timezone.utc))
    skew = F.make_dt_interval(mins=F.lit(MAX_CLOCK_SKEW_MINUTES))

    def judged(instant: Column) -> Column:
        return F.when((instant >= first) & (instant - skew <= kafka_timestamp), instant)

    return bound(instant, judged)


def _instant_with_offset(text: Column) -> Column:
    """The instant of a local time with an offset up to ±23:59, of which Spark's own cast takes only ±18:00."""
    local = F.concat(F.substr(text, F.lit(1), F.length(text) - 6), F.lit("Z")).try_cast(T.TimestampType())
    minutes = F.substring(text, -5, 2).cast("long") * 60 + F.substring(text, -2, 2).cast("long")
    east = F.when(F.substring(text, -6, 1) == "-", -minutes).otherwise(minutes)
    return F.timestamp_micros(F.unix_micros(local) - east * 60_000_000)
