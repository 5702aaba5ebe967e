"""`make cluster`: every job by spark-submit.sh, on a standalone cluster of another user, and then in `local-cluster`.

Workers are killed while ingest and all views stream. Every table is then compared with plain Python.
"""

from __future__ import annotations

import argparse
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import judge
from cluster.standalone import Cluster, cluster
from cluster.submitting import Checkout, ended, overrides
from cluster.waiting import has_read, in_a_batch, newest, wait_until
from crash import logs
from lake import at, fresh, kinds_of, send
from pipeline import ingest
from pipeline.devservices import kafka, postgres
from pipeline.session import session
from pipeline.settings import Settings, load
from pipeline.views import VIEWS
from reference import accepted_log, read_records
from shopping import databases, seed

UNTIL = at(60 * 24 * 2)
PIECES = 3


def main(argv: Sequence[str] | None = None) -> int:
    argparse.ArgumentParser(description=__doc__).parse_args(argv)
    base = load("test", [], {})
    folder = Path(tempfile.mkdtemp(prefix="pipeline-suite-"))
    with kafka.broker(folder / "kafka") as broker, postgres.server(folder / "postgres") as server:
        with cluster() as nodes, shared_folder() as lake:
            here = fresh(base, broker.bootstrap_servers, lake / "lake")
            play(nodes, here, server, folder / "standalone", kill=nodes.kill_worker)
        with shared_folder() as lake:
            here = fresh(base, broker.bootstrap_servers, lake / "lake")
            play("local-cluster[2,2,1024]", here, server, folder / "local-cluster")
    shutil.rmtree(folder)
    return 0


def play(
    where: Cluster | str,
    here: Settings,
    server: postgres.Server,
    home: Path,
    *,
    kill: Callable[[], None] | None = None,
) -> None:
    checkout = Checkout.make(home, {})
    rng = random.Random(11)
    source, warehouse = databases(server)
    seed(source)
    given = overrides(here, postgres__source_url=source, postgres__warehouse_url=warehouse)
    cut = [*given, "--set", "ingest.max_offsets_per_trigger=20", "--set", "speed.max_offsets_per_trigger=20"]
    halves = ["--total-executor-cores", "2", "--executor-cores", "1"]
    send(here, logs.piece(rng, 0))
    with told("ingest and speed, streaming"):
        running = [
            checkout.submit(where, "ingest", cut, options=halves),
            checkout.submit(where, "speed", cut, options=halves),
        ]
        queries = [ingest.QUERY, *(view.query for view in VIEWS.values())]
        with ended(running):
            wait_until(lambda: all(newest(here, query, "commits") >= 0 for query in queries), running)
            for number in range(1, PIECES):
                send(here, logs.piece(rng, number))
            if kill is not None:
                wait_until(lambda: in_a_batch(here, VIEWS["customer_totals"].query), running)
                kill()
                print("a worker is killed", flush=True)
            send(here, logs.ending(PIECES))
            records = read_records(here.kafka.bootstrap_servers, judge.topics_in(here))
            ends = {(record.topic, record.partition): record.offset + 1 for record in records}
            wait_until(lambda: all(has_read(here, query, ends) for query in queries), running)
            for job in running:
                job.stop()
    submit = done(checkout, where)
    submit("batch", [*given, "--until", UNTIL.isoformat()])
    submit("query", ["customer_hourly_spend", *given, "--format", "json"])
    submit("etl_orders", given)
    submit("elt", given)
    submit("quality", given, codes=(0, 1))  # what it thinks of so small a log is not the question
    with told("every table against plain Python"):
        spark = session(here)
        entries = judge.ledger(spark, here)
        judge.check_log(spark, here, records)
        judge.check_ledger(entries, here, records, queries)
        log = accepted_log(records, kinds_of(here))
        for name in VIEWS:
            judge.check_speed(spark, here, name, judge.counted_log(entries, here, name, records))
            judge.check_batch(spark, here, name, log, UNTIL)


def done(checkout: Checkout, where: Cluster | str) -> Callable[..., None]:
    def submit(name: str, arguments: Sequence[str], *, codes: Sequence[int] = (0,)) -> None:
        with told(name):
            job = checkout.submit(where, name, arguments, options=["--total-executor-cores", "2"])
            job.succeed(codes=codes)

    return submit


@contextmanager
def told(what: str) -> Iterator[None]:
    began = time.monotonic()
    yield
    print(f"✓ {what}  {time.monotonic() - began:.0f} s", flush=True)


@contextmanager
def shared_folder() -> Iterator[Path]:
    """A lake that the users of driver and workers may both write to: what a mounted file system is to a cluster."""
    folder = Path(tempfile.mkdtemp(prefix="pipeline-lake-"))
    folder.chmod(0o777)
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    sys.exit(main())
