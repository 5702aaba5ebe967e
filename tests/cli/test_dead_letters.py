"""`pipeline dead-letters`: what the words mean, what is shown of a letter, and what each outcome ends with."""

from __future__ import annotations

import json
import re
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from pipeline import cli, dead_letters
from pipeline.dead_letters import Letter, Outcome

ADDRESS = ("orders", 0, 17)
VALUE = (
    b'{"total":1.50,"total":12345678901234567890.10, "items" : [ {"price":1E2,"note":"a, [b] {\\"c\\": 1}"} ],'
    b'"none":[],"name":"Zo\xc3\xab \xc2\x9b31m","ok":true}'
)
PASSES, FAILS = Outcome(1, 0, 0, []), Outcome(1, 1, 0, [(ADDRESS, ["total", "timestamp"])])


def _letter(value: bytes = VALUE, **fields: Any) -> Letter:
    good: dict[str, Any] = {
        "address": ADDRESS,
        "kafka_timestamp": datetime(2026, 3, 1, 12),  # noqa: DTZ001  # as Spark gives it
        "key": b"c1",
        "value": value,
        "headers": [("trace", b"\xff")],
        "violations": ["total"],
        "status": "dead",
        "decisions": [],
        "repaired_value": None,
        "remaining": None,
    }
    return Letter(**{**good, **fields})


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What was asked of the functions behind the commands; `answers` is what they give."""
    seen: dict[str, Any] = {"answer": PASSES}

    def stand_in(name: str) -> None:
        def called(settings: object, *positional: object, **keywords: object) -> Any:
            seen.update(name=name, positional=positional, **keywords)
            return seen["answer"]

        monkeypatch.setattr(dead_letters, name, called)

    for name in ("groups", "letters", "show", "fix", "replay", "discard"):
        stand_in(name)
    return seen


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["list", "--status", "lost"], "discarded"),
        (["list", "--limit", "0"], "--limit"),
        (["show", "orders:0"], "orders 0"),
        (["show", "orders", "0"], "orders 0"),
        (["show", "orders", "0", "-1"], "-1"),
        (["show", "orders:0:x"], "topic:partition:offset"),
        (["show", "orders:0:1", "orders:0:2"], "came 2"),
        (["fix", "orders:0:1", "--reason", "x"], "--patch"),
        (["fix", "orders:0:1", "--patch", "{}"], "--reason"),
        (["fix", "orders:0:1", "--patch", "{}", "--reason", " "], "--reason"),
        (["fix", "orders:0:1", "--patch", "status=completed", "--reason", "x"], "status=completed"),
        (["fix", "orders:0:1", "--patch", "[1]", "--reason", "x"], "JSON object"),
        (["fix", "orders:0:1", "--patch", "{}", "--value", "x", "--reason", "x"], "--value"),
        (["fix", "--patch", "{}", "--reason", "x"], "--bulk"),
        (["fix", "--bulk", "asume-utc", "--reason", "x"], "assume-utc"),
        (["fix", "orders:0:1", "--bulk", "trim", "--topic", "orders", "--reason", "x"], "--topic"),
        (["fix", "orders:0:1", "--value-file", "/no/such/file", "--reason", "x"], "/no/such/file"),
        (["discard", "orders:0:1"], "--reason"),
        (["discard", "--reason", "x"], "ADDRESS"),
    ],
)
def test_wrong_usage_ends_with_2_before_anything_is_done(
    words: list[str], told: str, calls: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["dead-letters", *words]) == 2
    captured = capsys.readouterr()
    assert told in captured.err
    assert captured.out == ""
    assert "name" not in calls


def test_a_value_of_a_file_that_is_not_utf8_is_refused(
    calls: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "value"
    file.write_bytes(b"\xff")
    assert cli.main(["dead-letters", "fix", "orders:0:1", "--value-file", str(file), "--reason", "x"]) == 2
    assert "UTF-8" in capsys.readouterr().err
    file.write_bytes("Zoë\n".encode())
    assert cli.main(["dead-letters", "fix", "orders:0:1", "--value-file", str(file), "--reason", "x"]) == 0
    (patch,) = calls["positional"]
    assert patch.apply(b"before") == "Zoë\n".encode()


def test_addresses_are_one_word_or_three(calls: dict[str, Any]) -> None:
    words = ["orders:0:17", "my.topic", "2", "5", "orders:0:17"]
    assert cli.main(["dead-letters", "discard", *words, "--author", "ann", "--reason", "old"]) == 0
    assert calls["positional"] == ([ADDRESS, ("my.topic", 2, 5)],)
    assert (calls["author"], calls["reason"]) == ("ann", "old")


def test_who_decides_is_by_default_the_user_of_the_system(
    calls: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOGNAME", "operator")
    words = ["--bulk", "assume-utc", "--bulk", "trim", "--violation", "timestamp"]
    assert cli.main(["dead-letters", "fix", *words, "--reason", "x", "--dry-run"]) == 0
    assert (calls["author"], calls["violation"], calls["dry_run"]) == ("operator", "timestamp", True)
    assert calls["positional"][0].form == "bulk:assume-utc,trim"


@pytest.mark.parametrize(
    ("words", "outcome", "exit_code"),
    [
        (["fix", "orders:0:17", "--patch", "{}", "--reason", "x"], PASSES, 0),
        (["fix", "orders:0:17", "--patch", "{}", "--reason", "x"], FAILS, 1),
        (["fix", "--bulk", "trim", "--reason", "x"], FAILS, 0),
        (["replay"], PASSES, 0),
        (["replay", "--dry-run"], FAILS, 1),
    ],
)
def test_what_does_not_pass_ends_with_1_and_is_told(
    words: list[str],
    outcome: Outcome,
    exit_code: int,
    calls: dict[str, Any],
    capsys: pytest.CaptureFixture[str],
) -> None:
    calls["answer"] = outcome
    assert cli.main(["dead-letters", *words, "--format", "json"]) == exit_code
    told = json.loads(capsys.readouterr().out)
    assert (told["passed"], told["rejected"], told["dry_run"]) == (1, outcome.rejected, "--dry-run" in words)
    assert told["still_dead"] == [
        {"address": "orders:0:17", "violations": broken} for _, broken in outcome.still_dead
    ]
    assert cli.main(["dead-letters", *words]) == exit_code
    table = capsys.readouterr().out.split("still dead")[1:]
    assert [re.findall(r"orders:0:17 +total, timestamp", rows) != [] for rows in table] == [
        True
    ] * outcome.rejected


def test_json_is_shown_indented_and_every_token_as_it_was_written(
    calls: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    calls["answer"] = _letter()
    assert cli.main(["dead-letters", "show", "orders", "0", "17"]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert calls["positional"] == (ADDRESS,)
    assert shown[0] == "orders:0:17  dead"
    assert "header:     trace = \\xff" in shown
    start = shown.index(f"value:      {len(VALUE)} bytes") + 1
    assert shown[start:] == [
        "  {",
        '    "total": 1.50,',
        '    "total": 12345678901234567890.10,',
        '    "items": [',
        "      {",
        '        "price": 1E2,',
        '        "note": "a, [b] {\\"c\\": 1}"',
        "      }",
        "    ],",
        '    "none": [],',
        '    "name": "Zoë \\x9b31m",',
        '    "ok": true',
        "  }",
    ]


def test_bytes_that_are_no_text_are_shown_escaped(
    calls: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    calls["answer"] = _letter(b"\xff\xfe{\x1b[31m\nred", repaired_value=b"red", remaining=["not_json"])
    assert cli.main(["dead-letters", "show", "orders:0:17"]) == 0
    shown = capsys.readouterr().out
    assert "  \\xff\\xfe{\\x1b[31m\n  red\n" in shown
    assert "\x1b" not in shown
    assert "under its patch, which still violates not_json:\n  red\n" in shown


def test_a_long_value_is_cut_and_raw_gives_all_of_it(
    calls: dict[str, Any], capsysbinary: pytest.CaptureFixture[bytes]
) -> None:
    value = b"\xff" + b"x" * 1_100_000
    calls["answer"] = _letter(value)
    assert cli.main(["dead-letters", "show", "orders:0:17"]) == 0
    shown = capsysbinary.readouterr().out
    assert len(shown) < 12_000
    assert b"--raw" in shown
    assert cli.main(["dead-letters", "show", "orders:0:17", "--raw"]) == 0
    assert capsysbinary.readouterr().out == value


def test_a_letter_as_json(calls: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    decision = {
        "status": "fixed",
        "patch_form": "merge",
        "patch": "{}",
        "author": "ann",
        "reason": "x",
        "made_at": datetime(2026, 3, 1, 13),  # noqa: DTZ001
        "replayed_at": None,
    }
    calls["answer"] = _letter(b"\xffa", decisions=[decision], repaired_value=b"b", remaining=[])
    assert cli.main(["dead-letters", "show", "orders:0:17", "--format", "json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["topic"], told["partition"], told["offset"]) == ADDRESS
    assert told["kafka_timestamp"] == "2026-03-01T12:00:00Z"
    assert (told["value"], told["value_base64"]) == ("\\xffa", "/2E=")
    assert told["decisions"] == [{**decision, "made_at": "2026-03-01T13:00:00Z"}]
    assert (told["repaired_value"], told["remaining_violations"]) == ("b", [])
