"""Records made to break a reader: each costs itself and nothing else."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime, timezone

import pytest
from confluent_kafka import Producer
from pyspark.sql import SparkSession

from lake import Sent, at, order, rows_of, send
from pipeline import audit, ingest, serving, skipping, speed
from pipeline.errors import RefusedToStart, UnreadableRecord
from pipeline.settings import Settings
from pipeline.skipping import Address
from pipeline.tables import (
    BATCH_LEDGER,
    DEAD_LETTERS,
    ORDER_EVENTS,
    RAW_EVENTS,
    SKIPPED_RECORDS,
    table_path,
)
from pipeline.views import VIEWS

pytestmark = pytest.mark.kafka

SPEND = VIEWS["customer_hourly_spend"]
NANOSECONDS = 1_767_268_800_000_000_000


def rows(spark: SparkSession, settings: Settings, table: str, *columns: str) -> list[Mapping[str, object]]:
    frame = spark.read.format("delta").load(table_path(settings.lake.root, table))
    return rows_of(frame.select(*columns).orderBy(*columns))


def padded(megabytes: float) -> Sent:
    event = json.loads(order("padded").value or b"")
    return Sent(json.dumps({**event, "padding": "x" * int(megabytes * 1024 * 1024)}).encode())


def nested(levels: int) -> Sent:
    event = json.dumps(json.loads(order("nested").value or b""))[:-1]
    return Sent((event + ', "deep": ' + "[" * levels + "]" * levels + "}").encode())


def test_poison_costs_its_own_record(spark: SparkSession, settings: Settings) -> None:
    in_2999 = datetime(2999, 1, 1, tzinfo=timezone.utc)
    send(
        settings,
        [
            order("before", time=at(0)),
            padded(1.1),
            nested(10_000),
            Sent(b"[" * 100_000),
            order("future", time=in_2999),
            order("after", time=at(1)),
        ],
    )
    ingest.run(settings, once=True)
    speed.run(settings, views=[SPEND.name], once=True)
    send(settings, [order("later", time=at(2))])
    ingest.run(settings, once=True)
    speed.run(settings, views=[SPEND.name], once=True)
    accepted = rows(spark, settings, ORDER_EVENTS, "order_id")
    assert [row["order_id"] for row in accepted] == ["after", "before", "later"]
    dead = {
        row["offset"]: row["violations"]
        for row in rows(spark, settings, DEAD_LETTERS, "offset", "violations")
    }
    assert dead == {1: ["too_large"], 2: ["not_json"], 3: ["not_json"], 4: ["timestamp"]}
    (window,) = rows_of(serving.read(spark, settings, SPEND, layer="speed"))
    assert window["order_count"] == 3


def test_a_record_that_spark_cannot_read_stops_ingest_until_it_is_skipped(
    spark: SparkSession, settings: Settings
) -> None:
    topic = settings.kafka.topics.orders
    send(settings, [order(f"o{i}", time=at(i)) for i in range(3)])
    send(settings, [order("other", partition=1)])
    producer = Producer({"bootstrap.servers": settings.kafka.bootstrap_servers})
    producer.produce(topic, order("unreadable").value, "k", 0, timestamp=NANOSECONDS)
    assert producer.flush(30) == 0
    send(settings, [order("last", time=at(4))])
    with pytest.raises(UnreadableRecord) as stopped:
        ingest.run(settings, once=True)
    unreadable = stopped.value
    assert (unreadable.query, unreadable.topic, unreadable.partition, unreadable.offset) == (
        ingest.QUERY, topic, 0, 3,
    )  # fmt: skip
    assert f"--skip {topic}:0:3 " in unreadable.message
    with pytest.raises(RefusedToStart):
        skipping.run(settings, Address(topic, 0, 2), reason="readable")
    skipping.run(settings, Address(topic, 0, 3), reason="nanoseconds")
    ingest.run(settings, once=True)
    with pytest.raises(RefusedToStart):
        skipping.run(settings, Address(topic, 0, 3), reason="again")
    read = rows(spark, settings, RAW_EVENTS, "partition", "offset")
    assert [(row["partition"], row["offset"]) for row in read] == [(0, 0), (0, 1), (0, 2), (0, 4), (1, 0)]
    (skipped,) = rows(spark, settings, SKIPPED_RECORDS, "topic", "partition", "offset", "reason")
    assert skipped == {"topic": topic, "partition": 0, "offset": 3, "reason": "nanoseconds"}
    ledger = rows(
        spark,
        settings,
        BATCH_LEDGER,
        "partition",
        "first_offset",
        "end_offset",
        "accepted",
        "dead",
        "tombstones",
    )
    of_partition = [tuple(row.values())[1:] for row in ledger if row["partition"] == 0]
    assert of_partition == [(0, 3, 3, 0, 0), (3, 4, 0, 0, 0), (4, 5, 1, 0, 0)]
    report = audit.run(settings)
    assert report.faults == []
    (account,) = [one for one in report.partitions if (one.topic, one.partition) == (topic, 0)]
    assert (account.delivered, account.raw_events, account.skipped) == (5, 4, 1)
