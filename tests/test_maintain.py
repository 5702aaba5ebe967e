"""Maintenance beside streams that run: nothing is lost, nothing that is still read is removed."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from pyspark.sql import SparkSession

from lake import at, order, rows_of, send
from pipeline import batch, ingest, maintain, serving, speed, versions
from pipeline.published import published
from pipeline.reading import LocalTables
from pipeline.settings import Settings
from pipeline.sources import read_version
from pipeline.streaming import end_all
from pipeline.tables import ORDER_EVENTS, RAW_EVENTS, checkpoint_path, table_path, view_path
from pipeline.versions import Line, Made
from pipeline.views import VIEWS

pytestmark = pytest.mark.kafka

SPEND = VIEWS["customer_hourly_spend"]


def files_of(settings: Settings, table: str) -> int:
    size = LocalTables().size(table_path(settings.lake.root, table))
    assert size is not None
    return size.files


def all_files(settings: Settings) -> set[Path]:
    return {path for path in Path(settings.lake.root).rglob("*.parquet") if path.is_file()}


def orders_counted(spark: SparkSession, settings: Settings) -> int:
    return sum(row["order_count"] for row in rows_of(serving.read(spark, settings, SPEND, layer="speed")))


def test_streams_go_on_and_what_they_read_is_kept(spark: SparkSession, settings: Settings) -> None:
    here = replace(
        settings,
        speed=replace(settings.speed, source="log"),
        ingest=replace(settings.ingest, max_offsets_per_trigger=1),
        maintain=replace(settings.maintain, max_files=4, retention_hours=0),
    )
    send(here, [order(f"o{i}", time=at(i)) for i in range(5)])
    ingest.run(here, once=True)
    speed.run(here, views=[SPEND.name], once=True)
    batch.run(here, views=[SPEND.name], until=at(120))
    form = published(spark, here, SPEND)
    assert form is not None

    running = [
        ingest.start_ingest(spark, here, once=False),
        speed.start_view(spark, here, SPEND, once=False),
    ]
    try:
        send(here, [order(f"o{i}", time=at(i)) for i in range(5, 7)])
        for query in running:
            query.processAllAvailable()
        before = all_files(here)
        told = maintain.run(here, dry_run=True)
        assert all_files(here) == before
        assert {step.table for step in told if step.action == "compact"} >= {RAW_EVENTS, ORDER_EVENTS}
        assert files_of(here, ORDER_EVENTS) == 7
        maintain.run(here, dry_run=False)
        assert files_of(here, ORDER_EVENTS) == 1
        assert files_of(here, RAW_EVENTS) == 1
        send(here, [order(f"o{i}", time=at(i)) for i in range(7, 9)])
        for query in running:
            query.processAllAvailable()
        assert all(query.isActive for query in running)
        assert orders_counted(spark, here) == 9
    finally:
        end_all(running)

    send(here, [order(f"o{i}", time=at(i)) for i in range(9, 14)])
    ingest.run(here, once=True)
    steps = {(step.action, step.table): step for step in maintain.run(here, dry_run=False)}
    assert steps["compact", ORDER_EVENTS].files == 8
    assert "batch form" in steps["vacuum", ORDER_EVENTS].keeps
    log = read_version(spark, table_path(here.lake.root, ORDER_EVENTS), form.log.versions[ORDER_EVENTS])
    assert log.count() == 5
    speed.run(here, views=[SPEND.name], once=True)
    assert orders_counted(spark, here) == 14

    batch.run(here, views=[SPEND.name], until=at(120))
    speed_table = "views/customer_hourly_spend/v1/speed"
    assert steps["vacuum", speed_table].files > 0, "what nobody reads any more is gone"
    maintain.run(here, dry_run=False)
    assert orders_counted(spark, here) == 14


def test_versions_that_nobody_sees_any_more_are_removed(spark: SparkSession, settings: Settings) -> None:
    send(settings, [order("o1")])
    ingest.run(settings, once=True)
    speed.run(settings, views=[SPEND.name], once=True)
    root = settings.lake.root
    line, folder = Line(Made("1")), Path(root) / "views" / SPEND.name
    for number in (1, 2):
        made = Made(f"1r{number}")
        shutil.copytree(folder / "v1", folder / f"v{made.label}")
        begun = replace(line, next=made, count=number)
        with versions.changing(settings):
            versions.enter(spark, settings, SPEND.name, begun, became="begun")
            line = Line(made, before=(*line.before, line.live), count=number)
            versions.enter(spark, settings, SPEND.name, line, became="live")
    assert [step for step in maintain.run(settings, dry_run=False) if step.action == "drop"] == []
    at_once = replace(settings, maintain=replace(settings.maintain, retention_hours=0))
    (told,) = (step for step in maintain.run(at_once, dry_run=True) if step.action == "drop")
    assert told.table == "views/customer_hourly_spend/v1"
    assert (folder / "v1").exists()
    maintain.run(at_once, dry_run=False)
    assert sorted(path.name for path in folder.glob("v*")) == ["v1r1", "v1r2"]
    assert not Path(checkpoint_path(root, "customer_hourly_spend_v1")).exists()
    known = versions.read(spark, settings).line(SPEND.name)
    assert (known.live.label, [made.label for made in known.before]) == ("1r2", ["1r1"])
    assert rows_of(serving.read(spark, settings, SPEND, layer="speed"))
    assert view_path(root, SPEND.name, "speed", known.live.label).endswith("v1r2/speed")
