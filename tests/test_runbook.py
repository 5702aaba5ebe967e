"""The runbook names every error and every alert, as it is seen: played here where that is cheap, else as the sources have it."""

from __future__ import annotations

import ast
import inspect
import os
import re
import shlex
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import cache
from pathlib import Path

import pytest
from pyspark.sql import SparkSession

from pipeline import cli, errors, stopping
from pipeline.errors import PipelineError
from pipeline.settings import Settings
from pipeline.streaming import QueryFailed
from pipeline.tables import checkpoint_path, view_path
from pipeline.views import VIEWS
from story import Story

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "runbook.md").read_text(encoding="utf-8")
COMMANDS = [
    *re.findall(r"`(pipeline [a-z][^`]*)`", PAGE),
    *re.findall(r"^(?:\$ )?(?:[A-Z_]+=\S+ )?(pipeline .+)$", PAGE, flags=re.MULTILINE),
]
KNOWN = {
    name for name, one in inspect.getmembers(errors, inspect.isclass) if issubclass(one, PipelineError)
} | {QueryFailed.__name__}
SPEND = VIEWS["customer_hourly_spend"]
PLAYED_ELSEWHERE = ("pipeline dead-letters list", "pipeline late", "pipeline reconcile")
"""They take Spark seconds, and files of their own test what they print."""


def pages() -> dict[str, str]:
    """What stands below the heading of each error and alert."""
    found = {}
    for heading, text in re.findall(r"^### (`[^\n]+`)$(.*?)(?=^##|\Z)", PAGE, flags=re.MULTILINE | re.DOTALL):
        found.update(dict.fromkeys(re.findall(r"`(\w+)`", heading), text))
    return found


def test_every_error_has_its_place() -> None:
    told = {*re.findall(r"`([A-Z]\w+)`", PAGE)}
    assert told >= KNOWN
    assert {*pages()} >= KNOWN, "each needs a heading, and below it what is seen on a terminal"


def test_every_alert_has_its_place() -> None:
    sources = [path.read_text(encoding="utf-8") for path in (ROOT / "src" / "pipeline").rglob("*.py")]
    named = {
        name
        for text in sources
        for name in re.findall(
            r'"([A-Z]\w*OverLimit|BatchTooOld|Unexplained|DoesNotAddUp|ExpectationFailed)"', text
        )
    }
    named |= {"DeadOverLimit", "LateOverLimit"}
    assert len(named) >= 5
    assert named <= {*re.findall(r"`(\w+)`", PAGE.partition("## Alerts")[2])}
    assert named <= {*pages()}


@pytest.mark.parametrize("command", sorted({*COMMANDS}))
def test_a_command_of_the_page_is_one(command: str) -> None:
    assert cli._parser().parse_args(shlex.split(command)[1:])


def test_the_exit_codes_are_those_of_the_headings() -> None:
    for heading, code in re.findall(r"^## (.+) \(exit (\d+)\)$", PAGE, flags=re.MULTILINE):
        section = PAGE.partition(f"## {heading}")[2].partition("\n## ")[0]
        named = re.findall(r"^(?:\||###) ((?:`\w+`[^|`\n]*)+)", section, flags=re.MULTILINE)
        for name in (name for cell in named for name in re.findall(r"`([A-Z]\w+)`", cell)):
            of_ours = getattr(errors, name, None)
            if of_ours is not None and name not in ("TransientError",):
                assert of_ours.exit_code == int(code), name


@cache
def texts() -> list[re.Pattern[str]]:
    """Every text in the sources as a pattern, in which anything may stand where a value is put in."""
    found = {"(?:error: )?This is a fault of the pipeline itself: .+"}
    for file in (ROOT / "src" / "pipeline").rglob("*.py"):
        nodes = [*ast.walk(ast.parse(file.read_text(encoding="utf-8")))]
        pieces = {id(part) for node in nodes if isinstance(node, ast.JoinedStr) for part in node.values}
        for node in (node for node in nodes if id(node) not in pieces):
            parts = node.values if isinstance(node, ast.JoinedStr) else [node]
            text = "".join(
                part.value if isinstance(part, ast.Constant) and isinstance(part.value, str) else "\0"
                for part in parts
            )
            found |= {re.escape(line) for line in text.split("\n") if len(line.replace("\0", "")) > 12}
    return [re.compile(line.replace("\0", ".+")) for line in found]


@pytest.mark.parametrize("name", [*pages()])
def test_what_is_seen_is_what_the_sources_say(name: str) -> None:
    shown = re.findall(r"^```text\n(.*?)^```", pages()[name], flags=re.MULTILINE | re.DOTALL)
    for line in (line for block in shown for line in block.splitlines()):
        assert any(text.search(line) for text in texts()), line


@contextmanager
def running(here: Settings, spark: SparkSession) -> Iterator[None]:
    """Someone who holds the query of hourly spend until asked to stop."""
    stopping.hold(spark, here.lake.root, SPEND.query)

    def go_on() -> None:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and not stopping.is_asked_to_stop(
            None, here.lake.root, SPEND.query
        ):
            time.sleep(0.05)
        stopping.let_go(spark, here.lake.root, SPEND.query)

    thread = threading.Thread(target=go_on)
    thread.start()
    yield
    thread.join()


@contextmanager
def without(*paths: str) -> Iterator[None]:
    for path in map(Path, paths):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    yield


def nothing(_: Settings) -> object:
    return nullcontext()


PLAYED: dict[str, Callable[[Settings], object]] = {
    "CheckpointDamaged": lambda here: without(
        f"{checkpoint_path(here.lake.root, SPEND.query)}/pipeline/plan.json"
    ),
    "CheckpointMismatch": lambda here: without(view_path(here.lake.root, SPEND.name, "speed", SPEND.version)),
}


@pytest.mark.kafka
def test_what_is_seen_is_seen(
    spark: SparkSession,
    story: Story,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name, value in {
        "ENV": "test",
        "KAFKA__BOOTSTRAP_SERVERS": story.settings.kafka.bootstrap_servers,
        "KAFKA__TOPICS__ORDERS": story.settings.kafka.topics.orders,
        "KAFKA__TOPICS__PRODUCTS": story.settings.kafka.topics.products,
        "KAFKA__TOPICS__TEXT_LINES": story.settings.kafka.topics.text_lines,
        "KAFKA__TOPICS__WORD_COUNTS_OUTPUT": story.settings.kafka.topics.word_counts_output,
    }.items():
        monkeypatch.setenv(f"PIPELINE_{name}", value)
    anew = PAGE[PAGE.index("**To begin a query anew**") :].partition("###")[0]
    for number, (name, text) in enumerate({**pages(), "anew": anew}.items()):
        block = re.search(r"^```console\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)
        if block is None:
            continue
        here = story.copy(tmp_path / f"lake{number}")
        monkeypatch.setenv("PIPELINE_LAKE__ROOT", here.lake.root)
        situation = running(here, spark) if name == "AlreadyRunning" else PLAYED.get(name, nothing)(here)
        with situation:  # type: ignore[attr-defined]
            for line, expected in re.findall(r"^\$ (.+)\n((?:(?!\$ ).*\n)*)", block[1], flags=re.MULTILINE):
                if line.startswith(PLAYED_ELSEWHERE):
                    continue
                told = played(line, here.lake.root, capsys)
                assert re.fullmatch(as_pattern(expected), told), f"{name}: {line}\n{told}"


def played(line: str, lake: str, capsys: pytest.CaptureFixture[str]) -> str:
    """What the command prints, without the lines of progress."""
    if line.startswith("pipeline "):
        capsys.readouterr()
        cli.main(shlex.split(line)[1:])
        captured = capsys.readouterr()
        said = captured.out + captured.err
    else:
        environ = {**os.environ, "LAKE": lake, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
        done = subprocess.run(line, shell=True, capture_output=True, text=True, check=False, env=environ)
        said = done.stdout + done.stderr
    return "".join(f"{one}\n" for one in said.splitlines() if not one.startswith(("… ", "✓ ", "✗ ")))


def as_pattern(expected: str) -> str:
    """`…` alone is any lines, none among them; within a line it is anything."""
    lines = expected.splitlines()
    return "".join(
        "(?:.*\n)*" if line == "…" else re.escape(line).replace("…", ".*") + "\n" for line in lines
    )
