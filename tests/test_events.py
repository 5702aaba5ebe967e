"""Events without Spark: one verdict with the stream, delivered or named, handled at least once."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import datetime, timedelta, timezone
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic
from pyspark.sql import SparkSession
from pyspark.sql import types as T

import judge
from pipeline.contracts import MAX_NESTING_LEVELS, RAW_EVENTS
from pipeline.devservices import kafka
from pipeline.errors import (
    InvalidEvent,
    KafkaUnreachable,
    NotDelivered,
    OffsetsLost,
    TopicMissing,
    TopicReplaced,
)
from pipeline.events import Handled, Item, OrderEvent, OrderProducer, consume, judged
from pipeline.instants import of_milliseconds
from pipeline.transforms.decode import classify
from reference import Record, read_records
from reference import classify as reference
from reference.contract import Verdict
from reference.fuzz import as_records, fuzz_records
from reference.structure import structured_order

SOURCE = Path(__file__).parents[1] / "src"
EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
NOON = datetime(2026, 1, 1, 12, tzinfo=timezone.utc)
CREATED = OrderEvent(
    "order_created", "o1", "c1", Decimal("10.00"), "pending", (Item("p1", Decimal("2.50"), 4),), NOON
)


def fuzzed_orders(n: int, seed: int) -> list[Record]:
    return [record for record in as_records(fuzz_records(n, seed=seed)) if record.topic == "orders"]


def values(event: Any) -> Any:
    return None if event is None else judge.event_values(event)


# --- one contract


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_plain_python_reaches_the_verdict_of_the_reference(seed: int) -> None:
    records = fuzzed_orders(8_000, seed)
    fates = Counter()  # type: ignore[var-annotated]
    for record in records:
        expected: Verdict = reference(record, "orders")
        found = judged(record.value, timestamp_ms=record.timestamp_ms)
        assert (found.violations, values(found.event)) == (expected.violations, values(expected.event)), (
            record
        )
        fates[expected.fate] += 1
    assert min(fates["accepted"], fates["dead"], fates["tombstone"]) > 50


def test_plain_python_reaches_the_verdict_of_the_stream(spark: SparkSession) -> None:
    records = fuzzed_orders(6_000, seed=20260301)
    rows = [
        (one.topic, one.partition, one.offset, EPOCH + timedelta(milliseconds=one.timestamp_ms), one.key, one.value,
         [], "orders")
        for one in records
    ]  # fmt: skip
    schema = T.StructType([*RAW_EVENTS.fields, T.StructField("kind", T.StringType())])
    classified = classify(spark.createDataFrame(rows, schema)).select("offset", "violations", "orders")
    by_offset = {row.offset: row for row in classified.collect()}
    for record in records:
        row, found = by_offset[record.offset], judged(record.value, timestamp_ms=record.timestamp_ms)
        of_stream = None if row.orders is None else judge.order_values(row.orders)
        assert (found.violations, values(found.event)) == (tuple(row.violations), of_stream), record


def test_plain_python_parses_as_the_stream_does(spark: SparkSession) -> None:
    rng, at = random.Random(20260301), int(datetime(2026, 1, 5, 12, tzinfo=timezone.utc).timestamp() * 1000)
    found = [structured_order(rng) for _ in range(4_000)]
    rows = [
        ("t", 0, offset, of_milliseconds(at), None, value, [], "orders") for offset, value in enumerate(found)
    ]
    schema = T.StructType([*RAW_EVENTS.fields, T.StructField("kind", T.StringType())])
    classified = classify(spark.createDataFrame(rows, schema)).select("offset", "violations", "orders")
    for row in classified.collect():
        verdict = judged(found[row.offset], timestamp_ms=at)
        of_stream = None if row.orders is None else judge.order_values(row.orders)
        assert (verdict.violations, values(verdict.event)) == (tuple(row.violations), of_stream), found[
            row.offset
        ]


@pytest.mark.parametrize(
    ("number", "room"),
    [
        ("{}", 1000),
        ("-{}", 1000),
        ("0.{}", 1000),
        ("-0.{}", 1000),
        ("7.{}", 999),
        ("1e{}", 999),
        ("0e+{}", 1000),
        ("0.{}e5", 998),
        ("0.0e{}", 998),
        ("1.5e-{}", 998),
    ],
)
def test_a_number_has_1000_digits_at_most_also_where_nobody_reads_it(number: str, room: int) -> None:
    """As Jackson counts them."""
    start = '{"event_type":"order_cancelled","order_id":"o","customer_id":"c","timestamp":"2026-01-01T00:00:00Z","note":'

    def violations(digits: int) -> tuple[str, ...]:
        value = start + number.format("1" * digits) + "}"
        return judged(value.encode(), timestamp_ms=1_800_000_000_000).violations

    assert violations(room) == ()
    assert violations(room + 1) == ("not_json",)


def test_the_deepest_nesting_is_judged_wherever_it_is_called_from() -> None:
    def nested(levels: int) -> bytes:
        start = '{"event_type":"order_created","order_id":"o","customer_id":"c","total":1,"timestamp":"2026-01-01T00:00:00Z"'
        return f'{start},"note":{"[" * (levels - 1)}{"]" * (levels - 1)}}}'.encode()

    def from_depth(depth: int, value: bytes) -> tuple[str, ...]:
        return (
            from_depth(depth - 1, value)
            if depth
            else judged(value, timestamp_ms=1_800_000_000_000).violations
        )

    assert from_depth(600, nested(MAX_NESTING_LEVELS)) == ()
    assert from_depth(600, nested(MAX_NESTING_LEVELS + 1)) == ("not_json",)


def test_exponents_beyond_all_bounds() -> None:
    for total, violations in (
        ("0e" + "9" * 40, ()),
        ("1e" + "9" * 40, ("total",)),
        ("1e-" + "9" * 40, ("total",)),
    ):
        value = b'{"event_type":"order_created","order_id":"o","customer_id":"c","total":"%s","timestamp":"2026-01-01T00:00:00Z"}'
        assert judged(value % total.encode(), timestamp_ms=1_800_000_000_000).violations == violations


# --- publishing


@pytest.fixture
def topic(bootstrap: str) -> str:
    return new_topic(bootstrap, partitions=2)


def new_topic(bootstrap: str, *, partitions: int, **config: str) -> str:
    name = f"events-{uuid.uuid4().hex[:8]}"
    admin = AdminClient({"bootstrap.servers": bootstrap})
    made = admin.create_topics([NewTopic(name, num_partitions=partitions, config=config)])
    made[name].result(30)
    return name


def log(bootstrap: str, topic: str) -> list[Record]:
    return read_records(bootstrap, [topic])


@pytest.mark.kafka
def test_what_is_published_is_what_everybody_accepts(bootstrap: str, topic: str) -> None:
    cancelled = {
        "event_type": "order_cancelled",
        "order_id": 17,
        "customer_id": "Zoë",
        "total": None,
        "timestamp": "2026-01-01T13:00:00+01:00",
    }
    with OrderProducer(bootstrap, topic) as producer:
        producer.publish(CREATED)
        producer.publish(cancelled)
    records = {record.key: record for record in log(bootstrap, topic)}
    assert {*records} == {b"c1", "Zoë".encode()}
    created = reference(records[b"c1"], "orders").event
    assert values(created) == values(CREATED)
    other = reference(records["Zoë".encode()], "orders").event
    assert other is not None
    assert (other.order_id, other.status, other.event_time) == ("17", "cancelled", NOON)  # type: ignore[union-attr]


@pytest.mark.kafka
@pytest.mark.parametrize(
    ("changes", "violations"),
    [
        ({"customer_id": ""}, ("customer_id",)),
        ({"total": Decimal("1.234"), "status": "open"}, ("total", "status")),
        ({"total": float("nan")}, ("not_json",)),
        ({"timestamp": NOON.replace(tzinfo=None)}, ("timestamp",)),
        ({"timestamp": datetime.now(timezone.utc) + timedelta(hours=1)}, ("timestamp",)),
        ({"note": "x" * 2**20}, ("too_large",)),
    ],
)
def test_an_event_against_the_contract_is_not_sent(
    changes: dict[str, Any], violations: tuple[str, ...], bootstrap: str, topic: str
) -> None:
    good = {"event_type": "order_created", "order_id": "o", "customer_id": "c", "total": 1, "timestamp": NOON}
    with OrderProducer(bootstrap, topic) as producer, pytest.raises(InvalidEvent) as caught:
        producer.publish({**good, **changes})
    assert caught.value.violations == violations
    assert log(bootstrap, topic) == []


@pytest.mark.kafka
def test_events_of_a_customer_keep_their_order(bootstrap: str, topic: str) -> None:
    with OrderProducer(bootstrap, topic) as producer:
        for number in range(2_000):
            producer.publish(order(number, customer=f"c{number % 7}"))
    records = log(bootstrap, topic)
    assert len(records) == 2_000
    for customer in {record.key for record in records}:
        mine = [record for record in records if record.key == customer]
        assert len({record.partition for record in mine}) == 1
        numbers = [int(reference(record, "orders").event.order_id) for record in mine]  # type: ignore[union-attr]
        assert numbers == sorted(numbers)


def test_what_kafka_does_not_take_is_named() -> None:
    producer = OrderProducer("localhost:1", "orders", options={"delivery.timeout.ms": 300, "linger.ms": 0})
    producer.publish(CREATED)
    with pytest.raises(NotDelivered) as caught:
        producer.flush(10)
    assert (caught.value.name, caught.value.keys, caught.value.count) == ("_MSG_TIMED_OUT", ("c1",), 1)
    producer.flush(1)


@pytest.mark.kafka
def test_a_refusal_of_the_broker_is_raised_by_its_name(bootstrap: str) -> None:
    small = new_topic(bootstrap, partitions=1, **{"max.message.bytes": "1000"})
    with pytest.raises(NotDelivered) as caught, OrderProducer(bootstrap, small) as producer:
        producer.publish(
            {**vars(CREATED), "items": None, "timestamp": NOON, "event_time": None, "note": "x" * 5_000}
        )
    assert caught.value.name == "MSG_SIZE_TOO_LARGE"


# --- consuming


def order(number: int, *, customer: str = "c", kind: str = "order_created") -> OrderEvent:
    return OrderEvent(
        kind, str(number), customer, Decimal(number), "pending", None, NOON + timedelta(seconds=number)
    )


def publish(bootstrap: str, topic: str, events: Iterable[OrderEvent]) -> None:
    with OrderProducer(bootstrap, topic) as producer:
        for event in events:
            producer.publish(event)


def many(n: int) -> list[OrderEvent]:
    return [order(number, customer=f"c{number % 20}") for number in range(n)]


def handled(
    bootstrap: str,
    topic: str,
    *,
    until: set[str],
    fail_at: int | None = None,
    on_lost: Callable[[OffsetsLost], object] | None = None,
) -> list[str]:
    """The ids in the order they were handled, until all of those were among them; the next call goes on behind them."""
    stop, ids = threading.Event(), []
    patience = threading.Timer(60, stop.set)
    patience.start()

    def on_created(event: OrderEvent) -> None:
        if len(ids) == fail_at:
            raise ZeroDivisionError(event.order_id)
        ids.append(event.order_id)
        if until <= {*ids}:
            stop.set()

    try:
        consume(
            bootstrap, topic, group=topic, on_created=on_created, on_cancelled=on_created, on_lost=on_lost, stop=stop
        )  # fmt: skip
    finally:
        patience.cancel()
    assert until <= {*ids}
    return ids


@pytest.mark.kafka
def test_each_kind_goes_to_its_function_and_the_rest_is_passed(bootstrap: str, topic: str) -> None:
    publish(bootstrap, topic, [order(1), order(2, kind="order_cancelled"), order(3)])
    raw = Producer({"bootstrap.servers": bootstrap})
    raw.produce(topic, b'{"event_type":"order_created"', "c")
    raw.produce(topic, None, "c")
    raw.flush(10)
    publish(bootstrap, topic, [order(4, kind="order_cancelled")])
    stop = threading.Event()
    created, cancelled, rejected = [], [], []

    def on_cancelled(event: OrderEvent) -> None:
        cancelled.append(event)
        if event.order_id == "4":
            stop.set()

    counts = consume(
        bootstrap,
        topic,
        group=topic,
        on_created=created.append,
        on_cancelled=on_cancelled,
        on_rejected=lambda message, violations: rejected.append((message.value(), violations)),
        stop=stop,
    )
    assert created == [order(1), order(3)]
    assert cancelled == [order(2, kind="order_cancelled"), order(4, kind="order_cancelled")]
    assert rejected == [(b'{"event_type":"order_created"', ("not_json",))]
    assert counts == Handled(created=2, cancelled=2, rejected=1, tombstones=1)


@pytest.mark.kafka
def test_an_event_whose_function_failed_comes_again_and_those_before_do_not(
    bootstrap: str, topic: str
) -> None:
    publish(bootstrap, topic, [order(number) for number in range(10)])
    with pytest.raises(ZeroDivisionError, match="4"):
        handled(bootstrap, topic, until={"9"}, fail_at=4)
    assert handled(bootstrap, topic, until={"9"}) == [str(number) for number in range(4, 10)]


def expire(bootstrap: str, topic: str, *, before: int) -> None:
    """What retention does to each partition that is so long."""
    admin = AdminClient({"bootstrap.servers": bootstrap})
    places = [TopicPartition(topic, number) for number in admin.list_topics(topic).topics[topic].partitions]
    for place in places:
        future = admin.delete_records([TopicPartition(topic, place.partition, before)])
        with suppress(KafkaException):
            next(iter(future.values())).result(timeout=20)


@pytest.mark.kafka
def test_what_expired_unread_is_an_error_and_no_gap(bootstrap: str) -> None:
    topic = new_topic(bootstrap, partitions=1)
    publish(bootstrap, topic, [order(number) for number in range(30)])
    expire(bootstrap, topic, before=3)
    handled(bootstrap, topic, until={"9"})  # a group that begins is not told of what it never was to read
    publish(bootstrap, topic, [order(number) for number in range(30, 40)])
    handled(bootstrap, topic, until={"39"})
    publish(bootstrap, topic, [order(number) for number in range(40, 50)])
    expire(bootstrap, topic, before=45)
    with pytest.raises(OffsetsLost) as refused:
        handled(bootstrap, topic, until={"49"})
    lost = refused.value
    assert (lost.query, lost.topic, lost.expected, lost.first, lost.end) == (topic, topic, 40, 45, 50)
    told: list[OffsetsLost] = []
    assert handled(bootstrap, topic, until={"49"}, on_lost=told.append) == [
        str(number) for number in range(45, 50)
    ]
    assert [(one.expected, one.first) for one in told] == [(40, 45)]


@pytest.mark.kafka
def test_what_expires_while_it_is_read_is_an_error_or_told(bootstrap: str) -> None:
    topic = new_topic(bootstrap, partitions=1)
    told: list[OffsetsLost] = []
    ids: list[str] = []
    stop = threading.Event()
    publish(bootstrap, topic, [order(1)])

    def overtaken(event: OrderEvent) -> None:
        ids.append(event.order_id)
        if event.order_id == "1":
            publish(bootstrap, topic, [order(number) for number in range(2, 10)])
            expire(bootstrap, topic, before=6)
        if event.order_id == "9":
            stop.set()

    patience = threading.Timer(60, stop.set)
    patience.start()
    options = {"fetch.message.max.bytes": 1_000, "queued.min.messages": 1}
    consume(
        bootstrap, topic, group=topic, on_created=overtaken, on_cancelled=print, on_lost=told.append, stop=stop, options=options
    )  # fmt: skip
    patience.cancel()
    missing = [str(number) for number in range(1, 10) if str(number) not in ids]
    assert [number for one in told for number in range(one.expected, one.first)] == [
        int(number) - 1 for number in missing
    ]


@pytest.mark.kafka
def test_a_topic_that_is_made_anew_while_it_is_read_is_told_and_read_whole_by_the_next_start(
    bootstrap: str,
) -> None:
    topic = new_topic(bootstrap, partitions=1)
    publish(bootstrap, topic, [order(number) for number in range(5)])

    def made_anew(event: OrderEvent) -> None:
        if event.order_id == "4":
            kafka.delete_topics(bootstrap, [topic])
            kafka.create_topics(bootstrap, {topic: 1})
            publish(bootstrap, topic, [order(number) for number in range(100, 110)])

    stop = threading.Event()
    patience = threading.Timer(60, stop.set)
    patience.start()
    with pytest.raises(TopicReplaced):
        consume(bootstrap, topic, group=topic, on_created=made_anew, on_cancelled=print, stop=stop)
    patience.cancel()
    every = [str(number) for number in range(100, 110)]
    assert handled(bootstrap, topic, until={*every}) == every


@pytest.mark.kafka
def test_a_commit_that_fails_in_passing_is_tried_again(
    bootstrap: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A coordinator that is away is said to be waited for, for 45 s at a time; here it is said at once."""
    topic = new_topic(bootstrap, partitions=1)
    publish(bootstrap, topic, [order(number) for number in range(5)])
    failures = [KafkaError._WAIT_COORD, KafkaError.COORDINATOR_NOT_AVAILABLE, KafkaError._TRANSPORT]
    stop = threading.Event()

    class Away(Consumer):
        def commit(self, *args: Any, **named: Any) -> Any:
            if failures:
                raise KafkaException(KafkaError(failures.pop()))
            answer = super().commit(*args, **named)
            if any(place.offset == 5 for place in named["offsets"]):
                stop.set()
            return answer

    monkeypatch.setattr("pipeline.events.consuming.Consumer", Away)
    monkeypatch.setattr("pipeline.events.consuming._COMMIT_SECONDS", 0.0)
    patience = threading.Timer(60, stop.set)
    patience.start()
    counts = consume(bootstrap, topic, group=topic, on_created=print, on_cancelled=print, stop=stop)
    patience.cancel()
    assert (counts.created, failures) == (5, [])
    monkeypatch.undo()
    publish(bootstrap, topic, [order(5)])
    assert handled(bootstrap, topic, until={"5"}) == ["5"]


PROGRAM = """
import os, sys
from pipeline.events import consume
seen = open(sys.argv[3], "a", buffering=1)
count = 0
def handle(event):
    global count
    count += 1
    if count == int(sys.argv[4]):
        os.kill(os.getpid(), int(sys.argv[5]))
    print(event.order_id, file=seen)
consume(sys.argv[1], sys.argv[2], group=sys.argv[2], on_created=handle, on_cancelled=handle, options={"session.timeout.ms": 6000})
"""


def run_member(bootstrap: str, topic: str, seen: Path, *, end_after: int, by: signal.Signals) -> int:
    words = [bootstrap, topic, str(seen), str(end_after), str(int(by))]
    environ = {**os.environ, "PYTHONPATH": str(SOURCE)}
    done = subprocess.run([sys.executable, "-c", PROGRAM, *words], env=environ, timeout=120, check=False)
    return done.returncode


@pytest.mark.kafka
def test_after_kill_9_nothing_is_lost(bootstrap: str, topic: str, tmp_path: Path) -> None:
    publish(bootstrap, topic, many(2_000))
    seen = tmp_path / "seen"
    assert run_member(bootstrap, topic, seen, end_after=700, by=signal.SIGKILL) == -signal.SIGKILL
    before = set(seen.read_text().split())
    assert len(before) == 699
    handled(bootstrap, topic, until={str(number) for number in range(2_000)} - before)


@pytest.mark.kafka
def test_sigterm_ends_it_in_order_and_nothing_comes_again(bootstrap: str, topic: str, tmp_path: Path) -> None:
    publish(bootstrap, topic, many(500))
    seen = tmp_path / "seen"
    assert run_member(bootstrap, topic, seen, end_after=200, by=signal.SIGTERM) == 0
    first = seen.read_text().split()
    rest = handled(bootstrap, topic, until={str(number) for number in range(500)} - {*first})
    assert sorted([*first, *rest], key=int) == [str(number) for number in range(500)]


@pytest.mark.kafka
def test_a_second_member_takes_its_part_and_nothing_is_lost(bootstrap: str, topic: str) -> None:
    stop, lock, by_member = threading.Event(), threading.Lock(), {0: [], 1: []}  # type: ignore[var-annotated]

    def member(number: int) -> Handled:
        def handle(event: OrderEvent) -> None:
            with lock:
                by_member[number].append(event.order_id)

        return consume(bootstrap, topic, group=topic, on_created=handle, on_cancelled=handle, stop=stop)

    def wait_for(holds: Callable[[], bool]) -> None:
        until = time.monotonic() + 60
        while not holds():
            assert time.monotonic() < until
            time.sleep(0.05)

    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(member, 0)
        try:
            publish(bootstrap, topic, many(500))
            wait_for(lambda: len(by_member[0]) > 0)
            second = pool.submit(member, 1)
            number = 500
            while not by_member[1]:
                publish(
                    bootstrap, topic, [order(number + extra, customer=f"c{extra}") for extra in range(20)]
                )
                number += 20
                time.sleep(0.2)
                assert number < 10_000
            wait_for(lambda: len({*by_member[0], *by_member[1]}) == number)
        finally:
            stop.set()
    total = first.result().created + second.result().created
    assert total >= number


@pytest.mark.kafka
def test_a_topic_or_broker_that_is_not_there_is_named(bootstrap: str) -> None:
    with pytest.raises(TopicMissing):
        consume(bootstrap, "no-such-topic", group="g", on_created=print, on_cancelled=print)
    with pytest.raises(KafkaUnreachable):
        consume("localhost:1", group="g", on_created=print, on_cancelled=print)
