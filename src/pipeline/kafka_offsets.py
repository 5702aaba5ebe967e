"""What Kafka itself says of its partitions: where they begin and end, and at which offsets it holds a committed record."""

from __future__ import annotations

import time
import uuid
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, cast

from pipeline.errors import KafkaUnreachable
from pipeline.instants import Beyond, of_milliseconds
from pipeline.kafka_check import admin_client, known_topics, silent_client
from pipeline.kafka_login import is_translatable

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

__all__ = [
    "Address",
    "Held",
    "Partition",
    "Run",
    "behind",
    "bounds",
    "can_be_asked",
    "committed",
    "held_by_kafka",
    "record_times",
    "retentions",
]

Partition = tuple[str, int]
"""Topic and number."""
Run = tuple[int, int]
"""Offsets that follow each other, half-open."""
Address = tuple[str, int, int]
"""Topic, number of the partition, offset."""

_WORTH_A_SEEK = 2_000
"""Offsets: to read over fewer than these is quicker than to begin a new fetch."""


@dataclass(frozen=True)
class Held:
    """The offsets of committed records that a partition holds, half-open, and the newest of its records' timestamps.

    `newest_at` is None where it holds none, and of brokers before 3.0, which do not tell.
    """

    first: int
    end: int
    newest_at: datetime | None


def can_be_asked(options: Mapping[str, str]) -> bool:
    """Whether the `kafka.*` options, as Spark takes them, are of a login that not only Java's client has."""
    return is_translatable(options)


def behind(ends: Mapping[Partition, int], held: Mapping[Partition, Run]) -> int:
    """How many offsets Kafka holds that a reader who has come to these ends has not read."""
    return sum(max(0, end - max(ends.get(place, 0), first)) for place, (first, end) in held.items())


def bounds(
    bootstrap_servers: str,
    topics: Sequence[str],
    timeout_seconds: float = 10,
    *,
    options: Mapping[str, str] | None = None,
) -> dict[Partition, Run]:
    """The first offset that each partition of these topics still holds, and the one after its last; no entry for a topic that is gone.

    Raises KafkaUnreachable.
    """
    held = held_by_kafka(bootstrap_servers, topics, timeout_seconds, options=options)
    return {place: (one.first, one.end) for place, one in held.items()}


def held_by_kafka(
    bootstrap_servers: str,
    topics: Sequence[str],
    timeout_seconds: float = 10,
    *,
    options: Mapping[str, str] | None = None,
) -> dict[Partition, Held]:
    """What each partition of these topics holds; no entry for a topic that is gone. Raises KafkaUnreachable."""
    from confluent_kafka import IsolationLevel, KafkaException, TopicPartition
    from confluent_kafka.admin import OffsetSpec  # type: ignore[attr-defined]

    known = known_topics(bootstrap_servers, timeout_seconds, options=options)
    client, which = admin_client(bootstrap_servers, options), cast("Any", OffsetSpec)
    try:
        places = [
            TopicPartition(topic, number)
            for topic in topics
            if topic in known and known[topic].error is None
            for number in sorted(known[topic].partitions)
        ]
        if not places:
            return {}
        first, end, newest = (
            client.list_offsets(
                dict.fromkeys(places, specification),
                isolation_level=IsolationLevel.READ_COMMITTED,
                request_timeout=timeout_seconds,
            )
            for specification in (which.earliest(), which.latest(), which.max_timestamp())
        )
        return {
            (place.topic, place.partition): Held(
                first[place].result().offset, end[place].result().offset, _made_at(newest[place])
            )
            for place in places
        }
    except KafkaException as error:
        raise _unreachable(bootstrap_servers, error.args[0].str()) from error


def retentions(
    bootstrap_servers: str,
    topics: Sequence[str],
    timeout_seconds: float = 10,
    *,
    options: Mapping[str, str] | None = None,
) -> dict[str, int]:
    """`retention.ms` of each of these topics (-1: for ever); no entry where Kafka does not tell, or to us."""
    from confluent_kafka import KafkaException
    from confluent_kafka.admin import ConfigResource, ResourceType  # type: ignore[attr-defined]

    client = admin_client(bootstrap_servers, options)  # it takes its answers with it when it goes
    resources = [ConfigResource(ResourceType.TOPIC, topic) for topic in topics]
    answers = client.describe_configs(resources, request_timeout=timeout_seconds)
    found = {}
    for resource, answer in answers.items():
        with suppress(KafkaException):
            found[resource.name] = int(answer.result()["retention.ms"].value)
    return found


def record_times(
    bootstrap_servers: str,
    addresses: Iterable[Address],
    timeout_seconds: float = 2,
    *,
    options: Mapping[str, str] | None = None,
) -> dict[Address, datetime]:
    """The timestamp of the first record at or after each address; no entry where none came in time, or it has none."""
    waiting: dict[Partition, list[int]] = {}
    for topic, partition, offset in sorted({*addresses}, reverse=True):
        waiting.setdefault((topic, partition), []).append(offset)
    consumer, found = _consumer(bootstrap_servers, options), {}
    deadline = time.monotonic() + timeout_seconds
    try:
        consumer.assign([_place(place, offsets[-1]) for place, offsets in waiting.items()])
        while waiting and (message := consumer.poll(max(0.0, deadline - time.monotonic()))) is not None:
            place = (message.topic(), message.partition())
            if message.error() is not None:
                waiting.pop(place, None)
            elif place in waiting and message.offset() >= waiting[place][-1]:
                offset, (kind, timestamp_ms) = waiting[place].pop(), message.timestamp()
                if kind and (made_at := _time(timestamp_ms)):
                    found[(*place, offset)] = made_at
                if waiting[place]:
                    consumer.seek(_place(place, waiting[place][-1]))
                else:
                    del waiting[place]
    finally:
        consumer.close()
    return found


def committed(
    bootstrap_servers: str,
    place: Partition,
    runs: Sequence[Run],
    timeout_seconds: float = 30,
    *,
    options: Mapping[str, str] | None = None,
) -> Iterator[int]:
    """The offsets inside these runs at which a reader of committed records gets one.

    At the others there is none: the mark that ends a transaction, a record of an aborted one, or one that compaction
    removed. `timeout_seconds` is for the time without any answer. Raises KafkaUnreachable.
    """
    consumer = _consumer(bootstrap_servers, options)
    try:
        yield from _committed(consumer, bootstrap_servers, place, sorted(runs), timeout_seconds)
    finally:
        consumer.close()


def _committed(
    consumer: Any, bootstrap_servers: str, place: Partition, runs: Sequence[Run], timeout_seconds: float
) -> Iterator[int]:
    from confluent_kafka import KafkaError, TopicPartition

    left = list(runs)
    position = left[0][0]
    consumer.assign([TopicPartition(*place, position)])
    deadline = time.monotonic() + timeout_seconds
    while left:
        message = consumer.poll(0.5)
        if message is None:
            if time.monotonic() > deadline:
                raise _unreachable(bootstrap_servers, f"nothing of {place[0]}-{place[1]} at {position}")
            continue
        deadline = time.monotonic() + timeout_seconds
        if message.error() is not None:
            if message.error().code() == KafkaError._PARTITION_EOF:
                return
            if message.error().code() == KafkaError.GROUP_AUTHORIZATION_FAILED:
                continue  # no group is joined: the partition is assigned, and nothing is committed
            raise _unreachable(bootstrap_servers, message.error().str())
        position = message.offset()
        while left and left[0][1] <= position:
            left.pop(0)
        if left and left[0][0] <= position:
            yield position
        elif left and left[0][0] - position > _WORTH_A_SEEK:
            consumer.assign([TopicPartition(*place, left[0][0])])


def _consumer(bootstrap_servers: str, options: Mapping[str, str] | None) -> Any:
    from confluent_kafka import Consumer

    return Consumer(
        {
            **silent_client(bootstrap_servers, options),
            "group.id": f"pipeline-audit-{uuid.uuid4()}",
            "isolation.level": "read_committed",
            "enable.auto.commit": False,
            "enable.partition.eof": True,
            "auto.offset.reset": "error",
            "fetch.message.max.bytes": 8 * 1024 * 1024,
        }
    )


def _place(place: Partition, offset: int) -> Any:
    from confluent_kafka import TopicPartition

    return TopicPartition(*place, offset)


def _made_at(answer: Any) -> datetime | None:
    from confluent_kafka import KafkaException

    try:
        timestamp_ms = answer.result().timestamp
    except KafkaException:
        return None
    return _time(timestamp_ms) if timestamp_ms >= 0 else None


def _time(timestamp_ms: int) -> datetime | None:
    """None where it is no time that a clock shows: a producer has counted in micro- or nanoseconds."""
    made_at = of_milliseconds(timestamp_ms)
    return None if isinstance(made_at, Beyond) else made_at


def _unreachable(bootstrap_servers: str, reason: str) -> KafkaUnreachable:
    return KafkaUnreachable(
        f"No Kafka broker answers at {bootstrap_servers} ({reason}).", bootstrap_servers=bootstrap_servers
    )
