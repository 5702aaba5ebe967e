"""Commands that prove what the layers have made, or say what is wrong with it."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from pipeline.cli.arguments import known_views, unknown
from pipeline.cli.command import Arguments, Command

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from pipeline.settings import Settings

__all__ = ["COMMANDS"]


def _format_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--format", choices=("table", "json"), default="table", help="default: table")


def _write(columns: Sequence[str], rows: Sequence[Sequence[Any]], *, as_json: bool) -> None:
    from pipeline import console, rendering

    if as_json:
        console.write_lines(rendering.json_lines(columns, rows))
    else:
        cells, numbers = rendering.table_cells(columns, rows)
        console.table(columns, cells, right=numbers)


def _tell(job: str, step: str, name: str, error: str | None) -> None:
    """What a check has found goes to the alert channel, and later, without an error, that it is over."""
    from pipeline import alerts

    if error is None:
        alerts.over(job, step)
    else:
        alerts.report(alerts.Problem(job, step, step=step, name=name, error=error))


def _reconcile(settings: Settings, arguments: Arguments) -> int:
    views = known_views(settings, arguments.views)
    from pipeline import console, reconcile

    agreements = reconcile.run(settings, views=views, report=arguments.report)
    is_json = arguments.format == "json"
    columns = [
        "view",
        "horizon",
        *reconcile.COMPARED,
        "late_events",
        *(["unexplained_keys"] if is_json else []),
    ]
    rows = [tuple(getattr(found, name) for name in columns) for found in agreements]
    _write(columns, rows, as_json=is_json)
    for found in agreements:
        for key in found.unexplained_keys:
            console.note(f"unexplained in {found.view}: {key}")
        differ = f"{found.unexplained} of {found.compared} rows differ without a cause: "
        _tell(
            "reconcile",
            found.view,
            "Unexplained",
            differ + ", ".join(found.unexplained_keys) if found.unexplained else None,
        )
    return 1 if any(found.unexplained for found in agreements) else 0


def _reconcile_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("views", nargs="*", metavar="VIEW", help="default: all")
    parser.add_argument(
        "--report", metavar="FILE", help="the Markdown file (default: reconciliation.md in a local lake)"
    )
    _format_option(parser)


def _audit(settings: Settings, arguments: Arguments) -> int:
    from pipeline import audit, console

    report = audit.run(settings)
    is_json = arguments.format == "json"
    for name, accounts in (("partition", report.partitions), ("query", report.queries)):
        columns = [*vars(accounts[0])] if accounts else []
        faults = [report.faults_of(account) for account in accounts]
        rows = [tuple(vars(account).values()) for account in accounts]
        if is_json:
            told = [[vars(one) for one in found] for found in faults]
            rows = [(name, *row, found) for row, found in zip(rows, told, strict=True)]
            _write(["account", *columns, "faults"], rows, as_json=True)
        else:
            rows = [(*row, "NO" if found else "yes") for row, found in zip(rows, faults, strict=True)]
            _write([*columns, "adds up"], rows, as_json=False)
    for line in [*map(str, report.faults), *report.notes] or [audit.ADDS_UP]:
        console.note(line)
    _tell("audit", "accounts", "DoesNotAddUp", "\n".join(map(str, report.faults)) or None)
    return 1 if report.faults else 0


def _quality(settings: Settings, arguments: Arguments) -> int:
    from pipeline import quality

    expected = quality.expectations_of(settings)
    for name in arguments.tables:
        if name not in expected:
            raise unknown("table with expectations", name, [*expected])
    results = quality.run(settings, only=arguments.tables)
    columns = [*vars(results[0])] if results else []
    if arguments.format == "table":
        columns = [name for name in columns if name not in ("run_at", "expected")]
    rows = [tuple(getattr(result, name) for name in columns) for result in results]
    _write(columns, rows, as_json=arguments.format == "json")
    for result in results:
        error = f"expected {result.expected}; found {result.observed}" if result.outcome == "failed" else None
        _tell("quality", f"{result.table}: {result.expectation}", "ExpectationFailed", error)
    return 1 if any(result.outcome == "failed" for result in results) else 0


def _quality_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "tables", nargs="*", metavar="TABLE", help="a table or a view's batch form (default: all)"
    )
    _format_option(parser)


def _late(settings: Settings, arguments: Arguments) -> None:
    views = known_views(settings, [arguments.view] if arguments.view else [])
    from pipeline import console, evidence, rendering
    from pipeline.late import class_name

    found = evidence.lateness(settings, views=views)
    counts = [(one.view, one.events, one.events - one.not_healed, one.not_healed) for one in found]
    classes = [
        (one.view, class_name(low), count) for one in found for low, count in one.histogram.items() if count
    ]
    worst = [(one.view, *row.values()) for one in found for row in one.worst]
    columns = next((list(row) for one in found for row in one.worst), [])
    if arguments.format == "json":
        console.write_lines(
            rendering.json_lines([*vars(found[0])], [tuple(vars(one).values()) for one in found])
        )
        return
    _write(["view", "late events", "healed", "not healed"], counts, as_json=False)
    if worst:
        console.write_lines(["", "How late they came"])
        _write(["view", "behind the watermark", "events"], classes, as_json=False)
        console.write_lines(["", "The latest of each"])
        _write(["view", *columns], worst, as_json=False)


def _late_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("view", nargs="?", metavar="VIEW", help="default: all")
    _format_option(parser)


COMMANDS = [
    Command(
        "audit", "every Kafka offset accounted for; exit 1 if one is not", _audit, _format_option, is_job=True
    ),
    Command(
        "reconcile",
        "batch against speed, row by row; exit 1 if a difference has no cause",
        _reconcile,
        _reconcile_options,
        is_job=True,
        examples=("pipeline reconcile", "pipeline reconcile customer_totals --format json"),
    ),
    Command(
        "quality",
        "the batch tables against what is expected of them; exit 1 if one fails",
        _quality,
        _quality_options,
        is_job=True,
    ),
    Command(
        "late",
        "what came too late, how late, and whether batch has healed it",
        _late,
        _late_options,
        examples=("pipeline late customer_hourly_spend",),
    ),
]
