"""Order events from Kafka, handed to two functions by a member of a consumer group, at least once."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from pipeline.contracts import ORDER_CREATED
from pipeline.errors import DependencyError
from pipeline.events.judging import OrderEvent, judged
from pipeline.kafka_check import require_topics, silent_client
from pipeline.kafka_login import client_options, require_encryption
from pipeline.stopping import stop_requests

__all__ = ["Handled", "consume"]

Handler = Callable[[OrderEvent], object]

_COMMIT_SECONDS = 1.0
_POLL_SECONDS = 0.2
_PASSING = {
    KafkaError._MAX_POLL_EXCEEDED,
    KafkaError._PARTITION_EOF,
    KafkaError._TRANSPORT,
    KafkaError._ALL_BROKERS_DOWN,
}
"""Errors after which the client goes on by itself."""
_NO_LONGER_OURS = {
    KafkaError.ILLEGAL_GENERATION,
    KafkaError.UNKNOWN_MEMBER_ID,
    KafkaError.REBALANCE_IN_PROGRESS,
    KafkaError._ASSIGNMENT_LOST,
    KafkaError._STATE,
}
"""Why a commit may fail after the partitions went to another member, who then gets the events again."""


@dataclass
class Handled:
    """How many records were handed over, refused by the contract, or tombstones."""

    created: int = 0
    cancelled: int = 0
    rejected: int = 0
    tombstones: int = 0


def consume(
    bootstrap_servers: str,
    topic: str = "orders",
    *,
    group: str,
    on_created: Handler,
    on_cancelled: Handler,
    on_rejected: Callable[[Message, Sequence[str]], object] | None = None,
    stop: threading.Event | None = None,
    options: Mapping[str, Any] | None = None,
    allow_plaintext: bool = False,
) -> Handled:
    """Hand each event to its function until `stop` is set (by default: until SIGTERM or Ctrl-C).

    An offset is committed after its event was handled, about once a second and at the end. After a crash, or when the
    group's members change, some events come again: tell them by event_type, order_id and event_time. An error of a
    function ends the loop; its event comes again next time. A record that the contract refuses goes to `on_rejected` with
    its violations, and is passed. `options` are named as librdkafka does, or `kafka.…` as Spark does; another machine's broker is
    not spoken to in plain text unless `allow_plaintext`. Raises ConfigurationError, KafkaUnreachable, TopicMissing, DependencyError.
    """
    require_encryption(bootstrap_servers, options or {}, is_plaintext_allowed=allow_plaintext)
    require_topics(bootstrap_servers, [topic], options=options)
    handlers = _Handlers(on_created, on_cancelled, on_rejected)
    with _until(stop) as stopping, _member(bootstrap_servers, topic, group, options) as (consumer, offsets):
        while not stopping.is_set():
            message = consumer.poll(_POLL_SECONDS)
            if message is not None and _is_record(message):
                handlers.hand_over(message)
                offsets.done(message)
            offsets.commit_now_and_then()
    return handlers.handled


class _Handlers:
    def __init__(
        self,
        on_created: Handler,
        on_cancelled: Handler,
        on_rejected: Callable[[Message, Sequence[str]], object] | None,
    ) -> None:
        self._on_created, self._on_cancelled, self._on_rejected = on_created, on_cancelled, on_rejected
        self.handled = Handled()

    def hand_over(self, message: Message) -> None:
        event, violations = judged(message.value(), timestamp_ms=message.timestamp()[1])
        if event is None:
            self._pass(message, violations)
        elif event.event_type == ORDER_CREATED:
            self._on_created(event)
            self.handled.created += 1
        else:
            self._on_cancelled(event)
            self.handled.cancelled += 1

    def _pass(self, message: Message, violations: Sequence[str]) -> None:
        if not violations:
            self.handled.tombstones += 1
            return
        if self._on_rejected is not None:
            self._on_rejected(message, violations)
        self.handled.rejected += 1


class _Offsets:
    """What this member has handled of its partitions and not committed yet: the next offset of each."""

    def __init__(self, consumer: Consumer) -> None:
        self._consumer = consumer
        self._next: dict[tuple[str, int], int] = {}
        self._committed_at = time.monotonic()

    def done(self, message: Message) -> None:
        topic, partition, offset = message.topic(), message.partition(), message.offset()
        assert topic is not None
        assert partition is not None
        assert offset is not None
        self._next[topic, partition] = offset + 1

    def commit_now_and_then(self) -> None:
        if time.monotonic() - self._committed_at >= _COMMIT_SECONDS:
            self.commit()

    def commit(self, *_: object) -> None:
        """Commit all; also called, by the consumer, before partitions go to another member."""
        self._committed_at = time.monotonic()
        ends = [TopicPartition(topic, partition, end) for (topic, partition), end in self._next.items()]
        self._next.clear()
        try:
            if ends:
                self._consumer.commit(offsets=ends, asynchronous=False)
        except KafkaException as failure:
            if failure.args[0].code() not in _NO_LONGER_OURS:
                raise DependencyError(
                    f"Kafka did not take the offsets: {failure.args[0].str()}."
                ) from failure

    def forget(self, *_: object) -> None:
        """The partitions are lost: another member has them already."""
        self._next.clear()


@contextmanager
def _member(
    bootstrap_servers: str, topic: str, group: str, options: Mapping[str, Any] | None
) -> Iterator[tuple[Consumer, _Offsets]]:
    """A member of the group, which commits what was handled and leaves, also after an error."""
    consumer = Consumer(
        {
            **silent_client(bootstrap_servers),
            "group.id": group,
            "auto.offset.reset": "earliest",
            "isolation.level": "read_committed",
            **client_options(options or {}),
            "enable.auto.commit": False,
        }
    )
    offsets = _Offsets(consumer)
    consumer.subscribe([topic], on_revoke=offsets.commit, on_lost=offsets.forget)
    try:
        yield consumer, offsets
    finally:
        try:
            offsets.commit()
        finally:
            consumer.close()


@contextmanager
def _until(stop: threading.Event | None) -> Iterator[threading.Event]:
    if stop is not None:
        yield stop
        return
    with stop_requests() as requested:
        yield requested


def _is_record(message: Message) -> bool:
    error = message.error()
    if error is None:
        return True
    if error.code() not in _PASSING:
        raise DependencyError(f"Kafka: {error.name()}: {error.str()}.")
    return False
