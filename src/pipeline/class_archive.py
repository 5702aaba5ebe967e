"""Where the class archive lies: the classes of a local session as the JVM holds them, loaded and verified once
(dynamic class-data sharing, JEP 350). Without one a session starts all the same, and loads each class from its jar.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from pipeline.jars import JARS
from pipeline.java import find_java

__all__ = ["FOLDER", "class_archive"]

FOLDER = JARS.with_name("classes")


def class_archive(class_path: str) -> Path:
    """The archive of this class path and this Java, whether it is there or not; SetupError where there is no Java.

    The JVM looks itself whether the jars are those that it was made from, and goes without where they are not.
    """
    java = find_java().resolve()
    made_from = f"{java}\n{java.stat().st_mtime_ns}\n{class_path}"
    return FOLDER / f"{hashlib.sha256(made_from.encode()).hexdigest()[:16]}.jsa"
