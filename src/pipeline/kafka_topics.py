"""What Kafka holds of a topic: its identity, and the first and the next offset of each partition.

Asked by the Java client that Spark brings, so that every login that Spark can do works here as well.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from py4j.protocol import Py4JJavaError  # type: ignore[import-untyped]
from pyspark.sql import SparkSession

from pipeline.errors import KafkaUnreachable
from pipeline.jvm import java_class

__all__ = ["Topic", "Topics", "describe"]

_TIMEOUT_MS = 20_000


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
    """Each topic by its name. Raises KafkaUnreachable where the brokers do not tell."""
    if not topics.names:
        return {}
    admin = java_class(spark, "org.apache.kafka.clients.admin.AdminClient").create(_properties(spark, topics))
    try:
        wanted = java_class(spark, "java.util.ArrayList")()
        for name in topics.names:
            wanted.add(name)
        found = dict(admin.describeTopics(wanted).allTopicNames().get())
        ranges = _offsets(spark, admin, found)
        return {
            name: Topic(str(description.topicId().toString()), ranges[name])
            for name, description in found.items()
        }
    except Py4JJavaError as error:
        reason = str(error.java_exception.getMessage())
        raise KafkaUnreachable(
            f"Kafka at {topics.bootstrap_servers} does not describe {', '.join(topics.names)}: {reason}.\n"
            "The query must see that these are the topics it has read before. May its user describe them?",
            bootstrap_servers=topics.bootstrap_servers,
        ) from error
    finally:
        admin.close()


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
