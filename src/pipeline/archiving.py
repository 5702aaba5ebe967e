"""Make the class archive, unless it is there: a few seeded events run through ingest and a view, and the JVM writes
down at its end which classes that took. `make install` does it, once; each session starts some seconds sooner then.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from subprocess import Popen, TimeoutExpired
from typing import Any

from pyspark import SparkContext

from pipeline import console, ingest, speed
from pipeline.class_archive import FOLDER, class_archive
from pipeline.devservices import generate, kafka
from pipeline.errors import PipelineError
from pipeline.session import class_path
from pipeline.settings import Settings, load

__all__ = ["main"]

_EVENTS = 2_000
_VIEW = "customer_hourly_spend"
_JVM_OPTIONS = "-Duser.timezone=UTC -XX:TieredStopAtLevel=1 -XX:+UseSerialGC -XX:ArchiveClassesAtExit="
_SECONDS_AT_EXIT = 300


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit code: 0 where the archive is there or this Java makes none, 3 where nothing runs, with the reason on standard error."""
    argparse.ArgumentParser(prog="python -m pipeline.archiving", description=__doc__).parse_args(arguments)
    try:
        settings = load(None, [], {})  # whatever is configured here: the events are its own
        archive = class_archive(class_path(settings))
        if not archive.exists():
            with console.step("class archive, for quicker starts (once, about a minute)"):
                _make(settings, archive)
            if not archive.exists():
                console.note("this Java has made none: sessions start all the same, some seconds later")
    except PipelineError as error:
        print(f"archiving: {error.message}", file=sys.stderr)
        return error.exit_code
    return 0


def _make(settings: Settings, archive: Path) -> None:
    shutil.rmtree(FOLDER, ignore_errors=True)  # of jars that were, and of another Java
    FOLDER.mkdir(parents=True)
    with tempfile.TemporaryDirectory() as folder, kafka.broker(Path(folder) / "kafka") as broker:
        begun = archive.with_suffix(".part")  # one that was broken off would be taken for one that is there
        here = _settings(settings, broker.bootstrap_servers, Path(folder) / "lake", begun)
        generate.generate(
            broker.bootstrap_servers,
            here.kafka.topics,
            events=_EVENTS,
            seed=1,
            late=0.02,
            malformed=0.01,
            hours=4,
            progress=lambda _: None,
        )
        ingest.run(here, once=True)
        speed.run(here, views=[_VIEW], once=True)
        if _end_java() and begun.exists():
            begun.rename(archive)


def _settings(settings: Settings, bootstrap: str, lake: Path, archive: Path) -> Settings:
    options = {"spark.driver.extraJavaOptions": f"{_JVM_OPTIONS}{archive}"}
    return replace(
        settings,
        kafka=replace(settings.kafka, bootstrap_servers=bootstrap),
        lake=replace(settings.lake, root=str(lake)),
        ingest=replace(settings.ingest, max_offsets_per_trigger=_EVENTS // 2),
        speed=replace(settings.speed, max_offsets_per_trigger=_EVENTS // 4),
        spark=replace(settings.spark, conf={**settings.spark.conf, **options}),
    )


def _end_java() -> bool:
    """Whether Spark's JVM has ended by itself. It does with the pipe from this process, once it has written the archive."""
    context = SparkContext._active_spark_context
    assert context is not None
    gateway: Any = context._gateway
    context.stop()
    java: Popen[bytes] = gateway.proc
    gateway.shutdown()
    assert java.stdin is not None
    java.stdin.close()
    try:
        return java.wait(_SECONDS_AT_EXIT) == 0
    except TimeoutExpired:
        java.kill()
        return False


if __name__ == "__main__":
    sys.exit(main())
