"""What Kafka itself says of its partitions: where they begin and end, and at which offsets it holds a committed record."""

from __future__ import annotations

import logging
import time
import uuid
from typing import TYPE_CHECKING, Any

from pipeline.errors import KafkaUnreachable

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

__all__ = ["Partition", "Run", "bounds", "can_be_asked", "committed"]

Partition = tuple[str, int]
"""Topic and number."""
Run = tuple[int, int]
"""Offsets that follow each other, half-open."""

_SILENT = logging.getLogger("pipeline.librdkafka")
_SILENT.addHandler(logging.NullHandler())
_SILENT.propagate = False
_WORTH_A_SEEK = 2_000
"""Offsets: to read over fewer than these is quicker than to begin a new fetch."""


def can_be_asked(options: Mapping[str, str]) -> bool:
    """Whether the `kafka.*` options, as Spark takes them, need no login: the Java client's cannot be translated for this one."""
    return options.get("kafka.security.protocol", "PLAINTEXT").upper() == "PLAINTEXT"


def bounds(
    bootstrap_servers: str, topics: Sequence[str], timeout_seconds: float = 10
) -> dict[Partition, Run]:
    """The first offset that each partition of these topics still holds, and the one after its last; no entry for a topic that is gone.

    Raises KafkaUnreachable.
    """
    from confluent_kafka import KafkaException, TopicPartition

    consumer = _consumer(bootstrap_servers)
    try:
        known = consumer.list_topics(timeout=timeout_seconds).topics
        partitions = [
            (topic, number)
            for topic in topics
            if topic in known and known[topic].error is None
            for number in sorted(known[topic].partitions)
        ]
        return {
            place: tuple(consumer.get_watermark_offsets(TopicPartition(*place), timeout=timeout_seconds))
            for place in partitions
        }
    except KafkaException as error:
        raise _unreachable(bootstrap_servers, error.args[0].str()) from error
    finally:
        consumer.close()


def committed(
    bootstrap_servers: str, place: Partition, runs: Sequence[Run], timeout_seconds: float = 30
) -> Iterator[int]:
    """The offsets inside these runs at which a reader of committed records gets one.

    At the others there is none: the mark that ends a transaction, a record of an aborted one, or one that compaction
    removed. `timeout_seconds` is for the time without any answer. Raises KafkaUnreachable.
    """
    consumer = _consumer(bootstrap_servers)
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
            raise _unreachable(bootstrap_servers, message.error().str())
        position = message.offset()
        while left and left[0][1] <= position:
            left.pop(0)
        if left and left[0][0] <= position:
            yield position
        elif left and left[0][0] - position > _WORTH_A_SEEK:
            consumer.assign([TopicPartition(*place, left[0][0])])


def _consumer(bootstrap_servers: str) -> Any:
    from confluent_kafka import Consumer

    # Without a logger and an error callback librdkafka writes to the terminal by itself.
    return Consumer(
        {
            "bootstrap.servers": bootstrap_servers,
            "group.id": f"pipeline-audit-{uuid.uuid4()}",
            "isolation.level": "read_committed",
            "enable.auto.commit": False,
            "enable.partition.eof": True,
            "auto.offset.reset": "error",
            "fetch.message.max.bytes": 8 * 1024 * 1024,
            "log_level": 0,
            "error_cb": lambda _: None,
        },
        logger=_SILENT,
    )


def _unreachable(bootstrap_servers: str, reason: str) -> KafkaUnreachable:
    return KafkaUnreachable(
        f"No Kafka broker answers at {bootstrap_servers} ({reason}).", bootstrap_servers=bootstrap_servers
    )
