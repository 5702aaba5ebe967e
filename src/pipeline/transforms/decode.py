"""From the bytes of a record to its one fate: accepted with typed fields, dead with its violations, or a tombstone.

The verdict is a function of value and Kafka timestamp alone. A value is parsed once, every field as text, because the
rules are about how a value is written; only a value that does not fit the schema is parsed again, to tell an `items` of
the wrong shape from text that is no JSON.

The work is a chain of projections, each of which names what the next one uses more than once: within one projection
Spark would compute it at every use. What only odd records need is `interpreted`, to keep the usual way short.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cache, reduce
from operator import and_

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F
from pyspark.sql import types as T

from pipeline.contracts import (
    ACCEPTED,
    CANCELLED,
    CONTRACT_VERSION,
    DEAD,
    DEAD_LETTERS,
    EVENT_TYPES,
    ITEMS,
    LINES,
    MAX_VALUE_BYTES,
    NOT_JSON,
    NOT_UTF8,
    ORDER,
    ORDER_CANCELLED,
    ORDER_CREATED,
    ORDERS,
    PENDING,
    RAW_EVENTS,
    RECORD_IDENTITY,
    STATUSES,
    TEXT_LINES,
    TOMBSTONE,
    TOO_LARGE,
)
from pipeline.kinds import KINDS, Field, Kind
from pipeline.transforms.checks import (
    amount,
    are_usual_items,
    bound,
    derived_total,
    event_time,
    failed,
    instant,
    interpreted,
    is_identifier,
    item_is_broken,
    typed_items,
    with_quantities,
)

__all__ = [
    "accepted_events",
    "classify",
    "dead_letters",
    "is_accepted_text",
    "text_lines",
]

CORRUPT = "_corrupt_record"

ORDER_FIELDS = ("event_type", "order_id", "customer_id", "total", "status", "timestamp")

UNTYPED_ITEMS = T.ArrayType(
    T.StructType(
        [
            T.StructField("product_id", T.StringType()),
            T.StructField("price", T.StringType()),
            T.StructField("quantity", T.LongType()),
        ]
    )
)

ITEMS_ONLY = T.StructType([T.StructField("items", T.VariantType()), T.StructField(CORRUPT, T.StringType())])

JSON_OPTIONS = {
    "mode": "PERMISSIVE",
    "columnNameOfCorruptRecord": CORRUPT,
    "allowNonNumericNumbers": "false",
    "allowSingleQuotes": "false",
}

NAME_TOO_LONG_TO_PARSE = r'"[^"\\\x00-\x1f]{25001,}+"(?=[ \t\r\n]*+:)'
"""More than 50,000 characters of Java, in which one beyond U+FFFF is two."""
MISFIT = "0"
STARTS_AN_OBJECT = r"\A[ \t\r\n]*+\{"


Declared = tuple[Kind, ...]
"""The kinds that are nothing but a list of fields."""


def classify(records: DataFrame, kinds: Iterable[Kind] = KINDS.values()) -> DataFrame:
    """Each record (RAW_EVENTS and its `kind`) with its `fate`, `violations` and typed event.

    `violations` is in contract order and empty unless the fate is dead. The event is in a column of its kind's name, and of
    those only the one of the record's kind is filled, and only when the fate is accepted. Runs on batches and streams alike.
    """
    declared = tuple(kind for kind in kinds if kind.fields)
    steps = reduce(DataFrame.withColumns, _steps(declared), records)
    return steps.select(*RAW_EVENTS.names, "kind", *_verdict(declared))


@cache
def _steps(declared: Declared) -> tuple[dict[str, Column], ...]:
    """The columns that follow from each other, step by step. They are of no DataFrame, so they are built once a process:
    three thousand calls into the JVM.
    """
    return (
        {"parsed": _once(_parsed(declared))},
        {"document": _document(declared)},
        _values(declared),
        _judged_values(),
        {"total": _total()},
        {"violations": _once(_violations(declared))},
    )


@cache
def _verdict(declared: Declared) -> tuple[Column, ...]:
    return (_fate().alias("fate"), F.col("violations"), *_events(declared))


def accepted_events(classified: DataFrame, kind: Kind) -> DataFrame:
    """The accepted events of a kind, with the columns of its table, duplicates kept. Text has none: see `text_lines`."""
    accepted = classified.where((F.col("kind") == kind.name) & (F.col("fate") == ACCEPTED))
    version = F.lit(CONTRACT_VERSION).alias("contract_version")
    return accepted.select(f"`{kind.name}`.*", *RECORD_IDENTITY, version)


def text_lines(records: DataFrame) -> DataFrame:
    """The accepted texts among records (RAW_EVENTS and their `kind`) as LINES: nothing of them needs to be parsed."""
    texts = records.where((F.col("kind") == TEXT_LINES) & is_accepted_text())
    return texts.withColumn("line", _text()).select(*_columns(LINES))


def is_accepted_text() -> Column:
    """Whether `value` is a text that the contract accepts; null for a tombstone."""
    return ~_is_too_large() & F.is_valid_utf8(_text())


def dead_letters(classified: DataFrame) -> DataFrame:
    """The rejected records as DEAD_LETTERS: their bytes as they came, and why."""
    return classified.where(F.col("fate") == DEAD).select(*_columns(DEAD_LETTERS))


def _columns(table: T.StructType) -> list[Column]:
    return [
        F.lit(CONTRACT_VERSION).alias(name) if name == "contract_version" else F.col(name)
        for name in table.names
    ]


def _once(value: Column) -> Column:
    """The value, which the optimizer may neither copy into a filter below nor into the projections above.

    It would: a condition on `fate` would be pushed through, and each record parsed once more for every branch.
    Expressions that are not deterministic stay where they are, and the number of a partition, never negative, counts as such;
    it decides nothing. (A random number would do the same, but a stream gives it a new seed in every micro-batch, which
    changes the generated code: it would be compiled anew each time, and run cold.)
    """
    return F.when(F.spark_partition_id() >= 0, value)


def _text() -> Column:
    return F.col("value").cast("string")


def _is_too_large() -> Column:
    return F.octet_length("value") > MAX_VALUE_BYTES


def _text_document(declared: Declared) -> T.StructType:
    """Every field of every kind, as text."""
    of_declared = [field.name for kind in declared for field in kind.fields]
    names = dict.fromkeys((*ORDER_FIELDS, *of_declared))
    return T.StructType([T.StructField(name, T.StringType()) for name in (*names, CORRUPT)])


def _whole_document(declared: Declared) -> T.StructType:
    return T.StructType([T.StructField("items", UNTYPED_ITEMS), *_text_document(declared).fields])


def _parsed(declared: Declared) -> Column:
    """The value read as a document, null where it cannot be one; CORRUPT is set in it where it does not fit."""
    text = _text()
    is_candidate = (
        F.col("kind").isin(ORDERS, *[kind.name for kind in declared])
        & ~_is_too_large()
        & F.is_valid_utf8(text)
        & (F.startswith(text, F.lit("{")) | text.rlike(STARTS_AN_OBJECT))
    )
    return F.when(is_candidate, F.from_json(text, _whole_document(declared), JSON_OPTIONS))


def _document(declared: Declared) -> Column:
    """The value as a document, null where it is none; CORRUPT is set in it where `items` has the wrong shape."""
    fits = F.col(f"parsed.{CORRUPT}").isNull()
    return F.when(fits, F.col("parsed")).otherwise(_reread_document(declared))


def _reread_document(declared: Declared) -> Column:
    """A value that does not fit, read again: null where it is no JSON, else with the last `items` judged alone.

    The first parse cannot tell which of several `items` did not fit, and the last counts. As a variant it keeps its
    shape, so that, written out again, it fits or does not. The parser's own limit on the length of a name is not ours:
    such a name is unknown anyway, and is shortened.
    """
    text = F.regexp_replace(_text(), NAME_TOO_LONG_TO_PARSE, '"unknown"')
    only = F.from_json(text, ITEMS_ONLY, JSON_OPTIONS)
    # Where the last one is no variant, what is there is an earlier one.
    last = F.when(only[CORRUPT].isNull(), F.coalesce(F.to_json(only["items"]), F.lit("null"))).otherwise(
        MISFIT
    )
    alone = F.concat(F.lit('{"items":'), last, F.lit("}"))

    whole, texts = _whole_document(declared), _text_document(declared)

    def judged(parsed: Column) -> Column:
        fits = F.from_json(alone, whole, JSON_OPTIONS)
        fields = {
            "items": fits["items"],
            **{name: parsed[name] for name in texts.names if name != CORRUPT},
            CORRUPT: fits[CORRUPT],
        }
        document = F.struct(*[value.alias(name) for name, value in fields.items()])
        return F.when(parsed[CORRUPT].isNull(), document)

    return bound(F.from_json(text, texts, JSON_OPTIONS), judged)


def _values(declared: Declared) -> dict[str, Column]:
    """The values of a document, cast; an amount is null where absent or against its rule, the others may be wrong."""
    is_order, text = F.col("kind") == ORDERS, _text()
    return {
        "cast_items": F.when(is_order, F.col("document.items").try_cast(ITEMS)),
        "total": F.when(is_order, amount(F.col("document.total"), text, "total")),
        **{
            _amount_of(name): F.when(
                F.col("kind").isin(*kinds), amount(F.col(f"document.{name}"), text, name)
            )
            for name, kinds in _kinds_by_amount(declared).items()
        },
        "instant": instant(F.col("document.timestamp")),
    }


def _kinds_by_amount(declared: Declared) -> dict[str, list[str]]:
    """By the name of a field that is an amount of money, the kinds that have it."""
    found: dict[str, list[str]] = {}
    for kind in declared:
        for field in kind.fields:
            if field.rule == "amount":
                found.setdefault(field.name, []).append(kind.name)
    return found


def _amount_of(name: str) -> str:
    return f"amount_{name}"


def _judged_values() -> dict[str, Column]:
    """The typed lines with whether they break a rule, and the event time, null where absent or against its rule."""
    items, cast_items = F.col("document.items"), F.col("cast_items")
    are_usual = items.isNull() | are_usual_items(items, cast_items)
    usual = F.struct(with_quantities(cast_items).alias("items"), F.lit(False).alias("is_broken"))
    careful = bound(typed_items(items, _text()), _lines)
    fits = F.col(f"document.{CORRUPT}").isNull()
    return {
        "lines": F.when(F.col("kind") == ORDERS, F.when(fits & are_usual, usual).otherwise(careful)),
        "event_time": event_time(F.col("instant"), F.col("kafka_timestamp")),
    }


def _lines(items: Column) -> Column:
    is_broken = F.col(f"document.{CORRUPT}").isNotNull() | F.exists(items, item_is_broken)
    return F.struct(items.alias("items"), F.coalesce(is_broken, F.lit(False)).alias("is_broken"))


def _needs_total() -> Column:
    is_created = F.col("document.event_type") == ORDER_CREATED
    return F.col("document.total").isNull() & is_created & ~F.col("lines.is_broken")


def _total() -> Column:
    """The total that is named, or that the lines give a creation that names none."""
    derived = F.when(_needs_total(), interpreted(derived_total(F.col("lines.items"))))
    return F.coalesce(F.col("total"), derived)


def _violations(declared: Declared) -> Column:
    """The violations in contract order, none for a tombstone."""
    of_document = F.when(F.col("kind") == ORDERS, _failures(_order_checks()))
    for kind in declared:
        of_document = of_document.when(F.col("kind") == kind.name, _failures(_checks(kind)))
    return (
        F.when(F.col("value").isNull(), _names())
        .when(_is_too_large(), _names(TOO_LARGE))
        .when(
            F.col("kind") == TEXT_LINES,
            F.when(is_accepted_text(), _names()).otherwise(_names(NOT_UTF8)),
        )
        .when(F.col("document").isNull(), _names(NOT_JSON))
        .otherwise(of_document)
    )


def _fate() -> Column:
    is_dead = F.size("violations") > 0
    return F.when(F.col("value").isNull(), TOMBSTONE).when(is_dead, DEAD).otherwise(F.lit(ACCEPTED))


def _events(declared: Declared) -> list[Column]:
    """The event of the record's kind, when it is accepted, in the column of that name."""
    is_accepted = F.col("value").isNotNull() & (F.size("violations") == 0)
    events = {ORDERS: _order(), **{kind.name: _event(kind) for kind in declared}}
    return [
        F.when(is_accepted & (F.col("kind") == name), event).alias(name) for name, event in events.items()
    ]


def _order_checks() -> dict[str, Column]:
    event_type, status = F.col("document.event_type"), F.col("document.status")
    is_named = F.col("document.total").isNotNull()
    return {
        "event_type": event_type.isin(*EVENT_TYPES),
        "order_id": is_identifier(F.col("document.order_id")),
        "customer_id": is_identifier(F.col("document.customer_id")),
        "total": F.col("total").isNotNull() | ~(is_named | F.coalesce(_needs_total(), F.lit(False))),
        "status": status.isNull() | status.isin(*STATUSES),
        "items": ~F.col("lines.is_broken"),
        "timestamp": F.col("event_time").isNotNull(),
    }


def _checks(kind: Kind) -> dict[str, Column]:
    checks = {field.name: _holds(field) for field in kind.fields}
    return {**checks, "timestamp": F.col("event_time").isNotNull()}


def _holds(field: Field) -> Column:
    """Whether the field keeps its rule; null where it is absent and may not be."""
    text = F.col(f"document.{field.name}")
    holds = {
        "identifier": lambda: is_identifier(text),
        "amount": lambda: F.col(_amount_of(field.name)).isNotNull(),
        "choice": lambda: text.isin(*field.values),
    }[field.rule]()
    return holds if field.is_required else text.isNull() | holds


def _order() -> Column:
    default_status = F.when(F.col("document.event_type") == ORDER_CANCELLED, CANCELLED).otherwise(PENDING)
    known = {
        "total": F.col("total"),
        "status": F.coalesce("document.status", default_status),
        "items": F.col("lines.items"),
        "event_time": F.col("event_time"),
    }
    return _struct(ORDER, known)


def _event(kind: Kind) -> Column:
    amounts = [field.name for field in kind.fields if field.rule == "amount"]
    known = {name: F.col(_amount_of(name)) for name in amounts}
    return _struct(kind.columns, {**known, "event_time": F.col("event_time")})


def _struct(table: T.StructType, known: Mapping[str, Column]) -> Column:
    """The table's fields: the known values, and the others as the document has them."""
    values = {name: F.col(f"document.{name}") for name in table.names if name not in known} | {**known}
    return F.struct(*[values[name].alias(name) for name in table.names])


def _names(*names: str) -> Column:
    return F.array(*[F.lit(name) for name in names]).cast(T.ArrayType(T.StringType()))


def _failures(checks: Mapping[str, Column]) -> Column:
    """The names of the checks that fail, in the mapping's order."""
    failures = [F.when(failed(holds), F.lit(name)) for name, holds in checks.items()]
    return F.when(reduce(and_, checks.values()), _names()).otherwise(
        interpreted(F.array_compact(F.array(*failures)))
    )
