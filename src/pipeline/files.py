"""Small text files of the lake, on whatever file system Hadoop knows."""

from __future__ import annotations

import os
from typing import Any

from pyspark.sql import SparkSession

from pipeline.tables import local_path

__all__ = ["exists", "names", "read_text", "remove", "replace_text", "write_atomically", "write_text"]


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


def replace_text(spark: SparkSession, location: str, text: str) -> None:
    """Write the file so that, whenever the machine stops, it holds the old text or the new one, and after this the new."""
    file = local_path(location)
    if file is None:
        write_atomically(spark, location, text)
        return
    file.parent.mkdir(parents=True, exist_ok=True)
    fresh = file.with_name(f".{file.name}.new")
    with fresh.open("w", encoding="utf-8") as written:
        written.write(text)
        written.flush()
        os.fsync(written.fileno())
    fresh.replace(file)
    folder = os.open(file.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def write_atomically(spark: SparkSession, location: str, text: str) -> None:
    """As Spark writes the files of a checkpoint, with what the file system offers for that; also in place of one of them."""
    path, _ = _path(spark, location)
    checkpointing = _jvm(spark).org.apache.spark.sql.execution.streaming.checkpointing
    manager = checkpointing.CheckpointFileManager.create(
        path.getParent(), spark._jsparkSession.sessionState().newHadoopConf()
    )
    manager.mkdirs(path.getParent())
    stream = manager.createAtomic(path, True)
    try:
        _jvm(spark).org.apache.commons.io.IOUtils.write(text, stream, "UTF-8")
    except BaseException:
        stream.cancel()
        raise
    stream.close()


def exists(spark: SparkSession, location: str) -> bool:
    path, system = _path(spark, location)
    return bool(system.exists(path))


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
