"""The jobs on a standalone cluster of another user, of which a worker is killed in the middle of a batch."""

from __future__ import annotations

import random
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from pyspark.sql import SparkSession

import judge
from cluster.standalone import IS_ROOT, NOBODY, Cluster, cluster, run_as_node
from cluster.submitting import Checkout, ended, overrides
from cluster.waiting import has_read, in_a_batch, newest, wait_until
from crash import logs
from lake import fresh, send
from pipeline import ingest
from pipeline.settings import Settings
from pipeline.views import VIEWS
from reference import read_records

pytestmark = pytest.mark.kafka

VIEW = "customer_totals"
"""Its state is kept by Python on the workers: it needs what travels, and what they must bring."""
SECRET = "only-the-driver-knows-this"  # planted


@pytest.fixture
def shared_folder() -> Iterator[Path]:
    """A lake that both users may write to: what a mounted file system is to a cluster."""
    folder = Path(tempfile.mkdtemp(prefix="pipeline-lake-"))
    folder.chmod(0o777)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def nodes() -> Iterator[Cluster]:
    with cluster() as running:
        yield running


def test_the_jobs_on_a_cluster_of_another_user_lose_nothing_with_a_worker(
    spark: SparkSession,
    base_settings: Settings,
    bootstrap: str,
    nodes: Cluster,
    shared_folder: Path,
    tmp_path: Path,
) -> None:
    here = fresh(base_settings, bootstrap, shared_folder / "lake")
    checkout = Checkout.make(tmp_path / "checkout", {"PIPELINE_SERVE__TOKEN": SECRET})
    rng = random.Random(7)
    send(here, logs.piece(rng, 0))
    cut = overrides(here, ingest__max_offsets_per_trigger="7", speed__max_offsets_per_trigger="7")
    two_cores = ["--total-executor-cores", "2", "--executor-cores", "1"]
    running = [
        checkout.submit(nodes, "ingest", cut, options=two_cores),
        checkout.submit(nodes, "speed", [*cut, VIEW], options=two_cores),
    ]
    queries = [ingest.QUERY, VIEWS[VIEW].query]
    with ended(running):
        wait_until(lambda: all(newest(here, query, "commits") >= 0 for query in queries), running)
        assert nodes.cores_in_use() == [2, 2]  # each worker runs something of each job
        check_what_the_workers_know(nodes, checkout)
        for number in (1, 2):
            send(here, logs.piece(rng, number))
        wait_until(lambda: in_a_batch(here, queries[1]), running)
        nodes.kill_worker()
        send(here, logs.ending(2))
        records = read_records(bootstrap, judge.topics_in(here))
        ends = {(record.topic, record.partition): record.offset + 1 for record in records}
        wait_until(lambda: all(has_read(here, query, ends) for query in queries), running)
        for job in running:
            job.stop()
    check(spark, here)


def check_what_the_workers_know(nodes: Cluster, checkout: Checkout) -> None:
    """Nothing of the checkout, and no variable of the driver."""
    if not IS_ROOT:
        return
    for file in ("src/pipeline/ingest.py", "conf/base.yml", "spark-submit.sh"):
        assert run_as_node(["cat", checkout.home / file]).returncode != 0
    told = {process: text for process in Path("/proc").iterdir() if (text := told_to(process)) is not None}
    assert any(b"pyspark" in text for text in told.values())
    assert [process for process, text in told.items() if SECRET.encode() in text] == []


def told_to(process: Path) -> bytes | None:
    """Command line and variables of a process of the cluster's user; None for another one, or one that has ended."""
    try:
        if not process.name.isdigit() or process.stat().st_uid != NOBODY:
            return None
        return (process / "cmdline").read_bytes() + (process / "environ").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return None


def check(spark: SparkSession, here: Settings) -> None:
    """Every table is what plain Python computes from the records as Kafka holds them."""
    records = read_records(here.kafka.bootstrap_servers, judge.topics_in(here))
    entries = judge.ledger(spark, here)
    judge.check_log(spark, here, records)
    judge.check_speed(spark, here, VIEW, judge.counted_log(entries, here, VIEW, records))
