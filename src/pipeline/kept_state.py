"""What the views' queries keep between two micro-batches, read from their checkpoints by Spark's own data source for state.

It is as of the newest finished batch, also while the query runs.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import reduce

from pyspark.sql import Column, DataFrame, Row, SparkSession
from pyspark.sql import functions as F
from pyspark.sql import types as T

from pipeline import checkpoints, guards, versions
from pipeline.errors import RefusedToStart
from pipeline.settings import Settings
from pipeline.starting import session
from pipeline.state_stores import keeping_state_in
from pipeline.tables import checkpoint_path
from pipeline.views import View

__all__ = ["Entry", "Store", "entries", "stores"]

_MOST_ENTRIES = 1_000
_JOIN = "symmetricHashJoin"


@dataclass(frozen=True)
class Store:
    """What one step of a query keeps, in so many partitions; `part` tells apart what a step keeps in several stores.

    `batch_id` is the newest finished batch.
    """

    view: str
    query: str
    step: int
    operator: str
    part: str
    partitions: int
    batch_id: int


@dataclass(frozen=True)
class Entry:
    """A key and its value in a store of a view, both as JSON."""

    step: int
    operator: str
    part: str
    partition: int
    key: str
    value: str


def stores(settings: Settings, *, views: Sequence[str] = ()) -> list[Store]:
    """The stores of the live queries of these views (all by default) that have finished a batch."""
    spark = session(settings)
    live = versions.live_views(spark, settings)
    return [
        store
        for name in views or live
        if checkpoints.last_committed_batch(spark, _checkpoint(settings, live[name])) is not None
        for store in _stores(spark, settings, live[name])
    ]


def entries(settings: Settings, view: str, *, key: str) -> list[Entry]:
    """What the live query of the view keeps for a key: where a text of a store's key is this one, at most 1,000 of each store.

    Raises RefusedToStart where the query has not finished a batch.
    """
    spark = session(settings)
    live = versions.live_views(spark, settings)[view]
    if checkpoints.last_committed_batch(spark, _checkpoint(settings, live)) is None:
        raise RefusedToStart(
            f"{live.query} has finished no batch yet, so it keeps nothing. Run `pipeline speed {view}` first."
        )
    checkpoint = _checkpoint(settings, live)
    kept_in = guards.noted_store(spark, query=live.query, checkpoint=checkpoint)
    with keeping_state_in(spark, kept_in):  # what reads state goes by the session's options, as what keeps it
        return [
            entry
            for store in _stores(spark, settings, live)
            for entry in _entries(spark, settings, live, store, key)
        ]


def _stores(spark: SparkSession, settings: Settings, view: View) -> Iterator[Store]:
    checkpoint = _checkpoint(settings, view)
    told = (
        spark.read.format("state-metadata").load(checkpoint).orderBy("operatorId", "stateStoreName").collect()
    )
    steps = {row["operatorId"]: row for row in reversed(told)}
    for number, row in sorted(steps.items()):
        for part in _parts(row):
            yield Store(
                view.name,
                view.query,
                number,
                row["operatorName"],
                part,
                row["numPartitions"],
                row["maxBatchId"],
            )


def _parts(row: Row) -> Sequence[str]:
    """The sides of a join, the variables of a processor, else the one store that there is."""
    if row["operatorName"] == _JOIN:
        return ("left", "right")
    told = json.loads(row["operatorProperties"] or "{}")
    return [variable["stateName"] for variable in told.get("stateVariables", ())] or ("default",)


def _entries(spark: SparkSession, settings: Settings, view: View, store: Store, key: str) -> Iterator[Entry]:
    rows = _read(spark, settings, view, store)
    texts = [*_texts(rows.schema["key"].dataType, "key")]
    if not texts:
        return
    is_wanted = reduce(Column.__or__, [F.col(name) == key for name in texts])
    told = rows.where(is_wanted).select(
        "partition_id", F.to_json(_whole(rows, "key")).alias("key"), F.to_json(_value(rows)).alias("value")
    )
    for row in told.orderBy("key", "value").limit(_MOST_ENTRIES).collect():
        yield Entry(store.step, store.operator, store.part, row["partition_id"], row["key"], row["value"])


def _read(spark: SparkSession, settings: Settings, view: View, store: Store) -> DataFrame:
    # With it comes the coordinator of the stores, without which a session that has run no query reads no snapshot (Spark 4.2).
    _ = spark.streams
    reader = spark.read.format("statestore").option("operatorId", store.step)
    if store.operator == _JOIN:
        reader = reader.option("joinSide", store.part)
    elif store.part != "default":
        reader = reader.option("stateVarName", store.part)
    return reader.load(_checkpoint(settings, view))


def _value(rows: DataFrame) -> Column:
    """The value, or of a list or a map its element."""
    others = [name for name in rows.columns if name not in ("key", "partition_id")]
    if others == ["value"]:
        return _whole(rows, "value")
    return F.struct(*[_whole(rows, name).alias(name) for name in others])


def _whole(rows: DataFrame, name: str) -> Column:
    """The column; a struct field by field: a join's state has one more than its schema, at which to_json fails (Spark 4.2)."""
    of = rows.schema[name].dataType
    return (
        F.struct(*[F.col(f"{name}.`{field.name}`") for field in of])
        if isinstance(of, T.StructType)
        else F.col(name)
    )


def _texts(type_: T.DataType, name: str) -> Iterator[str]:
    if isinstance(type_, T.StringType):
        yield name
    elif isinstance(type_, T.StructType):
        for field in type_:
            yield from _texts(field.dataType, f"{name}.`{field.name}`")


def _checkpoint(settings: Settings, view: View) -> str:
    return checkpoint_path(settings.lake.root, view.query)
