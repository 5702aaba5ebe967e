"""What is ahead of the clock: a producer's was wrong, so it decides nothing where it can be told, and is said where it has."""

from __future__ import annotations

from datetime import datetime, timedelta

from pipeline.contracts import MAX_CLOCK_SKEW_MINUTES
from pipeline.instants import shifted, written

__all__ = ["is_ahead", "latest", "of_events", "of_horizon", "of_watermark"]

_SKEW = timedelta(minutes=MAX_CLOCK_SKEW_MINUTES)
_WAY_OUT = 'docs/runbook.md, "An event from the future", has the way out'


def latest(now: datetime) -> datetime:
    """The last instant that an event of now can have: clocks differ by as much as the contract grants an event and its record."""
    return shifted(now, _SKEW)


def is_ahead(time: datetime, now: datetime) -> bool:
    return time > latest(now)


def of_events(what: str, newest: datetime) -> str:
    return f"{what}: the newest event is ahead of the clock ({written(newest)}); the horizon of a batch passes over it; {_WAY_OUT}"


def of_watermark(query: str, watermark: datetime) -> str:
    return (
        f"{query}: the watermark is ahead of the clock ({written(watermark)}): what comes now is late for it, and only the next "
        f"batch counts it; {_WAY_OUT}"
    )


def of_horizon(view: str, horizon: datetime) -> str:
    return (
        f"{view}: the horizon of its batch form is ahead of the clock ({written(horizon)}), so no newer row is served: "
        f"`pipeline batch {view}` puts it back"
    )
