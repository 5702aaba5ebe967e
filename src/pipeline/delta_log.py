"""What a Delta table's own log says: its versions, which micro-batches they hold, and what a commit says of itself.

None of it starts a Spark job where the table's checksum file is in place: a history() would, each time. What Delta has
no public way for goes through its own classes, here and nowhere else. Without a session the files of the log are read, on this
machine.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import types as T

from pipeline import files
from pipeline.errors import LakeUnreachable
from pipeline.instants import of_milliseconds
from pipeline.jvm import java_class

if TYPE_CHECKING:
    from deltalake import DeltaTable as LocalTable

__all__ = [
    "Commit",
    "DataFile",
    "append_as",
    "bytes_per_row",
    "commit",
    "commits",
    "file_count",
    "has_only_grown",
    "is_table",
    "local_table",
    "newest_transaction",
    "newest_version",
    "oldest_added",
    "put_together",
    "table_id",
    "table_property",
    "table_schema",
    "transactions",
    "unreadable",
    "version_at",
    "version_of_batch",
]

_COMMITS_LOOKED_AT = 20
_COMMIT = re.compile(r"(\d{20})\.json")


@dataclass(frozen=True)
class Commit:
    """One commit: when it was made, and the JSON that its writer gave it (None: nothing).

    `rows` were written: appended, or inserted and changed by a merge. `transactions`: the batch ids by application id.
    """

    version: int
    made_at: datetime
    metadata: dict[str, Any] | None
    rows: int
    transactions: Mapping[str, int]


@dataclass(frozen=True)
class DataFile:
    """A file of a table, with what Delta knows of it."""

    path: str
    bytes: int


def newest_version(spark: SparkSession | None, path: str) -> int | None:
    """The newest version of the table, also where another process has committed it; None where there is no table."""
    if spark is None:
        found = map(_COMMIT.fullmatch, files.names(None, f"{path}/_delta_log"))
        return max((int(name[1]) for name in found if name), default=None)
    snapshot = _snapshot_if_any(spark, path)
    return None if snapshot is None else int(snapshot.version())


def is_table(spark: SparkSession, path: str) -> bool:
    """Whether a Delta table is there by now."""
    return _snapshot_if_any(spark, path) is not None


def local_table(path: str, version: int | None = None) -> LocalTable:
    """The table of this machine as delta-rs opens it, at its newest version by default.

    Raises deltalake's TableNotFoundError where there is none, LakeUnreachable where it cannot be read.
    """
    import deltalake

    try:
        return deltalake.DeltaTable(path, version=version)
    except deltalake.exceptions.TableNotFoundError:
        raise
    except (deltalake.exceptions.DeltaError, OSError) as error:
        raise unreadable(path, error) from error


def unreadable(path: str, error: Exception) -> LakeUnreachable:
    """What an error means that is about files, not about what was asked of them."""
    return LakeUnreachable(
        f"The table {path} cannot be read: {str(error).strip().splitlines()[0]}.\n"
        "Are its files there (maintenance removes those of old versions while a long answer reads them: ask again), and may this "
        "user read them? `pipeline audit` says whether the log is whole.",
        root=path,
    )


def table_id(spark: SparkSession, path: str) -> str | None:
    """What the table keeps for as long as it lives; None where there is no table."""
    snapshot = _snapshot_if_any(spark, path)
    return None if snapshot is None else str(snapshot.metadata().id())


def table_schema(spark: SparkSession, path: str) -> T.StructType | None:
    """The columns of the table at its newest version; None where there is no table."""
    snapshot = _snapshot_if_any(spark, path)
    if snapshot is None:
        return None
    return T.StructType.fromJson(json.loads(snapshot.metadata().schemaString()))


def table_property(spark: SparkSession, path: str, name: str) -> str | None:
    """What the table, which must be there, says of this property; None where it says nothing."""
    found = _newest_snapshot(spark, path).metadata().configuration().get(name)
    return str(found.get()) if found.isDefined() else None


def bytes_per_row(spark: SparkSession, path: str) -> int:
    """About what a row of the newest commits takes in their files, at least 1 byte; 1 where none has added any."""
    newest = newest_version(spark, path) or 0
    added = [
        action["add"]
        for version in range(newest, max(-1, newest - _COMMITS_LOOKED_AT), -1)
        for action in map(json.loads, (_commit_text(spark, path, version) or "").splitlines())
        if "add" in action
    ]
    rows = sum(json.loads(one.get("stats") or "{}").get("numRecords", 0) for one in added)
    return max(1, sum(one["size"] for one in added) // rows) if rows else 1


def has_only_grown(spark: SparkSession, path: str, *, most_commits: int) -> bool:
    """Whether the table's log still keeps each commit from the first on, and none has taken a file out; False where there are more."""
    newest = newest_version(spark, path)
    if newest is None or newest > most_commits:
        return False
    texts = (_commit_text(spark, path, version) for version in range(newest, -1, -1))
    return all(text is not None and '{"remove":' not in text for text in texts)


def transactions(spark: SparkSession, path: str) -> dict[str, int]:
    """The newest batch id by application id that the table has taken."""
    snapshot = _newest_snapshot(spark, path)
    noted = _checksum(spark, path, int(snapshot.version())).get("setTransactions")
    if noted is None:
        return _of_snapshot(spark, snapshot)
    return {action["appId"]: int(action["version"]) for action in noted}


def _checksum(spark: SparkSession, path: str, version: int) -> Mapping[str, Any]:
    """What Delta has written down of the table at this version; empty where it has not."""
    text = files.read_text(spark, f"{path}/_delta_log/{version:020d}.crc")
    return {} if text is None else json.loads(text)


def append_as(rows: DataFrame, path: str, *, application: str, batch_id: int) -> None:
    """Append the rows in one commit that carries this application id and batch id, whatever the table has taken before; no rows
    make no commit.

    The options `txnAppId` and `txnVersion` do the same, but have Delta build the table's whole state before each
    commit, to see whether it has the batch: two Spark jobs, and more the longer the table lives. `rows` must have the
    table's columns.
    """
    spark = rows.sparkSession
    option = java_class(spark, "scala.Option")
    change = _log(spark, path).startTransaction(option.empty(), option.apply(_newest_snapshot(spark, path)))
    columns, wanted = (schema.catalogString() for schema in (rows._jdf.schema(), change.metadata().schema()))
    if columns != wanted:
        raise TypeError(f"rows of {columns} do not fit the table {path} of {wanted}")
    added = change.writeFiles(rows._jdf)
    if added.isEmpty():
        return
    now_ms = int(datetime.now(timezone.utc).timestamp() * 1000)
    taken = java_class(spark, "org.apache.spark.sql.delta.actions.SetTransaction")(
        application, batch_id, option.apply(now_ms)
    )
    append = java_class(spark, "org.apache.spark.sql.SaveMode").Append
    write = java_class(spark, "org.apache.spark.sql.delta.DeltaOperations$Write")
    change.commit(added.appended(taken), write(append, *[option.empty()] * 8))


def file_count(spark: SparkSession, path: str) -> int:
    """How many files the table has, as this process knows it. Delta itself would build the table's whole state to say so."""
    known = _log(spark, path).unsafeVolatileSnapshot()
    noted = _checksum(spark, path, int(known.version())).get("numFiles")
    return int(known.numOfFiles() if noted is None else noted)


def put_together(
    spark: SparkSession,
    path: str,
    *,
    chosen: Callable[[Sequence[DataFile]], Sequence[DataFile]],
    rows_of: Callable[[DataFrame, Sequence[DataFile]], DataFrame],
) -> tuple[int, int]:
    """Put the chosen files together, in one commit: in their place come the rows that `rows_of` makes of theirs. How many files
    the table had, and has.

    The commit says that no data has changed, so that no stream takes the rows for new ones, and an append of another process
    meanwhile is no conflict. Raises DeltaConcurrentModificationException where one of the files has gone meanwhile.
    """
    log, snapshot = _log(spark, path), _newest_snapshot(spark, path)
    converters = java_class(spark, "scala.jdk.javaapi.CollectionConverters")
    held = {file.path(): file for file in snapshot.allFiles().collectAsList()}
    files_of = chosen([DataFile(name, int(file.size())) for name, file in held.items()])
    if not files_of:
        return len(held), len(held)
    option = java_class(spark, "scala.Option")
    old = [held[one.path] for one in files_of]
    actions = converters.asScala(spark._jvm.java.util.ArrayList(old)).toSeq()  # type: ignore[union-attr]
    rows = DataFrame(log.createDataFrame(snapshot, actions, False, option.empty()), spark)
    change = log.startTransaction(option.empty(), option.apply(snapshot))
    none = java_class(spark, "scala.collection.immutable.Nil$").__getattr__("MODULE$")
    written = change.writeFiles(rows_of(rows, files_of)._jdf, option.empty(), True, none)
    now_ms = int(datetime.now(timezone.utc).timestamp() * 1000)
    new = [_unchanged(file) for file in converters.asJava(written)]
    gone = [file.removeWithTimestamp(now_ms, False) for file in old]
    optimize = java_class(spark, "org.apache.spark.sql.delta.DeltaOperations$Optimize")
    change.commit(
        converters.asScala(spark._jvm.java.util.ArrayList([*new, *gone])).toSeq(),  # type: ignore[union-attr]
        optimize(none, none, False, option.empty(), False),
    )
    return len(held), len(held) - len(old) + len(new)


def _unchanged(added: Any) -> Any:
    """The same file, not as a change of data."""
    defaults = [getattr(added, f"copy$default${number}")() for number in range(1, 14)]
    defaults[4] = False
    return added.copy(*defaults)


def newest_transaction(
    spark: SparkSession | None, path: str, version: int, *, query: str
) -> tuple[str, int] | None:
    """Application id and batch id of the query's newest commit up to this version; None where it made none, and without a
    session where its file is cleaned away.
    """
    for number in range(version, -1, -1):
        if spark is None and _commit_text(None, path, number) is None:
            return None
        taken = _committed(spark, path, number)
        found = next((one for one in taken.items() if one[0].startswith(f"{query}:")), None)
        if found is not None:
            return found
    return None


def version_of_batch(spark: SparkSession, path: str, *, application: str, batch_id: int) -> int | None:
    """The newest version that holds nothing of later batches of the application; None where there is no table."""
    newest = newest_version(spark, path)
    for number in range(newest or 0, 0, -1):
        taken = _committed(spark, path, number).get(application)
        if taken is not None and taken <= batch_id:
            break
        if taken is not None:
            newest = number - 1
    return newest


def _committed(spark: SparkSession | None, path: str, version: int) -> dict[str, int]:
    """The batch ids by application id of one commit; where its file is cleaned away, all up to it.

    Read from the file: a snapshot of an older version is a Spark job, and stays in memory for an hour.
    """
    text = _commit_text(spark, path, version)
    if text is None:
        assert spark is not None
        log = _log(spark, path)
        defaults = (getattr(log, f"getSnapshotAt$default${number}")() for number in (2, 3, 4))
        return _of_snapshot(spark, log.getSnapshotAt(version, *defaults))
    return _transactions_in(text)


def _of_snapshot(spark: SparkSession, snapshot: Any) -> dict[str, int]:
    converters = java_class(spark, "scala.jdk.javaapi.CollectionConverters")
    taken = converters.asJava(snapshot.setTransactions())
    return {action.appId(): int(action.version()) for action in taken}


def commit(spark: SparkSession | None, path: str, version: int) -> Commit | None:
    """What the commit says of itself; None where the table's log no longer keeps it."""
    text = _commit_text(spark, path, version)
    if text is None:
        return None
    actions = (json.loads(line) for line in text.splitlines() if '"commitInfo"' in line)
    info: dict[str, Any] = next((action["commitInfo"] for action in actions if "commitInfo" in action), {})
    made_at = of_milliseconds(info.get("timestamp", 0))
    metadata = info.get("userMetadata")
    return Commit(
        version,
        made_at,
        json.loads(metadata) if metadata else None,
        _rows_written(info.get("operationMetrics", {})),
        _transactions_in(text),
    )


def commits(spark: SparkSession | None, path: str) -> Iterator[Commit]:
    """The commits that the table's log still keeps one by one, the newest first; none where there is no table."""
    newest = newest_version(spark, path)
    for version in range(-1 if newest is None else newest, -1, -1):
        made = commit(spark, path, version)
        if made is None:
            return
        yield made


def version_at(spark: SparkSession | None, path: str, at: datetime) -> int | None:
    """The newest version that was committed at `at` or before; None where there was no table yet, or its log keeps none so old."""
    newest = newest_version(spark, path)
    if newest is None:
        return None
    # Commits follow each other in time; those that are cleaned away are older than those that are kept.
    found, first, end = None, 0, newest + 1
    while first < end:
        middle = (first + end) // 2
        made = commit(spark, path, middle)
        if made is None or made.made_at <= at:
            found, first = (middle if made else found), middle + 1
        else:
            end = middle
    return found


def oldest_added(spark: SparkSession, path: str, column: str, *, after: int, through: int) -> datetime | None:
    """The smallest time in the column among the rows that these versions have added, or up to a millisecond less; None where
    they added none. Told by the statistics of the files, which are not read.

    Raises LookupError where a version did anything else than add rows or put files together, or cannot tell any more.
    """
    oldest = None
    for version in range(after + 1, through + 1):
        text = _commit_text(spark, path, version)
        if text is None:
            raise LookupError(f"version {version} of {path} is no longer kept")
        actions = [*map(json.loads, text.splitlines())]
        removed = [action["remove"] for action in actions if "remove" in action]
        if any(one["dataChange"] for one in removed):
            raise LookupError(f"version {version} of {path} removes rows")
        if removed:
            continue  # files were put together
        for action in actions:
            if "add" in action:
                smallest = _smallest(action["add"], column)
                oldest = smallest if oldest is None else min(oldest, smallest)
    return oldest


def _smallest(added: Mapping[str, Any], column: str) -> datetime:
    """Raises LookupError where the file has no statistics of the column, or a year of five digits."""
    told = json.loads(added.get("stats") or "{}").get("minValues", {}).get(column)
    if told is None:
        raise LookupError(f"{added['path']} does not say its smallest {column}")
    try:
        return datetime.fromisoformat(told.replace("Z", "+00:00"))
    except ValueError:
        raise LookupError(f"{added['path']} says {told} of its smallest {column}") from None


def _rows_written(metrics: Mapping[str, str]) -> int:
    merged = [name for name in ("numTargetRowsInserted", "numTargetRowsUpdated") if name in metrics]
    return sum(int(metrics[name]) for name in merged or ["numOutputRows"] if name in metrics)


def _transactions_in(text: str) -> dict[str, int]:
    actions = (json.loads(line) for line in text.splitlines() if line.startswith('{"txn"'))
    return {action["txn"]["appId"]: int(action["txn"]["version"]) for action in actions}


def _commit_text(spark: SparkSession | None, path: str, version: int) -> str | None:
    return files.read_text(spark, _commit_file(path, version))


def _commit_file(path: str, version: int) -> str:
    return f"{path}/_delta_log/{version:020d}.json"


def _snapshot_if_any(spark: SparkSession, path: str) -> Any | None:
    """The table as it is now; None where there is no table.

    `DeltaTable.isDeltaTable` goes on saying no in a process that has asked once between the making of the folder and the first commit.
    """
    if not files.exists(
        spark, f"{path}/_delta_log"
    ):  # a Delta log of its own would be kept in memory for each path that is asked for
        return None
    snapshot = _newest_snapshot(spark, path)
    return snapshot if int(snapshot.version()) >= 0 else None


def _newest_snapshot(spark: SparkSession, path: str) -> Any:
    """The table as it is now. Delta would list the folder of its log to see that, which takes longer with every commit."""
    log = _log(spark, path)
    known = log.unsafeVolatileSnapshot()
    if _is_newest(spark, path, known):
        return known
    none = java_class(spark, "scala.Option").empty()
    return log.update(False, none, none)


def _is_newest(spark: SparkSession, path: str, known: Any) -> bool:
    """Whether the commit that made it lies there as this process has met it, and none after it."""
    version = int(known.version())
    made_at = of_milliseconds(known.logSegment().lastCommitFileModificationTimestamp())
    is_there = files.modified_at(spark, _commit_file(path, version)) == made_at
    return is_there and not files.exists(spark, _commit_file(path, version + 1))


def _log(spark: SparkSession, path: str) -> Any:
    return java_class(spark, "org.apache.spark.sql.delta.DeltaLog").forTable(spark._jsparkSession, path)
