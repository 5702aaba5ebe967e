"""What is checked before a streaming query starts; and what is noted in its checkpoint, so that it can be checked.

Spark's checkpoint says how far a query has read, and nothing about what it has read and written. That is kept in
`<checkpoint>/pipeline/`: `sources.json` (which topics, by their ids), `plan.json` (what must not change), both written
before the first batch, and `tables.json` (the version of each table after a batch), written before Spark's own mark.

What only compares writes nothing: `pipeline plan` asks the same rules before anything starts.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from delta.tables import DeltaTable
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import types as T
from pyspark.version import __version__ as spark_version

from pipeline import checkpoints, files
from pipeline.delta_log import table_schema
from pipeline.errors import (
    CheckpointDamaged,
    CheckpointMismatch,
    DiskFull,
    OffsetsLost,
    PlanChanged,
    TopicReplaced,
)
from pipeline.jvm import java_class
from pipeline.kafka_topics import Topic, Topics, describe
from pipeline.sinks import transactions
from pipeline.state_stores import StateStore, state_store
from pipeline.tables import local_path

__all__ = [
    "Comparison",
    "Difference",
    "check_columns",
    "check_plan",
    "check_sources",
    "check_tables",
    "compared_columns",
    "compared_plan",
    "compared_sources",
    "note_rules",
    "noted_rules",
    "noted_store",
    "require_space",
    "table_notes",
]

Difference = tuple[str, str, str]
"""What differs, what it was then, what it is now."""

_MEBIBYTE = 1024 * 1024
_RULES = "contract.json"
_STATE_STORE, _KEPT_IN = "state store", "state is kept in"
"""What a new query would have, and what this one has."""
_STATEFUL = re.compile(r"EventTimeWatermark|Deduplicate|Aggregate|Join|TransformWithState|FlatMapGroups")
_WINDOW = re.compile(r"precisetimestampconversion\(.*? - (-?\d+)\) % (\d+)")
_BARE_PROJECT = re.compile(r"Project \[[\w, `]*\]$")
_ALL_FIELDS = 2**31 - 1
_LEAF = re.compile(r"(Streaming\w*|SubqueryAlias|View|\w*Relation\w*|LogicalRDD)\b")


@dataclass(frozen=True)
class Comparison:
    """How a query stands to the one that made its checkpoint.

    With `forbidden` differences it is another query, with `allowed` ones it goes on. `steps` are the stateful steps then and
    now, where they are what differs. `note` is what a start notes of it.
    """

    forbidden: Sequence[Difference] = ()
    allowed: Sequence[Difference] = ()
    steps: tuple[Sequence[str], Sequence[str]] | None = None
    note: Mapping[str, Any] = field(default_factory=dict)


def check_sources(spark: SparkSession, *, query: str, checkpoint: str, topics: Topics) -> None:
    """That the topics are those the checkpoint has read, and still hold what comes next; noted for a new query.

    A topic that has come in addition is read from its beginning, and noted. Raises PlanChanged where one is read no more, and
    as `compared_sources`.
    """
    found = compared_sources(spark, query=query, checkpoint=checkpoint, topics=topics)
    if found.forbidden:
        raise _plan_changed(query, checkpoint, found.forbidden)
    _note(spark, checkpoint, "sources.json", found.note)


def compared_sources(spark: SparkSession, *, query: str, checkpoint: str, topics: Topics) -> Comparison:
    """The topics beside those that the checkpoint has read: one that is read no more is forbidden, one in addition allowed.

    Raises TopicReplaced for a topic made anew under its old name, OffsetsLost for records that have expired before they were
    read, or that were read and are there no more.
    """
    now = describe(spark, topics)
    ids = {name: topic.id for name, topic in sorted(now.items())}
    then = _known(spark, query=query, checkpoint=checkpoint, name="sources.json")
    known = then or {}
    differences = [("topics", _listed(known), _listed(ids))]
    if not {*known} <= {*ids}:
        return Comparison(forbidden=differences)
    for name, topic_id in known.items():
        if ids[name] != topic_id:
            raise _topic_replaced(query, checkpoint, name)
    for name, partition, offset in checkpoints.next_offsets(spark, checkpoint):
        _require_offset(query, checkpoint, name, partition, offset, now.get(name))
    return Comparison(allowed=differences if then is not None and known != ids else (), note=ids)


def check_plan(
    rows: DataFrame,
    *,
    query: str,
    checkpoint: str,
    output_mode: str,
    keys: Sequence[str],
    state_partitions: int | None,
    join_state: str,
) -> StateStore:
    """That the query is the one that made the checkpoint, by `compared_plan`; noted as it is now. Gives where its state is.

    PlanChanged names each difference that must not be.
    """
    found = compared_plan(
        rows,
        query=query,
        checkpoint=checkpoint,
        output_mode=output_mode,
        keys=keys,
        state_partitions=state_partitions,
        join_state=join_state,
    )
    if found.forbidden:
        raise _plan_changed(query, checkpoint, found.forbidden)
    _note(rows.sparkSession, checkpoint, "plan.json", found.note)
    store: StateStore = found.note[_KEPT_IN]
    return store


def compared_plan(
    rows: DataFrame,
    *,
    query: str,
    checkpoint: str,
    output_mode: str,
    keys: Sequence[str],
    state_partitions: int | None,
    join_state: str,
) -> Comparison:
    """The query beside the one that made the checkpoint; no differences where none has made it yet.

    Forbidden is what would differ from its traces in state and tables: the stateful steps with their keys, conditions,
    windows and watermarks, the output mode, and the keys of the rows. What happens to a row before and between may change. The
    steps are compared as Spark writes them, so only under one version of Spark. `state_partitions` are those asked for;
    with None Spark goes on with those it has. `join_state` is where joins keep theirs; a query goes on where its state is.
    """
    spark = rows.sparkSession
    partitions = int(spark.conf.get("spark.sql.shuffle.partitions") or 0)
    steps = _stateful_steps(rows)
    now: dict[str, Any] = {
        "output mode": output_mode,
        "keys": [*keys],
        "state partitions": partitions,
        _STATE_STORE: state_store(steps, of_joins=join_state),
        "spark": spark_version,
        "stateful steps": steps,
        "whole plan": _whole_plan(rows),
    }
    then = _known(spark, query=query, checkpoint=checkpoint, name="plan.json")
    if then is None:
        return Comparison(note={**now, _KEPT_IN: now[_STATE_STORE]})
    then = {_STATE_STORE: "rocksdb", **then}  # what every query had before that was noted
    is_same_spark = then.get("spark") == spark_version
    differing = [what for what in now if then.get(what) != now[what]]
    must_stay = ["output mode", "keys"]
    must_stay += ["state partitions"] if state_partitions is not None and steps else []
    must_stay += ["stateful steps"] if is_same_spark else []
    may_change = [
        "spark",
        _STATE_STORE,
        *(["state partitions"] if state_partitions is None and steps else []),
    ]
    may_change += ["whole plan"] if is_same_spark else []
    told = {what: (what, _listed(then.get(what)), _listed(now[what])) for what in differing}
    return Comparison(
        forbidden=[told[what] for what in must_stay if what in told],
        allowed=[told[what] for what in may_change if what in told],
        steps=(then["stateful steps"], steps) if "stateful steps" in {*differing} & {*must_stay} else None,
        # Spark keeps to the partitions and the store that the state was begun with.
        note={
            **now,
            "state partitions": then.get("state partitions", partitions),
            _KEPT_IN: then.get(_KEPT_IN, "rocksdb"),
        },
    )


def noted_store(spark: SparkSession, *, query: str, checkpoint: str) -> StateStore:
    """Where the query keeps its state, which whoever reads it must know."""
    then = _known(spark, query=query, checkpoint=checkpoint, name="plan.json") or {}
    store: StateStore = then.get(_KEPT_IN, "rocksdb")
    return store


def note_rules(spark: SparkSession, *, checkpoint: str, rules: Mapping[str, Any]) -> None:
    """Keep by which rules the records are judged from now on. No start is refused for them: a dead letter is not lost."""
    _note(spark, checkpoint, _RULES, rules)


def noted_rules(spark: SparkSession, *, checkpoint: str) -> Mapping[str, Any] | None:
    """By which rules the last start judged; None where it was not noted."""
    text = files.read_text(spark, f"{checkpoint}/pipeline/{_RULES}")
    return None if text is None else dict(json.loads(text))


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
        raise _plan_changed(query, checkpoint, differences)


def compared_columns(spark: SparkSession, path: str, schema: T.StructType) -> Difference | None:
    """How the columns of the table differ from the schema, those that do; None where none does, or there is no table."""
    stored = table_schema(spark, path)
    if stored is None:
        return None
    then, now = ({one.name: one.dataType.simpleString() for one in columns} for columns in (stored, schema))
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
            f"back as a whole, or begin anew: {_anew(checkpoint)}",
            query=query,
            file=missing,
        )
    has_finished, noted = _has_finished(spark, checkpoint), dict[str, Any]()
    if has_finished:
        noted = _read_note(spark, query=query, checkpoint=checkpoint, name="tables.json")
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
    known = json.loads(files.read_text(spark, where) or "{}")

    def note() -> None:
        now = {_name(table, root): _state_of(spark, table) for table in tables}
        if now == known:
            return
        for table in tables:
            before = known.get(_name(table, root))
            if before is not None:
                _check_not_behind(spark, query=query, checkpoint=checkpoint, table=table, noted=before)
        files.replace_text(spark, where, json.dumps(now, sort_keys=True))
        known.clear()
        known.update(now)

    if not _has_finished(spark, checkpoint):
        known.clear()
        note()
    return note


def require_space(root: str, *, query: str, min_free_mebibytes: int) -> None:
    """Raise DiskFull when less is free where the lake lies. Only a local disk can be asked."""
    path = local_path(root)
    if path is None or not min_free_mebibytes:
        return
    free = shutil.disk_usage(_nearest_folder(path)).free
    if free < min_free_mebibytes * _MEBIBYTE:
        raise DiskFull(
            f"query {query}: only {free // _MEBIBYTE} MiB are free on the disk of the lake {root}; it begins no batch with "
            f"less than {min_free_mebibytes} MiB.\nWhat is finished is safe. Make room and start it again "
            "(--set lake.min_free_mebibytes=… sets the limit).",
            path=root,
            free_bytes=free,
        )


def _nearest_folder(path: Path) -> Path:
    return next(folder for folder in (path, *path.absolute().parents) if folder.exists())


def _known(spark: SparkSession, *, query: str, checkpoint: str, name: str) -> dict[str, Any] | None:
    """What was noted; None until the first batch has begun."""
    if checkpoints.last_batch(spark, checkpoint) is None:
        return None
    return _read_note(spark, query=query, checkpoint=checkpoint, name=name)


def _note(spark: SparkSession, checkpoint: str, name: str, noted: Mapping[str, Any]) -> None:
    where, text = f"{checkpoint}/pipeline/{name}", json.dumps(noted, sort_keys=True)
    if files.read_text(spark, where) != text:
        files.replace_text(spark, where, text)


def _read_note(spark: SparkSession, *, query: str, checkpoint: str, name: str) -> dict[str, Any]:
    where = f"{checkpoint}/pipeline/{name}"
    try:
        noted = json.loads(files.read_text(spark, where) or "")
    except ValueError:
        noted = None
    if not isinstance(noted, dict):
        raise CheckpointDamaged(
            f"query {query} has begun, but {where} is missing or cannot be read.\n"
            "Without it nobody can say whether topics, tables and plan are still those of the checkpoint. Bring the "
            f"checkpoint back as a whole, or begin anew: {_anew(checkpoint)}",
            query=query,
            file=where,
        )
    return noted


def _require_offset(
    query: str, checkpoint: str, name: str, partition: int, offset: int, topic: Topic | None
) -> None:
    if topic is None:
        return
    first, end = topic.offsets.get(partition, (0, 0))
    if first <= offset <= end:
        return
    if offset < first:
        what = (
            f"would go on at offset {offset}, but Kafka's first is {first}: {first - offset} offsets have expired unread.\n"
            "They may be in the log already (another query may have read them), and no query can read them from Kafka any "
            "more. Lengthen the topic's retention"
        )
    else:
        what = (
            f"has read up to offset {offset}, but Kafka's last is before {end}: {offset - end} offsets that were read are "
            "gone (a broker lost them, or an older copy was put in its place).\nFind out what happened to the topic"
        )
    raise OffsetsLost(
        f"query {query}, topic {name} partition {partition}: the query {what}; then begin anew: {_anew(checkpoint)}",
        query=query,
        topic=name,
        partition=partition,
        expected=offset,
        first=first,
        end=end,
    )


def _topic_replaced(query: str, checkpoint: str, name: str) -> TopicReplaced:
    return TopicReplaced(
        f"query {query}: topic {name} has been deleted and made anew since its checkpoint began.\n"
        "Its offsets count from 0 again, so going on would leave records out or take other records for known ones. "
        f"Give it a new topic name, or a new lake; or begin anew: {_anew(checkpoint)}",
        query=query,
        topic=name,
    )


def _plan_changed(query: str, checkpoint: str, differences: Sequence[tuple[str, str, str]]) -> PlanChanged:
    told = "\n".join(f"  {what}\n    then: {before}\n    now:  {now}" for what, before, now in differences)
    return PlanChanged(
        f"query {query} is not the one that made its checkpoint. What has changed:\n{told}\n"
        "State and tables were built by the other one. Take the change back, or give the query a new version "
        f"(views.py), which begins anew beside the old; or begin anew: {_anew(checkpoint)}",
        query=query,
        differences=differences,
    )


def _listed(value: Any) -> str:
    if isinstance(value, (list, dict)):
        return "; ".join(map(str, value)) or "none"
    return str(value)


def _anew(checkpoint: str) -> str:
    return f"remove the query's tables and its checkpoint {checkpoint}"


def _stateful_steps(rows: DataFrame) -> list[str]:
    """The stateful steps and windows of the plan, without the numbers that Spark gives to columns."""
    plan: Any = rows._jdf
    lines = plan.queryExecution().analyzed().treeString().splitlines()
    return [step for line in lines if (step := _step(line))]


def _whole_plan(rows: DataFrame) -> str:
    """A mark of all that happens to a row, whatever the code that says so looks like.

    Without what it is read from, and without steps that only choose columns: a seed is read another way at each start.
    """
    plan: Any = rows._jdf
    text = plan.queryExecution().analyzed().treeString(True, False, _ALL_FIELDS, False, False)
    steps = [_plain(line) for line in text.splitlines()]
    told = [step for step in steps if not _LEAF.match(step) and not _BARE_PROJECT.match(step)]
    return hashlib.sha256("\n".join(told).encode()).hexdigest()


def _plain(line: str) -> str:
    """A line of a plan without its place in the tree, and without the numbers and ids that Spark gives anew each time."""
    node = re.sub(r"#\d+L?", "", re.sub(r"^[ :+\-~]*", "", line))
    node = re.sub(r"\b([a-z]+)_\d+\b", r"\1", node)  # the variable of a lambda
    return re.sub(r"^(EventTimeWatermark) [0-9a-f-]{36},", r"\1", node).strip()


def _step(line: str) -> str | None:
    node = re.sub(r"#\d+L?", "", re.sub(r"^[ :+\-~]*", "", line))
    window = _WINDOW.search(node)
    if window:
        return f"Window of {window[2]} µs from {window[1]}"
    if not _STATEFUL.match(node):
        return None
    return re.sub(r"^(EventTimeWatermark) [0-9a-f-]{36},", r"\1", node).strip()


def _is_new(spark: SparkSession, table: str) -> bool:
    return not DeltaTable.isDeltaTable(spark, table) or not transactions(spark, table)


def _check_same_generation(spark: SparkSession, *, query: str, checkpoint: str, table: str) -> None:
    generation = checkpoints.generation(spark, checkpoint)
    if not DeltaTable.isDeltaTable(spark, table):
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
