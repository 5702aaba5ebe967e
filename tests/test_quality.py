"""Expectations: read strictly, judged by Great Expectations on real tables, kept, and told."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from pyspark.sql import SparkSession
from pyspark.sql import types as T

from pipeline import catalog, cli, expectations, quality
from pipeline.contracts import EVENT_TYPES, MAX_AMOUNT, MAX_ID_CHARACTERS, ORDER_EVENTS, STATUSES
from pipeline.errors import ConfigurationError, SetupError
from pipeline.settings import Settings, load
from pipeline.tables import QUALITY_RESULTS, table_path
from pipeline.validation import verdicts
from slack_server import slack

EVERY_KIND = """
order_events:
  if_missing: fail
  expectations:
    contract: {expect: contract, otherwise: fail}
    known: {expect: not_null, columns: [total, items], otherwise: warn}
    cheap: {expect: in_range, column: total, at_most: 100, otherwise: warn}
    first partitions: {expect: in_set, column: partition, values: [0, 1], otherwise: fail}
    order once: {expect: unique, columns: [order_id], otherwise: warn}
    record once: {expect: unique, columns: [topic, partition, offset], otherwise: fail}
    recent: {expect: freshness, column: event_time, at_most_hours: 2, otherwise: fail}
    ten: {expect: row_count, at_least: 10, at_most: 20, otherwise: fail}
    shares:
      expect: distribution
      column: status
      shares: {pending: 0.1, completed: 0.8, cancelled: 0.1}
      max_divergence: 0.1
      otherwise: fail
"""

NULLABLE = T.StructType([T.StructField(field.name, field.dataType) for field in ORDER_EVENTS.fields])


def order_row(number: int, **changes: Any) -> tuple[Any, ...]:
    """A good row of order_events, an hour old; of ten one is pending and one cancelled."""
    status = {0: "pending", 1: "cancelled"}.get(number % 10, "completed")
    row = {
        "event_type": "order_created",
        "order_id": f"o{number}",
        "customer_id": "someone@example.org",
        "total": Decimal("10.00"),
        "status": status,
        "items": [],
        "event_time": datetime.now(timezone.utc) - timedelta(hours=1),
        "topic": "orders",
        "partition": 0,
        "offset": number,
        "contract_version": 1,
    }
    return (*{**row, **changes}.values(),)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    written = tmp_path / "expected.yml"
    written.write_text(EVERY_KIND)
    return written


@pytest.fixture
def here(tmp_path: Path, file: Path) -> Settings:
    return load("test", [f"lake.root={tmp_path / 'lake'}", f"quality.expectations={file}"], {})


@pytest.fixture
def put(spark: SparkSession, here: Settings) -> Callable[..., None]:
    """Replace the rows of order_events, by another writer than the pipeline: nothing keeps nulls out."""

    def write(*rows: tuple[Any, ...]) -> None:
        frame = spark.createDataFrame(rows, NULLABLE)
        frame.write.format("delta").mode("overwrite").save(table_path(here.lake.root, "order_events"))

    return write


def outcomes(results: list[quality.Result]) -> dict[str, str]:
    return {result.expectation: result.outcome for result in results}


def not_met(results: list[quality.Result]) -> dict[str, tuple[str, int | None]]:
    return {
        result.expectation: (result.outcome, result.unexpected_count)
        for result in results
        if result.outcome != "passed"
    }


def test_what_is_as_expected_passes_and_what_is_not_says_how_many_rows(
    spark: SparkSession, here: Settings, put: Callable[..., None]
) -> None:
    put(*map(order_row, range(10)))
    assert set(outcomes(quality.run(here)).values()) == {"passed"}

    old = datetime.now(timezone.utc) - timedelta(hours=3)
    put(
        *(order_row(number, event_time=old, total=Decimal("100.01")) for number in range(2, 22)),
        order_row(0, customer_id=None, partition=2, event_time=old, items=None),
        order_row(0, status="Pending", total=Decimal("-0.01"), order_id="x" * 129, event_time=old),
    )
    results = quality.run(here)
    assert not_met(results) == {
        "contract: customer_id not_null": ("failed", 1),
        "contract: order_id within_length": ("failed", 1),
        "contract: status in_set": ("failed", 1),
        "contract: total in_range": ("failed", 1),
        "known: items": ("warned", 1),
        "cheap": ("warned", 20),
        "first partitions": ("failed", 1),
        "recent": ("failed", None),
        "ten": ("failed", None),
        "shares": ("failed", None),
    }
    observed = {result.expectation: result.observed for result in results}
    assert observed["ten"] == "22"
    assert observed["recent"].startswith(old.strftime("%Y-%m-%dT%H:%M"))
    assert observed["shares"].startswith("divergence infinite")

    kept = spark.read.format("delta").load(table_path(here.lake.root, QUALITY_RESULTS))
    by_version = {row.table_version: row["count"] for row in kept.groupBy("table_version").count().collect()}
    assert by_version == {0: len(results), 1: len(results)}
    assert {row.outcome for row in kept.collect()} == {"passed", "warned", "failed"}


def test_duplicates_and_shares_that_drift(here: Settings, put: Callable[..., None]) -> None:
    statuses = ["pending"] * 4 + ["completed"] * 5 + ["cancelled"]
    put(
        *(
            order_row(number, status=status, order_id="same", offset=number // 2)
            for number, status in enumerate(statuses)
        )
    )
    results = quality.run(here)
    assert not_met(results) == {
        "order once": ("warned", 10),
        "record once": ("failed", 10),
        "shares": ("failed", None),
    }
    divergence = sum(p * math.log(p / q) for p, q in ((0.4, 0.1), (0.5, 0.8), (0.1, 0.1)))
    told = next(result.observed for result in results if result.expectation == "shares")
    assert told == f"divergence {divergence:.4f}: pending 0.4000, completed 0.5000, cancelled 0.1000"


def test_a_column_that_is_gone_and_an_empty_table_are_told(
    spark: SparkSession, here: Settings, put: Callable[..., None]
) -> None:
    frame = spark.createDataFrame([order_row(1)], NULLABLE).drop("status").limit(0)
    frame.write.format("delta").save(table_path(here.lake.root, "order_events"))
    results = {result.expectation: result for result in quality.run(here)}
    assert results["contract: status in_set"].outcome == "failed"
    assert "could not be judged" in results["contract: status in_set"].observed
    assert (results["ten"].outcome, results["ten"].observed) == ("failed", "0")
    assert results["recent"].outcome == "failed"
    assert results["contract: order_id not_null"].outcome == "passed"


def test_of_no_rows_no_value_is_against_what_is_expected(here: Settings, put: Callable[..., None]) -> None:
    put()
    results = quality.run(here)
    assert {*not_met(results)} == {"recent", "ten"}
    observed = {result.expectation: result.observed for result in results}
    assert (observed["shares"], observed["cheap"]) == ("no value to judge", "0 of 0 rows against it")


@pytest.mark.parametrize(
    ("if_missing", "outcome"), [("skip", "skipped"), ("warn", "warned"), ("fail", "failed")]
)
def test_a_table_that_is_not_there(
    if_missing: str, outcome: str, spark: SparkSession, here: Settings, file: Path, put: Callable[..., None]
) -> None:
    file.write_text(EVERY_KIND.replace("if_missing: fail", f"if_missing: {if_missing}"))
    assert outcomes(quality.run(here)) == {"is there": outcome}
    if if_missing == "fail":
        put(order_row(1))
        assert outcomes(quality.run(here))["is there"] == "passed"


def test_the_command_ends_with_1_says_no_values_and_tells_what_failed(
    here: Settings,
    put: Callable[..., None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    root, file = here.lake.root, here.quality.expectations
    words = [
        f"lake.root={root}",
        f"quality.expectations={file}",
        f"alerts.state_file={tmp_path / 'alerts.db'}",
    ]
    words.append("alerts.webhook_url=${env:HOOK}")
    command = ["quality", "--env", "test", "--format", "json", *(f"--set={word}" for word in words)]
    with slack() as channel:
        monkeypatch.setenv("HOOK", channel.webhook)
        put(*(order_row(number, total=Decimal("-1")) for number in range(10)))
        capfd.readouterr()
        assert cli.main(command) == 1
        captured = capfd.readouterr()
        lines = [json.loads(line) for line in captured.out.splitlines()]
        assert [line["expectation"] for line in lines if line["outcome"] == "failed"] == [
            "contract: total in_range"
        ]
        assert "someone@example.org" not in captured.out
        (progress,) = captured.err.splitlines()
        assert progress.startswith("✓ quality order_events  ")
        put(*map(order_row, range(10)))
        assert cli.main(command) == 0
        failed, over = channel.texts
    assert "job *quality* · step *order_events: contract: total in_range* · ExpectationFailed" in failed
    assert "10 of 10 rows" in failed
    assert "over:" in over


def test_the_shipped_expectations_load_and_share_the_contract() -> None:
    shipped = {table.table: table for table in expectations.load(catalog.catalog(load("test")))}
    assert {"order_events", "product_events", "fact_orders"} <= {*shipped}
    by_name = {one.name: one for one in shipped["order_events"].expectations}
    assert by_name["contract: status in_set"].arguments["values"] == STATUSES
    assert by_name["contract: event_type in_set"].arguments["values"] == EVENT_TYPES
    assert by_name["contract: total in_range"].arguments["at_most"] == MAX_AMOUNT
    assert by_name["contract: order_id within_length"].arguments["at_most"] == MAX_ID_CHARACTERS
    assert "contract: total not_null" not in by_name
    (shares,) = (one for one in shipped["fact_orders"].expectations if one.kind == "distribution")
    assert shares.arguments["shares"] == {"pending": 0.1, "completed": 0.8, "cancelled": 0.1}


@pytest.mark.parametrize(
    ("right", "wrong", "key", "nearest"),
    [
        ("order_events:", "order_event:", "order_event", "order_events"),
        ("if_missing: fail", "if_misssing: fail", "order_events.if_misssing", "if_missing"),
        ("if_missing: fail", "if_missing: fial", "order_events.if_missing", "fail"),
        ("  if_missing: fail\n", "", "order_events", None),
        ("expect: unique", "expect: uniqe", "order_events.expectations.order once.expect", "unique"),
        ("columns: [order_id]", "columns: [order]", "order_events.expectations.order once.columns", "order_id"),
        ("columns: [order_id]", "columns: order_id", "order_events.expectations.order once.columns", None),
        ("column: total", "colum: total", "order_events.expectations.cheap.colum", "column"),
        ("at_most: 100", "at_most: much", "order_events.expectations.cheap.at_most", None),
        ("at_most: 100, ", "", "order_events.expectations.cheap", None),
        ("at_least: 10", "at_least: 1.5", "order_events.expectations.ten.at_least", None),
        ("at_most_hours: 2", "at_most_hours: -2", "order_events.expectations.recent.at_most_hours", None),
        ("pending: 0.1", "pending: 0.2", "order_events.expectations.shares.shares", None),
        ("      max_divergence: 0.1\n", "", "order_events.expectations.shares", None),
        ("values: [0, 1]", "values: []", "order_events.expectations.first partitions.values", None),
        ("at_most: 100, otherwise: warn", "at_most: 100, otherwise: wran", "order_events.expectations.cheap.otherwise", "warn"),
        ("at_most: 100, otherwise: warn", "at_most: 100", "order_events.expectations.cheap", None),
    ],
)  # fmt: skip
def test_a_wrong_file_is_refused_with_place_and_nearest_name(
    right: str, wrong: str, key: str, nearest: str | None, file: Path
) -> None:
    assert right in EVERY_KIND
    file.write_text(EVERY_KIND.replace(right, wrong, 1))
    with pytest.raises(ConfigurationError) as caught:
        expectations.load(catalog.catalog(load("test")), file)
    assert (caught.value.key, caught.value.nearest) == (key, nearest)
    assert caught.value.source is not None
    assert caught.value.source.startswith(f"{file}:")


def test_only_tables_with_expectations_can_be_named(
    here: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--set", f"quality.expectations={here.quality.expectations}"]
    assert cli.main(["quality", "order_event", *words]) == 2
    assert "Did you mean order_events?" in capsys.readouterr().err
    assert cli.main(["quality", "dead_letters", *words]) == 2


def test_without_great_expectations_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "great_expectations", None)
    with pytest.raises(SetupError, match=r"pipeline\[quality\]"):
        verdicts(None, [], now=datetime.now(timezone.utc))  # type: ignore[arg-type]


def test_quality_yml_is_no_environment() -> None:
    with pytest.raises(ConfigurationError):
        load("quality", [], {})
