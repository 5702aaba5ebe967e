"""That a query is the one that made its checkpoint: its stateful steps, its output mode, the keys of its rows."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from typing import Any

from pyspark.sql import DataFrame, SparkSession
from pyspark.version import __version__ as spark_version

from pipeline.errors import RefusedToStart
from pipeline.guards.notes import Comparison, keep_note, known_note, listed, plan_changed
from pipeline.state_stores import StateStore, state_store
from pipeline.views import View

__all__ = ["check_plan", "check_precedence", "compared_plan", "noted_store"]

_STATE_STORE, _KEPT_IN = "state store", "state is kept in"
"""What a new query would have, and what this one has."""
_STATEFUL = re.compile(r"EventTimeWatermark|Deduplicate|Aggregate|Join|TransformWithState|FlatMapGroups")
_KEYED_STATE = re.compile(r"TransformWithState|FlatMapGroups")
_WINDOW = re.compile(r"precisetimestampconversion\(.*? - (-?\d+)\) % (\d+)")
_BARE_PROJECT = re.compile(r"Project \[[\w, `]*\]$")
_ALL_FIELDS = 2**31 - 1
_LEAF = re.compile(r"(Streaming\w*|SubqueryAlias|View|\w*Relation\w*|LogicalRDD)\b")


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
        raise plan_changed(query, checkpoint, found.forbidden)
    keep_note(rows.sparkSession, checkpoint, "plan.json", found.note)
    store: StateStore = found.note[_KEPT_IN]
    return store


def check_precedence(rows: DataFrame, *, view: View) -> None:
    """That the view says which of several rows of a key counts, where they come from keyed state: RefusedToStart otherwise.

    Spark hands a key's rows to a processor Arrow batch by Arrow batch, and takes a result from each.
    """
    if not view.precedence and any(map(_KEYED_STATE.match, _stateful_steps(rows))):
        raise RefusedToStart(
            f"{view.name} is made by keyed state and has no precedence. Its state gives a row of a key for each 10,000 of the "
            "key's events in a micro-batch, and only the last of them is right.\nGive the view one that grows with each "
            'row of a key, such as precedence=("order_count",). Its version stays.'
        )


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
    then = known_note(spark, query=query, checkpoint=checkpoint, name="plan.json")
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
    told = {what: (what, listed(then.get(what)), listed(now[what])) for what in differing}
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
    then = known_note(spark, query=query, checkpoint=checkpoint, name="plan.json") or {}
    store: StateStore = then.get(_KEPT_IN, "rocksdb")
    return store


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
