"""The newest of every streaming query of this process for Prometheus, on a port of its own where one is configured."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from pipeline.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from prometheus_client import CollectorRegistry

    from pipeline.progress import Observed

__all__ = ["count_fates", "measured", "observe", "start"]

_GAUGES = {
    "pipeline_batch_id": "The last finished micro-batch",
    "pipeline_batch_started_timestamp_seconds": "When the last micro-batch began",
    "pipeline_batch_duration_seconds": "How long the last micro-batch took",
    "pipeline_batch_planning_seconds": "Of that, planning",
    "pipeline_batch_writing_seconds": "Of that, computing and writing the rows",
    "pipeline_records_behind": "What the topics held that the query had not read",
    "pipeline_watermark_timestamp_seconds": "By which the query closed windows and state",
    "pipeline_state_rows": "Rows of state, where Spark counts them",
    "pipeline_state_memory_bytes": "Memory of the state stores",
}
_COUNTERS = {
    "pipeline_batches": "Micro-batches that have ended",
    "pipeline_records_read": "Records that they have read",
}
_FATES = "pipeline_ingested_records"


class _Exporter:
    """The metrics of a registry, with the label `query`; what became of records by topic and fate."""

    def __init__(self, registry: CollectorRegistry) -> None:
        from prometheus_client import Counter, Gauge

        self._gauges = {
            name: Gauge(name, text, ("query",), registry=registry) for name, text in _GAUGES.items()
        }
        self._counters = {
            name: Counter(name, text, ("query",), registry=registry) for name, text in _COUNTERS.items()
        }
        self._fates = Counter(_FATES, "Records by what became of them", ("topic", "fate"), registry=registry)

    def observe(self, now: Observed) -> None:
        values = {
            "pipeline_batch_id": now.batch_id,
            "pipeline_batch_started_timestamp_seconds": now.started_at.timestamp(),
            "pipeline_batch_duration_seconds": now.duration_ms / 1000,
            "pipeline_batch_planning_seconds": now.planning_ms / 1000,
            "pipeline_batch_writing_seconds": now.writing_ms / 1000,
            "pipeline_records_behind": now.records_behind,
            "pipeline_watermark_timestamp_seconds": now.watermark.timestamp() if now.watermark else None,
            "pipeline_state_rows": now.state_rows,
            "pipeline_state_memory_bytes": now.state_memory_bytes,
        }
        for name, value in values.items():
            if value is not None:
                self._gauges[name].labels(now.query).set(value)
        self._counters["pipeline_batches"].labels(now.query).inc()
        self._counters["pipeline_records_read"].labels(now.query).inc(now.records_read)

    def count(self, topic: str, fate: str, records: int) -> None:
        self._fates.labels(topic, fate).inc(records)


_running: _Exporter | None = None
_lock = threading.Lock()


def start(host: str, port: int | None) -> int | None:
    """Answer Prometheus on the port from now on (0: any that is free), which is returned. Once a process.

    Raises UsageError where the port cannot be had.
    """
    global _running
    if port is None:
        return None
    from prometheus_client import CollectorRegistry, start_http_server

    with _lock:
        registry = CollectorRegistry()
        try:
            server, _ = start_http_server(port, addr=host, registry=registry)
        except OSError as error:
            raise UsageError(
                f"metrics.port {port} on {host} cannot be had: {error.strerror or error}.\n"
                "Each process needs a port of its own: --set metrics.port=… (null: none)."
            ) from error
        _running = _Exporter(registry)
        return int(server.server_port)


def observe(now: Observed) -> None:
    if _running is not None:
        _running.observe(now)


def count_fates(counts: Mapping[tuple[str, int], Mapping[str, int]]) -> None:
    """By topic and partition, how many records of a batch of ingest met which fate."""
    if _running is not None:
        for (topic, _), fates in counts.items():
            for fate, records in fates.items():
                _running.count(topic, fate, records)


def measured() -> dict[str, str]:
    """The name of each metric as Prometheus has it, and what it says."""
    totals = {**_COUNTERS, _FATES: "Records by what became of them"}
    return {**_GAUGES, **{f"{name}_total": text for name, text in totals.items()}}
