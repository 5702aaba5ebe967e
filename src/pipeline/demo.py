"""The whole pipeline on one machine: seeded events and a seeded shop, every layer, and the agreement of the two."""

from __future__ import annotations

import shlex
import shutil
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from pipeline import (
    audit,
    batch,
    console,
    elt,
    etl,
    ingest,
    quality,
    querying,
    reconcile,
    rendering,
    report,
    speed,
)
from pipeline.audit import Report
from pipeline.devservices import DEMO, generate, kafka, postgres, shop
from pipeline.quality import Result
from pipeline.reconcile import Agreement
from pipeline.settings import Settings
from pipeline.starting import session

__all__ = ["run"]

HOURS = 36
LATE, MALFORMED = 0.02, 0.01
REPORT = Path("pipeline-report.html")
"""In the current folder: the lake goes with the next demo."""
MICRO_BATCHES = 3
"""The first that can find an event late is the third: it goes by the watermark that the second was given."""
SHORT_SESSION = "-Duser.timezone=UTC -XX:TieredStopAtLevel=1 -XX:ReservedCodeCacheSize=384m -XX:+UseSerialGC -Xms1g -Xmn512m -XX:MetaspaceSize=256m"
"""In a session of minutes the optimizing compiler takes half of all CPU time and does not earn it back. Without it the
JVM's code cache is 48 MB by default; once that is full, nothing is compiled any more. A heap and a metaspace that
begin small are collected each time they grow: 9.6 s of CPU time in the first 85 seconds, 4.4 s so."""


def run(settings: Settings, *, events: int, seed: int, keep: bool) -> int:
    """Play it from nothing; 0 if every offset is accounted for, the layers agree and no expectation fails, else 1.

    With `keep` Kafka, Postgres and the lake stay.
    """
    home = Path(settings.devservices.home) / DEMO
    _stop(home)
    shutil.rmtree(home, ignore_errors=True)
    with ExitStack() as at_the_end:
        if not keep:
            at_the_end.callback(_stop, home)
        here = _settings(settings, home, events)
        _fill(here, events, seed)
        session(here)
        with console.step("ingest: Kafka → the log"):
            ingest.run(here, once=True)
        with console.step("speed: the log → the five views, as streams"):
            speed.run(here, once=True)
        batch.run(here)
        accounts = audit.run(here)
        agreements = reconcile.run(here)
        etl.run(here)
        elt.run(here)
        results = quality.run(here)
        with console.step("report"):
            page = report.write(here, output=REPORT.absolute())
        _tell_top_customers(here)
        _tell_quality(results)
        _tell_fates(accounts)
        _tell_agreement(agreements)
        console.write_lines(["", f"The same in pictures: {page}"])
        if keep:
            _tell_how_to_go_on(here)
    is_good = _agree(agreements) and not accounts.faults and not _failed(results)
    return 0 if is_good else 1


def _fill(settings: Settings, events: int, seed: int) -> None:
    """Events into Kafka, orders into the shop."""
    bootstrap, topics = settings.kafka.bootstrap_servers, settings.kafka.topics
    with console.counted(f"generating {events:,} events", events) as progress:
        generate.generate(
            bootstrap,
            topics,
            events=events,
            seed=seed,
            late=LATE,
            malformed=MALFORMED,
            hours=HOURS,
            progress=progress,
        )
        kafka.create_topics(bootstrap, {topics.word_counts_output: 1})
    with console.step(f"generating a shop of {shop.ORDERS:,} orders"):
        shop.seed(settings.postgres.source_url, orders=shop.ORDERS, seed=seed)


def _stop(home: Path) -> None:
    postgres.stop(home / "postgres")
    kafka.stop(home / "kafka")


def _settings(settings: Settings, home: Path, events: int) -> Settings:
    """The given settings on the demo's own lake, Kafka and Postgres, which are started.

    The micro-batches are small enough for events to come late: a view takes one commit of ingest in each.
    """
    with console.step("starting Kafka and Postgres"):
        broker = kafka.start(home / "kafka", port=0)
        server = postgres.start(home / "postgres", port=0)
    return replace(
        settings,
        kafka=replace(settings.kafka, bootstrap_servers=broker.bootstrap_servers),
        postgres=replace(
            settings.postgres,
            source_url=server.url(postgres.SHOP),
            source_schema="public",
            warehouse_url=server.url(postgres.WAREHOUSE),
        ),
        lake=replace(settings.lake, root=str(home / "lake")),
        ingest=replace(settings.ingest, max_offsets_per_trigger=max(1, events // MICRO_BATCHES)),
        speed=replace(settings.speed, max_offsets_per_trigger=max(1, events // MICRO_BATCHES // 2)),
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


def _tell_quality(results: Sequence[Result]) -> None:
    """The expectations by table, and each that is not met."""
    outcomes = ["passed", "warned", "failed", "skipped"]
    found: dict[str, Counter[str]] = {}
    for result in results:
        found.setdefault(result.table, Counter())[result.outcome] += 1
    rows = [(table, *(counts[outcome] for outcome in outcomes)) for table, counts in found.items()]
    console.write_lines(["", "What the tables are expected to hold (quality)"])
    cells, numbers = rendering.table_cells(["table", *outcomes], rows)
    console.table(["table", *outcomes], cells, right=numbers)
    console.write_lines(
        f"{one.table}: {one.expectation}: {one.outcome}: expected {one.expected}; found {one.observed}"
        for one in results
        if one.outcome in ("warned", "failed")
    )


def _failed(results: Sequence[Result]) -> bool:
    return any(one.outcome == "failed" for one in results)


def _tell_fates(accounts: Report) -> None:
    """The audit's accounts by topic."""
    columns = ["topic", "delivered", "in the log", "accepted", "dead", "tombstones", "distinct", "duplicates"]
    sums: dict[str, Counter[str]] = {}
    for one in accounts.partitions:
        sums.setdefault(one.topic, Counter()).update(
            {name: getattr(one, "raw_events" if name == "in the log" else name) for name in columns[1:]}
        )
    rows = [(topic, *(found[name] for name in columns[1:])) for topic, found in sorted(sums.items())]
    console.write_lines(["", "What became of every record"])
    cells, numbers = rendering.table_cells(columns, rows)
    console.table(columns, cells, right=numbers)
    console.write_lines([*map(str, accounts.faults)] or [audit.ADDS_UP])


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
            "Kafka and Postgres are still running. Look around with",
            f"  export PIPELINE_LAKE__ROOT={shlex.quote(settings.lake.root)}",
            f"  export PIPELINE_KAFKA__BOOTSTRAP_SERVERS={settings.kafka.bootstrap_servers}",
            "  pipeline status",
            "  pipeline query customer_totals --order-by total_spend desc --limit 10",
            "  pipeline serve",
            "and end it with `pipeline down`.",
        ]
    )
