"""Small text files of the lake: on this machine read as they are, elsewhere through Hadoop, which needs a session."""

from __future__ import annotations

from typing import Any

from pyspark.sql import SparkSession

from pipeline.tables import local_path

__all__ = ["names", "read_text", "remove", "write_text"]


def read_text(spark: SparkSession | None, location: str) -> str | None:
    """The file's text; None where there is no such file."""
    local = local_path(location)
    if local is not None:
        return local.read_text(encoding="utf-8") if local.is_file() else None
    spark = _required(spark, location)
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


def names(spark: SparkSession | None, location: str) -> list[str]:
    """The names of what lies in the folder, sorted; none where there is no such folder."""
    local = local_path(location)
    if local is not None:
        return sorted(entry.name for entry in local.iterdir()) if local.is_dir() else []
    path, system = _path(_required(spark, location), location)
    if not system.exists(path):
        return []
    return sorted(status.getPath().getName() for status in system.listStatus(path))


def remove(spark: SparkSession, location: str) -> None:
    """Remove the file or folder, with all in it."""
    path, system = _path(spark, location)
    system.delete(path, True)


def _required(spark: SparkSession | None, location: str) -> SparkSession:
    if spark is None:
        raise ValueError(f"{location} is not on this machine: reading it takes a session")
    return spark


def _path(spark: SparkSession, location: str) -> tuple[Any, Any]:
    path = _jvm(spark).org.apache.hadoop.fs.Path(location)
    return path, path.getFileSystem(spark._jsparkSession.sessionState().newHadoopConf())


def _jvm(spark: SparkSession) -> Any:
    return spark._jvm
