"""The Java that Spark, Ivy and the embedded broker run on."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from pipeline.errors import SetupError

__all__ = ["find_java", "java_version", "require_java"]

OLDEST = 17
_REMEDY = (
    "Install Java 17 or 21 (Debian and Ubuntu: apt-get install openjdk-17-jre-headless; macOS: brew install openjdk@17), "
    "or set JAVA_HOME to one."
)


def require_java() -> Path:
    """The java program of JAVA_HOME, else of the PATH; SetupError where there is none or it is older than 17."""
    java = find_java()
    version = java_version(java)
    if version < OLDEST:
        raise SetupError(f"Spark 4.2 needs Java {OLDEST} or 21; {java} is Java {version}. {_REMEDY}")
    return java


def java_version(java: Path) -> int:
    """The feature version, such as 17; 8 for what calls itself 1.8."""
    try:
        answer = subprocess.run([java, "-version"], capture_output=True, text=True, timeout=60, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        raise SetupError(f"{java} -version does not run: {error}. {_REMEDY}") from error
    found = re.search(r'version "(?:1\.)?(\d+)', answer.stderr + answer.stdout)
    if found is None:
        raise SetupError(f"{java} -version says no version: {answer.stderr.strip()!r}. {_REMEDY}")
    return int(found[1])


def find_java() -> Path:
    """The java program of JAVA_HOME, else of the PATH; SetupError where there is none."""
    home = os.environ.get("JAVA_HOME")
    if home:
        java = Path(home) / "bin" / "java"
        if not java.is_file():
            raise SetupError(f"JAVA_HOME is {home}, but there is no {java}. {_REMEDY}")
        return java
    on_path = shutil.which("java")
    if on_path is None:
        raise SetupError(f"No Java: JAVA_HOME is not set and the PATH has no java. {_REMEDY}")
    return Path(on_path)


if __name__ == "__main__":  # by `make install`, when there is no environment yet
    try:
        require_java()
    except SetupError as error:
        sys.exit(f"java: {error.message}")
