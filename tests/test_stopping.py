"""Real signals to a real process, and `pipeline stop`: the running batch ends, nothing is begun, nothing is replayed."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from pyspark.sql import SparkSession

from lake import at, order, send
from pipeline import ingest, stopping
from pipeline.cli import main
from pipeline.settings import Settings
from pipeline.tables import ORDER_EVENTS, RAW_EVENTS, checkpoint_path, table_path

pytestmark = pytest.mark.kafka

PATIENCE_SECONDS = 300.0
STAYS_SECONDS = 1.5
"""How long a process that a signal would end at once is watched."""


def newest(settings: Settings, log: str) -> int:
    folder = Path(checkpoint_path(settings.lake.root, ingest.QUERY)) / log
    names = [file.name for file in folder.iterdir()] if folder.exists() else []
    return max((int(name) for name in names if name.isdigit()), default=-1)


def wait_until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def offsets_of(spark: SparkSession, settings: Settings, table: str) -> list[int]:
    rows = spark.read.format("delta").load(table_path(settings.lake.root, table)).select("offset").collect()
    return sorted(row["offset"] for row in rows)


def overrides(settings: Settings) -> list[str]:
    topics = settings.kafka.topics
    changed = {
        "lake.root": settings.lake.root,
        "kafka.bootstrap_servers": settings.kafka.bootstrap_servers,
        "kafka.topics.orders": topics.orders,
        "kafka.topics.products": topics.products,
        "kafka.topics.text_lines": topics.text_lines,
    }
    return [
        "--env",
        "test",
        *(word for key, value in changed.items() for word in ("--set", f"{key}={value}")),
    ]


@contextmanager
def running_ingest(settings: Settings) -> Iterator[subprocess.Popen[bytes]]:
    """`pipeline ingest` at the head of a process group of its own, as a terminal would have it."""
    process = subprocess.Popen(
        [sys.executable, "-m", "pipeline", "ingest", *overrides(settings)], start_new_session=True
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@contextmanager
def held_up(settings: Settings) -> Iterator[None]:
    """While the block runs, no batch can commit to raw_events: the lock of the table is ours."""
    lake = Path(settings.lake.root)
    lake.mkdir(parents=True, exist_ok=True)
    with (lake / f"_{RAW_EVENTS}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def test_a_signal_to_the_whole_group_ends_after_the_batch_and_a_second_one_at_once(
    spark: SparkSession, settings: Settings
) -> None:
    send(settings, [order("first")])
    with running_ingest(settings) as process:
        wait_until(lambda: newest(settings, "commits") == 0)
        with held_up(settings):
            send(settings, [order(f"o{i}", time=at(i)) for i in range(20)])
            wait_until(lambda: newest(settings, "offsets") == 1)
            os.killpg(process.pid, signal.SIGINT)
            with pytest.raises(subprocess.TimeoutExpired):
                process.wait(timeout=STAYS_SECONDS)
        assert process.wait(timeout=PATIENCE_SECONDS) == 0
    assert newest(settings, "offsets") == newest(settings, "commits") >= 1
    with running_ingest(settings) as process:
        begun = newest(settings, "offsets") + 1
        with held_up(settings):
            send(settings, [order("last")])
            wait_until(lambda: newest(settings, "offsets") == begun)
            os.killpg(process.pid, signal.SIGTERM)
            with pytest.raises(subprocess.TimeoutExpired):
                process.wait(timeout=STAYS_SECONDS)
            os.killpg(process.pid, signal.SIGTERM)
            assert process.wait(timeout=PATIENCE_SECONDS) == -signal.SIGTERM
    assert newest(settings, "offsets") == newest(settings, "commits") + 1
    ingest.run(settings, once=True)
    assert (
        offsets_of(spark, settings, RAW_EVENTS) == offsets_of(spark, settings, ORDER_EVENTS) == [*range(22)]
    )


def test_pipeline_stop_leaves_no_batch_begun(
    spark: SparkSession, settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    for i in range(4):
        begun = newest(settings, "offsets")
        runner = threading.Thread(target=ingest.run, args=(settings,), kwargs={"once": False})
        runner.start()
        send(settings, [order(f"o{i}-0")])
        wait_until(lambda before=begun: newest(settings, "offsets") > before)  # type: ignore[misc]
        send(settings, [order(f"o{i}-1")])
        time.sleep(0.15 * i)  # a stop at another moment of a batch each time
        assert main(["stop", "ingest", "--timeout", str(PATIENCE_SECONDS), *overrides(settings)]) == 0
        assert capsys.readouterr().out == f"stopped: {ingest.QUERY}\n"
        runner.join()
        assert newest(settings, "offsets") == newest(settings, "commits")
    assert main(["stop", *overrides(settings)]) == 0
    assert capsys.readouterr().out == f"No query is running on the lake {settings.lake.root}.\n"
    ingest.run(settings, once=True)
    assert offsets_of(spark, settings, RAW_EVENTS) == [*range(8)]


def test_what_asked_an_earlier_process_to_stop_does_not_stop_the_next(
    spark: SparkSession, settings: Settings
) -> None:
    send(settings, [order("o1")])
    root = settings.lake.root
    folder = Path(root) / "_checkpoints"
    folder.mkdir(parents=True)
    (folder / f"{ingest.QUERY}.stop").touch()
    ingest.run(settings, once=True)
    assert offsets_of(spark, settings, RAW_EVENTS) == [0]
    assert stopping.running_queries(root) == []
    stopping.hold(spark, root, "held_v1")
    assert stopping.stop_queries(root, ["held_v1"], timeout_seconds=0.5) == ["held_v1"]
    assert stopping.is_asked_to_stop(spark, root, "held_v1")
    stopping.let_go(spark, root, "held_v1")
    assert not stopping.is_asked_to_stop(spark, root, "held_v1")
    (folder / "held_v1.stop").touch()  # meant for the process that holds it by now
    stopping.let_go(spark, root, "held_v1")
    assert stopping.is_asked_to_stop(spark, root, "held_v1")
