"""The contract, record by record: many rows in one job, the expected violations beside each."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timezone
from decimal import Decimal
from pathlib import Path

from pyspark.sql import DataFrame, Row, SparkSession
from pyspark.sql import types as T

from pipeline.contracts import (
    CONTRACT_VERSION,
    DEAD_LETTERS,
    LINES,
    MAX_VALUE_BYTES,
    ORDER_EVENTS,
    ORDERS,
    PRODUCTS,
    RAW_EVENTS,
    TEXT_LINES,
)
from pipeline.kinds import KINDS
from pipeline.transforms.decode import accepted_events, classify, dead_letters, text_lines

KAFKA_TIME = datetime(2026, 1, 5, 12, 0, tzinfo=timezone.utc)
TIME = '"timestamp":"2026-01-05T11:59:00Z"'
IDS = '"order_id":"o1","customer_id":"c1"'
BASE = f'"event_type":"order_created",{IDS},{TIME}'
CANCELLED = f'"event_type":"order_cancelled",{IDS},{TIME}'
ITEM = '{"product_id":"p1","price":"2.50","quantity":2}'
PRODUCT = f'"product_id":"p1","name":"Tea","product_category":"Food","price":2.5,"cost":"1",{TIME}'

RECORDS = T.StructType([*RAW_EVENTS.fields, T.StructField("kind", T.StringType())])

Case = tuple[str, bytes | str | None, str]


def nested(levels: int) -> str:
    """An order whose deepest nesting, the order itself included, is `levels`."""
    return f'{{{BASE},"total":1,"note":{"[" * (levels - 1)}{"]" * (levels - 1)}}}'


def of_size(n_bytes: int) -> str:
    start = f'{{{BASE},"total":1,"note":"'
    return start + "x" * (n_bytes - len(start) - 2) + '"}'


def with_items(items: str) -> str:
    return f'{{{BASE},"total":5,"items":{items}}}'


def without_total(items: str) -> str:
    return f'{{{BASE},"items":{items}}}'


# (kind, value, violations separated by commas; "" is accepted, "tombstone" is one)
CASES: Sequence[Case] = [
    (ORDERS, f'{{{BASE},"total":5}}', ""),
    (ORDERS, f' \t\r\n{{{BASE},"total":5}} ', ""),
    (ORDERS, f"{{{CANCELLED}}}", ""),
    (ORDERS, None, "tombstone"),
    (PRODUCTS, None, "tombstone"),
    (TEXT_LINES, None, "tombstone"),
    # not_json
    (ORDERS, "", "not_json"),
    (ORDERS, "  \n ", "not_json"),
    (ORDERS, "null", "not_json"),
    (ORDERS, "5", "not_json"),
    (ORDERS, '"{}"', "not_json"),
    (ORDERS, "[]", "not_json"),
    (ORDERS, f'[{{{BASE},"total":5}}]', "not_json"),
    (ORDERS, f'{{{BASE},"total":5', "not_json"),
    (ORDERS, f'{{{BASE},"total":NaN}}', "not_json"),
    (ORDERS, f'{{{BASE},"total":5,"x":-Infinity}}', "not_json"),
    (ORDERS, f"{{{BASE},\"total\":5,'x':1}}", "not_json"),
    (ORDERS, f'{{{BASE},"total":5,}}', "not_json"),
    (ORDERS, f'{{{BASE},"total":05}}', "not_json"),
    (ORDERS, f'{{{BASE},"total":+5}}', "not_json"),
    (ORDERS, f'{{{BASE},"total":.5}}', "not_json"),
    (ORDERS, f'{{{BASE},"total":5,x:1}}', "not_json"),
    (ORDERS, f'{{{BASE},"total":5,"x":"a\tb"}}', "not_json"),
    (ORDERS, f'{{{BASE},"total":5,/* c */"x":1}}', "not_json"),
    (ORDERS, f'{{{BASE},"total":5,"items":[{{"quantity":"x"}}],', "not_json"),
    (ORDERS, f'\ufeff{{{BASE},"total":5}}', "not_json"),
    (ORDERS, f'\u00a0{{{BASE},"total":5}}', "not_json"),
    (ORDERS, b'{"order_id":"\xff"}', "not_json"),
    (ORDERS, b'{"order_id":"\xed\xa0\x80"}', "not_json"),
    (ORDERS, b'{"order_id":"\xc0\xaf"}', "not_json"),
    (ORDERS, b"\x00\x01\x02", "not_json"),
    (ORDERS, "{", "not_json"),
    (ORDERS, f'{{{BASE},"total":5,"{"n" * 60_000}":1}}', ""),
    (ORDERS, f'{{{BASE},"total":5,"items":1,"{"n" * 60_000}":1}}', "items"),
    (ORDERS, nested(1_000), ""),
    (ORDERS, nested(1_001), "not_json"),
    (ORDERS, nested(10_000), "not_json"),
    (PRODUCTS, "x", "not_json"),
    # too_large, alone and first
    (ORDERS, of_size(MAX_VALUE_BYTES), ""),
    (ORDERS, of_size(MAX_VALUE_BYTES + 1), "too_large"),
    (ORDERS, b"\xff" * (MAX_VALUE_BYTES + 1), "too_large"),
    # every field of an order
    (ORDERS, "{}", "event_type,order_id,customer_id,timestamp"),
    (ORDERS, '{"event_type":"order_created"}', "order_id,customer_id,total,timestamp"),
    (ORDERS, f'{{{IDS},{TIME},"event_type":"ORDER_CREATED","total":5}}', "event_type"),
    (ORDERS, f'{{{IDS},{TIME},"Event_Type":"order_created","total":5}}', "event_type"),
    (ORDERS, f'{{{IDS},{TIME},"event_type":null,"items":[{ITEM}]}}', "event_type"),
    (ORDERS, f'{{{BASE},"total":5,"order_id":""}}', "order_id"),
    (ORDERS, f'{{{BASE},"total":5,"order_id":null}}', "order_id"),
    (ORDERS, f'{{{BASE},"total":5,"order_id":{"1" * 128}}}', ""),
    (ORDERS, f'{{{BASE},"total":5,"order_id":"{"x" * 129}"}}', "order_id"),
    (ORDERS, f'{{{BASE},"total":5,"customer_id":"{"😀" * 128}"}}', ""),
    (ORDERS, f'{{{BASE},"total":5,"customer_id":"{"😀" * 129}"}}', "customer_id"),
    (ORDERS, f'{{{BASE},"total":"5.00"}}', ""),
    (ORDERS, f'{{{BASE},"total":9999999999.99}}', ""),
    (ORDERS, f'{{{BASE},"total":1e10}}', "total"),
    (ORDERS, f'{{{BASE},"total":12.345}}', "total"),
    (ORDERS, f'{{{BASE},"total":1e-400}}', "total"),
    (ORDERS, f'{{{BASE},"t\\u006ftal":1e-400}}', "total"),
    (ORDERS, f'{{{BASE},"total":1e400}}', "total"),
    (ORDERS, f'{{{BASE},"total":-1}}', "total"),
    (ORDERS, f'{{{BASE},"total":"NaN"}}', "total"),
    (ORDERS, f'{{{BASE},"total":""}}', "total"),
    (ORDERS, f'{{{BASE},"total":" 1.5"}}', "total"),
    (ORDERS, f'{{{BASE},"total":true}}', "total"),
    (ORDERS, f'{{{BASE},"total":[5]}}', "total"),
    (ORDERS, f'{{{BASE},"total":{{}}}}', "total"),
    (ORDERS, f"{{{BASE}}}", "total"),
    (ORDERS, f'{{{BASE},"Total":5}}', "total"),
    (ORDERS, f'{{{BASE},"total":null,"items":[]}}', "total"),
    (ORDERS, f'{{{CANCELLED},"total":"x"}}', "total"),
    (ORDERS, f'{{{BASE},"total":5,"status":"completed"}}', ""),
    (ORDERS, f'{{{BASE},"total":5,"status":null}}', ""),
    (ORDERS, f'{{{BASE},"total":5,"status":"Pending"}}', "status"),
    (ORDERS, f'{{{BASE},"total":5,"status":""}}', "status"),
    (ORDERS, f'{{{BASE},"total":5,"timestamp":1767614400}}', "timestamp"),
    (ORDERS, f'{{{BASE},"total":5,"timestamp":null}}', "timestamp"),
    (ORDERS, f'{{{BASE},"total":5,"timestamp":"2026-01-05T12:05:00.001Z"}}', "timestamp"),
    # items
    (ORDERS, with_items(f"[{ITEM},{ITEM}]"), ""),
    (ORDERS, with_items("[]"), ""),
    (ORDERS, with_items("null"), ""),
    (ORDERS, with_items('[{"product_id":7,"price":0}]'), ""),
    (ORDERS, with_items('[{"product_id":"p","price":1,"quantity":null}]'), ""),
    (ORDERS, with_items('[{"product_id":"p","price":1,"quantity":1000000}]'), ""),
    (ORDERS, with_items('[{"product_id":"p","price":1,"quantity":1000001}]'), "items"),
    (ORDERS, with_items('[{"product_id":"p","price":1,"quantity":0}]'), "items"),
    (ORDERS, with_items('[{"product_id":"p","price":1,"quantity":-1}]'), "items"),
    (ORDERS, with_items('[{"product_id":"p","price":1,"quantity":4294967297}]'), "items"),
    (ORDERS, with_items('[{"product_id":"p","price":1,"quantity":99999999999999999999}]'), "items"),
    (ORDERS, with_items('[{"product_id":"p","price":1,"quantity":"2"}]'), "items"),
    (ORDERS, with_items('[{"product_id":"p","price":1,"quantity":2.5}]'), "items"),
    (ORDERS, with_items('[{"product_id":"p","price":1,"quantity":true}]'), "items"),
    (ORDERS, with_items('[{"product_id":"p"}]'), "items"),
    (ORDERS, with_items('[{"product_id":"p","price":1e-400}]'), "items"),
    (ORDERS, with_items('[{"product_id":"p","price":"1.005"}]'), "items"),
    (ORDERS, with_items('[{"product_id":"","price":1}]'), "items"),
    (ORDERS, with_items('[{"price":1}]'), "items"),
    (ORDERS, with_items(f"[{ITEM},null]"), "items"),
    (ORDERS, with_items("[1]"), "items"),
    (ORDERS, with_items("[[]]"), "items"),
    (ORDERS, with_items(ITEM), "items"),
    (ORDERS, with_items("{}"), "items"),
    (ORDERS, with_items('"[]"'), "items"),
    (ORDERS, with_items('""'), "items"),
    (ORDERS, with_items("true"), "items"),
    (ORDERS, with_items("0"), "items"),
    (ORDERS, without_total('"[]"'), "items"),
    (ORDERS, without_total('[{"product_id":"p"}]'), "items"),
    (ORDERS, without_total(f"[{ITEM}]"), ""),
    (ORDERS, without_total('[{"product_id":"p","price":9999999999,"quantity":1000000}]'), "total"),
    (ORDERS, without_total('[{"product_id":"p","price":5000000000,"quantity":2}]'), "total"),
    (ORDERS, f'{{{CANCELLED},"items":"x"}}', "items"),
    (
        ORDERS,
        '{"items":{},"total":"x","status":"?"}',
        "event_type,order_id,customer_id,total,status,items,timestamp",
    ),
    # of a repeated key the last counts
    (ORDERS, f'{{{BASE},"total":"x","total":5}}', ""),
    (ORDERS, f'{{{BASE},"total":5,"total":"x"}}', "total"),
    (ORDERS, f'{{{BASE},"total":5,"total":null}}', "total"),
    (ORDERS, f'{{{BASE},"total":5,"items":"x","items":[{ITEM}]}}', ""),
    (ORDERS, f'{{{BASE},"total":5,"items":"x","items":null}}', ""),
    (ORDERS, f'{{{BASE},"total":5,"items":[{ITEM}],"items":"[]"}}', "items"),
    (ORDERS, with_items('[{"product_id":"p","price":1,"quantity":{},"quantity":1}]'), ""),
    (ORDERS, with_items('[{"product_id":"p","price":1,"quantity":1,"quantity":{}}]'), "items"),
    (
        ORDERS,
        f'{{{BASE},"total":5,"items":[{ITEM}],"items":[{{"product_id":"p","price":1,"quantity":"x","quantity":1}}]}}',
        "",
    ),
    (
        ORDERS,
        f'{{{BASE},"total":5,"items":[{ITEM}],"items":[{{"product_id":"p","price":1,"quantity":1,"quantity":[]}}]}}',
        "items",
    ),
    # products
    (PRODUCTS, f"{{{PRODUCT}}}", ""),
    (PRODUCTS, f'{{{PRODUCT},"items":"of no meaning here","total":"x","status":"?"}}', ""),
    (PRODUCTS, "{}", "product_id,name,product_category,price,cost,timestamp"),
    (PRODUCTS, f'{{{PRODUCT},"name":""}}', "name"),
    (PRODUCTS, f'{{{PRODUCT},"product_category":"{"x" * 129}"}}', "product_category"),
    (PRODUCTS, f'{{{PRODUCT},"price":null}}', "price"),
    (PRODUCTS, f'{{{PRODUCT},"cost":0.001}}', "cost"),
    (PRODUCTS, f'{{{PRODUCT},"timestamp":"2026-01-05"}}', "timestamp"),
    # text
    (TEXT_LINES, "Zwölf Boxkämpfer {", ""),
    (TEXT_LINES, "", ""),
    (TEXT_LINES, b"\xff\xfe", "not_utf8"),
    (TEXT_LINES, b"x" * (MAX_VALUE_BYTES + 1), "too_large"),
]


def records(spark: SparkSession, values: Sequence[tuple[str, bytes | str | None]]) -> DataFrame:
    """One record for each value, its position as the offset."""
    rows = [
        (kind, 0, offset, KAFKA_TIME, b"key", value.encode() if isinstance(value, str) else value, None, kind)
        for offset, (kind, value) in enumerate(values)
    ]
    return spark.createDataFrame(rows, RECORDS)


def only(frame: DataFrame) -> Row:
    (row,) = frame.collect()
    return row


def accepted_orders(classified: DataFrame) -> DataFrame:
    return accepted_events(classified, KINDS[ORDERS])


def parses(frame: DataFrame) -> int:
    """How often the optimized plan reads JSON by the main schema."""
    plan = frame._jdf.queryExecution().optimizedPlan().toString()  # type: ignore[operator]
    return plan.count("from_json(StructField(items,ArrayType(StructType(StructField(product_id")


def test_every_rule(spark: SparkSession) -> None:
    classified = classify(records(spark, [(kind, value) for kind, value, _ in CASES]))
    found = classified.selectExpr(
        "offset",
        "if(fate = 'tombstone', fate, array_join(violations, ',')) AS verdict",
        "fate",
        "orders IS NOT NULL OR products IS NOT NULL OR kind = 'text-lines' AND fate = 'accepted' AS has_event",
    ).collect()
    verdicts = {row["offset"]: row for row in found}
    wrong = [
        (kind, str(value)[:200], verdicts[offset]["verdict"], expected)
        for offset, (kind, value, expected) in enumerate(CASES)
        if verdicts[offset]["verdict"] != expected
    ]
    assert wrong == []
    assert len(found) == len(CASES)
    for row in found:
        expected_fate = {"": "accepted", "tombstone": "tombstone"}.get(row["verdict"], "dead")
        assert (row["fate"], row["has_event"]) == (expected_fate, expected_fate == "accepted")


def test_an_accepted_order_is_typed(spark: SparkSession) -> None:
    value = f'{{{BASE},"items":[{ITEM},{{"product_id":7,"price":12345678.9}}],"order_id":12}}'
    orders = accepted_orders(
        classify(records(spark, [(ORDERS, value), (ORDERS, "{}"), (PRODUCTS, f"{{{PRODUCT}}}")]))
    )
    assert orders.columns == ORDER_EVENTS.names
    assert orders.schema.simpleString() == ORDER_EVENTS.simpleString()
    order = only(orders.withColumn("event_time", orders["event_time"].cast("string")))
    assert order == Row(
        event_type="order_created",
        order_id="12",
        customer_id="c1",
        total=Decimal("12345683.90"),
        status="pending",
        items=[
            Row(product_id="p1", price=Decimal("2.50"), quantity=2),
            Row(product_id="7", price=Decimal("12345678.90"), quantity=1),
        ],
        event_time="2026-01-05 11:59:00",
        topic="orders",
        partition=0,
        offset=0,
        contract_version=CONTRACT_VERSION,
    )


def test_a_cancellation_without_total_is_cancelled_and_its_total_unknown(spark: SparkSession) -> None:
    order = only(accepted_orders(classify(records(spark, [(ORDERS, f'{{{CANCELLED},"items":[{ITEM}]}}')]))))
    assert (order["total"], order["status"], len(order["items"])) == (None, "cancelled", 1)


def test_the_other_selections(spark: SparkSession) -> None:
    classified = classify(
        records(spark, [(PRODUCTS, f"{{{PRODUCT}}}"), (TEXT_LINES, "a b"), (ORDERS, b"\xff")])
    )
    products = accepted_events(classified, KINDS[PRODUCTS])
    lines, dead = text_lines(classified), dead_letters(classified)
    for rows, table in ((products, KINDS[PRODUCTS].schema), (lines, LINES), (dead, DEAD_LETTERS)):
        assert rows.schema.simpleString() == table.simpleString()
    product, line, letter = only(products), only(lines), only(dead)
    assert (product["product_id"], product["price"], product["cost"]) == (
        "p1",
        Decimal("2.50"),
        Decimal("1.00"),
    )
    assert (line["line"], line["offset"]) == ("a b", 1)
    assert (bytes(letter["value"]), bytes(letter["key"]), letter["violations"]) == (
        b"\xff",
        b"key",
        ["not_json"],
    )


def test_json_is_parsed_once(spark: SparkSession, tmp_path: Path) -> None:
    path = str(tmp_path / "records")
    records(spark, [(ORDERS, f'{{{BASE},"total":5}}')]).write.parquet(path)
    classified = classify(spark.read.parquet(path))
    strict_rereads = 1
    for rows in (
        classified,
        accepted_orders(classified),
        accepted_events(classified, KINDS[PRODUCTS]),
        dead_letters(classified),
    ):
        assert parses(rows) == 1 + strict_rereads
    assert parses(accepted_orders(classified).select("total").where("total > 1")) == 1 + strict_rereads


def test_a_stream_is_classified_like_a_batch(spark: SparkSession, tmp_path: Path) -> None:
    source, target = str(tmp_path / "records"), str(tmp_path / "classified")
    small = [(kind, value) for kind, value, _ in CASES if value is None or len(value) < 10_000]
    records(spark, small).write.parquet(source)
    stream = classify(spark.readStream.schema(RECORDS).parquet(source))
    query = (
        stream.writeStream.format("parquet")
        .option("checkpointLocation", str(tmp_path / "checkpoint"))
        .trigger(availableNow=True)
        .start(target)
    )
    query.awaitTermination()
    verdicts = ["offset", "fate", "violations", "orders", "products"]
    streamed = spark.read.parquet(target).select(verdicts).orderBy("offset").collect()
    assert streamed == classify(spark.read.parquet(source)).select(verdicts).orderBy("offset").collect()
    assert len(streamed) == len(small)
