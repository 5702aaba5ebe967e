"""What the report says of the numbers: one section for each picture, with its finding in words and its numbers as tables."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal
from functools import partial
from statistics import median
from typing import Any, Literal

from pipeline import late
from pipeline.contracts import DEAD, DEAD_LETTER_STATUSES
from pipeline.reconcile.causes import COMPARED, UNEXPLAINED
from pipeline.report import charts
from pipeline.report.charts import FINAL, PROVISIONAL
from pipeline.report.look import Look
from pipeline.report.numbers import Duration, Numbers

__all__ = ["Grid", "Section", "Tile", "Verdict", "sections", "tiles", "verdicts"]

Tone = Literal["good", "bad", "open"]


@dataclass(frozen=True)
class Verdict:
    """One finding in words; its tone is also told by a sign."""

    tone: Tone
    text: str


@dataclass(frozen=True)
class Tile:
    """One number, what it counts, and what is to be said about it."""

    name: str
    value: str
    remark: str


@dataclass(frozen=True)
class Grid:
    """A table. `is_open`: shown at once, not only when asked for."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]
    is_open: bool = False


@dataclass(frozen=True)
class Section:
    """A heading, the finding, a picture and its numbers; `nothing` says what to run where there are none yet.

    `name` is the picture's, which shows the first of the grids. `draw` is None where it is drawn elsewhere, or there is none.
    """

    name: str
    title: str
    nothing: str
    finding: str = ""
    caption: str = ""
    draw: Callable[[Look], Any] | None = None
    grids: Sequence[Grid] = field(default_factory=tuple)

    @property
    def is_empty(self) -> bool:
        return not any(grid.rows for grid in self.grids)


def sections(numbers: Numbers, *, reads_log: bool) -> list[Section]:
    """All sections, in the order of the page."""
    return [
        _way(numbers, reads_log=reads_log),
        _spend(numbers),
        _served(numbers),
        _fates(numbers),
        _dead_letters(numbers),
        _late(numbers),
        _agreement(numbers),
        _durations(numbers),
        _expectations(numbers),
        _tables(numbers),
    ]


def verdicts(numbers: Numbers) -> Iterator[Verdict]:
    """What somebody in a hurry has to know."""
    compared = [one for one in numbers.agreements if one.compared]
    unexplained = sum(one.causes[UNEXPLAINED] for one in numbers.agreements)
    if not compared:
        yield Verdict("open", "The two layers have not been compared yet.")
    elif unexplained:
        yield Verdict("bad", f"{_count(unexplained, 'row')} of batch and speed differ without a cause.")
    else:
        yield Verdict(
            "good", f"Batch and speed agree in {_views(len(compared))}: every difference has a cause."
        )
    failed = [one.table for one in numbers.expectations if one.failed]
    if failed:
        yield Verdict("bad", f"Expectations failed in {', '.join(failed)}.")
    dead = numbers.letters.get(DEAD, 0)
    if dead:
        yield Verdict("open", f"Nothing has been decided on {_count(dead, 'dead letter')}.")
    missed = sum(one.not_healed for one in numbers.late)
    if missed:
        yield Verdict("open", f"Batch has yet to count {_count(missed, 'late event')} of the views.")
    if numbers.spend.provisional:
        yield Verdict("open", f"{_count(len(numbers.spend.provisional), 'hour')} of spend may still change.")


def tiles(numbers: Numbers) -> list[Tile]:
    records, accepted = (
        sum(getattr(one, name) for one in numbers.topics) for name in ("records", "accepted")
    )
    dead = sum(one.dead for one in numbers.topics)
    decided = sum(count for status, count in numbers.letters.items() if status != DEAD)
    healed = sum(one.healed for one in numbers.late)
    missed = healed + sum(one.not_healed for one in numbers.late)
    compared = sum(one.compared for one in numbers.agreements)
    equal = sum(one.equal for one in numbers.agreements)
    unexplained = sum(one.causes[UNEXPLAINED] for one in numbers.agreements)
    return [
        Tile("records in the log", f"{records:,}", f"{_share(accepted, records)} accepted"),
        Tile("dead letters", f"{dead:,}", f"{decided:,} decided on"),
        Tile("late for a view", f"{missed:,}", f"{healed:,} counted by batch since"),
        Tile(
            "rows compared", f"{compared:,}", f"{_share(equal, compared)} equal, {unexplained:,} unexplained"
        ),
    ]


def _way(numbers: Numbers, *, reads_log: bool) -> Section:
    topics = [
        (one.topic, one.offsets_read, one.records, one.accepted, one.dead, one.tombstones)
        for one in numbers.topics
    ]
    views = [
        (one.view, one.speed, one.batch, one.served, one.horizon, one.watermark) for one in numbers.views
    ]
    has_views = any(rows is not None for one in numbers.views for rows in (one.speed, one.batch))
    records = sum(one.records for one in numbers.topics)
    return Section(
        "way",
        "The data’s way",
        "run `pipeline ingest --once`",
        finding=f"Of {_count(records, 'record')} in the log "
        f"{sum(one.accepted for one in numbers.topics):,} were accepted, {sum(one.dead for one in numbers.topics):,} are dead letters "
        f"and {sum(one.tombstones for one in numbers.topics):,} tombstones.",
        caption="Kafka offsets: those that ingest has entered in batch_ledger; the marks of transactions are offsets too. "
        "Dead letters by what has been decided on them. Views in rows. "
        f"The speed layer reads {'the log' if reads_log else 'Kafka itself'}; its late events are dropped there, and counted by batch.",
        grids=[
            Grid(
                "Records by topic",
                ("topic", "offsets read", "in raw_events", "accepted", "dead", "tombstones"),
                topics,
            ),
            Grid(
                "Rows by view",
                ("view", "speed", "batch", "served", "batch horizon", "speed watermark"),
                views if has_views else [],
            ),
        ],
    )


def _spend(numbers: Numbers) -> Section:
    found = numbers.spend
    provisional = found.provisional
    open_words = (
        f"{_count(len(provisional), 'window')} from {_hour(provisional[0].start)} on {'is' if len(provisional) == 1 else 'are'} not final yet."
        if provisional
        else "All windows are final."
    )
    before = (
        f" The {_count(found.earlier_hours, 'earlier window')} with {found.earlier_spend:,} are not in the picture."
        if found.earlier_hours
        else ""
    )
    if found.ahead_hours:
        before += f" Nor is what lies ahead of the clock: {_count(found.ahead_hours, 'window')} with {found.ahead_spend:,}."
    return Section(
        "spend",
        "Spend per hour",
        "run `pipeline speed --once` or `pipeline batch`",
        finding=f"{found.total:,} in {_count(len(found.hours) + found.earlier_hours + found.ahead_hours, 'window')}. {open_words}",
        caption="customer_hourly_spend as served, all customers together. Spend is gross: a cancelled order still counts. A window is final when batch "
        f"has covered it, or the watermark of the speed layer has passed its end; a dashed bar is {PROVISIONAL}.{before}",
        draw=partial(charts.spend, found),
        grids=[
            Grid(
                "Spend by window, the newest first",
                ("window start", "spend", "orders", "customers", "state"),
                [
                    (one.start, one.spend, one.orders, one.customers, FINAL if one.is_final else PROVISIONAL)
                    for one in reversed(found.hours)
                ],
            )
        ],
    )


def _served(numbers: Numbers) -> Section:
    return Section(
        "served",
        "Who and what",
        "run `pipeline speed --once` or `pipeline batch`",
        finding="The customers who have spent most, and the words that came most often, of all time.",
        caption="customer_totals and word_counts as served.",
        grids=[
            Grid("Customers", ("customer_id", "orders", "spend"), numbers.customers, is_open=True),
            Grid("Words", ("word", "count"), numbers.words, is_open=True),
        ],
    )


def _fates(numbers: Numbers) -> Section:
    found = numbers.fates
    asides = []
    if found and found.earlier:
        asides.append(f"{_count(found.earlier, 'record')} from before the picture")
    if found and found.ahead:
        asides.append(f"{_count(found.ahead, 'record')} ahead of the clock")
    if found and found.untimed:
        asides.append(f"{_count(found.untimed, 'record')} without a timestamp")
    aside = f" Left out: {' and '.join(asides)}." if asides else ""
    width = _width(found.width) if found else ""
    return Section(
        "fates",
        "Fates of the records",
        "run `pipeline ingest --once`",
        finding=f"Every record is exactly one of accepted, dead, or a tombstone; a bar is {width} of Kafka timestamps."
        if found
        else "",
        caption=f"raw_events and dead_letters; each panel has a scale of its own. A dead letter stays one here, also when it has been repaired.{aside}",
        draw=partial(charts.fates, found) if found else None,
        grids=[
            Grid(
                "Records in each bar, the newest first",
                ("from", "accepted", "dead", "tombstones"),
                [
                    (one.start, one.accepted, one.dead, one.tombstones)
                    for one in reversed(found.moments if found else ())
                    if one.accepted or one.dead or one.tombstones
                ],
            )
        ],
    )


def _dead_letters(numbers: Numbers) -> Section:
    found, letters = numbers.violations, sum(numbers.letters.values())
    words = {DEAD: "undecided"}
    decided = ", ".join(f"{count:,} {words.get(status, status)}" for status, count in numbers.letters.items())
    shown = (
        f" The picture has the first {charts.MOST_BARS} of {len(found)}."
        if len(found) > charts.MOST_BARS
        else ""
    )
    return Section(
        "dead_letters",
        "Dead letters by violation",
        "no record has been rejected",
        finding=f"{_count(letters, 'dead letter')}: {decided}." if letters else "",
        caption=f"dead_letters with what `pipeline dead-letters` has decided on them. A letter that breaks two rules is in two rows.{shown}",
        draw=partial(charts.dead_letters, found),
        grids=[
            Grid(
                "Dead letters by violation and topic",
                ("violation", "topic", "letters", *DEAD_LETTER_STATUSES),
                [
                    (
                        one.violation,
                        one.topic,
                        one.letters,
                        *(one.by_status.get(status, 0) for status in DEAD_LETTER_STATUSES),
                    )
                    for one in found
                ],
            ),
            Grid(
                "Why rows were put aside",
                ("of", "status", "reason", "rows"),
                [(one.place, one.status, one.reason, one.rows) for one in numbers.reasons],
            ),
        ],
    )


def _late(numbers: Numbers) -> Section:
    healed = sum(one.healed for one in numbers.late)
    missed = healed + sum(one.not_healed for one in numbers.late)
    views = dict.fromkeys(one.view for one in numbers.late)
    rows = []
    for view in views:
        of_view = [one for one in numbers.late if one.view == view]
        classes = [
            sum(one.healed + one.not_healed for one in of_view if one.class_seconds == low)
            for low in late.CLASS_SECONDS
        ]
        rows.append(
            (view, *classes, sum(one.healed for one in of_view), sum(one.not_healed for one in of_view))
        )
    return Section(
        "late",
        "How late events came",
        "no event is known to have come too late for a view; `pipeline late` looks for them",
        finding=f"{missed:,} times an event came too late for a view; batch has counted {healed:,} of them since.",
        caption="late_events: what a speed query dropped because it came behind its watermark, by how far behind. An event that is late for two views "
        "counts twice. order_outcomes is counted by batch a day later than the others: its horizon is.",
        draw=partial(charts.late_events, numbers.late),
        grids=[
            Grid(
                "Late events by view",
                (
                    "view",
                    *(late.class_name(low) for low in late.CLASS_SECONDS),
                    charts.HEALED,
                    charts.NOT_HEALED,
                ),
                rows,
            )
        ],
    )


def _agreement(numbers: Numbers) -> Section:
    found = numbers.agreements
    compared, equal = sum(one.compared for one in found), sum(one.equal for one in found)
    unexplained = sum(one.causes[UNEXPLAINED] for one in found)
    keys = [(one.view, key) for one in found for key in one.unexplained_keys]
    return Section(
        "agreement",
        "Batch against speed",
        "run `pipeline reconcile`",
        finding=f"{equal:,} of {_count(compared, 'row')} ({_share(equal, compared)}) are equal to the cent; {unexplained:,} differ without a cause.",
        caption="reconciliation: the newest run of each view, over the rows that both layers have closed. A cause counts only if it explains the row "
        "to the cent. Open rows are not closed by both layers, or only one has read them yet.",
        draw=partial(charts.agreements, found),
        grids=[
            Grid(
                "Rows by view",
                ("view", *COMPARED, "closed up to", "compared at"),
                [
                    (one.view, one.compared, one.equal, *one.causes.values(), one.horizon, one.run_at)
                    for one in found
                ],
            ),
            Grid("Some of the unexplained rows", ("view", "row"), keys, is_open=True),
        ],
    )


def _durations(numbers: Numbers) -> Section:
    groups: dict[tuple[str, bool], list[Duration]] = {}
    for one in numbers.durations:
        groups.setdefault((one.name, one.is_micro_batch), []).append(one)
    rows = [
        (
            name,
            charts.MICRO_BATCH if is_micro_batch else charts.BATCH_RUN,
            len(found),
            Decimal(f"{median(one.seconds for one in found):.1f}"),
            Decimal(f"{max(one.seconds for one in found):.1f}"),
            sum(one.records or 0 for one in found) if is_micro_batch else None,
            max(one.began_at for one in found),
        )
        for (name, is_micro_batch), found in groups.items()
    ]
    return Section(
        "durations",
        "How long batches take",
        "run `pipeline ingest --once`, `pipeline speed --once` and `pipeline batch`",
        finding=_slowest(numbers.durations),
        caption="A micro-batch: from when Spark chose what it reads (the checkpoint’s offsets) to its commit, in batch_ledger for ingest and in the speed "
        "table for a view; those that wrote nothing are not in it, and a crash in between counts in full. A batch run: from its beginning to the commit "
        "that publishes it. Views run side by side, so they wait for each other. The newest 100 and 20 of each.",
        draw=partial(charts.durations, numbers.durations),
        grids=[
            Grid(
                "Seconds by query",
                ("query", "kind", "batches", "median s", "longest s", "records read", "newest began"),
                rows,
            )
        ],
    )


def _expectations(numbers: Numbers) -> Section:
    found = numbers.expectations
    failed, warned = sum(one.failed for one in found), sum(one.warned for one in found)
    judged = sum(one.passed for one in found) + failed + warned
    return Section(
        "expectations",
        "What the tables are expected to hold",
        "run `pipeline quality`",
        finding=f"{_count(judged, 'expectation')} judged: {failed:,} failed, {warned:,} warned.",
        caption="quality_results: the newest run of each table.",
        grids=[
            Grid(
                "Expectations by table",
                ("table", "passed", "warned", "failed", "skipped", "not met", "judged at"),
                [
                    (
                        one.table,
                        one.passed,
                        one.warned,
                        one.failed,
                        one.skipped,
                        ", ".join(one.unmet),
                        one.run_at,
                    )
                    for one in found
                ],
                is_open=True,
            )
        ],
    )


def _tables(numbers: Numbers) -> Section:
    return Section(
        "tables",
        "What was read",
        "there is no table in this lake yet",
        finding="Each table at one version. Tables that are being written may be a batch apart.",
        grids=[
            Grid(
                "Tables",
                ("table", "version", "rows"),
                [(one.name, one.version, one.rows) for one in numbers.tables],
            )
        ],
    )


def _slowest(found: Sequence[Duration]) -> str:
    if not found:
        return ""
    slowest = max(found, key=lambda one: one.seconds)
    kind = charts.MICRO_BATCH if slowest.is_micro_batch else charts.BATCH_RUN
    return f"{_count(len(found), 'batch')}; the slowest was a {kind} of {slowest.name}, {slowest.seconds:,.1f} s."


def _count(number: int, noun: str) -> str:
    plural = f"{noun}es" if noun.endswith("ch") else f"{noun}s"
    return f"{number:,} {noun if number == 1 else plural}"


def _views(number: int) -> str:
    return "the one view compared" if number == 1 else f"all {number} views compared"


def _share(part: int, whole: int) -> str:
    """In per cent, rounded down: 100 % is all."""
    if not whole:
        return "none"
    return "100 %" if part == whole else f"{part * 10_000 // whole / 100:.2f} %"


def _hour(time: datetime) -> str:
    return f"{time:%Y-%m-%d %H:%M} UTC"


def _width(width: timedelta) -> str:
    for unit, name in ((86_400, "day"), (3_600, "hour"), (60, "minute"), (1, "second")):
        if width.total_seconds() >= unit:
            return _count(int(width.total_seconds() // unit), name)
    return ""
