"""The audit of a lake that is whole, and of one that is damaged: every kind of damage is named with its offsets."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from delta.tables import DeltaTable
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from lake import kinds_of, topics_of
from pipeline import audit, cli
from pipeline.audit import Fault, Report
from pipeline.tables import (
    BATCH_LEDGER,
    LATE_EVENTS,
    OFFSET_GAPS,
    ORDER_EVENTS,
    RAW_EVENTS,
    table_path,
    view_path,
)
from reference import audit_counts, read_records
from story import Story

pytestmark = pytest.mark.kafka


@pytest.fixture(scope="module")
def report(story: Story) -> Report:
    """Of the lake as it is."""
    return audit.run(story.settings)


def test_a_whole_lake_adds_up_to_what_plain_python_counts(story: Story, report: Report) -> None:
    assert report.faults == []
    records = read_records(story.settings.kafka.bootstrap_servers, list(topics_of(story.settings).values()))
    expected = audit_counts(records, kinds_of(story.settings))
    found = {(one.topic, one.partition): asdict(one) for one in report.partitions if one.delivered}
    assert {
        place: {name: account[name] for name in asdict(expected[place])} for place, account in found.items()
    } == {place: asdict(counts) for place, counts in expected.items()}
    orders = story.settings.kafka.topics.orders
    assert {place: one["gaps"] for place, one in found.items()} == {
        place: 2 if place == (orders, 0) else 0 for place in found
    }
    assert found[orders, 0]["repaired"] == 1
    assert {one["raw_events"] for one in found.values()} == {one["delivered"] for one in found.values()}
    assert all(one["behind"] == 0 for one in found.values())
    counts = {one.query: (one.to_read, one.counted, one.late) for one in report.queries}
    assert counts == {"customer_hourly_spend": (9, 8, 1), "word_counts": (1, 1, 0)}


def test_every_damage_is_named_with_its_offsets(
    spark: SparkSession, story: Story, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    here = story.copy(tmp_path / "damaged")
    orders, texts, root = here.kafka.topics.orders, here.kafka.topics.text_lines, here.lake.root

    def delete(path: str, condition: str) -> None:
        DeltaTable.forPath(spark, path).delete(condition)

    def repeat(table: str, condition: str) -> None:
        path = table_path(root, table)
        rows = spark.read.format("delta").load(path).where(condition).localCheckpoint()
        rows.write.format("delta").mode("append").save(path)

    raw = table_path(root, RAW_EVENTS)
    of_orders = f"topic = '{orders}'"
    delete(raw, f"{of_orders} AND ((partition = 0 AND offset IN (0, 1)) OR (partition = 1 AND offset = 2))")
    repeat(RAW_EVENTS, f"{of_orders} AND partition = 1 AND offset = 0")
    repeat(ORDER_EVENTS, "order_id = 'closing'")
    delete(table_path(root, ORDER_EVENTS), "order_id IN ('old', 'fixed')")
    delete(table_path(root, BATCH_LEDGER), f"query = 'ingest_v1' AND topic = '{texts}'")
    delete(
        table_path(root, BATCH_LEDGER),
        "query = 'customer_hourly_spend_v1' AND first_offset = 0 AND partition = 1",
    )
    delete(table_path(root, LATE_EVENTS), "key LIKE '%too late'")
    hourly = view_path(root, "customer_hourly_spend", "speed", 1)
    DeltaTable.forPath(spark, hourly).update("customer_id = 'c1'", {"order_count": F.col("order_count") + 1})

    for layer in ("speed", "batch"):
        twice = view_path(root, "customer_hourly_spend", layer, 1)  # type: ignore[arg-type]
        rows = spark.read.format("delta").load(twice).where("customer_id IN ('c1', 'c2')").localCheckpoint()
        rows.write.format("delta").mode("append").save(twice)

    options = ["--env", "test", "--set", f"lake.root={root}"]
    options += ["--set", f"kafka.bootstrap_servers={here.kafka.bootstrap_servers}"]
    for name in ("orders", "products", "text_lines", "word_counts_output"):
        options += ["--set", f"kafka.topics.{name}={getattr(here.kafka.topics, name)}"]
    capsys.readouterr()
    assert cli.main(["audit", "--format", "json", *options]) == 1
    told = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    found = {
        (one["fault"], one["query"], one["partition"], tuple(one["offsets"]))
        for account in told
        for one in account["faults"]
    }
    assert found == {
        ("lost", "ingest_v1", 0, ("0-1",)),
        ("lost", "ingest_v1", 1, ("2",)),
        ("not_in_raw", "ingest_v1", 0, ("0-1",)),
        ("raw_repeated", "ingest_v1", 1, ("0",)),
        ("several_fates", "ingest_v1", 0, ("9",)),
        ("no_fate", "ingest_v1", 0, ("4",)),
        ("repair_missing", "ingest_v1", 0, ("2",)),
        ("not_in_ledger", "ingest_v1", 0, ("0-1",)),
        ("not_in_ledger", "customer_hourly_spend", 1, ("0-5",)),
        ("not_counted", "customer_hourly_spend", 1, ("3-4",)),
        ("table_differs", "customer_hourly_spend", None, ()),
        ("key_repeated", "customer_hourly_spend", None, ()),
    }
    repeated = [
        one["detail"] for account in told for one in account["faults"] if one["fault"] == "key_repeated"
    ]
    assert [("batch" in one, "speed" in one, '"customer_id":"c1"' in one) for one in sorted(repeated)] == [
        (True, False, True),
        (False, True, True),
    ]


def test_a_table_that_has_lost_all_its_rows_differs(
    spark: SparkSession, story: Story, tmp_path: Path
) -> None:
    here = story.copy(tmp_path / "emptied")
    DeltaTable.forPath(spark, view_path(here.lake.root, "customer_hourly_spend", "speed", 1)).delete()
    (fault,) = audit.run(here).faults
    assert (fault.fault, fault.query) == ("table_differs", "customer_hourly_spend")
    assert fault.detail is not None
    assert fault.detail.startswith("the table adds up to 0 orders, ")


def test_what_kafka_forgets_is_told_by_what_it_said_before(
    spark: SparkSession, story: Story, report: Report, tmp_path: Path
) -> None:
    """Without Kafka the gap is known from the audit before; a lake that never asked cannot tell it from a loss."""
    here = story.copy(tmp_path / "alone")
    silent = replace(here, kafka=replace(here.kafka, bootstrap_servers="127.0.0.1:1"))
    alone = audit.run(silent)
    assert alone.faults == []
    assert len(alone.notes) == 1
    DeltaTable.forPath(spark, table_path(here.lake.root, OFFSET_GAPS)).delete()
    (fault,) = audit.run(silent).faults
    assert (fault.fault, fault.partition, fault.offsets) == ("unproven", 0, ["5-6"])
    assert isinstance(fault, Fault)
