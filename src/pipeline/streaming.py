"""What every streaming query shares: its start behind the guards, its waiting, and its end."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql.streaming.query import StreamingQuery

from pipeline import guards
from pipeline.errors import (
    DependencyError,
    DiskFull,
    KafkaFailed,
    PipelineError,
    RefusedToStart,
    UnreadableRecord,
)
from pipeline.kafka_topics import Topics
from pipeline.observe import Observer, observing
from pipeline.sinks import Transaction
from pipeline.state_stores import forget_unfinished, keeping_state_in
from pipeline.stopping import Draining, end_if_asked, hold, is_asked_to_stop, let_go, poll_seconds
from pipeline.tables import checkpoint_path

__all__ = ["BatchWriter", "QueryFailed", "await_all", "end_all", "guarded", "start"]

BatchWriter = Callable[[DataFrame, Transaction], None]
"""Writes one micro-batch; must do nothing harmful when it is called again with the same batch."""

_refusals: dict[str, PipelineError] = {}
"""What a batch of a query, by its name, has refused: Spark hands it on as text only."""


@dataclass(frozen=True)
class _Guard:
    """`in_batch` is asked before and after a batch writes, `after_failure` why Spark has failed; both raise what they refuse."""

    in_batch: Callable[[], None]
    after_failure: Callable[[], object]


_guards: dict[str, _Guard] = {}
"""Of the queries that this process holds and that read Kafka, by name."""


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
    tables: Sequence[str],
    output_mode: str,
    trigger: str,
    once: bool,
    write: BatchWriter,
    keys: Sequence[str] = (),
    state_partitions: int | None = None,
    join_state: str = "rocksdb",
    min_free_mebibytes: int = 0,
) -> StreamingQuery:
    """Start the query under its versioned name; `once` drains what is there and ends.

    `tables` are those that `write` writes, `keys` tell their rows apart. Raises PlanChanged,
    CheckpointDamaged, DiskFull.
    """
    spark, checkpoint = rows.sparkSession, checkpoint_path(root, query)
    guards.require_space(root, query=query, min_free_mebibytes=min_free_mebibytes)
    store = guards.check_plan(
        rows,
        query=query,
        checkpoint=checkpoint,
        output_mode=output_mode,
        keys=keys,
        state_partitions=state_partitions,
        join_state=join_state,
    )
    note = guards.table_notes(spark, query=query, checkpoint=checkpoint, root=root, tables=tables)
    forget_unfinished(checkpoint)
    _refusals.pop(query, None)
    newest_by_table: dict[str, int] = {}

    def write_batch(batch: DataFrame, batch_id: int) -> None:
        generation = batch.sparkSession.sparkContext.getLocalProperty("sql.streaming.queryId") or ""
        try:
            guards.require_space(root, query=query, min_free_mebibytes=min_free_mebibytes)
            guard = _guards.get(query)
            if guard is not None:
                guard.in_batch()
            write(batch, Transaction(query, generation, batch_id, newest_by_table))
            if guard is not None:
                guard.in_batch()
            note()
            end_if_asked(query)
        except PipelineError as refusal:
            _refusals[query] = refusal
            raise

    writer = (
        rows.writeStream.queryName(query)
        .outputMode(output_mode)
        .option("checkpointLocation", checkpoint)
        .foreachBatch(write_batch)
    )
    triggered = writer.trigger(availableNow=True) if once else writer.trigger(processingTime=trigger)
    with keeping_state_in(spark, store):
        return triggered.start()


@contextmanager
def guarded(
    spark: SparkSession, *, query: str, root: str, tables: Sequence[str], topics: Topics | None = None
) -> Iterator[None]:
    """Hold the query for this process, once its checkpoint is seen to belong to its tables and topics.

    Raises AlreadyRunning, CheckpointMismatch, CheckpointDamaged, TopicReplaced, OffsetsLost, PlanChanged.
    """
    checkpoint = checkpoint_path(root, query)
    hold(spark, root, query)
    try:
        guards.check_tables(spark, query=query, checkpoint=checkpoint, root=root, tables=tables)
        with ExitStack() as looking:
            if topics is not None:
                look = partial(
                    guards.compared_sources, spark, query=query, checkpoint=checkpoint, topics=topics
                )
                # Before the check, so that no topic is made anew between what it sees and what is known.
                same = looking.enter_context(
                    guards.same_topics(spark, query=query, checkpoint=checkpoint, topics=topics)
                )
                guards.check_sources(spark, query=query, checkpoint=checkpoint, topics=topics)
                _guards[query] = _Guard(same, look)
            yield
    finally:
        _guards.pop(query, None)
        let_go(spark, root, query)


def await_all(
    queries: Sequence[StreamingQuery],
    *,
    root: str,
    stop: threading.Event,
    observer: Observer,
    at_end: Callable[[str], object] | None = None,
    meanwhile: Callable[[Sequence[str]], object] | None = None,
) -> None:
    """Wait until every query has ended, of itself or because it was asked to; `at_end` is told the name of each.

    `meanwhile` is called again and again with the names of those that this process still holds; what it raises ends them, too.

    `observer` is told of their batches. `stop` ends all of them after their running batch, `pipeline stop` those it names. The
    first failure ends the others in the same way and is raised: as what a batch refused, else as UnreadableRecord, DiskFull
    or QueryFailed.
    """
    spark = SparkSession.builder.getOrCreate()
    left = [Draining(query) for query in queries]
    failed: StreamingQuery | None = None
    with observing(observer, spark), _ended_on_error(queries):
        while left:
            time.sleep(poll_seconds(root))
            observer.keep()
            if meanwhile is not None and not failed:
                meanwhile([running.query.name for running in left])
            for running in [*left]:
                if running.has_ended:
                    left.remove(running)
                    if running.query.exception() is not None:
                        failed = failed or running.query
                    elif at_end is not None:
                        at_end(running.query.name)
                    let_go(spark, root, running.query.name)
                elif failed or stop.is_set() or is_asked_to_stop(spark, root, running.query.name):
                    running.ask()
    if failed is not None:
        raise _failure(failed, root)


@contextmanager
def _ended_on_error(queries: Sequence[StreamingQuery]) -> Iterator[None]:
    try:
        yield
    except Exception:
        end_all(queries)
        raise


def end_all(queries: Sequence[StreamingQuery]) -> None:
    """End the queries after their running batch."""
    left = [Draining(query) for query in queries]
    while left:
        for running in left:
            running.ask()
        time.sleep(poll_seconds(""))
        left = [running for running in left if not running.has_ended]


def _failure(query: StreamingQuery, root: str) -> PipelineError:
    error = query.exception()
    refusal = _refusals.pop(query.name, None)
    if refusal is not None:
        return refusal
    trace = str(error)
    named = (
        _unreadable_record(query.name, trace)
        or _disk_full(query.name, trace, root)
        or _refused_since(query.name)
    )
    failure = named or QueryFailed(f"query {query.name} failed: {_cause(trace)}", query=query.name)
    failure.__cause__ = error
    return failure


def _refused_since(query: str) -> PipelineError | None:
    """What a start would refuse now: Spark says of a topic that is another one, or has forgotten records, what each reader saw."""
    try:
        if query in _guards:
            _guards[query].after_failure()
    except (RefusedToStart, DependencyError, KafkaFailed) as refusal:
        return refusal
    return None


def _unreadable_record(query: str, trace: str) -> UnreadableRecord | None:
    """Read from the message of KAFKA_MALFORMED_RECORD_TIMESTAMP, whose name is not in the trace."""
    found = re.search(
        r"Record at topic (\S+) partition (\d+) offset (\d+) has timestamp value (-?\d+)",
        trace,
    )
    if found is None:
        return None
    topic, partition, offset, timestamp = found[1], int(found[2]), int(found[3]), found[4]
    return UnreadableRecord(
        f"query {query} cannot go on: the record at topic {topic}, partition {partition}, offset {offset} has the "
        f"timestamp {timestamp}, which is no time in milliseconds that Spark can read (a producer wrote micro- or "
        "nanoseconds?). Nothing before it is lost.\n"
        "Correct the producer. Ingest goes on without this record, and keeps the reason, by:\n"
        f'  pipeline ingest --skip {topic}:{partition}:{offset} --reason "…"\n'
        "A view that reads Kafka itself cannot leave it out: begin it anew from the log (speed.source: log).",
        query=query,
        topic=topic,
        partition=partition,
        offset=offset,
    )


def _disk_full(query: str, trace: str, root: str) -> DiskFull | None:
    if "No space left on device" not in trace:
        return None
    return DiskFull(
        f"query {query}: no space was left on the disk while it wrote a batch: {_cause(trace)}\n"
        f"What is finished is safe, and the batch is written anew at the next start. Make room (lake: {root}; Spark also "
        "writes to its temporary folder) and start it again.",
        path=root,
    )


def _cause(trace: str) -> str:
    """What went wrong, without the stacks of Java and Python: the last line that names an exception and says why."""
    told = re.findall(
        r"^(?:Caused by: )?(?:[\w.]+\.)?(\w*(?:Exception|Error): .+)$", trace, flags=re.MULTILINE
    )
    return told[-1] if told else trace.strip().splitlines()[0]
