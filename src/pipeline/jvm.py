"""Classes of Spark's JVM."""

from __future__ import annotations

from typing import Any

from pyspark.sql import SparkSession

__all__ = ["java_class"]


def java_class(spark: SparkSession, name: str) -> Any:
    """The class of this full name, asked for in one step: by `spark._jvm.org.apache…` each part is looked for in every jar."""
    return getattr(spark._jvm, name)
