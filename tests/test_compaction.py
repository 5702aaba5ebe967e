"""A speed table is appended to: which of a key's rows counts, to each engine, and what is left of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pytest
from delta.tables import DeltaTable
from deltalake import write_deltalake
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from lake import Row, at, by_key, order, rows_of, send
from pipeline import compaction, guards, ingest, speed
from pipeline.compaction import much_as_all_smaller
from pipeline.delta_log import DataFile, commit, newest_transaction, newest_version, version_of_batch
from pipeline.local_lake import DuckDb
from pipeline.served import Table, counting_rows
from pipeline.serving import speed_rows
from pipeline.settings import Settings
from pipeline.sinks import Transaction, add_columns, append, create_table
from pipeline.tables import view_path
from pipeline.views import BATCH_ID, VIEWS, View

COUNTS, OUTCOMES = VIEWS["word_counts"], VIEWS["order_outcomes"]

MIB = 1024 * 1024


def batch_of(number: int) -> Transaction:
    return Transaction("a_query", "a generation", number)


def write(spark: SparkSession, path: str, view: View, number: int, *rows: tuple[object, ...]) -> bool:
    create_table(spark, path, view.speed_schema)
    told = spark.createDataFrame([(*row, number) for row in rows], view.speed_schema).coalesce(1)
    return append(told, path, transaction=batch_of(number))


def counting(spark: SparkSession, path: str, view: View, version: int | None = None) -> list[Row]:
    """The rows that count, which Spark and DuckDB must see alike."""
    at_version = newest_version(spark, path) if version is None else version
    assert at_version is not None
    by_spark = rows_of(speed_rows(spark, view, path, at_version))
    duck = DuckDb()
    sql = counting_rows(view, duck.relation(Table(path, at_version)))
    names = view.schema.names
    by_duckdb = [
        dict(zip(names, row, strict=True)) for row in duck.rows(f"SELECT {', '.join(names)} FROM ({sql})")
    ]
    plain = [{name: _without_zone(value) for name, value in row.items()} for row in by_spark]
    assert by_key(by_duckdb) == by_key(plain)
    return by_spark


def _without_zone(value: object) -> object:
    return value.replace(tzinfo=None) if isinstance(value, datetime) else value


def outcome(minutes: float | None) -> tuple[object, ...]:
    cancelled = None if minutes is None else at(minutes)
    return ("o1", "c1", Decimal("1.00"), at(0), cancelled, None if minutes is None else int(minutes * 60))


@pytest.mark.parametrize("is_put_together", [False, True])
def test_the_newest_row_of_a_key_counts(spark: SparkSession, tmp_path: Path, is_put_together: bool) -> None:
    path = str(tmp_path / "counts")
    write(spark, path, COUNTS, 8, ("a", 1), ("b", 1))
    write(spark, path, COUNTS, 9, ("a", 2))
    write(spark, path, COUNTS, 10, ("a", 3), ("c", 1))
    if is_put_together:
        compaction.compact(spark, path, COUNTS)
        assert DeltaTable.forPath(spark, path).toDF().count() == 3
    expected = [{"word": word, "count": count} for word, count in (("a", 3), ("b", 1), ("c", 1))]
    assert counting(spark, path, COUNTS) == by_key(expected)


@pytest.mark.parametrize(
    "came", [(None, 5, 3, 4), (3, 4, 5, None), (4, 3, None, 5)], ids=["late", "early", "between"]
)
def test_a_join_keeps_the_match_of_highest_precedence_in_whatever_order_they_come(
    spark: SparkSession, tmp_path: Path, came: Sequence[float | None]
) -> None:
    path = str(tmp_path / "outcomes")
    for number, minutes in enumerate(came):
        write(spark, path, OUTCOMES, number, outcome(minutes))
    (row,) = counting(spark, path, OUTCOMES)
    assert row["cancelled_at"] == at(3)
    compaction.compact(spark, path, OUTCOMES)
    assert counting(spark, path, OUTCOMES) == [row]


def test_a_table_of_an_earlier_lake_is_one_that_was_put_together(spark: SparkSession, tmp_path: Path) -> None:
    path, schema = str(tmp_path / "counts"), COUNTS.schema
    spark.createDataFrame([("a", 5), ("b", 5)], schema).write.format("delta").save(path)
    assert {row["word"]: row["count"] for row in counting(spark, path, COUNTS)} == {"a": 5, "b": 5}
    assert guards.compared_columns(spark, path, COUNTS.speed_schema) is None
    add_columns(spark, path, COUNTS.speed_schema)
    write(spark, path, COUNTS, 0, ("a", 1))
    assert {row["word"]: row["count"] for row in counting(spark, path, COUNTS)} == {"a": 1, "b": 5}
    assert {row["word"]: row["count"] for row in counting(spark, path, COUNTS, version=0)} == {"a": 5, "b": 5}


def test_compaction_hides_neither_what_batches_left_nor_that_the_table_has_them(
    spark: SparkSession, tmp_path: Path
) -> None:
    path = str(tmp_path / "counts")
    for number in range(3):
        write(spark, path, COUNTS, number, ("a", number))
    compaction.compact(spark, path, COUNTS)
    write(spark, path, COUNTS, 3, ("a", 3))

    application = batch_of(0).application
    for judged, count in ((1, 1), (2, 2), (3, 3)):
        version = version_of_batch(spark, path, application=application, batch_id=judged)
        assert version is not None
        assert counting(spark, path, COUNTS, version) == [{"word": "a", "count": count}]
    for reader in (spark, None):
        assert newest_transaction(reader, path, 4, query="a_query") == (application, 2)
    assert not write(spark, path, COUNTS, 3, ("a", 99))
    assert not write(spark, path, COUNTS, 2, ("a", 99))
    assert counting(spark, path, COUNTS) == [{"word": "a", "count": 3}]


def test_a_stream_of_the_table_passes_over_a_compaction(spark: SparkSession, tmp_path: Path) -> None:
    path = str(tmp_path / "counts")
    write(spark, path, COUNTS, 0, ("a", 0))
    write(spark, path, COUNTS, 1, ("a", 1))
    compaction.compact(spark, path, COUNTS)
    text = Path(path, "_delta_log", f"{newest_version(spark, path):020d}.json").read_text()
    assert '"dataChange":false' in text
    assert '"dataChange":true' not in text


def test_a_batch_without_rows_makes_no_commit(spark: SparkSession, tmp_path: Path) -> None:
    path = str(tmp_path / "counts")
    write(spark, path, COUNTS, 0, ("a", 0))
    assert write(spark, path, COUNTS, 1)
    assert newest_version(spark, path) == 1
    made = commit(None, path, 1)
    assert made is not None
    assert (made.rows, [*made.transactions.values()]) == (1, [0])


def test_the_query_itself_keeps_its_table_cheap_to_read(
    spark: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compaction, "_FILES", 3)
    path = str(tmp_path / "counts")
    create_table(spark, path, COUNTS.speed_schema)
    keep, most = compaction.keeper(spark, path, COUNTS), 0
    for number in range(8):
        write(spark, path, COUNTS, number, ("a", number), (f"w{number}", 1))
        keep()
        most = max(most, len(DeltaTable.forPath(spark, path).toDF().inputFiles()))
    assert most <= 5
    rows = {row["word"]: row["count"] for row in counting(spark, path, COUNTS)}
    assert rows == {"a": 7, **{f"w{number}": 1 for number in range(8)}}
    held = DeltaTable.forPath(spark, path).toDF()
    assert held.where("word = 'a'").count() < 8
    assert held.where(F.col(BATCH_ID).isNull()).count() == 0


@pytest.mark.kafka
def test_a_query_puts_its_files_together_between_its_micro_batches(
    spark: SparkSession, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a micro-batch the session is a copy of the one that has started the query."""
    monkeypatch.setattr(compaction, "_FILES", 2)
    here = replace(
        settings,
        ingest=replace(settings.ingest, max_offsets_per_trigger=2),
        speed=replace(settings.speed, max_offsets_per_trigger=1),
    )
    send(here, [order(f"o{number}", time=at(number), total="1.00") for number in range(12)])
    ingest.run(here, once=True)
    speed.run(here, views=["customer_hourly_spend"], once=True)
    view = VIEWS["customer_hourly_spend"]
    path = view_path(here.lake.root, view.name, "speed", view.label)
    version = newest_version(spark, path)
    assert version is not None
    held = DeltaTable.forPath(spark, path).toDF()
    assert held.agg(F.max(BATCH_ID)).first() == (5,)  # six micro-batches, each of which has made a file
    assert len(held.inputFiles()) <= 4
    (row,) = rows_of(speed_rows(spark, view, path, version))
    assert (row["order_count"], row["hourly_spend"]) == (12, Decimal("12.00"))


def test_the_row_that_counts_is_the_same_each_time_it_is_asked_for(tmp_path: Path) -> None:
    """A key has a row from before there were numbers of micro-batches, and a newer one, in files that two threads read."""
    for number in range(20):
        path = str(tmp_path / f"counts{number}")
        for word in ("a", "b"):
            write_deltalake(path, pa.table({"word": [word], "count": [5]}), mode="append")
        newer = pa.table({"word": ["a"], "count": [1], BATCH_ID: [0]})
        write_deltalake(path, newer, mode="append", schema_mode="merge")
        duck = DuckDb()
        sql = counting_rows(COUNTS, duck.relation(Table(path, 2)))
        assert sorted(duck.rows(f"SELECT word, count FROM ({sql})")) == [("a", 1), ("b", 5)]


def files(*mebibytes: float) -> list[DataFile]:
    return [DataFile(f"f{number}", int(size * MIB)) for number, size in enumerate(mebibytes)]


@pytest.mark.parametrize(
    ("sizes", "chosen"),
    [
        ((), ()),
        ((5,), ()),
        ((1, 1, 1), (1, 1, 1)),
        ((40, 1, 1, 1), (1, 1, 1)),  # what is large and put together waits until as much has come
        ((3, 1, 1, 1), (1, 1, 1, 3)),
        ((40, 12, 5, 1, 1, 1), (1, 1, 1)),
        ((200, 64, 1, 1), (1, 1)),  # of half the target: left to maintenance
    ],
)
def test_what_is_put_together_is_as_much_as_what_it_is_put_to(
    sizes: Sequence[float], chosen: Sequence[float]
) -> None:
    assert [one.bytes / MIB for one in much_as_all_smaller(files(*sizes))] == [*chosen]
