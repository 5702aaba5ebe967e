"""Where the state of a query is kept, and that it stays there whatever is asked for later."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from pyspark.sql import SparkSession

from lake import at, line, order, product, rows_of, send
from pipeline import ingest, plan, serving, speed
from pipeline.failpoints import watched
from pipeline.settings import Settings
from pipeline.state_stores import keeping_state_in, state_store
from pipeline.streaming import QueryFailed
from pipeline.tables import checkpoint_path
from pipeline.views import VIEWS

JOIN = VIEWS["enriched_orders"]


@pytest.mark.parametrize(
    ("steps", "of_joins", "store"),
    [
        (["EventTimeWatermark event_time", "Deduplicate [order_id]", "Join LeftOuter"], "memory", "memory"),
        (["Deduplicate [order_id]", "Join LeftOuter"], "rocksdb", "rocksdb"),
        (["Deduplicate [order_id]", "Aggregate [customer_id]"], "memory", "rocksdb"),
        (["Join LeftOuter", "TransformWithStateInPySpark"], "memory", "rocksdb"),
        ([], "memory", "rocksdb"),
    ],
)
def test_joins_are_kept_where_it_is_asked_for(steps: list[str], of_joins: str, store: str) -> None:
    assert state_store(steps, of_joins=of_joins) == store


def test_the_session_is_left_as_it_was(spark: SparkSession) -> None:
    keys = [f"spark.sql.streaming.stateStore.{name}" for name in ("providerClass", "checkpointFormatVersion")]
    before = [spark.conf.get(key) for key in keys]
    with keeping_state_in(spark, "memory"):
        meanwhile = [spark.conf.get(key) for key in keys]
    assert meanwhile != before
    assert [spark.conf.get(key) for key in keys] == before


def test_the_store_is_the_one_that_was_chosen_whatever_the_session_says(spark: SparkSession) -> None:
    key = "spark.sql.streaming.stateStore.providerClass"
    before = spark.conf.get(key)
    spark.conf.set(key, "org.example.AnotherProvider")
    try:
        with keeping_state_in(spark, "rocksdb"):
            assert spark.conf.get(key) == before
    finally:
        spark.conf.set(key, before)


@pytest.mark.kafka
@pytest.mark.parametrize(("begun", "later"), [("memory", "rocksdb"), ("rocksdb", "memory")])
def test_state_stays_where_it_was_begun(
    spark: SparkSession, settings: Settings, begun: str, later: str
) -> None:
    send(settings, [product(time=at(0)), order("o1", time=at(1), items=[line()])])
    run(settings, join_state=begun)
    assert kept_in(settings) == begun
    send(settings, [order("o2", time=at(2), items=[line()])])
    (told,) = plan.look(asking(settings, join_state=later), only=[JOIN.query]).queries
    assert (told.verdict, told.because) == ("restart is safe", ["state store"])
    assert told.differences == [("state store", begun, later)]
    run(settings, join_state=later)
    assert kept_in(settings) == begun
    (told,) = plan.look(asking(settings, join_state=later), only=[JOIN.query]).queries
    assert told.verdict == "unchanged", "it is told once"
    run(settings, join_state=later)
    assert kept_in(settings) == begun
    rows = rows_of(serving.read(spark, settings, JOIN, layer="speed"))
    assert [(row["order_id"], row["name"]) for row in rows] == [("o1", "the p1"), ("o2", "the p1")]


@pytest.mark.kafka
@pytest.mark.parametrize("store", ["memory", "rocksdb"])
def test_what_a_batch_that_has_not_ended_has_kept_is_written_anew(
    spark: SparkSession, settings: Settings, store: str
) -> None:
    send(settings, [product(time=at(0)), order("o1", time=at(1), items=[line()])])
    run(settings, join_state=store)
    send(settings, [order("o2", time=at(2), items=[line()])])
    with watched(failing_at("speed: written")), pytest.raises(QueryFailed):
        run(settings, join_state=store)
    checkpoint = Path(checkpoint_path(settings.lake.root, JOIN.query))
    finished = max(int(file.name) for file in (checkpoint / "commits").iterdir() if file.name.isdigit())
    for file in (checkpoint / "state").rglob(f"{finished + 2}.*"):
        file.write_text("not what the second try is to read")
        file.with_name(f".{file.name}.crc").unlink()
    run(settings, join_state=store)
    send(settings, [order("o3", time=at(3), items=[line()])])
    run(settings, join_state=store)  # reads the state from its files
    rows = rows_of(serving.read(spark, settings, JOIN, layer="speed"))
    assert [(row["order_id"], row["name"]) for row in rows] == [
        ("o1", "the p1"),
        ("o2", "the p1"),
        ("o3", "the p1"),
    ]


def failing_at(point: str) -> Callable[[str], None]:
    def fail(name: str) -> None:
        if name == point:
            raise RuntimeError(point)

    return fail


def asking(settings: Settings, *, join_state: str) -> Settings:
    return replace(settings, speed=replace(settings.speed, join_state=join_state))


def run(settings: Settings, *, join_state: str) -> None:
    ingest.run(settings, once=True)
    speed.run(asking(settings, join_state=join_state), views=[JOIN.name], once=True)


def kept_in(settings: Settings) -> str:
    """As its files tell."""
    files = Path(checkpoint_path(settings.lake.root, JOIN.query), "state").rglob("*")
    kinds = {file.suffix for file in files} & {".delta", ".changelog", ".zip"}
    return "memory" if kinds == {".delta"} else "rocksdb" if kinds == {".changelog"} else f"both? {kinds}"
