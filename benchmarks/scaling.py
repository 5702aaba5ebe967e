"""The model behind docs/scaling.md: what a day leaves behind, commit by commit, and what a rate needs.

`python benchmarks/scaling.py` prints the tables of that page. What it costs is measured or assumed, as said below; the rest is counted, not timed.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass

DAY_SECONDS = 86_400
HOUR_SECONDS = 3_600

INGEST_CPU_MICROSECONDS = 23.0
"""Of all processes for an event, once warm: what benchmarks/run.py calls CPU µs/event."""
SPEND_CPU_MICROSECONDS = 27.0
"""The same, of customer_hourly_spend."""
KAFKA_BYTES = 215.0
"""Of an event of the benchmarks, JSON without compression."""
RAW_BYTES = 55.0
"""Of it in raw_events, as Parquet."""
TYPED_BYTES = 26.0
"""In order_events."""
ROW_BYTES = 30.0
"""Of a row of the speed table; assumed."""
SCAN_ROWS_A_SECOND = 10_000_000.0
"""Rows whose keys a core looks through in a merge; assumed."""

BUSY = 0.5
"""The share of its cores that a stream may use: the rest is for catching up after a stop."""
ACTION_BYTES = 600.0
"""Of a file in Delta's checkpoint."""


@dataclass(frozen=True)
class Scale:
    events_a_second: int
    customers: int
    trigger_seconds: int
    partitions: int


SCALES = (
    Scale(10_000, 100_000, 5, 8),
    Scale(1_000_000, 5_000_000, 30, 192),
    Scale(10_000_000, 50_000_000, 60, 1536),
)


@dataclass
class Appended:
    """A table that only grows, at the end of a day: its commits, its files, and the largest number of files there was."""

    commits: int = 0
    files: int = 0
    most_files: int = 0
    small_files: int = 0


def appended(scale: Scale, *, bytes_an_event: float, compact_every_seconds: int | None) -> Appended:
    """A day of commits, of one file for each Kafka partition; compaction joins the small ones into files of 128 MB."""
    table = Appended()
    for second in range(0, DAY_SECONDS, scale.trigger_seconds):
        table.commits += 1
        table.small_files += scale.partitions
        table.files += scale.partitions
        table.most_files = max(table.most_files, table.files)
        if compact_every_seconds and (second + scale.trigger_seconds) % compact_every_seconds == 0:
            bytes_since = scale.events_a_second * compact_every_seconds * bytes_an_event
            table.files += max(1, round(bytes_since / 128e6)) - table.small_files
            table.small_files = 0
            table.commits += 1
    return table


@dataclass
class Upserted:
    """What a day adds to a speed table: its rows, its commits, and the bytes that merges have written, anew for the most part."""

    rows: float = 0.0
    commits: int = 0
    written_bytes: float = 0.0


def upserted(scale: Scale) -> Upserted:
    """A day of merges into hourly windows, each of which writes the files of the open hour anew.

    Of C customers n events of an hour reach C·(1 - e^(-n/C)).
    """
    table = Upserted()
    for _ in range(24):
        open_rows = 0.0
        for second in range(scale.trigger_seconds, HOUR_SECONDS + 1, scale.trigger_seconds):
            events = scale.events_a_second * second
            open_rows = scale.customers * (1 - math.exp(-events / scale.customers))
            table.commits += 1
            table.written_bytes += open_rows * ROW_BYTES
        table.rows += open_rows
    return table


def days_until_half_the_trigger(scale: Scale, rows_a_day: float, cpu_microseconds: float) -> float:
    """After how many days looking through the table takes half of each trigger, on all cores of the view."""
    core_seconds = math.ceil(cores(scale, cpu_microseconds)) * scale.trigger_seconds / 2
    return core_seconds * SCAN_ROWS_A_SECOND / rows_a_day


def cores(scale: Scale, cpu_microseconds: float) -> float:
    return scale.events_a_second * cpu_microseconds / 1e6 / BUSY


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ingest", type=float, default=INGEST_CPU_MICROSECONDS, help="CPU µs/event")
    parser.add_argument("--spend", type=float, default=SPEND_CPU_MICROSECONDS, help="CPU µs/event")
    asked = parser.parse_args(argv)
    _table(
        "cores",
        ["events a second", "ingest", "spend", "Kafka MB/s", "log TB a day"],
        [
            [
                f"{scale.events_a_second:,}",
                f"{math.ceil(cores(scale, asked.ingest)):,}",
                f"{math.ceil(cores(scale, asked.spend)):,}",
                f"{scale.events_a_second * KAFKA_BYTES / 1e6:,.0f}",
                f"{scale.events_a_second * DAY_SECONDS * (RAW_BYTES + TYPED_BYTES) / 1e12:,.2f}",
            ]
            for scale in SCALES
        ],
    )
    _table(
        "raw_events after a day",
        ["events a second", "compacted", "commits", "files", "most files", "Delta's checkpoint MB"],
        [
            [
                f"{scale.events_a_second:,}",
                "every hour" if every else "never",
                f"{table.commits:,}",
                f"{table.files:,}",
                f"{table.most_files:,}",
                f"{table.most_files * ACTION_BYTES / 1e6:,.0f}",
            ]
            for scale in SCALES
            for every in (None, HOUR_SECONDS)
            for table in [appended(scale, bytes_an_event=RAW_BYTES, compact_every_seconds=every)]
        ],
    )
    _table(
        "customer_hourly_spend, speed",
        [
            "events a second",
            "customers",
            "trigger",
            "rows a day",
            "commits a day",
            "TB a day that merges write",
            "days",
        ],
        [
            [
                f"{scale.events_a_second:,}",
                f"{scale.customers:,}",
                f"{scale.trigger_seconds} s",
                f"{table.rows:,.0f}",
                f"{table.commits:,}",
                f"{table.written_bytes / 1e12:,.2f}",
                f"{days_until_half_the_trigger(scale, table.rows, asked.spend):,.0f}",
            ]
            for scale in SCALES
            for table in [upserted(scale)]
        ],
    )
    return 0


def _table(title: str, columns: list[str], rows: list[list[str]]) -> None:
    print(f"\n{title}\n\n| {' | '.join(columns)} |\n|{'---|' * len(columns)}")
    for row in rows:
        print(f"| {' | '.join(row)} |")


if __name__ == "__main__":
    sys.exit(main())
