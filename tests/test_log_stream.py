"""The log as what views stream: whole commits of ingest, a bounded number of them, and nothing but what ingest has appended."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path

import pytest
from delta.tables import DeltaTable
from pyspark.sql import SparkSession

from lake import at, cancellation, line, order, product, rows_of, send
from pipeline import audit, batch, dead_letters, ingest, reconcile, serving, single_process, speed, stopping
from pipeline.delta_log import newest_version
from pipeline.errors import RefusedToStart
from pipeline.settings import Settings
from pipeline.tables import BATCH_LEDGER, ORDER_EVENTS, table_path, view_path
from pipeline.transforms.patches import merge_patch
from pipeline.views import VIEWS
from test_stopping import wait_until

pytestmark = pytest.mark.kafka

SPEND = VIEWS["customer_hourly_spend"]


def read_by_spend(spark: SparkSession, settings: Settings) -> list[tuple[int, int]]:
    """The offsets of partition 0 that each micro-batch has read, as the ledger says."""
    entries = spark.read.format("delta").load(table_path(settings.lake.root, BATCH_LEDGER))
    rows = entries.where(f"query = '{SPEND.query}' AND partition = 0").orderBy("batch_id").collect()
    return [(row["first_offset"], row["end_offset"]) for row in rows]


def test_a_micro_batch_takes_whole_commits_of_ingest_and_no_more_than_it_may(
    spark: SparkSession, settings: Settings
) -> None:
    two_by_two = replace(settings, ingest=replace(settings.ingest, max_offsets_per_trigger=2))
    one_by_one = replace(settings, speed=replace(settings.speed, max_offsets_per_trigger=1))
    send(settings, [order(f"o{i}", time=at(i)) for i in range(6)])
    ingest.run(two_by_two, once=True)
    speed.run(one_by_one, views=[SPEND.name], once=True)
    assert read_by_spend(spark, settings) == [(0, 2), (2, 4), (4, 6)]
    # Small files are put together: the commits are there, but what they added is in other files now.
    DeltaTable.forPath(spark, table_path(settings.lake.root, ORDER_EVENTS)).optimize().executeCompaction()
    send(settings, [order(f"o{i}", time=at(i)) for i in range(6, 12)])
    ingest.run(two_by_two, once=True)
    speed.run(settings, views=[SPEND.name], once=True)
    assert read_by_spend(spark, settings)[3:] == [(6, 12)]
    speed.run(settings, views=["order_outcomes"], once=True)
    for name in (SPEND.name, "order_outcomes"):
        rows = rows_of(serving.read(spark, settings, VIEWS[name], layer="speed"))
        assert sum(row.get("order_count", 1) for row in rows) == (12 if name == SPEND.name else 0), name
    assert audit.run(settings).faults == []


def test_no_micro_batch_ends_inside_of_a_commit_that_several_tasks_have_made(
    spark: SparkSession, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Delta admits a change feed file by file, so a commit of two files could be read by halves, and what is late be told wrongly."""
    monkeypatch.setattr(ingest, "_RECORDS_OF_A_TASK", 1)
    one_by_one = replace(settings, speed=replace(settings.speed, max_offsets_per_trigger=1))
    for hour in range(3):
        send(settings, [order(f"o{hour}-{i}", time=at(60 * hour + i), partition=i % 2) for i in range(8)])
        send(settings, [order(f"old{hour}", time=at(-10), customer_id="c-old", partition=1)])
        ingest.run(settings, once=True)
    speed.run(one_by_one, views=[SPEND.name], once=True)
    assert read_by_spend(spark, settings) == [(0, 4), (4, 8), (8, 12)]
    report = audit.run(settings)
    assert report.faults == []
    assert [(one.to_read, one.counted, one.late) for one in report.queries] == [(27, 26, 1)]


def test_a_repaired_dead_letter_is_the_batch_layers(spark: SparkSession, settings: Settings) -> None:
    send(settings, [order("o1", time=at(0)), order("broken", time=at(1), total="much")])
    ingest.run(settings, once=True)
    speed.run(settings, views=[SPEND.name], once=True)
    batch.run(settings, views=[SPEND.name], until=at(180))
    dead_letters.fix(settings, merge_patch('{"total": "3.00"}'), author="me", reason="it was not much")
    assert dead_letters.replay(settings).passed == 1
    send(settings, [order("o2", time=at(2)), order("closing", time=at(60 * 30), customer_id="c-closing")])
    ingest.run(settings, once=True)
    speed.run(settings, views=[SPEND.name], once=True)
    (_, window) = rows_of(serving.read(spark, settings, SPEND, layer="speed"))
    assert (window["customer_id"], window["order_count"], str(window["hourly_spend"])) == ("c1", 2, "20.00")
    batch.run(settings, views=[SPEND.name], until=at(180), incremental=True)
    (window,) = rows_of(serving.read(spark, settings, SPEND, layer="batch"))
    assert (window["order_count"], str(window["hourly_spend"])) == (3, "23.00")
    (agreement,) = reconcile.run(settings, views=[SPEND.name])
    assert (agreement.repaired, agreement.unexplained) == (1, 0)
    assert audit.run(settings).faults == []


def test_what_a_source_of_the_log_has_met_is_of_its_kind(spark: SparkSession, settings: Settings) -> None:
    """A cancellation that comes late is nothing to the lines of orders, though a batch of ingest holds it beside products."""
    view = VIEWS["enriched_orders"]
    for records in (
        [
            product(time=at(0)),
            order("o1", time=at(0), items=[line()]),
            product(time=at(60)),
            order("o2", time=at(60), items=[line()]),
        ],
        [cancellation("o1", time=at(1)), product(time=at(61)), order("o3", time=at(61), items=[line()])],
    ):
        send(settings, records)
        ingest.run(settings, once=True)
        speed.run(settings, views=[view.name], once=True)
    report = audit.run(settings)
    assert report.faults == []
    assert {one.topic: (one.to_read, one.counted, one.late) for one in report.queries} == {
        settings.kafka.topics.orders: (3, 3, 0),
        settings.kafka.topics.products: (3, 3, 0),
    }


def test_views_that_are_started_first_wait_for_ingest(
    spark: SparkSession, settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    root, outcome = settings.lake.root, list[BaseException]()

    def run() -> None:
        try:
            speed.run(settings, views=[SPEND.name], once=False)
        except BaseException as error:  # noqa: BLE001  # told by the test
            outcome.append(error)

    with pytest.raises(RefusedToStart):
        speed.run(settings, views=[SPEND.name], once=True)
    runner = threading.Thread(target=run)
    runner.start()
    wait_until(lambda: bool(outcome) or "waiting for ingest" in capsys.readouterr().err)
    assert not Path(root).exists()
    send(settings, [order("o1", time=at(0))])
    ingest.run(settings, once=True)
    table = view_path(root, SPEND.name, "speed", SPEND.version)
    wait_until(lambda: bool(outcome) or (newest_version(None, table) or 0) >= 1)
    assert stopping.stop_queries(root, [SPEND.query], timeout_seconds=60) == []
    runner.join()
    assert outcome == []


def test_ingest_and_the_views_run_in_one_process_until_they_are_stopped(
    spark: SparkSession, settings: Settings
) -> None:
    root, outcome = settings.lake.root, list[BaseException]()

    def run() -> None:
        try:
            single_process.run(settings, views=[SPEND.name], once=False)
        except BaseException as error:  # noqa: BLE001  # told by the test
            outcome.append(error)

    send(settings, [order("o1", time=at(0))])
    runner = threading.Thread(target=run)
    runner.start()
    table = view_path(root, SPEND.name, "speed", SPEND.version)
    wait_until(lambda: bool(outcome) or (newest_version(None, table) or 0) >= 1)
    running = stopping.running_queries(root)
    assert sorted(running) == [SPEND.query, ingest.QUERY]
    assert stopping.stop_queries(root, running, timeout_seconds=60) == []
    runner.join()
    assert outcome == []
    single_process.run(settings, views=[SPEND.name], once=True)
    (window,) = rows_of(serving.read(spark, settings, SPEND, layer="speed"))
    assert window["order_count"] == 1
