"""Generated events: the same every time, in order of arrival, and with everything in them that was promised."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from datetime import datetime

import pytest
from confluent_kafka import Consumer, TopicPartition

from pipeline.devservices.generate import PARTITIONS, Record, generate, records
from pipeline.devservices.malformed import MALFORMED_ORDERS, MALFORMED_PRODUCTS

MINUTE_MS = 60_000
Held = tuple[int, bytes | None, bytes | None]  # time stamp, key, value


@dataclass(frozen=True)
class Names:
    orders: str
    products: str
    text_lines: str


def planned(events: int = 8_000, *, seed: int = 1) -> list[Record]:
    return list(records(events=events, seed=seed, late=0.02, duplicates=0.03, malformed=0.03))


def event_ms(record: Record) -> int:
    assert record.value is not None
    return round(
        datetime.fromisoformat(json.loads(record.value)["timestamp"].replace("Z", "+00:00")).timestamp()
        * 1000
    )


def test_the_seed_decides_everything() -> None:
    assert planned(2_000) == planned(2_000)
    assert planned(2_000) != planned(2_000, seed=2)


def test_arrivals_are_in_order_and_events_lie_behind_them_as_planted() -> None:
    rows = planned()
    assert [row.timestamp_ms for row in rows] == sorted(row.timestamp_ms for row in rows)
    for row in rows:
        if row.topic == "text_lines" or row.fate in ("malformed", "tombstone", "duplicate"):
            continue
        behind_ms = row.timestamp_ms - event_ms(row)
        low, high = (
            (630_000, 24 * 60 * MINUTE_MS + 1_000) if row.fate == "late" else (0, 8 * MINUTE_MS + 1_000)
        )
        assert low <= behind_ms < high


def test_the_shares_are_those_asked_for() -> None:
    rows = planned(20_000)
    fates = Counter(row.fate for row in rows)
    assert len(rows) == 20_200
    assert fates["late"] == pytest.approx(400, rel=0.2)
    assert fates["duplicate"] == pytest.approx(600, rel=0.2)
    assert fates["malformed"] == pytest.approx(600, rel=0.2)
    assert fates["tombstone"] >= 1
    topics = Counter(row.topic for row in rows)
    assert topics["orders"] == pytest.approx(18_800, rel=0.02)
    assert {(row.topic, row.partition) for row in rows} == {
        (topic, number) for topic, partitions in PARTITIONS.items() for number in range(partitions)
    }


@pytest.mark.parametrize("hot", [0.0, 1 / 3, 1.0])
def test_the_best_customer_has_the_share_that_is_asked_for(hot: float) -> None:
    rows = [row for row in records(events=20_000, seed=4, malformed=0, hot=hot) if row.topic == "orders"]
    customers = Counter(row.key for row in rows)
    assert customers[b"c-00000"] / len(rows) == pytest.approx(hot, abs=0.02)


def test_nothing_is_planted_where_nothing_is_asked_for() -> None:
    fates = Counter(row.fate for row in records(events=3_000, seed=3, late=0, duplicates=0, malformed=0))
    assert set(fates) == {"plain", "tombstone"}


def test_every_kind_of_broken_record_comes_up() -> None:
    rows = planned(180_000)
    broken = {(row.topic, row.violations) for row in rows if row.fate == "malformed"}
    assert {violations for topic, violations in broken if topic == "orders"} == {
        kind.violations for kind in MALFORMED_ORDERS
    }
    assert {violations for topic, violations in broken if topic == "products"} == {
        kind.violations for kind in MALFORMED_PRODUCTS
    }
    assert ("text_lines", ("not_utf8",)) in broken
    assert sum(row.violations == ("too_large",) for row in rows) == 1


def test_every_field_is_violated_alone() -> None:
    fields = ("event_type", "order_id", "customer_id", "total", "status", "items", "timestamp")
    assert {(name,) for name in fields} <= {kind.violations for kind in MALFORMED_ORDERS}
    fields = ("product_id", "name", "product_category", "price", "cost", "timestamp")
    assert {(name,) for name in fields} <= {kind.violations for kind in MALFORMED_PRODUCTS}


def test_copies_are_exact_and_versions_of_a_product_differ_in_time() -> None:
    rows = planned()
    seen: set[tuple[str, int, bytes | None, bytes | None]] = set()
    for row in rows:
        if row.fate == "duplicate":
            assert (row.topic, row.partition, row.key, row.value) in seen
        seen.add((row.topic, row.partition, row.key, row.value))
    versions = [
        (row.key, event_ms(row)) for row in rows if row.topic == "products" and row.fate in ("plain", "late")
    ]
    assert len(versions) == len(set(versions))


def test_orders_hold_what_makes_life_hard() -> None:
    good = [
        json.loads(row.value or b"")
        for row in planned()
        if row.topic == "orders" and row.fate in ("plain", "late")
    ]
    created = [order for order in good if order["event_type"] == "order_created"]
    cancelled = [str(order["order_id"]) for order in good if order["event_type"] == "order_cancelled"]
    assert len(cancelled) == pytest.approx(len(good) * 0.08, rel=0.2)
    assert set(cancelled) <= {str(order["order_id"]) for order in created}
    assert len(cancelled) > len(set(cancelled))
    assert any("total" not in order for order in created)
    assert any("items" not in order for order in created)
    assert {type(order.get("total")) for order in created} >= {float, str}
    assert {type(order["order_id"]) for order in created} == {int, str}
    assert {type(order["customer_id"]) for order in created} == {int, str}
    assert any(
        item["product_id"].startswith("unknown") for order in created for item in order.get("items", ())
    )
    assert any(not order["timestamp"].endswith("Z") for order in created)


@pytest.mark.kafka
def test_what_is_planned_is_what_kafka_holds(bootstrap: str) -> None:
    told: list[int] = []
    names = Names("gen-orders", "gen-products", "gen-text")
    summary = generate(bootstrap, names, events=3_000, seed=5, malformed=0.05, progress=told.append)
    assert sum(summary.records.values()) == told[-1] == 3_200
    by_partition: dict[tuple[str, int], list[Held]] = {}
    for row in records(events=3_000, seed=5, malformed=0.05):
        topic = getattr(names, row.topic)
        by_partition.setdefault((topic, row.partition), []).append((row.timestamp_ms, row.key, row.value))
    assert _held(bootstrap, set(by_partition), count=3_200) == by_partition


def _held(
    bootstrap: str, partitions: set[tuple[str, int]], *, count: int
) -> dict[tuple[str, int], list[Held]]:
    """What Kafka holds, by topic and partition, in the order of its offsets."""
    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": "test", "enable.partition.eof": False})
    consumer.assign([TopicPartition(topic, partition, 0) for topic, partition in partitions])
    held: dict[tuple[str, int], list[Held]] = {}
    for message in consumer.consume(count, timeout=30):
        held.setdefault((message.topic() or "", message.partition() or 0), []).append(
            (message.timestamp()[1], _bytes(message.key()), _bytes(message.value()))
        )
    consumer.close()
    return held


def _bytes(content: str | bytes | None) -> bytes | None:
    return content.encode() if isinstance(content, str) else content
