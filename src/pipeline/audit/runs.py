"""Runs of offsets that follow each other, half-open."""

from __future__ import annotations

from collections.abc import Iterable

from pipeline.kafka_offsets import Run

__all__ = ["length", "runs_of", "without"]


def length(runs: Iterable[Run]) -> int:
    return sum(end - first for first, end in runs)


def runs_of(offsets: Iterable[int]) -> list[Run]:
    """The offsets as runs that follow each other."""
    runs: list[Run] = []
    for offset in sorted(set(offsets)):
        if runs and runs[-1][1] == offset:
            runs[-1] = (runs[-1][0], offset + 1)
        else:
            runs.append((offset, offset + 1))
    return runs


def without(runs: Iterable[Run], taken: Iterable[Run]) -> list[Run]:
    """What of the runs lies in none of those taken."""
    left = sorted(runs)
    for first, end in sorted(taken):
        left = [
            part
            for run in left
            for part in ((run[0], min(run[1], first)), (max(run[0], end), run[1]))
            if part[0] < part[1]
        ]
    return left
