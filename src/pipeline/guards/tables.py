"""That a query's tables have the columns that it writes, and hold what its finished batches have written, and nothing after."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pyspark.sql import SparkSession
from pyspark.sql import types as T

from pipeline import checkpoints, files
from pipeline.delta_log import is_table, table_schema
from pipeline.errors import CheckpointDamaged, CheckpointMismatch
from pipeline.guards.notes import Difference, anew, plan_changed, read_note
from pipeline.jvm import java_class
from pipeline.sinks import transactions
from pipeline.tables import local_path
from pipeline.views import BATCH_ID

__all__ = ["check_columns", "check_tables", "compared_columns", "table_notes"]


def check_columns(
    spark: SparkSession, *, query: str, checkpoint: str, tables: Mapping[str, T.StructType]
) -> None:
    """That the query's tables, where they are there, have the columns that it writes: PlanChanged otherwise."""
    differences = [
        difference
        for path, schema in tables.items()
        if (difference := compared_columns(spark, path, schema)) is not None
    ]
    if differences:
        raise plan_changed(query, checkpoint, differences)


def compared_columns(spark: SparkSession, path: str, schema: T.StructType) -> Difference | None:
    """How the columns of the table differ from the schema, those that do; None where none does, or there is no table.

    A speed table of earlier lakes gets the column of its micro-batches when its query starts.
    """
    stored = table_schema(spark, path)
    if stored is None:
        return None
    then, now = (
        {one.name: one.dataType.simpleString() for one in columns if one.name != BATCH_ID}
        for columns in (stored, schema)
    )
    if then == now:
        return None
    told = [
        ", ".join(f"{name} {type_}" for name, type_ in side.items() if other.get(name) != type_) or "none"
        for side, other in ((then, now), (now, then))
    ]
    return f"columns of {path}", told[0], told[1]


def check_tables(
    spark: SparkSession, *, query: str, checkpoint: str, root: str, tables: Sequence[str]
) -> None:
    """That each table holds what the query's finished batches have written, and nothing after: CheckpointMismatch otherwise.

    Raises CheckpointDamaged where a file of Spark's own is missing or damaged.
    """
    missing = checkpoints.missing_file(spark, checkpoint)
    if missing is not None:
        raise CheckpointDamaged(
            f"query {query}: {missing} is gone, though the checkpoint has come further.\n"
            "Going on would cut the log anew, and tables would take new records for a batch they have. Bring the checkpoint "
            f"back as a whole, or begin anew: {anew(checkpoint)}",
            query=query,
            file=missing,
        )
    has_finished, noted = _has_finished(spark, checkpoint), dict[str, Any]()
    if has_finished:
        noted = read_note(spark, query=query, checkpoint=checkpoint, name="tables.json")
        # One that the query did not write before, and that nothing has been written to, has come in addition.
        tables = [one for one in tables if _name(one, root) in noted or not _is_new(spark, one)]
    for table in tables:
        _check_same_generation(spark, query=query, checkpoint=checkpoint, table=table)
    for table in tables if has_finished else ():
        _check_not_behind(
            spark, query=query, checkpoint=checkpoint, table=table, noted=noted.get(_name(table, root))
        )


def table_notes(
    spark: SparkSession, *, query: str, checkpoint: str, root: str, tables: Sequence[str]
) -> Callable[[], None]:
    """A function to call after each batch's writes, before Spark marks it as done: it notes how far each table has come.

    It notes nothing for a batch that wrote nothing, and raises CheckpointMismatch where a table went backwards meanwhile.
    """
    where = f"{checkpoint}/pipeline/tables.json"
    known = dict[str, Any]()
    if _has_finished(spark, checkpoint):
        known = read_note(spark, query=query, checkpoint=checkpoint, name="tables.json")

    def note() -> None:
        now = {_name(table, root): _state_of(spark, table) for table in tables}
        if now == known:
            return
        for table in tables:
            before = known.get(_name(table, root))
            if before is not None:
                _check_not_behind(spark, query=query, checkpoint=checkpoint, table=table, noted=before)
        files.write_atomically(spark, where, json.dumps(now, sort_keys=True))
        known.clear()
        known.update(now)

    if not {_name(table, root) for table in tables} <= {*known}:
        note()  # a new query, or a table in addition: from here on it is told from one that is gone
    return note


def _is_new(spark: SparkSession, table: str) -> bool:
    return not is_table(spark, table) or not transactions(spark, table)


def _check_same_generation(spark: SparkSession, *, query: str, checkpoint: str, table: str) -> None:
    generation = checkpoints.generation(spark, checkpoint)
    if not is_table(spark, table):
        if generation is None or not _has_finished(spark, checkpoint):
            return
        raise _mismatch(
            f"the checkpoint of {query} has finished batches, but their table {table} is gone.\n"
            "Going on would leave a hole. Bring the table back, or remove the checkpoint as well to begin anew:\n"
            f"  {checkpoint}",
            query=query,
            table=table,
            checkpoint=checkpoint,
        )
    known = transactions(spark, table)
    taken = {name.partition(":")[2] for name in known if name.startswith(f"{query}:")}
    newest, begun = known.get(f"{query}:{generation}", -1), checkpoints.last_batch(spark, checkpoint)
    if newest > (-1 if begun is None else begun):
        raise _mismatch(
            f"table {table} holds batch {newest} of {query}, but the newest batch of the checkpoint is {begun}: it is an "
            "older copy, or has lost its newest files.\nGoing on would skip records, as batches that the table has. Bring "
            f"the newest checkpoint back, or remove the query's tables and its checkpoint to begin anew:\n  {checkpoint}",
            query=query,
            table=table,
            checkpoint=checkpoint,
        )
    if not taken or generation in taken:
        return
    state = "is gone or empty" if generation is None else f"is another one ({generation})"
    raise _mismatch(
        f"table {table} holds batches of {query} from checkpoint {', '.join(sorted(taken))}, but the checkpoint {state}.\n"
        "Going on would write every record again. Bring the checkpoint back, or remove the table as well to begin anew:\n"
        f"  {checkpoint}",
        query=query,
        table=table,
        checkpoint=checkpoint,
    )


def _check_not_behind(
    spark: SparkSession, *, query: str, checkpoint: str, table: str, noted: Mapping[str, Any] | None
) -> None:
    now = _state_of(spark, table)
    if noted is not None and now is not None:
        if noted == now:
            return
        if noted["id"] == now["id"] and _holds(spark, table, noted["version"], newest=now["version"]):
            return
    version = noted["version"] if noted else "none"
    raise _mismatch(
        f"query {query} has finished batches that its table {table} does not hold any more: it was restored to an earlier "
        f"version, replaced by a copy, or deleted.\nGoing on would leave a hole. Bring the rows back, where the table "
        f"still has them: RESTORE it to version {version}. Or remove the query's tables and its checkpoint to begin anew:\n"
        f"  {checkpoint}",
        query=query,
        table=table,
        checkpoint=checkpoint,
    )


def _holds(spark: SparkSession, table: str, noted: int, *, newest: int) -> bool:
    """Whether the newest version builds on the noted one: a RESTORE goes on from the version it names."""
    version = newest
    while version > noted:
        restored_to = _restored_to(spark, table, version)
        version = version - 1 if restored_to is None else restored_to
    return version == noted


def _restored_to(spark: SparkSession, table: str, version: int) -> int | None:
    """Which version this commit went back to; None for another commit, and for one whose entry is kept no more."""
    text = files.read_text(spark, f"{table}/_delta_log/{version:020d}.json") or ""
    for line in text.splitlines():
        commit = json.loads(line).get("commitInfo") if '"commitInfo"' in line else None
        if commit and commit.get("operation") == "RESTORE":
            named = commit.get("operationParameters", {}).get("version")
            return int(named) if str(named).isdigit() else -1
    return None


def _state_of(spark: SparkSession, table: str) -> dict[str, Any] | None:
    """Which table it is, and its newest version that this process has seen."""
    folder = local_path(table)
    if folder is not None and not (folder / "_delta_log").is_dir():
        return None  # the snapshot that this process knows may be of a table that is gone
    log = java_class(spark, "org.apache.spark.sql.delta.DeltaLog").forTable(spark._jsparkSession, table)
    snapshot = log.unsafeVolatileSnapshot()
    return {"id": str(snapshot.metadata().id()), "version": int(snapshot.version())}


def _has_finished(spark: SparkSession, checkpoint: str) -> bool:
    return checkpoints.last_committed_batch(spark, checkpoint) is not None


def _mismatch(message: str, *, query: str, table: str, checkpoint: str) -> CheckpointMismatch:
    return CheckpointMismatch(message, query=query, table=table, checkpoint=checkpoint)


def _name(table: str, root: str) -> str:
    """The table as it is called in the lake, which may be moved."""
    return table.removeprefix(f"{root}/")
