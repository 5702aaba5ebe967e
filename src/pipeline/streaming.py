"""What every streaming query shares: its place, the guards before its start, its waiting and its end."""

from __future__ import annotations

import fcntl
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType
from typing import IO

from delta.tables import DeltaTable
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql.streaming.query import StreamingQuery

from pipeline import checkpoints
from pipeline.errors import CheckpointMismatch, PipelineError, RefusedToStart
from pipeline.sinks import Transaction, transactions
from pipeline.tables import checkpoint_path, local_path

__all__ = ["BatchWriter", "QueryFailed", "await_all", "guarded", "start"]

BatchWriter = Callable[[DataFrame, Transaction], None]
"""Writes one micro-batch; must do nothing harmful when it is called again with the same batch."""


_POLL_SECONDS = 0.2


class QueryFailed(PipelineError):
    """A streaming query ended with an error; `query` names it."""

    def __init__(self, message: str, *, query: str) -> None:
        super().__init__(message)
        self.query = query


def start(
    rows: DataFrame,
    *,
    query: str,
    root: str,
    output_mode: str,
    trigger: str,
    once: bool,
    write: BatchWriter,
) -> StreamingQuery:
    """Start the query under its versioned name; `once` drains what is there and ends."""
    checkpoint = checkpoint_path(root, query)

    def write_batch(batch: DataFrame, batch_id: int) -> None:
        generation = batch.sparkSession.sparkContext.getLocalProperty("sql.streaming.queryId") or ""
        write(batch, Transaction(query, generation, batch_id))

    writer = (
        rows.writeStream.queryName(query)
        .outputMode(output_mode)
        .option("checkpointLocation", checkpoint)
        .foreachBatch(write_batch)
    )
    return (
        writer.trigger(availableNow=True).start() if once else writer.trigger(processingTime=trigger).start()
    )


@contextmanager
def guarded(spark: SparkSession, *, query: str, root: str, tables: Sequence[str]) -> Iterator[None]:
    """Hold the query for this process, once its checkpoint and its tables are seen to belong together.

    Raises RefusedToStart when another process runs the query, CheckpointMismatch when a table was not written from the
    query's checkpoint.
    """
    checkpoint = checkpoint_path(root, query)
    with ExitStack() as held:
        folder = local_path(checkpoint)
        if folder is not None:
            held.enter_context(_alone(folder, query))
        for table in tables:
            _check_same_generation(spark, query=query, checkpoint=checkpoint, table=table)
        yield


def await_all(queries: Sequence[StreamingQuery]) -> None:
    """Wait until every query has ended; the first failure stops the others and is raised as QueryFailed.

    SIGTERM and Ctrl-C end all of them after their running batch; a second one ends at once.
    """
    with _stop_requests() as stop:
        while any(query.isActive for query in queries):
            time.sleep(_POLL_SECONDS)
            if any(query.exception() is not None for query in queries):
                break
            if stop.is_set():
                _stop_after_batch(queries)
    failed = next((query for query in queries if query.exception() is not None), None)
    if failed is None:
        return
    for query in queries:
        query.stop()
    error = failed.exception()
    raise QueryFailed(f"query {failed.name} failed: {_cause(str(error))}", query=failed.name) from error


def _stop_after_batch(queries: Sequence[StreamingQuery]) -> None:
    for query in queries:
        while query.isActive and query.status["isTriggerActive"]:
            time.sleep(_POLL_SECONDS / 4)
        query.stop()


@contextmanager
def _stop_requests() -> Iterator[threading.Event]:
    """An event that SIGTERM and SIGINT set once; after that they do what they did before."""
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


@contextmanager
def _alone(checkpoint: Path, query: str) -> Iterator[IO[str]]:
    checkpoint.parent.mkdir(parents=True, exist_ok=True)
    with checkpoint.with_name(f"{query}.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RefusedToStart(
                f"query {query} is already running in another process on this lake ({checkpoint.parent}).\n"
                "Two of them would write every batch twice. Stop the other one first."
            ) from None
        yield lock


def _check_same_generation(spark: SparkSession, *, query: str, checkpoint: str, table: str) -> None:
    generation = checkpoints.generation(spark, checkpoint)
    has_begun = generation is not None and checkpoints.last_committed_batch(spark, checkpoint) is not None
    if not DeltaTable.isDeltaTable(spark, table):
        if not has_begun:
            return
        raise CheckpointMismatch(
            f"the checkpoint of {query} has finished batches, but their table {table} is gone.\n"
            "Going on would leave a hole. Bring the table back, or remove the checkpoint as well to begin anew:\n"
            f"  {checkpoint}",
            query=query,
            table=table,
            checkpoint=checkpoint,
        )
    taken = {name.partition(":")[2] for name in transactions(spark, table) if name.startswith(f"{query}:")}
    if not taken or generation in taken:
        return
    state = "is gone or empty" if generation is None else f"is another one ({generation})"
    raise CheckpointMismatch(
        f"table {table} holds batches of {query} from checkpoint {', '.join(sorted(taken))}, but the checkpoint {state}.\n"
        "Going on would write every record again. Bring the checkpoint back, or remove the table as well to begin anew:\n"
        f"  {checkpoint}",
        query=query,
        table=table,
        checkpoint=checkpoint,
    )


def _cause(trace: str) -> str:
    """What went wrong, without the stacks of Java and Python: the last line that names an exception and says why."""
    told = re.findall(
        r"^(?:Caused by: )?(?:[\w.]+\.)?(\w*(?:Exception|Error): .+)$", trace, flags=re.MULTILINE
    )
    return told[-1] if told else trace.strip().splitlines()[0]
