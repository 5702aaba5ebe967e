"""The configuration's reference in docs/ is what `pipeline config reference` makes, and says what each key means."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline import cli, reference
from pipeline.settings import flattened, load

PAGE = Path(__file__).parents[1] / "docs" / "configuration.md"


def test_the_page_is_as_the_command_makes_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["config", "reference"]) == 0
    assert PAGE.read_text(encoding="utf-8") == capsys.readouterr().out, (
        "make it anew: pipeline config reference > docs/configuration.md"
    )


def test_every_key_is_there_and_says_what_it_means() -> None:
    rows = [line.split(" | ") for line in reference.lines() if line.startswith("| `")]
    told = {row[0].removeprefix("| ").strip("`"): row for row in rows}
    empty = {"kafka.extension_topics", "kafka.options"}
    assert {*told} == {*flattened(load(None, [], {}))} | empty
    assert [key for key, row in told.items() if not row[3].strip()] == []
    assert told["speed.source"][1:] == [
        "`log`", "text",
        "what views that begin read: log, the ingested tables, decoded and judged once; or kafka, the topics themselves: a second earlier, and each view decodes everything again",
        "`PIPELINE_SPEED__SOURCE` |",
    ]  # fmt: skip
