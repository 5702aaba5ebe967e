"""What README shows is so: its output is recomputed in plain Python, its code is in the sources, its commands are commands."""

from __future__ import annotations

import ast
import re
import shlex
from collections import Counter
from collections.abc import Iterator
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace

import pytest

from pipeline import cli, demo
from pipeline.devservices import generate
from reference import Record, accepted_log, audit_counts, customer_hourly_spend, default_until

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```text\n(.*?)^```", PAGE, re.M | re.S)
OUTPUT = next(f"\n{block}" for block in BLOCKS if "Who spent most" in block)
KINDS = {"orders": "orders", "products": "products", "text_lines": "text-lines"}


def table(title: str) -> tuple[list[str], list[list[str]]]:
    """The columns and the rows of the table below a line that begins so."""
    lines = OUTPUT.partition(f"\n{title}")[2].splitlines()[2:]
    columns, _, *rows = (re.split(r" {2,}", line.strip()) for line in lines[: lines.index("", 1)])
    return columns, rows


@pytest.fixture(scope="module")
def events() -> list[Record]:
    """What `pipeline demo` sends, as it lies in Kafka."""
    given = cli._parser().parse_args(["demo"])
    planned = generate.records(
        events=given.events, seed=given.seed, late=demo.LATE, malformed=demo.MALFORMED, hours=demo.HOURS
    )
    ends: Counter[tuple[str, int]] = Counter()
    found = []
    for one in planned:
        place = (KINDS[one.topic], one.partition)
        found.append(Record(*place, ends[place], one.timestamp_ms, one.key, one.value))
        ends[place] += 1
    return found


def test_the_fates_are_those_of_the_contract(events: list[Record]) -> None:
    expected: dict[str, Counter[str]] = {}
    for (topic, _), counts in audit_counts(events).items():
        expected.setdefault(topic, Counter()).update(vars(counts))
    columns, rows = table("What became of every record")
    for topic, *numbers in rows:
        told = dict(zip(columns[1:], map(int, numbers), strict=True))
        assert told.pop("in the log") == told["delivered"]
        assert told == expected.pop(topic)
    assert expected == {}


def test_who_spent_most_is_who_did(events: list[Record]) -> None:
    log = accepted_log(events)
    spent = sorted(customer_hourly_spend(log, default_until(log)), key=lambda row: -row["hourly_spend"])
    _, rows = table("Who spent most in an hour")
    assert [
        (customer, datetime.fromisoformat(start), datetime.fromisoformat(end), Decimal(spend), int(count))
        for customer, start, end, spend, count, _ in rows
    ] == [(*row.values(),) for row in spent[:10]]


def test_the_tables_look_as_the_demo_prints_them(capsys: pytest.CaptureFixture[str]) -> None:
    _, fates = table("What became of every record")
    fields = ("topic", "delivered", "raw_events", "accepted", "dead", "tombstones", "distinct", "duplicates")
    partitions = [
        SimpleNamespace(**dict(zip(fields, (topic, *map(int, numbers)), strict=True)))
        for topic, *numbers in fates
    ]
    demo._tell_fates(SimpleNamespace(partitions=partitions, faults=[]))  # type: ignore[arg-type]
    _, agreements = table("Batch against speed")
    fields = ("view", "compared", "equal", "late", "unexplained", "late_events")
    demo._tell_agreement(
        [
            SimpleNamespace(**dict(zip(fields, (view, *map(int, numbers)), strict=True)))  # type: ignore[misc]
            for view, *numbers in agreements
        ]
    )
    _, judged = table("What the tables are expected to hold")
    outcomes = ("passed", "warned", "failed", "skipped")
    demo._tell_quality(
        [
            SimpleNamespace(table=name, outcome=outcome, expectation="", expected="", observed="")  # type: ignore[misc]
            for name, *numbers in judged
            for outcome, number in zip(outcomes, numbers, strict=True)
            for _ in range(int(number))
        ]
    )
    printed = [
        block for block in re.split(r"\n\n(?=\S)", capsys.readouterr().out.strip()) if " : " not in block
    ]
    assert len(printed) >= 5
    for block in printed:
        assert block.rstrip() in OUTPUT, block


def test_each_step_is_one_that_the_sources_name() -> None:
    named = re.compile("|".join(f"(?:{title})" for title in step_titles()))
    shown = re.findall(r"^✓ (.+)  [\d.]+ s$", "".join(BLOCKS), re.M)
    assert len(shown) > 20
    assert [title for title in shown if not named.fullmatch(title)] == []


def step_titles() -> Iterator[str]:
    """The titles of steps in the sources, as patterns; and the models of dbt, which are files."""
    for file in (ROOT / "src" / "pipeline").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            is_call = isinstance(node, ast.Call) and isinstance(node.func, (ast.Attribute, ast.Name))
            if is_call and ast.unparse(node.func).rpartition(".")[2] in ("step", "counted"):
                title = node.args[0]
                parts = title.values if isinstance(title, ast.JoinedStr) else [title]
                yield "".join(
                    re.escape(part.value) if isinstance(part, ast.Constant) else ".+"
                    for part in parts
                    if not isinstance(part, ast.Name)
                )
    yield from (file.stem for file in (ROOT / "src" / "pipeline" / "dbt").rglob("*.sql"))


def test_its_code_is_in_the_source_named_above_it() -> None:
    blocks = re.findall(r"\[\w+\.py\]\((src/\S+)\)\):\n\n```python\n(.*?)```", PAGE, re.S)
    assert len(blocks) == PAGE.count("```python")
    for source, code in blocks:
        assert code in (ROOT / source).read_text(encoding="utf-8"), source


def test_every_command_has_its_line_and_every_line_is_a_command() -> None:
    told = {
        name.partition(" --")[0] for name in re.findall(r"`pipeline ([a-z][^`|]*?)(?: \[?[A-Z]\S*)?`", PAGE)
    }
    known = [command.name for group in cli.COMMANDS.values() for command in group]
    for name in known:
        assert name in told or (name.partition(" ")[0] in {one.partition(" ")[0] for one in told}), name
    lines = re.findall(r"^(?:\.venv/bin/)?(pipeline .+)$", PAGE, re.M)
    assert len(lines) >= 6
    for line in lines:
        assert cli._parser().parse_args(shlex.split(line, comments=True)[1:])


def test_every_link_to_a_file_leads_somewhere() -> None:
    pages = [ROOT / "README.md", *(ROOT / "docs").glob("*.md"), ROOT / "notebooks" / "README.md"]
    for page in pages:
        for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
            if "://" not in target:
                assert (page.parent / target).exists(), f"{page.name}: {target}"
