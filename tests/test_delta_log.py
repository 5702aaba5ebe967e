"""What a process knows of a table's log, and what others commit to it meanwhile."""

from __future__ import annotations

import shutil
from pathlib import Path

import pyarrow as pa
import pytest
from deltalake import DeltaTable, write_deltalake
from pyspark.sql import SparkSession
from pyspark.sql import types as T

from pipeline.delta_log import append_as, is_table, newest_version, table_id, transactions
from pipeline.sinks import create_table

SCHEMA = T.StructType([T.StructField("n", T.LongType())])


def append(spark: SparkSession, path: str, number: int) -> None:
    append_as(spark.createDataFrame([(number,)], SCHEMA), path, application="some", batch_id=number)


def append_elsewhere(path: str, number: int) -> None:
    write_deltalake(path, pa.table({"n": pa.array([number], pa.int64())}), mode="append")


def numbers(path: str) -> list[int]:
    return sorted(DeltaTable(path).to_pyarrow_table()["n"].to_pylist())


@pytest.fixture
def path(spark: SparkSession, tmp_path: Path) -> str:
    """A table that this process has made, and appended to."""
    made = str(tmp_path / "numbers")
    create_table(spark, made, SCHEMA)
    append(spark, made, 1)
    return made


def test_what_others_have_committed_is_seen_and_built_upon(spark: SparkSession, path: str) -> None:
    append_elsewhere(path, 2)
    assert newest_version(spark, path) == 2
    append_elsewhere(path, 3)
    append_elsewhere(path, 4)
    append(spark, path, 5)
    assert newest_version(spark, path) == newest_version(None, path) == 5
    assert (numbers(path), transactions(spark, path)) == ([1, 2, 3, 4, 5], {"some": 5})


def test_a_table_is_seen_by_who_has_looked_before_its_first_commit(
    spark: SparkSession, tmp_path: Path
) -> None:
    path, elsewhere = tmp_path / "numbers", tmp_path / "elsewhere"
    (path / "_delta_log").mkdir(parents=True)
    assert (is_table(spark, str(path)), newest_version(spark, str(path))) == (False, None)
    append_elsewhere(str(elsewhere), 1)
    shutil.copytree(elsewhere, path, dirs_exist_ok=True)
    assert (is_table(spark, str(path)), newest_version(spark, str(path))) == (True, 0)


def test_what_others_have_changed_of_the_table_does_not_end_a_writer(spark: SparkSession, path: str) -> None:
    DeltaTable(path).alter.set_table_properties({"delta.logRetentionDuration": "interval 7 days"})
    append(spark, path, 2)
    assert (numbers(path), newest_version(spark, path)) == ([1, 2], 3)


def test_a_table_made_anew_in_place_of_another_is_not_taken_for_it(spark: SparkSession, path: str) -> None:
    known = table_id(spark, path)
    shutil.rmtree(path)
    append_elsewhere(path, 7)
    append_elsewhere(path, 8)
    assert newest_version(None, path) == 1, "as many commits as the other one had"
    assert table_id(spark, path) == DeltaTable(path).metadata().id != known
    append(spark, path, 9)
    assert (numbers(path), newest_version(None, path)) == ([7, 8, 9], 2)
