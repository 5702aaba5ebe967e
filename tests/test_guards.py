"""What must be refused at a start: done to real topics, tables and checkpoints."""

from __future__ import annotations

import errno
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Producer, TopicPartition
from confluent_kafka.admin import (
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    NewPartitions,
    ResourceType,
)
from delta.tables import DeltaTable
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from lake import at, on_kafka, order, rows_of, send
from pipeline import audit, catalog, checkpoints, ingest, plan, serving, speed, status
from pipeline.devservices import kafka
from pipeline.errors import (
    CheckpointDamaged,
    CheckpointMismatch,
    DiskFull,
    OffsetsLost,
    PlanChanged,
    RefusedToStart,
    TopicReplaced,
)
from pipeline.lag import observer
from pipeline.settings import Settings
from pipeline.sources import kafka_topics
from pipeline.streaming import await_all, guarded
from pipeline.tables import BATCH_LEDGER, RAW_EVENTS, checkpoint_path, table_path, view_path
from pipeline.views import VIEWS

pytestmark = pytest.mark.kafka

SPEND = VIEWS["customer_hourly_spend"]


def count(spark: SparkSession, settings: Settings, table: str = RAW_EVENTS) -> int:
    return spark.read.format("delta").load(table_path(settings.lake.root, table)).count()


def spend(spark: SparkSession, settings: Settings) -> list[dict[str, Any]]:
    return rows_of(serving.read(spark, settings, SPEND, layer="speed"))


def run_spend(settings: Settings) -> None:
    speed.run(settings, views=[SPEND.name], once=True)


def version_of(spark: SparkSession, path: str) -> int:
    return int(DeltaTable.forPath(spark, path).history(1).collect()[0]["version"])


def drop_first_records(settings: Settings, *, before: int) -> None:
    """What retention does: the records of partition 0 before this offset are gone."""
    admin = AdminClient({"bootstrap.servers": settings.kafka.bootstrap_servers})
    place = TopicPartition(settings.kafka.topics.orders, 0, before)
    for future in admin.delete_records([place]).values():
        future.result(timeout=20)


def test_a_topic_that_was_made_anew_is_refused_shorter_or_longer(
    spark: SparkSession, settings: Settings
) -> None:
    settings = on_kafka(settings)
    send(settings, [order(f"o{i}", time=at(i)) for i in range(4)])
    ingest.run(settings, once=True)
    run_spend(settings)
    before = spend(spark, settings)
    topic = settings.kafka.topics.orders
    kafka.delete_topics(settings.kafka.bootstrap_servers, [topic])
    kafka.create_topics(settings.kafka.bootstrap_servers, {topic: 2})
    for more in (1, 8):
        send(settings, [order(f"new{i}", time=at(i)) for i in range(more)])
        for run in (lambda: ingest.run(settings, once=True), lambda: run_spend(settings)):
            with pytest.raises(TopicReplaced) as refused:
                run()
            assert refused.value.topic == topic
    assert count(spark, settings) == 4
    assert spend(spark, settings) == before


def test_offsets_that_expired_unread_are_refused_and_those_that_were_read_are_not(
    spark: SparkSession, settings: Settings
) -> None:
    send(settings, [order(f"o{i}") for i in range(4)])
    ingest.run(settings, once=True)
    drop_first_records(settings, before=3)
    ingest.run(settings, once=True)
    send(settings, [order(f"o{i}") for i in range(4, 9)])
    drop_first_records(settings, before=7)
    with pytest.raises(OffsetsLost) as refused:
        ingest.run(settings, once=True)
    lost = refused.value
    assert (lost.topic, lost.partition) == (settings.kafka.topics.orders, 0)
    assert (lost.expected, lost.first, lost.end) == (4, 7, 9)
    assert count(spark, settings) == 4


def test_a_partition_that_was_added_and_has_partly_expired_is_refused_before_spark_starts(
    spark: SparkSession, settings: Settings
) -> None:
    send(settings, [order("o1")])
    ingest.run(settings, once=True)
    topic = settings.kafka.topics.orders
    admin = AdminClient({"bootstrap.servers": settings.kafka.bootstrap_servers})
    for future in admin.create_partitions([NewPartitions(topic, 3)]).values():
        future.result(timeout=20)
    send(settings, [order(f"o{i}", partition=2) for i in range(5)])
    for future in admin.delete_records([TopicPartition(topic, 2, 3)]).values():
        future.result(timeout=20)
    (of_ingest,) = plan.look(settings, only=[ingest.QUERY]).queries
    assert (of_ingest.verdict, of_ingest.error) == ("refused", "OffsetsLost")
    with pytest.raises(OffsetsLost) as refused:
        ingest.run(settings, once=True)
    lost = refused.value
    assert (lost.topic, lost.partition, lost.expected, lost.first, lost.end) == (topic, 2, 0, 3, 5)


@contextmanager
def ingesting(spark: SparkSession, settings: Settings) -> Iterator[Callable[[], None]]:
    """A process that holds ingest; what it gives drains what is there, as the micro-batches of one that runs on would."""
    topics = kafka_topics(settings, [*catalog.kinds(settings)])
    tables, root = ingest.written_tables(settings), settings.lake.root

    def drain() -> None:
        with observer(spark, settings, "ingest", [ingest.QUERY]) as watcher:
            running = [ingest.start_ingest(spark, settings, once=True)]
            await_all(running, root=root, stop=threading.Event(), observer=watcher)

    with guarded(spark, query=ingest.QUERY, root=root, tables=tables, topics=topics):
        yield drain


def test_a_topic_that_is_made_anew_while_a_query_runs_ends_it_before_it_reads_on(
    spark: SparkSession, settings: Settings
) -> None:
    topic = settings.kafka.topics.orders
    send(settings, [order(f"o{i}") for i in range(4)])
    with ingesting(spark, settings) as drain:
        drain()
        kafka.delete_topics(settings.kafka.bootstrap_servers, [topic])
        kafka.create_topics(settings.kafka.bootstrap_servers, {topic: 2})
        send(settings, [order(f"new{i}") for i in range(10)])
        with pytest.raises(TopicReplaced) as refused:
            drain()
    assert refused.value.topic == topic
    assert count(spark, settings) == 4
    report = audit.run(settings)
    assert {(one.fault, one.topic, one.partition, one.count) for one in report.faults} == {
        ("topic_replaced", topic, 0, 10),
        ("topic_replaced", topic, 1, 0),
    }
    (standing,) = [one for one in status.look(settings).queries if one.query == ingest.QUERY]
    assert "made anew" in (standing.problem or "")


def test_what_expires_while_a_query_runs_is_told_as_a_start_would(
    spark: SparkSession, settings: Settings
) -> None:
    send(settings, [order(f"o{i}") for i in range(4)])
    with ingesting(spark, settings) as drain:
        drain()
        send(settings, [order(f"o{i}") for i in range(4, 9)])
        drop_first_records(settings, before=7)
        with pytest.raises(OffsetsLost) as refused:
            drain()
    assert (refused.value.expected, refused.value.first) == (4, 7)


def test_a_compacted_topic_and_a_transaction_that_does_not_end_are_told_by_name(
    spark: SparkSession, settings: Settings
) -> None:
    topic, servers = settings.kafka.topics.orders, settings.kafka.bootstrap_servers
    send(settings, [order("o1")])
    ingest.run(settings, once=True)
    compacts = ConfigEntry("cleanup.policy", "compact,delete", incremental_operation=AlterConfigOpType.SET)
    resource = ConfigResource(ResourceType.TOPIC, topic, incremental_configs=[compacts])
    admin = AdminClient({"bootstrap.servers": servers})  # it takes its answers with it when it goes
    (done,) = admin.incremental_alter_configs([resource]).values()
    done.result()
    producer = Producer(
        {
            "bootstrap.servers": servers,
            "transactional.id": topic,
            "transaction.timeout.ms": 600_000,
            "log_level": 0,
        }
    )
    producer.init_transactions()
    producer.begin_transaction()
    producer.produce(
        topic, order("open").value, "k", partition=0
    )  # a compacted topic takes none without a key
    producer.flush()
    try:
        send(settings, [order(f"o{i}") for i in range(2, 5)])
        of_status, of_plan, of_audit = status.look(settings), plan.look(settings), audit.run(settings)
        for notes in (of_status.notes, of_plan.notes, of_audit.notes):
            assert [note.partition(":")[0] for note in notes if note.startswith("T")] == [
                "TopicCompacted",
                "TransactionOpen",
            ]
            assert any("orders" in note and "4 records" in note for note in notes)
        (standing,) = [one for one in of_status.queries if one.query == ingest.QUERY]
        assert standing.lag_records == 4
        assert [one.behind for one in of_audit.partitions if (one.topic, one.partition) == (topic, 0)] == [4]
        assert not of_audit.faults
    finally:
        producer.abort_transaction()


def test_a_table_that_was_restored_under_its_checkpoint_is_refused_until_it_is_brought_back(
    spark: SparkSession, settings: Settings
) -> None:
    tables = [
        table_path(settings.lake.root, RAW_EVENTS),
        table_path(settings.lake.root, BATCH_LEDGER),
        view_path(settings.lake.root, SPEND.name, "speed", SPEND.version),
    ]
    send(settings, [order(f"o{hour}", time=at(60 * hour)) for hour in range(2)])
    one_by_one = replace(
        settings,
        ingest=replace(settings.ingest, max_offsets_per_trigger=1),
        speed=replace(settings.speed, max_offsets_per_trigger=1),
    )
    ingest.run(one_by_one, once=True)
    run_spend(one_by_one)
    assert len(spend(spark, settings)) == 2
    for table in tables:
        newest = version_of(spark, table)  # of 1 the query's first batch is
        DeltaTable.forPath(spark, table).restoreToVersion(1)
        with pytest.raises(CheckpointMismatch) as refused:
            run_spend(settings) if "views" in table else ingest.run(settings, once=True)
        assert refused.value.table == table
        DeltaTable.forPath(spark, table).restoreToVersion(newest)
    send(settings, [order("o2", time=at(120))])
    ingest.run(settings, once=True)
    run_spend(settings)
    assert count(spark, settings) == 3
    assert len(spend(spark, settings)) == 3


def test_a_plan_that_does_not_fit_its_checkpoint_is_refused_with_the_difference_named(
    spark: SparkSession, settings: Settings
) -> None:
    settings = on_kafka(settings)
    send(settings, [order("o1")])
    run_spend(settings)
    before = spend(spark, settings)

    def halved(orders: DataFrame) -> DataFrame:
        return orders.withWatermark("event_time", "10 minutes").groupBy(
            "customer_id", F.window("event_time", "30 minutes").alias("window")
        ).agg(
            F.sum("total").alias("hourly_spend"), F.count("*").alias("order_count"), F.max("event_time").alias("last_event_time")
        ).select("customer_id", F.col("window.start").alias("window_start"), F.col("window.end").alias("window_end"),
                 "hourly_spend", "order_count", "last_event_time")  # fmt: skip

    def named_otherwise(orders: DataFrame) -> DataFrame:
        return SPEND.define(orders.where(F.col("customer_id").isNotNull()))

    changes = {
        "stateful steps": (settings, replace(SPEND, define=halved)),
        "output mode": (settings, replace(SPEND, output_mode="append")),
        "keys": (settings, replace(SPEND, keys=("customer_id",))),
    }
    for what, (here, view) in changes.items():
        with pytest.raises(PlanChanged) as refused:
            speed.start_view(spark, here, view, once=True)
        assert what in [name for name, _, _ in refused.value.differences]
    spark.conf.set("spark.sql.shuffle.partitions", "3")
    try:
        with pytest.raises(PlanChanged) as refused:
            speed.start_view(spark, settings, SPEND, once=True)
        assert refused.value.differences == (("state partitions", "2", "3"),)
        as_it_comes = replace(settings, speed=replace(settings.speed, state_partitions=None))
        speed.start_view(spark, as_it_comes, SPEND, once=True).awaitTermination()
    finally:
        spark.conf.set("spark.sql.shuffle.partitions", "2")
    speed.start_view(spark, settings, replace(SPEND, define=named_otherwise), once=True).awaitTermination()
    other_topic = replace(settings.kafka.topics, orders=settings.kafka.topics.products)
    with pytest.raises(PlanChanged) as refused:
        run_spend(replace(settings, kafka=replace(settings.kafka, topics=other_topic)))
    assert [what for what, _, _ in refused.value.differences] == ["topics"]
    assert spend(spark, settings) == before


def test_a_query_goes_on_with_the_source_that_it_has_begun_with(
    spark: SparkSession, settings: Settings
) -> None:
    of_kafka = on_kafka(settings)
    send(settings, [order("o1", time=at(0))])
    speed.run(of_kafka, views=["order_outcomes"], once=True)
    ingest.run(settings, once=True)
    run_spend(settings)
    send(settings, [order("o2", time=at(1))])
    speed.run(settings, views=["order_outcomes"], once=True)
    run_spend(of_kafka)
    of_the_log = rows_of(serving.read(spark, settings, SPEND, layer="speed"))
    assert [row["order_count"] for row in of_the_log] == [1], "ingest has not read the second one yet"
    outcomes = rows_of(serving.read(spark, settings, VIEWS["order_outcomes"], layer="speed"))
    ingest.run(settings, once=True)
    run_spend(of_kafka)
    assert [row["order_count"] for row in spend(spark, settings)] == [2]
    assert checkpoints.reads(spark, checkpoint_path(settings.lake.root, "order_outcomes_v1")) == "kafka"
    assert checkpoints.reads(spark, checkpoint_path(settings.lake.root, SPEND.query)) == "log"
    assert outcomes == []


@pytest.mark.parametrize(("note", "text"), [("sources.json", None), ("plan.json", ""), ("tables.json", "{")])
def test_a_note_that_is_lost_is_refused(
    ingested: Settings, spark: SparkSession, note: str, text: str | None
) -> None:
    file = Path(checkpoint_path(ingested.lake.root, ingest.QUERY)) / "pipeline" / note
    whole = file.read_text()
    if text is None:
        file.unlink()
    else:
        file.write_text(text)
    with pytest.raises(CheckpointDamaged) as refused:
        ingest.run(ingested, once=True)
    assert refused.value.file == str(file)
    file.write_text(whole)
    assert count(spark, ingested) == 1


@pytest.fixture(scope="module")
def ingested(
    spark: SparkSession, base_settings: Settings, bootstrap: str, tmp_path_factory: pytest.TempPathFactory
) -> Settings:
    """A lake with one record, for tests that leave it as it is."""
    topics = replace(
        base_settings.kafka.topics, orders="guard-orders", products="guard-products", text_lines="guard-lines"
    )
    kafka.create_topics(bootstrap, {"guard-orders": 2, "guard-products": 1, "guard-lines": 1})
    here = replace(
        base_settings,
        kafka=replace(base_settings.kafka, bootstrap_servers=bootstrap, topics=topics),
        lake=replace(base_settings.lake, root=str(tmp_path_factory.mktemp("lake"))),
    )
    send(here, [order("o1")])
    ingest.run(here, once=True)
    return here


def fill(file: Path) -> None:
    with file.open("wb", buffering=0) as filling:
        try:
            while True:
                filling.write(b"x" * 4096)
        except OSError as full:
            if full.errno != errno.ENOSPC:
                raise


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 12 MiB, where we may make one."""
    folder = tmp_path / "small"
    folder.mkdir()
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=12m", "tmpfs", folder], capture_output=True)
    if made.returncode:
        pytest.skip("needs the right to mount a file system")
    yield folder
    subprocess.run(["umount", folder], check=True)


def test_little_space_is_refused_before_a_batch(spark: SparkSession, settings: Settings) -> None:
    send(settings, [order("o1")])
    with pytest.raises(DiskFull) as refused:
        ingest.run(replace(settings, lake=replace(settings.lake, min_free_mebibytes=2**40)), once=True)
    assert refused.value.path == settings.lake.root
    assert refused.value.free_bytes is not None
    ingest.run(settings, once=True)
    assert count(spark, settings) == 1


def test_a_disk_that_is_full_in_a_batch_costs_nothing(
    spark: SparkSession, settings: Settings, small_disk: Path
) -> None:
    here = replace(settings, lake=replace(settings.lake, root=str(small_disk / "lake"), min_free_mebibytes=0))
    send(here, [order("o1")])
    ingest.run(here, once=True)
    fill(small_disk / "filling")
    send(here, [order("o2")])
    with pytest.raises(DiskFull):
        ingest.run(here, once=True)
    (small_disk / "filling").unlink()
    ingest.run(here, once=True)
    assert count(spark, here) == 2


def test_keyed_state_that_does_not_say_which_row_of_a_key_counts(
    spark: SparkSession, settings: Settings
) -> None:
    """An extension's, say: with more of a key's events than an Arrow batch holds its state gives several rows."""
    totals, settings = VIEWS["customer_totals"], on_kafka(settings)
    speed.stream_rows(spark, settings, totals)
    speed.stream_rows(spark, settings, SPEND)
    with pytest.raises(RefusedToStart, match="precedence"):
        speed.stream_rows(spark, settings, replace(totals, precedence=()))
