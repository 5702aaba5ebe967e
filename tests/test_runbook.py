"""The runbook names every error a user can meet and every alert, and the commands in it are commands."""

from __future__ import annotations

import inspect
import re
import shlex
from pathlib import Path

import pytest

from pipeline import cli, errors
from pipeline.errors import PipelineError
from pipeline.streaming import QueryFailed

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "runbook.md").read_text(encoding="utf-8")
COMMANDS = [
    *re.findall(r"`(pipeline [a-z][^`]*)`", PAGE),
    *re.findall(r"^(pipeline .+)$", PAGE, flags=re.MULTILINE),
]


def test_every_error_has_its_place() -> None:
    known = {
        name for name, one in inspect.getmembers(errors, inspect.isclass) if issubclass(one, PipelineError)
    }
    told = {*re.findall(r"`([A-Z]\w+)`", PAGE)}
    assert known | {QueryFailed.__name__} <= told


def test_every_alert_has_its_place() -> None:
    sources = [path.read_text(encoding="utf-8") for path in (ROOT / "src" / "pipeline").rglob("*.py")]
    named = {
        name
        for text in sources
        for name in re.findall(r'"([A-Z]\w*OverLimit|BatchTooOld|Unexplained|ExpectationFailed)"', text)
    }
    named |= {"DeadOverLimit", "LateOverLimit"}
    assert len(named) >= 5
    assert named <= {*re.findall(r"`(\w+)`", PAGE.partition("## Alerts")[2])}


@pytest.mark.parametrize("command", sorted({*COMMANDS}))
def test_a_command_of_the_page_is_one(command: str) -> None:
    assert cli._parser().parse_args(shlex.split(command)[1:])


def test_the_exit_codes_are_those_of_the_headings() -> None:
    for heading, code in re.findall(r"^## (.+) \(exit (\d+)\)$", PAGE, flags=re.MULTILINE):
        section = PAGE.partition(f"## {heading}")[2].partition("\n## ")[0]
        named = re.findall(r"^\| ((?:`\w+`[^|`]*)+)\|", section, flags=re.MULTILINE)
        for name in (name for cell in named for name in re.findall(r"`([A-Z]\w+)`", cell)):
            of_ours = getattr(errors, name, None)
            if of_ours is not None and name not in ("TransientError",):
                assert of_ours.exit_code == int(code), name
