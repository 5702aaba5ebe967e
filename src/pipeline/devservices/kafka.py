"""One real Kafka broker for development and tests: KRaft, a Java process of its own, on loopback only.

A broker lives in a folder, its home: settings, data, log, and who is running. Topics made here keep records of any
age and any time stamp, because generated events carry times of the past and, on purpose, of the future.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from pipeline.devservices.ports import HOST, claim_port
from pipeline.errors import KafkaUnreachable, SetupError
from pipeline.jars import broker_jars
from pipeline.java import require_java
from pipeline.kafka_check import failure

__all__ = ["Broker", "broker", "create_topics", "delete_topics", "running", "start", "stop"]

START_TIMEOUT_SECONDS = 60.0
STOP_TIMEOUT_SECONDS = 30.0
ADMIN_TIMEOUT_SECONDS = 10.0
MAX_MESSAGE_BYTES = (
    4 * 1024 * 1024
)  # records beyond the contract's 1 MiB must get in, to be seen as too large
_FOREVER = 2**63 - 1

_TOPIC_CONFIG = {
    "retention.ms": "-1",
    "message.timestamp.before.max.ms": str(_FOREVER),
    "message.timestamp.after.max.ms": str(_FOREVER),
    "max.message.bytes": str(MAX_MESSAGE_BYTES),
}

_PROPERTIES = """\
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@{host}:{controller_port}
listeners=PLAINTEXT://{host}:{port},CONTROLLER://{host}:{controller_port}
advertised.listeners=PLAINTEXT://{host}:{port}
controller.listener.names=CONTROLLER
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT
log.dirs={data}
auto.create.topics.enable=false
num.partitions=1
log.retention.ms=-1
log.message.timestamp.before.max.ms={forever}
log.message.timestamp.after.max.ms={forever}
message.max.bytes={max_message_bytes}
replica.fetch.max.bytes={max_message_bytes}
offsets.topic.replication.factor=1
offsets.topic.num.partitions=4
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=4
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
share.coordinator.state.topic.num.partitions=1
group.initial.rebalance.delay.ms=0
"""

# C1 and the serial collector: on few cores the broker is up sooner and leaves more of them to Spark.
_JAVA_OPTIONS = (
    *("-Xms128m", "-Xmx512m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-XX:+ExitOnOutOfMemoryError"),
    *("-Dorg.slf4j.simpleLogger.defaultLogLevel=warn", "-Dorg.slf4j.simpleLogger.showDateTime=true"),
)

_IN_BETWEEN = """
import subprocess, sys
with open(sys.argv[1], "wb") as log:
    started = subprocess.Popen(sys.argv[2:], stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT)
print(started.pid)
"""


@dataclass(frozen=True)
class Broker:
    """A broker that runs: where it answers, its process, and the folder it lives in."""

    bootstrap_servers: str
    pid: int
    home: Path


def start(home: Path, port: int, *, properties: Mapping[str, str] | None = None) -> Broker:
    """The broker of this home, started unless it runs already (then on the port it has); port 0 takes a free one.

    `properties` are settings of the broker, in addition to ours or in their place.

    Raises SetupError where the port is taken, Java or a jar is missing, or the broker does not come up.
    """
    home = home.expanduser().resolve()
    found = running(home)
    if found is not None:
        return found
    port = claim_port(port, service="Kafka")
    cluster_id = _write_properties(home, port, properties or {})
    pid = _launch(home)
    started = Broker(bootstrap_servers=f"{HOST}:{port}", pid=pid, home=home)
    _state_file(home).write_text(json.dumps({**asdict(started), "home": str(home)}))
    try:
        _wait_until_it_answers(started, cluster_id)
    except BaseException:  # also Ctrl-C: nothing half started stays behind
        stop(home)
        raise
    return started


def stop(home: Path) -> bool:
    """Whether there was a broker to stop; its data stays. One that does not end within 30 s is killed."""
    home = home.expanduser().resolve()
    found = running(home)
    if found is None:
        return False
    for how in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError):
            os.kill(found.pid, how)
        if _holds_within(lambda: not _is_alive(found), seconds=STOP_TIMEOUT_SECONDS):
            break
    _state_file(home).unlink(missing_ok=True)
    return True


def running(home: Path) -> Broker | None:
    """The broker of this home, if its process lives; what a dead one left behind is removed."""
    home = home.expanduser().resolve()
    try:
        written = json.loads(_state_file(home).read_text())
        found = Broker(written["bootstrap_servers"], int(written["pid"]), home)
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError):  # written halfway when the machine went down
        found = None
    if found is not None and _is_alive(found):
        return found
    _state_file(home).unlink(missing_ok=True)
    return None


@contextmanager
def broker(home: Path, port: int = 0, *, properties: Mapping[str, str] | None = None) -> Iterator[Broker]:
    """A broker for as long as the block runs, on a free port unless one is named."""
    started = start(home, port, properties=properties)
    try:
        yield started
    finally:
        stop(home)


def create_topics(
    bootstrap: str, topics: Mapping[str, int], *, login: Mapping[str, Any] | None = None
) -> None:
    """Make the topics, name to number of partitions, that are not there yet; those that are stay as they are.

    `login` is librdkafka's.
    """
    admin = _admin(bootstrap, login)
    known = _topic_names(admin, bootstrap)
    missing = [
        NewTopic(name, num_partitions=partitions, replication_factor=1, config=_TOPIC_CONFIG)
        for name, partitions in topics.items()
        if name not in known
    ]
    if missing:
        _settle(admin.create_topics(missing), bootstrap, ignoring=KafkaError.TOPIC_ALREADY_EXISTS)
        _holds_within(lambda: topics.keys() <= _topic_names(admin, bootstrap), seconds=ADMIN_TIMEOUT_SECONDS)


def delete_topics(bootstrap: str, topics: Iterable[str]) -> None:
    """Remove the topics that are there, with all their records."""
    admin = _admin(bootstrap)
    doomed = sorted(set(topics) & _topic_names(admin, bootstrap))
    if doomed:
        _settle(admin.delete_topics(doomed), bootstrap, ignoring=KafkaError.UNKNOWN_TOPIC_OR_PART)
        _holds_within(lambda: not set(doomed) & _topic_names(admin, bootstrap), seconds=ADMIN_TIMEOUT_SECONDS)


def _admin(bootstrap: str, login: Mapping[str, Any] | None = None) -> AdminClient:
    return AdminClient(
        {"bootstrap.servers": bootstrap, "log_level": 0, "reconnect.backoff.max.ms": 500, **(login or {})}
    )


def _topic_names(admin: AdminClient, bootstrap: str) -> set[str]:
    try:
        return set(admin.list_topics(timeout=ADMIN_TIMEOUT_SECONDS).topics)
    except KafkaException as error:
        raise KafkaUnreachable(
            f"Kafka does not answer at {bootstrap}: {error.args[0].str()}. Is it running (`pipeline up` starts one on this "
            "machine), and is kafka.bootstrap_servers right?",
            bootstrap_servers=bootstrap,
        ) from error


def _settle(futures: Mapping[str, object], bootstrap: str, *, ignoring: int) -> None:
    for name, future in futures.items():
        try:
            future.result(timeout=ADMIN_TIMEOUT_SECONDS)  # type: ignore[attr-defined]
        except KafkaException as error:
            if error.args[0].code() != ignoring:
                raise failure(bootstrap, error.args[0], what=f"the topic {name} is not changed") from error


def _state_file(home: Path) -> Path:
    return home / "broker.json"


def _log_file(home: Path) -> Path:
    return home / "broker.log"


def _write_properties(home: Path, port: int, more: Mapping[str, str]) -> str:
    """The cluster's id; the settings are written anew at each start, the data folder is formatted once."""
    home.mkdir(parents=True, exist_ok=True)
    properties, data = home / "server.properties", home / "data"
    properties.write_text(
        _PROPERTIES.format(
            host=HOST,
            port=port,
            controller_port=claim_port(0, service="Kafka"),
            data=data,
            forever=_FOREVER,
            max_message_bytes=MAX_MESSAGE_BYTES,
        )
        + "".join(f"{name}={value}\n" for name, value in more.items())  # of two lines the last counts
    )
    cluster_id_file = home / "cluster.id"
    if not (data / "meta.properties").exists():
        cluster_id_file.write_text(uuid4().hex[:22])
        _format(home, cluster_id_file.read_text())
    return cluster_id_file.read_text()


def _format(home: Path, cluster_id: str) -> None:
    tool = [
        *_java(),
        "kafka.tools.StorageTool",
        "format",
        "-t",
        cluster_id,
        "-c",
        str(home / "server.properties"),
    ]
    ran = subprocess.run(tool, capture_output=True, text=True, check=False)
    if ran.returncode:
        raise SetupError(
            f"The embedded Kafka cannot format {home / 'data'}: {(ran.stderr or ran.stdout).strip()}"
        )


def _java() -> list[str]:
    class_path = os.pathsep.join(map(str, broker_jars()))
    return [str(require_java()), *_JAVA_OPTIONS, "-cp", class_path]


def _launch(home: Path) -> int:
    """The process id. The Python in between ends at once, so the broker is no child of ours and outlives us."""
    command = [*_java(), "kafka.Kafka", str(home / "server.properties")]
    between = subprocess.run(
        [sys.executable, "-I", "-c", _IN_BETWEEN, str(_log_file(home)), *command],
        cwd=home,
        capture_output=True,
        text=True,
        check=True,
        start_new_session=True,
    )
    return int(between.stdout)


def _wait_until_it_answers(started: Broker, cluster_id: str) -> None:
    admin = _admin(started.bootstrap_servers)

    def answers() -> bool:
        if not _is_alive(started):
            raise _did_not_start(started.home, "ended at once")
        try:
            cluster = admin.list_topics(timeout=1)
        except KafkaException:
            return False
        return bool(cluster.brokers) and cluster.cluster_id == cluster_id

    if not _holds_within(answers, seconds=START_TIMEOUT_SECONDS):
        raise _did_not_start(started.home, f"does not answer after {START_TIMEOUT_SECONDS:.0f} s")


def _did_not_start(home: Path, what: str) -> SetupError:
    tail = _log_file(home).read_text(errors="replace").splitlines()[-15:]
    return SetupError(f"The embedded Kafka {what}; the end of {_log_file(home)}:\n" + "\n".join(tail))


def _is_alive(found: Broker) -> bool:
    """Whether the process lives and is this broker: after a reboot the number may be somebody else's."""
    try:
        os.kill(found.pid, 0)
    except (ProcessLookupError, PermissionError):
        return False
    command = Path(f"/proc/{found.pid}/cmdline")
    if not command.parent.parent.joinpath("self").exists():  # not Linux: believe the number
        return True
    with suppress(OSError):
        return str(found.home / "server.properties") in command.read_bytes().decode(errors="replace")
    return False


def _holds_within(condition: Callable[[], bool], *, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True
