"""What Prometheus is told: requests, and how fresh the views are. Times are seconds since 1970, as Prometheus has them."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from pipeline import catalog, serving
from pipeline.delta_log import commit
from pipeline.served import Table
from pipeline.settings import Settings

__all__ = ["Measures"]

_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class Measures:
    def __init__(self, settings: Settings) -> None:
        self._registry = CollectorRegistry()
        self._requests = Counter(
            "pipeline_requests", "Requests by path and status", ("path", "status"), registry=self._registry
        )
        self._seconds = Histogram(
            "pipeline_request_duration_seconds",
            "Time to answer",
            ("path",),
            buckets=_BUCKETS,
            registry=self._registry,
        )
        self._registry.register(_Views(settings))

    def note(self, path: str, status: int, seconds: float) -> None:
        """`path` is the route, not what was asked: there are few of them."""
        self._requests.labels(path, str(status)).inc()
        self._seconds.labels(path).observe(seconds)

    def text(self) -> bytes:
        return generate_latest(self._registry)


class _Views(Collector):
    """Of each view the times that tell how fresh it is, as the lake has them when it is asked."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def collect(self) -> Iterator[GaugeMetricFamily]:
        families = {
            name: GaugeMetricFamily(f"pipeline_view_{name}_timestamp_seconds", text, labels=("view",))
            for name, text in {
                "horizon": "Up to which event time batch rows are served",
                "batch_commit": "When the batch form was published",
                "speed_commit": "When the speed form changed last",
                "watermark": "By which the speed form has closed windows",
            }.items()
        }
        for view in catalog.views(self._settings).values():
            state = serving.states(None, self._settings, view)[view.name]
            times = {
                "horizon": state.horizon,
                "batch_commit": _made_at(state.batch),
                "speed_commit": _made_at(state.speed),
                "watermark": state.watermark,
            }
            for name, time in times.items():
                if time is not None:
                    families[name].add_metric((view.name,), time.timestamp())
        yield from families.values()


def _made_at(table: Table | None) -> datetime | None:
    made = commit(None, table.path, table.version) if table else None
    return made.made_at if made else None
