"""Commands for the rejected records: look at them, fix them, replay them, or let them lie."""

from __future__ import annotations

import argparse
import getpass
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.cli.arguments import count
from pipeline.cli.command import Arguments, Command
from pipeline.errors import UsageError
from pipeline.transforms.patches import BULK_REPAIRS, Patch, bulk_patch, merge_patch, value_patch

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from datetime import datetime

    from pipeline.dead_letters import Address, Letter, Outcome
    from pipeline.settings import Settings

__all__ = ["COMMANDS"]

_STATUSES = ("dead", "fixed", "repaired", "discarded")
_MOST_SHOWN = 10_000
"""Characters of a value; --raw and --format json have all of it."""


def _address_option(parser: argparse.ArgumentParser, *, nargs: str) -> None:
    parser.add_argument(
        "addresses", nargs=nargs, metavar="ADDRESS", help="topic:partition:offset, or these three as words"
    )


def _format_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--format", choices=("table", "json"), default="table", help="default: table")


def _who_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--author", metavar="NAME", help="who decides (default: the user of the system)")
    parser.add_argument("--reason", metavar="TEXT", required=True, help="why; kept with the decision")


def _dry_run_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--dry-run", action="store_true", help="say how many would pass, and write nothing")


def _list_options(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "The dead letters by topic and violation, the most frequent first; one with two violations is in two groups. "
        "Their keys and values are customers' data and not in the list: `show` has them."
    )
    parser.add_argument("--topic", metavar="NAME", help="only of this topic")
    parser.add_argument("--violation", metavar="NAME", help="only with this violation")
    parser.add_argument("--status", choices=_STATUSES, help="only those of which this has been decided")
    parser.add_argument("--each", action="store_true", help="the letters one by one, by address")
    parser.add_argument("--limit", type=count, metavar="N", help="at most this many rows")
    _format_option(parser)


def _list(settings: Settings, arguments: Arguments) -> None:
    from pipeline import console, dead_letters, rendering

    listed = dead_letters.letters if arguments.each else dead_letters.groups
    columns, rows = listed(
        settings,
        topic=arguments.topic,
        violation=arguments.violation,
        status=arguments.status,
        limit=arguments.limit,
    )
    if arguments.format == "json":
        console.write_lines(rendering.json_lines(columns, rows))
    else:
        cells, numbers = rendering.table_cells(columns, rows)
        console.table(columns, cells, right=numbers)


def _show_options(parser: argparse.ArgumentParser) -> None:
    _address_option(parser, nargs="+")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--raw", action="store_true", help="only the bytes of the value, as they came")
    form.add_argument("--format", choices=("text", "json"), default="text", help="default: text")


def _show(settings: Settings, arguments: Arguments) -> None:
    addresses = _addresses(arguments.addresses)
    if len(addresses) != 1:
        raise UsageError(f"show takes one address; came {len(addresses)}.")
    from pipeline import console, dead_letters, rendering

    letter = dead_letters.show(settings, addresses[0])
    if arguments.raw:
        console.write_bytes(letter.value)
    elif arguments.format == "json":
        values = _values(letter)
        console.write_lines(rendering.json_lines([*values], [(*values.values(),)]))
    else:
        console.write_lines(_lines(letter))


def _fix_options(parser: argparse.ArgumentParser) -> None:
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.description = (
        "Keep a patch for dead letters, beside their originals; `replay` applies it. A patch for named letters is kept\n"
        "whether they would pass or not, and takes the place of the one before (exit 1 if one would not pass). Without\n"
        "addresses, a bulk repair takes every letter that nothing has been decided on, and keeps those that pass."
    )
    _address_option(parser, nargs="*")
    patch = parser.add_mutually_exclusive_group(required=True)
    patch.add_argument(
        "--patch", metavar="JSON", help="a JSON merge patch (RFC 7396): members to set, null removes one"
    )
    patch.add_argument("--value", metavar="TEXT", help="a whole new value")
    patch.add_argument(
        "--value-file", metavar="PATH", type=Path, help="a whole new value, in UTF-8, from a file"
    )
    patch.add_argument(
        "--bulk",
        action="append",
        metavar="NAME",
        help="a repair by name; repeatable, applied in the order given",
    )
    parser.add_argument("--topic", metavar="NAME", help="with --bulk: only of this topic")
    parser.add_argument("--violation", metavar="NAME", help="with --bulk: only with this violation")
    _who_options(parser)
    _dry_run_option(parser)
    _format_option(parser)
    width = max(map(len, BULK_REPAIRS))
    repairs = [f"  {name:<{width}}  {repair.description}" for name, repair in BULK_REPAIRS.items()]
    parser.epilog = "\n".join(["bulk repairs:", *repairs])


def _fix(settings: Settings, arguments: Arguments) -> int:
    addresses = _addresses(arguments.addresses)
    patch = _patch(arguments)
    if not addresses and not arguments.bulk:
        raise UsageError("fix needs the addresses of the letters (topic:partition:offset), or --bulk NAME.")
    if (addresses or not arguments.bulk) and (arguments.topic or arguments.violation):
        raise UsageError(
            "--topic and --violation choose letters for --bulk; with addresses they choose nothing."
        )
    from pipeline import dead_letters

    outcome = dead_letters.fix(
        settings,
        patch,
        addresses=addresses,
        topic=arguments.topic,
        violation=arguments.violation,
        author=_author(arguments),
        reason=_reason(arguments),
        dry_run=arguments.dry_run,
    )
    _tell(outcome, arguments, passing="would pass a replay")
    return 1 if addresses and outcome.rejected else 0


def _replay_options(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Judge the fixed letters by the contract, as of their first Kafka timestamp, and put those that pass among the "
        "accepted events under their own addresses. Exit 1 if one does not pass: it stays dead, its patch is kept."
    )
    _address_option(parser, nargs="*")
    parser.add_argument(
        "--again", action="store_true", help="also what was replayed before, for a log that was ingested anew"
    )
    _dry_run_option(parser)
    _format_option(parser)


def _replay(settings: Settings, arguments: Arguments) -> int:
    addresses = _addresses(arguments.addresses)
    from pipeline import dead_letters

    outcome = dead_letters.replay(settings, addresses, again=arguments.again, dry_run=arguments.dry_run)
    _tell(outcome, arguments, passing="would pass" if arguments.dry_run else "passed")
    return 1 if outcome.rejected else 0


def _discard_options(parser: argparse.ArgumentParser) -> None:
    _address_option(parser, nargs="+")
    _who_options(parser)


def _discard(settings: Settings, arguments: Arguments) -> None:
    addresses = _addresses(arguments.addresses)
    author, reason = _author(arguments), _reason(arguments)
    from pipeline import console, dead_letters

    dead_letters.discard(settings, addresses, author=author, reason=reason)
    console.note(f"{_letters(len(addresses))} discarded.")


def _addresses(words: Sequence[str]) -> list[Address]:
    """The addresses without repetitions, each one word (topic:partition:offset) or three."""
    waiting, found = list(words), []
    while waiting:
        word = waiting.pop(0)
        parts = word.split(":") if ":" in word else [word, *waiting[:2]]
        if ":" not in word:
            del waiting[:2]
        if len(parts) != 3 or not all(re.fullmatch(r"[0-9]{1,18}", part) for part in parts[1:]):
            raise UsageError(
                f"{' '.join(parts)!r} is no address: topic:partition:offset (orders:0:17), or the three as words."
            )
        found.append((parts[0], int(parts[1]), int(parts[2])))
    return list(dict.fromkeys(found))


def _patch(arguments: Arguments) -> Patch:
    if arguments.bulk:
        from pipeline.cli.arguments import unknown

        for name in arguments.bulk:
            if name not in BULK_REPAIRS:
                raise unknown("bulk repair", name, list(BULK_REPAIRS))
        return bulk_patch(list(dict.fromkeys(arguments.bulk)))
    if arguments.patch is not None:
        try:
            return merge_patch(arguments.patch)
        except ValueError as error:
            raise UsageError(
                f'--patch takes a JSON object, such as \'{{"status": "completed"}}\'; came {arguments.patch!r}: {error}.'
            ) from None
    return value_patch(arguments.value if arguments.value is not None else _text_of(arguments.value_file))


def _text_of(file: Path) -> str:
    try:
        return file.read_bytes().decode()
    except OSError as error:
        raise UsageError(f"--value-file {file} cannot be read: {error.strerror}.") from None
    except UnicodeDecodeError as error:
        raise UsageError(
            f"--value-file {file} is not UTF-8 (byte {error.start}), so no contract accepts it."
        ) from None


def _author(arguments: Arguments) -> str:
    return arguments.author or getpass.getuser()


def _reason(arguments: Arguments) -> str:
    if not arguments.reason.strip():
        raise UsageError("--reason is empty; say why, for whoever reads the decision later.")
    return str(arguments.reason)


def _tell(outcome: Outcome, arguments: Arguments, *, passing: str) -> None:
    from pipeline import console, rendering

    if arguments.format == "json":
        values = {
            "dry_run": arguments.dry_run,
            "passed": outcome.passed,
            "rejected": outcome.rejected,
            "not_applicable": outcome.not_applicable,
            "still_dead": [
                {"address": _name(address), "violations": broken} for address, broken in outcome.still_dead
            ],
        }
        console.write_lines(rendering.json_lines([*values], [(*values.values(),)]))
        return
    told = [f"{_letters(outcome.passed)} {passing}, {outcome.rejected} not."]
    if outcome.not_applicable:
        told.append(f"The repair does not apply to {outcome.not_applicable} more.")
    console.write_lines(told)
    if outcome.still_dead:
        rows = [[_name(address), ", ".join(broken)] for address, broken in outcome.still_dead]
        console.table(["still dead", "violations"], rows)
    if outcome.rejected > len(outcome.still_dead):
        console.write_lines([f"… and {outcome.rejected - len(outcome.still_dead)} more."])
    if arguments.dry_run:
        console.note("A dry run: nothing has been written.")


def _letters(number: int) -> str:
    return "1 letter" if number == 1 else f"{number} letters"


def _name(address: Address) -> str:
    return ":".join(map(str, address))


def _values(letter: Letter) -> dict[str, Any]:
    from pipeline.rendering import readable

    topic, partition, offset = letter.address
    repaired = letter.repaired_value
    return {
        "topic": topic,
        "partition": partition,
        "offset": offset,
        "kafka_timestamp": letter.kafka_timestamp,
        "violations": letter.violations,
        "status": letter.status,
        "key": None if letter.key is None else readable(letter.key),
        "headers": [
            {"key": key, "value": None if value is None else readable(value)} for key, value in letter.headers
        ],
        "value": readable(letter.value),
        "value_base64": letter.value,
        "decisions": letter.decisions,
        "repaired_value": None if repaired is None else readable(repaired),
        "remaining_violations": letter.remaining,
    }


def _lines(letter: Letter) -> Iterator[str]:
    from pipeline.rendering import printable

    yield f"{_name(letter.address)}  {letter.status}"
    yield f"Kafka time: {_time(letter.kafka_timestamp)}"
    yield f"violates:   {', '.join(letter.violations)}"
    yield f"key:        {_in_line(letter.key)}"
    for key, value in letter.headers:
        yield f"header:     {printable(key)} = {_in_line(value)}"
    yield f"value:      {len(letter.value)} bytes"
    yield from _indented(letter.value)
    for decision in letter.decisions:
        form = f" ({decision['patch_form']})" if decision["patch_form"] else ""
        who_and_why = printable(f"{decision['author']}: {decision['reason']}")
        yield f"{decision['status']}{form} on {_time(decision['made_at'])} by {who_and_why}"
        if decision["replayed_at"]:
            yield f"  replayed on {_time(decision['replayed_at'])}"
        if decision["patch"] is not None:
            yield f"  {printable(decision['patch'])[:_MOST_SHOWN]}"
    if letter.repaired_value is not None:
        verdict = f"still violates {', '.join(letter.remaining)}" if letter.remaining else "passes"
        yield f"under its patch, which {verdict}:"
        yield from _indented(letter.repaired_value)


def _in_line(value: bytes | None) -> str:
    from pipeline.rendering import printable, readable

    return "(none)" if value is None else printable(readable(value))[:_MOST_SHOWN]


def _indented(value: bytes) -> Iterator[str]:
    from pipeline.rendering import printable, value_lines

    shown = "\n".join(value_lines(value))
    for line in shown[:_MOST_SHOWN].split("\n"):
        yield f"  {printable(line)}"
    if len(shown) > _MOST_SHOWN:
        yield f"  … {len(shown) - _MOST_SHOWN} characters more: --raw writes them all"


def _time(instant: datetime) -> str:
    from pipeline import rendering

    ((text,),), _ = rendering.table_cells(["time"], [[instant]])
    return text


COMMANDS = [
    Command("dead-letters list", "the rejected records, by violation", _list, _list_options),
    Command("dead-letters show", "one of them: its bytes, its patch, who decided what", _show, _show_options),
    Command("dead-letters fix", "keep a patch for some of them, with author and reason", _fix, _fix_options),
    Command(
        "dead-letters replay",
        "put those that pass under their patch among the accepted",
        _replay,
        _replay_options,
    ),
    Command("dead-letters discard", "say of some that they stay dead, and why", _discard, _discard_options),
]
