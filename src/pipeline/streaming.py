"""What every streaming query shares: its place, the guards before its start, its waiting and its end."""

from __future__ import annotations

import fcntl
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType
from typing import IO

from delta.tables import DeltaTable
from pyspark.errors import StreamingQueryException
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql.streaming import StreamingQuery

from pipeline import checkpoints
from pipeline.errors import CheckpointMismatch, PipelineError, RefusedToStart
from pipeline.sinks import Transaction, transactions
from pipeline.tables import checkpoint_path, local_path

__all__ = ["BatchWriter", "QueryFailed", "await_all", "guarded", "start"]

BatchWriter = Callable[[DataFrame, Transaction, checkpoints.MicroBatch], None]
"""Writes one micro-batch; must do nothing harmful when it is called again with the same batch."""


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
        spark = batch.sparkSession
        generation = spark.sparkContext.getLocalProperty("sql.streaming.queryId") or ""
        transaction = Transaction(query, generation, batch_id)
        write(batch, transaction, checkpoints.micro_batch(spark, checkpoint, batch_id))

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
        try:
            while any(query.isActive for query in queries):
                for query in queries:
                    query.awaitTermination(0.2)
                if stop.is_set():
                    _stop_after_batch(queries)
        except StreamingQueryException as error:
            failed = next((query.name for query in queries if query.exception() is not None), "?")
            for query in queries:
                query.stop()
            raise QueryFailed(f"query {failed} failed: {_cause(error)}", query=failed) from error


def _stop_after_batch(queries: Sequence[StreamingQuery]) -> None:
    for query in queries:
        while query.isActive and query.status["isTriggerActive"]:
            query.awaitTermination(0.05)
        query.stop()


@contextmanager
def _stop_requests() -> Iterator[threading.Event]:
    """An event that SIGTERM and SIGINT set once; after that they do what they did before."""
    requested = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield requested
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}

    def request(number: int, frame: FrameType | None) -> None:
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
    with open(checkpoint.with_name(f"{query}.lock"), "w") as lock:
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


def _cause(error: StreamingQueryException) -> str:
    """The last line that says something, without the Java stack."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    told = [line for line in lines if not line.startswith(("at ", "=", "Current ", "JVM", "py4j"))]
    return told[0] if told else str(error)
