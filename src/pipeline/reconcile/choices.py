"""Conflicting copies that one micro-batch held: which of them the query took is not written anywhere, but some choice must fit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from math import prod
from typing import Any

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from pipeline.kinds import Kind
from pipeline.reconcile.causes import CONFLICTING, UNEXPLAINED
from pipeline.reconcile.comparison import is_same
from pipeline.reconcile.flagged import is_met, view_over
from pipeline.views import View

__all__ = ["with_choices"]


_MOST_RIVALS = 1_000
_MOST_WORLDS = 64
"""Ways to choose among conflicting copies that are tried for the keys they touch; beyond, a row stays unexplained."""


@dataclass(frozen=True)
class _Choices:
    """Ways in which the query may have chosen among copies that one of its batches held, in groups that share no key.

    `worlds` are (key, group, number) for each way to choose within the group of that key, `picks` the copies taken in it,
    as (group, number, partition, offset), and `rivals` all copies that there are to choose from.
    """

    worlds: Sequence[tuple[str, int, int]]
    picks: Sequence[tuple[int, int, int, int]]
    rivals: Sequence[tuple[int, int]]


def with_choices(
    explained: DataFrame, flagged: Sequence[DataFrame], closed: DataFrame, *, view: View, kind: Kind
) -> DataFrame:
    """What is unexplained is conflicting where one choice among rival copies gives just what the speed table has.

    One choice for all keys that the copies touch: an event that is in none of the rows is not explained by its being
    in another one. Each way to choose is computed beside the others, its number written before the view's first key. `kind`
    is that of the first input, whose copies are the rivals.
    """
    base = view.keys[0]
    choices = _choices(flagged[0], base, kind)
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
        met = rows.where(is_met(reading))
        if reading.kind == kind.name:
            rest = met.join(rivals, on=["partition", "offset"], how="left_anti") if source == 0 else met
            in_worlds = rest.join(worlds, on=[base]).select(*rows.columns, "world")
            if source == 0:
                picked = rows.join(picks, on=["partition", "offset"]).select(*rows.columns, "world")
                in_worlds = in_worlds.unionByName(picked)
            # What happened, too: in two worlds one order is two.
            in_worlds = in_worlds.withColumn(kind.key, F.concat_ws("|", "world", kind.key))
            met = (in_worlds if base == kind.key else in_worlds.withColumn(base, numbered)).drop("world")
        inputs.append(met)
    parts = F.split(base, r"\|", 2)
    value = F.struct(*[name for name in view.columns if name not in view.keys])
    told = (
        view_over(view, inputs)
        .withColumn("value", value)
        .withColumn("parts", parts)
        .withColumns({"world": F.col("parts")[0].cast("int"), base: F.col("parts")[1]})
        .select("world", *view.keys, "value")
    )
    found = closed.select(*view.keys, "speed").join(worlds, on=[base])
    compared = found.join(told, on=["world", *view.keys], how="left")
    fitting = (
        compared.groupBy("group", "world")
        .agg(F.bool_and(is_same("speed", "value")).alias("fits"))
        .where("fits")
    )
    groups = {row["group"] for row in fitting.collect()}
    keys = sorted({key for key, group, _ in choices.worlds if group in groups})
    is_chosen = (F.col("cause") == UNEXPLAINED) & F.col(base).isin(keys) & is_same("batch", "step_0")
    return explained.withColumn("cause", F.when(is_chosen, CONFLICTING).otherwise(F.col("cause")))


def _choices(events: DataFrame, base: str, kind: Kind) -> _Choices:
    """The ways to choose; none where they are too many to try."""
    rows = (
        events.where(F.col("is_rival") & F.col("is_conflicting"))
        .select(F.struct(*kind.identity).alias("identity"), F.col(base).alias("base"), "partition", "offset")
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
