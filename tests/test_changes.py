"""Why a served number changed between two moments: each cause once, with its count, on a small lake."""

from __future__ import annotations

import json
import time
from datetime import datetime, timezone
from decimal import Decimal
from typing import Any

import pytest
from pyspark.sql import SparkSession

from lake import Sent, at, cancellation, line, order, product, send
from pipeline import batch, changes, cli, dead_letters, ingest, speed
from pipeline.errors import UsageError
from pipeline.settings import Settings
from pipeline.transforms.patches import merge_patch
from pipeline.views import VIEWS

pytestmark = pytest.mark.kafka


def moment() -> datetime:
    """Now; what was committed before lies before it, what is committed later after it."""
    time.sleep(0.01)
    now = datetime.now(timezone.utc)
    time.sleep(0.01)
    return now


def run_all(settings: Settings) -> None:
    ingest.run(settings, once=True)
    speed.run(settings, once=True)


def changed(spark: SparkSession, settings: Settings, view: str, first: datetime, second: datetime) -> Any:
    rows = changes.changed_rows(spark, settings, VIEWS[view], first, second).collect()
    return {row[0]: (row["before"], row["after"], row["causes"]) for row in rows}


HOURS = 60 * 30


def test_every_cause_is_told_with_its_events(
    spark: SparkSession, settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    send(
        settings,
        [
            product("p1", time=at(HOURS - 5), cost="5.00"),
            product("clock", time=at(HOURS)),
            order("o2", time=at(1), customer_id="more"),
            order("o3", time=at(2), customer_id="mended", total="much"),
            order("twin", time=at(3), customer_id="twins", total="7.00", partition=1),
            order("same", time=at(4), customer_id="same"),
            order("clock", time=at(HOURS), customer_id="clock", items=[line("p1")]),
            order("clock too", time=at(HOURS), customer_id="other", partition=1),
            Sent(b"to be", kind="text-lines"),
        ],
    )
    run_all(settings)
    first = moment()
    send(
        settings,
        [
            order("o4", time=at(HOURS + 1), customer_id="clock", total="2.50"),
            order("o4", time=at(HOURS + 1), customer_id="clock", total="2.50", partition=1),
            order("late", time=at(4), customer_id="more"),
            order("twin", time=at(3), customer_id="twins", total="9.00"),
            cancellation("clock", time=at(HOURS + 2)),
            product("p1", time=at(HOURS - 2), cost="6.00"),
            Sent(b"or not to be", kind="text-lines"),
        ],
    )
    run_all(settings)
    between = moment()
    fixed = (settings.kafka.topics.orders, 0, 1)
    patch = merge_patch('{"total": "3.00"}')
    dead_letters.fix(settings, patch, addresses=[fixed], author="ann", reason="agreed with the shop")
    dead_letters.replay(settings)
    batch.run(settings, until=at(60 * 5))
    second = moment()

    spend = {
        customer: (before and before["hourly_spend"], after["hourly_spend"], causes)
        for customer, (before, after, causes) in changed(
            spark, settings, "customer_hourly_spend", first, second
        ).items()
    }
    assert spend == {
        "clock": (Decimal("10.00"), Decimal("12.50"), {"new": 1}),
        "more": (Decimal("10.00"), Decimal("20.00"), {"late": 1}),
        "mended": (None, Decimal("3.00"), {"repaired": 1}),
        "twins": (Decimal("7.00"), Decimal("9.00"), {"corrected": 1}),
    }
    totals = changed(spark, settings, "customer_totals", first, second)
    assert {customer: causes for customer, (_, _, causes) in totals.items()} == {
        customer: causes for customer, (_, _, causes) in spend.items()
    }
    words = changed(spark, settings, "word_counts", first, second)
    assert {word: causes for word, (_, _, causes) in words.items()} == {
        word: {"new": 1} for word in ("or", "not", "to", "be")
    }
    ((before, after, causes),) = changed(spark, settings, "enriched_orders", first, between).values()
    assert (before["cost"], after["cost"], causes) == (Decimal("5.00"), Decimal("6.00"), {"corrected": 1})

    options = [
        f"--set=lake.root={settings.lake.root}",
        "--env=test",
        "--changed-between",
        first.isoformat(),
        between.isoformat(),
    ]
    assert cli.main(["query", "order_outcomes", "--format=json", *options]) == 0
    told = {row["order_id"]: row for row in map(json.loads, capsys.readouterr().out.splitlines())}
    assert told["clock"]["causes"] == {"cancelled": 1, "new": 1}
    assert told["clock"]["before"] is None
    assert told["clock"]["after"]["seconds_to_cancel"] == 120
    others = [row["causes"] for name, row in told.items() if name != "clock"]
    assert others == [{"new": 1}] * len(others), "rows without a partner come out when none can come any more"
    assert cli.main(["query", "customer_hourly_spend", *options]) == 0
    assert "hourly_spend 10.00 → 12.50, order_count 1 → 2" in capsys.readouterr().out
    assert cli.main(["query", "customer_hourly_spend", "--where=order_count > 1", *options]) == 2
    with pytest.raises(UsageError):
        changes.changed_rows(spark, settings, VIEWS["word_counts"], second, first)
