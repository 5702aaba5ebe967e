"""Starting, replaying and refusing: what a checkpoint and its tables may and may not be."""

from __future__ import annotations

import shutil
from datetime import datetime
from pathlib import Path

import pytest
from pyspark.sql import SparkSession

from lake import at, cancellation, on_kafka, order, rows_of, send
from pipeline import batch, ingest, querying, serving, sinks, speed, status, stopping
from pipeline.delta_log import newest_version
from pipeline.errors import AlreadyRunning, CheckpointMismatch, RefusedToStart, UsageError
from pipeline.failpoints import watched
from pipeline.session import session
from pipeline.settings import Settings
from pipeline.sinks import create_table
from pipeline.streaming import guarded
from pipeline.tables import (
    BATCH_LEDGER,
    ORDER_EVENTS,
    RAW_EVENTS,
    SCHEMAS,
    checkpoint_path,
    table_path,
    view_path,
)
from pipeline.views import VIEWS

pytestmark = pytest.mark.kafka

SPEND = VIEWS["customer_hourly_spend"]


def count(spark: SparkSession, settings: Settings, table: str) -> int:
    return spark.read.format("delta").load(table_path(settings.lake.root, table)).count()


def forget_last_commit(settings: Settings, query: str) -> None:
    """What is left when a process dies after its writes and before Spark notes that the batch is done."""
    commits = Path(checkpoint_path(settings.lake.root, query)) / "commits"
    newest = max(int(file.name) for file in commits.iterdir() if file.name.isdigit())
    for file in commits.glob(f"*{newest}*"):
        file.unlink()


def test_a_batch_that_runs_again_after_a_crash_changes_nothing(
    spark: SparkSession, settings: Settings
) -> None:
    send(settings, [order(f"o{i}", time=at(i), customer_id=f"c{i % 5}") for i in range(20)])
    ingest.run(settings, once=True)
    speed.run(settings, views=[SPEND.name], once=True)
    before = rows_of(serving.read(spark, settings, SPEND, layer="speed"))
    entries = count(spark, settings, BATCH_LEDGER)
    forget_last_commit(settings, ingest.QUERY)
    forget_last_commit(settings, SPEND.query)
    send(settings, [order("after", time=at(21), customer_id="c0", total="1.00")])
    ingest.run(settings, once=True)
    speed.run(settings, views=[SPEND.name], once=True)
    assert count(spark, settings, RAW_EVENTS) == count(spark, settings, ORDER_EVENTS) == 21
    assert count(spark, settings, BATCH_LEDGER) == entries + 2
    after = rows_of(serving.read(spark, settings, SPEND, layer="speed"))
    changed = [row for row in after if row not in before]
    assert [(row["customer_id"], row["order_count"], str(row["hourly_spend"])) for row in changed] == [
        ("c0", 5, "41.00")
    ]


def test_a_small_micro_batch_is_one_file_in_each_table(spark: SparkSession, settings: Settings) -> None:
    send(settings, [order(f"o{number}", time=at(number), partition=number % 2) for number in range(6)])
    ingest.run(settings, once=True)
    for name in (RAW_EVENTS, ORDER_EVENTS):
        rows = spark.read.format("delta").load(table_path(settings.lake.root, name))
        assert rows.count() == 6
        assert len(rows.inputFiles()) == 1, name


def test_a_table_whose_creation_was_broken_off_is_made_anew(spark: SparkSession, tmp_path: Path) -> None:
    """What kill -9 leaves behind: the folder of the log, and a commit that never got its name."""
    log = tmp_path / "raw_events" / "_delta_log"
    (log / "_staged_commits").mkdir(parents=True)
    (log / f".{0:020d}.json.66e2d171-eeb4-4edc-9654-53c294248cb1.tmp").write_text("{}")
    create_table(spark, str(log.parent), SCHEMAS[RAW_EVENTS])
    create_table(spark, str(log.parent), SCHEMAS[RAW_EVENTS])
    assert spark.read.format("delta").load(str(log.parent)).count() == 0


def test_a_commit_of_no_rows_is_made_beside_a_writer_that_ends_first(
    spark: SparkSession, tmp_path: Path
) -> None:
    """What a commit says of its batch must be there also where the batch has no rows."""
    one, other = str(tmp_path / "one"), str(tmp_path / "other")
    for path in (one, other):
        create_table(spark, path, SCHEMAS[RAW_EVENTS])
    nothing = spark.createDataFrame([], SCHEMAS[RAW_EVENTS])
    with sinks._keeping_empty_commits(spark):
        sinks.replace(nothing, other, metadata={"batch": 1})
        nothing.write.format("delta").mode("append").save(one)
    assert (newest_version(spark, one), newest_version(spark, other)) == (1, 1)
    nothing.write.format("delta").mode("append").save(one)
    assert newest_version(spark, one) == 1, "the setting has not been taken back"


def test_a_checkpoint_and_a_table_that_do_not_belong_together_are_refused(
    spark: SparkSession, settings: Settings, tmp_path: Path
) -> None:
    send(settings, [order("o1")])
    ingest.run(settings, once=True)
    checkpoint, table = (
        Path(checkpoint_path(settings.lake.root, ingest.QUERY)),
        table_path(settings.lake.root, RAW_EVENTS),
    )
    shutil.move(checkpoint, tmp_path / "checkpoint")
    with pytest.raises(CheckpointMismatch) as gone:
        ingest.run(settings, once=True)
    assert (gone.value.query, gone.value.table) == (ingest.QUERY, table)
    shutil.rmtree(checkpoint, ignore_errors=True)
    shutil.move(tmp_path / "checkpoint", checkpoint)
    shutil.move(table, tmp_path / "table")
    with pytest.raises(CheckpointMismatch):
        ingest.run(settings, once=True)
    shutil.move(tmp_path / "table", table)
    ingest.run(settings, once=True)
    assert count(spark, settings, RAW_EVENTS) == 1


def test_a_query_runs_once_at_a_time(spark: SparkSession, settings: Settings) -> None:
    root = settings.lake.root
    tables = [view_path(root, SPEND.name, "speed", SPEND.version)]
    first = guarded(spark, query=SPEND.query, root=root, tables=tables)
    second = guarded(spark, query=SPEND.query, root=root, tables=tables)
    with first, pytest.raises(AlreadyRunning) as refused, second:
        pass
    assert refused.value.query == SPEND.query
    with guarded(spark, query=SPEND.query, root=root, tables=tables):
        pass


def test_speed_reads_kafka_by_setting(spark: SparkSession, settings: Settings) -> None:
    here = on_kafka(settings)
    send(settings, [order(f"o{i}", time=at(10 * i), customer_id="c1") for i in range(8)])
    ingest.run(here, once=True)
    speed.run(here, views=[SPEND.name], once=True)
    batch.run(here, views=[SPEND.name], until=at(600))
    assert rows_of(serving.read(spark, here, SPEND, layer="speed")) == rows_of(
        serving.read(spark, here, SPEND, layer="batch")
    )
    assert session(here)._jsparkSession.equals(spark._jsparkSession), (
        "a stream's copy of it has become the session"
    )


def test_what_cannot_be_asked_is_told(spark: SparkSession, settings: Settings) -> None:
    with pytest.raises(RefusedToStart):
        querying.query(settings, SPEND.name)
    with pytest.raises(RefusedToStart):
        batch.run(settings)
    send(settings, [order("o1")])
    ingest.run(settings, once=True)
    speed.run(settings, views=[SPEND.name], once=True)
    with pytest.raises(UsageError):
        querying.query(settings, SPEND.name, where="no_such_column = 1")
    with pytest.raises(UsageError):
        querying.query(settings, SPEND.name, where="customer_id = ")
    columns, rows = querying.query(settings, SPEND.name, where="customer_id = 'c1'")
    assert columns == [*SPEND.columns, "is_final"]
    assert len(list(rows)) == 1


def test_what_a_run_that_was_cut_short_has_not_closed_is_told_until_it_comes(
    spark: SparkSession, settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    """Spark makes no batch without events after a restart, so what waits for the watermark alone waits for events."""
    view, settings = VIEWS["order_outcomes"], on_kafka(settings)
    later = 60 * 30
    send(settings, [order("alone", time=at(0))])
    send(settings, [order("closing", time=at(later)), cancellation("closing", time=at(later))])

    def end_after_this_batch(point: str) -> None:
        if point == "speed: begun":
            for query in spark.streams.active:
                stopping.Draining(query).terminate()

    def outcomes() -> list[str]:
        return [row["order_id"] for row in rows_of(serving.read(spark, settings, view, layer="speed"))]

    def due() -> datetime | None:
        return next(one.due_watermark for one in status.look(settings).queries if one.view == view.name)

    with watched(end_after_this_batch):
        speed.run(settings, views=[view.name], once=True)
    capsys.readouterr()
    speed.run(settings, views=[view.name], once=True)
    assert f"{at(later - 10):%Y-%m-%dT%H:%M:%SZ}" in capsys.readouterr().err
    assert (outcomes(), due()) == (["closing"], at(later - 10))
    send(settings, [order("next", time=at(later + 1))])
    speed.run(settings, views=[view.name], once=True)
    assert "comes with the next events" not in capsys.readouterr().err
    assert (outcomes(), due()) == (["alone", "closing"], None)
