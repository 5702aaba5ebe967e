"""How far streaming queries are behind their topics, told to the alert channel when it is over its limit."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pipeline import alerts
from pipeline.alerts import Problem

if TYPE_CHECKING:
    from pyspark.sql.streaming.query import StreamingQuery

__all__ = ["records_behind", "watcher"]

_EVERY_SECONDS = 10.0


def watcher(job: str, *, max_lag_records: int | None) -> Callable[[Sequence[StreamingQuery]], None]:
    """To be called often with the job's running queries: every 10 seconds it looks how they are.

    A job whose queries have all finished a micro-batch is well again, if it had failed before.
    """
    next_look = time.monotonic() + _EVERY_SECONDS

    def watch(queries: Sequence[StreamingQuery]) -> None:
        nonlocal next_look
        if time.monotonic() < next_look:
            return
        next_look = time.monotonic() + _EVERY_SECONDS
        progresses = {query.name: query.lastProgress for query in queries}
        if all(progress is not None for progress in progresses.values()):
            alerts.over(job, alerts.RUN)
        for name, progress in progresses.items():
            if progress is not None and max_lag_records is not None:
                _judge(job, name, records_behind(progress), max_lag_records)

    return watch


def _judge(job: str, query: str, behind: int, limit: int) -> None:
    if behind <= limit:
        alerts.over(job, f"lag of {query}")
        return
    error = f"{behind} records behind its topics; the limit (alerts.max_lag_records) is {limit}"
    alerts.report(Problem(job, f"lag of {query}", step=query, name="LagOverLimit", error=error))


def records_behind(progress: Mapping[str, Any]) -> int:
    """How many records the topics of a query hold that its last micro-batch had not read.

    Counted from the offsets: Spark's own metric is the worst partition only.
    """
    behind = 0
    for source in progress["sources"]:
        if source["description"].startswith("Kafka"):
            latest, end = _offsets(source["latestOffset"]), _offsets(source["endOffset"])
            behind += sum(max(0, offset - end.get(place, 0)) for place, offset in latest.items())
    return behind


def _offsets(text: Any) -> dict[tuple[str, str], int]:
    topics = json.loads(text) if isinstance(text, str) else text or {}
    return {
        (topic, partition): offset
        for topic, partitions in topics.items()
        for partition, offset in partitions.items()
    }
