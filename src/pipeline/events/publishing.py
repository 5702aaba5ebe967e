"""Order events to Kafka: judged before they are sent, keyed by customer, each delivered once or named in an error."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import asdict
from datetime import datetime
from decimal import Decimal
from types import TracebackType
from typing import Any

from confluent_kafka import KafkaError, KafkaException, Message, Producer

from pipeline.contracts import MAX_VALUE_BYTES
from pipeline.errors import InvalidEvent, NotDelivered
from pipeline.events.judging import OrderEvent, judged
from pipeline.kafka_check import silent_client
from pipeline.kafka_login import client_options, require_encryption

__all__ = ["OrderProducer"]

_ROOM_FOR_THE_REST = 64 * 1024
"""Bytes of a request beside the value: its key, headers and framing."""


class OrderProducer:
    """A producer for one topic, to be used in a `with`: leaving it waits until Kafka has everything.

    Idempotent, acknowledged by all replicas: a retry neither repeats nor reorders. `options` are for logins and the like, named as
    librdkafka does, or `kafka.…` as Spark and the settings do. Another machine's broker is not spoken to in plain text
    (ConfigurationError) unless `allow_plaintext`. An event that Kafka did not take is raised as NotDelivered by a later `publish`, or by `flush` at the latest.
    """

    def __init__(
        self,
        bootstrap_servers: str,
        topic: str = "orders",
        *,
        options: Mapping[str, Any] | None = None,
        allow_plaintext: bool = False,
    ) -> None:
        require_encryption(bootstrap_servers, options or {}, is_plaintext_allowed=allow_plaintext)
        self._topic = topic
        self._failures: list[tuple[str, str]] = []
        self._producer = Producer(
            {
                **silent_client(bootstrap_servers),
                "enable.idempotence": True,
                "acks": "all",
                "message.max.bytes": MAX_VALUE_BYTES + _ROOM_FOR_THE_REST,
                "delivery.timeout.ms": 30_000,
                **client_options(options or {}),
            }
        )

    def publish(self, event: OrderEvent | Mapping[str, Any]) -> None:
        """Send the event, an OrderEvent or a JSON object to be. Raises InvalidEvent, and NotDelivered for an earlier one.

        It is judged as the bytes that are sent, at the time that the record gets, so nobody who reads it judges otherwise.
        """
        self._raise_failures()
        timestamp_ms = round(time.time() * 1000)
        value = _as_json(_document(event))
        accepted, violations = judged(value, timestamp_ms=timestamp_ms)
        if accepted is None:
            raise InvalidEvent(
                f"The event breaks the contract in {', '.join(violations)}; it is not sent.",
                violations=violations,
            )
        self._produce(accepted.customer_id, value, timestamp_ms)

    def flush(self, timeout_seconds: float = 60) -> None:
        """Wait until Kafka has taken all events. Raises NotDelivered, also when some are still on their way by then."""
        waiting = self._producer.flush(timeout_seconds)
        self._raise_failures()
        if waiting:
            raise NotDelivered(
                f"{waiting} events are not acknowledged by Kafka after {timeout_seconds:.0f} s.",
                name="_TIMED_OUT",
                keys=(),
                count=waiting,
            )

    def __enter__(self) -> OrderProducer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.flush()
        else:
            self._producer.flush(10)  # what was published before the error is not taken back

    def _produce(self, key: str, value: bytes, timestamp_ms: int) -> None:
        while True:
            try:
                self._producer.produce(
                    self._topic, value, key, timestamp=timestamp_ms, on_delivery=self._note_delivery
                )
            except BufferError:  # the queue is full: let it drain
                self._producer.poll(0.1)
                self._raise_failures()
            except KafkaException as failure:
                self._failures.append((failure.args[0].name(), key))
                self._raise_failures()
            else:
                self._producer.poll(0)
                return

    def _note_delivery(self, error: KafkaError | None, message: Message) -> None:
        if error is not None:
            self._failures.append((error.name(), (message.key() or b"").decode()))

    def _raise_failures(self) -> None:
        if not self._failures:
            return
        failures, self._failures = self._failures, []
        name, keys = failures[0][0], tuple(dict.fromkeys(key for _, key in failures))
        raise NotDelivered(
            f"Kafka did not take {len(failures)} events for {self._topic}: {name} (of {len(keys)} customers, who are in `keys`). "
            "Publish them again; a duplicate is counted once.",
            name=name,
            keys=keys,
            count=len(failures),
        )


def _document(event: OrderEvent | Mapping[str, Any]) -> Mapping[str, Any]:
    if not isinstance(event, OrderEvent):
        return event
    fields = asdict(event)
    return {**fields, "timestamp": fields.pop("event_time")}


def _as_json(document: Mapping[str, Any]) -> bytes:
    return json.dumps(document, default=_plain, ensure_ascii=False).encode("utf-8", "replace")


def _plain(value: Any) -> Any:
    """Amounts as strings, which no reader turns into a float; times as ISO-8601 with their offset."""
    if isinstance(value, Decimal):
        return format(value, "f")
    if isinstance(value, datetime):
        return value.isoformat()
    raise TypeError(f"{type(value).__name__} has no form in JSON")
