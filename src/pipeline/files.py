"""Small text files of the lake, on whatever file system Hadoop knows, with its checksums; without a session those of this machine."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import IO, Any

from pyspark.sql import SparkSession

from pipeline.instants import of_milliseconds
from pipeline.jvm import java_class
from pipeline.tables import local_path

__all__ = [
    "Lock",
    "exists",
    "lock",
    "modified_at",
    "names",
    "read_text",
    "remove",
    "replace_bytes",
    "size",
    "write_atomically",
    "write_text",
]

_IO = "org.apache.commons.io.IOUtils"
_MANAGER = "org.apache.spark.sql.execution.streaming.checkpointing.CheckpointFileManager"


def read_text(spark: SparkSession | None, location: str) -> str | None:
    """The file's text; None where there is no such file."""
    if spark is None:
        local = _local(location)
        return local.read_text(encoding="utf-8") if local.is_file() else None
    path, system = _path(spark, location)
    if not system.exists(path):
        return None
    stream = system.open(path)
    try:
        return str(java_class(spark, _IO).toString(stream, "UTF-8"))
    finally:
        stream.close()


def write_text(spark: SparkSession, location: str, text: str) -> None:
    path, system = _path(spark, location)
    stream = system.create(path, True)
    try:
        java_class(spark, _IO).write(text, stream, "UTF-8")
    finally:
        stream.close()


def replace_bytes(file: Path, content: bytes) -> None:
    """As `write_atomically`, on this machine."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.with_name(f".{file.name}.crc").unlink(missing_ok=True)  # Hadoop's checksum of what was there
    fresh = file.with_name(f".{file.name}.new")
    with fresh.open("wb") as written:
        written.write(content)
        written.flush()
        os.fsync(written.fileno())
    fresh.replace(file)
    folder = os.open(file.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def write_atomically(spark: SparkSession, location: str, text: str) -> None:
    """Write the file so that, whenever the machine stops, it holds the old text or the new one, and after this the new."""
    file = local_path(location)
    if file is not None:
        replace_bytes(file, text.encode("utf-8"))
        return
    path, _ = _path(spark, location)
    manager = java_class(spark, _MANAGER).create(
        path.getParent(), spark._jsparkSession.sessionState().newHadoopConf()
    )
    manager.mkdirs(path.getParent())
    stream = manager.createAtomic(path, True)
    try:
        java_class(spark, _IO).write(text, stream, "UTF-8")
    except BaseException:
        stream.cancel()
        raise
    stream.close()


def exists(spark: SparkSession, location: str) -> bool:
    path, system = _path(spark, location)
    return bool(system.exists(path))


def names(spark: SparkSession | None, location: str) -> list[str]:
    """The names of what lies in the folder, sorted; none where there is no such folder."""
    if spark is None:
        local = _local(location)
        return sorted(entry.name for entry in local.iterdir()) if local.is_dir() else []
    path, system = _path(spark, location)
    if not system.exists(path):
        return []
    return sorted(status.getPath().getName() for status in system.listStatus(path))


def modified_at(spark: SparkSession | None, location: str) -> datetime | None:
    """When the file was written, in UTC, to the millisecond; None where there is no such file."""
    if spark is None:
        local = _local(location)
        return of_milliseconds(local.stat().st_mtime_ns // 1_000_000) if local.is_file() else None
    path, system = _path(spark, location)
    return of_milliseconds(system.getFileStatus(path).getModificationTime()) if system.exists(path) else None


def size(spark: SparkSession | None, location: str) -> int:
    """The bytes of all files in the folder and below; 0 where there is no such folder."""
    if spark is None:
        # A stream that runs removes files meanwhile.
        return sum(
            _bytes(Path(folder) / name) for folder, _, names in os.walk(_local(location)) for name in names
        )
    path, system = _path(spark, location)
    return int(system.getContentSummary(path).getLength()) if system.exists(path) else 0


def remove(spark: SparkSession, location: str) -> None:
    """Remove the file or folder, with all in it."""
    path, system = _path(spark, location)
    system.delete(path, True)


@dataclass(frozen=True)
class Lock:
    """A file whose lock this process holds, and the folders that were made for it, the innermost first."""

    file: IO[str]
    made: Sequence[Path]

    def give_back(self, *, of: Path) -> None:
        """Where what it is `of` has not been made, its file goes, too, and the folders: who was refused leaves nothing behind."""
        if not of.exists():
            Path(self.file.name).unlink(missing_ok=True)
            with suppress(OSError):  # another process has put something there
                for folder in self.made:
                    folder.rmdir()
        self.file.close()


def lock(path: Path, *, waits: bool) -> Lock:
    """Take the file's lock, and make it and its folders for that. Raises BlockingIOError where it does not wait for another one."""
    while True:
        made = [folder for folder in path.parents if not folder.exists()]
        with suppress(
            FileNotFoundError, FileExistsError
        ):  # it was given back meanwhile, and is gone with its folder
            path.parent.mkdir(parents=True, exist_ok=True)
            file = path.open("w")
            try:
                fcntl.flock(file, fcntl.LOCK_EX | (0 if waits else fcntl.LOCK_NB))
                if os.path.samestat(os.fstat(file.fileno()), path.stat()):
                    return Lock(file, made)
            except BlockingIOError:
                file.close()
                raise
            file.close()


def _bytes(file: Path) -> int:
    try:
        return file.stat().st_size
    except FileNotFoundError:
        return 0


def _local(location: str) -> Path:
    local = local_path(location)
    if local is None:
        raise ValueError(f"{location} is not on this machine: reading it takes a session")
    return local


def _path(spark: SparkSession, location: str) -> tuple[Any, Any]:
    path = java_class(spark, "org.apache.hadoop.fs.Path")(location)
    return path, path.getFileSystem(spark._jsparkSession.sessionState().newHadoopConf())
