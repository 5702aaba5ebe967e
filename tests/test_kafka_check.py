"""What librdkafka and Java's client say is told by what it means; no broker is asked."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from confluent_kafka import KafkaError

from pipeline import kafka_topics
from pipeline.errors import (
    KafkaFailed,
    KafkaRefused,
    KafkaUnreachable,
    PipelineError,
    TopicMissing,
    TransientError,
)
from pipeline.kafka_check import failure, is_passing
from pipeline.kafka_topics import Topics


@pytest.mark.parametrize(
    ("code", "meant"),
    [
        (KafkaError._TRANSPORT, KafkaUnreachable),
        (KafkaError._ALL_BROKERS_DOWN, KafkaUnreachable),
        (KafkaError._WAIT_COORD, KafkaUnreachable),
        (KafkaError.COORDINATOR_NOT_AVAILABLE, KafkaUnreachable),
        (KafkaError.NOT_LEADER_FOR_PARTITION, KafkaUnreachable),
        (KafkaError.UNKNOWN_TOPIC_OR_PART, TopicMissing),
        (KafkaError.TOPIC_AUTHORIZATION_FAILED, KafkaRefused),
        (KafkaError.GROUP_AUTHORIZATION_FAILED, KafkaRefused),
        (KafkaError._AUTHENTICATION, KafkaRefused),
        (KafkaError.INVALID_CONFIG, KafkaFailed),
        (KafkaError.POLICY_VIOLATION, KafkaFailed),
        (KafkaError._FATAL, KafkaFailed),
    ],
)
def test_what_librdkafka_says_is_told_by_what_it_means(code: int, meant: type[PipelineError]) -> None:
    error = KafkaError(code)
    found = failure("localhost:1", error, what="orders is not read")
    assert type(found) is meant
    assert "orders is not read" in found.message
    assert is_passing(error) == (meant is KafkaUnreachable)
    assert issubclass(meant, TransientError) == (meant is not KafkaFailed)


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("TimeoutException", KafkaUnreachable),
        ("DisconnectException", KafkaUnreachable),
        ("CoordinatorNotAvailableException", KafkaUnreachable),
        ("UnknownTopicOrPartitionException", TopicMissing),
        ("TopicAuthorizationException", KafkaRefused),
        ("SaslAuthenticationException", KafkaRefused),
        ("UnsupportedVersionException", KafkaFailed),
    ],
)
def test_what_java_says_is_told_by_what_it_means(name: str, meant: type[PipelineError]) -> None:
    cause = _thrown(name, None)
    outer = _thrown("ExecutionException", cause)
    found = kafka_topics._meant(Topics(["orders"], "localhost:1", {}), outer)
    assert type(found) is meant
    assert "orders" in found.message


def _thrown(name: str, cause: Any) -> Any:
    return SimpleNamespace(
        getClass=lambda: SimpleNamespace(getSimpleName=lambda: name),
        getMessage=lambda: "as it is",
        getCause=lambda: cause,
    )
