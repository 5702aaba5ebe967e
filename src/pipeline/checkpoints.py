"""What Spark has written down of a streaming query: which offsets each micro-batch read, and behind which watermark.

Spark writes `offsets/N` before it runs batch N and `commits/N` after it. (org.apache.spark.sql.execution.streaming,
OffsetSeqLog and CommitLog, version 1 of their format.)
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Literal, TypeVar

from py4j.protocol import Py4JJavaError  # type: ignore[import-untyped]
from pyspark.sql import SparkSession

from pipeline import files
from pipeline.errors import CheckpointDamaged
from pipeline.instants import of_milliseconds

__all__ = [
    "LogRange",
    "MicroBatch",
    "OffsetRange",
    "began",
    "began_at",
    "due_watermark",
    "ended_at",
    "ends",
    "finished_since",
    "generation",
    "last_batch",
    "last_committed_batch",
    "log_read",
    "micro_batch",
    "missing_file",
    "newest_watermark",
    "next_offsets",
    "reads",
    "versions_read",
    "watermark_of",
]

_T = TypeVar("_T")


@dataclass(frozen=True)
class OffsetRange:
    """Offsets of one topic partition, half-open, read by the query's source number `source`."""

    source: int
    topic: str
    partition: int
    first: int
    end: int


@dataclass(frozen=True)
class LogRange:
    """Versions of the Delta table with this id, after `after` (None: from the first) up to and with `through`."""

    source: int
    table_id: str
    after: int | None
    through: int


@dataclass(frozen=True)
class MicroBatch:
    """`late_watermark`: events at or before it were dropped as late. `watermark`: what it closed, and the next one drops by.

    `planned_at`: when Spark chose what it reads.
    """

    batch_id: int
    planned_at: datetime
    ranges: tuple[OffsetRange, ...]
    late_watermark: datetime | None
    watermark: datetime | None
    log_ranges: tuple[LogRange, ...] = ()


@dataclass(frozen=True)
class _Entry:
    """`versions`: of the sources that are Delta tables, their id and the version up to and with which they were read."""

    planned_at: datetime
    watermark: datetime | None
    ends: tuple[Mapping[tuple[str, int], int], ...]
    versions: tuple[tuple[str, int] | None, ...]


def generation(spark: SparkSession | None, checkpoint: str) -> str | None:
    """The query id in the checkpoint: a new checkpoint is a new generation. None where there is no checkpoint yet."""
    return _parsed(spark, checkpoint, "metadata", lambda text: str(json.loads(text)["id"]))


def missing_file(spark: SparkSession, checkpoint: str) -> str | None:
    """The file that a checkpoint with these others must have and has not; None where none is seen to be missing.

    Spark writes `metadata` first, then `offsets/N` and `commits/N` by turns. Without one of the newest it would cut batch N
    anew, over other offsets, and the tables would take it for the one they have. Raises CheckpointDamaged where one of the
    newest cannot be read.
    """
    begun, done = last_batch(spark, checkpoint), last_committed_batch(spark, checkpoint)
    if begun is None and done is None:
        return None
    if generation(spark, checkpoint) is None:
        return f"{checkpoint}/metadata"
    if done is not None and (begun is None or begun < done):
        return f"{checkpoint}/offsets/{done}"
    assert begun is not None
    if begun > 0 and (done is None or done < begun - 1):
        return f"{checkpoint}/commits/{begun - 1}"
    if done is not None:
        _parsed(spark, checkpoint, f"commits/{done}", lambda text: json.loads(text.splitlines()[1]))
    _entry(spark, checkpoint, begun)
    if begun > 0 and _entry(spark, checkpoint, begun - 1) is None:
        return f"{checkpoint}/offsets/{begun - 1}"
    return None


def last_batch(spark: SparkSession | None, checkpoint: str) -> int | None:
    """The newest batch that was begun."""
    return _newest(spark, f"{checkpoint}/offsets")


def last_committed_batch(spark: SparkSession | None, checkpoint: str) -> int | None:
    return _newest(spark, f"{checkpoint}/commits")


def newest_watermark(spark: SparkSession | None, checkpoint: str) -> datetime | None:
    """By which the newest finished batch closed windows and state; what is at or before it will not change any more."""
    newest = last_committed_batch(spark, checkpoint)
    entry = _entry(spark, checkpoint, newest) if newest is not None else None
    return entry.watermark if entry else None


def due_watermark(spark: SparkSession | None, checkpoint: str) -> datetime | None:
    """To which time the newest finished batch led, where no batch has closed anything by it yet; None where nothing is due.

    Spark runs a batch without events for that, but only in the run that the batch was of: after a kill between the two it comes
    with the next events.
    """
    newest = last_committed_batch(spark, checkpoint)
    if newest is None:
        return None
    entry = _entry(spark, checkpoint, newest)
    led_to_ms = _parsed(
        spark,
        checkpoint,
        f"commits/{newest}",
        lambda text: json.loads(text.splitlines()[1]).get("nextBatchWatermarkMs", 0),
    )
    led_to = of_milliseconds(led_to_ms) if led_to_ms else None
    is_due = (
        led_to is not None and entry is not None and (entry.watermark is None or entry.watermark < led_to)
    )
    return led_to if is_due else None


def next_offsets(spark: SparkSession | None, checkpoint: str) -> list[tuple[str, int, int]]:
    """(topic, partition, offset) at which each Kafka source goes on; a batch that was begun only is read again."""
    newest = last_committed_batch(spark, checkpoint)
    entry = _entry(spark, checkpoint, newest) if newest is not None else None
    if entry is None:
        sources = [name for name in files.names(spark, f"{checkpoint}/sources") if name.isdigit()]
        places = [_initial(spark, checkpoint, int(name)) for name in sources]
    else:
        places = [*entry.ends]
    return sorted({(*partition, offset) for ends in places for partition, offset in ends.items()})


def watermark_of(spark: SparkSession | None, checkpoint: str, batch_id: int) -> datetime | None:
    """By which the batch closed windows and state; None before the first event, or where Spark no longer keeps it."""
    entry = _entry(spark, checkpoint, batch_id)
    return entry.watermark if entry else None


def finished_since(spark: SparkSession | None, checkpoint: str, known: int) -> list[MicroBatch]:
    """The finished batches after `known` that Spark still keeps, each with the one before it."""
    newest = last_committed_batch(spark, checkpoint)
    if newest is None:
        return []
    kept = {int(name) for name in files.names(spark, f"{checkpoint}/offsets") if name.isdigit()}
    numbers = [
        number for number in sorted(kept) if known < number <= newest and (number == 0 or number - 1 in kept)
    ]
    return [micro_batch(spark, checkpoint, number) for number in numbers]


def micro_batch(spark: SparkSession | None, checkpoint: str, batch_id: int) -> MicroBatch:
    """What batch `batch_id` read. Raises FileNotFoundError where its offsets are not kept any more."""
    entry = _entry(spark, checkpoint, batch_id)
    if entry is None:
        raise FileNotFoundError(f"{checkpoint}/offsets/{batch_id}")
    before = _entry(spark, checkpoint, batch_id - 1) if batch_id > 0 else None
    return MicroBatch(
        batch_id=batch_id,
        planned_at=entry.planned_at,
        ranges=tuple(_ranges(spark, checkpoint, entry, before)),
        late_watermark=before.watermark if before else None,
        watermark=entry.watermark,
        log_ranges=tuple(_log_ranges(entry, before)),
    )


def began(spark: SparkSession, checkpoint: str, source: int) -> Mapping[tuple[str, int], int]:
    """By topic and partition where a Kafka source of the query began; empty for another one, or before its first batch."""
    return _initial(spark, checkpoint, source)


def ends(spark: SparkSession, checkpoint: str, batch_id: int) -> tuple[Mapping[tuple[str, int], int], ...]:
    """Up to where each Kafka source had been read after the batch; empty where Spark does not keep it any more."""
    entry = _entry(spark, checkpoint, batch_id)
    return entry.ends if entry else ()


def log_read(spark: SparkSession | None, checkpoint: str, batch_id: int) -> list[LogRange]:
    """All that the query had read of Delta tables after the batch; empty where Spark does not keep it any more."""
    entry = _entry(spark, checkpoint, batch_id)
    return [*_log_ranges(entry, None)] if entry else []


def versions_read(spark: SparkSession | None, checkpoint: str) -> Mapping[int, int]:
    """By source that is a Delta table: the version up to and with which finished batches have read it; empty before the first."""
    newest = last_committed_batch(spark, checkpoint)
    entry = _entry(spark, checkpoint, newest) if newest is not None else None
    return {source: version[1] for source, version in enumerate(entry.versions if entry else ()) if version}


def reads(spark: SparkSession | None, checkpoint: str) -> Literal["kafka", "log"] | None:
    """What the query has read so far: topics, or Delta tables; None before its first batch."""
    newest = last_batch(spark, checkpoint)
    entry = _entry(spark, checkpoint, newest) if newest is not None else None
    if entry is None:
        return None
    return "log" if any(entry.versions) else "kafka"


def ended_at(spark: SparkSession | None, checkpoint: str, batch_id: int) -> datetime | None:
    """When the batch ended: when Spark wrote its mark. None where it has not, or keeps it no more."""
    return files.modified_at(spark, f"{checkpoint}/commits/{batch_id}")


def began_at(spark: SparkSession | None, checkpoint: str, batch_id: int) -> datetime | None:
    """When the batch was begun: when Spark wrote its offsets. None where it has not, or keeps them no more."""
    return files.modified_at(spark, f"{checkpoint}/offsets/{batch_id}")


def _log_ranges(entry: _Entry, before: _Entry | None) -> Iterator[LogRange]:
    for source, version in enumerate(entry.versions):
        if version is not None:
            known = before.versions[source] if before and source < len(before.versions) else None
            if known is None or known[1] < version[1]:
                yield LogRange(source, version[0], known[1] if known else None, version[1])


def _ranges(
    spark: SparkSession | None, checkpoint: str, entry: _Entry, before: _Entry | None
) -> Iterator[OffsetRange]:
    for source, ends in enumerate(entry.ends):
        known = before.ends[source] if before and source < len(before.ends) else {}
        firsts = known or _initial(spark, checkpoint, source)
        for (topic, partition), end in sorted(ends.items()):
            first = firsts.get((topic, partition), 0)
            if end > first:
                yield OffsetRange(source, topic, partition, first, end)


def _initial(spark: SparkSession | None, checkpoint: str, source: int) -> Mapping[tuple[str, int], int]:
    """Where a Kafka source began; it keeps that beside the offset log."""
    name = f"sources/{source}/0"
    return _parsed(spark, checkpoint, name, lambda text: _kafka_offsets(text[text.index("{") :])) or {}


def _entry(spark: SparkSession | None, checkpoint: str, batch_id: int) -> _Entry | None:
    return _parsed(spark, checkpoint, f"offsets/{batch_id}", _entry_of)


def _parsed(spark: SparkSession | None, checkpoint: str, name: str, parse: Callable[[str], _T]) -> _T | None:
    """What a file of the checkpoint says, None where it is not there. Raises CheckpointDamaged where it cannot be read."""
    file = f"{checkpoint}/{name}"
    try:
        text = files.read_text(spark, file)
        return None if text is None else parse(text)
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        reason: Exception = error
    except Py4JJavaError as error:
        if not error.java_exception.getClass().getName().endswith("ChecksumException"):
            raise
        reason = error
    query = checkpoint.rpartition("/")[2]
    raise CheckpointDamaged(
        f"query {query}: {file} is damaged, it does not hold what Spark has written.\n"
        "Bring the checkpoint back as a whole, or begin anew: remove the query's tables and its checkpoint\n"
        f"  {checkpoint}",
        query=query,
        file=file,
    ) from reason


def _entry_of(text: str) -> _Entry:
    _, metadata, *sources = text.splitlines()
    told = json.loads(metadata)
    watermark_ms = told["batchWatermarkMs"]
    return _Entry(
        planned_at=of_milliseconds(told["batchTimestampMs"]),
        watermark=of_milliseconds(watermark_ms) if watermark_ms else None,
        ends=tuple({} if line == "-" else _kafka_offsets(line) for line in sources),
        versions=tuple(None if line == "-" else _delta_version(line) for line in sources),
    )


def _kafka_offsets(text: str) -> Mapping[tuple[str, int], int]:
    """Offsets by topic and partition; empty for a source that is not Kafka."""
    return {
        (topic, int(partition)): offset
        for topic, partitions in json.loads(text).items()
        if isinstance(partitions, dict)
        for partition, offset in partitions.items()
    }


def _delta_version(text: str) -> tuple[str, int] | None:
    """(table id, version read up to and with); None for a source that is no Delta table.

    A negative index stands before the first file of a version. One inside a version counts as the whole of it: the log
    as a source is read in whole versions (`sources`).
    """
    offset = json.loads(text)
    if "reservoirVersion" not in offset:
        return None
    version = int(offset["reservoirVersion"])
    return str(offset["reservoirId"]), version if int(offset["index"]) >= 0 else version - 1


def _newest(spark: SparkSession | None, folder: str) -> int | None:
    return max((int(name) for name in files.names(spark, folder) if name.isdigit()), default=None)
