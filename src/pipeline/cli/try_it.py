"""Commands to try the pipeline on one machine."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from pipeline.cli.arguments import count, positive, share
from pipeline.cli.command import Arguments, Command

if TYPE_CHECKING:
    from pipeline.settings import Settings

__all__ = ["COMMANDS"]


def _demo_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--events", type=count, default=60_000, metavar="N", help="how many (default: 60000)")
    parser.add_argument(
        "--seed", type=int, default=7, metavar="S", help="the same seed makes the same events (default: 7)"
    )
    parser.add_argument(
        "--keep", action="store_true", help="leave the broker and the tables as they are at the end"
    )


def _demo(settings: Settings, arguments: Arguments) -> int | None:
    from pipeline import demo

    return demo.run(settings, events=arguments.events, seed=arguments.seed, keep=arguments.keep)


def _up(settings: Settings, _: Arguments) -> None:
    from pathlib import Path

    from pipeline import console
    from pipeline.devservices import kafka, postgres, shop

    home = Path(settings.devservices.home)
    with console.step("Starting Kafka"):
        broker = kafka.start(home / "kafka", settings.devservices.kafka_port)
        kafka.create_topics(broker.bootstrap_servers, _topic_partitions(settings))
    with console.step("Starting Postgres"):
        server = postgres.start(home / "postgres", settings.devservices.postgres_port)
        shop.seed(server.url(postgres.SHOP), orders=shop.ORDERS, seed=7)
    console.write_lines(
        [
            f"kafka.bootstrap_servers={broker.bootstrap_servers}",
            f"postgres.source_url={server.url(postgres.SHOP)}",
            f"postgres.warehouse_url={server.url(postgres.WAREHOUSE)}",
        ]
    )


def _down(settings: Settings, _: Arguments) -> None:
    from pathlib import Path

    from pipeline import console
    from pipeline.devservices import DEMO, kafka, postgres

    home = Path(settings.devservices.home)
    homes = (home, home / DEMO)
    with console.step("Stopping Postgres"):
        for one in homes:
            postgres.stop(one / "postgres")
    with console.step("Stopping Kafka"):
        for one in homes:
            kafka.stop(one / "kafka")


def _topic_partitions(settings: Settings) -> dict[str, int]:
    from pipeline.devservices.generate import PARTITIONS
    from pipeline.sources import kind_of_topic

    topics = settings.kafka.topics
    generated = {getattr(topics, role): partitions for role, partitions in PARTITIONS.items()}
    return {**dict.fromkeys(kind_of_topic(settings), 1), **generated, topics.word_counts_output: 1}


def _generate_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--events", type=count, default=60_000, metavar="N", help="how many (default: 60000)")
    parser.add_argument(
        "--seed", type=int, default=7, metavar="S", help="the same seed makes the same events (default: 7)"
    )
    parser.add_argument(
        "--late",
        type=share,
        default=0.005,
        metavar="SHARE",
        help="too late for the watermark, 0 to 1 (default: 0.005)",
    )
    parser.add_argument(
        "--duplicates", type=share, default=0.01, metavar="SHARE", help="sent twice, 0 to 1 (default: 0.01)"
    )
    parser.add_argument(
        "--malformed",
        type=share,
        default=0.001,
        metavar="SHARE",
        help="breaking the contract, 0 to 1 (default: 0.001)",
    )
    parser.add_argument(
        "--hot",
        type=share,
        metavar="SHARE",
        help="of all orders, those of the best customer, 0 to 1 (default: a seventh or so, by Zipf's law)",
    )
    parser.add_argument(
        "--rate", type=positive, metavar="N", help="events a second (default: as fast as it goes)"
    )
    parser.add_argument(
        "--hours",
        type=positive,
        default=6.0,
        metavar="H",
        help="of event time they spread over (default: 6)",
    )


def _generate(settings: Settings, arguments: Arguments) -> None:
    from pipeline import console
    from pipeline.devservices import generate
    from pipeline.kafka_login import client_options
    from pipeline.sources import kafka_options

    login = client_options(kafka_options(settings))
    with console.counted(f"Generating {arguments.events} events", arguments.events) as progress:
        sent = generate.generate(
            settings.kafka.bootstrap_servers,
            settings.kafka.topics,
            events=arguments.events,
            seed=arguments.seed,
            late=arguments.late,
            duplicates=arguments.duplicates,
            malformed=arguments.malformed,
            hot=arguments.hot,
            rate=arguments.rate,
            hours=arguments.hours,
            login=login,
            progress=progress,
        )
    by_topic = ", ".join(f"{count} to {topic}" for topic, count in sent.records.items())
    planted = f"{sent.late} late, {sent.duplicates} duplicates, {sent.malformed} malformed, {sent.tombstones} tombstones"
    console.write_lines([f"Sent {by_topic}; of these {planted}."])


COMMANDS = [
    Command(
        "demo",
        "Kafka, Postgres, seeded events, every layer, and the agreement of the two",
        _demo,
        _demo_options,
        examples=("pipeline demo", "pipeline demo --keep --events 20000"),
    ),
    Command("up", "start the embedded Kafka and Postgres, with topics and a seeded shop", _up),
    Command("down", "stop the embedded Kafka and Postgres, the demo's, too; their data stays", _down),
    Command(
        "generate",
        "send seeded events: out of order, late, duplicated, malformed",
        _generate,
        _generate_options,
        examples=("pipeline generate --events 20000 --late 0.02", "pipeline generate --rate 100"),
    ),
]
