"""Order events from Kafka, handed to two functions by a member of a consumer group, at least once."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition
from confluent_kafka.admin import AdminClient

from pipeline.contracts import ORDER_CREATED
from pipeline.errors import OffsetsLost, TopicReplaced
from pipeline.events.judging import OrderEvent, judged
from pipeline.kafka_check import admin_client, failure, is_passing, require_topics, silent_client, topic_ids
from pipeline.kafka_login import client_options, require_encryption
from pipeline.stopping import stop_requests

__all__ = ["Handled", "consume"]

Handler = Callable[[OrderEvent], object]
_Answer = TypeVar("_Answer")

_COMMIT_SECONDS = 1.0
_POLL_SECONDS = 0.2
_ANSWER_SECONDS = 10.0
_GOES_ON = {KafkaError._MAX_POLL_EXCEEDED, KafkaError._PARTITION_EOF}
"""Errors after which the client goes on by itself, beside those of brokers that are away."""
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
    on_lost: Callable[[OffsetsLost], object] | None = None,
    stop: threading.Event | None = None,
    options: Mapping[str, Any] | None = None,
    allow_plaintext: bool = False,
) -> Handled:
    """Hand each event to its function until `stop` is set (by default: until SIGTERM or Ctrl-C).

    An offset is committed after its event was handled, about once a second and at the end. After a crash, or when the
    group's members change, some events come again: tell them by event_type, order_id and event_time. An error of a
    function ends the loop; its event comes again next time. A record that the contract refuses goes to `on_rejected` with
    its violations, and is passed. Offsets that expired before this group had read them are raised as OffsetsLost; with `on_lost` they
    go there, and the group goes on at the first that is left. A group begins at the first record, or where `auto.offset.reset` says.

    `options` are named as librdkafka does, or `kafka.…` as Spark does; another machine's broker is not spoken to in plain text
    unless `allow_plaintext`. Brokers that are away are waited for. Raises ConfigurationError, KafkaUnreachable, KafkaRefused,
    KafkaFailed, TopicMissing, TopicReplaced, OffsetsLost.
    """
    require_encryption(bootstrap_servers, options or {}, is_plaintext_allowed=allow_plaintext)
    require_topics(bootstrap_servers, [topic], options=options)
    handlers = _Handlers(on_created, on_cancelled, on_rejected)
    with (
        _until(stop) as stopping,
        _member(bootstrap_servers, topic, group, options, on_lost, stopping) as member,
    ):
        while not stopping.is_set():
            message = member.poll()
            if message is not None:
                handlers.hand_over(message)
                member.done(message)
            member.commit_now_and_then()
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


class _Member:
    """A member of the group: where it begins, and what it has handled and not committed yet."""

    def __init__(
        self,
        bootstrap_servers: str,
        topic: str,
        group: str,
        options: Mapping[str, Any],
        on_lost: Callable[[OffsetsLost], object] | None,
        stopping: threading.Event,
    ) -> None:
        self._servers, self._topic, self._group = bootstrap_servers, topic, group
        self._on_lost, self._stopping = on_lost, stopping
        given = client_options(options)
        self._begins_at = str(given.pop("auto.offset.reset", "earliest"))
        self._consumer = Consumer(
            {
                **silent_client(bootstrap_servers),
                "group.id": group,
                "isolation.level": "read_committed",
                **given,
                "auto.offset.reset": "error",  # earliest would also serve where retention took what comes next
                "enable.auto.commit": False,
            }
        )
        self._admin: AdminClient = admin_client(bootstrap_servers, options)
        self._topic_id = self._asked(lambda: topic_ids(self._admin, [topic])).get(topic)
        self._next: dict[tuple[str, int], int] = {}
        self._committed_at = time.monotonic()
        self._join()

    def poll(self) -> Message | None:
        """The next record. Raises what an error of Kafka means, where the client does not go on by itself."""
        message = self._consumer.poll(_POLL_SECONDS)
        error = None if message is None else message.error()
        if error is None:
            return message
        assert message is not None
        if error.code() == KafkaError._AUTO_OFFSET_RESET and message.offset() is not None:
            # Retention has overtaken us. Who joins again looks at where he is to begin.
            self.commit()
            self._consumer.unsubscribe()
            self._join()
        elif error.code() not in _GOES_ON and not is_passing(error):
            raise failure(self._servers, error, what=f"{self._topic} is not read")
        return None

    def done(self, message: Message) -> None:
        topic, partition, offset = message.topic(), message.partition(), message.offset()
        assert topic is not None
        assert partition is not None
        assert offset is not None
        self._next[topic, partition] = offset + 1

    def commit_now_and_then(self) -> None:
        if time.monotonic() - self._committed_at >= _COMMIT_SECONDS:
            self.commit()

    def commit(self) -> KafkaError | None:
        """Commit all. What a broker that is away does not take is tried again by the next call; its error is given."""
        self._committed_at = time.monotonic()
        if not self._next:
            return None
        ends = [TopicPartition(topic, partition, end) for (topic, partition), end in self._next.items()]
        try:
            self._require_same_topic()
            self._consumer.commit(offsets=ends, asynchronous=False)
        except KafkaException as refused:
            error: KafkaError = refused.args[0]
            if is_passing(error):
                return error
            self._next.clear()
            if error.code() not in _NO_LONGER_OURS:
                raise failure(self._servers, error, what="the offsets are not taken") from refused
        self._next.clear()
        return None

    def leave(self) -> None:
        """Commit what was handled, and leave the group."""
        try:
            error = self.commit()
        finally:
            self._consumer.close()
        if error is not None:
            raise failure(
                self._servers, error, what="the last offsets are not taken, and their events come again"
            )

    def _join(self) -> None:
        self._consumer.subscribe(
            [self._topic], on_assign=self._begin, on_revoke=self._hand_on, on_lost=self._forget
        )

    def _begin(self, _: Consumer, assigned: Sequence[TopicPartition]) -> None:
        """Commit where to begin, of a group that has not: the client goes on at what is committed, and nowhere else.

        All partitions of the topic at once, so that one which is added later is told from one that the group has not begun.
        """
        parts = self._asked(lambda: self._consumer.list_topics(self._topic, timeout=_ANSWER_SECONDS))
        places = [
            TopicPartition(self._topic, number) for number in sorted(parts.topics[self._topic].partitions)
        ]
        if not places:
            return
        known = self._asked(lambda: self._consumer.committed(places, timeout=_ANSWER_SECONDS))
        has_begun, mine = any(one.offset >= 0 for one in known), {one.partition for one in assigned}
        begins = []
        for place in known:
            if place.partition not in mine and (place.offset >= 0 or has_begun):
                continue
            first, end = self._bounds(place)
            if place.offset < 0 and not has_begun:
                if self._begins_at != "error":
                    is_end = self._begins_at in {"latest", "largest", "end"}
                    begins.append(TopicPartition(self._topic, place.partition, end if is_end else first))
                continue
            expected = max(place.offset, 0)  # a partition that was added since is read whole
            if not first <= expected <= end:
                self._lose(place.partition, expected, first, end)
                begins.append(TopicPartition(self._topic, place.partition, first))
            elif place.offset < 0:
                begins.append(TopicPartition(self._topic, place.partition, first))
        if begins:
            self._asked(lambda: self._consumer.commit(offsets=begins, asynchronous=False))

    def _bounds(self, place: TopicPartition) -> tuple[int, int]:
        def ask() -> tuple[int, int] | None:
            return self._consumer.get_watermark_offsets(place, timeout=_ANSWER_SECONDS)

        while (found := self._asked(ask)) is None:
            self._stopping.wait(_POLL_SECONDS)
        return found

    def _lose(self, partition: int, expected: int, first: int, end: int) -> None:
        if expected < first:
            what = (
                f"would go on at offset {expected}, but Kafka's first is {first}: {first - expected} offsets have expired "
                "unread.\nLengthen the topic's retention. Give `on_lost` to be told of them and go on at the first that is left"
            )
        else:
            what = (
                f"has read up to offset {expected}, but Kafka's last is before {end}: {expected - end} offsets that were read "
                "are gone (a broker lost them, or the topic was made anew).\nFind out what happened to it; then take another "
                "group, or set this one's offsets anew (kafka-consumer-groups --reset-offsets)"
            )
        lost = OffsetsLost(
            f"group {self._group}, topic {self._topic} partition {partition}: the group {what}.",
            query=self._group,
            topic=self._topic,
            partition=partition,
            expected=expected,
            first=first,
            end=end,
        )
        if self._on_lost is None or expected > end:
            raise lost
        self._on_lost(lost)

    def _require_same_topic(self) -> None:
        """Kafka forgets a group's offsets with the topic: who commits none for the new one begins it from its first record."""
        now = topic_ids(self._admin, [self._topic], _ANSWER_SECONDS).get(self._topic)
        if now is not None and now != self._topic_id:
            self._next.clear()
            raise TopicReplaced(
                f"group {self._group}: topic {self._topic} has been deleted and made anew while it was read.\n"
                "Records of the new one may have been handed over, and some left out. Nothing is committed for it: start again, "
                "and the group reads the new topic from its beginning.",
                query=self._group,
                topic=self._topic,
            )

    def _hand_on(self, consumer: Consumer, places: Sequence[TopicPartition]) -> None:
        self.commit()
        self._forget(consumer, places)

    def _forget(self, _: Consumer, places: Sequence[TopicPartition]) -> None:
        """Another member has the partitions, or will have: it gets again what is not committed."""
        for place in places:
            self._next.pop((place.topic, place.partition), None)

    def _asked(self, ask: Callable[[], _Answer]) -> _Answer:
        """The answer, also of a broker that is away for a while. Raises what an error means, and when it is to stop meanwhile."""
        while True:
            try:
                return ask()
            except KafkaException as error:
                if not is_passing(error.args[0]) or self._stopping.wait(_POLL_SECONDS):
                    raise failure(self._servers, error.args[0], what=f"{self._topic} is not begun") from error


@contextmanager
def _member(
    bootstrap_servers: str,
    topic: str,
    group: str,
    options: Mapping[str, Any] | None,
    on_lost: Callable[[OffsetsLost], object] | None,
    stopping: threading.Event,
) -> Iterator[_Member]:
    """A member of the group, which commits what was handled and leaves, also after an error."""
    member = _Member(bootstrap_servers, topic, group, options or {}, on_lost, stopping)
    try:
        yield member
    finally:
        member.leave()


@contextmanager
def _until(stop: threading.Event | None) -> Iterator[threading.Event]:
    if stop is not None:
        yield stop
        return
    with stop_requests() as requested:
        yield requested
