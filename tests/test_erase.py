"""A customer is erased beside a stream that runs: nothing of them is left, everyone else's numbers stay, and streams go on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from lake import Sent, at, cancellation, line, order, product, rows_of, send
from pipeline import (
    audit,
    batch,
    catalog,
    cli,
    dead_letters,
    erase,
    ingest,
    promotion,
    reconcile,
    serving,
    speed,
    versions,
)
from pipeline.errors import CheckFailed, RefusedToStart
from pipeline.failpoints import POINTS, watched
from pipeline.settings import Settings
from pipeline.streaming import end_all
from pipeline.tables import DEAD_LETTERS, ERASED_RECORDS, RAW_EVENTS, REPAIRS, table_path
from pipeline.transforms.patches import merge_patch
from pipeline.views import VIEWS

pytestmark = pytest.mark.kafka


class Broken(Exception):
    """What a failpoint raises."""


OF_CUSTOMERS = ("customer_hourly_spend", "enriched_orders", "order_outcomes", "customer_totals")


def fill(settings: Settings) -> None:
    send(
        settings,
        [
            product("p1", time=at(-5)),
            order("o1", time=at(0), customer_id="gone", items=[line("p1")]),
            order("o2", time=at(1), customer_id="gone-too", items=[line("p1")]),
            order("o3", time=at(2), customer_id="gone", total="much", partition=1),
            order("o4", time=at(3), customer_id="gone", total="more"),
            Sent(b"order for gone: 3 pieces", key="k"),
            Sent(b"order for gone-too: 3 pieces", key="k"),
            cancellation("o2", time=at(4)),
            Sent(b"whom the gods love is gone", kind="text-lines"),
            order("clock", time=at(60 * 30), customer_id="clock"),
            order("clock too", time=at(60 * 30), customer_id="clock", partition=1),
            order("late", time=at(5), customer_id="gone"),
        ],
    )


def customers(spark: SparkSession, settings: Settings) -> dict[str, set[str]]:
    return {
        name: {row["customer_id"] for row in rows_of(serving.read(spark, settings, VIEWS[name]))}
        for name in OF_CUSTOMERS
    }


def test_a_customer_is_erased_and_everyone_else_stays(
    spark: SparkSession, settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    fill(settings)
    ingest.run(settings, once=True)
    speed.run(settings, once=True)
    topic = settings.kafka.topics.orders
    patch = merge_patch('{"total": "3.00"}')
    dead_letters.fix(settings, patch, addresses=[(topic, 1, 0)], author="ann", reason="agreed")
    dead_letters.replay(settings)
    batch.run(settings, until=at(120))
    Path(settings.lake.root, "reconciliation.md").write_text("| gone | 10.00 |")
    before = {name: rows_of(serving.read(spark, settings, VIEWS[name])) for name in OF_CUSTOMERS}

    def shown(named: Sequence[erase.Named]) -> bool:
        assert [one.text for one in named if one.place.startswith(topic)] == ["order for gone: 3 pieces"]
        return True

    running = [ingest.start_ingest(spark, settings, once=False)]
    try:
        report = erase.run(settings, "gone", takes_text=shown, is_confirmed=lambda records: records == 5)
        assert report is not None
        send(settings, [order("o9", time=at(60 * 30 + 5), customer_id="new")])
        running[0].processAllAvailable()
        assert running[0].isActive
    finally:
        end_all(running)
    assert report.hits == 0
    assert (report.records, report.mentions) == (5, 1)
    assert {*report.rebuilt} == {*OF_CUSTOMERS}
    assert {one.table: one.rows for one in report.tables}[DEAD_LETTERS] == 3
    assert not Path(settings.lake.root, "reconciliation.md").exists()
    for table, column in ((RAW_EVENTS, "value"), (DEAD_LETTERS, "value"), (REPAIRS, "repaired_value")):
        left = spark.read.format("delta").load(table_path(settings.lake.root, table)).collect()
        assert [row for row in left if b'"gone"' in bytes(row[column] or b"")] == []
    assert spark.read.format("delta").load(table_path(settings.lake.root, ERASED_RECORDS)).count() == 5

    speed.run(settings, once=True)
    found = customers(spark, settings)
    assert all("gone" not in names for names in found.values())
    assert found["customer_hourly_spend"] == {"gone-too", "clock", "new"}
    after = {name: rows_of(serving.read(spark, settings, VIEWS[name])) for name in OF_CUSTOMERS}
    for name in OF_CUSTOMERS:
        others = [row for row in before[name] if row["customer_id"] == "gone-too"]
        assert [row for row in after[name] if row["customer_id"] == "gone-too"] == others
        remaining = (Path(settings.lake.root) / "views" / name).glob("v*")
        assert [path.name for path in remaining] == [f"v{VIEWS[name].version}r1"]
    accounts = audit.run(settings)
    assert accounts.faults == [], accounts.faults
    assert sum(one.erased for one in accounts.partitions) == 5
    batch.run(settings, until=at(120))
    assert [one.unexplained for one in reconcile.run(settings, views=OF_CUSTOMERS)] == [0, 0, 0, 0]

    again = erase.run(settings, "gone", takes_text=lambda _: False, is_confirmed=lambda _: True)
    assert again is not None
    assert (again.records, again.rebuilt, again.hits) == (0, {}, 0)
    assert versions.read(spark, settings).line("enriched_orders").live.label == "1r1"
    assert cli.main(["erase", "--customer", "gone", f"--set=lake.root={settings.lake.root}"]) == 2
    assert "--yes" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("customer", "text", "by_field", "by_text"),
    [
        ("Müller/7", r'{"customer_id": "M\u00fcller\/7"}', True, False),
        ("Müller/7", r'"customer_id": "M\u00FCller\/7"', False, True),
        ('O"Neil', r'{"a": [{"customer_id" : "O\"Neil"}]}', True, False),
        ("a\\b", r'{"customer_id":"a\\b","total":"x"}', True, False),
        ("\U0001f600", r'{"customer_id":"\ud83d\ude00"}', True, False),
        ("\U0001f600", r'no: "\uD83D\uDE00"', False, True),
        ("42", '{"customer_id": 42}', True, False),
        ("42", '{"customer_id": ["7", "42"], "total": "x"}', True, False),
        ("42", '{"customer_id": 421}', False, False),
        ("42", '{"customer_id": "c", "timestamp": "2024-01-01T10:42:00Z"}', False, False),
        ("42", '{"customer_id": "c", "items": [{"product_id": "42", "quantity": 42}]}', False, False),
        ("42", r'{"customer_id": "c", "note": "\"customer_id\":\"42\""}', False, False),
        ("42", "order 42, for somebody", False, True),
        ("42", "42", False, True),
        ("42", "order c-42", False, False),
        ("c.1", "order cx1", False, False),
    ],
)
def test_json_is_judged_by_its_field_and_text_by_its_words(
    spark: SparkSession, customer: str, text: str, by_field: bool, by_text: bool
) -> None:
    rows = spark.createDataFrame([(text,)], "text string")
    column = F.col("text")
    judged = rows.select(erase._is_by_field(column, customer), erase._is_by_text(column, customer)).first()
    assert judged is not None
    assert (judged[0], judged[1]) == (by_field, by_text)


def test_an_erasure_that_was_broken_off_is_done_by_the_next(
    spark: SparkSession, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    views = {"customer_hourly_spend": VIEWS["customer_hourly_spend"]}
    monkeypatch.setattr(catalog, "views", lambda _: views)
    fill(settings)
    ingest.run(settings, once=True)
    speed.run(settings, once=True)
    batch.run(settings, until=at(120))

    def erased() -> erase.Report | None:
        return erase.run(settings, "gone", takes_text=lambda _: True, is_confirmed=lambda _: True)

    for point in (name for name in POINTS if name.startswith("erase: ")):

        def trap(name: str, broken_at: str = point) -> None:
            if name == broken_at:
                raise Broken(name)

        with watched(trap), pytest.raises(Broken):
            erased()
        if point == "erase: promoted":  # somebody's query of another version does not stop
            with monkeypatch.context() as refusing:
                refusing.setattr(erase, "_drop_others", refused)
                with pytest.raises(CheckFailed):
                    erased()
    report = erased()
    assert report is not None
    assert report.hits == 0
    live = report.rebuilt["customer_hourly_spend"]
    folder = Path(settings.lake.root)
    assert [path.name for path in (folder / "views/customer_hourly_spend").glob("v*")] == [f"v{live}"]
    begun = [path.name for path in (folder / "_checkpoints").glob("customer_hourly_spend*") if path.is_dir()]
    assert begun == [f"customer_hourly_spend_v{live}"]
    with pytest.raises(RefusedToStart):
        promotion.rollback(settings, "customer_hourly_spend")
    again = erased()
    assert again is not None
    assert again.rebuilt == {}


def refused(*_: object) -> None:
    raise CheckFailed("Still running")
