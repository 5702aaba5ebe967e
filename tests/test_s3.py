"""A lake on S3: the same tables, a lock around each commit, and one process for each query."""

from __future__ import annotations

import os
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from pyspark.sql import SparkSession

import judge
from cluster.submitting import overrides
from commands import PIPELINE
from lake import Sent, at, fresh, kinds_of, order, send
from object_store import LOGIN, object_store, options
from pipeline import batch, checkpoints, files, ingest, leases, speed, stopping
from pipeline.cli import main
from pipeline.errors import AlreadyRunning, LeaseLost
from pipeline.jars import added_jars
from pipeline.leases import Lease
from pipeline.settings import Settings
from pipeline.sinks import commit_lock
from pipeline.tables import checkpoint_path
from pipeline.views import VIEWS
from reference import accepted_log, read_records

pytestmark = [
    pytest.mark.kafka,
    pytest.mark.skipif(
        not added_jars(),
        reason="the jars of S3 are not here: python -m pipeline.jars --with s3",
    ),
]

VIEW = "customer_hourly_spend"
UNTIL = at(180)
SENT = [
    order("one", time=at(0)),
    order("two", time=at(70), customer_id="c2", total="0.10", partition=1),
    order("dead", total="much"),
    Sent(b"some words", kind="text-lines"),
]


@pytest.fixture(scope="module")
def store(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with object_store(tmp_path_factory.mktemp("s3")) as url:
        for key, value in options(url).items():
            spark.conf.set(key, value)
        yield "s3a://lake"
        for key in options(url):
            spark.conf.unset(key)


@pytest.fixture
def short_lease(monkeypatch: pytest.MonkeyPatch) -> float:
    seconds = 1.0
    monkeypatch.setattr(leases, "LEASE_SECONDS", seconds)
    monkeypatch.setattr(stopping, "LEASE_SECONDS", seconds)
    return seconds


def test_both_layers_are_exact_on_s3_and_leave_no_lock(
    spark: SparkSession,
    base_settings: Settings,
    bootstrap: str,
    store: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    local = fresh(base_settings, bootstrap, Path("elsewhere"))
    here = replace(local, lake=replace(local.lake, root=f"{store}/both"))
    send(here, SENT)
    ingest.run(here, once=True)
    speed.run(here, views=[VIEW], once=True)
    send(here, [order("three", time=at(200)), order("late", time=at(5))])
    ingest.run(here, once=True)
    speed.run(here, views=[VIEW], once=True)
    batch.run(here, views=[VIEW], until=UNTIL)
    records = read_records(bootstrap, judge.topics_in(here))
    judge.check_log(spark, here, records)
    entries = judge.ledger(spark, here)
    judge.check_speed(spark, here, VIEW, judge.counted_log(entries, here, VIEW, records))
    judge.check_batch(spark, here, VIEW, accepted_log(records, kinds_of(here)), UNTIL)
    names = files.names(spark, here.lake.root) + files.names(spark, f"{here.lake.root}/_checkpoints")
    assert [name for name in names if name.endswith((".lock", ".running", ".stop"))] == []
    asked = ["query", VIEW, "--format", "csv", "--set", f"lake.root={here.lake.root}", "--env", "test"]
    assert main(asked) == 0
    assert "c2,2026-01-01T13:00:00Z" in capsys.readouterr().out


def test_two_drivers_share_a_lake(
    spark: SparkSession, base_settings: Settings, bootstrap: str, store: str, tmp_path: Path
) -> None:
    """Both enter their batches in the same ledger, one after the other."""
    local = fresh(base_settings, bootstrap, Path("elsewhere"))
    here = replace(local, lake=replace(local.lake, root=f"{store}/shared"))
    send(here, SENT)
    with ingesting(here, spark.conf.get("fs.s3a.endpoint"), log := tmp_path / "log") as driver:
        wait_until(lambda: bool(read_by_ingest(spark, here)), driver, log)  # from here on both commit
        for number in range(2):
            send(here, [order(f"o{number}", time=at(10 * number), partition=number % 2)])
            speed.run(here, views=[VIEW], once=True)
        records = read_records(bootstrap, judge.topics_in(here))
        ends = {(record.topic, record.partition): record.offset + 1 for record in records}
        wait_until(lambda: ends.items() <= read_by_ingest(spark, here).items(), driver, log)
        speed.run(here, views=[VIEW], once=True)
    assert driver.returncode == 0, log.read_text()
    entries = judge.ledger(spark, here)
    judge.check_log(spark, here, records)
    judge.check_ledger(entries, here, records, [ingest.QUERY, VIEWS[VIEW].query])
    judge.check_speed(spark, here, VIEW, judge.counted_log(entries, here, VIEW, records))


@contextmanager
def ingesting(here: Settings, endpoint: str, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """`pipeline ingest` in a process of its own, told to stop at the end of the block."""
    without_login = {key: value for key, value in options(endpoint).items() if not key.endswith(".key")}
    more = [
        part
        for key, value in without_login.items()
        for part in ("--set", f"spark.conf.spark.hadoop.{key}={value}")
    ]
    with log.open("wb") as output:
        driver = subprocess.Popen(
            [str(PIPELINE), "ingest", *overrides(here), *more],
            env={**os.environ, **LOGIN},
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        yield driver
        driver.terminate()
        driver.wait(120)
    finally:
        driver.kill()
        driver.wait()


def wait_until(holds: Callable[[], bool], driver: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 300
    while not holds():
        assert driver.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.2)


def read_by_ingest(spark: SparkSession, here: Settings) -> dict[tuple[str, int], int]:
    offsets = checkpoints.next_offsets(spark, checkpoint_path(here.lake.root, ingest.QUERY))
    return {(topic, number): end for topic, number, end in offsets}


def test_a_lock_has_one_holder_and_a_dead_holder_is_found_out(
    spark: SparkSession, store: str, short_lease: float
) -> None:
    place = f"{store}/locks/_table.lock"
    first, second = Lease(spark, place), Lease(spark, place)
    assert first.take()
    time.sleep(2 * short_lease)  # it is renewed meanwhile
    assert not second.take(patience_seconds=0.5 * short_lease)
    first.give_back()
    assert second.take()
    second._given_back.set()  # its thread dies with its process
    second._renewer.join()
    third = Lease(spark, place)
    assert third.take()
    with pytest.raises(LeaseLost):
        second.give_back()
    third.give_back()
    assert not files.exists(spark, place)


def test_a_renewal_that_fails_is_tried_again(
    spark: SparkSession, store: str, short_lease: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    lease = Lease(spark, f"{store}/locks/_renewed.lock")
    assert lease.take()
    put, renewed, calls = lease._put, threading.Event(), list[str | None]()

    def failing_once(*, replacing: str | None) -> bool:
        calls.append(replacing)
        if len(calls) == 1:
            raise OSError("the store does not answer")
        if len(calls) == 2:  # its answer is lost
            assert put(replacing=replacing)
            return False
        done = put(replacing=replacing)
        renewed.set()
        return done

    monkeypatch.setattr(lease, "_put", failing_once)
    assert renewed.wait(60)
    lease.give_back()
    assert not files.exists(spark, lease.location)


def test_writers_of_one_table_take_turns(spark: SparkSession, store: str) -> None:
    path, seen, inside = f"{store}/turns/table", list[int](), list[str]()

    def write(name: str) -> None:
        for _ in range(3):
            with commit_lock(path), commit_lock(path):
                inside.append(name)
                seen.append(len(inside))
                time.sleep(0.05)
                inside.remove(name)

    writers = [threading.Thread(target=write, args=(f"w{number}",)) for number in range(3)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert seen == [1] * 9


def test_a_query_is_held_by_one_process(spark: SparkSession, store: str, short_lease: float) -> None:
    root = f"{store}/held"
    stopping.hold(spark, root, "held_v1")
    assert stopping.running_queries(root, spark=spark) == ["held_v1"]
    with pytest.raises(AlreadyRunning):
        stopping._leased(spark, root, "held_v1")
    stopping.let_go(spark, root, "held_v1")
    assert stopping.running_queries(root, spark=spark) == []
