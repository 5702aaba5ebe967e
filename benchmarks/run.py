"""Benchmarks: candidates take turns on the same topic, in the opposite order every second round, and wrong answers void their times."""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

from answers import Wrong, check
from drains import CANDIDATES, WORKLOADS, command_of, ingest
from events import Preloaded, preload
from measure import Cost, Failed, measured

from pipeline.devservices import kafka

_TIMEOUT_SECONDS = 1800


@dataclass(frozen=True)
class Run:
    workload: str
    candidate: str
    round: int
    cost: Cost | None
    verdict: str


def runs_of(
    workload: str, loaded: Preloaded, *, candidates: Iterable[str], rounds: int, settings: tuple[str, ...]
) -> list[Run]:
    """Each candidate once a round. Who rebuilds finds the log ingested, once for all."""
    lake = loaded.answers / "lake"
    if workload.startswith("rebuild") and not (lake.parent / "ingested").exists():
        print("ingesting what is to be rebuilt from", flush=True)
        measured(ingest(loaded, lake), timeout_seconds=_TIMEOUT_SECONDS)
        (lake.parent / "ingested").touch()
    able = [name for name in candidates if workload in CANDIDATES[name]]
    runs = []
    for number in range(1, rounds + 1):
        for name in able if number % 2 else reversed(able):
            runs.append(_run(workload, name, number, loaded, lake, settings))
            _tell(runs[-1], loaded.records)
    return runs


def _run(
    workload: str, candidate: str, number: int, loaded: Preloaded, lake: Path, settings: tuple[str, ...]
) -> Run:
    with tempfile.TemporaryDirectory(prefix="pipeline-bench-") as folder:
        out = Path(folder) / "out"
        command = command_of(candidate, workload, loaded, out=out, lake=lake, settings=settings)
        try:
            cost = measured(command, timeout_seconds=_TIMEOUT_SECONDS)
            answer = cost.answer if candidate == "pipeline" else str(out)
            return Run(workload, candidate, number, cost, check(workload, answer, loaded))
        except (Failed, Wrong) as error:
            return Run(workload, candidate, number, None, f"{type(error).__name__}: {error}")


def _tell(run: Run, records: int) -> None:
    if run.cost is None:
        print(f"{run.workload:8} {run.candidate:12} round {run.round}: void. {run.verdict}", flush=True)
        return
    rate = records / run.cost.drain_seconds
    print(
        f"{run.workload:8} {run.candidate:12} round {run.round}: {rate:10,.0f} events/s  drain {run.cost.drain_seconds:7.2f} s  "
        f"CPU {run.cost.cpu_seconds:7.2f} s  {run.cost.peak_mebibytes:6.0f} MiB  {run.verdict}",
        flush=True,
    )


def table(runs: list[Run], records: int) -> str:
    """Medians with minimum and maximum of the right runs, as Markdown; the ratio is the pipeline's rate to theirs, round by round."""
    lines = [
        "| workload | candidate | right | events/s | drain s | CPU µs/event | peak MiB | pipeline is … times as fast |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for workload, name in dict.fromkeys((run.workload, run.candidate) for run in runs):
        mine = [run for run in runs if (run.workload, run.candidate) == (workload, name)]
        right = {run.round: run.cost for run in mine if run.cost is not None}
        ours = {
            run.round: run.cost
            for run in runs
            if (run.workload, run.candidate) == (workload, "pipeline") and run.cost
        }
        ratios = [
            right[number].drain_seconds / ours[number].drain_seconds for number in right if number in ours
        ]
        if not right:
            lines.append(f"| {workload} | {name} | 0/{len(mine)} | | | | | |")
            continue
        drains = [cost.drain_seconds for cost in right.values()]
        cells = [
            workload,
            name,
            f"{len(right)}/{len(mine)}",
            f"{records / statistics.median(drains):,.0f}",
            _spread(drains),
            _spread([cost.cpu_seconds * 1e6 / records for cost in right.values()]),
            f"{statistics.median(cost.peak_mebibytes for cost in right.values()):,.0f}",
            _spread(ratios, 2) if ratios and name != "pipeline" else "",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _spread(values: list[float], digits: int = 1) -> str:
    return f"{statistics.median(values):.{digits}f} ({min(values):.{digits}f}–{max(values):.{digits}f})"


def machine() -> dict[str, str | int | None]:
    packages = ("pyspark", "delta-spark", "polars", "deltalake", "duckdb", "confluent-kafka")
    return {
        "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "cores": os.cpu_count(),
        "memory_gibibytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2**30,
        "system": platform.platform(),
        "python": platform.python_version(),
        **{name: version(name) for name in packages},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("workloads", nargs="*", help=f"of {', '.join(WORKLOADS)} (default: all)")
    parser.add_argument("--events", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument(
        "--candidates", default=",".join(CANDIDATES), help="separated by commas (default: all)"
    )
    parser.add_argument(
        "--set",
        dest="settings",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="a setting of the pipeline",
    )
    parser.add_argument(
        "--folder",
        type=Path,
        default=Path.home() / ".pipeline" / "bench",
        help="the broker's data and the answers, kept",
    )
    parser.add_argument("--json", type=Path, help="write every run there")
    options = parser.parse_args()
    if unknown := [name for name in options.workloads if name not in WORKLOADS]:
        parser.error(f"no workload {unknown[0]}; there are {', '.join(WORKLOADS)}")
    with kafka.broker(options.folder / "kafka") as broker:
        loaded = preload(
            broker.bootstrap_servers, options.folder, events=options.events, seed=options.seed, told=_say
        )
        runs = [
            run
            for workload in options.workloads or WORKLOADS
            for run in runs_of(
                workload,
                loaded,
                candidates=options.candidates.split(","),
                rounds=options.rounds,
                settings=tuple(options.settings),
            )
        ]
    about = machine()
    print(
        f"\n{loaded.records:,} events, {options.rounds} rounds, {json.dumps(about)}\n\n{table(runs, loaded.records)}"
    )
    if options.json:
        options.json.write_text(
            json.dumps({**about, "events": loaded.records, "runs": [asdict(run) for run in runs]}, indent=1)
        )
    if any(run.cost is None for run in runs):
        sys.exit(1)


def _say(text: str) -> None:
    print(text, flush=True)


if __name__ == "__main__":
    main()
