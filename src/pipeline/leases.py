"""Locks on an object store: an object that only one can make, and that its holder renews.

S3 puts an object only where none is, or only in place of the one that is named by its tag, if it is asked to. So who makes the
object holds the lock, and removes it at the end. A holder that has died renews it no more: who has seen the same object for
LEASE_SECONDS, by a clock of its own, puts another in its place. Nothing stops a holder that was suspended for longer than that
and goes on: it only finds out.
"""

from __future__ import annotations

import logging
import os
import threading
import time
import uuid
from typing import Any

from py4j.protocol import Py4JJavaError  # type: ignore[import-untyped]
from pyspark.sql import SparkSession

from pipeline import files
from pipeline.errors import LeaseLost
from pipeline.jvm import java_class

__all__ = ["LEASE_SECONDS", "Lease", "can_lease"]

LEASE_SECONDS = 60.0
_POLL_SECONDS = 0.25
_log = logging.getLogger(__name__)
_ONLY_NEW = "fs.option.create.conditional.overwrite"
_ONLY_IN_PLACE_OF = "fs.option.create.conditional.overwrite.etag"
_NOT_MINE = ("RemoteFileChangedException", "FileAlreadyExistsException", "Status Code: 409")


def can_lease(location: str) -> bool:
    """Whether the file system can put an object on a condition: Hadoop's for S3 can."""
    return location.startswith("s3a:")


class Lease:
    """The lock at a location, which a thread renews until it is given back."""

    def __init__(self, spark: SparkSession, location: str) -> None:
        self.location = location
        self._spark = spark
        self._holder = f"{os.uname().nodename} {os.getpid()} {uuid.uuid4().hex}"
        self._renewals = 0
        self._tag: str | None = None
        self._given_back = threading.Event()
        self._renewer = threading.Thread(target=self._renew, name=f"lease {location}", daemon=True)

    def take(self, *, patience_seconds: float | None = None) -> bool:
        """Whether it is ours: at once, or when its holder gives it back or is dead; with a patience only as long as that."""
        began = since = time.monotonic()
        seen: str | None = None
        while not self._put(replacing=None):
            tag, now = self._stored_tag(), time.monotonic()
            if tag != seen:
                seen, since = tag, now
            elif tag is not None and now - since > LEASE_SECONDS and self._put(replacing=tag):
                break
            if patience_seconds is not None and now - began > patience_seconds:
                return False
            time.sleep(_POLL_SECONDS)
        self._tag = self._stored_tag()
        self._renewer.start()
        return True

    def give_back(self) -> None:
        """Remove it; LeaseLost where somebody took it for dead meanwhile."""
        self._given_back.set()
        self._renewer.join()
        if self._tag is None or self._stored_tag() != self._tag:
            raise LeaseLost(
                f"the lock {self.location} was taken by another process, because this one did not renew it for "
                f"{LEASE_SECONDS:.0f} s (was it suspended?).\nBoth may have written at the same time: look at the table by "
                "`pipeline audit` before anything else writes to the lake.",
                path=self.location,
            )
        files.remove(self._spark, self.location)

    def _renew(self) -> None:
        while self._tag is not None and not self._given_back.wait(LEASE_SECONDS / 4):
            self._renewals += 1
            try:
                self._renew_once(self._tag)
            except Exception as error:  # noqa: BLE001  # the next one may come through, in time
                _log.warning("the lock %s is not renewed, and will be tried again: %s", self.location, error)

    def _renew_once(self, tag: str) -> None:
        """An answer that was lost may have been a yes: then what is stored is ours, and its tag is another one."""
        if self._put(replacing=tag) or self._is_stored():
            self._tag = self._stored_tag()
        else:
            self._tag = None

    def _is_stored(self) -> bool:
        """Whether the object that is there was put by this holder."""
        text = files.read_text(self._spark, self.location)
        return text is not None and text.startswith(f"{self._holder} ")

    def _put(self, *, replacing: str | None) -> bool:
        """Whether the object was put: where there was none, or in place of the one with this tag."""
        path, system = self._path()
        building = system.createFile(path).overwrite(True).recursive()
        building = (
            building.must(_ONLY_NEW, True)
            if replacing is None
            else building.must(_ONLY_IN_PLACE_OF, replacing)
        )
        try:
            stream = building.build()
            try:
                stream.write(bytearray(f"{self._holder} {self._renewals}\n".encode()))
            finally:
                stream.close()
        except Py4JJavaError as error:
            if any(name in str(error) for name in _NOT_MINE):
                return False
            raise
        return True

    def _stored_tag(self) -> str | None:
        path, system = self._path()
        try:
            return str(system.getFileStatus(path).getEtag())
        except Py4JJavaError as error:
            if "FileNotFoundException" in str(error):
                return None
            raise

    def _path(self) -> tuple[Any, Any]:
        path = java_class(self._spark, "org.apache.hadoop.fs.Path")(self.location)
        return path, path.getFileSystem(self._spark._jsparkSession.sessionState().newHadoopConf())
