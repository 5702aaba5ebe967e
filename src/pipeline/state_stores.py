"""Where a streaming query keeps its state: in RocksDB on the disk of its executor, or in the executor's heap.

A stream-stream join reads each row that a key has in the state, one by one. Both stores write what a micro-batch changed to
the checkpoint, so nothing is lost with either. Only RocksDB holds more than the heap, and transformWithState needs it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Literal

from pyspark.sql import SparkSession

from pipeline import checkpoints
from pipeline.tables import local_path

__all__ = ["StateStore", "forget_unfinished", "keeping_state_in", "state_store"]

StateStore = Literal["rocksdb", "memory"]

_PREFIX = "spark.sql.streaming.stateStore"
_PROVIDER = f"{_PREFIX}.providerClass"
_OPTIONS: Mapping[StateStore, Mapping[str, str]] = {
    "rocksdb": {_PROVIDER: "org.apache.spark.sql.execution.streaming.state.RocksDBStateStoreProvider"},
    "memory": {
        _PROVIDER: "org.apache.spark.sql.execution.streaming.state.HDFSBackedStateStoreProvider",
        f"{_PREFIX}.checkpointFormatVersion": "1",  # the second is RocksDB's alone
    },
}


def state_store(steps: Sequence[str], *, of_joins: str) -> StateStore:
    """What a new query with these stateful steps (as Spark's plan names them) keeps its state in."""
    joins, needs_rocksdb = (
        any(step.startswith(name) for step in steps) for name in ("Join", "TransformWithState")
    )
    return "memory" if of_joins == "memory" and joins and not needs_rocksdb else "rocksdb"


@contextmanager
def keeping_state_in(spark: SparkSession, store: StateStore) -> Iterator[None]:
    """A query that is started meanwhile keeps its state there, whatever the session's own options say."""
    options = _OPTIONS[store]
    before = {key: spark.conf.get(key, None) for key in options}
    try:
        for key, value in options.items():
            spark.conf.set(key, value)
        yield
    finally:
        for key, was in before.items():
            spark.conf.unset(key) if was is None else spark.conf.set(key, was)


def forget_unfinished(checkpoint: str) -> None:
    """Remove what a batch that has not ended has written of the state, so that its next try writes it anew.

    On this machine's file system Spark leaves a file that is there as it is (`session`). Files that are named for their try
    (`5_<id>.zip`, checkpointFormatVersion 2) are in nobody's way.
    """
    folder = local_path(checkpoint)
    if folder is None:
        return
    done = checkpoints.last_committed_batch(None, checkpoint)
    newest = 0 if done is None else done + 1  # a batch makes the version after its own number
    for file in (folder / "state").glob("**/*.*"):
        of_version = re.fullmatch(r"(\d+)\.(delta|snapshot|zip|changelog)", file.name)
        if of_version and int(of_version[1]) > newest:
            file.unlink()
            file.with_name(f".{file.name}.crc").unlink(missing_ok=True)
