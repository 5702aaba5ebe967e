"""The rules for single fields: text as it stood in the JSON in, a typed value or null out.

Every function takes Columns and returns a Column that is null where the rule is broken *or* the field is absent, and
none can throw, also in ANSI mode. The form of a number or a time is judged by a regular expression before any cast,
because casts are more lenient than the contract (`" 1.5"`, `+5`, `٣`, a date without an offset).

The usual spelling of a value takes a short way, of functions that compile to small Java methods; any other takes the
careful one, which is `interpreted`.
"""

from __future__ import annotations

from collections.abc import Callable

from pyspark.sql import Column
from pyspark.sql import functions as F
from pyspark.sql import types as T

from pipeline.contracts import (
    AMOUNT_DECIMALS,
    FIRST_INSTANT,
    LAST_INSTANT,
    MAX_AMOUNT_DIGITS,
    MAX_CLOCK_SKEW_MINUTES,
    MAX_ID_CHARACTERS,
    MAX_QUANTITY,
    MONEY,
    WIDE_MONEY,
)

__all__ = [
    "amount",
    "are_usual_items",
    "bound",
    "derived_total",
    "event_time",
    "failed",
    "instant",
    "interpreted",
    "is_identifier",
    "item_is_broken",
    "typed_items",
    "with_quantities",
]

USUAL = r"(?!0\.0(?:,|\z))(?:0|[1-9][0-9]{0,9})(?:\.[0-9]{1,2})?+"
"""An amount as most write it; not 0.0, which may have been a number too small for a double."""

USUAL_AMOUNT = rf"\A{USUAL}\z"
USUAL_AMOUNTS = rf"\A{USUAL}(?:,{USUAL})*+\z"
USUAL_IDENTIFIERS = rf"\A[^\x00]{{1,{MAX_ID_CHARACTERS}}}+(?:\x00[^\x00]{{1,{MAX_ID_CHARACTERS}}}+)*+\z"

JSON_NUMBER = r"\A(-?)(0|[1-9][0-9]*)(?:\.([0-9]+))?(?:[eE]([+-]?[0-9]+))?\z"
UNDERFLOW = r'"(?:%s|[^"\\]*+\\u[^"]*+)"[ \t\r\n]*+:[ \t\r\n]*+-?[0.]*+[1-9][0-9.]*+[eE]-0*+[1-9][0-9]{2}'
MAX_EXPONENT_DIGITS = 9
"""An exponent of more digits moves the point further than any text of at most 1 MiB can bring it back."""

INSTANT = r"\A[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(?:\.[0-9]{1,6})?%s\z"
UTC_INSTANT = INSTANT % "Z"
OFFSET_INSTANT = INSTANT % "[+-](?:[01][0-9]|2[0-3]):[0-5][0-9]"


def failed(holds: Column) -> Column:
    """Whether a check does not hold; one that evaluates to null has failed."""
    return ~F.coalesce(holds, F.lit(False))


def bound(value: Column, body: Callable[[Column], Column]) -> Column:
    """`body` of a value that is computed once: a lambda over a list of one is the only `let` Spark has.

    Spark generates no code for a lambda, nor for what stands inside: see `interpreted`.
    """
    return F.get(F.transform(F.array(value), body), F.lit(0))


def interpreted(value: Column) -> Column:
    """The value, for which no code is generated: right for a branch that few rows take, and for nothing else.

    The generated code of a projection is one method, to be compiled by every query anew, and the JVM leaves methods of
    more than 8,000 bytecodes to its own interpreter for good.
    """
    return bound(F.lit(True), lambda _: value)


def is_identifier(text: Column) -> Column:
    """Whether the text has 1 to 128 characters (code points)."""
    return F.length(text).between(1, MAX_ID_CHARACTERS)


def amount(text: Column, document: Column, name: str) -> Column:
    """The amount of money of that name as decimal(12,2), exact: JSON's grammar, 0 ≤ amount < 10^10, at most 2 decimals by value."""
    return _amount(text, F.when(text.isNotNull(), interpreted(_unusual_amount(text, document, name))))


def _amount(text: Column, unusual: Column) -> Column:
    return F.when(text.rlike(USUAL_AMOUNT), text.try_cast(MONEY)).otherwise(unusual)


def _unusual_amount(text: Column, document: Column, name: str) -> Column:
    """The amount, however it is written.

    The parser reads JSON numbers through a double and prints them anew (1.23E7), so an exponent is no rarity, and a
    number too small for a double comes as 0.0: only the document itself then tells.
    """
    is_suspicious_zero = text.isin("0.0", "-0.0")
    zero = F.when(~document.rlike(UNDERFLOW % name), F.lit(0).cast(MONEY))
    return F.when(is_suspicious_zero, zero).otherwise(_amount_by_digits(text))


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


def are_usual_items(items: Column, typed: Column) -> Column:
    """Whether the lines keep every rule and are written as most are, so that `typed`, their plain cast, has all values.

    Judged as whole lists, without a lambda. What the lists' separators hide is sent the careful way: a name with U+0000
    in it, and a price such as 1,5, of which the cast makes null. `array_contains` is null, not false, among nulls.
    """
    ids, quantities = items["product_id"], items["quantity"]
    return (
        F.array_join(items["price"], ",", "?").rlike(USUAL_AMOUNTS)
        & F.array_join(ids, "\0", "").rlike(USUAL_IDENTIFIERS)
        & ~F.contains(F.array_join(ids, ""), F.lit("\0"))
        & F.coalesce((F.array_min(quantities) > 0) & (F.array_max(quantities) <= MAX_QUANTITY), F.lit(True))
        & ~F.array_contains(typed["price"], F.lit(-1).cast(MONEY))
    )


def with_quantities(typed: Column) -> Column:
    """Typed lines, an absent quantity being 1; `array_contains` is null where one is absent."""

    def with_quantity(item: Column) -> Column:
        return item.withField("quantity", F.coalesce(item["quantity"], F.lit(1)))

    have_all = ~F.array_contains(typed["quantity"], 0)
    return F.when(typed.isNull() | have_all, typed).otherwise(F.transform(typed, with_quantity))


def typed_items(items: Column, document: Column) -> Column:
    """The lines of an order with typed fields; a field that breaks its rule is null, an absent quantity is 1."""

    def typed(item: Column) -> Column:
        quantity = F.coalesce(item["quantity"], F.lit(1))
        return F.struct(
            F.when(is_identifier(item["product_id"]), item["product_id"]).alias("product_id"),
            _amount(item["price"], _unusual_amount(item["price"], document, "price")).alias("price"),
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


def instant(text: Column) -> Column:
    """The instant that a complete date and time with its offset names."""
    usual = F.when(text.rlike(UTC_INSTANT), text.try_cast(T.TimestampType()))
    return usual.when(text.rlike(OFFSET_INSTANT), interpreted(_instant_with_offset(text)))


def event_time(named: Column, kafka_timestamp: Column) -> Column:
    """The named instant, where it is in the years 2000 to 9999 and at most 5 minutes ahead of its record."""
    is_of_four_digits = named.between(F.lit(FIRST_INSTANT), F.lit(LAST_INSTANT))
    earliest_micros = F.unix_micros(named) - MAX_CLOCK_SKEW_MINUTES * 60_000_000
    return F.when(is_of_four_digits & (earliest_micros <= F.unix_micros(kafka_timestamp)), named)


def _instant_with_offset(text: Column) -> Column:
    """The instant of a local time with an offset up to ±23:59, of which Spark's own cast takes only ±18:00."""
    local = F.concat(F.substr(text, F.lit(1), F.length(text) - 6), F.lit("Z")).try_cast(T.TimestampType())
    minutes = F.substring(text, -5, 2).cast("long") * 60 + F.substring(text, -2, 2).cast("long")
    east = F.when(F.substring(text, -6, 1) == "-", -minutes).otherwise(minutes)
    return F.timestamp_micros(F.unix_micros(local) - east * 60_000_000)
