"""Each difference has one cause, or is `unexplained`.

The way from what the batch counted to what the query counted is walked in steps, each of which takes away (or adds) the
events that the ledger, `late_events` or the repairs name. The view over the first step must be the batch row, over the
last one the speed row, to the cent; the first step that changes a row is its cause. So a lost row is unexplained also
where events came late.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from pipeline import catalog, ledger
from pipeline.contracts import RECORD_IDENTITY, TEXT_LINES
from pipeline.evidence import Evidence, unrepaired
from pipeline.published import Published, events_of
from pipeline.reconcile.causes import CONFLICTING, CONTRACT_CHANGED, LATE, OPEN, REPAIRED, UNEXPLAINED
from pipeline.reconcile.choices import with_choices
from pipeline.reconcile.comparison import is_same
from pipeline.reconcile.flagged import concerned, events_read, flagged_events, is_met, view_over
from pipeline.settings import Settings
from pipeline.views import Reading, View

__all__ = ["explain_differences"]


def explain_differences(
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
        flagged_events(
            concerned(
                events_read(spark, settings, reading, found),
                keys,
                view=view,
                kind=catalog.kinds(settings)[reading.kind],
            ),
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
    values = [view_over(view, rows) for _, rows in steps]
    again = []
    if has_changed:
        decoded = [
            _decoded_again(spark, settings, events, reading, found)
            for events, reading in zip(flagged, view.reads, strict=True)
        ]
        others, _ = _steps(decoded, view)
        again = [view_over(view, rows) for _, rows in (others[0], others[-1])]
    explained = _with_cause(differing, values, again, view=view, causes=[cause for cause, _ in steps])
    explained = explained.persist()
    if not explained.where(F.col("cause") == UNEXPLAINED).isEmpty():
        explained = with_choices(
            explained, flagged, closed, view=view, kind=catalog.kinds(settings)[view.inputs[0]]
        ).persist()
        explained.count()
    for events in flagged:
        events.unpersist()
    return explained


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
    met = [rows.where(is_met(reading)) for rows, reading in zip(flagged, view.reads, strict=True)]
    if CONFLICTING in present:
        steps.append((CONFLICTING, met))
    elif len(steps) > 1:
        steps[-1] = (steps[-1][0], met)
    return steps, CONTRACT_CHANGED in present


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
    is_told = is_same("batch", names[0]) & is_same("speed", names[-1])
    changes = [
        F.when(~is_same(before, after), F.lit(cause))
        for before, after, cause in zip(names, names[1:], causes[1:], strict=False)
    ]
    cause = F.when(is_told, F.coalesce(*changes, F.lit(UNEXPLAINED)))
    if again:
        is_told_again = (is_same("batch", names[0]) | is_same("batch", "first_again")) & (
            is_same("speed", names[-1]) | is_same("speed", "last_again")
        )
        cause = cause.when(is_told_again, CONTRACT_CHANGED)
    return joined.withColumn("cause", cause.otherwise(UNEXPLAINED))


def _explained_counts(
    spark: SparkSession,
    settings: Settings,
    view: View,
    differing: DataFrame,
    *,
    newest: Published,
    found: Evidence,
) -> DataFrame:
    """As `explain_differences`, for counts of text: what one side has not read, or what was dead for the query, is counted by itself."""
    scope = found.scopes[view.name]
    ranges = ledger.within(found.entries, {view.query: scope.judged})
    counted = events_of(spark, settings, TEXT_LINES, log=newest.log)
    repaired = counted.join(
        F.broadcast(found.repaired_for(view.name)), on=[*RECORD_IDENTITY], how="left_semi"
    )
    as_came = ledger.with_batch(
        unrepaired(counted, found, view=view.name), ranges, columns=("batch_id",), how="left"
    )
    now = unrepaired(events_of(spark, settings, TEXT_LINES, log=found.log), found, view=view.name)
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
