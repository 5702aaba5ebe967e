"""What a command is."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from pipeline.settings import Settings

__all__ = ["Arguments", "Command"]

Arguments = argparse.Namespace


def _no_options(_: argparse.ArgumentParser) -> None:
    pass


class Command(NamedTuple):
    """`run` returns the exit code, or None for 0; a `name` of two words is a command below another.

    A job runs unattended: its failure is told to the alert channel. `examples` end the command's help.
    """

    name: str
    summary: str
    run: Callable[[Settings, Arguments], int | None]
    options: Callable[[argparse.ArgumentParser], object] = _no_options
    is_job: bool = False
    examples: Sequence[str] = ()
