"""From the bytes of a record to its one fate: accepted with typed fields, dead with its violations, or a tombstone.

The verdict is a function of value and Kafka timestamp alone. A value is parsed once, every field as text, because the
rules are about how a value is written; only a value that does not fit the schema is parsed again, to tell an `items` of
the wrong shape from text that is no JSON.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

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
    LINES,
    MAX_VALUE_BYTES,
    NOT_JSON,
    NOT_UTF8,
    ORDER,
    ORDER_CANCELLED,
    ORDER_CREATED,
    ORDER_EVENTS,
    ORDERS,
    PENDING,
    PRODUCT,
    PRODUCT_EVENTS,
    PRODUCTS,
    RAW_EVENTS,
    STATUSES,
    TEXT_LINES,
    TOMBSTONE,
    TOO_LARGE,
)
from pipeline.transforms.checks import (
    amount,
    bound,
    derived_total,
    event_time,
    failed,
    identifier,
    item_is_broken,
    typed_items,
)

__all__ = ["accepted_orders", "accepted_products", "classify", "dead_letters", "text_lines"]

CORRUPT = "_corrupt_record"

TEXT_FIELDS = (
    "event_type",
    "order_id",
    "customer_id",
    "total",
    "status",
    "timestamp",
    "product_id",
    "name",
    "product_category",
    "price",
    "cost",
)

UNTYPED_ITEMS = T.ArrayType(
    T.StructType(
        [
            T.StructField("product_id", T.StringType()),
            T.StructField("price", T.StringType()),
            T.StructField("quantity", T.LongType()),
        ]
    )
)

TEXT_DOCUMENT = T.StructType([T.StructField(name, T.StringType()) for name in (*TEXT_FIELDS, CORRUPT)])
DOCUMENT = T.StructType([T.StructField("items", UNTYPED_ITEMS), *TEXT_DOCUMENT.fields])

ITEMS_ONLY = T.StructType([T.StructField("items", T.VariantType()), T.StructField(CORRUPT, T.StringType())])

JSON_OPTIONS = {
    "mode": "PERMISSIVE",
    "columnNameOfCorruptRecord": CORRUPT,
    "allowNonNumericNumbers": "false",
    "allowSingleQuotes": "false",
}

NAME_TOO_LONG_TO_PARSE = r'"[^"\\\x00-\x1f]{50001,}+"(?=[ \t\r\n]*+:)'
MISFIT = "0"
STARTS_AN_OBJECT = r"\A[ \t\r\n]*+\{"


def classify(records: DataFrame) -> DataFrame:
    """Each record (RAW_EVENTS and its `kind`) with its `fate`, `violations` and typed `order`, `product` or `line`.

    `violations` is in contract order and empty unless the fate is dead; of the other three only the one of the
    record's kind is filled, and only when the fate is accepted. Runs on batches and streams alike.
    """
    return (
        records.withColumn("document", _once(_document()))
        .withColumns(_values())
        .withColumn("violations", _once(_violations()))
        .select(*RAW_EVENTS.names, "kind", _fate().alias("fate"), "violations", *_events())
    )


def accepted_orders(classified: DataFrame) -> DataFrame:
    """The accepted orders as ORDER_EVENTS, duplicates kept."""
    return _accepted(classified, ORDERS).select("order.*", "*").select(*_columns(ORDER_EVENTS))


def accepted_products(classified: DataFrame) -> DataFrame:
    """The accepted product versions as PRODUCT_EVENTS, duplicates kept."""
    return _accepted(classified, PRODUCTS).select("product.*", "*").select(*_columns(PRODUCT_EVENTS))


def text_lines(classified: DataFrame) -> DataFrame:
    """The accepted texts as LINES."""
    return _accepted(classified, TEXT_LINES).select(*_columns(LINES))


def dead_letters(classified: DataFrame) -> DataFrame:
    """The rejected records as DEAD_LETTERS: their bytes as they came, and why."""
    return classified.where(F.col("fate") == DEAD).select(*_columns(DEAD_LETTERS))


def _accepted(classified: DataFrame, kind: str) -> DataFrame:
    return classified.where((F.col("kind") == kind) & (F.col("fate") == ACCEPTED))


def _columns(table: T.StructType) -> list[Column]:
    return [
        F.lit(CONTRACT_VERSION).alias(name) if name == "contract_version" else F.col(name)
        for name in table.names
    ]


def _once(value: Column) -> Column:
    """The value, which the optimizer may neither copy into a filter below nor into the projections above.

    It would: a condition on `fate` would be pushed through, and each record parsed once more for every branch.
    Expressions that are not deterministic stay where they are, and this one claims to be such: the random number, never
    negative, decides nothing. (Spark sees through `rand() >= 0` and drops it, hence the sign.)
    """
    return F.when(-F.rand(seed=0) <= 0, value)


def _text() -> Column:
    return F.col("value").cast("string")


def _is_too_large() -> Column:
    return F.octet_length("value") > MAX_VALUE_BYTES


def _document() -> Column:
    """The value as a DOCUMENT, null where it is none; CORRUPT is set in it where `items` has the wrong shape."""
    is_candidate = (
        F.col("kind").isin(ORDERS, PRODUCTS)
        & ~_is_too_large()
        & F.is_valid_utf8(_text())
        & _text().rlike(STARTS_AN_OBJECT)
    )

    def judged(parsed: Column) -> Column:
        return F.when(parsed[CORRUPT].isNull(), parsed).otherwise(_reread_document())

    return F.when(is_candidate, bound(F.from_json(_text(), DOCUMENT, JSON_OPTIONS), judged))


def _reread_document() -> Column:
    """A value that does not fit, read again: null where it is no JSON, else with the last `items` judged alone.

    The first parse cannot tell which of several `items` did not fit, and the last counts. As a variant it keeps its
    shape, so that, written out again, it fits or does not. The parser's own limit on the length of a name is not ours:
    such a name is unknown anyway, and is shortened.
    """
    text = F.regexp_replace(_text(), NAME_TOO_LONG_TO_PARSE, '"unknown"')
    only = F.from_json(text, ITEMS_ONLY, JSON_OPTIONS)
    absent = F.when(only[CORRUPT].isNull(), "null").otherwise(MISFIT)
    alone = F.concat(F.lit('{"items":'), F.coalesce(F.to_json(only["items"]), absent), F.lit("}"))

    def judged(parsed: Column) -> Column:
        fits = F.from_json(alone, DOCUMENT, JSON_OPTIONS)
        fields = {
            "items": fits["items"],
            **{name: parsed[name] for name in TEXT_FIELDS},
            CORRUPT: fits[CORRUPT],
        }
        document = F.struct(*[value.alias(name) for name, value in fields.items()])
        return F.when(parsed[CORRUPT].isNull(), document)

    return bound(F.from_json(text, TEXT_DOCUMENT, JSON_OPTIONS), judged)


def _values() -> dict[str, Column]:
    """The typed values of a document; a value is null where absent or against its rule."""
    document = F.col("document")
    is_order, is_product = F.col("kind") == ORDERS, F.col("kind") == PRODUCTS
    return {
        "lines": F.when(is_order, bound(typed_items(document["items"], _text()), _lines)),
        "total": F.when(is_order, amount(document["total"], _text())),
        "price": F.when(is_product, amount(document["price"], _text())),
        "cost": F.when(is_product, amount(document["cost"], _text())),
        "event_time": event_time(document["timestamp"], F.col("kafka_timestamp")),
    }


def _lines(items: Column) -> Column:
    """Typed items, whether they break a rule, and the total they give a creation that names none."""
    document = F.col("document")
    is_broken = document[CORRUPT].isNotNull() | F.coalesce(F.exists(items, item_is_broken), F.lit(False))
    needs_total = document["total"].isNull() & (document["event_type"] == ORDER_CREATED)
    return F.struct(
        items.alias("items"),
        is_broken.alias("is_broken"),
        F.when(needs_total & ~is_broken, derived_total(items)).alias("total"),
    )


def _violations() -> Column:
    """The violations in contract order, none for a tombstone."""
    return (
        F.when(F.col("value").isNull(), _names())
        .when(_is_too_large(), _names(TOO_LARGE))
        .when(
            F.col("kind") == TEXT_LINES,
            F.when(F.is_valid_utf8(_text()), _names()).otherwise(_names(NOT_UTF8)),
        )
        .when(F.col("document").isNull(), _names(NOT_JSON))
        .when(F.col("kind") == ORDERS, _failures(_order_checks()))
        .otherwise(_failures(_product_checks()))
    )


def _fate() -> Column:
    is_dead = F.size("violations") > 0
    return F.when(F.col("value").isNull(), TOMBSTONE).when(is_dead, DEAD).otherwise(F.lit(ACCEPTED))


def _events() -> list[Column]:
    """`order`, `product` and `line`: the one of the record's kind, when it is accepted."""
    is_accepted = F.col("value").isNotNull() & (F.size("violations") == 0)
    return [
        F.when(is_accepted & (F.col("kind") == ORDERS), _order()).alias("order"),
        F.when(is_accepted & (F.col("kind") == PRODUCTS), _product()).alias("product"),
        F.when(is_accepted & (F.col("kind") == TEXT_LINES), _text()).alias("line"),
    ]


def _total() -> Column:
    return F.coalesce(F.col("total"), F.col("lines")["total"])


def _order_checks() -> dict[str, Column]:
    document = F.col("document")
    is_created = document["event_type"] == ORDER_CREATED
    is_broken = F.col("lines")["is_broken"]
    needs_total = document["total"].isNotNull() | (is_created & ~is_broken)
    return {
        "event_type": document["event_type"].isin(*EVENT_TYPES),
        "order_id": identifier(document["order_id"]).isNotNull(),
        "customer_id": identifier(document["customer_id"]).isNotNull(),
        "total": _total().isNotNull() | ~F.coalesce(needs_total, F.lit(False)),
        "status": document["status"].isNull() | document["status"].isin(*STATUSES),
        "items": ~is_broken,
        "timestamp": F.col("event_time").isNotNull(),
    }


def _product_checks() -> dict[str, Column]:
    document = F.col("document")
    return {
        "product_id": identifier(document["product_id"]).isNotNull(),
        "name": identifier(document["name"]).isNotNull(),
        "product_category": identifier(document["product_category"]).isNotNull(),
        "price": F.col("price").isNotNull(),
        "cost": F.col("cost").isNotNull(),
        "timestamp": F.col("event_time").isNotNull(),
    }


def _order() -> Column:
    document = F.col("document")
    default_status = F.when(document["event_type"] == ORDER_CANCELLED, CANCELLED).otherwise(PENDING)
    values = {
        "event_type": document["event_type"],
        "order_id": document["order_id"],
        "customer_id": document["customer_id"],
        "total": _total(),
        "status": F.coalesce(document["status"], default_status),
        "items": F.col("lines")["items"],
        "event_time": F.col("event_time"),
    }
    return F.struct(*[values[name].alias(name) for name in ORDER.names])


def _product() -> Column:
    document = F.col("document")
    values = {
        "product_id": document["product_id"],
        "name": document["name"],
        "product_category": document["product_category"],
        "price": F.col("price"),
        "cost": F.col("cost"),
        "event_time": F.col("event_time"),
    }
    return F.struct(*[values[name].alias(name) for name in PRODUCT.names])


def _names(*names: str) -> Column:
    return F.array(*[F.lit(name) for name in names]).cast(T.ArrayType(T.StringType()))


def _failures(checks: Mapping[str, Column]) -> Column:
    """The names of the checks that fail, in the mapping's order."""
    has_none = ~failed(_all(list(checks.values())))
    failures = [F.when(failed(holds), F.lit(name)) for name, holds in checks.items()]
    nothing = F.array(F.lit(None).cast("string"))
    return F.when(has_none, _names()).otherwise(F.array_except(F.array(*failures), nothing))


def _all(conditions: Sequence[Column]) -> Column:
    return F.coalesce(*[F.when(failed(holds), F.lit(False)) for holds in conditions], F.lit(True))
