"""Spark as a command starts it: that takes seconds, and is said."""

from __future__ import annotations

from pyspark import SparkContext
from pyspark.sql import SparkSession

from pipeline import session as sessions
from pipeline.console import step
from pipeline.settings import Settings

__all__ = ["session"]


def session(settings: Settings) -> SparkSession:
    """As `pipeline.session.session`."""
    if SparkContext._active_spark_context is not None:
        return sessions.session(settings)
    with step("starting Spark"):
        return sessions.session(settings)
