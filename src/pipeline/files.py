"""Small text files of the lake, on whatever file system Hadoop knows."""

from __future__ import annotations

from typing import Any

from pyspark.sql import SparkSession

__all__ = ["names", "read_text", "remove", "write_text"]


def read_text(spark: SparkSession, location: str) -> str | None:
    """The file's text; None where there is no such file."""
    path, system = _path(spark, location)
    if not system.exists(path):
        return None
    stream = system.open(path)
    try:
        return str(_jvm(spark).org.apache.commons.io.IOUtils.toString(stream, "UTF-8"))
    finally:
        stream.close()


def write_text(spark: SparkSession, location: str, text: str) -> None:
    path, system = _path(spark, location)
    stream = system.create(path, True)
    try:
        _jvm(spark).org.apache.commons.io.IOUtils.write(text, stream, "UTF-8")
    finally:
        stream.close()


def names(spark: SparkSession, location: str) -> list[str]:
    """The names of what lies in the folder, sorted; none where there is no such folder."""
    path, system = _path(spark, location)
    if not system.exists(path):
        return []
    return sorted(status.getPath().getName() for status in system.listStatus(path))


def remove(spark: SparkSession, location: str) -> None:
    """Remove the file or folder, with all in it."""
    path, system = _path(spark, location)
    system.delete(path, True)


def _path(spark: SparkSession, location: str) -> tuple[Any, Any]:
    path = _jvm(spark).org.apache.hadoop.fs.Path(location)
    return path, path.getFileSystem(spark._jsparkSession.sessionState().newHadoopConf())


def _jvm(spark: SparkSession) -> Any:
    return spark._jvm
