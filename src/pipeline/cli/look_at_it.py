"""Commands that show what the layers have made."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.cli import status
from pipeline.cli.arguments import count, known_views, sorting
from pipeline.cli.command import Arguments, Command
from pipeline.errors import UsageError
from pipeline.instants import instant

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

    from pipeline.settings import Settings

__all__ = ["COMMANDS"]


def _query_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "view", metavar="VIEW", help="such as customer_hourly_spend; `pipeline status` names all"
    )
    parser.add_argument(
        "--layer", choices=("served", "speed", "batch"), default="served", help="default: served"
    )
    parser.add_argument("--where", metavar="SQL", help="only rows for which this SQL condition holds")
    parser.add_argument(
        "--order-by", nargs="+", metavar=("COL", "desc"), help="sort by a column, the largest first with desc"
    )
    parser.add_argument(
        "--as-of",
        metavar="T",
        help="as it was then, such as 2026-03-01T12:00:00Z: all tables and the horizon",
    )
    parser.add_argument(
        "--changed-between",
        nargs=2,
        metavar=("T1", "T2"),
        help="instead: the served rows that differ between two moments, before and after, and how many events caused it",
    )
    parser.add_argument("--limit", type=count, metavar="N", help="at most this many rows")
    parser.add_argument("--format", choices=("table", "json", "csv"), default="table", help="default: table")


def _query(settings: Settings, arguments: Arguments) -> None:
    (view,) = known_views(settings, [arguments.view])
    if arguments.changed_between is not None:
        _changed(settings, view, arguments)
        return
    order_by = sorting(arguments.order_by)
    as_of = None if arguments.as_of is None else instant(arguments.as_of, option="--as-of")
    from pipeline import console, querying, rendering

    columns, rows = querying.query(
        settings,
        view,
        layer=arguments.layer,
        where=arguments.where,
        limit=arguments.limit,
        order_by=order_by,
        as_of=as_of,
    )
    if arguments.format == "json":
        console.write_lines(rendering.json_lines(columns, rows))
    elif arguments.format == "csv":
        console.write_lines(rendering.csv_lines(columns, rows))
    else:
        cells, numbers = rendering.table_cells(columns, rows)
        console.table(columns, cells, right=numbers)


def _changed(settings: Settings, name: str, arguments: Arguments) -> None:
    """Rows that changed, by key. Raises UsageError where another choice of rows is made at the same time."""
    if arguments.where or arguments.order_by or arguments.as_of or arguments.layer != "served":
        raise UsageError("--changed-between goes with --limit and --format only.")
    first, second = (instant(text, option="--changed-between") for text in arguments.changed_between)
    from pipeline import catalog, changes, console, rendering
    from pipeline.starting import session

    view = catalog.views(settings)[name]
    found = changes.changed_rows(session(settings), settings, view, first, second).orderBy(*view.keys)
    rows = (found if arguments.limit is None else found.limit(arguments.limit)).toLocalIterator()
    columns = [*view.keys, "before", "after", "causes"]
    if arguments.format == "json":
        console.write_lines(rendering.json_lines(columns, map(tuple, rows)))
        return
    told = [
        (*row[: len(view.keys)], _difference(row["before"], row["after"]), _causes(row["causes"]))
        for row in rows
    ]
    columns = [*view.keys, "change", "because of"]
    if arguments.format == "csv":
        console.write_lines(rendering.csv_lines(columns, told))
    else:
        cells, numbers = rendering.table_cells(columns, told)
        console.table(columns, cells, right=numbers)


def _difference(before: Any, after: Any) -> str:
    """Such as `hourly_spend 1.00 → 2.50`, of the values that differ; of a row that came or went only one side."""
    from pipeline import rendering

    names = (after or before).asDict()
    sides = [{} if row is None else row.asDict() for row in (before, after)]
    texts = [rendering.table_cells([*names], [[side.get(name) for name in names]])[0][0] for side in sides]
    return ", ".join(
        f"{name} {then} → {now}".replace("  ", " ")
        for name, then, now in zip(names, *texts, strict=True)
        if then != now
    )


def _causes(causes: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {cause}" for cause, count in causes.items()) or "unexplained"


def _report_options(parser: argparse.ArgumentParser) -> None:
    parser.description = "Write one HTML page about the lake, with pictures and tables in it; it needs no network and starts no Spark."
    parser.add_argument(
        "--output", type=Path, metavar="FILE", help="the page (default: report.html in the lake)"
    )
    parser.add_argument("--pictures", type=Path, metavar="FOLDER", help="put the pictures there too, as PNG")


def _report(settings: Settings, arguments: Arguments) -> None:
    from pipeline import console, report

    with console.step("report"):
        page = report.write(settings, output=arguments.output, pictures=arguments.pictures)
    console.write_lines([str(page)])


def _serve(settings: Settings, _: Arguments) -> None:
    from pipeline import service

    service.run(settings)


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


def _config_reference(_: Settings, __: Arguments) -> None:
    from pipeline import console, reference

    console.write_lines(reference.lines())


def _state_list_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("views", nargs="*", metavar="VIEW", help="default: all")
    _format_option(parser)


def _state_list(settings: Settings, arguments: Arguments) -> None:
    views = known_views(settings, arguments.views)
    from pipeline import kept_state

    _write([*kept_state.Store.__annotations__], kept_state.stores(settings, views=views), arguments.format)


def _state_show_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("view", metavar="VIEW")
    parser.add_argument("--key", required=True, metavar="K", help="a customer, an order, a product, a word")
    _format_option(parser)


def _state_show(settings: Settings, arguments: Arguments) -> None:
    (view,) = known_views(settings, [arguments.view])
    from pipeline import kept_state

    found = kept_state.entries(settings, view, key=arguments.key)
    _write([*kept_state.Entry.__annotations__], found, arguments.format)


def _format_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--format", choices=("table", "json"), default="table", help="default: table")


def _write(columns: Sequence[str], found: Sequence[object], form: str) -> None:
    from pipeline import console, rendering

    rows = [tuple(vars(one).values()) for one in found]
    if form == "json":
        console.write_lines(rendering.json_lines(columns, rows))
    else:
        cells, numbers = rendering.table_cells(columns, rows)
        console.table(columns, cells, right=numbers)


COMMANDS = [
    status.COMMAND,
    Command(
        "query",
        "the rows of a view: served, or of one layer",
        _query,
        _query_options,
        examples=(
            "pipeline query customer_hourly_spend --order-by hourly_spend desc --limit 10",
            "pipeline query enriched_orders --where \"order_id = 'o-1'\" --layer batch --format json",
            "pipeline query customer_totals --as-of 2026-03-01T12:00:00Z",
        ),
    ),
    Command("state list", "what each step of the views' queries keeps", _state_list, _state_list_options),
    Command(
        "state show",
        "what a view's query keeps for a key",
        _state_show,
        _state_show_options,
        examples=("pipeline state show customer_totals --key c-00000",),
    ),
    Command(
        "report",
        "one HTML page about the lake: its numbers and pictures",
        _report,
        _report_options,
        examples=("pipeline report --output orders.html --pictures pictures",),
    ),
    Command("serve", "the views over HTTP, and a live page of the report, until stopped", _serve),
    Command("config show", "every setting in force, and where it came from", _config_show, _config_options),
    Command("config reference", "every setting there is, as a page in Markdown", _config_reference),
]
