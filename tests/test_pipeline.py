"""From Kafka to every table and view, compared with a plain-Python computation over the same records."""

from __future__ import annotations

import os
import re
import sys
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from lake import by_key, kinds_of, rows_of, topics_of
from pipeline import batch, ingest, querying, reconcile, serving, speed
from pipeline.devservices import generate
from pipeline.served import Layer
from pipeline.service.answers import Answers
from pipeline.service.questions import asked
from pipeline.settings import Settings, Topics
from pipeline.tables import DEAD_LETTERS, LATE_EVENTS, ORDER_EVENTS, PRODUCT_EVENTS, RAW_EVENTS, table_path
from pipeline.views import VIEWS
from reference import VIEWS as REFERENCE
from reference import Record, accepted_log, classify, default_until, read_records
from reference.views import AcceptedLog

pytestmark = pytest.mark.kafka

NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))


@dataclass(frozen=True)
class Played:
    """A lake into which generated events have gone through every layer, and the records as Kafka holds them."""

    settings: Settings
    records: list[Record]
    log: AcceptedLog
    until: datetime


@pytest.fixture(scope="module")
def played(
    spark: SparkSession, base_settings: Settings, bootstrap: str, tmp_path_factory: pytest.TempPathFactory
) -> Played:
    from dataclasses import replace

    from pipeline.devservices import kafka

    topics = Topics(
        orders="e2e-orders", products="e2e-products", text_lines="e2e-text", word_counts_output="e2e-words"
    )
    settings = replace(
        base_settings,
        kafka=replace(base_settings.kafka, bootstrap_servers=bootstrap, topics=topics),
        lake=replace(base_settings.lake, root=str(tmp_path_factory.mktemp("e2e"))),
        ingest=replace(base_settings.ingest, max_offsets_per_trigger=1500),
        speed=replace(
            base_settings.speed, max_offsets_per_trigger=700
        ),  # a commit of ingest in each micro-batch
    )
    kafka.create_topics(bootstrap, {topics.word_counts_output: 1})
    generate.generate(
        bootstrap, topics, events=5000, seed=11, late=0.05, duplicates=0.05, malformed=0.05, hours=40
    )
    ingest.run(settings, once=True)
    speed.run(settings, once=True)
    batch.run(settings)
    records = read_records(bootstrap, list(topics_of(settings).values()))
    log = accepted_log(records, kinds_of(settings))
    until = default_until(log)
    assert until is not None
    return Played(settings, records, log, until)


def test_every_record_lands_in_raw_events_once_with_its_bytes(spark: SparkSession, played: Played) -> None:
    raw = spark.read.format("delta").load(table_path(played.settings.lake.root, RAW_EVENTS))
    found = {(row.topic, row.partition, row.offset): (row.key, row.value) for row in raw.collect()}
    assert raw.count() == len(played.records)
    assert found == {
        (record.topic, record.partition, record.offset): (record.key, record.value)
        for record in played.records
    }


def test_every_record_meets_the_fate_that_the_contract_says(spark: SparkSession, played: Played) -> None:
    root = played.settings.lake.root
    kinds = kinds_of(played.settings)
    verdicts = {
        (record.topic, record.partition, record.offset): classify(record, kinds[record.topic])
        for record in played.records
    }
    dead = spark.read.format("delta").load(table_path(root, DEAD_LETTERS)).collect()
    assert {(row.topic, row.partition, row.offset): tuple(row.violations) for row in dead} == {
        address: verdict.violations for address, verdict in verdicts.items() if verdict.fate == "dead"
    }
    assert len(dead) == len({(row.topic, row.partition, row.offset) for row in dead})
    for name, kind in ((ORDER_EVENTS, "orders"), (PRODUCT_EVENTS, "products")):
        rows = (
            spark.read.format("delta")
            .load(table_path(root, name))
            .select("topic", "partition", "offset")
            .collect()
        )
        assert sorted(tuple(row) for row in rows) == sorted(
            address
            for address, verdict in verdicts.items()
            if verdict.fate == "accepted" and kinds[address[0]] == kind
        )


@pytest.mark.parametrize("name", VIEWS)
def test_batch_view_is_what_plain_python_computes(spark: SparkSession, played: Played, name: str) -> None:
    found = rows_of(serving.read(spark, played.settings, VIEWS[name], layer="batch"))
    expected = by_key(REFERENCE[name](played.log, played.until))
    assert len(expected) > 5
    assert found == expected


@pytest.mark.parametrize("name", ["customer_hourly_spend", "enriched_orders"])
def test_batch_from_raw_bytes_gives_the_same_rows(spark: SparkSession, played: Played, name: str) -> None:
    before = rows_of(serving.read(spark, played.settings, VIEWS[name], layer="batch"))
    batch.run(played.settings, views=[name], source="raw")
    assert rows_of(serving.read(spark, played.settings, VIEWS[name], layer="batch")) == before


def test_the_layers_agree_and_every_difference_is_a_late_event(spark: SparkSession, played: Played) -> None:
    agreements = {found.view: found for found in reconcile.run(played.settings)}
    assert set(agreements) == set(VIEWS)
    for found in agreements.values():
        assert found.unexplained == 0, found
        assert found.equal > 5, found
    assert agreements["customer_hourly_spend"].late > 0
    late = spark.read.format("delta").load(table_path(played.settings.lake.root, LATE_EVENTS))
    assert (
        late.where("query = 'customer_hourly_spend'").count()
        == agreements["customer_hourly_spend"].late_events
        > 0
    )


def test_served_spend_is_batch_before_the_horizon_and_speed_after(
    spark: SparkSession, played: Played
) -> None:
    view = VIEWS["customer_hourly_spend"]
    horizon = played.until.replace(minute=0, second=0, microsecond=0)
    served = rows_of(serving.read(spark, played.settings, view))
    expected = REFERENCE[view.name](played.log, played.until)
    assert [
        {name: row[name] for name in view.columns} for row in served if row["window_end"] <= horizon
    ] == by_key(expected)
    assert all(row["is_final"] for row in served if row["window_end"] <= horizon)
    after = [row for row in served if row["window_end"] > horizon]
    assert after
    assert not any(row["is_final"] for row in after)
    speed_rows = rows_of(serving.read(spark, played.settings, view, layer="speed"))
    assert [{name: row[name] for name in view.columns} for row in after] == [
        row for row in speed_rows if row["window_end"] > horizon
    ]


def test_served_totals_are_batch_plus_the_served_hours_after(spark: SparkSession, played: Played) -> None:
    totals = {
        row["customer_id"]: row
        for row in rows_of(serving.read(spark, played.settings, VIEWS["customer_totals"]))
    }
    hours = rows_of(serving.read(spark, played.settings, VIEWS["customer_hourly_spend"]))
    for customer, row in totals.items():
        mine = [hour for hour in hours if hour["customer_id"] == customer]
        assert row["total_spend"] == sum(hour["hourly_spend"] for hour in mine)
        assert row["order_count"] == sum(hour["order_count"] for hour in mine)
    assert set(totals) == {hour["customer_id"] for hour in hours}


@pytest.mark.parametrize("layer", ["served", "speed", "batch"])
@pytest.mark.parametrize("name", VIEWS)
def test_a_query_without_spark_gives_the_rows_that_spark_gives(
    spark: SparkSession, played: Played, name: str, layer: Layer
) -> None:
    columns, rows = querying.query(played.settings, name, layer=layer)
    found = [
        {
            column: value.replace(tzinfo=timezone.utc) if isinstance(value, datetime) else value
            for column, value in zip(columns, row, strict=True)
        }
        for row in rows
    ]
    assert by_key(found) == rows_of(serving.read(spark, played.settings, VIEWS[name], layer=layer))


@pytest.mark.parametrize("name", VIEWS)
def test_the_pages_of_the_service_are_what_is_served(spark: SparkSession, played: Played, name: str) -> None:
    asking, parameters, rows = Answers(played.settings), [("limit", "700")], []
    while True:
        answer = asking.answer(asked(VIEWS[name], parameters, max_rows=1000))
        rows += answer.rows
        if answer.next_page is None:
            break
        parameters = [("limit", "700"), ("cursor", str(answer.next_page))]
    view = VIEWS[name]
    expected = serving.read(spark, played.settings, view).orderBy(*view.keys)
    assert rows == [tuple(row) for row in expected.collect()]


def test_a_query_sorts_and_filters_as_spark_does(spark: SparkSession, played: Played) -> None:
    where = "order_count >= 2 AND customer_id LIKE 'c-%' AND window_start >= '2026-01-01T06:00:00Z'"
    _, rows = querying.query(
        played.settings, "customer_hourly_spend", where=where, order_by=("hourly_spend", True), limit=5
    )
    spend = serving.read(spark, played.settings, VIEWS["customer_hourly_spend"]).where(where)
    expected = [tuple(row) for row in spend.orderBy(F.desc("hourly_spend")).limit(5).collect()]
    assert len(expected) == 5
    assert list(rows) == expected


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda one: one.stem)
def test_a_notebook_runs_from_its_first_cell_to_its_last(played: Played, notebook: Path) -> None:
    book, here = nbformat.read(notebook, 4), played.settings
    reconcile.run(here)
    environment = {
        "PYTHONPATH": os.pathsep.join(sys.path),
        "PIPELINE_ENV": "test",
        "PIPELINE_LAKE__ROOT": here.lake.root,
        "PIPELINE_KAFKA__TOPICS__ORDERS": here.kafka.topics.orders,
        "PIPELINE_KAFKA__TOPICS__PRODUCTS": here.kafka.topics.products,
        "PIPELINE_KAFKA__TOPICS__TEXT_LINES": here.kafka.topics.text_lines,
        "PIPELINE_KAFKA__TOPICS__WORD_COUNTS_OUTPUT": here.kafka.topics.word_counts_output,
    }
    NotebookClient(book, timeout=300).execute(env={**os.environ, **environment})
    shown = [output for cell in book.cells for output in cell.get("outputs", ())]
    assert any("image/png" in output.get("data", {}) for output in shown)
    told = "".join(output.get("text", "") for output in shown)
    if notebook.stem == "speed_and_batch":
        assert re.search(
            r"[1-9]\d* windows differ; 0 of them by more or less than their late events", told
        ), told
    if notebook.stem == "dead_letters":
        assert re.search(r"[1-9]\d* letters passed: [1-9]\d* orders and \d+\.\d\d more", told), told


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda one: one.stem)
def test_a_notebook_is_stored_without_outputs(notebook: Path) -> None:
    cells = [cell for cell in nbformat.read(notebook, 4).cells if cell.cell_type == "code"]
    assert [cell for cell in cells if cell.outputs or cell.execution_count] == []


def test_served_views_are_tables_of_the_catalog(spark: SparkSession, played: Played) -> None:
    assert serving.register(spark, played.settings) == [f"pipeline.{name}" for name in VIEWS]
    for name in VIEWS:
        assert rows_of(spark.table(f"pipeline.{name}")) == rows_of(
            serving.read(spark, played.settings, VIEWS[name])
        )


def test_words_are_also_in_the_topic(played: Played) -> None:
    import json

    newest = {}
    for record in read_records(
        played.settings.kafka.bootstrap_servers, [played.settings.kafka.topics.word_counts_output]
    ):
        newest[record.key.decode()] = json.loads(record.value)["count"]
    assert newest == {row["word"]: row["count"] for row in REFERENCE["word_counts"](played.log, None)}


def test_a_second_drain_adds_nothing(spark: SparkSession, played: Played) -> None:
    before = {
        name: rows_of(serving.read(spark, played.settings, VIEWS[name], layer="speed")) for name in VIEWS
    }
    ingest.run(played.settings, once=True)
    speed.run(played.settings, once=True)
    assert spark.read.format("delta").load(table_path(played.settings.lake.root, RAW_EVENTS)).count() == len(
        played.records
    )
    for name in VIEWS:
        assert rows_of(serving.read(spark, played.settings, VIEWS[name], layer="speed")) == before[name]
