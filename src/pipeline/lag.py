"""The observer of a job's streaming queries: what they do is shown, and where they are too far behind, the alert channel is told."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from pyspark.sql import SparkSession

from pipeline import alerts, exporter, limits
from pipeline.console import note, streams
from pipeline.observe import Observer
from pipeline.progress import Observed
from pipeline.settings import Alerts as AlertSettings
from pipeline.settings import Settings

__all__ = ["observer"]

_EVERY_SECONDS = 10.0


@contextmanager
def observer(spark: SparkSession, settings: Settings, job: str, queries: Sequence[str]) -> Iterator[Observer]:
    """Takes what Spark says of the job's queries to the terminal, and to wherever the settings want it.

    Raises UsageError where the port is taken.
    """
    port = exporter.start(settings.metrics.host, settings.metrics.port)
    if port is not None:
        note(f"metrics for Prometheus: http://{settings.metrics.host}:{port}/metrics")
    with streams() as show:
        watch = _Watch(job, queries, settings.alerts, show)
        keeps_history = settings.metrics.history == "kept"
        yield Observer(spark, settings.lake.root, keeps_history=keeps_history, watch=watch)


class _Watch:
    """A job whose queries have all finished a micro-batch is well again, if it had failed before."""

    def __init__(
        self, job: str, queries: Sequence[str], limits: AlertSettings, show: Callable[[str, str], None]
    ) -> None:
        self._job, self._silent, self._limits, self._show = job, {*queries}, limits, show
        self._next_look: dict[str, float] = {}

    def __call__(self, now: Observed) -> None:
        self._show(now.query.rpartition("_v")[0], _told(now))
        if self._silent:
            self._silent.discard(now.query)
            if not self._silent:
                alerts.over(self._job, alerts.RUN)
        if self._job == "replay":  # it is behind while it lasts
            return
        if self._limits.max_lag_records is None or time.monotonic() < self._next_look.get(now.query, 0.0):
            return
        self._next_look[now.query] = time.monotonic() + _EVERY_SECONDS
        limits.tell(limits.lag(now.query, now.records_behind, self._limits))


def _told(now: Observed) -> str:
    watermark = f", watermark {now.watermark:%Y-%m-%dT%H:%M:%SZ}" if now.watermark else ""
    took = f"{now.records_read:,} records in {now.duration_ms / 1000:.1f} s"
    return f"batch {now.batch_id}: {took}, {now.records_behind:,} unread{watermark}"
