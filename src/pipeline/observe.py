"""What Spark says of a running query, kept beside its checkpoint for those who look at it from elsewhere.

`<checkpoint>/pipeline/progress.json` holds the newest progress of the query, as `note` found it. It informs and proves
nothing: the process that runs the query writes it every few seconds and goes on where it cannot, and no guard reads it.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from py4j.protocol import Py4JJavaError  # type: ignore[import-untyped]
from pyspark.sql import SparkSession

from pipeline import files
from pipeline.kafka_offsets import behind
from pipeline.tables import checkpoint_path

if TYPE_CHECKING:
    from pyspark.sql.streaming.query import StreamingQuery

__all__ = ["Observed", "Observer", "observed", "records_behind"]

_EVERY_SECONDS = 5.0
_COUNTS_STATE_ROWS = "spark.sql.streaming.stateStore.rocksdb.trackTotalNumberOfRows"

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Observed:
    """What a query's newest progress said: of which batch, and when it had begun.

    `records_behind` is what its topics held then that it had not read. `state_rows` is None where Spark does not count
    them, as by default (base.yml says why); `state_memory_bytes` is what the state stores take of memory.
    """

    batch_id: int
    at: datetime
    records_behind: int
    state_rows: int | None
    state_memory_bytes: int


class Observer:
    """Notes the progress of the queries that this process runs; no method raises."""

    def __init__(self, spark: SparkSession, root: str) -> None:
        self._spark, self._root = spark, root
        self._counts_rows = spark.conf.get(_COUNTS_STATE_ROWS, "true") == "true"
        self._noted: dict[str, Observed] = {}
        self._next_look = time.monotonic()

    def watch(self, queries: Sequence[StreamingQuery]) -> None:
        """To be called often: every few seconds it notes what is new."""
        if time.monotonic() < self._next_look:
            return
        self._next_look = time.monotonic() + _EVERY_SECONDS
        for query in queries:
            self.note(query)

    def note(self, query: StreamingQuery) -> None:
        try:
            progress = query.lastProgress
            if progress is not None:
                self._write(query.name, progress)
        except Exception as error:  # noqa: BLE001  # who looks from elsewhere sees older numbers; the stream goes on
            _log.debug("the progress of %s is not noted: %s", query.name, error)

    def _write(self, query: str, progress: Mapping[str, Any]) -> None:
        now = _of_progress(progress, counts_rows=self._counts_rows)
        if now == self._noted.get(query):
            return
        text = json.dumps(asdict(now), default=datetime.isoformat)
        files.write_atomically(self._spark, _file(self._root, query), text)
        self._noted[query] = now


def observed(spark: SparkSession | None, root: str, query: str) -> Observed | None:
    """What was noted of the query; None where nothing was, or what was noted cannot be read."""
    try:
        noted = json.loads(files.read_text(spark, _file(root, query)) or "null")
        if noted is None:
            return None
        return Observed(**{**noted, "at": datetime.fromisoformat(noted["at"])})
    except (ValueError, TypeError, LookupError, Py4JJavaError):
        return None


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


def _of_progress(progress: Mapping[str, Any], *, counts_rows: bool) -> Observed:
    operators = progress["stateOperators"]
    return Observed(
        batch_id=int(progress["batchId"]),
        at=datetime.fromisoformat(progress["timestamp"].replace("Z", "+00:00")),
        records_behind=records_behind(progress),
        state_rows=sum(int(one["numRowsTotal"]) for one in operators) if counts_rows else None,
        state_memory_bytes=sum(int(one["memoryUsedBytes"]) for one in operators),
    )


def _offsets(text: Any) -> dict[tuple[str, int], int]:
    topics = json.loads(text) if isinstance(text, str) else text or {}
    return {
        (topic, int(partition)): offset
        for topic, partitions in topics.items()
        for partition, offset in partitions.items()
    }


def _file(root: str, query: str) -> str:
    return f"{checkpoint_path(root, query)}/pipeline/progress.json"
