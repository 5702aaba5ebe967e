"""The contract against an independent reading of it: thousands of records, each built to break it somewhere."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from itertools import islice
from typing import Any

import pytest
from confluent_kafka import Producer
from pyspark.sql import Row as SparkRow
from pyspark.sql import SparkSession
from pyspark.sql import types as T

import judge
from lake import topics_of
from pipeline import ingest
from pipeline.contracts import RAW_EVENTS
from pipeline.settings import Settings
from pipeline.transforms.decode import classify
from reference import KINDS, read_records
from reference import classify as judged
from reference.contract import OrderEvent, ProductEvent, Verdict
from reference.fuzz import MEBIBYTE, as_records, fuzz_records

EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
RECORDS = T.StructType([*RAW_EVENTS.fields, T.StructField("kind", T.StringType())])


def test_every_verdict_is_the_one_that_plain_python_reaches(spark: SparkSession) -> None:
    records = as_records(fuzz_records(4000, seed=20260101))
    rows = [
        (
            record.topic,
            record.partition,
            record.offset,
            EPOCH + timedelta(milliseconds=record.timestamp_ms),
            record.key,
            record.value,
            [],
            KINDS[record.topic],
        )
        for record in records
    ]
    found = {
        (row.topic, row.partition, row.offset): row
        for row in classify(spark.createDataFrame(rows, RECORDS)).drop("key", "value", "headers").collect()
    }
    assert len(found) == len(records)
    fates = set()
    for record in records:
        row, verdict = (
            found[record.topic, record.partition, record.offset],
            judged(record, KINDS[record.topic]),
        )
        fates.add(verdict.fate)
        assert (row.fate, tuple(row.violations)) == (verdict.fate, verdict.violations), record
        assert _typed(row) == _expected(verdict), record
    assert fates == {"accepted", "dead", "tombstone"}


@pytest.mark.kafka
def test_ten_thousand_records_meet_their_fate_and_nothing_stops_the_query(
    spark: SparkSession, settings: Settings
) -> None:
    """Through Kafka, in transactions; every fifth of them is aborted, and none of its records may come in."""
    topics = topics_of(settings)
    producer = Producer(
        {
            "bootstrap.servers": settings.kafka.bootstrap_servers,
            "transactional.id": f"fuzz-{topics['orders']}",
            "message.max.bytes": 4 * MEBIBYTE,
        }
    )
    producer.init_transactions(30)
    wanted, unwanted = iter(fuzz_records(10_000, seed=7)), iter(fuzz_records(2_000, seed=8))
    for number in range(25):
        is_aborted = number % 5 == 4
        producer.begin_transaction()
        for record in islice(unwanted if is_aborted else wanted, 400 if is_aborted else 500):
            partition = number % 2 if record.kind == "orders" else 0
            producer.produce(
                topics[record.kind], record.value, record.key, partition, timestamp=record.timestamp_ms
            )
        # What is not sent yet would be dropped by an abort, and the broker refuses to end a transaction it knows nothing of.
        producer.flush(60)
        (producer.abort_transaction if is_aborted else producer.commit_transaction)(60)
    ingest.run(settings, once=True)
    records = read_records(settings.kafka.bootstrap_servers, judge.topics_in(settings))
    assert len(records) == 10_000
    ends = {(record.topic, record.partition): record.offset for record in records}
    assert sum(end + 1 for end in ends.values()) > 11_000, "no aborted record lies in between"
    judge.check_log(spark, settings, records)


def _typed(row: SparkRow) -> Any:
    if row.orders is not None:
        return judge.order_values(row.orders)
    return None if row.products is None else judge.product_values(row.products)


def _expected(verdict: Verdict) -> Any:
    """None for text, which is nothing but its bytes."""
    return judge.event_values(verdict.event) if isinstance(verdict.event, OrderEvent | ProductEvent) else None
