"""Ending streaming queries between two batches: on a signal, or because another process asks.

Who asks leaves a file beside the checkpoint, `<query>.stop`, and the process that runs the query looks for it. That a
query runs is seen from the lock that its process holds (on other file systems: from `<query>.running`, on S3 a lock as well).
"""

from __future__ import annotations

import fcntl
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

from pyspark.sql import SparkSession
from pyspark.sql.streaming.query import StreamingQuery

from pipeline import files
from pipeline.errors import AlreadyRunning
from pipeline.jvm import java_class
from pipeline.leases import LEASE_SECONDS, Lease, can_lease
from pipeline.tables import checkpoint_path, local_path

__all__ = [
    "Draining",
    "end_if_asked",
    "hold",
    "is_asked_to_stop",
    "let_go",
    "poll_seconds",
    "running_queries",
    "stop_queries",
    "stop_requests",
]

STOP_FILE = "_PIPELINE_STOP_FILE"
"""Environment variable: a local file that asks all queries of this process to stop; spark-submit.sh makes it on a signal."""

_POLL_SECONDS = 0.2
_FAR_POLL_SECONDS = 2.0
_TRIES = 5

_held: dict[str, Callable[[], object]] = {}
"""How to give back what this process holds, by checkpoint."""
_asked: dict[str, Draining] = {}


class Draining:
    """A query that is asked to end between two batches.

    `StreamingQuery.stop()` interrupts what runs. The loop that runs the batches also ends by itself once the query's state
    is "terminated", but a batch that is planned and not yet begun is then interrupted, too. So the state is set at the end
    of a batch's writes (`end_if_asked`), after which Spark marks that batch as done and begins no other; or while the loop
    sleeps. Should it wake in that very moment and find new records, a batch is planned and not begun: the next start runs it.
    """

    def __init__(self, query: StreamingQuery) -> None:
        self.query = query
        _asked.pop(query.name, None)

    @property
    def has_ended(self) -> bool:
        return not self._execution().queryExecutionThread().isAlive()

    def ask(self) -> None:
        _asked[self.query.name] = self
        where = self._stands_in()
        if where & {"sleep", "waitTillTime"}:
            self.terminate()
        if "waitTillTime" in where:  # until the next trigger, which may be far
            self.query.stop()

    def terminate(self) -> None:
        self._execution().state().set(self._terminated())

    def _stands_in(self) -> set[str]:
        """The methods of Spark's loop in which it is now: sleeping between batches it is in few."""
        frames = [frame.getMethodName() for frame in self._execution().queryExecutionThread().getStackTrace()]
        return set() if "runBatch" in frames or "constructNextBatch" in frames else set(frames)

    def _execution(self) -> Any:
        return self.query._jsq.streamingQuery()

    def _terminated(self) -> Any:
        states = "org.apache.spark.sql.execution.streaming.runtime"
        terminated = java_class(SparkSession.builder.getOrCreate(), f"{states}.TERMINATED$")
        return getattr(terminated, "MODULE$")


def end_if_asked(query: str) -> None:
    """To be called by a batch when it has written all: no other batch follows if the query is asked to end."""
    draining = _asked.get(query)
    if draining is not None:
        draining.terminate()


@contextmanager
def stop_requests() -> Iterator[threading.Event]:
    """An event that SIGTERM and SIGINT set once; after that they do what they did before.

    To be entered before a query is started: a signal that meets it between its start and the waiting for it counts too.
    """
    requested = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield requested
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}

    def request(_number: int, _frame: FrameType | None) -> None:
        requested.set()
        for known, handler in before.items():
            signal.signal(known, handler)

    for number in before:
        signal.signal(number, request)
    try:
        yield requested
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def is_asked_to_stop(spark: SparkSession | None, root: str, query: str) -> bool:
    """Whether another process asks the query, or spark-submit.sh this process, to stop."""
    stop_file = os.environ.get(STOP_FILE)
    if stop_file and Path(stop_file).exists():
        return True
    return _exists(spark, _stop_marker(root, query))


def poll_seconds(root: str) -> float:
    return _POLL_SECONDS if local_path(root) is not None else _FAR_POLL_SECONDS


def hold(spark: SparkSession, root: str, query: str) -> None:
    """Take the query for this process, or raise AlreadyRunning. What asked an earlier process to stop is forgotten."""
    folder = local_path(checkpoint_path(root, query))
    if folder is None and can_lease(root):
        give_back = _leased(spark, root, query).give_back
    elif folder is None:
        files.write_text(spark, _running_marker(root, query), f"{os.uname().nodename} {os.getpid()}\n")
        give_back = partial(_remove, spark, _running_marker(root, query))
    else:
        give_back = partial(_locked(folder.with_name(f"{query}.lock"), query).give_back, of=folder)
    _held[checkpoint_path(root, query)] = give_back
    _remove(spark, _stop_marker(root, query))


def let_go(spark: SparkSession, root: str, query: str) -> None:
    """Give the query back, if this process holds it: once it does not, what lies there is another one's."""
    give_back = _held.pop(checkpoint_path(root, query), None)
    if give_back is not None:
        _remove(spark, _stop_marker(root, query))
        give_back()


def _locked(file: Path, query: str) -> files.Lock:
    for _ in range(_TRIES):  # who only looks whether the query runs holds the lock for a moment, too
        with suppress(BlockingIOError):
            return files.lock(file, waits=False)
        time.sleep(_POLL_SECONDS / 2)
    raise _already_running(query, str(file.parent))


def _leased(spark: SparkSession, root: str, query: str) -> Lease:
    lease = Lease(spark, _running_marker(root, query))
    if not lease.take(patience_seconds=LEASE_SECONDS * 1.5):  # who has died is waited for
        raise _already_running(query, f"{root}/_checkpoints")
    return lease


def _already_running(query: str, where: str) -> AlreadyRunning:
    return AlreadyRunning(
        f"query {query} is already running in another process on this lake ({where}).\n"
        f"Two of them would write every batch twice. Stop the other one first: pipeline stop {query}",
        query=query,
    )


def running_queries(root: str, *, spark: SparkSession | None = None) -> list[str]:
    """The queries on this lake that a process runs; a lake that is not local needs the session."""
    checkpoints = f"{root}/_checkpoints"
    folder = local_path(checkpoints)
    if folder is None:
        names = files.names(_needed(spark), checkpoints)
        return [name.removesuffix(".running") for name in names if name.endswith(".running")]
    names = sorted(file.name.removesuffix(".lock") for file in folder.glob("*.lock"))
    return [name for name in names if _is_locked(folder / f"{name}.lock")]


def stop_queries(
    root: str, queries: Sequence[str], *, timeout_seconds: float, spark: SparkSession | None = None
) -> list[str]:
    """Ask the queries to end after their running batch and wait for it; those that still run after the timeout."""
    deadline = time.monotonic() + timeout_seconds
    left = [*queries]
    while left and time.monotonic() < deadline:
        for query in left:
            # Again and again: a process that has just begun removes what was meant for the one before it.
            _make(spark, _stop_marker(root, query))
        time.sleep(poll_seconds(root))
        running = running_queries(root, spark=spark)
        for query in [query for query in left if query not in running]:
            left.remove(query)
            _remove(spark, _stop_marker(root, query))
    return left


def _is_locked(file: Path) -> bool:
    with suppress(FileNotFoundError), file.open("r") as lock:  # it is gone with a query that was refused
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def _stop_marker(root: str, query: str) -> str:
    return f"{checkpoint_path(root, query)}.stop"


def _running_marker(root: str, query: str) -> str:
    return f"{checkpoint_path(root, query)}.running"


def _exists(spark: SparkSession | None, location: str) -> bool:
    file = local_path(location)
    return files.exists(_needed(spark), location) if file is None else file.exists()


def _make(spark: SparkSession | None, location: str) -> None:
    file = local_path(location)
    if file is None:
        files.write_text(_needed(spark), location, "")
    else:
        file.touch()


def _remove(spark: SparkSession | None, location: str) -> None:
    file = local_path(location)
    if file is None:
        files.remove(_needed(spark), location)
    else:
        file.unlink(missing_ok=True)


def _needed(spark: SparkSession | None) -> SparkSession:
    return spark or SparkSession.builder.getOrCreate()
