"""Instants as people and programs write them, and as tables and Kafka count them: one conversion, which no count fails."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from typing import Any, SupportsIndex

from pipeline.errors import UsageError

__all__ = [
    "Beyond",
    "in_utc",
    "instant",
    "microseconds",
    "of_microseconds",
    "of_milliseconds",
    "shifted",
    "written",
]

INSTANT = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d)(?::(\d\d)(?:\.(\d{1,6}))?)?(Z|[+-]\d\d:\d\d)")

_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
_FIRST, _LAST = datetime.min.replace(tzinfo=timezone.utc), datetime.max.replace(tzinfo=timezone.utc)
_MICROSECOND = timedelta(microseconds=1)
_CYCLE_YEARS, _CYCLE = 400, 146_097 * 86_400_000_000
"""After so many years, and microseconds, the calendar begins again."""


class Beyond(datetime):
    """An instant outside of the years 1 to 9999, the only ones that a datetime can hold: what counted microseconds where
    milliseconds are meant is in the year 57970.

    It is written as it is, and compares as the end of those years beyond which it lies.
    """

    since_epoch: int | None = None
    """Microseconds; None of what was reckoned from it, which is a datetime as any."""

    def isoformat(self, sep: str = "T", timespec: str = "auto") -> str:
        if self.since_epoch is None:
            return super().isoformat(sep, timespec)
        return _iso(self.since_epoch).replace("T", sep) + ("" if self.tzinfo is None else "+00:00")

    def strftime(self, format: str) -> str:  # noqa: A002  # datetime's name for it
        return super().strftime(format) if self.since_epoch is None else written(self)

    def __reduce_ex__(self, protocol: SupportsIndex) -> tuple[Callable[..., datetime], tuple[Any, ...]]:
        if self.since_epoch is None:
            return datetime.fromisoformat, (self.isoformat(),)
        return of_microseconds, (self.since_epoch, self.tzinfo)


def instant(text: str, *, option: str) -> datetime:
    """The instant in UTC; UsageError unless `text` is ISO-8601 with an offset."""
    match = INSTANT.fullmatch(text)
    try:
        if match is None:
            raise ValueError("an offset is required")
        minute, second, fraction, offset = match.groups()
        # Python 3.10 reads neither Z nor fractions of other than 3 or 6 digits.
        written = f"{minute}:{second or '00'}.{(fraction or '').ljust(6, '0')}{'+00:00' if offset == 'Z' else offset}"
        return datetime.fromisoformat(written).astimezone(timezone.utc)
    except (ValueError, OverflowError) as error:
        raise UsageError(
            f"{option} takes YYYY-MM-DDThh:mm:ss with Z or an offset (2026-03-01T12:00:00Z, 2026-03-01T13:00:00+01:00); "
            f"came {text!r}: {error}."
        ) from None


def of_microseconds(since_epoch: int, zone: timezone | None = timezone.utc) -> datetime:
    """The instant, exactly, in UTC (without a zone where `zone` is None); one that a datetime cannot hold is a `Beyond`."""
    try:
        return _EPOCH.replace(tzinfo=zone) + since_epoch * _MICROSECOND
    except OverflowError:
        end = _LAST if since_epoch > 0 else _FIRST
        beyond = Beyond.combine(end.date(), end.time(), zone)
        beyond.since_epoch = since_epoch
        return beyond


def of_milliseconds(since_epoch: int) -> datetime:
    """As `of_microseconds`; by a float of seconds it could be a microsecond off."""
    return of_microseconds(since_epoch * 1000)


def microseconds(time: datetime) -> int:
    """Since 1970; a time without zone is taken as UTC."""
    if isinstance(time, Beyond) and time.since_epoch is not None:
        return time.since_epoch
    return ((time if time.tzinfo else time.replace(tzinfo=timezone.utc)) - _EPOCH) // _MICROSECOND


def in_utc(time: datetime) -> datetime:
    """The same instant with the zone UTC; a time without zone is taken as UTC."""
    return of_microseconds(microseconds(time))


def shifted(time: datetime, by: timedelta) -> datetime:
    """The instant so much later (earlier, where it is negative), in UTC, which a sum of both cannot tell at the ends of time."""
    return of_microseconds(microseconds(time) + by // _MICROSECOND)


def written(time: datetime, *, to_the_second: bool = False) -> str:
    """ISO-8601 in UTC with Z; years beyond four digits have a sign, as ISO has it: +57970-02-25T00:00:00Z."""
    since_epoch = microseconds(time)
    return _iso(since_epoch // 1_000_000 * 1_000_000 if to_the_second else since_epoch) + "Z"


def _iso(since_epoch: int) -> str:
    cycles, rest = divmod(since_epoch, _CYCLE)
    time = _EPOCH + rest * _MICROSECOND
    year = time.year + cycles * _CYCLE_YEARS
    sign = "-" if year < 0 else "+" if year > 9999 else ""
    return f"{sign}{abs(year):04d}{time.replace(tzinfo=None).isoformat()[4:]}"
