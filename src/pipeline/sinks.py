"""How rows get into Delta tables: appended by a micro-batch exactly once, put in by key, or replaced by a batch in one commit.

Each commit of a micro-batch carries the application id `<query>:<generation>` and its batch id, so that Delta skips it
when a crash makes the batch run again. The generation, the checkpoint's own id, is part of it because a new checkpoint
counts its batches from 0 again: without it Delta would take them for replays and drop them.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from delta.tables import DeltaMergeBuilder, DeltaTable
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql import types as T

from pipeline import files
from pipeline.delta_log import append_as, commit, is_table, newest_version, table_schema, transactions
from pipeline.leases import Lease, can_lease
from pipeline.tables import local_path

__all__ = [
    "Transaction",
    "add_columns",
    "append",
    "append_with",
    "commit_lock",
    "create_table",
    "insert_new",
    "keeping_metadata",
    "merge",
    "replace",
    "session_options",
    "transactions",
]

_USER_METADATA = "spark.databricks.delta.commitInfo.userMetadata"
_SKIP_EMPTY_COMMITS = "spark.databricks.delta.skipRecordingEmptyCommits"

_locks = threading.local()
_counting = threading.Lock()
_keepers = 0


@dataclass(frozen=True)
class Transaction:
    """Which micro-batch of which generation of a query writes.

    `newest_by_table` is what its run knows of the batches that tables have taken, by path.
    """

    query: str
    generation: str
    batch_id: int
    newest_by_table: dict[str, int] = field(default_factory=dict, compare=False, repr=False)

    @property
    def application(self) -> str:
        return f"{self.query}:{self.generation}"

    @property
    def options(self) -> dict[str, str]:
        return {"txnAppId": self.application, "txnVersion": str(self.batch_id)}


def create_table(
    spark: SparkSession, path: str, schema: T.StructType, properties: Mapping[str, str] | None = None
) -> None:
    """Make the table, without rows, unless it is there."""
    if is_table(spark, path):
        return
    with commit_lock(path):
        _clear_what_was_begun(spark, path)
        table = DeltaTable.createIfNotExists(spark).location(path).addColumns(schema)
        for key, value in (properties or {}).items():
            table = table.property(key, value)
        table.execute()


def _clear_what_was_begun(spark: SparkSession, path: str) -> None:
    """Remove the log folder of a creation that was broken off before its commit: Delta would take it for a table that is gone."""
    log = f"{path}/_delta_log"
    if files.exists(spark, log) and all(name.startswith((".", "_")) for name in files.names(spark, log)):
        files.remove(spark, log)


def add_columns(spark: SparkSession, path: str, schema: T.StructType) -> None:
    """Add those of the columns that the table does not have; its rows have nulls there."""
    stored = table_schema(spark, path)
    known = () if stored is None else stored.names
    added = [f"{one.name} {one.dataType.simpleString()}" for one in schema if one.name not in known]
    if added:
        with commit_lock(path):
            spark.sql(f"ALTER TABLE delta.`{path.replace('`', '``')}` ADD COLUMNS ({', '.join(added)})")


def append(rows: DataFrame, path: str, *, transaction: Transaction) -> bool:
    """Append the rows unless the table has this batch of theirs: then False."""
    with commit_lock(path):
        if _has_taken(rows.sparkSession, path, transaction):
            return False
        append_as(rows, path, application=transaction.application, batch_id=transaction.batch_id)
        transaction.newest_by_table[path] = transaction.batch_id
        return True


def _has_taken(spark: SparkSession, path: str, transaction: Transaction) -> bool:
    """Asked of the table at the first batch of a run: nobody else writes batches of this generation while it lasts."""
    newest = transaction.newest_by_table
    if path not in newest:
        newest[path] = transactions(spark, path).get(transaction.application, -1)
    return newest[path] >= transaction.batch_id


def merge(rows: DataFrame, path: str, *, keys: Sequence[str]) -> None:
    """Put the rows in by key, in place of those that are there; rows that are there as they are make no commit.

    `rows` has one row per key, and the table's columns.
    """
    with commit_lock(path):
        stored = DeltaTable.forPath(rows.sparkSession, path).toDF()
        if stored.isEmpty():  # the same, without a join: the first run may be of a whole shop
            rows.write.format("delta").mode("append").save(path)
            return
        is_same = [rows[name].eqNullSafe(stored[name]) for name in rows.columns]
        fresh = rows.join(stored, on=is_same, how="left_anti").persist()
        try:
            if not fresh.isEmpty():
                _merging(fresh, path, keys).whenMatchedUpdateAll().whenNotMatchedInsertAll().execute()
        finally:
            fresh.unpersist()


def insert_new(rows: DataFrame, path: str, *, keys: Sequence[str]) -> None:
    """Append the rows whose key is not there; `rows` has one row per key."""
    with commit_lock(path):
        _merging(rows, path, keys).whenNotMatchedInsertAll().execute()


def _merging(rows: DataFrame, path: str, keys: Sequence[str]) -> DeltaMergeBuilder:
    is_same_key = F.expr(" AND ".join(f"stored.`{key}` <=> new.`{key}`" for key in keys))
    return DeltaTable.forPath(rows.sparkSession, path).alias("stored").merge(rows.alias("new"), is_same_key)


def append_with(rows: DataFrame, path: str, *, metadata: Mapping[str, Any]) -> None:
    """Append the rows in one commit, which carries `metadata` as JSON; it is made also where there are no rows."""
    _write_with(rows, path, mode="append", metadata=metadata)


def replace(rows: DataFrame, path: str, *, metadata: Mapping[str, Any], where: str | None = None) -> None:
    """Replace all rows of the table, or those of a condition in SQL, in one commit, which carries `metadata` as JSON; it is made
    also of none by none. The condition holds for `rows`.
    """
    options = {} if where is None else {"replaceWhere": where}
    _write_with(rows, path, mode="overwrite", metadata=metadata, options=options)


def _write_with(
    rows: DataFrame,
    path: str,
    *,
    mode: str,
    metadata: Mapping[str, Any],
    options: Mapping[str, str] | None = None,
) -> None:
    text = json.dumps(metadata, sort_keys=True)
    with commit_lock(path), _keeping_empty_commits(rows.sparkSession):
        rows.write.format("delta").mode(mode).options(**(options or {})).option("userMetadata", text).save(
            path
        )


@contextmanager
def commit_lock(path: str) -> Iterator[None]:
    """One writer at a time: on a local file system, and on S3, two processes that commit to one table can lose a commit.

    A thread that holds the lock may take it again. On other file systems there is no lock: there the table's log store
    keeps writers apart (HDFS, Azure and GCS do). Raises LeaseLost where another process took the lock on S3 meanwhile.
    """
    held: set[str] = _locks.__dict__.setdefault("held", set())
    if path in held or (local_path(path) is None and not can_lease(path)):
        yield
        return
    with _locked(path):
        held.add(path)
        try:
            yield
        finally:
            held.discard(path)


@contextmanager
def _locked(path: str) -> Iterator[None]:
    folder = local_path(path)
    if folder is None:
        parent, _, name = path.rpartition("/")
        lease = Lease(SparkSession.builder.getOrCreate(), f"{parent}/_{name}.lock")
        lease.take()
        try:
            yield
        finally:
            lease.give_back()
        return
    lock = files.lock(folder.with_name(f"_{folder.name}.lock"), waits=True)
    try:
        yield
    finally:
        lock.give_back(of=folder)


@contextmanager
def keeping_metadata(spark: SparkSession, path: str) -> Iterator[None]:
    """What is committed inside the block carries the metadata that the newest commit of the table has, if it has any."""
    version = newest_version(spark, path)
    newest = None if version is None else commit(spark, path, version)
    metadata = None if newest is None else newest.metadata
    options = {} if metadata is None else {_USER_METADATA: json.dumps(metadata, sort_keys=True)}
    with session_options(spark, options):
        yield


@contextmanager
def session_options(spark: SparkSession, options: Mapping[str, str]) -> Iterator[None]:
    """Settings of the session that hold inside the block; after it they are what they were before."""
    before = {key: spark.conf.get(key, None) for key in options}
    try:
        for key, value in options.items():
            spark.conf.set(key, value)
        yield
    finally:
        for key, was in before.items():
            spark.conf.unset(key) if was is None else spark.conf.set(key, was)


@contextmanager
def _keeping_empty_commits(spark: SparkSession) -> Iterator[None]:
    """Delta makes a commit also where there is nothing to write. It asks the session, which writers side by side share: the
    last of them takes the setting back.
    """
    global _keepers
    with _counting:
        _keepers += 1
        spark.conf.set(_SKIP_EMPTY_COMMITS, "false")
    try:
        yield
    finally:
        with _counting:
            _keepers -= 1
            if not _keepers:
                spark.conf.unset(_SKIP_EMPTY_COMMITS)
