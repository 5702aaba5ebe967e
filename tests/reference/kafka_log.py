"""The Kafka log as plain records, read without Spark."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Record:
    """One Kafka record, identified by (topic, partition, offset), its bytes as they came."""

    topic: str
    partition: int
    offset: int
    timestamp_ms: int
    key: bytes | None
    value: bytes | None


def read_records(bootstrap: str, topics: Iterable[str], *, timeout_seconds: float = 120.0) -> list[Record]:
    """Every committed record of the topics up to their ends, by (topic, partition, offset)."""
    from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, TopicPartition

    deadline = time.monotonic() + timeout_seconds
    consumer = Consumer(
        {
            "bootstrap.servers": bootstrap,
            "group.id": f"reference-{uuid.uuid4()}",
            "isolation.level": "read_committed",
            "auto.offset.reset": "error",
            "enable.auto.commit": False,
            "enable.partition.eof": True,
            "fetch.message.max.bytes": 16 * 1024 * 1024,
        }
    )
    try:
        unread = {
            (topic, partition)
            for topic in topics
            for partition in _partitions(consumer, topic, timeout_seconds)
        }
        consumer.assign([TopicPartition(topic, partition, OFFSET_BEGINNING) for topic, partition in unread])
        records: list[Record] = []
        while unread:
            if time.monotonic() > deadline:
                raise TimeoutError(f"no end of {sorted(unread)} at {bootstrap} within {timeout_seconds} s")
            for message in consumer.consume(num_messages=10_000, timeout=0.2):
                error = message.error()
                if error is None:
                    records.append(_record(message))
                elif error.code() == KafkaError._PARTITION_EOF:
                    unread.discard((str(message.topic()), int(message.partition() or 0)))
                else:
                    raise KafkaException(error)
    finally:
        consumer.close()
    return sorted(records, key=lambda record: (record.topic, record.partition, record.offset))


def _partitions(consumer: object, topic: str, timeout_seconds: float) -> Sequence[int]:
    metadata = consumer.list_topics(topic, timeout=timeout_seconds).topics[topic]  # type: ignore[attr-defined]
    if metadata.error is not None or not metadata.partitions:
        raise LookupError(f"topic {topic} cannot be read: {metadata.error}")
    return sorted(metadata.partitions)


def _record(message: object) -> Record:
    return Record(
        topic=message.topic(),  # type: ignore[attr-defined]
        partition=message.partition(),  # type: ignore[attr-defined]
        offset=message.offset(),  # type: ignore[attr-defined]
        timestamp_ms=message.timestamp()[1],  # type: ignore[attr-defined]
        key=message.key(),  # type: ignore[attr-defined]
        value=message.value(),  # type: ignore[attr-defined]
    )
