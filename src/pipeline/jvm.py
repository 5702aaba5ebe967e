"""Spark's JVM: its classes, and what to say when it has ended by itself."""

from __future__ import annotations

import subprocess
from typing import Any

from py4j.protocol import Py4JError, Py4JJavaError  # type: ignore[import-untyped]
from pyspark import SparkContext
from pyspark.sql import SparkSession

from pipeline.errors import SparkEnded

__all__ = ["ended", "java_class", "remember"]

_OF_PYSPARK = (
    "functions",
    "org.apache.spark.sql.classic.SparkSession",
    "org.apache.spark.sql.classic.SparkSession$",
    "org.apache.spark.sql.functions",
    "PythonSQLUtils",
    "PythonUtils",
)

_HEAP_IS_FULL = 52
"""What Spark ends its JVM with then (`SparkExitCode.OOM`)."""
_END_TIMEOUT_SECONDS = 3.0


def java_class(spark: SparkSession, name: str) -> Any:
    """The class of this full name, asked for in one step: by `spark._jvm.org.apache…` each part is looked for in every jar.

    It is asked for once a process: py4j itself asks Java again each time.
    """
    found = getattr(spark._jvm, name)
    setattr(spark._jvm, name, found)
    return found


def remember(spark: SparkSession) -> None:
    """What PySpark asks for with each column and each query."""
    for name in _OF_PYSPARK:
        java_class(spark, name)


def ended(error: Exception) -> SparkEnded | None:
    """What is behind the error where it comes of a JVM of ours that has ended by itself; None of every other."""
    process = getattr(SparkContext._gateway, "proc", None)
    was_answered = isinstance(error, Py4JJavaError) or not isinstance(error, (ConnectionError, Py4JError))
    if process is None or was_answered:
        return None
    try:
        exit_code = process.wait(timeout=_END_TIMEOUT_SECONDS)
    except subprocess.TimeoutExpired:
        return None
    if exit_code == _HEAP_IS_FULL:
        why = "its heap was full"
        remedy = (
            "Give it more: --set spark.conf.spark.driver.memory=… (a quarter of the machine, 8 GiB at most, is the default), or "
            "smaller micro-batches (max_offsets_per_trigger). Joins keep their state in it, too, unless speed.join_state says rocksdb."
        )
    else:
        why = f"exit code {exit_code}"
        remedy = (
            "Where another has killed it (-9), the machine may be short of memory: its kernel log says so."
        )
    return SparkEnded(
        f"Spark's JVM has ended: {why}. What is finished is safe, and the rest is done anew at the next start.\n{remedy}",
        exit_code_of_jvm=exit_code,
    )
