"""Whether the brokers answer, let us in and have the topics, asked before Spark starts: Spark itself would take minutes to say no."""

from __future__ import annotations

import difflib
import logging
import re
import socket
import ssl
import time
from typing import TYPE_CHECKING, Any

from pipeline.errors import (
    ConfigurationError,
    KafkaFailed,
    KafkaRefused,
    KafkaUnreachable,
    PipelineError,
    TopicMissing,
)
from pipeline.kafka_login import client_options, has_login, is_translatable, protocol_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from confluent_kafka import KafkaError
    from confluent_kafka.admin import AdminClient

__all__ = [
    "admin_client",
    "failure",
    "is_passing",
    "known_topics",
    "require_connection",
    "require_topics",
    "silent_client",
    "topic_ids",
]

_SILENT = logging.getLogger("pipeline.librdkafka")
_SILENT.addHandler(logging.NullHandler())
_SILENT.propagate = False

_FIRST_ATTEMPT_SECONDS = 1.0
_PATIENCE_SECONDS = 3.0
"""How long another broker may take to let us in where one has refused to."""
_SHAKE_SECONDS = 3.0
_PASSING = {
    "_ALL_BROKERS_DOWN",
    "_MSG_TIMED_OUT",
    "_RESOLVE",
    "_TIMED_OUT",
    "_TIMED_OUT_QUEUE",
    "_TRANSPORT",
    "_WAIT_CACHE",
    "_WAIT_COORD",
    "BROKER_NOT_AVAILABLE",
    "COORDINATOR_LOAD_IN_PROGRESS",
    "COORDINATOR_NOT_AVAILABLE",
    "FENCED_LEADER_EPOCH",
    "KAFKA_STORAGE_ERROR",
    "LEADER_NOT_AVAILABLE",
    "NETWORK_EXCEPTION",
    "NOT_CONTROLLER",
    "NOT_COORDINATOR",
    "NOT_ENOUGH_REPLICAS",
    "NOT_ENOUGH_REPLICAS_AFTER_APPEND",
    "NOT_LEADER_FOR_PARTITION",
    "OFFSET_NOT_AVAILABLE",
    "REPLICA_NOT_AVAILABLE",
    "REQUEST_TIMED_OUT",
    "THROTTLING_QUOTA_EXCEEDED",
    "UNKNOWN_LEADER_EPOCH",
    "UNSTABLE_OFFSET_COMMIT",
}
"""What is said while a broker is away, begins, or hands its part to another one."""
_NO_TOPIC = {"_UNKNOWN_PARTITION", "_UNKNOWN_TOPIC", "UNKNOWN_TOPIC_ID", "UNKNOWN_TOPIC_OR_PART"}
_NOT_LET_IN = {"_AUTHENTICATION", "_SSL", "SASL_AUTHENTICATION_FAILED", "SECURITY_DISABLED"}


def require_topics(
    bootstrap_servers: str,
    topics: Sequence[str],
    timeout_seconds: float = 10,
    *,
    options: Mapping[str, Any] | None = None,
    written: Sequence[str] = (),
) -> None:
    """That the topics are there, to be read but for those that are `written`.

    Raises KafkaUnreachable if no broker answers within `timeout_seconds`, KafkaRefused if none lets us in or what we are to do is
    not our right, TopicMissing. `options` are `kafka.*` options as Spark takes them. With a login that only Java's client has, just the connection is tried.
    """
    given = options or {}
    if not is_translatable(given):
        require_connection(bootstrap_servers, timeout_seconds)
        return
    there = sorted(known_topics(bootstrap_servers, timeout_seconds, options=given))
    missing = [topic for topic in topics if topic not in there]
    if missing:
        raise _topic_missing(bootstrap_servers, missing, there, may_be_hidden=has_login(given))
    if has_login(given):
        _require_rights(bootstrap_servers, topics, given, timeout_seconds, written=written)


def silent_client(bootstrap_servers: str, options: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Options of a librdkafka client: without a logger and an error callback it writes to the terminal by itself.

    Of `options` those named `kafka.…` are as Spark takes them, the others librdkafka's. Raises ConfigurationError.
    """
    return {
        "bootstrap.servers": bootstrap_servers,
        "log_level": 0,
        "error_cb": lambda _: None,
        "logger": _SILENT,
        **client_options(options or {}),
    }


def admin_client(
    bootstrap_servers: str, options: Mapping[str, Any] | None = None, **more: Any
) -> AdminClient:
    """Raises ConfigurationError where a key or a certificate cannot be used."""
    from confluent_kafka import KafkaException
    from confluent_kafka.admin import AdminClient

    try:
        return AdminClient({**silent_client(bootstrap_servers, options), **more})
    except KafkaException as error:
        raise ConfigurationError(
            f"kafka.options cannot be used: {error.args[0].str()}.", key="kafka.options"
        ) from None


def known_topics(
    bootstrap_servers: str, timeout_seconds: float = 10, *, options: Mapping[str, Any] | None = None
) -> Mapping[str, Any]:
    """The topics that we may see, by name. Raises KafkaUnreachable, and KafkaRefused where a broker does not let us in."""
    from confluent_kafka import KafkaException

    require_connection(
        bootstrap_servers, timeout_seconds
    )  # where nobody listens the client would try until the end
    options = options or {}
    told: list[KafkaError] = []
    client = admin_client(bootstrap_servers, options, error_cb=told.append)
    deadline, patience, is_deaf = time.monotonic() + timeout_seconds, None, None
    attempt_seconds = _FIRST_ATTEMPT_SECONDS
    while True:
        left = max(0.1, deadline - time.monotonic())
        try:
            return client.list_topics(timeout=min(left, attempt_seconds)).topics
        except KafkaException as error:
            client.poll(0)
            attempt_seconds *= 2  # a broker with much to do answers late
            if is_deaf is None:
                asked_at = time.monotonic()
                is_deaf = _is_deaf_to_plain_text(bootstrap_servers, options)
                deadline += time.monotonic() - asked_at
            if patience is None and (_is_refusal(told) or is_deaf):
                patience = time.monotonic() + (_PATIENCE_SECONDS if "," in bootstrap_servers else 0)
            if time.monotonic() > min(deadline, patience or deadline):
                why = _refusal(bootstrap_servers, told, options)
                if why is not None:
                    raise _refused(bootstrap_servers, why) from None
                if not is_passing(error.args[0]):
                    raise failure(
                        bootstrap_servers, error.args[0], what="its topics are not listed"
                    ) from error
                raise _unreachable(bootstrap_servers, error.args[0].str()) from error


def _require_rights(
    bootstrap_servers: str,
    topics: Sequence[str],
    options: Mapping[str, Any],
    timeout_seconds: float,
    *,
    written: Sequence[str],
) -> None:
    """Who may describe a topic is told what else he may do with it."""
    from confluent_kafka import KafkaException, TopicCollection
    from confluent_kafka.admin import AclOperation  # type: ignore[attr-defined]

    client = admin_client(bootstrap_servers, options)  # it takes its answers with it when it goes
    answers = client.describe_topics(
        TopicCollection([*topics]), include_authorized_operations=True, request_timeout=timeout_seconds
    )
    for topic, answer in answers.items():
        needed = AclOperation.WRITE if topic in written else AclOperation.READ
        try:
            rights = answer.result().authorized_operations
        except KafkaException as error:
            raise failure(
                bootstrap_servers, error.args[0], what=f"our rights on {topic} are not told"
            ) from error
        if rights and needed not in rights:  # a broker without an authorizer may tell of none
            raise KafkaRefused(
                f"Our user may not {needed.name.lower()} the topic {topic} of Kafka at {bootstrap_servers}.\n"
                f"Grant it {needed.name} on that topic; docs/security.md lists the rights that each job needs.",
                bootstrap_servers=bootstrap_servers,
            )


def topic_ids(client: AdminClient, topics: Iterable[str], timeout_seconds: float = 10) -> dict[str, str]:
    """The id of each topic, as Java writes it: another one when the topic has been made anew. None of one that is not there.

    Raises confluent_kafka.KafkaException.
    """
    from confluent_kafka import KafkaException, TopicCollection

    found = {}
    asked = client.describe_topics(TopicCollection([*topics]), request_timeout=timeout_seconds)
    for name, answer in asked.items():
        try:
            found[name] = str(answer.result().topic_id).replace("+", "-").replace("/", "_")
        except KafkaException as error:
            if error.args[0].name() not in _NO_TOPIC:
                raise
    return found


# --- what an error of librdkafka means


def is_passing(error: KafkaError) -> bool:
    """Whether the same may be done again as it is: a broker is away, or hands its part to another one."""
    return error.name() in _PASSING


def failure(bootstrap_servers: str, error: KafkaError, *, what: str) -> PipelineError:
    """The error of ours that it means, for `what` has not been done: KafkaUnreachable is for connections alone."""
    name, told = error.name(), error.str()
    if is_passing(error):
        return KafkaUnreachable(
            f"Kafka at {bootstrap_servers} does not answer as it should: {what} ({told}).\n"
            "Are its brokers up? The same may be done again as it is.",
            bootstrap_servers=bootstrap_servers,
        )
    if name in _NO_TOPIC:
        return TopicMissing(
            f"Kafka at {bootstrap_servers} has no such topic or partition: {what} ({told}).\n"
            "Was it deleted? Create it, or name another: --set kafka.topics.orders=NAME and so on.",
            bootstrap_servers=bootstrap_servers,
            topics=(),
        )
    if name in _NOT_LET_IN or name.endswith("AUTHORIZATION_FAILED"):
        return KafkaRefused(
            f"Kafka at {bootstrap_servers} does not let us do that: {what} ({told}).\n"
            "docs/security.md shows how to log in, and lists the rights that each job needs.",
            bootstrap_servers=bootstrap_servers,
        )
    return KafkaFailed(
        f"Kafka at {bootstrap_servers} answers with an error: {what} ({name}: {told}).\n"
        "It is no connection that is missing, so the same again will not help: what Kafka says is to be mended.",
        name=name,
    )


def require_connection(bootstrap_servers: str, timeout_seconds: float) -> None:
    """Raise KafkaUnreachable if no broker takes a connection; where nobody listens, that is known at once."""
    addresses = bootstrap_servers.split(",")
    reasons = []
    for address in addresses:
        try:
            socket.create_connection(_place(address), timeout_seconds / len(addresses)).close()
        except OSError as error:
            reasons.append(f"{address}: {error.strerror or error}")
        else:
            return
    raise _unreachable(bootstrap_servers, "; ".join(reasons))


# --- why a broker that answers does not let us in


def _is_refusal(told: Iterable[KafkaError]) -> bool:
    from confluent_kafka import KafkaError

    return any(
        one.code() in {KafkaError._AUTHENTICATION, KafkaError._SSL} or "SSL" in one.str() for one in told
    )


def _refusal(bootstrap_servers: str, told: Sequence[KafkaError], options: Mapping[str, Any]) -> str | None:
    from confluent_kafka import KafkaError

    words = " ".join(one.str() for one in told)
    if any(one.code() == KafkaError._AUTHENTICATION for one in told):
        reason = next(one.str() for one in told if one.code() == KafkaError._AUTHENTICATION)
        return f"the login is wrong ({_bare(reason)})"
    if "certificate verify failed" in words:
        return _wrong_certificate(bootstrap_servers, options)
    if "alert" in words and "certificate" in words:
        return "it does not accept our certificate (kafka.ssl.keystore.…), or wants one and there is none"
    if "PLAINTEXT broker listener" in words:
        return f"it does not speak TLS there, and kafka.security.protocol is {protocol_of(options)}"
    if _is_deaf_to_plain_text(bootstrap_servers, options):
        return f"it speaks only TLS there, and kafka.security.protocol is {protocol_of(options)}: plain text is not taken"
    return next((_bare(one.str()) for one in told if "SSL" in one.str()), None)


def _is_deaf_to_plain_text(bootstrap_servers: str, options: Mapping[str, Any]) -> bool:
    return not protocol_of(options).endswith("SSL") and any(map(_speaks_tls, bootstrap_servers.split(",")))


def _bare(reason: str) -> str:
    """The reason without the address before it and the time after it."""
    return re.sub(r"^\w+://\S+: (SASL authentication error: )?|\s*\(after .*\)$", "", reason)


def _wrong_certificate(bootstrap_servers: str, options: Mapping[str, Any]) -> str:
    """What is wrong with it: librdkafka does not tell, so another hand is shaken."""
    login = client_options(options)
    context = ssl.create_default_context(cafile=login.get("ssl.ca.location"), cadata=login.get("ssl.ca.pem"))
    context.check_hostname = login.get("ssl.endpoint.identification.algorithm") != "none"
    for address in bootstrap_servers.split(","):
        try:
            _shake(address, context)
        except ssl.SSLCertVerificationError as error:
            return f"the certificate of {address} is not to be trusted: {error.verify_message.rstrip('.')}"
        except OSError:
            continue
    return "its certificate is not to be trusted"


def _speaks_tls(address: str) -> bool:
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = (
        False,
        ssl.CERT_NONE,
    )  # nothing is sent: it only counts that it answers
    try:
        _shake(address, context)
    except OSError:
        return False
    return True


def _shake(address: str, context: ssl.SSLContext) -> None:
    host, port = _place(address)
    with (
        socket.create_connection((host, port), _SHAKE_SECONDS) as plain,
        context.wrap_socket(plain, server_hostname=host),
    ):
        pass


def _place(address: str) -> tuple[str, int]:
    host, _, port = address.strip().rpartition(":")
    return host.strip("[]"), int(port)


def _refused(bootstrap_servers: str, why: str) -> KafkaRefused:
    return KafkaRefused(
        f"Kafka at {bootstrap_servers} does not let us in: {why}.\n"
        "How we log in and whom we trust stands in kafka.options; docs/security.md shows how.",
        bootstrap_servers=bootstrap_servers,
    )


def _unreachable(bootstrap_servers: str, reason: str) -> KafkaUnreachable:
    return KafkaUnreachable(
        f"No Kafka broker answers at {bootstrap_servers} ({reason}).\n"
        "Start the embedded one with `pipeline up`, or name yours: --set kafka.bootstrap_servers=host:port.",
        bootstrap_servers=bootstrap_servers,
    )


def _topic_missing(
    bootstrap_servers: str, missing: Sequence[str], there: Sequence[str], *, may_be_hidden: bool
) -> TopicMissing:
    alike = [name for topic in missing for name in _alike(topic, there)]
    has = f"It has {', '.join(alike)}, which look alike." if alike else _listed(there)
    hidden = " Or our user may not describe it: docs/security.md lists the rights." if may_be_hidden else ""
    return TopicMissing(
        f"Kafka at {bootstrap_servers} has no topic {', '.join(missing)}. {has}{hidden}\n"
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
