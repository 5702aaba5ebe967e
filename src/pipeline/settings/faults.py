"""The errors of a setting: where it stands, what was expected there, what came, and which key may have been meant."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import Any

from pipeline.errors import ConfigurationError
from pipeline.settings.masking import MASK, is_secret, masked
from pipeline.settings.schema import KeyPath, key_paths

__all__ = ["meant", "nearest_of", "unknown", "wrong"]


def unknown(path: KeyPath, source: str) -> ConfigurationError:
    """A key that there is not, with the one nearest to it, written as the source writes keys."""
    dotted = ".".join(path)
    nearest = _nearest_key(dotted)
    shown = nearest
    if nearest and source.startswith("PIPELINE_"):
        shown = "PIPELINE_" + nearest.upper().replace(".", "__")
    return ConfigurationError(
        f"{source}: there is no key {dotted}." + meant(shown), source=source, key=dotted, nearest=nearest
    )


def wrong(path: KeyPath, source: str, expected: str, came: Any) -> ConfigurationError:
    """A value that is not what the key expects; what came is shown, unless it may be secret."""
    dotted = ".".join(path)
    plain = MASK if is_secret(path) else came
    shown = repr(masked(path, came)) if isinstance(came, str) else f"{plain} (not in quotes)"
    # What stands inside a section or a list may be secret: only its kind is shown.
    shown = {dict: "a section", list: "a list", type(None): "nothing"}.get(type(came), shown)
    return ConfigurationError(
        f"{source}: {dotted} must be {expected}; came {shown}.", source=source, key=dotted
    )


def meant(name: str | None) -> str:
    """The question to end an error with."""
    return f" Did you mean {name}?" if name else ""


def nearest_of(name: str, known: Sequence[str], cutoff: float = 0.6) -> str | None:
    """The known name most like it; None where none is."""
    return next(iter(difflib.get_close_matches(name, known, n=1, cutoff=cutoff)), None)


def _nearest_key(dotted: str) -> str | None:
    known = list(key_paths())
    by_last_name = {key.rpartition(".")[2]: key for key in reversed(known)}
    last = nearest_of(dotted.rpartition(".")[2], list(by_last_name), cutoff=0.8)
    siblings = [key for key in known if key.rpartition(".")[0] == dotted.rpartition(".")[0]]
    return nearest_of(dotted, siblings, 0.8) or (
        by_last_name[last] if last else nearest_of(dotted, known, cutoff=0.5)
    )
