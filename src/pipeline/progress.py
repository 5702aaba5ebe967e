"""A finished micro-batch as Spark's progress tells of it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from pipeline.kafka_offsets import behind

__all__ = ["Observed", "of_progress", "records_behind"]


@dataclass(frozen=True)
class Observed:
    """A finished micro-batch (a row of BATCH_METRICS): times in UTC, durations in milliseconds.

    `records_behind` is what its topics held then that it had not read. `state_rows` is None where Spark does not count
    them, as by default (base.yml says why); `state_memory_bytes` is what the state stores take of memory.
    """

    query: str
    generation: str
    batch_id: int
    started_at: datetime
    duration_ms: int
    planning_ms: int
    writing_ms: int
    records_read: int
    records_behind: int
    watermark: datetime | None
    state_rows: int | None
    state_memory_bytes: int


def records_behind(progress: Mapping[str, Any]) -> int:
    """How many records the topics of a query hold that its last micro-batch had not read.

    Counted from the offsets: Spark's own metric is the worst partition only.
    """
    count = 0
    for source in progress["sources"]:
        if source["description"].startswith("Kafka"):
            latest, ends = _offsets(source["latestOffset"]), _offsets(source["endOffset"])
            count += behind(ends, {place: (0, end) for place, end in latest.items()})
    return count


def of_progress(progress: Mapping[str, Any], *, counts_rows: bool) -> Observed:
    operators, took = progress["stateOperators"], progress["durationMs"]
    watermark = (progress.get("eventTime") or {}).get("watermark")
    return Observed(
        query=str(progress["name"]),
        generation=str(progress["id"]),
        batch_id=int(progress["batchId"]),
        started_at=_instant(progress["timestamp"]),
        duration_ms=int(progress["batchDuration"]),
        planning_ms=int(took.get("queryPlanning", 0)),
        writing_ms=int(took.get("addBatch", 0)),
        records_read=int(progress["numInputRows"]),
        records_behind=records_behind(progress),
        watermark=_instant(watermark) if watermark and not watermark.startswith("1970-") else None,
        state_rows=sum(int(one["numRowsTotal"]) for one in operators) if counts_rows else None,
        state_memory_bytes=sum(int(one["memoryUsedBytes"]) for one in operators),
    )


def _instant(text: str) -> datetime:
    return datetime.fromisoformat(text.replace("Z", "+00:00"))


def _offsets(text: Any) -> dict[tuple[str, int], int]:
    topics = json.loads(text) if isinstance(text, str) else text or {}
    return {
        (topic, int(partition)): offset
        for topic, partitions in topics.items()
        for partition, offset in partitions.items()
    }
