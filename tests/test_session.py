"""Settings of a session that others use, too."""

from __future__ import annotations

import os
import time

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
