"""What tests say about a lake: send records, drain them, read rows in the form of the reference computation."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

from confluent_kafka import Producer
from pyspark.sql import DataFrame

from pipeline.devservices import kafka
from pipeline.settings import Settings, Topics
from reference.contract import Kind

NOON = datetime(2026, 1, 1, 12, tzinfo=timezone.utc)

Row = dict[str, Any]


def at(minutes: float) -> datetime:
    """So many minutes after noon of the first day of 2026."""
    return NOON + timedelta(minutes=minutes)


@dataclass(frozen=True)
class Sent:
    """One record to be; `kind` says to which topic."""

    value: bytes | None
    key: str = "k"
    kind: str = "orders"
    partition: int = 0
    timestamp: datetime = field(default_factory=lambda: at(60 * 24 * 300))


def order(
    order_id: str = "o1",
    *,
    time: datetime = NOON,
    customer_id: str = "c1",
    total: str | None = "10.00",
    event_type: str = "order_created",
    items: list[Mapping[str, Any]] | None = None,
    partition: int = 0,
) -> Sent:
    """A good order event; give only what the test is about."""
    event = {
        "event_type": event_type,
        "order_id": order_id,
        "customer_id": customer_id,
        "total": total,
        "items": items,
        "timestamp": time.isoformat(timespec="microseconds"),
    }
    return Sent(json.dumps(event).encode(), key=customer_id, partition=partition)


def cancellation(order_id: str = "o1", *, time: datetime = NOON, partition: int = 0) -> Sent:
    return order(order_id, time=time, total=None, event_type="order_cancelled", partition=partition)


def product(
    product_id: str = "p1", *, time: datetime = NOON, cost: str = "5.00", category: str = "tools"
) -> Sent:
    event = {
        "product_id": product_id,
        "name": f"the {product_id}",
        "product_category": category,
        "price": "10.00",
        "cost": cost,
        "timestamp": time.isoformat(timespec="microseconds"),
    }
    return Sent(json.dumps(event).encode(), key=product_id, kind="products")


def line(product_id: str = "p1", *, price: str = "10.00", quantity: int = 1) -> Mapping[str, Any]:
    return {"product_id": product_id, "price": price, "quantity": quantity}


def topics_of(settings: Settings) -> dict[str, str]:
    topics = settings.kafka.topics
    return {"orders": topics.orders, "products": topics.products, "text-lines": topics.text_lines}


def kinds_of(settings: Settings) -> dict[str, Kind]:
    return {topic: kind for kind, topic in topics_of(settings).items()}  # type: ignore[misc]


def fresh(base: Settings, bootstrap: str, root: Path) -> Settings:
    """Settings with a lake of their own and topics of their own, which are made."""
    mark = uuid.uuid4().hex[:8]
    topics = Topics(f"o-{mark}", f"p-{mark}", f"t-{mark}", f"w-{mark}")
    kafka.create_topics(
        bootstrap, {topics.orders: 2, topics.products: 1, topics.text_lines: 1, topics.word_counts_output: 1}
    )
    return replace(
        base,
        kafka=replace(base.kafka, bootstrap_servers=bootstrap, topics=topics),
        lake=replace(base.lake, root=str(root)),
    )


def on_kafka(settings: Settings) -> Settings:
    """The same, but views that begin read Kafka itself."""
    return replace(settings, speed=replace(settings.speed, source="kafka"))


def send(settings: Settings, records: Iterable[Sent]) -> None:
    """Send the records in their order, each partition keeping it."""
    producer = Producer(
        {
            "bootstrap.servers": settings.kafka.bootstrap_servers,
            "enable.idempotence": True,
            "linger.ms": 5,
            "message.max.bytes": 4 * 1024 * 1024,
        }
    )
    topics = topics_of(settings)
    for record in records:
        timestamp_ms = round(record.timestamp.timestamp() * 1000)
        producer.produce(
            topics[record.kind], record.value, record.key, record.partition, timestamp=timestamp_ms
        )
    assert producer.flush(30) == 0


def rows_of(frame: DataFrame) -> list[Row]:
    """The rows as dicts, times with their zone, sorted."""
    return by_key({name: _in_utc(value) for name, value in row.asDict().items()} for row in frame.collect())


def by_key(rows: Iterable[Row]) -> list[Row]:
    return sorted(rows, key=lambda row: [(value is not None, str(value)) for value in row.values()])


def _in_utc(value: Any) -> Any:
    return value.replace(tzinfo=timezone.utc) if isinstance(value, datetime) else value
