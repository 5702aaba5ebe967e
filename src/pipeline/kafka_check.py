"""Whether the brokers answer and have the topics, asked before Spark starts: Spark itself would take minutes to say no."""

from __future__ import annotations

import difflib
import logging
import socket
from typing import TYPE_CHECKING, Any

from pipeline.errors import KafkaUnreachable, TopicMissing

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["require_connection", "require_topics", "silent_client"]

_SILENT = logging.getLogger("pipeline.librdkafka")
_SILENT.addHandler(logging.NullHandler())
_SILENT.propagate = False


def require_topics(
    bootstrap_servers: str,
    topics: Sequence[str],
    timeout_seconds: float = 10,
    *,
    options: Mapping[str, str] | None = None,
) -> None:
    """Raise KafkaUnreachable if no broker answers within `timeout_seconds`, TopicMissing if one of `topics` is not there.

    `options` are `kafka.*` options as Spark takes them. With a security protocol among them only the connection is
    tried: the Java client's logins cannot be translated for this one.
    """
    protocol = (options or {}).get("kafka.security.protocol", "PLAINTEXT")
    if protocol.upper() != "PLAINTEXT":
        require_connection(bootstrap_servers, timeout_seconds)
        return
    there = _topics(bootstrap_servers, timeout_seconds)
    missing = [topic for topic in topics if topic not in there]
    if missing:
        raise _topic_missing(bootstrap_servers, missing, there)


def silent_client(bootstrap_servers: str) -> dict[str, Any]:
    """Options of a librdkafka client: without a logger and an error callback it writes to the terminal by itself."""
    return {
        "bootstrap.servers": bootstrap_servers,
        "log_level": 0,
        "error_cb": lambda _: None,
        "logger": _SILENT,
    }


def _topics(bootstrap_servers: str, timeout_seconds: float) -> list[str]:
    from confluent_kafka import KafkaException
    from confluent_kafka.admin import AdminClient

    require_connection(
        bootstrap_servers, timeout_seconds
    )  # where nobody listens the client would try until the end
    client = AdminClient(silent_client(bootstrap_servers))
    try:
        return sorted(client.list_topics(timeout=timeout_seconds).topics)
    except KafkaException as error:
        raise _unreachable(bootstrap_servers, error.args[0].str()) from error


def require_connection(bootstrap_servers: str, timeout_seconds: float) -> None:
    """Raise KafkaUnreachable if no broker takes a connection; where nobody listens, that is known at once."""
    addresses = bootstrap_servers.split(",")
    reasons = []
    for address in addresses:
        host, _, port = address.strip().rpartition(":")
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout_seconds / len(addresses)).close()
        except OSError as error:
            reasons.append(f"{address}: {error.strerror or error}")
        else:
            return
    raise _unreachable(bootstrap_servers, "; ".join(reasons))


def _unreachable(bootstrap_servers: str, reason: str) -> KafkaUnreachable:
    return KafkaUnreachable(
        f"No Kafka broker answers at {bootstrap_servers} ({reason}).\n"
        "Start the embedded one with `pipeline up`, or name yours: --set kafka.bootstrap_servers=host:port.",
        bootstrap_servers=bootstrap_servers,
    )


def _topic_missing(bootstrap_servers: str, missing: Sequence[str], there: Sequence[str]) -> TopicMissing:
    alike = [name for topic in missing for name in _alike(topic, there)]
    has = f"It has {', '.join(alike)}, which look alike." if alike else _listed(there)
    return TopicMissing(
        f"Kafka at {bootstrap_servers} has no topic {', '.join(missing)}. {has}\n"
        "Create it (`pipeline up` does so on the embedded broker), or name another: --set kafka.topics.orders=NAME and so on.",
        bootstrap_servers=bootstrap_servers,
        topics=missing,
        alike=alike,
    )


def _alike(topic: str, there: Sequence[str]) -> list[str]:
    by_lower_case = {name.lower(): name for name in there}
    return [by_lower_case[name] for name in difflib.get_close_matches(topic.lower(), by_lower_case, n=3)]


def _listed(there: Sequence[str]) -> str:
    own = [name for name in there if not name.startswith("__")]
    if not own:
        return "It has no topics at all."
    return f"It has {', '.join(own[:10])}{' and more' if len(own) > 10 else ''}."
