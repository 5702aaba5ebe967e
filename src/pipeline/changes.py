"""`pipeline query VIEW --changed-between T1 T2`: which rows of the served view changed, and by which events.

Both states are pinned as `--as-of` pins them. What a state counts follows from what made its tables: the batch form says which
versions of the log it read, the speed table which batch of its query came last, and the ledger what that query had read by then. An
event that one state counts and the other does not is a cause.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import reduce
from operator import and_, or_

from pyspark.sql import Column, DataFrame, SparkSession, Window
from pyspark.sql import functions as F
from pyspark.sql import types as T

from pipeline import catalog, evidence, late, ledger, serving
from pipeline.contracts import ORDER_CANCELLED, RECORD_IDENTITY, TEXT_LINES
from pipeline.delta_log import newest_transaction
from pipeline.errors import UsageError
from pipeline.evidence import Evidence
from pipeline.kinds import Kind
from pipeline.published import Published, events_of, published
from pipeline.reconcile.flagged import events_read
from pipeline.served import State, needed_views
from pipeline.settings import Settings
from pipeline.views import Reading, View

__all__ = ["CAUSES", "changed_rows"]

NEW, LATE, CANCELLED, CORRECTED, REPAIRED = "new", "late", "cancelled", "corrected", "repaired"
CAUSES = (NEW, LATE, CANCELLED, CORRECTED, REPAIRED)


@dataclass(frozen=True)
class _Counting:
    """What one state of a view counts: its batch forms in the order in which their horizons cut, and then its query, by the
    ledger's entries up to the batch that had written last.
    """

    forms: tuple[Published, ...]
    entries: DataFrame


def changed_rows(
    spark: SparkSession, settings: Settings, view: View, first: datetime, second: datetime
) -> DataFrame:
    """The keys of rows that differ, `before` and `after` (structs of the other columns, null where there was no row), and `causes`.

    `causes` maps a cause to its number of events: new (read since), late (too late for the query, counted by a batch run since),
    cancelled (a cancellation counted since), corrected (another content, or another partner of a join), repaired. It is empty
    where no event explains the change. Raises UsageError where the second moment is not after the first, RefusedToStart where
    the view has no rows.
    """
    if first >= second:
        raise UsageError("--changed-between takes an earlier moment and a later one.")
    whole = (
        replace(view, columns=tuple(view.schema.names)) if view.columns != tuple(view.schema.names) else view
    )
    before, after = (
        serving.read(spark, settings, whole, layer="served", as_of=moment) for moment in (first, second)
    )
    rows = _differing(before, after, view).persist()
    found = evidence.collect(spark, settings)
    sides = {
        side: _counting(spark, settings, view, found, moment)
        for side, moment in (("before", first), ("after", second))
    }
    if view.reads[0].kind == TEXT_LINES:
        told = _counted_texts(spark, settings, view, found, sides)
    else:
        parts = [
            _counted_events(spark, settings, view, rows, found, sides, source)
            for source in range(len(view.reads))
        ]
        told = (
            reduce(DataFrame.unionByName, parts)
            .groupBy(*view.keys, "cause")
            .agg(F.sum("events").alias("events"))
        )
    by_key = told.groupBy(*[F.col(name).alias(f"told_{name}") for name in view.keys]).agg(
        F.map_from_entries(F.array_sort(F.collect_list(F.struct("cause", "events")))).alias("causes")
    )
    is_same_key = reduce(and_, [F.col(name).eqNullSafe(F.col(f"told_{name}")) for name in view.keys])
    nothing = F.map_from_arrays(F.array().cast("array<string>"), F.array().cast("array<bigint>"))
    return rows.join(by_key, on=is_same_key, how="left").select(
        *view.keys,
        *[_shown(name, view).alias(name) for name in ("before", "after")],
        F.coalesce("causes", nothing).alias("causes"),
    )


def _differing(before: DataFrame, after: DataFrame, view: View) -> DataFrame:
    values = [name for name in view.schema.names if name not in view.keys]
    shown = F.struct(*[name for name in view.columns if name not in view.keys])
    sides = [
        rows.select(
            *view.keys, F.struct(*values).alias("row"), shown.alias("shown"), F.lit(side).alias("side")
        )
        for side, rows in (("before", before), ("after", after))
    ]
    both = (
        sides[0]
        .unionByName(sides[1])
        .groupBy(*view.keys)
        .agg(
            *[F.max(F.when(F.col("side") == side, F.col("row"))).alias(side) for side in ("before", "after")],
            *[
                F.max(F.when(F.col("side") == side, F.col("shown"))).alias(f"{side}_shown")
                for side in ("before", "after")
            ],
        )
    )
    return both.where(~F.col("before_shown").eqNullSafe(F.col("after_shown"))).drop(
        "before_shown", "after_shown"
    )


def _shown(side: str, view: View) -> Column:
    columns = [name for name in view.columns if name not in view.keys]
    return F.when(
        F.col(side).isNotNull(), F.struct(*[F.col(f"{side}.{name}").alias(name) for name in columns])
    )


def _counting(
    spark: SparkSession, settings: Settings, view: View, found: Evidence, moment: datetime
) -> _Counting:
    """Totals are served as their batch form and the hourly windows from its horizon on, so what those count is theirs."""
    needed = needed_views(view)
    states = serving.states(spark, settings, view, as_of=moment)
    forms = [published(spark, settings, states[each.name].view, as_of=moment) for each in needed]
    state = states[needed[-1].name]
    return _Counting(
        tuple(form for form in forms if form is not None and form.horizon is not None),
        _read_by(spark, settings, state, found),
    )


def _read_by(spark: SparkSession, settings: Settings, state: State, found: Evidence) -> DataFrame:
    """The ledger's entries of the batches whose rows this version of the speed table holds."""
    taken = None
    if state.speed is not None:
        taken = newest_transaction(spark, state.speed.path, state.speed.version, query=state.view.query)
    if taken is None:
        return found.entries.where(F.lit(False))
    generation, batch_id = taken[0].partition(":")[2], taken[1]
    entries = ledger.entries(spark, settings.lake.root, {state.view.query: generation})
    return entries.where(F.col("batch_id") <= batch_id)


def _counted_texts(
    spark: SparkSession, settings: Settings, view: View, found: Evidence, sides: Mapping[str, _Counting]
) -> DataFrame:
    """A row per word and cause: every line is counted once, when it is read."""
    lines = evidence.unrepaired(events_of(spark, settings, TEXT_LINES, log=found.log), found, view=view.name)
    before, after = (
        ledger.with_batch(lines, sides[side].entries, columns=("batch_id",)) for side in ("before", "after")
    )
    new = after.join(before.select(*RECORD_IDENTITY), on=[*RECORD_IDENTITY], how="left_anti")
    counts = view.define(new.select(*lines.columns))
    return counts.select(*view.keys, F.lit(NEW).alias("cause"), F.col("count").alias("events"))


def _counted_events(
    spark: SparkSession,
    settings: Settings,
    view: View,
    rows: DataFrame,
    found: Evidence,
    sides: Mapping[str, _Counting],
    source: int,
) -> DataFrame:
    """A row per key and cause, with the number of `events` that only one of the states counts."""
    reading = view.reads[source]
    kind = catalog.kinds(settings)[reading.kind]
    events = events_read(spark, settings, reading, found)
    shared = [kind.key] if source else [name for name in view.keys if name in events.columns]
    values = rows.select(*[_value(name, view).alias(name) for name in shared]).distinct()
    named = events.join(F.broadcast(values), on=shared, how="left_semi")
    identities = named.select(*kind.identity).distinct()
    flagged = events.join(F.broadcast(identities), on=[*kind.identity], how="left_semi")
    flagged = _with_presence(flagged, found.repaired, "is_repaired")
    flagged = _with_presence(flagged, found.repaired_for(needed_views(view)[-1].name), "was_dead")
    for side, counting in sides.items():
        for number, form in enumerate(counting.forms):
            log = events_of(spark, settings, kind.name, log=form.log, origin=form.origin)
            flagged = _with_form(flagged, log, f"{side}_{number}", reading=reading, kind=kind)
        flagged = _with_query(flagged, counting.entries, side, source=source, reading=reading, kind=kind)
    pairs = flagged.join(F.broadcast(_named(rows, view)), on=_is_part(view, shared, source))
    for side, counting in sides.items():
        pairs = pairs.withColumn(f"in_{side}", _is_counted(view, counting, side))
    return _caused(pairs, events.columns, view, kind, reading, source)


def _value(name: str, view: View) -> Column:
    return F.col(name) if name in view.keys else F.coalesce(F.col(f"after.{name}"), F.col(f"before.{name}"))


def _with_presence(events: DataFrame, others: DataFrame, name: str) -> DataFrame:
    """The events, each with whether its address is among the others'."""
    mine = F.broadcast(events.select(*RECORD_IDENTITY))
    held = others.select(*RECORD_IDENTITY).join(mine, on=[*RECORD_IDENTITY], how="left_semi")
    told = held.distinct().withColumn(name, F.lit(True))
    joined = events.join(told, on=[*RECORD_IDENTITY], how="left")
    return joined.withColumn(name, F.coalesce(name, F.lit(False)))


def _with_form(events: DataFrame, log: DataFrame, name: str, *, reading: Reading, kind: Kind) -> DataFrame:
    """Whether a batch form over this log counts the event: of what is counted once, the first copy."""
    present = _with_presence(events, log, name)
    if not reading.is_counted_once:
        return present
    first = Window.partitionBy(*kind.identity).orderBy(F.desc(name), "partition", "offset")
    return (
        present.withColumn("place", F.row_number().over(first))
        .withColumn(name, F.col(name) & (F.col("place") == 1))
        .drop("place")
    )


def _with_query(
    events: DataFrame, entries: DataFrame, side: str, *, source: int, reading: Reading, kind: Kind
) -> DataFrame:
    """Whether the query counts the event by then (`<side>_query`), or no copy of it because all came too late (`<side>_late`)."""
    mine = entries.where(F.col("source") == source)
    read = ledger.with_batch(events, mine, columns=("batch_id", "watermark"), how="left")
    read = read.withColumn("is_read", F.col("batch_id").isNotNull() & ~F.col("was_dead"))
    read = read.withColumn("is_in_time", F.col("is_read") & late.is_in_time())
    copies = Window.partitionBy(*kind.identity)
    met = copies.orderBy(F.desc("is_in_time"), "batch_id", "partition", "offset")
    read = read.withColumn("place", F.row_number().over(met) if reading.is_counted_once else F.lit(1))
    is_late = F.max("is_read").over(copies) & ~F.max("is_in_time").over(copies)
    return read.withColumns(
        {f"{side}_query": F.col("is_in_time") & (F.col("place") == 1), f"{side}_late": is_late}
    ).drop("batch_id", "watermark", "is_read", "is_in_time", "place")


def _named(rows: DataFrame, view: View) -> DataFrame:
    """The changed rows with what an event is compared with, under names that no event has."""
    values = [name for name in view.schema.names if name not in view.keys]
    return rows.select(
        *[F.col(name).alias(f"row_{name}") for name in view.keys],
        *[_value(name, view).alias(f"row_{name}") for name in values],
        *[
            F.col(f"{side}.{name}").alias(f"{side}_{name}")
            for side in ("before", "after")
            for name in _times(view)
        ],
        F.col("before").isNull().alias("is_new_row"),
    )


def _times(view: View) -> list[str]:
    """The columns in which a row may hold the time of what was joined to it."""
    is_time = {one.name for one in view.schema.fields if isinstance(one.dataType, T.TimestampType)}
    return [name for name in view.schema.names if name in is_time - {*view.keys, view.settles_by}]


def _is_part(view: View, shared: Sequence[str], source: int) -> Column:
    """Whether an event has a part in a row: by the columns they share and the row's time, or as what was joined to it."""
    is_same = reduce(and_, [F.col(name).eqNullSafe(F.col(f"row_{name}")) for name in shared])
    time = F.col("event_time")
    if source:
        held = [F.col(f"{side}_{name}") for side in ("before", "after") for name in _times(view)]
        return is_same & reduce(or_, [time.eqNullSafe(one) for one in held], F.lit(False))
    if view.settles_by == "window_end":
        return is_same & (time >= F.col("row_window_start")) & (time < F.col("row_window_end"))
    if view.settles_by is not None and view.settles_by not in shared:
        return is_same & (time == F.col(f"row_{view.settles_by}"))
    return is_same


def _is_counted(view: View, counting: _Counting, side: str) -> Column:
    """By the form whose horizon covers the row, else by the query."""
    has_row_time = view.settles_by is not None
    time = F.col(f"row_{view.settles_by}") if has_row_time else F.col("event_time")
    is_counted = F.col(f"{side}_query")
    for number, form in reversed([*enumerate(counting.forms)]):
        horizon = F.lit(form.horizon)
        is_covered = time <= horizon if view.settles_by == "window_end" else time < horizon
        is_counted = F.when(is_covered, F.col(f"{side}_{number}")).otherwise(is_counted)
    return is_counted


def _caused(
    pairs: DataFrame, columns: Sequence[str], view: View, kind: Kind, reading: Reading, source: int
) -> DataFrame:
    """Copies of the same content are one event. Of copies that differ one is counted: where it is another one, that is a correction."""
    row = [f"row_{name}" for name in view.keys]
    contents = [name for name in columns if name not in (*RECORD_IDENTITY, "contract_version")]
    told = pairs.withColumn("content", F.xxhash64(*contents))
    same = Window.partitionBy(*kind.identity, "content", *row)
    told = told.withColumns(
        {
            **{name: F.max(name).over(same) for name in ("in_before", "in_after", "is_repaired")},
            "place": F.row_number().over(same.orderBy("partition", "offset")),
        }
    ).where("place = 1")
    here = Window.partitionBy(*kind.identity, *row)
    anywhere = here if source else Window.partitionBy(*kind.identity)
    told = told.withColumns(
        {
            "was_counted": F.max("in_before").over(anywhere),
            "is_counted_here": F.max("in_after").over(here),
        }
    )
    joined = (
        F.lit(CANCELLED) if reading.event_type == ORDER_CANCELLED else F.when(~F.col("is_new_row"), CORRECTED)
    )
    came = (
        F.when(F.col("is_repaired"), REPAIRED)
        .when(F.col("was_counted"), CORRECTED)
        .when(F.col("after_late"), LATE)
        .otherwise(joined if source else F.lit(NEW))
    )
    went = F.when(~F.col("is_counted_here"), CORRECTED)
    cause = F.when(F.col("in_after") & ~F.col("in_before"), came).when(
        F.col("in_before") & ~F.col("in_after"), went
    )
    return (
        told.withColumn("cause", cause)
        .where("cause IS NOT NULL")
        .groupBy(*[F.col(f"row_{name}").alias(name) for name in view.keys], "cause")
        .agg(F.count(F.lit(1)).alias("events"))
    )
