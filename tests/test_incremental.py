"""An incremental batch run gives the rows of a full one, and leaves those alone that no new event can have changed."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import datetime
from typing import Any

import pytest
from delta.tables import DeltaTable
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

import pipeline.incremental
from lake import Sent, at, cancellation, line, order, product, rows_of, send
from pipeline import batch, ingest
from pipeline.cli import main
from pipeline.errors import RefusedToStart
from pipeline.incremental import kept_rows, typed_table_ids
from pipeline.published import published, snapshot
from pipeline.settings import Settings
from pipeline.sinks import keeping_metadata
from pipeline.tables import ORDER_EVENTS, table_path
from pipeline.views import VIEWS

pytestmark = pytest.mark.kafka

DAY = 24 * 60
CUT = ("customer_hourly_spend", "enriched_orders", "order_outcomes")
"""The views whose rows a horizon cuts."""
TAMPERED = "999.00"


def a_day_of(day: int, *hours: float) -> Iterable[Sent]:
    for hour in hours:
        time = at(day * DAY + hour * 60)
        yield order(
            f"o{day}-{hour}", time=time, customer_id=f"c{int(hour) % 3}", items=[line("p1"), line("p2")]
        )


FIRST = [
    product("p1", time=at(-60)),
    product("p2", time=at(DAY)),
    *(sent for day in range(4) for sent in a_day_of(day, 0, 6, 12, 18)),
    cancellation("o0-6", time=at(7 * 60)),
    order("twice", time=at(3 * DAY), customer_id="c1", total="3.00", partition=1),
]
SECOND = [
    order("late", time=at(3 * DAY + 30), customer_id="c0", total="0.01", items=[line("p1")]),
    order("twice", time=at(3 * DAY), customer_id="c1", total="5.00"),
    product("p1", time=at(3 * DAY + 60), cost="1.00"),
    cancellation("o3-6", time=at(3 * DAY + 12 * 60)),
    cancellation("o3-0", time=at(4 * DAY)),
    *a_day_of(4, 1, 7),
    *a_day_of(6, 0),
]


@pytest.fixture
def once(spark: SparkSession, settings: Settings) -> Settings:
    """A lake with a batch form of FIRST in which one old row of each view is wrong."""
    send(settings, FIRST)
    ingest.run(settings, once=True)
    batch.run(settings, views=CUT)
    for name, column in zip(CUT, ("hourly_spend", "cost", "total"), strict=True):
        found = last_run(spark, settings, name)
        with keeping_metadata(spark, found.path):
            oldest = F.col(str(VIEWS[name].settles_by)) <= at(60)
            DeltaTable.forPath(spark, found.path).update(
                oldest, {column: F.lit(TAMPERED).cast("decimal(9,2)")}
            )
    return settings


def last_run(spark: SparkSession, settings: Settings, name: str) -> Any:
    found = published(spark, settings, VIEWS[name])
    assert found is not None
    return found


def stored(spark: SparkSession, settings: Settings, name: str) -> list[dict[str, Any]]:
    return rows_of(spark.read.format("delta").load(last_run(spark, settings, name).path))


def made_anew(spark: SparkSession, settings: Settings, name: str) -> list[dict[str, Any]]:
    last = last_run(spark, settings, name)
    return rows_of(batch.batch_rows(spark, settings, VIEWS[name], log=last.log, horizon=last.horizon))


def unchanged(spark: SparkSession, settings: Settings, name: str = CUT[0]) -> datetime | None:
    view, log = VIEWS[name], snapshot(spark, settings)
    ids = typed_table_ids(spark, settings, view)
    kept = kept_rows(spark, settings, view, log=log, horizon=at(6 * DAY), table_ids=ids)
    return kept.before if kept else None


def test_what_can_have_changed_is_made_anew_and_nothing_else(spark: SparkSession, once: Settings) -> None:
    before = {name: len(made_anew(spark, once, name)) for name in CUT}
    send(once, SECOND)
    ingest.run(once, once=True)
    batch.run(once, views=CUT, incremental=True)
    for name in CUT:
        rows, right = stored(spark, once, name), made_anew(spark, once, name)
        wrong = [row for row in rows if TAMPERED in map(str, row.values())]
        assert wrong, name
        assert len(rows) == len(right) > before[name], name
        assert [row for row in rows if row not in right] == wrong, name
    batch.run(once, views=CUT)
    for name in CUT:
        assert stored(spark, once, name) == made_anew(spark, once, name), name


def test_with_nothing_new_all_rows_stay(spark: SparkSession, once: Settings) -> None:
    before = {name: stored(spark, once, name) for name in CUT}
    assert main(["batch", *CUT, "--incremental", *options(once)]) == 0
    assert {name: stored(spark, once, name) for name in CUT} == before


def test_what_another_run_has_published_meanwhile_is_not_replaced(
    spark: SparkSession, once: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def meanwhile(*given: Any, **named: Any) -> Any:
        kept = kept_rows(*given, **named)
        batch.run(once, views=CUT[:1], until=at(DAY))
        return kept

    monkeypatch.setattr(batch, "kept_rows", meanwhile)
    with pytest.raises(RefusedToStart, match="another batch run has published"):
        batch.run(once, views=CUT[:1], incremental=True)
    assert last_run(spark, once, CUT[0]).horizon == at(DAY)


def options(settings: Settings) -> list[str]:
    given = {
        "lake.root": settings.lake.root,
        "kafka.bootstrap_servers": settings.kafka.bootstrap_servers,
        "kafka.topics.orders": settings.kafka.topics.orders,
        "kafka.topics.products": settings.kafka.topics.products,
        "kafka.topics.text_lines": settings.kafka.topics.text_lines,
    }
    return [word for key, value in given.items() for word in ("--set", f"{key}={value}")]


def lose_a_row(spark: SparkSession, settings: Settings) -> None:
    DeltaTable.forPath(spark, table_path(settings.lake.root, ORDER_EVENTS)).delete(
        F.col("order_id") == "o3-0"
    )


def publish_from_raw(spark: SparkSession, settings: Settings) -> None:
    batch.run(settings, views=CUT, source="raw")


def publish_further(spark: SparkSession, settings: Settings) -> None:
    batch.run(settings, views=CUT, until=at(9 * DAY))


def change_without_a_word(spark: SparkSession, settings: Settings) -> None:
    path = last_run(spark, settings, CUT[0]).path
    DeltaTable.forPath(spark, path).delete(F.col("customer_id") == "c1")


def test_after_what_else_has_happened_all_rows_are_made_anew(
    spark: SparkSession, once: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    last = last_run(spark, once, CUT[0])
    assert unchanged(spark, once) == last.horizon
    assert unchanged(spark, once, "customer_totals") is None
    happens: list[Callable[[SparkSession, Settings], None]] = [
        change_without_a_word,
        publish_from_raw,
        publish_further,
    ]
    for happening in happens:
        happening(spark, once)
        assert unchanged(spark, once) is None, happening.__name__
        batch.run(once, views=CUT[:1])
        assert unchanged(spark, once) is not None
    lose_a_row(spark, once)
    assert unchanged(spark, once) is None
    batch.run(once, views=CUT[:1])
    monkeypatch.setattr(pipeline.incremental, "CONTRACT_VERSION", 2)
    assert unchanged(spark, once) is None


def test_raw_bytes_are_never_read_incrementally(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["batch", "--incremental", "--from", "raw"]) == 2
    assert "Leave one of --incremental and --from raw out" in capfd.readouterr().err
