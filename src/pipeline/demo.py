"""The whole pipeline on one machine: a broker, seeded events, every layer, and the agreement of the two."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from pyspark.sql import SparkSession
from pyspark.util import inheritable_thread_target

from pipeline import audit, batch, console, ingest, querying, reconcile, rendering, speed
from pipeline.audit import Report
from pipeline.devservices import generate, kafka
from pipeline.reconcile import Agreement
from pipeline.session import session
from pipeline.settings import Settings

__all__ = ["run"]

HOURS = 36
MICRO_BATCHES = 3
SHORT_SESSION = "-Duser.timezone=UTC -XX:TieredStopAtLevel=1 -XX:ReservedCodeCacheSize=384m -XX:+UseSerialGC -Xms1g -Xmn512m -XX:MetaspaceSize=256m"
"""In a session of minutes the optimizing compiler takes half of all CPU time and does not earn it back. Without it the
JVM's code cache is 48 MB by default; once that is full, nothing is compiled any more. A heap and a metaspace that
begin small are collected each time they grow: 9.6 s of CPU time in the first 85 seconds, 4.4 s so."""


def run(settings: Settings, *, events: int, seed: int, keep: bool) -> int:
    """Play it from nothing; 0 if every offset is accounted for and the layers agree, else 1. With `keep` broker and lake stay."""
    home = Path(settings.devservices.home) / "demo"
    kafka.stop(home / "kafka")
    shutil.rmtree(home, ignore_errors=True)
    with _broker(home / "kafka", keep=keep) as bootstrap:
        here = _settings(settings, bootstrap, home / "lake", events)
        with console.counted(f"generating {events:,} events", events) as progress:
            generate.generate(
                bootstrap,
                here.kafka.topics,
                events=events,
                seed=seed,
                late=0.02,
                malformed=0.01,
                hours=HOURS,
                progress=progress,
            )
            kafka.create_topics(bootstrap, {here.kafka.topics.word_counts_output: 1})
        with console.step("starting Spark"):
            spark = session(here)
        with console.step("streaming: Kafka → the log, and Kafka → the five views, side by side"):
            _side_by_side(spark, lambda: ingest.run(here, once=True), lambda: speed.run(here, once=True))
        batch.run(here)
        report = audit.run(here)
        agreements = reconcile.run(here)
        _tell_top_customers(here)
        _tell_fates(report)
        _tell_agreement(agreements)
        if keep:
            _tell_how_to_go_on(here)
    return 0 if _agree(agreements) and not report.faults else 1


def _side_by_side(spark: SparkSession, *jobs: Callable[[], None]) -> None:
    """Run the jobs in threads of this session; the first error, or Ctrl-C, ends the streams of all, and is raised."""
    with ThreadPoolExecutor(len(jobs)) as pool:
        running = [pool.submit(inheritable_thread_target(spark)(job)) for job in jobs]
        try:
            wait(running, return_when=FIRST_EXCEPTION)
        finally:
            if not all(job.done() for job in running):
                for query in spark.streams.active:
                    query.stop()
    for job in running:
        job.result()


@contextmanager
def _broker(home: Path, *, keep: bool) -> Iterator[str]:
    with console.step("starting Kafka"):
        started = kafka.start(home, port=0)
    try:
        yield started.bootstrap_servers
    finally:
        if not keep:
            with console.step("stopping Kafka"):
                kafka.stop(home)


def _settings(settings: Settings, bootstrap: str, lake: Path, events: int) -> Settings:
    """The given settings on the demo's own broker and lake, in micro-batches small enough for events to come late."""
    return replace(
        settings,
        kafka=replace(settings.kafka, bootstrap_servers=bootstrap),
        lake=replace(settings.lake, root=str(lake)),
        speed=replace(settings.speed, max_offsets_per_trigger=max(1, events // MICRO_BATCHES)),
        spark=replace(
            settings.spark, conf={**settings.spark.conf, "spark.driver.extraJavaOptions": SHORT_SESSION}
        ),
    )


def _tell_top_customers(settings: Settings) -> None:
    columns, rows = querying.query(
        settings, "customer_hourly_spend", order_by=("hourly_spend", True), limit=10
    )
    console.write_lines(
        [
            "",
            "Who spent most in an hour (customer_hourly_spend, served: batch before the horizon, speed after)",
        ]
    )
    cells, numbers = rendering.table_cells(columns, rows)
    console.table(columns, cells, right=numbers)


def _tell_fates(report: Report) -> None:
    """The audit's accounts by topic."""
    columns = ["topic", "delivered", "in the log", "accepted", "dead", "tombstones", "distinct", "duplicates"]
    sums: dict[str, Counter[str]] = {}
    for one in report.partitions:
        sums.setdefault(one.topic, Counter()).update(
            {name: getattr(one, "raw_events" if name == "in the log" else name) for name in columns[1:]}
        )
    rows = [(topic, *(found[name] for name in columns[1:])) for topic, found in sorted(sums.items())]
    console.write_lines(["", "What became of every record"])
    cells, numbers = rendering.table_cells(columns, rows)
    console.table(columns, cells, right=numbers)
    console.write_lines(
        [*map(str, report.faults)] or ["Every offset of Kafka is accounted for, by every query that read it."]
    )


def _tell_agreement(agreements: list[Agreement]) -> None:
    columns = [
        "view",
        "rows compared",
        "equal to the cent",
        "differ by late events",
        "unexplained",
        "late events",
    ]
    rows = [
        (one.view, one.compared, one.equal, one.late, one.unexplained, one.late_events) for one in agreements
    ]
    cells, numbers = rendering.table_cells(columns, rows)
    console.write_lines(["", "Batch against speed, row by row, over what both have closed"])
    console.table(columns, cells, right=numbers)
    verdict = "agree: each difference is an event that came late" if _agree(agreements) else "DO NOT AGREE"
    console.write_lines([f"The two layers {verdict}."])


def _agree(agreements: list[Agreement]) -> bool:
    """Whether rows were compared for every view, and none differs without a cause."""
    return all(one.compared and not one.unexplained for one in agreements)


def _tell_how_to_go_on(settings: Settings) -> None:
    console.write_lines(
        [
            "",
            "Kafka is still running. Look around with",
            f"  pipeline query customer_totals --set lake.root={settings.lake.root}",
            "and start again, or end it, with `pipeline demo`.",
        ]
    )
