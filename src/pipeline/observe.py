"""What Spark says of each micro-batch when it has ended: one listener takes it, and hands it on.

`<checkpoint>/pipeline/progress.json` holds the newest of a query, for those who look at it from elsewhere; the table
`batch_metrics` holds them all, Prometheus the newest where a port is configured. All of it informs and proves nothing: what
cannot be written is left out, the stream goes on, and no guard reads it.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict
from datetime import datetime
from typing import Any, ClassVar

import pyarrow as pa
from deltalake import write_deltalake
from py4j.protocol import Py4JJavaError  # type: ignore[import-untyped]
from pyspark.sql import SparkSession
from pyspark.sql.pandas.types import to_arrow_schema
from pyspark.sql.streaming.listener import StreamingQueryListener

from pipeline import exporter, files
from pipeline.jvm import java_class
from pipeline.progress import Observed, of_progress
from pipeline.sinks import commit_lock
from pipeline.tables import BATCH_METRICS, SCHEMAS, checkpoint_path, local_path, table_path

__all__ = ["Observer", "observed", "observing"]

_NOTED_EVERY_SECONDS = 5.0
_KEPT_EVERY_SECONDS = 60.0
_COUNTS_STATE_ROWS = "spark.sql.streaming.stateStore.rocksdb.trackTotalNumberOfRows"

_log = logging.getLogger(__name__)


class Observer:
    """Takes what Spark says of the queries of this process; no method raises."""

    def __init__(
        self, spark: SparkSession, root: str, *, keeps_history: bool, watch: Callable[[Observed], object]
    ) -> None:
        self._spark, self._root, self._keeps_history, self._watch = spark, root, keeps_history, watch
        self._counts_rows = spark.conf.get(_COUNTS_STATE_ROWS, "true") == "true"
        self._lock = threading.Lock()
        self._newest: dict[str, Observed] = {}
        self._noted_at: dict[str, float] = {}
        self._unkept: list[Observed] = []
        self._kept_at = time.monotonic()

    def finish(self) -> None:
        """Once Spark has told all: note the newest of each query, and keep what is not kept."""
        for newest in [*self._newest.values()]:
            self._note(newest)
        self.keep(is_end=True)

    def keep(self, *, is_end: bool = False) -> None:
        """Put what has come into the table, once a minute and at the end."""
        if not self._unkept or (not is_end and time.monotonic() - self._kept_at < _KEPT_EVERY_SECONDS):
            return
        with self._lock:
            rows, self._unkept, self._kept_at = self._unkept, [], time.monotonic()
        try:
            _append(self._spark, table_path(self._root, BATCH_METRICS), rows)
        except Exception as error:  # noqa: BLE001  # history has a hole; the stream goes on
            _log.warning("%d rows of batch_metrics are not kept: %s", len(rows), error)

    def take(self, progress: Mapping[str, Any]) -> None:
        """What Spark's progress of a micro-batch says, as a mapping."""
        try:
            now = of_progress(progress, counts_rows=self._counts_rows)
            before = self._newest.get(now.query)
            if before is not None and before.batch_id == now.batch_id:
                return
            self._newest[now.query] = now
            if self._keeps_history:
                with self._lock:
                    self._unkept.append(now)
            if time.monotonic() - self._noted_at.get(now.query, float("-inf")) >= _NOTED_EVERY_SECONDS:
                self._note(now)
            exporter.observe(now)
            self._watch(now)
        except Exception as error:  # noqa: BLE001  # who looks from elsewhere sees older numbers; the stream goes on
            _log.debug("the progress of a query is not taken: %s", error)

    def _note(self, now: Observed) -> None:
        self._noted_at[now.query] = time.monotonic()
        text = json.dumps(asdict(now), default=datetime.isoformat)
        try:
            files.write_atomically(self._spark, _file(self._root, now.query), text)
        except Exception as error:  # noqa: BLE001  # as above
            _log.debug("the progress of %s is not noted: %s", now.query, error)


class _Listener(StreamingQueryListener):
    """Hands on what Spark says of a micro-batch, as JSON in one piece.

    PySpark would take the event apart by some hundred calls, of which many look for a class in all jars: 9 % of what a small
    micro-batch takes of the CPU.
    """

    class Java:
        implements: ClassVar = ["org.apache.spark.sql.streaming.PythonStreamingQueryListener"]

    def __init__(self, spark: SparkSession, take: Callable[[Mapping[str, Any]], object]) -> None:
        self._take = take
        wrapper = "org.apache.spark.sql.streaming.PythonStreamingQueryListenerWrapper"
        self._jlistenerobj = java_class(spark, wrapper)(self)  # what PySpark registers

    def onQueryStarted(self, event: object) -> None: ...  # noqa: N802  # Spark calls it so

    def onQueryIdle(self, event: object) -> None: ...  # noqa: N802

    def onQueryTerminated(self, event: object) -> None: ...  # noqa: N802

    def onQueryProgress(self, event: Any) -> None:  # noqa: N802
        self._take(json.loads(event.progress().json()))


@contextmanager
def observing(observer: Observer, spark: SparkSession) -> Iterator[None]:
    """Spark tells the observer of every batch inside the block."""
    listener = _Listener(spark, observer.take)
    spark.streams.addListener(listener)
    try:
        yield
    finally:
        # Spark tells of a batch some time after its end, in order.
        with suppress(Py4JJavaError):
            spark.sparkContext._jsc.sc().listenerBus().waitUntilEmpty()
        spark.streams.removeListener(listener)
        observer.finish()


def observed(spark: SparkSession | None, root: str, query: str) -> Observed | None:
    """What was noted of the query; None where nothing was, or what was noted cannot be read."""
    try:
        noted = json.loads(files.read_text(spark, _file(root, query)) or "null")
        if noted is None:
            return None
        times = {
            name: noted[name] and datetime.fromisoformat(noted[name]) for name in ("started_at", "watermark")
        }
        return Observed(**{**noted, **times})
    except (ValueError, TypeError, LookupError, Py4JJavaError):
        return None


def _append(spark: SparkSession, path: str, rows: list[Observed]) -> None:
    """By delta-rs where the lake is on this machine: it takes milliseconds, and Spark a second of a core."""
    schema = SCHEMAS[BATCH_METRICS]
    told = [asdict(row) for row in rows]
    with commit_lock(path):
        if local_path(path) is not None:
            write_deltalake(
                path, pa.Table.from_pylist(told, to_arrow_schema(schema, timezone="UTC")), mode="append"
            )
        else:
            frame = spark.createDataFrame([tuple(row.values()) for row in told], schema)
            frame.coalesce(1).write.format("delta").mode("append").save(path)


def _file(root: str, query: str) -> str:
    return f"{checkpoint_path(root, query)}/pipeline/progress.json"
