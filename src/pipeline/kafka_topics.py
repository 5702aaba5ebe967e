"""What Kafka holds of a topic: its identity, and the first and the next offset of each partition.

Asked by the Java client that Spark brings, so that every login that Spark can do works here as well.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from py4j.protocol import Py4JJavaError  # type: ignore[import-untyped]
from pyspark.sql import SparkSession

from pipeline.errors import KafkaFailed, KafkaRefused, KafkaUnreachable, PipelineError, TopicMissing
from pipeline.jvm import java_class

__all__ = ["Topic", "Topics", "asking", "describe"]

_TIMEOUT_MS = 20_000
_OF_CONNECTIONS = {
    "ConfigException",  # no address of ours can be resolved: the others were checked before
    "ConnectException",
    "DisconnectException",
    "NetworkException",
    "NotControllerException",
    "NotLeaderOrFollowerException",
    "TimeoutException",
    "UnknownHostException",
}


@dataclass(frozen=True)
class Topics:
    """Which topics a query reads, and how their brokers are reached (`options` as Spark takes them)."""

    names: Sequence[str]
    bootstrap_servers: str
    options: Mapping[str, str]


@dataclass(frozen=True)
class Topic:
    """`id` is another one when a topic has been deleted and made anew. `offsets`: half-open range by partition."""

    id: str
    offsets: Mapping[int, tuple[int, int]]


def describe(spark: SparkSession, topics: Topics) -> dict[str, Topic]:
    """Each topic by its name. Raises KafkaUnreachable where the brokers do not answer, TopicMissing, KafkaRefused, KafkaFailed."""
    if not topics.names:
        return {}
    with _client(spark, topics) as admin:
        found = _described(spark, admin, topics)
        ranges = _offsets(spark, admin, found)
        return {name: Topic(_id(description), ranges[name]) for name, description in found.items()}


@contextmanager
def asking(spark: SparkSession, topics: Topics) -> Iterator[Callable[[], dict[str, str]]]:
    """A function that asks for the id of each topic over one connection; it raises as `describe`."""
    with _client(spark, topics) as admin:

        def ids() -> dict[str, str]:
            with _told(topics):
                return {name: _id(one) for name, one in _described(spark, admin, topics).items()}

        yield ids


@contextmanager
def _client(spark: SparkSession, topics: Topics) -> Iterator[Any]:
    with _told(topics):
        admin = java_class(spark, "org.apache.kafka.clients.admin.AdminClient").create(
            _properties(spark, topics)
        )
        try:
            yield admin
        finally:
            admin.close()


def _described(spark: SparkSession, admin: Any, topics: Topics) -> dict[str, Any]:
    wanted = java_class(spark, "java.util.ArrayList")()
    for name in topics.names:
        wanted.add(name)
    described = admin.describeTopics(wanted).allTopicNames().get()
    return {name: described.get(name) for name in topics.names}  # Java's iterators end by an exception


def _id(description: Any) -> str:
    return str(description.topicId().toString())


@contextmanager
def _told(topics: Topics) -> Iterator[None]:
    """What an error of Kafka's Java client means."""
    try:
        yield
    except Py4JJavaError as error:
        raise _meant(topics, error.java_exception) from error


def _meant(topics: Topics, error: Any) -> PipelineError:
    while error.getCause() is not None:
        error = error.getCause()
    name, reason = str(error.getClass().getSimpleName()), str(error.getMessage())
    names, servers = ", ".join(topics.names), topics.bootstrap_servers
    if name in ("UnknownTopicOrPartitionException", "UnknownTopicIdException"):
        return TopicMissing(
            f"Kafka at {servers} has not all of the topics {names}: {reason}\n"
            "Create what is missing, or name another: --set kafka.topics.orders=NAME and so on.",
            bootstrap_servers=servers,
            topics=topics.names,
        )
    if name.endswith(("AuthorizationException", "AuthenticationException")):
        return KafkaRefused(
            f"Kafka at {servers} does not describe {names} to us: {reason}\n"
            "The query must see that these are the topics it has read before; docs/security.md lists the rights of each job.",
            bootstrap_servers=servers,
        )
    if name in _OF_CONNECTIONS or name.endswith("NotAvailableException"):
        return KafkaUnreachable(
            f"Kafka at {servers} does not describe {names}: {reason}\n"
            "The query must see that these are the topics it has read before. Are its brokers up?",
            bootstrap_servers=servers,
        )
    return KafkaFailed(
        f"Kafka at {servers} does not describe {names}: {name}: {reason}\n"
        "It is no connection that is missing, so the same again will not help: what Kafka says is to be mended.",
        name=name,
    )


def _properties(spark: SparkSession, topics: Topics) -> Any:
    properties = java_class(spark, "java.util.Properties")()
    given = {
        key.removeprefix("kafka."): value for key, value in topics.options.items() if key.startswith("kafka.")
    }
    limits = {"default.api.timeout.ms": str(_TIMEOUT_MS), "request.timeout.ms": str(_TIMEOUT_MS // 2)}
    for key, value in {**limits, **given, "bootstrap.servers": topics.bootstrap_servers}.items():
        properties.setProperty(key, str(value))
    return properties


def _offsets(
    spark: SparkSession, admin: Any, found: Mapping[str, Any]
) -> dict[str, dict[int, tuple[int, int]]]:
    specification = java_class(spark, "org.apache.kafka.clients.admin.OffsetSpec")
    topic_partition = java_class(spark, "org.apache.kafka.common.TopicPartition")
    partitions = [
        (name, int(part.partition())) for name, topic in found.items() for part in topic.partitions()
    ]

    def ask(which: Any) -> dict[tuple[str, int], int]:
        wanted = java_class(spark, "java.util.HashMap")()
        keys = {(name, number): topic_partition(name, number) for name, number in partitions}
        for key in keys.values():
            wanted.put(key, which)
        answer = admin.listOffsets(wanted)
        return {place: int(answer.partitionResult(key).get().offset()) for place, key in keys.items()}

    first, end = ask(specification.earliest()), ask(specification.latest())
    ranges: dict[str, dict[int, tuple[int, int]]] = {name: {} for name in found}
    for name, number in partitions:
        ranges[name][number] = (first[name, number], end[name, number])
    return ranges
