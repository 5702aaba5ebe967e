"""Batch against speed, row by row, over what both have closed; each difference has one cause, or is `unexplained`.

The two tables are compared as they are. Rows that differ are explained by events: the way from what the batch counted
to what the query counted is walked in steps, each of which takes away (or adds) the events that the ledger,
`late_events` or the repairs name. The view over the first step must be the batch row, over the last one the speed row,
to the cent; the first step that changes a row is its cause. So a lost row is unexplained also where events came late.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from functools import partial, reduce
from itertools import product
from math import prod
from pathlib import Path
from typing import Any

from pyspark.sql import Column, DataFrame, Row, SparkSession, Window
from pyspark.sql import functions as F

from pipeline import checkpoints, evidence, late, ledger
from pipeline.console import step
from pipeline.contracts import (
    CONTRACT_VERSION,
    ORDER_CANCELLED,
    ORDER_IDENTITY,
    ORDERS,
    PRODUCT_IDENTITY,
    RECORD_IDENTITY,
    TEXT_LINES,
)
from pipeline.delta_log import newest_version, version_of_batch
from pipeline.errors import RefusedToStart
from pipeline.evidence import Evidence, unrepaired
from pipeline.published import Published, Snapshot, events_of, published, seed_of
from pipeline.session import session, side_by_side
from pipeline.settings import Settings
from pipeline.sinks import Transaction, commit_lock, create_table
from pipeline.sources import read_version
from pipeline.tables import (
    ORDER_EVENTS,
    PRODUCT_EVENTS,
    RECONCILIATION,
    SCHEMAS,
    checkpoint_path,
    local_path,
    table_path,
    view_path,
)
from pipeline.views import VIEWS, Reading, View, best_of_each_key

__all__ = ["CAUSES", "Agreement", "run", "speed_table"]

LATE, REPAIRED, CONFLICTING, CONTRACT_CHANGED = "late", "repaired", "conflicting", "contract_changed"
OPEN, UNEXPLAINED = "open", "unexplained"
CAUSES = (LATE, REPAIRED, CONFLICTING, CONTRACT_CHANGED, OPEN, UNEXPLAINED)

_EXAMPLES = 20
_MOST_RIVALS = 1_000
_MOST_WORLDS = 64
"""Ways to choose among conflicting copies that are tried for the keys they touch; beyond, a row stays unexplained."""


@dataclass(frozen=True)
class Agreement:
    """How many rows of a view both layers have closed, how many of them are equal, and from which cause the others differ.

    `horizon` is the time up to which both are closed; None where nothing cuts the view. `open` counts also the rows
    that the horizon has not reached. `late_events` are those of its query, `unexplained_keys` some of the rows without cause.
    """

    view: str
    horizon: datetime | None
    compared: int
    equal: int
    late: int
    unexplained: int
    late_events: int
    repaired: int = 0
    conflicting: int = 0
    contract_changed: int = 0
    open: int = 0
    unexplained_keys: Sequence[str] = ()
    batch_version: int = 0
    speed_version: int = 0
    log_versions: Mapping[str, int] = field(default_factory=dict)


def run(settings: Settings, *, views: Sequence[str] = (), report: str | None = None) -> list[Agreement]:
    """Compare the views (all by default), enter what was late, and keep the result as a table and in Markdown.

    `report` is the Markdown file, by default `reconciliation.md` in a lake on this machine. Raises RefusedToStart where
    a layer has no table yet.
    """
    spark = session(settings)
    with step("late events"):
        found = evidence.collect(spark, settings)
        if found.scopes:
            evidence.enter_late_events(spark, settings, found)

    def agreement(name: str) -> Agreement:
        with step(f"reconcile {name}"):
            return _agreement(spark, settings, VIEWS[name], found)

    agreements = side_by_side(spark, [partial(agreement, name) for name in views or VIEWS])
    missed = late.recorded(spark, settings.lake.root).groupBy("query").count().collect()
    late_events = {row["query"]: row["count"] for row in missed}
    agreements = [replace(one, late_events=late_events.get(one.view, 0)) for one in agreements]
    _keep(spark, settings, agreements, report=report)
    return agreements


def _agreement(spark: SparkSession, settings: Settings, view: View, found: Evidence) -> Agreement:
    newest = _batch_table(spark, settings, view)
    speed = speed_table(spark, settings, view, found)
    if newest is None or speed is None:
        layer = "batch" if newest is None else "speed"
        raise RefusedToStart(
            f"{view.name} has no {layer} table yet: run `pipeline {layer} {view.name}` first."
        )
    horizon = _closed_by_both(spark, settings, view, newest, found)
    sides = {
        "batch": _batch_side(spark, settings, view, newest, found),
        "speed": read_version(spark, *speed),
    }
    compared = _compared(sides, view=view, horizon=horizon).persist()
    try:
        counts = {row["verdict"]: row["count"] for row in compared.groupBy("verdict").count().collect()}
        unexplained = []
        if counts.get("twice"):
            unexplained = compared.where(F.col("verdict") == "twice").limit(_EXAMPLES).collect()
        causes = {}
        if counts.get("differs"):
            closed = compared.where(F.col("verdict").isin("equal", "differs"))
            explained = _explained(spark, settings, view, closed, newest=newest, found=found).persist()
            causes = {row["cause"]: row["count"] for row in explained.groupBy("cause").count().collect()}
            if causes.get(UNEXPLAINED):
                unexplained += explained.where(F.col("cause") == UNEXPLAINED).limit(_EXAMPLES).collect()
            explained.unpersist()
    finally:
        compared.unpersist()
    return Agreement(
        view=view.name,
        horizon=horizon,
        compared=sum(count for verdict, count in counts.items() if verdict != "open"),
        equal=counts.get("equal", 0),
        late=causes.get(LATE, 0),
        unexplained=causes.get(UNEXPLAINED, 0) + counts.get("twice", 0),
        late_events=0,
        repaired=causes.get(REPAIRED, 0),
        conflicting=causes.get(CONFLICTING, 0),
        contract_changed=causes.get(CONTRACT_CHANGED, 0),
        open=causes.get(OPEN, 0) + counts.get("open", 0),
        unexplained_keys=[_key_text(row, view) for row in unexplained[:_EXAMPLES]],
        batch_version=newest.version,
        speed_version=speed[1],
        log_versions=dict(found.log.versions),
    )


def _compared(sides: Mapping[str, DataFrame], *, view: View, horizon: datetime | None) -> DataFrame:
    """Each key that a side has, with both rows and a `verdict`: open, equal, differs, or twice where a table has a key twice."""
    values = F.struct(*[name for name in view.columns if name not in view.keys])
    rows = reduce(
        DataFrame.unionByName,
        [
            rows.select(
                *view.keys,
                values.alias("row"),
                _is_closed(view, horizon).alias("is_closed"),
                F.lit(side).alias("side"),
            )
            for side, rows in sides.items()
        ],
    )
    is_twice = F.count(F.lit(1)) > F.count_distinct("side")
    by_key = rows.groupBy(*view.keys).agg(
        *[F.max(F.when(F.col("side") == side, F.col("row"))).alias(side) for side in sides],
        F.bool_or("is_closed").alias("is_closed"),
        is_twice.alias("is_twice"),
    )
    verdict = (
        F.when(~F.col("is_closed"), "open")
        .when(F.col("is_twice"), "twice")
        .when(_same("batch", "speed"), "equal")
        .otherwise("differs")
    )
    return by_key.withColumn("verdict", verdict)


def _is_closed(view: View, horizon: datetime | None) -> Column:
    if view.settles_by is None:
        return F.lit(True)
    if horizon is None:
        return F.lit(False)
    time = F.col(view.settles_by)
    return time <= F.lit(horizon) if view.settles_by == "window_end" else time < F.lit(horizon)


def _same(one: str, other: str) -> Column:
    return F.col(one).eqNullSafe(F.col(other))


def _closed_by_both(
    spark: SparkSession, settings: Settings, view: View, newest: Published, found: Evidence
) -> datetime | None:
    """The earlier of the batch's horizon and the one that the watermark of the newest judged batch gives."""
    if view.horizon is None or newest.horizon is None:
        return None
    if view.settles_by is None:
        return newest.horizon
    scope = found.scopes.get(view.name)
    checkpoint = checkpoint_path(settings.lake.root, view.query)
    watermark = checkpoints.watermark_of(spark, checkpoint, scope.judged) if scope else None
    return min(newest.horizon, view.horizon(watermark)) if watermark else None


def speed_table(
    spark: SparkSession, settings: Settings, view: View, found: Evidence
) -> tuple[str, int] | None:
    """Path and version of the speed table as the newest judged batch left it."""
    path = view_path(settings.lake.root, view.name, "speed", view.version)
    scope = found.scopes.get(view.name)
    if scope is None:
        return None
    application = Transaction(view.query, scope.generation, 0).application
    version = version_of_batch(spark, path, application=application, batch_id=scope.judged)
    return None if version is None else (path, version)


def _batch_table(spark: SparkSession, settings: Settings, view: View) -> Published | None:
    """The batch table as it is: what was published last, at the table's newest version, if somebody has changed it since."""
    path = view_path(settings.lake.root, view.name, "batch", view.version)
    version = newest_version(spark, path)
    newest = published(spark, settings, view)
    if newest is None or version is None:
        return None
    return replace(newest, version=max(version, newest.version))


def _batch_side(
    spark: SparkSession, settings: Settings, view: View, newest: Published, found: Evidence
) -> DataFrame:
    """The batch table; totals with what the query has counted from the batch's horizon on, as the served view adds it."""
    rows = read_version(spark, newest.path, newest.version)
    if not view.is_seeded or newest.horizon is None or view.name not in found.scopes:
        return rows
    flagged = [
        _flagged(
            _events(spark, settings, reading, found).where(F.col("event_time") >= F.lit(newest.horizon)),
            spark,
            settings,
            view,
            source,
            newest=newest,
            found=found,
        )
        for source, reading in enumerate(view.reads)
    ]
    recent = _view_over(view, [events.where(_is_met(view.reads[i])) for i, events in enumerate(flagged)])
    return (
        rows.select(*recent.columns)
        .unionByName(recent)
        .groupBy("customer_id")
        .agg(
            F.sum("order_count").cast("long").alias("order_count"),
            F.sum("total_spend").cast(view.schema["total_spend"].dataType).alias("total_spend"),
            F.max("last_event_time").alias("last_event_time"),
        )
    )


def _explained(
    spark: SparkSession,
    settings: Settings,
    view: View,
    closed: DataFrame,
    *,
    newest: Published,
    found: Evidence,
) -> DataFrame:
    """Those of the closed keys that differ, each with its `cause`."""
    differing = closed.where(F.col("verdict") == "differs").select(*view.keys, "batch", "speed")
    if view.reads[0].kind == TEXT_LINES:
        return _explained_counts(spark, settings, view, differing, newest=newest, found=found)
    keys = differing.select(*view.keys)
    flagged = [
        _flagged(
            _concerned(_events(spark, settings, reading, found), keys, view=view, reading=reading),
            spark,
            settings,
            view,
            source,
            newest=newest,
            found=found,
        ).persist()
        for source, reading in enumerate(view.reads)
    ]
    steps, has_changed = _steps(flagged, view)
    values = [_view_over(view, rows) for _, rows in steps]
    again = []
    if has_changed:
        decoded = [
            _decoded_again(spark, settings, events, reading, found)
            for events, reading in zip(flagged, view.reads, strict=True)
        ]
        others, _ = _steps(decoded, view)
        again = [_view_over(view, rows) for _, rows in (others[0], others[-1])]
    explained = _with_cause(differing, values, again, view=view, causes=[cause for cause, _ in steps])
    explained = explained.persist()
    if not explained.where(F.col("cause") == UNEXPLAINED).isEmpty():
        explained = _with_choices(explained, flagged, closed, view=view).persist()
        explained.count()
    for events in flagged:
        events.unpersist()
    return explained


def _events(spark: SparkSession, settings: Settings, reading: Reading, found: Evidence) -> DataFrame:
    """What a source of a query may have read: the events of its kind and type in the log as it is now."""
    events = events_of(spark, settings, reading.kind, log=found.log)
    return events if reading.event_type is None else events.where(F.col("event_type") == reading.event_type)


def _concerned(events: DataFrame, keys: DataFrame, *, view: View, reading: Reading) -> DataFrame:
    """The events that can have a part in rows of these keys, every copy of each; versions of products all may."""
    if reading.kind != ORDERS:
        return events
    shared = [name for name in view.keys if name in events.columns]
    named = events.join(F.broadcast(keys.select(*shared).distinct()), on=shared, how="left_semi")
    identities = named.select(*ORDER_IDENTITY).distinct()
    return events.join(identities, on=[*ORDER_IDENTITY], how="left_semi")


def _flagged(
    events: DataFrame,
    spark: SparkSession,
    settings: Settings,
    view: View,
    source: int,
    *,
    newest: Published,
    found: Evidence,
) -> DataFrame:
    """The events, each with what became of it: was it in the log of the batch run, repaired, read by the query, in time?

    is_counted and is_late are of its identity (a copy in time, or copies read and none in time), is_first marks the
    copy that the query met first, is_conflicting an identity with differing contents, is_rival each copy in time in
    the batch that the query met it in.
    """
    scope, reading = found.scopes[view.name], view.reads[source]
    contents = [name for name in events.columns if name not in (*RECORD_IDENTITY, "contract_version")]
    ranges = ledger.within(found.entries, {view.query: scope.judged}).where(F.col("source") == source)
    rows = ledger.with_batch(events, ranges, columns=("batch_id", "watermark"), how="left")
    log = events_of(spark, settings, reading.kind, log=newest.log)
    rows = _with_presence(rows, log, "in_batch", is_all=_is_same_log(newest.log, found.log, reading))
    rows = _with_presence(rows, found.repaired, "is_repaired", is_all=False)
    rows = _with_seed(rows, spark, settings, view, reading, found)
    rows = rows.withColumn("is_read", F.col("batch_id").isNotNull() & ~F.col("is_repaired"))
    rows = rows.withColumn("is_in_time", F.col("is_read") & late.is_in_time())
    identity = ORDER_IDENTITY if reading.kind == ORDERS else PRODUCT_IDENTITY
    copies = Window.partitionBy(*identity)
    content = F.xxhash64(*contents)
    as_met = copies.orderBy(F.desc("is_in_time"), "batch_id", "partition", "offset")
    rows = rows.withColumns(
        {
            "is_counted": F.max("is_in_time").over(copies),
            "is_late": F.max("is_read").over(copies) & ~F.max("is_in_time").over(copies),
            "is_first": F.row_number().over(as_met) == 1,
            "is_conflicting": F.min(content).over(copies) != F.max(content).over(copies),
            "is_rival": F.col("is_in_time")
            & (F.col("batch_id") == F.min(F.when(F.col("is_in_time"), F.col("batch_id"))).over(copies)),
            "is_changed": F.col("contract_version") != CONTRACT_VERSION,
        }
    )
    if view.is_seeded and newest.horizon is not None:
        is_before = F.col("event_time") < F.lit(newest.horizon)
        rows = rows.withColumn("in_batch", F.when(is_before, F.col("in_batch")).otherwise(_is_met(reading)))
    return rows


def _with_presence(rows: DataFrame, others: DataFrame, name: str, *, is_all: bool) -> DataFrame:
    """The rows, each with whether its address is among the others'."""
    if is_all:
        return rows.withColumn(name, F.lit(True))
    addresses = others.select(*RECORD_IDENTITY).distinct().withColumn(name, F.lit(True))
    joined = rows.join(addresses, on=[*RECORD_IDENTITY], how="left")
    return joined.withColumn(name, F.coalesce(name, F.lit(False)))


def _is_same_log(one: Snapshot, other: Snapshot, reading: Reading) -> bool:
    table = ORDER_EVENTS if reading.kind == ORDERS else PRODUCT_EVENTS
    return one.versions[table] == other.versions[table]


def _with_seed(
    rows: DataFrame,
    spark: SparkSession,
    settings: Settings,
    view: View,
    reading: Reading,
    found: Evidence,
) -> DataFrame:
    """What a seeded query began with counts as read, in time, by a batch before its first; the rest of that time as unread."""
    seed = seed_of(spark, settings, view)
    if seed is None or seed.horizon is None:
        return rows
    log = events_of(spark, settings, reading.kind, log=seed.log)
    rows = _with_presence(rows, log, "in_seed", is_all=_is_same_log(seed.log, found.log, reading))
    is_before = F.col("event_time") < F.lit(seed.horizon)
    seeded = F.when(F.col("in_seed"), F.lit(-1).cast("long"))
    return rows.withColumns(
        {
            "batch_id": F.when(is_before, seeded).otherwise(F.col("batch_id")),
            "watermark": F.when(~is_before, F.col("watermark")),
            "is_repaired": F.col("is_repaired") & ~(is_before & F.col("in_seed")),
        }
    ).drop("in_seed")


def _is_met(reading: Reading) -> Column:
    """Whether the query has taken just this copy: creations are counted once, the first that came; others add nothing twice."""
    is_counted_once = reading.kind == ORDERS and reading.event_type != ORDER_CANCELLED
    return F.col("is_in_time") & F.col("is_first") if is_counted_once else F.col("is_in_time")


def _steps(flagged: Sequence[DataFrame], view: View) -> tuple[list[tuple[str, list[DataFrame]]], bool]:
    """From what the batch counted to what the query counted: (cause, the events of each source), and whether a contract changed.

    Only causes that occur among these events make a step.
    """
    in_batch, is_late, is_repaired = F.col("in_batch"), F.col("is_late"), F.col("is_repaired")
    unmissed = in_batch & ~is_late
    unrepaired = unmissed & ~is_repaired
    read = F.col("is_counted") & F.col("is_read")
    occurs = {
        LATE: in_batch & is_late,
        REPAIRED: in_batch & is_repaired,
        OPEN: unrepaired != read,
        CONFLICTING: F.col("is_conflicting"),
        CONTRACT_CHANGED: F.col("is_changed"),
    }
    counts = [
        rows.agg(*[F.count_if(which).alias(name) for name, which in occurs.items()]) for rows in flagged
    ]
    found = reduce(DataFrame.unionByName, counts).collect()
    present = {name for name in occurs if any(row[name] for row in found)}
    chosen = {LATE: unmissed, REPAIRED: unrepaired, OPEN: read}
    steps = [("", [rows.where(in_batch) for rows in flagged])]
    steps += [
        (cause, [rows.where(which) for rows in flagged])
        for cause, which in chosen.items()
        if cause in present
    ]
    met = [rows.where(_is_met(reading)) for rows, reading in zip(flagged, view.reads, strict=True)]
    if CONFLICTING in present:
        steps.append((CONFLICTING, met))
    elif len(steps) > 1:
        steps[-1] = (steps[-1][0], met)
    return steps, CONTRACT_CHANGED in present


def _view_over(view: View, sources: Sequence[DataFrame]) -> DataFrame:
    """The view over these events, one DataFrame for each source of its query."""
    inputs = [
        reduce(
            DataFrame.unionByName,
            [rows for rows, reading in zip(sources, view.reads, strict=True) if reading.kind == kind],
        )
        for kind in view.inputs
    ]
    return best_of_each_key(view.define(*inputs), view=view).select(*view.schema.names)


def _decoded_again(
    spark: SparkSession, settings: Settings, flagged: DataFrame, reading: Reading, found: Evidence
) -> DataFrame:
    """The same events, those of another version of the contract as the present one reads their bytes."""
    changed = flagged.where(F.col("is_changed"))
    raw = events_of(spark, settings, reading.kind, log=found.log, origin="raw")
    flags = [name for name in flagged.columns if name not in raw.columns]
    decoded = raw.join(F.broadcast(changed.select(*RECORD_IDENTITY, *flags)), on=[*RECORD_IDENTITY])
    if reading.event_type is not None:
        decoded = decoded.where(F.col("event_type") == reading.event_type)
    return flagged.where(~F.col("is_changed")).unionByName(decoded.select(*flagged.columns))


def _with_cause(
    differing: DataFrame,
    values: Sequence[DataFrame],
    again: Sequence[DataFrame],
    *,
    view: View,
    causes: Sequence[str],
) -> DataFrame:
    """The differing keys with the rows of every step, and the cause: the first step that changes the row.

    `again` are the first and the last step with events decoded again, where a contract has changed.
    """
    steps = {f"step_{number}": rows for number, rows in enumerate(values)}
    others = dict(zip(("first_again", "last_again"), again, strict=False))
    row = F.struct(*[name for name in view.columns if name not in view.keys])
    keys = F.broadcast(differing.select(*view.keys))
    rows = reduce(
        DataFrame.unionByName,
        [
            side.select(*view.keys, row.alias("row"), F.lit(name).alias("side"))
            for name, side in {**steps, **others}.items()
        ],
    ).join(keys, on=[*view.keys], how="left_semi")
    told = rows.groupBy(*view.keys).agg(
        *[F.max(F.when(F.col("side") == side, F.col("row"))).alias(side) for side in (*steps, *others)]
    )
    joined = differing.join(told, on=[*view.keys], how="left")
    names = [*steps]
    is_told = _same("batch", names[0]) & _same("speed", names[-1])
    changes = [
        F.when(~_same(before, after), F.lit(cause))
        for before, after, cause in zip(names, names[1:], causes[1:], strict=False)
    ]
    cause = F.when(is_told, F.coalesce(*changes, F.lit(UNEXPLAINED)))
    if again:
        is_told_again = (_same("batch", names[0]) | _same("batch", "first_again")) & (
            _same("speed", names[-1]) | _same("speed", "last_again")
        )
        cause = cause.when(is_told_again, CONTRACT_CHANGED)
    return joined.withColumn("cause", cause.otherwise(UNEXPLAINED))


@dataclass(frozen=True)
class _Choices:
    """Ways in which the query may have chosen among copies that one of its batches held, in groups that share no key.

    `worlds` are (key, group, number) for each way to choose within the group of that key, `picks` the copies taken in it,
    as (group, number, partition, offset), and `rivals` all copies that there are to choose from.
    """

    worlds: Sequence[tuple[str, int, int]]
    picks: Sequence[tuple[int, int, int, int]]
    rivals: Sequence[tuple[int, int]]


def _with_choices(
    explained: DataFrame, flagged: Sequence[DataFrame], closed: DataFrame, *, view: View
) -> DataFrame:
    """What is unexplained is conflicting where one choice among rival copies gives just what the speed table has.

    One choice for all keys that the copies touch: an event that is in none of the rows is not explained by its being
    in another one. Each way to choose is computed beside the others, its number written before the key.
    """
    base = "customer_id" if "customer_id" in view.keys else "order_id"
    choices = _choices(flagged[0], base)
    if not choices.worlds:
        return explained
    spark = explained.sparkSession
    worlds = F.broadcast(spark.createDataFrame(choices.worlds, f"{base} string, group int, world int"))
    picks = F.broadcast(
        spark.createDataFrame(choices.picks, "group int, world int, partition int, offset bigint")
    )
    rivals = F.broadcast(spark.createDataFrame(choices.rivals, "partition int, offset bigint"))
    numbered = F.concat_ws("|", "world", base)
    inputs = []
    for source, (rows, reading) in enumerate(zip(flagged, view.reads, strict=True)):
        met = rows.where(_is_met(reading))
        if reading.kind == ORDERS:
            rest = met.join(rivals, on=["partition", "offset"], how="left_anti") if source == 0 else met
            in_worlds = rest.join(worlds, on=[base]).select(*rows.columns, "world")
            if source == 0:
                picked = rows.join(picks, on=["partition", "offset"]).select(*rows.columns, "world")
                in_worlds = in_worlds.unionByName(picked)
            # The order too: in two worlds one order is two.
            in_worlds = in_worlds.withColumn("order_id", F.concat_ws("|", "world", "order_id"))
            met = (in_worlds if base == "order_id" else in_worlds.withColumn(base, numbered)).drop("world")
        inputs.append(met)
    parts = F.split(base, r"\|", 2)
    value = F.struct(*[name for name in view.columns if name not in view.keys])
    told = (
        _view_over(view, inputs)
        .withColumn("value", value)
        .withColumn("parts", parts)
        .withColumns({"world": F.col("parts")[0].cast("int"), base: F.col("parts")[1]})
        .select("world", *view.keys, "value")
    )
    found = closed.select(*view.keys, "speed").join(worlds, on=[base])
    compared = found.join(told, on=["world", *view.keys], how="left")
    fitting = (
        compared.groupBy("group", "world")
        .agg(F.bool_and(_same("speed", "value")).alias("fits"))
        .where("fits")
    )
    groups = {row["group"] for row in fitting.collect()}
    keys = sorted({key for key, group, _ in choices.worlds if group in groups})
    is_chosen = (F.col("cause") == UNEXPLAINED) & F.col(base).isin(keys) & _same("batch", "step_0")
    return explained.withColumn("cause", F.when(is_chosen, CONFLICTING).otherwise(F.col("cause")))


def _choices(creations: DataFrame, base: str) -> _Choices:
    """The ways to choose; none where they are too many to try."""
    rows = (
        creations.where(F.col("is_rival") & F.col("is_conflicting"))
        .select(F.struct(*ORDER_IDENTITY).alias("identity"), F.col(base).alias("base"), "partition", "offset")
        .limit(_MOST_RIVALS + 1)
        .collect()
    )
    copies: dict[Any, list[tuple[str, int, int]]] = {}
    for row in rows:
        copies.setdefault(row["identity"], []).append((row["base"], row["partition"], row["offset"]))
    rivals = [found for found in copies.values() if len(found) > 1]
    if not rivals or len(rows) > _MOST_RIVALS:
        return _Choices((), (), ())
    worlds, picks = [], []
    for group, members in enumerate(_groups(rivals)):
        if prod(len(found) for found in members) > _MOST_WORLDS:
            continue
        keys = sorted({key for found in members for key, _, _ in found})
        for number, chosen in enumerate(product(*members)):
            worlds += [(key, group, number) for key in keys]
            picks += [(group, number, partition, offset) for _, partition, offset in chosen]
    addresses = [(partition, offset) for found in rivals for _, partition, offset in found]
    return _Choices(worlds, picks, addresses)


def _groups(
    rivals: Sequence[list[tuple[str, int, int]]],
) -> list[list[list[tuple[str, int, int]]]]:
    """The rivals in groups: those that touch a key in common, directly or through others, are in one."""
    groups: list[tuple[set[str], list[list[tuple[str, int, int]]]]] = []
    for found in rivals:
        keys, members = {key for key, _, _ in found}, [found]
        apart = []
        for others, theirs in groups:
            if others & keys:
                keys, members = keys | others, [*theirs, *members]
            else:
                apart.append((others, theirs))
        groups = [*apart, (keys, members)]
    return [members for _, members in groups]


def _explained_counts(
    spark: SparkSession,
    settings: Settings,
    view: View,
    differing: DataFrame,
    *,
    newest: Published,
    found: Evidence,
) -> DataFrame:
    """As `_explained`, for counts of text: what one side has not read, or what was dead for the query, is counted by itself."""
    scope = found.scopes[view.name]
    ranges = ledger.within(found.entries, {view.query: scope.judged})
    counted = events_of(spark, settings, TEXT_LINES, log=newest.log)
    repaired = counted.join(F.broadcast(found.repaired), on=[*RECORD_IDENTITY], how="left_semi")
    as_came = ledger.with_batch(unrepaired(counted, found), ranges, columns=("batch_id",), how="left")
    now = unrepaired(events_of(spark, settings, TEXT_LINES, log=found.log), found)
    read = ledger.with_batch(now, ranges, columns=("batch_id",))
    newer = read.join(counted.select(*RECORD_IDENTITY), on=[*RECORD_IDENTITY], how="left_anti")
    parts = [
        (REPAIRED, -1, repaired),
        (OPEN, -1, as_came.where(F.col("batch_id").isNull())),
        (OPEN, 1, newer),
    ]
    changes = reduce(
        DataFrame.unionByName,
        [
            view.define(lines).select(
                "word", F.lit(cause).alias("side"), (F.col("count") * sign).alias("change")
            )
            for cause, sign, lines in parts
        ],
    )
    by_word = changes.groupBy("word").agg(
        *[
            F.coalesce(F.sum(F.when(F.col("side") == cause, F.col("change"))), F.lit(0)).alias(cause)
            for cause in (REPAIRED, OPEN)
        ]
    )
    joined = differing.join(by_word, on=["word"], how="left").fillna(0, subset=[REPAIRED, OPEN])
    before = F.coalesce(F.col("batch")["count"], F.lit(0))
    after = F.coalesce(F.col("speed")["count"], F.lit(0))
    is_told = before + F.col(REPAIRED) + F.col(OPEN) == after
    cause = F.when(is_told & (F.col(REPAIRED) != 0), REPAIRED).when(is_told, OPEN).otherwise(UNEXPLAINED)
    return joined.withColumn("cause", cause)


def _key_text(row: Row, view: View) -> str:
    return " ".join(f"{name}={_plain(row[name])}" for name in view.keys)


def _plain(value: object) -> str:
    return f"{value:%Y-%m-%dT%H:%M:%S}Z" if isinstance(value, datetime) else str(value)


def _keep(
    spark: SparkSession, settings: Settings, agreements: Sequence[Agreement], *, report: str | None
) -> None:
    """Append the result to the table `reconciliation` and write the Markdown file."""
    run_at = datetime.now(timezone.utc)
    names = SCHEMAS[RECONCILIATION].names
    rows = [
        tuple(run_at if name == "run_at" else getattr(agreement, name) for name in names)
        for agreement in agreements
    ]
    path = table_path(settings.lake.root, RECONCILIATION)
    create_table(spark, path, SCHEMAS[RECONCILIATION])
    with commit_lock(path):
        entries = spark.createDataFrame(rows, SCHEMAS[RECONCILIATION]).coalesce(1)
        entries.write.format("delta").mode("append").save(path)
    lake = local_path(settings.lake.root)
    target = Path(report) if report else lake / "reconciliation.md" if lake else None
    if target is not None:
        target.write_text("\n".join(_markdown(agreements, run_at)) + "\n", encoding="utf-8")


def _markdown(agreements: Sequence[Agreement], run_at: datetime) -> Iterator[str]:
    columns = ("view", "horizon", "compared", "equal", *CAUSES, "late_events")
    yield "# Batch against speed"
    yield ""
    yield f"Compared at {_plain(run_at)}, row by row, over what both layers have closed. Money is compared to the cent."
    yield ""
    yield f"| {' | '.join(columns)} |"
    yield f"|{'|'.join(' --- ' if name in ('view', 'horizon') else ' ---: ' for name in columns)}|"
    for agreement in agreements:
        values = [getattr(agreement, name) for name in columns]
        yield f"| {' | '.join('' if value is None else _plain(value) for value in values)} |"
    for agreement in agreements:
        yield ""
        yield (
            f"`{agreement.view}`: batch table version {agreement.batch_version}, speed table version "
            f"{agreement.speed_version}, log {_versions(agreement.log_versions)}."
        )
        for key in agreement.unexplained_keys:
            yield f"- unexplained: `{key}`"


def _versions(versions: Mapping[str, int]) -> str:
    return ", ".join(f"`{table}` {version}" for table, version in sorted(versions.items()))
