"""How far streaming queries are behind their topics, told to the alert channel when it is over its limit."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from pipeline import alerts
from pipeline.alerts import Problem
from pipeline.observe import records_behind

if TYPE_CHECKING:
    from pyspark.sql.streaming.query import StreamingQuery

__all__ = ["watcher"]

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
