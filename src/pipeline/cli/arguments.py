"""What the words of a command line may say: names that exist, counts, shares. A wrong one is a UsageError."""

from __future__ import annotations

import argparse
import difflib
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from pipeline.errors import UsageError

if TYPE_CHECKING:
    from pipeline.settings import Settings

__all__ = ["count", "known_views", "positive", "share", "sorting", "unknown"]


def unknown(kind: str, name: str, known: Sequence[str]) -> UsageError:
    nearest = next(iter(difflib.get_close_matches(name, known, n=1)), None)
    meant = f" Did you mean {nearest}?" if nearest else ""
    return UsageError(f"There is no {kind} {name!r}.{meant}\nThere are: {', '.join(known)}.", nearest=nearest)


def known_views(settings: Settings, names: Sequence[str]) -> list[str]:
    """`names` without repetitions; UsageError at the first one that is no view."""
    if not names:
        return []
    from pipeline import catalog

    views = catalog.views(settings)
    for name in names:
        if name not in views:
            raise unknown("view", name, sorted(views))
    return list(dict.fromkeys(names))


def sorting(words: Sequence[str] | None) -> tuple[str, bool] | None:
    """`COL` or `COL desc`, also where both came as one word in quotes, as (column, is descending)."""
    if words is None:
        return None
    column, *direction = " ".join(words).split()
    if [word.lower() for word in direction] not in ([], ["asc"], ["desc"]):
        raise UsageError(f"--order-by takes one column and perhaps desc; came {' '.join(words)!r}.")
    return column, [word.lower() for word in direction] == ["desc"]


def count(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,18}", text) or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number from 1 on, came {text!r}")
    return int(text)


def share(text: str) -> float:
    number = _number(text)
    if not 0 <= number <= 1:
        raise argparse.ArgumentTypeError(f"expected a share from 0 to 1, came {text!r}")
    return number


def positive(text: str) -> float:
    number = _number(text)
    if not number > 0:
        raise argparse.ArgumentTypeError(f"expected a number over 0, came {text!r}")
    return number


def _number(text: str) -> float:
    if not re.fullmatch(r"\d+(\.\d*)?|\.\d+", text):
        raise argparse.ArgumentTypeError(f"expected a number, came {text!r}")
    return float(text)
