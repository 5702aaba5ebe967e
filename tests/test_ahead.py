"""An order from the future, its record's time with it, passes the contract: it decides no horizon, is told, and can be taken out."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta, timezone

import pytest
from pyspark.sql import SparkSession

from lake import Sent, at, order, rows_of, send
from pipeline import ahead, batch, erase, ingest, plan, serving, speed, status, versions
from pipeline.published import published
from pipeline.settings import Settings

SPEND = "customer_hourly_spend"
FUTURE = datetime(2099, 1, 1, 12, 30, tzinfo=timezone.utc)
STRAY = replace(order("stray", time=FUTURE, customer_id="c-stray", partition=1), timestamp=FUTURE)


def test_as_far_ahead_as_the_contract_grants_is_not_ahead() -> None:
    now = at(0)
    assert not ahead.is_ahead(at(5), now)
    assert ahead.is_ahead(at(5) + timedelta(microseconds=1), now)


def stream(here: Settings, *records: Sent) -> None:
    send(here, records)
    ingest.run(here, once=True)
    speed.run(here, views=[SPEND], once=True)


def horizon(spark: SparkSession, here: Settings) -> datetime | None:
    found = published(spark, here, versions.live_views(spark, here)[SPEND])
    assert found is not None
    return found.horizon


def served(spark: SparkSession, here: Settings) -> dict[datetime, tuple[int, bool]]:
    """By window how many orders of c1, and whether the row is final."""
    rows = rows_of(
        serving.read(spark, here, versions.live_views(spark, here)[SPEND]).where("customer_id = 'c1'")
    )
    return {row["window_start"]: (row["order_count"], row["is_final"]) for row in rows}


def told(here: Settings) -> list[str]:
    return [note for note in status.look(here).notes if "ahead of the clock" in note]


@pytest.mark.kafka
def test_an_order_from_the_future_decides_nothing_and_can_be_taken_out(
    spark: SparkSession, settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    stream(settings, order("o1"), order("o2", time=at(130)), STRAY)
    batch.run(settings, views=[SPEND])
    assert horizon(spark, settings) == at(120)
    assert "the horizon of a batch passes over it" in capsys.readouterr().err
    assert served(spark, settings)[at(120)] == (1, True)  # the stray has closed it in the speed layer
    stream(settings, order("o3", time=at(131)))
    assert served(spark, settings)[at(120)] == (1, True)
    event, watermark = told(settings)
    assert event.startswith("orders: the newest event is ahead of the clock (2099-01-01T12:30:00Z)")
    assert watermark.startswith(
        "customer_hourly_spend_v1: the watermark is ahead of the clock (2099-01-01T12:20:00Z)"
    )
    assert any("the watermark is ahead of the clock" in note for note in plan.look(settings).notes)
    batch.run(settings, views=[SPEND], until=at(180))  # what was late is counted by batch
    assert served(spark, settings)[at(120)] == (2, True)
    batch.run(settings, views=[SPEND])
    assert (
        "the horizon goes back, from 2026-01-01T15:00:00Z to 2026-01-01T14:00:00Z" in capsys.readouterr().err
    )

    erase.run(settings, "c-stray", takes_text=lambda _: False, is_confirmed=lambda records: records == 1)
    stream(settings, order("o4", time=at(140)))
    assert served(spark, settings)[at(120)] == (3, False)
    assert told(settings) == []
    assert plan.look(settings).notes == []


@pytest.mark.kafka
def test_a_horizon_that_was_put_into_the_future_comes_back(
    spark: SparkSession, settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    send(settings, [order("o1"), order("o2", time=at(130)), STRAY])
    ingest.run(settings, once=True)
    batch.run(settings, views=[SPEND], until=FUTURE)
    _, of_horizon = told(settings)
    assert of_horizon.startswith(
        f"{SPEND}: the horizon of its batch form is ahead of the clock (2099-01-01T12:00:00Z)"
    )
    batch.run(settings, views=[SPEND], incremental=True)
    assert horizon(spark, settings) == at(120)
    assert "the horizon goes back" in capsys.readouterr().err
    assert [*served(spark, settings)] == [at(0)]


@pytest.mark.kafka
def test_where_all_events_are_ahead_it_is_the_clock_that_is_wrong(
    spark: SparkSession, settings: Settings
) -> None:
    send(settings, [STRAY])
    ingest.run(settings, once=True)
    batch.run(settings, views=[SPEND])
    assert horizon(spark, settings) == FUTURE.replace(minute=0)
