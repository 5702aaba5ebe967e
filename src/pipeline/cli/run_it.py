"""Commands that run the layers."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from pipeline.cli.arguments import known_views, positive, unknown
from pipeline.cli.command import Arguments, Command
from pipeline.errors import CheckFailed, UsageError
from pipeline.instants import instant

if TYPE_CHECKING:
    from pipeline.settings import Settings

__all__ = ["COMMANDS"]


def _once_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--once", action="store_true", help="take what is there, then exit")


def _ingest_options(parser: argparse.ArgumentParser) -> None:
    _once_option(parser)
    parser.add_argument(
        "--skip", metavar="TOPIC:PARTITION:OFFSET", help="first go past this record, which Spark cannot read"
    )
    parser.add_argument("--reason", metavar="TEXT", help="why; kept in skipped_records with --skip")


def _ingest(settings: Settings, arguments: Arguments) -> None:
    if (arguments.skip is None) != (arguments.reason is None):
        raise UsageError("--skip and --reason go together: a record is not left out without a reason.")
    from pipeline import ingest

    if arguments.skip is not None:
        from pipeline import skipping

        skipping.run(settings, skipping.Address.of(arguments.skip), reason=arguments.reason)
    ingest.run(settings, once=arguments.once)


def _speed_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("views", nargs="*", metavar="VIEW", help="which views (default: all)")
    _once_option(parser)


def _speed(settings: Settings, arguments: Arguments) -> None:
    views = known_views(settings, arguments.views)
    from pipeline import speed

    speed.run(settings, views=views, once=arguments.once)


def _run_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("views", nargs="*", metavar="VIEW", help="which views beside ingest (default: all)")
    _once_option(parser)


def _run(settings: Settings, arguments: Arguments) -> None:
    views = known_views(settings, arguments.views)
    from pipeline import single_process

    single_process.run(settings, views=views, once=arguments.once)


def _batch_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("views", nargs="*", metavar="VIEW", help="which views (default: all)")
    parser.add_argument(
        "--until",
        metavar="T",
        help="the horizon, such as 2026-03-01T12:00:00Z (default: the newest event time in the log that is not ahead of the clock, minus 10 minutes)",
    )
    parser.add_argument(
        "--from", dest="source", choices=("typed", "raw"), default="typed",
        help="the accepted events as they were typed (default), or decoded again from the raw bytes",
    )  # fmt: skip
    how = parser.add_mutually_exclusive_group()
    how.add_argument(
        "--shadow",
        action="store_true",
        help="into a version beside the live one, which readers do not see yet",
    )
    how.add_argument(
        "--incremental",
        action="store_true",
        help="leave the rows that no event since the last run can have changed",
    )


def _batch(settings: Settings, arguments: Arguments) -> None:
    views = known_views(settings, arguments.views)
    until = None if arguments.until is None else instant(arguments.until, option="--until")
    if arguments.incremental and arguments.source == "raw":
        raise UsageError(
            "--incremental goes by the times of the accepted events, and raw bytes have none before they are decoded. "
            "Leave one of --incremental and --from raw out."
        )
    from pipeline import batch

    if arguments.shadow:
        from pipeline import promotion

        until = batch.horizon(settings, until)  # refused, if at all, before a version is begun
        beside = promotion.batch_beside(settings, views)
        batch.publish(settings, beside, until=until, source=arguments.source)
    else:
        batch.run(
            settings,
            views=views,
            until=until,
            source=arguments.source,
            incremental=arguments.incremental,
        )


def _etl_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--step",
        choices=("extract", "transform", "load", "analyze"),
        help="only this step, for a scheduler that calls them one by one (default: all, in this order)",
    )


def _etl(settings: Settings, arguments: Arguments) -> None:
    from pipeline import etl

    etl.run(settings, steps=etl.STEPS if arguments.step is None else (arguments.step,))


def _elt_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--select", nargs="+", default=[], metavar="SELECTOR",
        help="which models, in dbt's way: fact_orders, +fact_orders, marts (default: all)",
    )  # fmt: skip
    parser.add_argument(
        "--full-refresh", action="store_true", help="make incremental models anew from all orders"
    )
    parser.add_argument("--docs", metavar="FOLDER", help="also write dbt's documentation into this folder")


def _elt(settings: Settings, arguments: Arguments) -> None:
    from pathlib import Path

    from pipeline import elt

    docs = None if arguments.docs is None else Path(arguments.docs).expanduser()
    elt.run(settings, select=arguments.select, full_refresh=arguments.full_refresh, docs=docs)


def _stop_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "queries", nargs="*", metavar="QUERY", help="a view, or ingest (default: all that run on this lake)"
    )
    parser.add_argument(
        "--timeout", type=positive, default=60.0, metavar="SECONDS", help="how long to wait (default: 60)"
    )


def _stop(settings: Settings, arguments: Arguments) -> int:
    from pipeline import console, ingest, stopping, versions
    from pipeline.tables import local_path

    spark = None
    if local_path(settings.lake.root) is None:
        from pipeline.starting import session

        spark = session(settings)
    root = settings.lake.root
    live = versions.live_views(spark, settings)
    known = {"ingest": ingest.QUERY, **{name: view.query for name, view in live.items()}}
    running = stopping.running_queries(root, spark=spark)
    for name in arguments.queries:
        if name not in known and name not in (*known.values(), *running):
            raise unknown("query", name, sorted(known))
    asked = [known.get(name, name) for name in arguments.queries]
    stopped = [query for query in running if not asked or query in asked]
    if not stopped:
        console.write_lines([f"{'None of these' if asked else 'No query'} is running on the lake {root}."])
        return 0
    left = stopping.stop_queries(root, stopped, timeout_seconds=arguments.timeout, spark=spark)
    console.write_lines([f"stopped: {query}" for query in stopped if query not in left])
    if left:
        raise CheckFailed(
            f"Still running after {arguments.timeout:.0f} s: {', '.join(left)}. They end with their batch, unless their "
            "process hangs: then end that by a second signal. Nothing is lost by either."
        )
    return 0


COMMANDS = [
    Command(
        "ingest",
        "Kafka → raw_events, order_events, product_events, dead_letters",
        _ingest,
        _ingest_options,
        is_job=True,
        examples=(
            "pipeline ingest --once",
            'pipeline ingest --skip orders:0:12 --reason "written in nanoseconds"',
        ),
    ),
    Command(
        "speed",
        "the streaming views",
        _speed,
        _speed_options,
        is_job=True,
        examples=("pipeline speed", "pipeline speed customer_hourly_spend word_counts --once"),
    ),
    Command(
        "run",
        "ingest and the streaming views, in one process",
        _run,
        _run_options,
        is_job=True,
        examples=("pipeline run", "pipeline run customer_hourly_spend", "pipeline run --once"),
    ),
    Command(
        "stop",
        "end streaming queries after their running batch",
        _stop,
        _stop_options,
        examples=("pipeline stop", "pipeline stop ingest customer_totals"),
    ),
    Command(
        "batch",
        "the batch views from the log, up to a horizon",
        _batch,
        _batch_options,
        is_job=True,
        examples=(
            "pipeline batch",
            "pipeline batch customer_hourly_spend --until 2026-03-01T12:00:00Z --from raw",
            "pipeline batch --incremental",
        ),
    ),
    Command(
        "etl-orders", "the shop in Postgres → raw tables and fact_orders", _etl, _etl_options, is_job=True
    ),
    Command(
        "elt",
        "the dbt models over the shop's raw tables, and their tests",
        _elt,
        _elt_options,
        is_job=True,
        examples=("pipeline elt", "pipeline elt --select +fact_orders --docs models"),
    ),
]
