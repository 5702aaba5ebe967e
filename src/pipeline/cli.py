"""The command line: `main` is what the console script, `python -m pipeline` and every job file call.

A command is a function of the settings and its arguments, and one entry in COMMANDS. It imports what it needs when it
runs, so that `--help` and a wrong argument are answered at once, without Spark.
"""

from __future__ import annotations

import argparse
import difflib
import os
import re
import sys
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

from pipeline.errors import PipelineError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from pipeline.settings import Settings

__all__ = ["main"]

INTERRUPTED = 130
FAULT_OF_OURS = 70


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message}\n{self.format_usage().strip()}\nMore: {self.prog} --help")


Arguments = argparse.Namespace


def _no_options(_: argparse.ArgumentParser) -> None:
    pass


class Command(NamedTuple):
    """`run` returns the exit code, or None for 0; a `name` of two words is a command below another."""

    name: str
    summary: str
    run: Callable[[Settings, Arguments], int | None]
    options: Callable[[argparse.ArgumentParser], object] = _no_options


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; an error is told in one block on stderr."""
    given = list(sys.argv[1:] if argv is None else argv)
    try:
        return _run(given)
    except SystemExit as end:  # argparse after --help
        return end.code if isinstance(end.code, int) else 0
    except KeyboardInterrupt:
        return INTERRUPTED
    except Exception as error:  # noqa: BLE001  # whatever it is, the user gets a message and an exit code
        return _told(error, with_trace="--debug" in given)


def _run(given: Sequence[str]) -> int:
    _require_known_command(given)
    arguments = _parser().parse_args(given)
    # Spark's workers must run the Python that we run.
    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
    from pipeline.settings import load

    settings = load(arguments.env, arguments.overrides)
    return arguments.run(settings, arguments) or 0


def _told(error: Exception, *, with_trace: bool) -> int:
    from pipeline import console

    if with_trace:
        import traceback

        console.note("".join(traceback.format_exception(error)).rstrip())
    if isinstance(error, PipelineError):
        console.error(error.message)
        return error.exit_code
    first_line = next(iter(str(error).splitlines()), "")
    advice = "" if with_trace else "\nThe same command with --debug shows the stack trace."
    console.error(f"This is a fault of the pipeline itself: {type(error).__name__}: {first_line}{advice}")
    return FAULT_OF_OURS


# --- the commands


def _demo_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--events", type=_count, default=60_000, metavar="N", help="how many (default: 60000)"
    )
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
    from pipeline.devservices import kafka

    home = Path(settings.devservices.home) / "kafka"
    with console.step("Starting Kafka"):
        broker = kafka.start(home, settings.devservices.kafka_port)
        kafka.create_topics(broker.bootstrap_servers, _topic_partitions(settings))
    console.write_lines([f"kafka.bootstrap_servers={broker.bootstrap_servers}"])


def _down(settings: Settings, _: Arguments) -> None:
    from pathlib import Path

    from pipeline import console
    from pipeline.devservices import kafka

    with console.step("Stopping Kafka"):
        kafka.stop(Path(settings.devservices.home) / "kafka")


def _topic_partitions(settings: Settings) -> dict[str, int]:
    from pipeline.devservices.generate import PARTITIONS

    topics = settings.kafka.topics
    generated = {getattr(topics, role): partitions for role, partitions in PARTITIONS.items()}
    return {**generated, topics.word_counts_output: 1}


def _generate_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--events", type=_count, default=60_000, metavar="N", help="how many (default: 60000)"
    )
    parser.add_argument(
        "--seed", type=int, default=7, metavar="S", help="the same seed makes the same events (default: 7)"
    )
    parser.add_argument(
        "--late",
        type=_share,
        default=0.005,
        metavar="SHARE",
        help="too late for the watermark, 0 to 1 (default: 0.005)",
    )
    parser.add_argument(
        "--duplicates", type=_share, default=0.01, metavar="SHARE", help="sent twice, 0 to 1 (default: 0.01)"
    )
    parser.add_argument(
        "--malformed",
        type=_share,
        default=0.001,
        metavar="SHARE",
        help="breaking the contract, 0 to 1 (default: 0.001)",
    )
    parser.add_argument(
        "--rate", type=_positive, metavar="N", help="events a second (default: as fast as it goes)"
    )
    parser.add_argument(
        "--hours",
        type=_positive,
        default=6.0,
        metavar="H",
        help="of event time they spread over (default: 6)",
    )


def _generate(settings: Settings, arguments: Arguments) -> None:
    from pipeline import console
    from pipeline.devservices import generate

    with console.counted(f"Generating {arguments.events} events", arguments.events) as progress:
        sent = generate.generate(
            settings.kafka.bootstrap_servers,
            settings.kafka.topics,
            events=arguments.events,
            seed=arguments.seed,
            late=arguments.late,
            duplicates=arguments.duplicates,
            malformed=arguments.malformed,
            rate=arguments.rate,
            hours=arguments.hours,
            progress=progress,
        )
    by_topic = ", ".join(f"{count} to {topic}" for topic, count in sent.records.items())
    planted = f"{sent.late} late, {sent.duplicates} duplicates, {sent.malformed} malformed, {sent.tombstones} tombstones"
    console.write_lines([f"Sent {by_topic}; of these {planted}."])


def _once_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--once", action="store_true", help="take what is there, then exit")


def _ingest(settings: Settings, arguments: Arguments) -> None:
    from pipeline import ingest

    ingest.run(settings, once=arguments.once)


def _speed_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("views", nargs="*", metavar="VIEW", help="which views (default: all)")
    _once_option(parser)


def _speed(settings: Settings, arguments: Arguments) -> None:
    views = _known_views(arguments.views)
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
    views = _known_views(arguments.views)
    until = None if arguments.until is None else _instant(arguments.until, option="--until")
    from pipeline import batch

    batch.run(settings, views=views, until=until, source=arguments.source)


def _query_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("view", metavar="VIEW")
    parser.add_argument(
        "--layer", choices=("served", "speed", "batch"), default="served", help="default: served"
    )
    parser.add_argument("--where", metavar="SQL", help="only rows for which this SQL condition holds")
    parser.add_argument(
        "--order-by", nargs="+", metavar=("COL", "desc"), help="sort by a column, the largest first with desc"
    )
    parser.add_argument("--limit", type=_count, metavar="N", help="at most this many rows")
    parser.add_argument("--format", choices=("table", "json", "csv"), default="table", help="default: table")


def _query(settings: Settings, arguments: Arguments) -> None:
    (view,) = _known_views([arguments.view])
    order_by = _sorting(arguments.order_by)
    from pipeline import console, rendering, serving

    columns, rows = serving.query(
        settings, view, layer=arguments.layer, where=arguments.where, limit=arguments.limit, order_by=order_by
    )
    if arguments.format == "json":
        console.write_lines(rendering.json_lines(columns, rows))
    elif arguments.format == "csv":
        console.write_lines(rendering.csv_lines(columns, rows))
    else:
        cells, numbers = rendering.table_cells(columns, rows)
        console.table(columns, cells, right=numbers)


def _reconcile(settings: Settings, arguments: Arguments) -> int:
    views = _known_views(arguments.views)
    from pipeline import console, reconcile, rendering

    agreements = reconcile.run(settings, views=views)
    columns = list(reconcile.Agreement.__dataclass_fields__)
    rows = [tuple(getattr(found, name) for name in columns) for found in agreements]
    if arguments.format == "json":
        console.write_lines(rendering.json_lines(columns, rows))
    else:
        cells, numbers = rendering.table_cells(columns, rows)
        console.table(columns, cells, right=numbers)
    return 1 if any(found.unexplained for found in agreements) else 0


def _reconcile_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("views", nargs="*", metavar="VIEW", help="default: all")
    parser.add_argument("--format", choices=("table", "json"), default="table", help="default: table")


def _config_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--format",
        choices=("yaml", "json"),
        default="yaml",
        help="default: yaml, with where each value came from",
    )


def _config_show(settings: Settings, arguments: Arguments) -> None:
    from pipeline import console, rendering
    from pipeline.settings import flattened

    values = flattened(settings)
    if arguments.format == "json":
        console.write_lines(rendering.json_lines(list(values), [tuple(values.values())]))
    else:
        console.write_lines(rendering.yaml_lines(values, settings.origins))


COMMANDS: Mapping[str, Sequence[Command]] = {
    "Try it": [
        Command(
            "demo",
            "embedded Kafka, seeded events, every layer, the agreement of the two",
            _demo,
            _demo_options,
        ),
        Command("up", "start the embedded Kafka and create the topics", _up),
        Command("down", "stop the embedded Kafka", _down),
        Command(
            "generate",
            "send seeded events: out of order, late, duplicated, malformed",
            _generate,
            _generate_options,
        ),
    ],
    "Run it": [
        Command(
            "ingest", "Kafka → raw_events, order_events, product_events, dead_letters", _ingest, _once_option
        ),
        Command("speed", "the streaming views", _speed, _speed_options),
        Command("batch", "the batch views from the log, up to a horizon", _batch, _batch_options),
    ],
    "Look at it": [
        Command(
            "reconcile",
            "batch against speed, row by row; exit 1 if a difference has no cause",
            _reconcile,
            _reconcile_options,
        ),
        Command("query", "the rows of a view: served, or of one layer", _query, _query_options),
        Command(
            "config show", "every setting in force, and where it came from", _config_show, _config_options
        ),
    ],
}


# --- parsing


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="pipeline",
        usage="pipeline COMMAND [options]",
        description="Orders in Kafka become trusted Delta tables, by a speed layer and a batch layer that agree.",
        epilog=_overview(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    commands = parser.add_subparsers(
        dest="command", prog="pipeline", metavar="COMMAND", required=True, help=argparse.SUPPRESS
    )
    groups: dict[str, Any] = {}
    for command in _all_commands():
        first, _, second = command.name.partition(" ")
        if second and first not in groups:
            group = commands.add_parser(first, help=f"{first} {second}", allow_abbrev=False)
            groups[first] = group.add_subparsers(dest="subcommand", metavar="COMMAND", required=True)
        _add_command(groups[first] if second else commands, second or first, command)
    return parser


def _add_command(commands: Any, name: str, command: Command) -> None:
    parser = commands.add_parser(name, help=command.summary, description=command.summary, allow_abbrev=False)
    command.options(parser)
    common = parser.add_argument_group("for every command")
    common.add_argument(
        "--env", metavar="NAME", help="take conf/NAME.yml over conf/base.yml (default: PIPELINE_ENV)"
    )
    common.add_argument(
        "--set",
        dest="overrides",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="change one setting; repeatable",
    )
    common.add_argument("--debug", action="store_true", help="show the stack trace of an error")
    parser.set_defaults(run=command.run)


def _all_commands() -> list[Command]:
    return [command for group in COMMANDS.values() for command in group]


def _overview() -> str:
    blocks = (
        "\n".join([f"{title}:", *(f"  {command.name:<14}{command.summary}" for command in group)])
        for title, group in COMMANDS.items()
    )
    return "\n\n".join(blocks) + "\n\nWhat a command takes: pipeline COMMAND --help"


def _require_known_command(given: Sequence[str]) -> None:
    if not given:
        raise UsageError(f"Which command?\n\n{_overview()}")
    known = sorted({command.name.partition(" ")[0] for command in _all_commands()})
    if not given[0].startswith("-") and given[0] not in known:
        raise _unknown("command", given[0], known)


def _unknown(kind: str, name: str, known: Sequence[str]) -> UsageError:
    nearest = next(iter(difflib.get_close_matches(name, known, n=1)), None)
    meant = f" Did you mean {nearest}?" if nearest else ""
    return UsageError(f"There is no {kind} {name!r}.{meant}\nThere are: {', '.join(known)}.", nearest=nearest)


def _known_views(names: Sequence[str]) -> list[str]:
    """`names` without repetitions; UsageError at the first one that is no view."""
    if not names:
        return []
    from pipeline.views import NAMES

    for name in names:
        if name not in NAMES:
            raise _unknown("view", name, sorted(NAMES))
    return list(dict.fromkeys(names))


def _sorting(words: Sequence[str] | None) -> tuple[str, bool] | None:
    """`COL` or `COL desc`, also where both came as one word in quotes, as (column, is descending)."""
    if words is None:
        return None
    column, *direction = " ".join(words).split()
    if [word.lower() for word in direction] not in ([], ["asc"], ["desc"]):
        raise UsageError(f"--order-by takes one column and perhaps desc; came {' '.join(words)!r}.")
    return column, [word.lower() for word in direction] == ["desc"]


INSTANT = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d)(?::(\d\d)(?:\.(\d{1,6}))?)?(Z|[+-]\d\d:\d\d)")


def _instant(text: str, *, option: str) -> datetime:
    """The instant in UTC; UsageError unless `text` is ISO-8601 with an offset."""
    match = INSTANT.fullmatch(text)
    try:
        if match is None:
            raise ValueError("an offset is required")
        minute, second, fraction, offset = match.groups()
        # Python 3.10 reads neither Z nor fractions of other than 3 or 6 digits.
        written = f"{minute}:{second or '00'}.{(fraction or '').ljust(6, '0')}{'+00:00' if offset == 'Z' else offset}"
        return datetime.fromisoformat(written).astimezone(timezone.utc)
    except (ValueError, OverflowError) as error:
        raise UsageError(
            f"{option} takes YYYY-MM-DDThh:mm:ss with Z or an offset (2026-03-01T12:00:00Z, 2026-03-01T13:00:00+01:00); "
            f"came {text!r}: {error}."
        ) from None


def _count(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,18}", text) or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number from 1 on, came {text!r}")
    return int(text)


def _share(text: str) -> float:
    number = _number(text)
    if not 0 <= number <= 1:
        raise argparse.ArgumentTypeError(f"expected a share from 0 to 1, came {text!r}")
    return number


def _positive(text: str) -> float:
    number = _number(text)
    if not number > 0:
        raise argparse.ArgumentTypeError(f"expected a number over 0, came {text!r}")
    return number


def _number(text: str) -> float:
    if not re.fullmatch(r"\d+(\.\d*)?|\.\d+", text):
        raise argparse.ArgumentTypeError(f"expected a number, came {text!r}")
    return float(text)
