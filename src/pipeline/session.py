"""The Spark session: made once a process, quiet, in UTC, with the jars that set-up has put in place."""

from __future__ import annotations

import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import datetime
from importlib import resources
from typing import TypeVar

from pyspark import SparkConf, SparkContext
from pyspark.errors import PySparkRuntimeError
from pyspark.sql import SparkSession
from pyspark.sql import types as T
from pyspark.util import inheritable_thread_target

from pipeline.class_archive import class_archive
from pipeline.instants import of_microseconds
from pipeline.jars import added_jars, first_jars, require_s3_jars, spark_jars
from pipeline.java import require_java
from pipeline.jvm import remember
from pipeline.settings import SECRET_NAME, Secret, Settings
from pipeline.tables import local_path

__all__ = ["class_path", "session", "side_by_side"]

Result = TypeVar("Result")

_MEBIBYTE = 1024 * 1024
_LEAST_MEMORY = 1024 * _MEBIBYTE
_MOST_MEMORY = 8192 * _MEBIBYTE

_TIME_ZONE = "spark.sql.session.timeZone"

_FILES_OF_A_LOCAL_CHECKPOINT = {
    "spark.sql.streaming.checkpointFileManagerClass": (
        "org.apache.spark.sql.execution.streaming.checkpointing.FileSystemBasedCheckpointFileManager"
    )
}
"""By default Spark puts a checkpoint's files in place by Hadoop's FileContext, which on this machine's file system starts the program
`readlink` four times for each of them: 0.3 s of a small micro-batch of a join. Both rename, and are as atomic as that; but this one
leaves a file that is there (`state_stores.forget_unfinished`).
"""

_is_starting_java = False


def session(settings: Settings) -> SparkSession:
    """The process's session. Under spark-submit the master and the jars are those it was given.

    Raises SetupError when Java or the jars are missing or not those that are needed.
    """
    spark = _session(settings)
    remember(spark)
    return spark


def _session(settings: Settings) -> SparkSession:
    _keep_utc()
    _keep_all_times()
    if SparkSession.getActiveSession() is not None:
        found = SparkSession.builder.getOrCreate()  # may be a stream's copy, with settings of its own
        if found.conf.get(_TIME_ZONE) != "UTC":  # somebody else's, of a notebook or a job around ours
            found.conf.set(_TIME_ZONE, "UTC")
        return found
    builder = SparkSession.builder.appName("pipeline")
    for key, value in _defaults(settings).items():
        builder = builder.config(key, value)
    if _is_submitted():
        return builder.getOrCreate()
    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
    os.environ.setdefault("PYSPARK_DRIVER_PYTHON", sys.executable)
    if settings.lake.root.startswith("s3a:"):
        require_s3_jars()
    builder = builder.master(settings.spark.master)
    sent = [*(() if _is_local(settings) else spark_jars()), *added_jars()]
    if sent:
        builder = builder.config("spark.jars", ",".join(map(str, sent)))
    builder = builder.config("spark.driver.extraClassPath", class_path(settings))
    builder = builder.config("spark.driver.memory", settings.spark.conf.get("spark.driver.memory", _memory()))
    builder = builder.config("spark.driver.extraJavaOptions", _java_options(settings))
    if settings.spark.master.startswith("local"):
        os.environ.setdefault(
            "SPARK_LOCAL_IP", "127.0.0.1"
        )  # else the driver listens on the network, and its UI
    with _jvm_output_in_a_file(), _jvm_deaf_to_sigterm():
        try:
            _start_java(builder, settings)
            return builder.getOrCreate()
        except PySparkRuntimeError:
            require_java()  # which says what is wrong with it
            raise


def _start_java(builder: SparkSession.Builder, settings: Settings) -> None:
    """Start the JVM without the secrets among the options, which would stand in the list of processes; they are set later."""
    secret = {key for key, value in settings.spark.conf.items() if isinstance(value, Secret)}
    at_start = [
        (key, value)
        for key, value in builder._options.items()
        if key not in secret or key.startswith("spark.driver.")  # which nothing can set later
    ]
    SparkContext._ensure_initialized(conf=SparkConf(loadDefaults=False).setAll(at_start))


def side_by_side(
    spark: SparkSession, tasks: Sequence[Callable[[], Result]], *, at_a_time: int = 2
) -> list[Result]:
    """Run the tasks in threads of this session; their results in order, none where there is no task. The first error is raised.

    Much of what Spark does is many small jobs with a driver's work between them: two at a time leave no core idle.
    """
    if not tasks:
        return []
    with ThreadPoolExecutor(at_a_time) as pool:
        return list(pool.map(inheritable_thread_target(spark)(_call), tasks))


def _call(task: Callable[[], Result]) -> Result:
    return task()


def _defaults(settings: Settings) -> dict[str, str]:
    """Options by key; what depends on the machine is filled in unless the configuration says otherwise."""
    cores = str(settings.speed.state_partitions or _cores(settings.spark.master))
    local_folder = tempfile.gettempdir()
    return {
        "spark.sql.shuffle.partitions": cores,
        "spark.sql.warehouse.dir": f"{local_folder}/pipeline-warehouse-{os.getuid()}",
        "spark.executorEnv.TZ": "UTC",
        "spark.redaction.regex": f"(?i){SECRET_NAME.pattern}",  # Spark's own passes over a webhook, a JAAS login and others
        **(_FILES_OF_A_LOCAL_CHECKPOINT if local_path(settings.lake.root) is not None else {}),
        **settings.spark.conf,
    }


def _cores(master: str) -> int:
    inside = master.removeprefix("local[").partition("]")[0] if master.startswith("local[") else "*"
    return int(inside) if inside.isdigit() else (os.cpu_count() or 2)


def _memory() -> str:
    """What the JVM may take: a quarter of the machine's memory, 8 GiB at most. Spark's own default of 1 GiB is soon spent
    on collecting garbage: what a broadcast leaves behind is given back by a full collection only.
    """
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return f"{min(max(machine // 4, _LEAST_MEMORY), _MOST_MEMORY) // _MEBIBYTE}m"


def _is_submitted() -> bool:
    return "PYSPARK_GATEWAY_PORT" in os.environ or SparkContext._active_spark_context is not None


def _keep_utc() -> None:
    """PySpark turns timestamps into datetimes by the process's own time zone, and the other way round."""
    os.environ["TZ"] = "UTC"
    time.tzset()


def _keep_all_times() -> None:
    """PySpark fails at a stored time that is no datetime, and with it at all rows that are collected. Its one way from
    micros to a datetime is therefore ours: rows are also nested, and collected by whoever has a notebook.
    """
    for of in (T.TimestampType, T.TimestampNTZType):
        of.fromInternal = _in_utc  # type: ignore[method-assign,assignment]


def _in_utc(_: T.DataType, micros: int | None) -> datetime | None:
    return None if micros is None else of_microseconds(micros, zone=None)


def class_path(settings: Settings) -> str:
    """What comes before Spark's own jars on the driver's class path. In a local session that is all that every session has:
    only classes from there can be in the class archive. Raises SetupError as spark_jars.
    """
    given = settings.spark.conf.get("spark.driver.extraClassPath")
    ours = [*first_jars(), *(spark_jars() if _is_local(settings) else ())]
    return os.pathsep.join([*map(str, ours), *([given] if given else [])])


def _is_local(settings: Settings) -> bool:
    return settings.spark.master.startswith("local[") or settings.spark.master == "local"


def _java_options(settings: Settings) -> str:
    options = [settings.spark.conf.get("spark.driver.extraJavaOptions", "")]
    options.append(f"-Dlog4j2.configurationFile={resources.files('pipeline') / 'log4j2.properties'}")
    archive = class_archive(class_path(settings))
    if archive.exists():
        options.append(f"-XX:SharedArchiveFile={archive}")
    return " ".join(options).strip()


@contextmanager
def _jvm_output_in_a_file() -> Iterator[None]:
    """While the JVM is started, standard error and output are a file, which the JVM keeps: its launcher's warnings have no
    switch, nor has what Delta prints when it has removed files.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    before = {number: os.dup(number) for number in (1, 2)}
    # For this user alone, and none that somebody else has put there: what Java says may quote rows.
    log, _ = tempfile.mkstemp(prefix=f"pipeline-spark-{os.getpid()}-", suffix=".log")
    for number in before:
        os.dup2(log, number)
    os.close(log)
    try:
        yield
    finally:
        for number, file in before.items():
            os.dup2(file, number)
            os.close(file)


@contextmanager
def _jvm_deaf_to_sigterm() -> Iterator[None]:
    """The JVM that is started here ignores SIGTERM, as PySpark lets it ignore SIGINT.

    `timeout`, systemd and others signal all processes of a group. A JVM that ends with the first signal takes the running
    batch with it; left alone, it ends when this process closes the pipe between them.
    """
    global _is_starting_java
    if not _is_starting_java:
        os.register_at_fork(after_in_child=_ignore_sigterm_in_java)
    _is_starting_java = True
    try:
        yield
    finally:
        _is_starting_java = False


def _ignore_sigterm_in_java() -> None:
    if _is_starting_java:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
