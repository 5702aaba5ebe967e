"""Late events are named once, with their lateness; a batch run that counts them heals them; the log as a source tells the same."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from pyspark.sql import SparkSession

from lake import at, on_kafka, order, rows_of, send
from pipeline import audit, batch, cli, evidence, ingest, reconcile, speed
from pipeline.late import recorded
from pipeline.published import published
from pipeline.settings import Settings
from pipeline.views import VIEWS
from story import Story

pytestmark = pytest.mark.kafka

SPEND = "customer_hourly_spend"


def test_late_events_are_named_once_and_healed_by_the_batch_that_counts_them(
    spark: SparkSession, story: Story
) -> None:
    before = story.before_batch
    assert (before.events, before.not_healed) == (1, 1)
    assert {low: count for low, count in before.histogram.items() if count} == {600: 1}
    (worst,) = before.worst
    assert worst["key"] == "order_created|too late"
    assert (worst["event_time"], worst["watermark"]) == (at(2), at(20))
    assert worst["lateness_seconds"] == 18 * 60
    assert (worst["partition"], worst["offset"]) == (0, 7)
    assert worst["healed_at"] is None
    here = story.settings
    newest = published(spark, here, VIEWS[SPEND])
    assert newest is not None
    (row,) = rows_of(recorded(spark, here.lake.root, SPEND))
    assert row["healed_at"] == newest.made_at.replace(microsecond=row["healed_at"].microsecond)
    (after,) = evidence.lateness(here, views=[SPEND])
    assert (after.events, after.not_healed) == (1, 0)


def test_what_no_batch_has_covered_is_not_healed(
    spark: SparkSession, story: Story, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A second late event comes after the batch run: it is entered beside the first, and only the next run heals it."""
    here = story.copy(tmp_path / "later")
    send(here, [order("later", time=at(3), customer_id="c9")])
    ingest.run(here, once=True)
    speed.run(here, views=[SPEND], once=True)
    options = ["--env", "test", "--set", f"lake.root={here.lake.root}"]
    options += ["--set", f"kafka.topics.orders={here.kafka.topics.orders}"]
    capsys.readouterr()
    assert cli.main(["late", SPEND, "--format", "json", *options]) == 0
    (told,) = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert (told["view"], told["events"], told["not_healed"]) == (SPEND, 2, 1)
    assert [one["key"] for one in told["worst"]] == ["order_created|later", "order_created|too late"]
    assert told["worst"][0]["watermark"] == "2026-01-02T17:50:00Z"
    batch.run(here, views=[SPEND], until=at(30))
    assert [row["healed_at"] is None for row in rows_of(recorded(spark, here.lake.root, SPEND))].count(
        True
    ) == 1
    batch.run(here, views=[SPEND], until=at(60))
    assert all(row["healed_at"] for row in rows_of(recorded(spark, here.lake.root, SPEND)))


def test_kafka_as_a_source_is_proven_too(spark: SparkSession, settings: Settings) -> None:
    here = on_kafka(settings)
    send(here, [order(f"o{i}", time=at(10 * i), partition=i % 2) for i in range(4)])
    ingest.run(here, once=True)
    speed.run(here, views=[SPEND], once=True)
    behind = [order("late", time=at(1)), order("at the watermark", time=at(20))]
    send(here, [*behind, order("end", time=at(60 * 30))])
    ingest.run(here, once=True)
    speed.run(here, views=[SPEND], once=True)
    batch.run(here, views=[SPEND], until=at(60 * 5))
    (agreement,) = reconcile.run(here, views=[SPEND])
    assert (agreement.late, agreement.late_events, agreement.unexplained) == (1, 2, 0)
    report = audit.run(here)
    assert report.faults == []
    assert [(one.to_read, one.counted, one.late) for one in report.queries] == [(7, 5, 2)]
