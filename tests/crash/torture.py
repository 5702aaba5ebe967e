"""`make torture CASES=300 KILLS=60 SEED=1`: as many crashes as asked, so many of them kill -9, in pieces of one session each.

Each piece is a test run of its own, so that a session that dies costs no more than its piece. At the end: how many
crashes there were and of which kind, and for each failure its seed and the command that plays it again.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
CRASH_SEEDS_IN_A_PIECE = 8
KILL_SEEDS_IN_A_PIECE = 4


@dataclass
class Tally:
    """What has happened so far; `failures` are (test, command that plays it again)."""

    crashes: Counter[str] = field(default_factory=Counter)
    cases: int = 0
    failures: list[tuple[str, str]] = field(default_factory=list)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=300, help="how many crashes at least")
    parser.add_argument(
        "--kills", type=int, help="how many of them at least are kill -9; a fifth unless said"
    )
    parser.add_argument("--seed", type=int, default=1, help="the first seed; the others follow it")
    asked = parser.parse_args(argv)
    kills_asked = asked.cases // 5 if asked.kills is None else asked.kills
    tally = Tally()
    crash_seed = kill_seed = asked.seed
    while len(tally.failures) < 20:
        others = sum(tally.crashes.values()) - tally.crashes["kill -9"]
        kills_due, others_due = tally.crashes["kill -9"] < kills_asked, others < asked.cases - kills_asked
        if not kills_due and not others_due:
            break
        kills = range(kill_seed, kill_seed + (KILL_SEEDS_IN_A_PIECE if kills_due else 0))
        crashes = range(crash_seed, crash_seed + (CRASH_SEEDS_IN_A_PIECE if others_due else 0))
        _play(crashes, kills, tally)
        kill_seed, crash_seed = kill_seed + len(kills), crash_seed + len(crashes)
        print(
            f"{sum(tally.crashes.values())} crashes in {tally.cases} cases, {len(tally.failures)} failed",
            flush=True,
        )
    _tell(tally)
    return 1 if tally.failures else 0


def _play(crashes: range, kills: range, tally: Tally) -> None:
    with tempfile.TemporaryDirectory() as folder:
        notes, report = Path(folder) / "notes", Path(folder) / "report.xml"
        ran = subprocess.run(
            _command(report),
            cwd=REPOSITORY,
            env={
                **os.environ,
                "CRASH_SEEDS": _joined(crashes),
                "KILL_SEEDS": _joined(kills),
                "CRASH_NOTES": str(notes),
            },
            capture_output=True,
            text=True,
            check=False,
        )
        for line in notes.read_text().splitlines() if notes.exists() else []:
            played = json.loads(line)
            tally.cases += 1
            tally.crashes.update(map(_kind, played["crashes"]))
        failed = _failed(report)
        if ran.returncode and not failed:
            failed = [("the session itself ended", f"crashes {_joined(crashes)}, kills {_joined(kills)}")]
        for name, why in failed:
            tally.failures.append((name, _replay(name, crashes, kills)))
            print(f"FAILED {name}: {why}", flush=True)
        if failed:
            print(ran.stdout[-6000:], flush=True)


def _command(report: Path) -> list[str]:
    which = "tests/crash/test_crashes.py"
    tests = "test_nothing_is_lost_and_nothing_twice or test_nothing_is_lost_when_the_processes_are_killed"
    return [sys.executable, "-m", "pytest", which, "-k", tests, "-q", f"--junitxml={report}"]


def _joined(seeds: range) -> str:
    return f"{seeds[0]}-{seeds[-1]}" if seeds else ""


def _kind(crash: str) -> str:
    if crash.startswith("kill -9"):
        return "kill -9"
    return "last commit removed" if "commits/" in crash else "failpoint"


def _failed(report: Path) -> list[tuple[str, str]]:
    if not report.exists():
        return []
    failed = []
    for case in ET.parse(report).iter("testcase"):
        for trouble in [*case.iter("failure"), *case.iter("error")]:
            failed.append((case.get("name", ""), (trouble.get("message") or "").splitlines()[0][:200]))
    return failed


def _replay(name: str, crashes: range, kills: range) -> str:
    seed = name.partition("[")[2].rstrip("]")
    is_kill = "killed" in name
    crash_seeds = "" if is_kill else seed or _joined(crashes)
    kill_seeds = seed if is_kill else ("" if seed else _joined(kills))
    return f"CRASH_SEEDS={crash_seeds} KILL_SEEDS={kill_seeds} {sys.executable} -m pytest tests/crash/test_crashes.py"


def _tell(tally: Tally) -> None:
    kinds = ", ".join(f"{count} {kind}" for kind, count in tally.crashes.most_common())
    print(f"{sum(tally.crashes.values())} crashes ({kinds}) in {tally.cases} cases that hold.")
    print(f"{len(tally.failures)} cases failed." if tally.failures else "No violation.")
    for name, command in tally.failures:
        print(f"  {name}\n    {command}")


if __name__ == "__main__":
    sys.exit(main())
