"""The reference against expectations written out by hand; no Spark, no broker."""

from __future__ import annotations

import json
from collections import Counter
from datetime import datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

import pytest

from reference import (
    KINDS,
    VIEWS,
    Item,
    Kind,
    OrderEvent,
    ProductEvent,
    Record,
    Row,
    TextLine,
    Verdict,
    accepted_log,
    as_records,
    audit_counts,
    classify,
    default_until,
    fuzz_records,
    read_records,
    words,
)

NOON = datetime(2026, 1, 5, 12, tzinfo=timezone.utc)
NOON_MS = 1_767_614_400_000
ABSENT = object()
BAD_QUANTITIES: tuple[object, ...] = (0, -1, 1_000_001, "2", 2.5, True, [])


def judged(value: bytes | str | None, kind: Kind = "orders", *, timestamp_ms: int = NOON_MS) -> Verdict:
    raw = value.encode() if isinstance(value, str) else value
    return classify(Record(kind, 0, 0, timestamp_ms, None, raw), kind)


def order(**changes: Any) -> str:
    fields: dict[str, Any] = {
        "event_type": "order_created",
        "order_id": "o1",
        "customer_id": "c1",
        "total": 12.5,
        "timestamp": "2026-01-05T12:00:00Z",
    }
    fields.update(changes)
    return json.dumps({name: value for name, value in fields.items() if value is not ABSENT})


def product(**changes: Any) -> str:
    fields: dict[str, Any] = {
        "product_id": "p1",
        "name": "Lamp",
        "product_category": "light",
        "price": 10,
        "cost": 6,
        "timestamp": "2026-01-05T12:00:00Z",
    }
    fields.update(changes)
    return json.dumps({name: value for name, value in fields.items() if value is not ABSENT})


def order_with_total(token: str) -> str:
    return order(total=ABSENT)[:-1] + f', "total": {token}}}'


def event(verdict: Verdict) -> Any:
    assert verdict.fate == "accepted", verdict
    return verdict.event


def at(hours: float = 0, **more: float) -> str:
    return (NOON + timedelta(hours=hours, **more)).isoformat(timespec="microseconds")


def log_of(*values: tuple[Kind, str], partitions: int = 1) -> list[Record]:
    """Records in the order given, all with a Kafka timestamp late enough."""
    records = []
    ends: Counter[tuple[str, int]] = Counter()
    for index, (kind, value) in enumerate(values):
        place = kind, index % partitions
        records.append(Record(*place, ends[place], NOON_MS + 10**9, None, value.encode()))
        ends[place] += 1
    return records


def view(name: str, records: list[Record], until: datetime | None = None) -> list[Row]:
    return VIEWS[name](accepted_log(records), until)


def test_an_accepted_creation_is_typed() -> None:
    line = {"product_id": 7, "price": "1.500", "quantity": 3, "colour": "red"}
    verdict = judged(order(order_id=42, items=[line], timestamp="2026-01-05T13:30:00.5+01:30"))
    assert verdict == Verdict(
        "accepted",
        event=OrderEvent(
            event_type="order_created",
            order_id="42",
            customer_id="c1",
            total=Decimal("12.50"),
            status="pending",
            items=(Item("7", Decimal("1.50"), 3),),
            event_time=NOON + timedelta(milliseconds=500),
        ),
    )


def test_a_cancellation_may_leave_its_total_unknown() -> None:
    cancelled = event(
        judged(order(event_type="order_cancelled", total=None, items=[{"product_id": "p", "price": 1}]))
    )
    assert (cancelled.total, cancelled.status) == (None, "cancelled")


def test_an_accepted_product_is_typed() -> None:
    expected = ProductEvent("p1", "Lamp", "light", Decimal("10.00"), Decimal("6.00"), NOON)
    assert event(judged(product(), "products")) == expected


def test_a_null_value_is_a_tombstone() -> None:
    assert [judged(None, kind) for kind in KINDS.values()] == [Verdict("tombstone")] * 3


def test_text_lines_are_utf8_or_dead() -> None:
    assert judged("Größe", "text-lines") == Verdict("accepted", event=TextLine("Größe"))
    assert judged(b"", "text-lines") == Verdict("accepted", event=TextLine(""))
    assert judged(b"\xff", "text-lines") == Verdict("dead", ("not_utf8",))


def test_all_violations_are_named_in_the_contracts_order() -> None:
    assert judged('{"status": 5, "items": 5}').violations == (
        "event_type",
        "order_id",
        "customer_id",
        "status",
        "items",
        "timestamp",
    )
    assert judged(order(total=-1, timestamp=5, order_id="")).violations == ("order_id", "total", "timestamp")
    every = ("product_id", "name", "product_category", "price", "cost", "timestamp")
    assert judged("{}", "products").violations == every


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b" \n",
        b"\xc2\xa0",
        b"[]",
        b"null",
        b"12",
        b'"{}"',
        b"[" + order().encode() + b"]",
        b"\xef\xbb\xbf" + order().encode(),
        order().encode()[:-1],
        order().replace('"', "'").encode(),
        order_with_total("NaN").encode(),
        order_with_total("-Infinity").encode(),
        order_with_total("01").encode(),
        order_with_total("1.").encode(),
        order().encode()[:-1] + b',"note":"\xff"}',
        order().encode()[:-1] + b',"note":"\xed\xa0\x80"}',
        order().encode()[:-1] + b',"note":"\n"}',
        order().encode()[:-1] + b",}",
        b"[" * 100_000,
    ],
)
def test_what_is_not_one_json_object(value: bytes) -> None:
    assert judged(value) == Verdict("dead", ("not_json",))


def test_an_object_of_a_thousand_levels_is_the_deepest() -> None:
    def nested(levels: int, opening: str, closing: str) -> str:
        return order()[:-1] + f', "deep": {opening * (levels - 1)}1{closing * (levels - 1)}}}'

    for opening, closing in (("[", "]"), ('{"a":', "}")):
        assert judged(nested(1_000, opening, closing)).fate == "accepted"
        assert judged(nested(1_001, opening, closing)).violations == ("not_json",)
        assert judged(nested(10_000, opening, closing)).violations == ("not_json",)
    assert judged(order(note='[{\\"' * 2_000)).fate == "accepted"


def test_one_mebibyte_is_the_largest() -> None:
    at_limit = order(padding="x" * (1_048_576 - len(order(padding=""))))
    assert len(at_limit) == 1_048_576
    assert judged(at_limit).fate == "accepted"
    assert judged(at_limit + " ") == Verdict("dead", ("too_large",))
    assert judged(b"\xff" * 1_048_577, "text-lines") == Verdict("dead", ("too_large",))


def test_of_a_repeated_key_the_last_counts() -> None:
    assert event(judged('{"total": "x", ' + order()[1:])).total == Decimal("12.50")
    assert event(judged(order()[:-1] + ', "tot\\u0061l": 7}')).total == Decimal("7.00")
    assert judged(order()[:-1] + ', "total": null}').violations == ("total",)


@pytest.mark.parametrize("value", ["x", "x" * 128, "😀" * 128, " ", "\u0000", 7, -5])
def test_good_ids(value: str | int) -> None:
    assert event(judged(order(customer_id=value))).customer_id == str(value)


@pytest.mark.parametrize("value", ["", None, ABSENT, "x" * 129, "😀" * 129])
def test_bad_ids(value: object) -> None:
    assert judged(order(customer_id=value)).violations == ("customer_id",)


@pytest.mark.parametrize(
    ("token", "amount"),
    [
        ("0", "0.00"),
        ("-0.0", "0.00"),
        ("1.500", "1.50"),
        ("1e2", "100.00"),
        ("1.5E-1", "0.15"),
        ("1250e-3", "1.25"),
        ("9999999999.99", "9999999999.99"),
        ('"9999999999.990"', "9999999999.99"),
        ('"1.5' + "0" * 5_000 + '"', "1.50"),
        ('"100000000000000000000e-20"', "1.00"),
        ('"0e99999999999999999999999"', "0.00"),
    ],
)
def test_good_amounts(token: str, amount: str) -> None:
    total = event(judged(order_with_total(token))).total
    assert str(total) == amount


@pytest.mark.parametrize(
    "token",
    [
        "-0.01",
        "0.001",
        "12.345",
        "1e10",
        "10000000000",
        "9999999999.999",
        "1e400",
        "1e-400",
        "true",
        "[]",
        "{}",
    ]
    + [
        f'"{text}"'
        for text in ("", " 1.5", "1.5 ", "1.5\\n", "+5", ".5", "5.", "01", "٣", "1,5", "NaN", "1e", "1d")
    ]
    + ['"1e99999999999999999999999"', '"1e-99999999999999999999999"', '"1' + "0" * 5_000 + '"'],
)
def test_bad_amounts(token: str) -> None:
    assert judged(order_with_total(token)).violations == ("total",)


def test_an_absent_total_is_the_sum_of_the_items() -> None:
    items = [{"product_id": "p1", "price": 1.5, "quantity": 3}, {"product_id": "p2", "price": "0.01"}]
    assert event(judged(order(total=ABSENT, items=items))).total == Decimal("4.51")
    assert event(judged(order(total=1, items=items))).total == Decimal("1.00")


def test_a_derived_total_stays_under_ten_to_the_tenth() -> None:
    def dear(price: object) -> str:
        return order(total=None, items=[{"product_id": "p1", "price": price, "quantity": 1_000_000}])

    assert event(judged(dear("9999.99"))).total == Decimal("9999990000.00")
    assert judged(dear(10_000)).violations == ("total",)


@pytest.mark.parametrize("items", [ABSENT, None, []])
def test_neither_total_nor_items_is_a_violation_of_total(items: object) -> None:
    assert judged(order(total=ABSENT, items=items)).violations == ("total",)


@pytest.mark.parametrize(
    "items",
    [
        {},
        "[]",
        5,
        [1],
        [None],
        [[]],
        [{}],
        [{"product_id": "p"}],
        [{"price": 1}],
        [{"product_id": "", "price": 1}],
    ]
    + [[{"product_id": "p", "price": price}] for price in (None, -1, 0.001, "x", True)]
    + [[{"product_id": "p", "price": 1, "quantity": quantity}] for quantity in BAD_QUANTITIES],
)
def test_broken_items_are_items_alone_even_where_the_total_needs_them(items: object) -> None:
    assert judged(order(total=ABSENT, items=items)).violations == ("items",)
    assert judged(order(items=items)).violations == ("items",)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2026-01-05T12:00:00Z", NOON),
        ("2026-01-05T12:00:00-00:00", NOON),
        ("2026-01-05T12:00:00.1Z", NOON + timedelta(milliseconds=100)),
        ("2026-01-05T12:00:00.000001Z", NOON + timedelta(microseconds=1)),
        ("2026-01-05T12:01:00+23:59", NOON - timedelta(hours=23, minutes=58)),
        ("2026-01-04T12:01:00-23:59", NOON),
        ("2026-01-05T12:05:00Z", NOON + timedelta(minutes=5)),
        ("2000-01-01T00:00:00Z", datetime(2000, 1, 1, tzinfo=timezone.utc)),
        ("1999-12-31T23:00:00-01:00", datetime(2000, 1, 1, tzinfo=timezone.utc)),
    ],
)
def test_good_timestamps(text: str, expected: datetime) -> None:
    assert event(judged(order(timestamp=text))).event_time == expected


@pytest.mark.parametrize(
    "text",
    [
        "2026-01-05T12:00:00",
        "2026-01-05t12:00:00Z",
        "2026-01-05T12:00:00z",
        "2026-01-05 12:00:00Z",
        "2026-01-05T12:00Z",
        "2026-01-05T12:00:00.Z",
        "2026-01-05T12:00:00.0000000Z",
        "2026-01-05T12:00:00Z\n",
        "2026-01-05T12:00:00+0100",
        "2026-01-05T12:00:00 UTC",
        "2026-01-05T12:00:00Europe/Berlin",
        "2026-01-04T24:00:00Z",
        "2026-01-04T23:59:60Z",
        "2025-02-30T00:00:00Z",
        "2025-12-31T00:00:00+24:00",
        "2025-12-31T00:00:00+05:60",
        "٢٠٢٦-01-05T12:00:00Z",
        "2026-01-05T12:05:00.000001Z",
        "1999-12-31T23:59:59.999999Z",
        "2000-01-01T00:59:59.999999+01:00",
        "0000-01-01T00:00:00Z",
        "9999-12-31T23:59:59-23:59",
        "",
        1_767_614_400,
        None,
        ABSENT,
    ],
)
def test_bad_timestamps(text: object) -> None:
    assert judged(order(timestamp=text)).violations == ("timestamp",)


def test_hourly_spend_counts_an_identity_once_and_ends_at_the_hour_of_until() -> None:
    records = log_of(
        ("orders", order(total=1, timestamp=at())),
        ("orders", order(total=99, timestamp="2026-01-05T13:00:00+01:00")),
        ("orders", order(total=2, timestamp=at(0, minutes=59, seconds=59.999999))),
        ("orders", order(total=4, timestamp=at(1))),
        ("orders", order(total=8, timestamp=at(), event_type="order_cancelled")),
    )
    first = {
        "customer_id": "c1",
        "window_start": NOON,
        "window_end": NOON + timedelta(hours=1),
        "hourly_spend": Decimal("3.00"),
        "order_count": 2,
    }
    assert view("customer_hourly_spend", records, NOON + timedelta(minutes=119)) == [first]
    assert view("customer_hourly_spend", records, NOON + timedelta(minutes=59)) == []
    assert [row["hourly_spend"] for row in view("customer_hourly_spend", records)] == [
        Decimal("3.00"),
        Decimal("4.00"),
    ]


def test_the_first_of_an_identity_is_the_first_in_partition_and_offset() -> None:
    records = log_of(("orders", order(total=1)), ("orders", order(total=2)), partitions=2)
    assert view("customer_totals", records[::-1])[0]["total_spend"] == Decimal("1.00")


def test_a_line_takes_the_newest_product_version_of_the_last_24_hours() -> None:
    lines = [{"product_id": "p1", "price": 3, "quantity": 2}, {"product_id": "p2", "price": 0}]
    records = log_of(
        ("products", product(cost=1, timestamp=at(-24))),
        ("products", product(cost=2, timestamp=at(-1))),
        ("products", product(cost=4, timestamp=at(-1))),
        ("products", product(cost=5, timestamp=at(0, seconds=0.000001))),
        ("products", product(product_id="p2", cost=5, timestamp=at())),
        ("orders", order(items=lines)),
    )
    assert view("enriched_orders", records, NOON) == []
    assert view("enriched_orders", records, NOON + timedelta(microseconds=1)) == [
        {
            "order_id": "o1",
            "line": 0,
            "customer_id": "c1",
            "event_time": NOON,
            "product_id": "p1",
            "quantity": 2,
            "price": Decimal("3.00"),
            "name": "Lamp",
            "product_category": "light",
            "cost": Decimal("4.00"),
            "profit_margin": Decimal("-0.3333"),
        },
        {
            "order_id": "o1",
            "line": 1,
            "customer_id": "c1",
            "event_time": NOON,
            "product_id": "p2",
            "quantity": 1,
            "price": Decimal("0.00"),
            "name": "Lamp",
            "product_category": "light",
            "cost": Decimal("5.00"),
            "profit_margin": None,
        },
    ]


@pytest.mark.parametrize(
    ("age", "cost"), [(timedelta(hours=24), Decimal("6.00")), (timedelta(hours=24, microseconds=1), None)]
)
def test_a_product_version_holds_for_24_hours(age: timedelta, cost: Decimal | None) -> None:
    records = log_of(
        ("products", product(timestamp=at(-age.total_seconds() / 3600))),
        ("orders", order(items=[{"product_id": "p1", "price": 3}])),
    )
    (row,) = view("enriched_orders", records)
    assert row["cost"] == cost
    assert (row["name"] is None, row["profit_margin"] is None) == (cost is None, cost is None)


@pytest.mark.parametrize(
    ("price", "cost", "margin"),
    [
        (0, "1", None),
        (200, "199.99", "0.0001"),
        (200, "200.01", "-0.0001"),
        ("0.01", "9999999999.99", "-999999999998"),
    ],
)
def test_margins_are_rounded_half_away_from_zero(price: object, cost: str, margin: str | None) -> None:
    records = log_of(
        ("products", product(cost=cost)), ("orders", order(items=[{"product_id": "p1", "price": price}]))
    )
    assert view("enriched_orders", records)[0]["profit_margin"] == (margin and Decimal(margin))


def test_an_outcome_takes_the_earliest_cancellation_within_24_hours() -> None:
    records = log_of(
        ("orders", order(event_type="order_cancelled", timestamp=at(-1))),
        ("orders", order(event_type="order_cancelled", timestamp=at(2))),
        ("orders", order(event_type="order_cancelled", timestamp=at(0, seconds=90.999999))),
        ("orders", order(total=5)),
        ("orders", order(order_id="o2", timestamp=at(1))),
        ("orders", order(order_id="o2", event_type="order_cancelled", timestamp=at(25))),
        ("orders", order(order_id="o3")),
        ("orders", order(order_id="o3", event_type="order_cancelled", timestamp=at(24, seconds=0.000001))),
    )
    rows = view("order_outcomes", records)
    assert [row["seconds_to_cancel"] for row in rows] == [90, 86_400, None]
    assert rows[0] == {
        "order_id": "o1",
        "customer_id": "c1",
        "total": Decimal("5.00"),
        "created_at": NOON,
        "cancelled_at": NOON + timedelta(seconds=90.999999),
        "seconds_to_cancel": 90,
    }
    assert [row["order_id"] for row in view("order_outcomes", records, NOON + timedelta(hours=25))] == [
        "o1",
        "o3",
    ]


def test_customer_totals_end_at_the_hour_of_until() -> None:
    records = log_of(("orders", order(total="1.10", timestamp=at(-1))), ("orders", order(total="2.20")))
    assert view("customer_totals", records) == [
        {"customer_id": "c1", "order_count": 2, "total_spend": Decimal("3.30"), "last_event_time": NOON}
    ]
    assert view("customer_totals", records, NOON + timedelta(minutes=59))[0]["order_count"] == 1


def test_the_default_until_is_ten_minutes_before_the_newest_event() -> None:
    records = log_of(
        ("orders", order()),
        ("products", product(timestamp=at(1))),
        ("orders", order(total="x", timestamp=at(2))),
    )
    assert default_until(accepted_log(records)) == NOON + timedelta(minutes=50)
    assert default_until(accepted_log([])) is None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Don't  stop\nsnake_case, x1-٣", ["don", "t", "stop", "snake_case", "x1", "٣"]),
        ("x² ½ Ⅷ ⓐb e\u0301t a\u200db", ["x", "b", "e", "t", "a", "b"]),
        ("ΑΣ Straße 日本語 𝔘𝟙", ["ας", "straße", "日本語", "𝔘𝟙"]),
        ("İx", ["i", "x"]),
        (" ", []),
    ],
)
def test_words(text: str, expected: list[str]) -> None:
    assert words(text) == expected


def test_words_are_counted_over_the_whole_log() -> None:
    records = log_of(("text-lines", "b A a"), ("text-lines", "a"))
    assert view("word_counts", records, NOON - timedelta(days=9)) == [
        {"word": "a", "count": 3},
        {"word": "b", "count": 1},
    ]


def test_audit_counts_add_up_by_partition() -> None:
    records = log_of(
        ("orders", order()),
        ("orders", order()),
        ("orders", "x"),
        ("orders", order(event_type="order_cancelled")),
        ("text-lines", "a"),
        ("text-lines", "a"),
        partitions=2,
    )
    records.append(Record("orders", 1, 2, NOON_MS, b"c1", None))
    counts = {place: vars(of_place) for place, of_place in audit_counts(records).items()}
    names = ("delivered", "accepted", "dead", "tombstones", "distinct", "duplicates")
    assert counts == {
        ("orders", 0): dict(zip(names, (2, 1, 1, 0, 1, 0), strict=True)),
        ("orders", 1): dict(zip(names, (3, 2, 0, 1, 1, 1), strict=True)),
        ("text-lines", 0): dict(zip(names, (1, 1, 0, 0, 1, 0), strict=True)),
        ("text-lines", 1): dict(zip(names, (1, 1, 0, 0, 1, 0), strict=True)),
    }


def test_fuzz_is_repeatable_and_reaches_every_class() -> None:
    fuzzed = fuzz_records(3_000, 7)
    assert fuzzed == fuzz_records(3_000, 7)
    assert fuzzed != fuzz_records(3_000, 8)
    records = as_records(fuzzed, partitions=3)
    seen = Counter(
        (record.topic, name)
        for record in records
        for name in classify(record, KINDS[record.topic]).violations
    )
    shared = {"timestamp", "not_json"}
    of_orders = {"event_type", "order_id", "customer_id", "total", "status", "items", "too_large"}
    of_products = {"product_id", "name", "product_category", "price", "cost"}
    assert set(seen) == {
        *(("orders", name) for name in shared | of_orders),
        *(("products", name) for name in shared | of_products),
        ("text-lines", "not_utf8"),
    }
    counts = audit_counts(records).values()
    assert sum(of_place.delivered for of_place in counts) == 3_000
    assert all(of_place.accepted and of_place.dead for of_place in counts)
    assert sum(of_place.tombstones for of_place in counts) > 20
    assert sum(of_place.duplicates for of_place in counts) > 50


def test_a_fuzzed_log_fills_every_view_with_matched_and_unmatched_rows() -> None:
    log = accepted_log(as_records(fuzz_records(3_000, 7), partitions=3))
    until = default_until(log)
    for name, rows_of in VIEWS.items():
        assert rows_of(log, until), name
    assert {row["cost"] is None for row in VIEWS["enriched_orders"](log, until)} == {True, False}
    assert {row["cancelled_at"] is None for row in VIEWS["order_outcomes"](log, until)} == {True, False}


def test_records_are_read_back_from_kafka() -> None:
    kafka = pytest.importorskip("confluent_kafka")
    producer = kafka.Producer({"bootstrap.servers": "", "test.mock.num.brokers": 1, "log_level": 2})
    (broker,) = producer.list_topics(timeout=10).brokers.values()
    producer.produce("orders", key=b"k", value=b"v", partition=0, timestamp=NOON_MS)
    producer.produce("orders", key=None, value=None, partition=1, timestamp=NOON_MS + 1)
    producer.produce("orders", key=b"", value=b"", partition=0, timestamp=NOON_MS + 2)
    assert producer.flush(10) == 0
    assert read_records(f"{broker.host}:{broker.port}", ["orders"], timeout_seconds=20) == [
        Record("orders", 0, 0, NOON_MS, b"k", b"v"),
        Record("orders", 0, 1, NOON_MS + 2, b"", b""),
        Record("orders", 1, 0, NOON_MS + 1, None, None),
    ]
