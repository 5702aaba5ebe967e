"""The whole pipeline on one machine: a broker, seeded events, every layer, and the agreement of the two."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from pyspark.sql import SparkSession
from pyspark.sql import functions as F
from pyspark.util import inheritable_thread_target

from pipeline import batch, console, ingest, querying, reconcile, rendering, speed
from pipeline.contracts import ORDER_IDENTITY
from pipeline.devservices import generate, kafka
from pipeline.reconcile import Agreement
from pipeline.session import session
from pipeline.settings import Settings
from pipeline.tables import BATCH_LEDGER, ORDER_EVENTS, table_path

__all__ = ["run"]

HOURS = 36
MICRO_BATCHES = 3
SHORT_SESSION = "-Duser.timezone=UTC -XX:TieredStopAtLevel=1 -XX:ReservedCodeCacheSize=384m -XX:+UseSerialGC"
"""In a session of minutes the optimizing compiler takes half of all CPU time and does not earn it back. Without it the
JVM's code cache is 48 MB by default; once that is full, nothing is compiled any more."""


def run(settings: Settings, *, events: int, seed: int, keep: bool) -> int:
    """Play it from nothing; 0 if the layers agree, else 1. With `keep` broker and lake stay for a look around."""
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
        agreements = reconcile.run(here)
        _tell_top_customers(here)
        _tell_fates(spark, here)
        _tell_agreement(agreements)
        if keep:
            _tell_how_to_go_on(here)
    return 0 if _agree(agreements) else 1


def _side_by_side(spark: SparkSession, *jobs: Callable[[], None]) -> None:
    """Run the jobs in threads of this session; the first error is raised when all have ended."""
    with ThreadPoolExecutor(len(jobs)) as pool:
        running = [pool.submit(inheritable_thread_target(spark)(job)) for job in jobs]
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


def _tell_fates(spark: SparkSession, settings: Settings) -> None:
    """How many records met which fate, by topic, from the ledger; duplicates of orders from the log."""
    ledger = spark.read.format("delta").load(table_path(settings.lake.root, BATCH_LEDGER))
    fates = (
        ledger.where(F.col("query") == ingest.QUERY)
        .groupBy("topic")
        .agg(
            F.sum(F.col("end_offset") - F.col("first_offset")).alias("delivered"),
            *[F.sum(name).alias(name) for name in ("accepted", "dead", "tombstones")],
        )
        .orderBy("topic")
    )
    orders = spark.read.format("delta").load(table_path(settings.lake.root, ORDER_EVENTS))
    duplicates = orders.count() - orders.select(*ORDER_IDENTITY).distinct().count()
    cells, numbers = rendering.table_cells(fates.columns, [tuple(row) for row in fates.collect()])
    console.write_lines(
        [
            "",
            f"What became of every record (of the accepted orders {duplicates:,} are duplicates, counted once)",
        ]
    )
    console.table(fates.columns, cells, right=numbers)


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
