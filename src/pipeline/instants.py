"""Instants as people and programs write them."""

from __future__ import annotations

import re
from datetime import datetime, timedelta, timezone

from pipeline.errors import UsageError

__all__ = ["instant", "of_milliseconds"]

_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
INSTANT = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d)(?::(\d\d)(?:\.(\d{1,6}))?)?(Z|[+-]\d\d:\d\d)")


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


def of_milliseconds(since_epoch: int) -> datetime:
    """The instant in UTC, exactly: by a float of seconds it could be a microsecond off."""
    return _EPOCH + timedelta(milliseconds=since_epoch)
