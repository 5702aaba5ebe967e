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
BUSY = 0.5
"""The share of its cores that a stream may use: the rest is for catching up after a stop."""
ACTION_BYTES = 600.0
"""Of a file in Delta's checkpoint."""


@dataclass(frozen=True)
class Scale:
    events_a_second: int
    trigger_seconds: int


SCALES = (
    Scale(1_000, 1),
    Scale(10_000, 5),
    Scale(100_000, 10),
)


@dataclass
class Appended:
    """A table that only grows, at the end of a day: its commits, its files, and the largest number of files there was."""

    commits: int = 0
    files: int = 0
    most_files: int = 0
    small_files: int = 0


def appended(scale: Scale, *, bytes_an_event: float, compact_every_seconds: int | None) -> Appended:
    """A day of commits, of one file each; compaction joins the small ones into files of 128 MB."""
    table = Appended()
    for second in range(0, DAY_SECONDS, scale.trigger_seconds):
        table.commits += 1
        table.small_files += 1
        table.files += 1
        table.most_files = max(table.most_files, table.files)
        if compact_every_seconds and (second + scale.trigger_seconds) % compact_every_seconds == 0:
            bytes_since = scale.events_a_second * compact_every_seconds * bytes_an_event
            table.files += max(1, round(bytes_since / 128e6)) - table.small_files
            table.small_files = 0
            table.commits += 1
    return table


def cores(scale: Scale, cpu_microseconds: float) -> float:
    return scale.events_a_second * cpu_microseconds / 1e6 / BUSY


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ingest", type=float, default=INGEST_CPU_MICROSECONDS, help="CPU µs/event")
    parser.add_argument("--spend", type=float, default=SPEND_CPU_MICROSECONDS, help="CPU µs/event")
    asked = parser.parse_args(argv)
    _table(
        "cores",
        ["events a second", "ingest", "spend", "Kafka MB/s", "log GB a day"],
        [
            [
                f"{scale.events_a_second:,}",
                f"{math.ceil(cores(scale, asked.ingest)):,}",
                f"{math.ceil(cores(scale, asked.spend)):,}",
                f"{scale.events_a_second * KAFKA_BYTES / 1e6:,.0f}",
                f"{scale.events_a_second * DAY_SECONDS * (RAW_BYTES + TYPED_BYTES) / 1e9:,.0f}",
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
    return 0


def _table(title: str, columns: list[str], rows: list[list[str]]) -> None:
    print(f"\n{title}\n\n| {' | '.join(columns)} |\n|{'---|' * len(columns)}")
    for row in rows:
        print(f"| {' | '.join(row)} |")


if __name__ == "__main__":
    sys.exit(main())
