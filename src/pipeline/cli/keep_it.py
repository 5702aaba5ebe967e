"""Commands for what changes: what a new start would meet, what time leaves behind."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from pipeline.cli.arguments import unknown
from pipeline.cli.command import Arguments, Command
from pipeline.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import Any

    from pipeline.plan import Report
    from pipeline.settings import Settings

__all__ = ["COMMANDS"]


def _plan_options(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Compare code, configuration, checkpoints and tables before anything starts; nothing is written. Exit 1 if a start "
        "would fail, or lose something."
    )
    parser.add_argument("queries", nargs="*", metavar="QUERY", help="a view, or ingest (default: all)")
    parser.add_argument("--format", choices=("table", "json"), default="table", help="default: table")


def _plan(settings: Settings, arguments: Arguments) -> int:
    from pipeline import console, ledger, plan, versions
    from pipeline.starting import session

    live = versions.live_views(session(settings), settings)
    known = {"ingest": ledger.INGEST, **{name: view.query for name, view in live.items()}}
    for name in arguments.queries:
        if name not in known and name not in known.values():
            raise unknown("query", name, sorted(known))
    report = plan.look(settings, only=[known.get(name, name) for name in arguments.queries])
    if arguments.format == "json":
        console.write_lines(_json_lines(report))
    else:
        console.write_lines(_text_lines(report))
        for note in report.notes:
            console.note(note)
    return 1 if report.is_refused else 0


def _json_lines(report: Report) -> Iterator[str]:
    from dataclasses import asdict

    from pipeline import rendering

    parts: list[tuple[str, dict[str, Any]]] = [
        ("query", {**asdict(query), **asdict(lag)})
        for query, lag in zip(report.queries, report.catch_ups, strict=True)
    ]
    parts += [("table", asdict(table)) for table in report.tables]
    parts += [("contract", asdict(report.contract))] if report.contract else []
    parts += [("note", {"note": note}) for note in report.notes]
    for name, values in parts:
        row = {"plan": name, **values}
        yield from rendering.json_lines([*row], [(*row.values(),)])


def _text_lines(report: Report) -> Iterator[str]:
    for columns, rows in _tables(report):
        if rows:
            yield from _table(columns, rows)
            yield ""
    contract = report.contract
    if contract is not None:
        told = f"contract: {contract.verdict}"
        if contract.records is not None:
            told += (
                f"; of {contract.records} records of the last day {contract.rejected} more would be rejected, "
                f"{contract.accepted} more accepted"
            )
        yield told
        if contract.changes:
            yield from _table(
                ("rule", "then", "now", "effect"),
                [(one.rule, one.then, one.now, one.effect) for one in contract.changes],
            )


def _tables(report: Report) -> Iterator[tuple[Sequence[str], Sequence[Sequence[Any]]]]:
    queries = [
        (
            plan.query,
            plan.verdict if plan.error is None else f"{plan.verdict}: {plan.error}",
            ", ".join(plan.because),
            plan.batch_id,
            lag.lag_records,
            {True: "yes", False: "NO", None: ""}[lag.is_held],
            _whole(lag.records_per_second),
            _whole(lag.seconds),
        )
        for plan, lag in zip(report.queries, report.catch_ups, strict=True)
    ]
    yield (
        ("query", "start", "because of", "after batch", "unread", "Kafka holds it", "records/s", "seconds to catch up"),
        queries,
    )  # fmt: skip
    yield (
        ("query", "differs", "then", "now"),
        [(plan.query, *difference) for plan in report.queries for difference in plan.differences],
    )
    yield (
        ("table", "is", "has", "would have"),
        [(one.table, one.verdict, one.has, one.would_have) for one in report.tables],
    )


def _maintain_options(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Put small files together, and remove files and versions of views that nobody needs any more; safe beside running "
        "streams. How long something is kept: maintain.retention_hours."
    )
    parser.add_argument("--dry-run", action="store_true", help="say what would be done, and change nothing")
    parser.add_argument("--format", choices=("table", "json"), default="table", help="default: table")


def _maintain(settings: Settings, arguments: Arguments) -> None:
    from pipeline import console, maintain, rendering

    steps = maintain.run(settings, dry_run=arguments.dry_run)
    columns = ("action", "table", "files", "bytes", "hours", "keeps")
    rows = [tuple(getattr(one, name) for name in columns) for one in steps]
    if arguments.format == "json":
        console.write_lines(rendering.json_lines(columns, rows))
    elif rows:
        console.write_lines(_table(columns, rows))
    else:
        console.write_lines(["There is nothing to do."])


def _erase_options(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Remove a customer's records from the log and their rows from every table, stream anew the views whose state may hold "
        "them, and look whether anything is left. The shop, the warehouse and Kafka are not touched."
    )
    parser.add_argument("--customer", required=True, metavar="ID")
    parser.add_argument("--yes", action="store_true", help="do not ask")
    parser.add_argument(
        "--by-text",
        choices=("take", "leave"),
        help="what is no JSON and names the id in its text, and may be somebody else's; default: ask",
    )
    parser.add_argument("--format", choices=("table", "json"), default="table", help="default: table")


def _erase(settings: Settings, arguments: Arguments) -> int:
    if not arguments.yes and not sys.stdin.isatty():
        raise UsageError("Nobody can be asked here: say --yes to erase without a question.")
    if not arguments.customer:
        raise UsageError("--customer needs an id.")
    from pipeline import console, erase, rendering

    def takes_text(named: Sequence[erase.Named]) -> bool:
        listed = "\n".join(f"  {one.place}: {one.text[:200]!r}" for one in named)
        told = f"{len(named)} texts are no JSON and name {arguments.customer}; they may be somebody else's:\n{listed}"
        if arguments.by_text is None and (arguments.yes or not sys.stdin.isatty()):
            raise UsageError(f"{told}\nSay what becomes of them: --by-text take, or --by-text leave.")
        console.note(told)
        if arguments.by_text is not None:
            return bool(arguments.by_text == "take")
        console.note("Erase these texts, too? [y/N]")
        return sys.stdin.readline().strip().lower() in ("y", "yes")

    def is_confirmed(records: int) -> bool:
        if arguments.yes:
            return True
        console.note(
            f"Erase {records} records of {arguments.customer} and all rows made of them, for good? [y/N]"
        )
        return sys.stdin.readline().strip().lower() in ("y", "yes")

    report = erase.run(settings, arguments.customer, takes_text=takes_text, is_confirmed=is_confirmed)
    if report is None:
        console.write_lines(["Nothing has been erased."])
        return 0
    if arguments.format == "json":
        told = {
            **vars(report),
            "tables": [vars(one) for one in report.tables],
            "by_text": [one.place for one in report.by_text],
            "hits": report.hits,
        }
        console.write_lines(rendering.json_lines([*told], [tuple(told.values())]))
        return 1 if report.hits else 0
    console.write_lines(
        _table(
            ("table", "rows erased", "rows left"), [(one.table, one.rows, one.hits) for one in report.tables]
        )
    )
    rebuilt = ", ".join(f"{view} {label}" for view, label in report.rebuilt.items())
    console.write_lines(
        [
            f"{report.records} records of the log are erased; {report.hits} rows of the customer are left.",
            f"made anew: {rebuilt or 'nothing'}. Start these streams again: pipeline speed",
            f"{report.mentions} records of others, and texts, name the id, and are left.",
            f"The tables' history holds the rows until {report.history_until:%Y-%m-%dT%H:%MZ}, and until `pipeline maintain` runs then.",
            *(
                f"Kafka holds what it has of {topic} until {until:%Y-%m-%dT%H:%MZ}."
                if until
                else f"Kafka may hold records of {topic} for ever: delete them there, before ingest ever begins anew."
                for topic, until in report.kafka_until.items()
            ),
        ]
    )
    return 1 if report.hits else 0


def _whole(number: float | None) -> int | None:
    return None if number is None else round(number)


def _table(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> list[str]:
    from pipeline import console, rendering

    cells, numbers = rendering.table_cells(columns, rows)
    return console.table_lines(columns, cells, right=numbers)


COMMANDS = [
    Command(
        "plan", "what a start would meet; exit 1 if it would fail, or lose something", _plan, _plan_options
    ),
    Command(
        "maintain",
        "compact tables, remove what nobody needs any more",
        _maintain,
        _maintain_options,
        is_job=True,
    ),
    Command(
        "erase",
        "a customer out of the log, every table and state; exit 1 if a row is left",
        _erase,
        _erase_options,
    ),
]
