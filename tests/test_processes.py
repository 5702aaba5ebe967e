"""Every command that a page shows, as a process of its own on one lake, in the order in which a user comes to it.

A command that is called within the session of a test finds there what others have started: streams, caches, Spark's own
services. Here each begins with nothing. Those that only read run side by side.
"""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
import threading
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

import pytest
from deltalake import DeltaTable

from pipeline import cli
from pipeline.devservices.ports import claim_port
from pipeline.tables import DEAD_LETTERS, table_path

pytestmark = [pytest.mark.kafka, pytest.mark.postgres]

ROOT = Path(__file__).parents[1]
PAGES = {
    path.name: path.read_text(encoding="utf-8")
    for path in (ROOT / "README.md", *(ROOT / "docs").glob("*.md"))
}
SAME = {"--set", "--env", "--debug", "--once", "--yes", "--format"}
"""With and without these a command does the same: on another lake, until it is told to stop, without a question, in JSON."""
PLAYED_ELSEWHERE = {
    "demo": "test_readme.py::test_the_tables_look_as_the_demo_prints_them",
    "etl-orders": "test_flow.py::test_the_steps_of_the_etl_put_the_facts_into_the_warehouse",
    "elt": "test_elt.py::test_another_process_finds_the_table_of_an_earlier_one",
}
"""By command the test that plays it, or holds what is shown of it: `make demo` itself takes minutes."""
LIMIT_SECONDS = 600
SPEND = "customer_hourly_spend"
HORIZON = "2026-01-01T05:00:00Z"


@dataclass(frozen=True)
class Shown:
    """`says`: patterns that are found in what it prints; one of `head` is the head of a table as a page shows it."""

    line: str
    says: Sequence[str] = ()
    is_stopped: bool = False


@dataclass(frozen=True)
class Ended:
    exit_code: int
    said: str


def head(page: str, *first: str) -> str:
    """The head of a table that the page shows, known by its first columns; `…` there stands for columns left out."""
    found = re.search(r"^ ?(" + r" {2,}".join(map(re.escape, first)) + r"\b.*)$", PAGES[page], re.M)
    assert found, f"{page} shows no table of {first}"
    columns = re.split(r" {2,}", found[1])
    return r"^ ?" + r" {2,}".join(".*" if one == "…" else re.escape(one) for one in columns)


STAGES: Sequence[Sequence[Shown]] = [
    [
        Shown(
            "pipeline generate --events 600 --malformed 0.02",
            [r"^Sent .*\d+ to orders.*; of these \d+ late, \d+ duplicates, \d+ malformed"],
        )
    ],
    [Shown(f"pipeline run {SPEND} --once")],
    [
        Shown("pipeline ingest --once"),
        Shown("pipeline speed customer_totals --once"),
    ],
    [Shown(f"pipeline batch {SPEND} customer_totals --until {HORIZON}", ["✓ batch customer_totals"])],
    [
        Shown("pipeline audit", ["Every offset of Kafka is accounted for"]),
        Shown(f"pipeline reconcile {SPEND}", [head("runbook.md", "view", "horizon"), rf"^ {SPEND} +{HORIZON}"]),
        Shown("pipeline quality", ["order_events +.*each record once +passed"]),
        Shown(f"pipeline late {SPEND}", [head("runbook.md", "view", "late events")]),
        Shown("pipeline plan", ["customer_totals_v2 +unchanged", "ingest_v1 +unchanged"]),
        Shown("pipeline state list", ["customer_totals .*transformWithState"]),
        Shown(
            "pipeline state show customer_totals --key c-00000", ['"customer_id":"c-00000".*"order_count":']
        ),
        Shown("pipeline dead-letters list", [head("runbook.md", "topic", "violation", "count")]),
        Shown("pipeline dead-letters show {letter}", ["^{letter}  dead", "^violates: "]),
        Shown(
            f"pipeline query {SPEND} --changed-between {{before_batch}} {{after_batch}}",
            ["customer_id +window_start +change +because of"],
        ),
        Shown("pipeline maintain --dry-run"),
        Shown(
            f"pipeline query {SPEND} --order-by hourly_spend desc --limit 10",
            [head("README.md", "customer_id", "window_start"), "^ c-0"],
        ),
        Shown("pipeline query customer_totals --where \"customer_id = 'c-00000'\"", ["^ c-00000"]),
        Shown("pipeline status", [head("status.md", "streaming query", "is"), "^customer_totals +stopped +\\d"]),
        Shown("pipeline status --watch 1", [head("status.md", "streaming query", "is")], is_stopped=True),
        Shown("pipeline status --check --set alerts.max_lag_records=1000000", ["^within the limits"]),
        Shown("pipeline report --output {folder}/orders.html --pictures {folder}/pictures", [r"orders\.html"]),
        Shown("pipeline serve --set serve.port=0", [r"http://127\.0\.0\.1:\d+/"], is_stopped=True),
        Shown("pipeline stop", ["^No query is running on the lake"]),
        Shown("pipeline config show", [r"^lake\.root: .*PIPELINE_LAKE__ROOT"]),
        Shown("pipeline config reference", [re.escape("| `kafka.bootstrap_servers` | `localhost:29092` |")]),
    ],
    [
        Shown(
            "pipeline dead-letters fix --bulk assume-utc --violation timestamp --reason tried --dry-run",
            ["letters? would pass a replay"],
        ),
        Shown(
            "pipeline dead-letters fix {letter} --value nothing --reason tried", ["^0 letters would pass a replay, 1 not"]
        ),
        Shown(f"pipeline replay {SPEND} --once", [f"✓ replay {SPEND}: the history in order"]),
    ],
    [
        Shown("pipeline dead-letters replay", ["^0 letters passed, 1 not"]),
        Shown(f"pipeline promote {SPEND} --yes", [f"^{SPEND}: readers see version 1r1 now; back to 1: pipeline rollback"]),
    ],
    [
        Shown("pipeline dead-letters discard {letter} --reason tried", ["^1 letter discarded"]),
        Shown(f"pipeline rollback {SPEND}", [f"^{SPEND}: readers see version 1 again; 1r1 is kept"]),
    ],
    [Shown("pipeline maintain", ["^There is nothing to do|^ action"])],
    [Shown("pipeline erase --customer c-00001 --yes --by-text leave", ["; 0 rows of the customer are left", "^made anew: .*customer_totals"])],
]  # fmt: skip
CASES = {one.line: one for stage in STAGES for one in stage}
EXIT_CODES = {
    "pipeline serve --set serve.port=0": 130,  # Ctrl-C
    "pipeline dead-letters fix {letter} --value nothing --reason tried": 1,
    "pipeline dead-letters replay": 1,
}


class Terminal:
    """Runs command lines, each as a process; `environ` says on which lake, `known` what stands for a name in braces."""

    def __init__(self, folder: Path) -> None:
        self.known = {"folder": str(folder)}
        self.environ = {
            **{name: value for name, value in os.environ.items() if not name.startswith("PIPELINE_")},
            "PYTHONPATH": str(ROOT / "src"),
            "PIPELINE_ENV": "test",
            "PIPELINE_LAKE__ROOT": str(folder / "lake"),
            "PIPELINE_DEVSERVICES__HOME": str(folder / "services"),
            "PIPELINE_DEVSERVICES__KAFKA_PORT": str(claim_port(0, service="Kafka")),
            "PIPELINE_DEVSERVICES__POSTGRES_PORT": str(claim_port(0, service="Postgres")),
        }

    def play(self, one: Shown) -> Ended:
        words = shlex.split(one.line.format_map(self.known))[1:]
        command = [sys.executable, "-m", "pipeline", *words]
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=self.environ,
            cwd=self.known["folder"],
        ) as process:  # fmt: skip
            timer = threading.Timer(LIMIT_SECONDS, process.kill)
            timer.start()
            assert process.stdout is not None
            said = []
            for line in process.stdout:
                said.append(line)
                if one.is_stopped and re.search(one.says[0], line):
                    process.send_signal(signal.SIGINT)
            exit_code = process.wait()
            timer.cancel()
        return Ended(exit_code, "".join(said))

    def now(self, name: str) -> None:
        self.known[name] = f"{datetime.now(timezone.utc):%Y-%m-%dT%H:%M:%S.%fZ}"


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Ended]:
    """By line how the command ended."""
    terminal = Terminal(tmp_path_factory.mktemp("processes"))
    up = terminal.play(Shown("pipeline up"))
    try:
        for setting, value in re.findall(r"^([a-z_.]+)=(.+)$", up.said, re.M):
            terminal.environ[f"PIPELINE_{setting.replace('.', '__').upper()}"] = value
        told = {"pipeline up": up}
        with ThreadPoolExecutor(2) as lanes:
            for stage in STAGES:
                lines = [one.line for one in stage]
                if any("--until" in line for line in lines):
                    terminal.known["letter"] = some_letter(terminal)
                    terminal.now("before_batch")
                told |= zip(lines, lanes.map(terminal.play, stage), strict=True)
                if any("--until" in line for line in lines):
                    terminal.now("after_batch")
    finally:
        down = terminal.play(Shown("pipeline down"))
    return {**told, "pipeline down": down}


def some_letter(terminal: Terminal) -> str:
    """The address of an order that is dead, as `dead-letters list` has it."""
    table = DeltaTable(table_path(terminal.environ["PIPELINE_LAKE__ROOT"], DEAD_LETTERS))
    found = table.to_pyarrow_table(
        columns=["topic", "partition", "offset"], filters=[("topic", "=", "orders")]
    )
    return ":".join(map(str, found.to_pylist()[0].values()))


@pytest.mark.parametrize("line", ["pipeline up", *CASES, "pipeline down"])
def test_a_command_does_in_a_process_of_its_own_what_its_page_says(
    line: str, ended: Mapping[str, Ended]
) -> None:
    one = ended[line]
    assert one.exit_code == EXIT_CODES.get(line, 0), one.said
    for pattern in CASES[line].says if line in CASES else ():
        pattern = re.sub(r"\{letter\}", r"\\S+", pattern)
        assert re.search(pattern, one.said, re.M), f"{pattern}\n{one.said}"


def command_and_options(line: str) -> tuple[str, set[str]]:
    words = shlex.split(line, comments=True)[1:]
    parsed = cli._parser().parse_args(words)
    name = " ".join(filter(None, (parsed.command, getattr(parsed, "subcommand", None))))
    return name, {word.partition("=")[0] for word in words if re.match(r"--[a-z]", word)} - SAME


def documented() -> Iterator[str]:
    """Each command line that stands in a block of a page, to be typed or as typed."""
    line = r"^(?:\$ )?(?:[A-Z_]+=\S+ )?(?:\.venv/bin/)?(pipeline [a-z].*?)(?: \| .*)?$"
    for text in PAGES.values():
        for block in re.findall(r"^```(?:sh|console)\n(.*?)^```", text, re.M | re.S):
            yield from re.findall(line, block, re.M)


def test_every_command_and_every_option_that_a_page_shows_is_played() -> None:
    played: dict[str, set[str]] = defaultdict(set)
    for line in ("pipeline up", "pipeline down", *CASES):
        name, options = command_and_options(line)
        played[name] |= options
    known = {command.name for group in cli.COMMANDS.values() for command in group}
    assert known - {*played} == {*PLAYED_ELSEWHERE}
    for file, _, test in (where.partition("::") for where in PLAYED_ELSEWHERE.values()):
        assert f"def {test}(" in (ROOT / "tests" / file).read_text(encoding="utf-8")
    lines = [*documented()]
    assert len(lines) > 50
    for line in lines:
        name, options = command_and_options(line)
        assert name in PLAYED_ELSEWHERE or options <= played[name], line
