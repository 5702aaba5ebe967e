"""The table of what has been decided on dead letters: one row for each letter, the decisions before it kept in its history.

Whoever decides holds `deciding` from reading the table to writing it, so that two people cannot decide on one letter at once.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime

from delta.tables import DeltaTable
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from pipeline.contracts import FIXED, RECORD_IDENTITY, REPAIRED
from pipeline.delta_log import is_table
from pipeline.sinks import commit_lock, create_table
from pipeline.tables import REPAIRS, SCHEMAS, table_path

__all__ = ["append_missing", "decide", "deciding", "mark_replayed", "read_repairs"]

_SCHEMA = SCHEMAS[REPAIRS]
_IS_SAME = " AND ".join(f"stored.`{name}` = new.`{name}`" for name in RECORD_IDENTITY)


@contextmanager
def deciding(root: str) -> Iterator[None]:
    with commit_lock(table_path(root, REPAIRS)):
        yield


def read_repairs(spark: SparkSession, root: str) -> DataFrame:
    """The repairs as they are now; no rows where nothing has been decided yet."""
    path = table_path(root, REPAIRS)
    if is_table(spark, path):
        return spark.read.format("delta").load(path)
    return spark.createDataFrame([], _SCHEMA)


def decide(decisions: DataFrame, root: str) -> None:
    """Enter decisions (the table's columns but `history`), one for each letter; an earlier one goes into the history."""
    path = table_path(root, REPAIRS)
    create_table(decisions.sparkSession, path, _SCHEMA)
    history = _SCHEMA["history"].dataType
    names = [name for name in _SCHEMA.names if name != "history"]
    earlier = F.struct(*[F.col(f"stored.{name}") for name in history.elementType.names])  # type: ignore[attr-defined]
    new = {name: F.col(f"new.{name}") for name in names}
    merge = (
        DeltaTable.forPath(decisions.sparkSession, path)
        .alias("stored")
        .merge(decisions.alias("new"), _IS_SAME)
        .whenMatchedUpdate(set={**new, "history": F.array_append("stored.history", earlier)})
        .whenNotMatchedInsert(values={**new, "history": F.array().cast(history)})
    )
    with commit_lock(path):
        merge.execute()


def mark_replayed(letters: DataFrame, root: str, *, at: datetime) -> None:
    """Fixed letters become repaired. Comes last of a replay: what is repaired is in the tables."""
    path = table_path(root, REPAIRS)
    merge = (
        DeltaTable.forPath(letters.sparkSession, path)
        .alias("stored")
        .merge(letters.select(*RECORD_IDENTITY).alias("new"), _IS_SAME)
        .whenMatchedUpdate(
            condition=F.col("stored.status") == FIXED,
            set={"status": F.lit(REPAIRED), "replayed_at": F.lit(at)},
        )
    )
    with commit_lock(path):
        merge.execute()


def append_missing(events: DataFrame, path: str) -> None:
    """Append the events whose (topic, partition, offset) the table does not hold yet; looked up under its lock.

    Streams that read the table pass over them (`dataChange` false): which of them a query had met, and behind which watermark,
    no ledger says.
    """
    bounds = (
        events.groupBy("topic").agg(F.min("offset").alias("first"), F.max("offset").alias("last")).collect()
    )
    if not bounds:
        return
    is_near = F.lit(False)
    for bound in bounds:
        is_near |= (F.col("topic") == bound["topic"]) & F.col("offset").between(bound["first"], bound["last"])
    with commit_lock(path):
        # Near, because the files of other offsets need not be opened then.
        present = events.sparkSession.read.format("delta").load(path).where(is_near).select(*RECORD_IDENTITY)
        missing = events.join(present, on=[*RECORD_IDENTITY], how="left_anti")
        missing.write.format("delta").mode("append").option("dataChange", "false").save(path)
