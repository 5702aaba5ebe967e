"""Commands that change what readers see of a view, beside what they see now."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from pipeline.cli.arguments import known_views
from pipeline.cli.command import Arguments, Command
from pipeline.errors import CheckFailed, UsageError

if TYPE_CHECKING:
    from pipeline.promotion import Comparison
    from pipeline.settings import Settings

__all__ = ["COMMANDS"]


def _view_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("view", metavar="VIEW")


def _replay_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("views", nargs="+", metavar="VIEW")
    parser.add_argument("--once", action="store_true", help="end when it has caught up")
    parser.add_argument(
        "--from", dest="source", choices=("typed", "raw", "kafka"), default="typed",
        help="the log: its accepted events (default), or its raw bytes decoded again, in the order of event time; or Kafka itself, "
        "where late stays late",
    )  # fmt: skip
    parser.add_argument(
        "--anew", action="store_true", help="leave the version that is being made, and begin another one"
    )


def _replay(settings: Settings, arguments: Arguments) -> None:
    views = known_views(settings, arguments.views)
    from pipeline import promotion

    promotion.replay(settings, views, source=arguments.source, once=arguments.once, anew=arguments.anew)


def _promote_options(parser: argparse.ArgumentParser) -> None:
    _view_option(parser)
    parser.add_argument("--yes", action="store_true", help="do not ask")


def _promote(settings: Settings, arguments: Arguments) -> int:
    (view,) = known_views(settings, [arguments.view])
    if not arguments.yes and not sys.stdin.isatty():
        raise UsageError("Nobody can be asked here: say --yes to switch without a question.")
    from pipeline import console, promotion

    def is_confirmed(found: Comparison) -> bool:
        _show(found)
        return arguments.yes or _says_yes(f"Switch readers of {view} from {found.live} to {found.new}?")

    found = promotion.promote(settings, view, is_confirmed=is_confirmed)
    if found is None:
        console.write_lines(["Nothing has been switched."])
        return 0
    if found.unexplained:
        _show(found)
        keys = [
            *found.proof.unexplained_keys,
            *(found.against_live.unexplained_keys if found.against_live else ()),
        ]
        raise CheckFailed(
            f"{view}: {found.unexplained} rows of version {found.new} differ without a cause, so nothing has been switched.\n"
            + "\n".join(f"  {key}" for key in keys)
        )
    console.write_lines(
        [f"{view}: readers see version {found.new} now; back to {found.live}: pipeline rollback {view}"]
    )
    return 0


def _show(found: Comparison) -> None:
    from pipeline import console
    from pipeline.reconcile import COMPARED

    rows = [(f"{found.new} batch", f"{found.new} speed", found.proof)]
    if found.against_live is not None:
        rows.append((f"{found.new} batch", f"{found.live} speed (live)", found.against_live))
    cells = [[one, other, *(str(getattr(each, name)) for name in COMPARED)] for one, other, each in rows]
    if found.has_new_definition:
        cells[-1][-1] += " (by the new definition)"
    console.table(["version", "against", *COMPARED], cells, right=COMPARED)


def _says_yes(question: str) -> bool:
    from pipeline import console

    console.note(f"{question} [y/N]")
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def _rollback(settings: Settings, arguments: Arguments) -> None:
    (view,) = known_views(settings, [arguments.view])
    from pipeline import console, promotion

    left, live = promotion.rollback(settings, view)
    console.write_lines([f"{view}: readers see version {live} again; {left} is kept"])


COMMANDS = [
    Command(
        "replay",
        "the history of views, streamed into a version beside the live one",
        _replay,
        _replay_options,
        is_job=True,
    ),
    Command(
        "promote",
        "compare that version with the live one, and switch readers to it",
        _promote,
        _promote_options,
    ),
    Command("rollback", "switch readers of a view back to the version before", _rollback, _view_option),
]
