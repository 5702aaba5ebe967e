"""Seeded events in a broker, and the right answers to them as Parquet files: what they are stands in events.sql."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import duckdb
from confluent_kafka import Producer

from pipeline.devservices.kafka import create_topics

__all__ = ["ANSWERS", "PARTITIONS", "Preloaded", "made", "preload"]

PARTITIONS = 4
ANSWERS = ("order_records", "hourly_spend", "enriched_lines")
_START_MS = 1_767_225_600_000  # 2026-01-01T00:00:00Z
_HOUR_MS = 3_600_000
_AT_A_TIME = 100_000


@dataclass(frozen=True)
class Preloaded:
    """Topics that hold the events, and the folder with the answers. `closing` is the event time of each partition's last record."""

    bootstrap: str
    orders: str
    products: str
    text_lines: str
    word_counts: str
    records: int
    closing_ms: int
    answers: Path


def preload(
    bootstrap: str, folder: Path, *, events: int, seed: int, hours: int = 6, told: Callable[[str], None]
) -> Preloaded:
    """Make the events and their answers, and send the events; what is in `folder` already is made once."""
    label = f"{events}-{seed}-{hours}h"
    loaded = Preloaded(
        bootstrap=bootstrap,
        orders=f"orders-{label}",
        products=f"products-{label}",
        text_lines="text-lines",
        word_counts="word-counts-output",
        records=events + PARTITIONS,
        closing_ms=_closing_ms(hours),
        answers=folder / label,
    )
    if (loaded.answers / "complete").exists():
        return loaded
    topics = (loaded.orders, loaded.products, loaded.text_lines, loaded.word_counts)
    create_topics(bootstrap, dict.fromkeys(topics, PARTITIONS))
    told(f"making {events:,} events")
    database = made(events=events, seed=seed, hours=hours)
    loaded.answers.mkdir(parents=True, exist_ok=True)
    for answer in ANSWERS:
        database.execute(f"COPY {answer} TO '{loaded.answers / answer}.parquet'")
    told(f"sending {events:,} events")
    _send(database, "product_records", bootstrap, loaded.products)
    _send(database, "order_records", bootstrap, loaded.orders)
    (loaded.answers / "complete").touch()
    return loaded


def made(*, events: int, seed: int, hours: int) -> duckdb.DuckDBPyConnection:
    """A database in memory with the records to send (`order_records`, `product_records`) and the right answers (ANSWERS)."""
    database = duckdb.connect()
    variables = {
        "events": events,
        "seed": seed,
        "start_ms": _START_MS,
        "span_ms": hours * _HOUR_MS,
        "closing_ms": _closing_ms(hours),
    }
    for name, value in variables.items():
        database.execute(f"SET VARIABLE {name} = {value}")
    database.execute((Path(__file__).parent / "events.sql").read_text(encoding="utf-8"))
    return database


def _closing_ms(hours: int) -> int:
    return _START_MS + (hours + 3) * _HOUR_MS


def _send(database: duckdb.DuckDBPyConnection, table: str, bootstrap: str, topic: str) -> None:
    producer = Producer(
        {"bootstrap.servers": bootstrap, "linger.ms": 50, "batch.size": 1_000_000, "enable.idempotence": True}
    )
    rows = database.execute(f"SELECT partition, arrival_ms, key, value FROM {table} ORDER BY number")
    while some := rows.fetchmany(_AT_A_TIME):
        for partition, arrival_ms, key, value in some:
            producer.produce(topic, value, key, partition, timestamp=arrival_ms)
        producer.flush()
    producer.flush()
