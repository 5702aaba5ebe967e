"""Crashes by the dozen. Each case is told by its seed; CRASH_SEEDS and KILL_SEEDS (3,10-12) choose which are played."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest
from pyspark.sql import SparkSession

from crash import logs
from crash.kills import play_with_kills
from crash.plays import INGEST, Play, batch_sizes, check, play, views_of
from lake import fresh, send
from pipeline import compaction, speed
from pipeline.devservices import kafka
from pipeline.errors import KafkaUnreachable
from pipeline.failpoints import watched
from pipeline.settings import Settings
from pipeline.streaming import QueryFailed

pytestmark = pytest.mark.kafka

IN_CI = "1-4,9003"
"""3 has a hot key, 4 batches without a record; in the last one keyed state that began with a seed crashes in its first batch."""
KILLS_IN_CI = "1"


def seeds(variable: str, default: str) -> list[int]:
    """The numbers and ranges of an environment variable, such as 3,10-12."""
    chosen: list[int] = []
    for part in filter(None, os.environ.get(variable, default).split(",")):
        first, _, last = part.partition("-")
        chosen += range(int(first), int(last or first) + 1)
    return chosen


@pytest.fixture(autouse=True)
def ledger_and_compaction_every_two_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that it is entered, and files are put together, inside of runs as short as these."""
    monkeypatch.setattr(speed, "_LEDGER_EVERY", 2)
    monkeypatch.setattr(compaction, "_FILES", 2)


@pytest.mark.parametrize("seed", seeds("CRASH_SEEDS", IN_CI))
def test_nothing_is_lost_and_nothing_twice(
    spark: SparkSession, base_settings: Settings, bootstrap: str, tmp_path: Path, seed: int
) -> None:
    told = play(spark, fresh(base_settings, bootstrap, tmp_path / "lake"), seed)
    note(told, seed, "crash")
    assert len(told.crashes) >= 6


@pytest.mark.parametrize("seed", seeds("KILL_SEEDS", KILLS_IN_CI))
def test_nothing_is_lost_when_the_processes_are_killed(
    spark: SparkSession, base_settings: Settings, bootstrap: str, tmp_path: Path, seed: int
) -> None:
    here = fresh(base_settings, bootstrap, tmp_path / "lake")
    told = Play(spark, here, views_of(seed)[:1], random.Random(seed), batch_sizes(seed))
    play_with_kills(told, seed, tmp_path)
    note(told, seed, "kill")


def note(told: Play, seed: int, kind: str) -> None:
    """For whoever counts: what has been played, a line of JSON in the file that CRASH_NOTES names."""
    line = json.dumps({"kind": kind, "seed": seed, "views": told.views, "crashes": told.crashes})
    print(line)
    if "CRASH_NOTES" in os.environ:
        with Path(os.environ["CRASH_NOTES"]).open("a") as notes:
            notes.write(line + "\n")


def test_nothing_is_lost_when_the_broker_is_killed(
    spark: SparkSession, base_settings: Settings, tmp_path: Path
) -> None:
    """Killed in a batch of ingest, in a batch of a view that also produces, and each time with records on their way to it."""
    rng = random.Random(1)
    with kafka.broker(tmp_path / "kafka") as first:
        here = fresh(base_settings, first.bootstrap_servers, tmp_path / "lake")
        told = Play(spark, here, ("word_counts",), rng)
        for number, (actor, point) in enumerate(
            ((INGEST, "ingest: begun"), ("word_counts", "speed: written"))
        ):
            send(here, logs.piece(rng, number))
            kill = BrokerKill(point, first.home, more=partial(send, here, logs.piece(rng, number + 2)))
            with watched(kill):
                run_through(told, actor)
            kill.finish()
            told.crashes.append(f"broker killed at {point}")
        send(here, logs.ending(0))
        for actor in (INGEST, *told.views):
            run_through(told, actor)
        check(told)
    note(told, 1, "broker")


class BrokerKill:
    """Kills the broker at a failpoint, once; records are being sent while it is away, and it comes back on its port."""

    def __init__(self, point: str, home: Path, more: Callable[[], None]) -> None:
        self.point = point
        self.home = home
        self.others = ThreadPoolExecutor(2)
        self.more = more
        self.coming: list[Future[object]] = []

    def __call__(self, name: str) -> None:
        if name != self.point or self.coming:
            return
        alive = kafka.running(self.home)
        assert alive is not None
        self.coming.append(self.others.submit(self.more))
        os.kill(alive.pid, signal.SIGKILL)
        port = int(alive.bootstrap_servers.rpartition(":")[2])
        self.coming.append(self.others.submit(self._bring_back, port))

    def _bring_back(self, port: int) -> None:
        time.sleep(1)
        kafka.start(self.home, port)

    def finish(self) -> None:
        assert self.coming, f"{self.point} was never reached"
        for task in self.coming:
            task.result()
        self.others.shutdown()


def run_through(told: Play, actor: str) -> None:
    """Run until it ends well: while the broker is away, a query may fail by name."""
    for _ in range(5):
        try:
            told.run(actor)
        except (QueryFailed, KafkaUnreachable) as end:
            print(f"{actor}: {end}")
            time.sleep(1)
        else:
            return
    raise AssertionError(f"{actor} does not come back")
