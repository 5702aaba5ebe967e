"""`pipeline status`: the report as text, as JSON, and again and again."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from pipeline.cli.arguments import positive
from pipeline.cli.command import Arguments, Command
from pipeline.instants import written

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime

    from pipeline.console import Styled
    from pipeline.settings import Settings
    from pipeline.standing import Standing
    from pipeline.status import Report

    Cell = str | Styled

__all__ = ["COMMAND"]

_EVERY_SECONDS = 5.0
_LONG_BATCH_SECONDS = 60.0
_MUCH_OF_RETENTION = 0.5
_MANY = 10_000_000
_WARNINGS = ("TopicCompacted", "TransactionOpen")
_UNITS = ((86_400 * 2, 86_400, "d"), (3_600 * 2, 3_600, "h"), (60 * 2, 60, "min"), (0, 1, "s"))


def _options(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "How everything stands now, by the lake and by Kafka where it answers; without Spark where the lake is on this "
        "machine. The streams need not run, and may run on another machine."
    )
    parser.add_argument(
        "--watch", nargs="?", type=positive, const=_EVERY_SECONDS, metavar="SECONDS",
        help="look again every so many seconds, until Ctrl-C (default: 5)",
    )  # fmt: skip
    parser.add_argument(
        "--check", action="store_true",
        help="judge what has a limit (alerts.max_…), tell the alert channel, and exit with 1 where one is over",
    )  # fmt: skip
    parser.add_argument("--format", choices=("table", "json"), default="table", help="default: table")


def _run(settings: Settings, arguments: Arguments) -> None:
    from pipeline import console, status

    if arguments.check:
        _check(settings)
        return

    def look() -> list[str]:
        report = status.look(settings)
        return [*(_json_lines if arguments.format == "json" else _text_lines)(report)]

    if arguments.watch is None:
        console.write_lines(look())
    else:
        console.watch(look, arguments.watch)


def _check(settings: Settings) -> None:
    """Raises CheckFailed, which names what is over its limit."""
    from pipeline import alerts, console, limits, status
    from pipeline.errors import CheckFailed

    with alerts.sending(settings):
        found = [*limits.findings(status.look(settings), settings.alerts)]
        for one in found:
            limits.tell(one)
    over = [f"{one.step}: {one.error}" for one in found if one.error]
    if over:
        raise CheckFailed("\n".join(over))
    told = "no limit is set, or nothing to judge: see alerts.max_… in `pipeline config show`"
    console.write_lines([f"within the limits: {', '.join(one.subject for one in found)}" if found else told])


def _json_lines(report: Report) -> Iterator[str]:
    from dataclasses import asdict

    from pipeline import rendering

    lake = {
        "lake": report.lake,
        "kafka": report.kafka,
        "kafka_silence": report.kafka_silence,
        "notes": [*report.notes],
    }
    parts: list[tuple[str, dict[str, Any]]] = [("lake", lake)]
    for name, found in (
        ("query", report.queries),
        ("topic", report.topics),
        ("view", report.views),
        ("table", report.tables),
        ("share", report.shares),
    ):
        parts += [(name, asdict(one)) for one in found]
    for name, values in parts:
        row = {"status": name, "at": report.at, **values}
        yield from rendering.json_lines([*row], [(*row.values(),)])


def _text_lines(report: Report) -> Iterator[str]:
    from pipeline.console import list_lines, table_lines, text_line

    kafka: Cell = (
        (f"Kafka {report.kafka} is silent", "yellow") if report.kafka_silence else f"Kafka {report.kafka}"
    )
    yield text_line((f"lake {report.lake}", "bold"))
    yield text_line(kafka, (f" · {_instant(report.at)}", "dim"))
    for columns, rows in (_queries(report), _reach(report), _topics(report), _views(report)):
        yield ""
        right = [name for name in columns[1:] if name != "is"]
        yield from table_lines(columns, rows, right=right, is_narrow=True)
    notes = [*_notes(report)]
    if notes:
        yield ""
        yield from list_lines(((mark, style), note) for mark, style, note in notes)


def _queries(report: Report) -> tuple[list[str], list[list[Cell]]]:
    columns = ["streaming query", "is", "batch", "ended", "read", "wrote", "in/s", "out/s"]
    rows: list[list[Cell]] = []
    for one in report.queries:
        ended = _span((report.at - one.batch_ended_at).total_seconds()) + " ago" if one.batch_ended_at else ""
        rows.append(
            [
                _name(one),
                _state(one),
                _count(one.batch_id),
                ended,
                _count(one.batch_records),
                _count(one.batch_rows),
                _rate(one.records_per_second),
                _rate(one.rows_per_second),
            ]
        )
    return columns, rows


def _reach(report: Report) -> tuple[list[str], list[list[Cell]]]:
    columns = ["streaming query", "unread", "oldest", "watermark", "behind", "state"]
    rows: list[list[Cell]] = []
    for one in report.queries:
        is_stuck = bool(one.lag_records) and not one.is_running
        unread = _count(one.lag_records)
        rows.append(
            [
                _name(one),
                (unread, "yellow") if is_stuck else unread,
                _span(one.lag_seconds) if one.lag_records else "",
                _instant(one.watermark),
                _span(one.watermark_behind_seconds),
                _bytes(one.state_bytes) + (f" {one.state_rows:,} rows" if one.state_rows is not None else ""),
            ]
        )
    return columns, rows


def _topics(report: Report) -> tuple[list[str], list[list[Cell]]]:
    columns = ["topic", "Kafka", "kept", "silent", "accepted", "dead", "open", "tombstones", "duplicates"]
    rows: list[list[Cell]] = []
    for one in report.topics:
        silent = (report.at - one.newest_record_at).total_seconds() if one.newest_record_at else None
        kept = (
            ""
            if one.retention_ms is None
            else "all"
            if one.retention_ms < 0
            else _span(one.retention_ms / 1000)
        )
        rows.append(
            [
                one.topic,
                _count(one.kafka_records),
                kept,
                _span(silent),
                _count(one.accepted),
                _count(one.dead),
                _count(one.dead_open),
                _count(one.tombstones),
                _count(one.duplicates),
            ]
        )
    return columns, rows


def _views(report: Report) -> tuple[list[str], list[list[Cell]]]:
    columns = ["rows of a view", "batch", "horizon", "age", "speed", "late", "open"]
    queries = {one.view: one for one in report.queries if not one.is_beside}
    rows: list[list[Cell]] = []
    for one in report.views:
        rows.append(
            [
                one.view,
                _count(one.rows),
                _instant(one.horizon),
                _span(one.age_seconds) if one.published_at else ("no batch", "dim"),
                _count(one.speed_rows),
                _count(queries[one.view].late_events),
                _count(queries[one.view].late_not_healed),
            ]
        )
    return columns, rows


def _notes(report: Report) -> Iterator[tuple[str, str, str]]:
    """What needs a look, and why: mark, style, text."""
    if report.kafka_silence:
        yield "!", "yellow", f"{report.kafka_silence} What is unread is as each query last noted it."
    for one in report.queries:
        name = _name(one)
        if one.problem:
            yield "!", "red", f"{name}: {one.problem}"
        if one.expired_records:
            yield (
                "!",
                "red",
                f"{name}: {one.expired_records:,} records have expired unread; it will refuse to start.",
            )
        share = (one.lag_seconds or 0) / one.retention_seconds if one.retention_seconds else 0
        if share > _MUCH_OF_RETENTION:
            yield (
                "!",
                "red",
                f"{name}: the oldest unread record has used {share:.0%} of the time that Kafka keeps it.",
            )
        if one.begun_batch_id is not None and not one.is_running:
            yield (
                "·",
                "dim",
                f"{name}: batch {one.begun_batch_id} was cut short; the next start runs it again.",
            )
        elif one.begun_at and (report.at - one.begun_at).total_seconds() > _LONG_BATCH_SECONDS:
            yield (
                "·",
                "yellow",
                f"{name}: batch {one.begun_batch_id} has been under way for {_span((report.at - one.begun_at).total_seconds())}.",
            )
        if one.due_watermark and not one.is_running:
            yield (
                "·",
                "dim",
                f"{name} ended before it gave what is complete up to {_instant(one.due_watermark)}; that comes with the next events.",
            )
        if one.waits_for:
            yield "·", "yellow", f"{name} waits for {_waiting(one)}"
    for note in report.notes:
        mark, style = ("!", "yellow") if note.startswith(_WARNINGS) else ("·", "dim")
        yield mark, style, f"{note}."


def _waiting(one: Standing) -> str:
    waits_for = one.waits_for
    assert waits_for is not None
    what = waits_for.topic if waits_for.event_type is None else f"{waits_for.event_type} in {waits_for.topic}"
    silent = (
        ""
        if waits_for.silent_seconds is None
        else f", which has sent nothing for {_span(waits_for.silent_seconds)}"
    )
    newest = (
        "there is no event yet"
        if waits_for.newest_event is None
        else f"the newest event is of {_instant(waits_for.newest_event)}"
    )
    stands = (
        f"its watermark stands at {_instant(one.watermark)}" if one.watermark else "it has no watermark yet"
    )
    return f"{what}{silent} ({newest}): {stands}."


def _name(one: Standing) -> str:
    return one.query if one.is_beside else one.view or "ingest"


def _state(one: Standing) -> Cell:
    if one.is_running:
        return ("stopping", "yellow") if one.is_asked_to_stop else ("running", "green")
    if one.problem:
        return ("see below", "red")
    return ("never ran" if one.batch_id is None and one.begun_batch_id is None else "stopped", "dim")


def _count(number: int | None) -> str:
    if number is None:
        return ""
    return f"{number:,}" if number < _MANY else f"{number / 1_000_000:,.1f} M"


def _rate(number: float | None) -> str:
    if number is None:
        return ""
    return f"{number:,.0f}" if number >= 10 or not number else f"{number:.1f}"


def _span(seconds: float | None) -> str:
    if seconds is None:
        return ""
    unit, name = next((unit, name) for least, unit, name in _UNITS if seconds >= least or unit == 1)
    return f"{seconds / unit:,.0f} {name}"


def _bytes(number: int | None) -> str:
    if number is None:
        return ""
    size, names = float(number), ["B", "KiB", "MiB", "GiB", "TiB"]
    while size >= 1024 and len(names) > 1:
        size, names = size / 1024, names[1:]
    return f"{size:.0f} {names[0]}" if size >= 10 or names[0] == "B" else f"{size:.1f} {names[0]}"


def _instant(time: datetime | None) -> str:
    return "" if time is None else written(time, to_the_second=True)


COMMAND = Command(
    "status",
    "how the streams, the log and the views stand: lag, watermark, state, age",
    _run,
    _options,
    examples=("pipeline status --watch", "pipeline status --format json", "pipeline status --check"),
)
