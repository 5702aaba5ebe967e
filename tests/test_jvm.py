"""Spark's JVM: what is told when it ends by itself, done to a real one; and what it is asked for."""

from __future__ import annotations

import subprocess
import sys

import pytest
from py4j import java_gateway
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from pipeline.jvm import java_class

_PROGRAM = """
import sys
from types import SimpleNamespace
from pyspark import SparkContext
from pipeline import cli
from pipeline.session import session
from pipeline.settings import load

def run(settings, arguments):
    spark = session(settings)
    {end}
    spark.range(3).count()

sys.exit(cli._run_job(load("test"), SimpleNamespace(run=run, command="speed", debug=False)))
"""


@pytest.mark.parametrize(
    ("end", "told"),
    [
        ("spark._jvm.java.lang.System.exit(52)", "its heap was full"),
        ("SparkContext._gateway.proc.kill()", "exit code -9"),
    ],
)
def test_the_end_of_the_jvm_is_told_for_what_it_is(end: str, told: str) -> None:
    ran = subprocess.run(
        [sys.executable, "-c", _PROGRAM.format(end=end)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert ran.returncode == 3, ran.stderr
    assert f"error: Spark's JVM has ended: {told}. What is finished is safe" in ran.stderr
    assert "fault of the pipeline" not in ran.stderr


def test_java_is_asked_for_a_class_once(spark: SparkSession, monkeypatch: pytest.MonkeyPatch) -> None:
    java_class(spark, "java.util.TreeMap")
    asked: list[str] = []
    of_py4j = java_gateway.JVMView.__getattr__

    def noted(view: object, name: str) -> object:
        asked.append(name)
        return of_py4j(view, name)

    monkeypatch.setattr(java_gateway.JVMView, "__getattr__", noted)
    assert java_class(spark, "java.util.TreeMap")().size() == 0
    F.col("a").isNull() & ~F.col("b")
    assert asked == []
