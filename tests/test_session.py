"""Settings of a session that others use, too."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from pyspark.sql import SparkSession

from pipeline.session import session
from pipeline.settings import Settings
from pipeline.sinks import session_options

ZONE = "spark.sql.session.timeZone"


def test_a_session_that_is_there_already_is_in_utc_from_now_on(
    spark: SparkSession, base_settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TZ", "America/New_York")
    time.tzset()
    spark.conf.set(ZONE, "America/New_York")
    try:
        assert session(base_settings).conf.get(ZONE) == "UTC"
        assert (os.environ["TZ"], time.tzname[0]) == ("UTC", "UTC")
    finally:
        spark.conf.set(ZONE, "UTC")
        os.environ["TZ"] = "UTC"
        time.tzset()


def test_options_of_a_session_are_put_back(spark: SparkSession) -> None:
    key = "spark.databricks.delta.optimize.minFileSize"
    spark.conf.set(key, "17")
    try:
        with session_options(spark, {key: "18"}):
            assert spark.conf.get(key) == "18"
        assert spark.conf.get(key) == "17"
    finally:
        spark.conf.unset(key)


def test_a_checkpoint_on_this_machine_is_written_without_looking_for_links(
    spark: SparkSession, tmp_path: Path
) -> None:
    with programs_of_java(spark, tmp_path / "recording.jfr") as started:
        counts = (
            spark.readStream.format("rate-micro-batch").option("rowsPerBatch", 10).load().groupBy("value")
        )
        query = (
            counts.count()
            .writeStream.format("noop")
            .outputMode("update")
            .option("checkpointLocation", str(tmp_path / "checkpoint"))
            .start()
        )
        while len(query.recentProgress) < 3:
            query.awaitTermination(0.1)
        query.stop()
    assert sorted((tmp_path / "checkpoint" / "commits").iterdir())
    assert "readlink" not in started


@contextmanager
def programs_of_java(spark: SparkSession, file: Path) -> Iterator[set[str]]:
    """The names of the programs that the JVM starts inside the block, filled in at its end (JDK Flight Recorder's ProcessStart)."""
    java = spark._jvm.jdk.jfr
    recording, started = java.Recording(), set[str]()
    recording.enable("jdk.ProcessStart")
    recording.start()
    yield started
    recording.stop()
    path = spark._jvm.java.nio.file.Path.of(str(file), spark._sc._gateway.new_array(spark._jvm.String, 0))
    recording.dump(path)
    events = java.consumer.RecordingFile.readAllEvents(path)
    started.update(event.getString("command").split(" ")[0] for event in events)
