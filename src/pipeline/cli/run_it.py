"""Commands that run the layers."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from pipeline.cli.arguments import instant, known_views
from pipeline.cli.command import Arguments, Command

if TYPE_CHECKING:
    from pipeline.settings import Settings

__all__ = ["COMMANDS"]


def _once_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--once", action="store_true", help="take what is there, then exit")


def _ingest(settings: Settings, arguments: Arguments) -> None:
    from pipeline import ingest

    ingest.run(settings, once=arguments.once)


def _speed_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("views", nargs="*", metavar="VIEW", help="which views (default: all)")
    _once_option(parser)


def _speed(settings: Settings, arguments: Arguments) -> None:
    views = known_views(arguments.views)
    from pipeline import speed

    speed.run(settings, views=views, once=arguments.once)


def _batch_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("views", nargs="*", metavar="VIEW", help="which views (default: all)")
    parser.add_argument(
        "--until",
        metavar="T",
        help="the horizon, such as 2026-03-01T12:00:00Z (default: the newest event time in the log minus 10 minutes)",
    )
    parser.add_argument(
        "--from", dest="source", choices=("typed", "raw"), default="typed",
        help="the accepted events as they were typed (default), or decoded again from the raw bytes",
    )  # fmt: skip


def _batch(settings: Settings, arguments: Arguments) -> None:
    views = known_views(arguments.views)
    until = None if arguments.until is None else instant(arguments.until, option="--until")
    from pipeline import batch

    batch.run(settings, views=views, until=until, source=arguments.source)


COMMANDS = [
    Command(
        "ingest", "Kafka → raw_events, order_events, product_events, dead_letters", _ingest, _once_option
    ),
    Command("speed", "the streaming views", _speed, _speed_options),
    Command("batch", "the batch views from the log, up to a horizon", _batch, _batch_options),
]
