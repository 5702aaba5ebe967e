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
from pipeline.kafka_check import admin_client, failure, known_topics, silent_client, topic_ids
from pipeline.kafka_login import is_translatable

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

__all__ = [
    "Address",
    "Held",
    "Partition",
    "Run",
    "behind",
    "can_be_asked",
    "committed",
    "held_by_kafka",
    "ids",
    "record_times",
    "retentions",
    "topic_settings",
    "warnings",
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
    """The offsets that a partition holds, half-open, and the newest of its records' timestamps.

    Those from `stable` on stand behind a transaction that has not ended: nobody who reads committed records gets them yet.
    `newest_at` is None where it holds none, and of brokers before 3.0, which do not tell.
    """

    first: int
    end: int
    newest_at: datetime | None
    stable: int | None = None

    @property
    def blocked(self) -> int:
        return 0 if self.stable is None else self.end - self.stable


def can_be_asked(options: Mapping[str, str]) -> bool:
    """Whether the `kafka.*` options, as Spark takes them, are of a login that not only Java's client has."""
    return is_translatable(options)


def behind(ends: Mapping[Partition, int], held: Mapping[Partition, Run]) -> int:
    """How many offsets Kafka holds that a reader who has come to these ends has not read."""
    return sum(max(0, end - max(ends.get(place, 0), first)) for place, (first, end) in held.items())


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
        first, stable, newest, end = (
            client.list_offsets(
                dict.fromkeys(places, specification),
                isolation_level=isolation,
                request_timeout=timeout_seconds,
            )
            for specification, isolation in (
                (which.earliest(), IsolationLevel.READ_COMMITTED),
                (which.latest(), IsolationLevel.READ_COMMITTED),
                (which.max_timestamp(), IsolationLevel.READ_COMMITTED),
                (which.latest(), IsolationLevel.READ_UNCOMMITTED),
            )
        )
        return {
            (place.topic, place.partition): Held(
                first[place].result().offset,
                end[place].result().offset,
                _made_at(newest[place]),
                stable[place].result().offset,
            )
            for place in places
        }
    except KafkaException as error:
        raise failure(
            bootstrap_servers, error.args[0], what=f"the offsets of {', '.join(topics)} are not told"
        ) from error


def retentions(
    bootstrap_servers: str,
    topics: Sequence[str],
    timeout_seconds: float = 10,
    *,
    options: Mapping[str, str] | None = None,
) -> dict[str, int]:
    """`retention.ms` of each of these topics (-1: for ever); no entry where Kafka does not tell, or to us."""
    told = topic_settings(bootstrap_servers, topics, timeout_seconds, options=options)
    return {topic: int(found["retention.ms"]) for topic, found in told.items()}


def warnings(settings: Mapping[str, Mapping[str, str]], held: Mapping[Partition, Held]) -> list[str]:
    """What makes numbers wrong or late though nothing is refused, a sentence each that begins with its name (docs/runbook.md)."""
    told = [
        f"TopicCompacted: {topic} is compacted (cleanup.policy {found['cleanup.policy']}): Kafka removes all but the newest record "
        "of a key, and what is removed before it is read is in no number. Set cleanup.policy=delete"
        for topic, found in sorted(settings.items())
        if "compact" in found["cleanup.policy"]
    ]
    return told + [
        f"TransactionOpen: {topic}-{partition}: {one.blocked} records from offset {one.stable} on stand behind a transaction that "
        "has not ended, and nobody reads them before it has. Is its producer at work? kafka-transactions find-hanging names it, "
        "and abort ends it"
        for (topic, partition), one in sorted(held.items())
        if one.blocked
    ]


def topic_settings(
    bootstrap_servers: str,
    topics: Sequence[str],
    timeout_seconds: float = 10,
    *,
    options: Mapping[str, str] | None = None,
) -> dict[str, Mapping[str, str]]:
    """What Kafka has set for each of these topics, by Kafka's names; no entry where it does not tell, or to us."""
    from confluent_kafka import KafkaException
    from confluent_kafka.admin import ConfigResource, ResourceType  # type: ignore[attr-defined]

    client = admin_client(bootstrap_servers, options)  # it takes its answers with it when it goes
    resources = [ConfigResource(ResourceType.TOPIC, topic) for topic in topics]
    answers = client.describe_configs(resources, request_timeout=timeout_seconds)
    found: dict[str, Mapping[str, str]] = {}
    for resource, answer in answers.items():
        with suppress(KafkaException):
            found[resource.name] = {name: str(entry.value) for name, entry in answer.result().items()}
    return found


def ids(
    bootstrap_servers: str,
    topics: Sequence[str],
    timeout_seconds: float = 10,
    *,
    options: Mapping[str, str] | None = None,
) -> dict[str, str]:
    """The id of each topic that is there. Raises KafkaUnreachable, KafkaRefused, KafkaFailed."""
    from confluent_kafka import KafkaException

    try:
        return topic_ids(admin_client(bootstrap_servers, options), topics, timeout_seconds)
    except KafkaException as error:
        raise failure(
            bootstrap_servers, error.args[0], what=f"the ids of {', '.join(topics)} are not told"
        ) from error


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
            raise failure(
                bootstrap_servers, message.error(), what=f"{place[0]}-{place[1]} is not read at {position}"
            )
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
