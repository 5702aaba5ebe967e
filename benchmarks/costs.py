"""What only this project can be asked: start-up, growth, a log of many files, the price of each output, keyed state.

Each part prints a line for each round, and the medians with minimum and maximum.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import duckdb
from deltalake import DeltaTable
from drains import command_of, job
from events import Preloaded, preload
from measure import measured

from pipeline.devservices import kafka
from pipeline.ingest import QUERY
from pipeline.tables import ORDER_EVENTS, RAW_EVENTS

Of = TypeVar("Of")

_LIVE_FILES = 20_000
_FEW_FILES = 100
_AROUND = 30
"""Batches before the one that is looked at, and after it."""
_COUNTED = 2 * _AROUND - 25
_HOURS, _MANY_HOURS = 6, 240
_SMALL_BATCHES = ("ingest.max_offsets_per_trigger=500", "ingest.trigger=0 seconds", "metrics.history=kept")


def start(loaded: Preloaded, folder: Path, rounds: int) -> None:
    """From the start of the process to its first commit with rows, this and plain Spark; and `pipeline --help`."""
    times: dict[str, list[float]] = {"pipeline": [], "plain_spark": [], "help": []}
    few = ("ingest.max_offsets_per_trigger=1000",)
    for number in range(rounds):
        for name, table, first in _in_turn(
            [("pipeline", "raw_events", 1), ("plain_spark", "", 0)], is_reversed=number % 2
        ):
            out = folder / f"{name}-{number}"
            command = command_of(name, "log", loaded, out=out, lake=out, settings=few)
            times[name].append(_seconds_to_commit(command, out / table, first))
        times["help"].append(_seconds([str(Path(sys.executable).with_name("pipeline")), "--help"]))
    _tell(times, "s", ratios={"plain_spark / pipeline": ("plain_spark", "pipeline")})


def growth(loaded: Preloaded, folder: Path, rounds: int) -> None:
    """The time of a micro-batch of ingest, 500 records each, around its commits 100 and 2,000."""
    lake, young, old = (folder / name for name in ("lake", "young", "old"))
    _drain_until(loaded, lake, batch=100 - _AROUND)
    _copy(lake, young)
    _drain_until(loaded, lake, batch=2_000 - _AROUND)
    _copy(lake, old)
    _compare_batches(loaded, folder, rounds, {"commit 2,000": old, "commit 100": young})


def files(loaded: Preloaded, folder: Path, rounds: int) -> None:
    """The time of a micro-batch of ingest, 500 records each, into tables of 20,000 and of 100 live files."""
    few, many = folder / "few", folder / "many"
    _drain_until(loaded, few, batch=5)
    _copy(few, many)
    for lake, count in ((few, _FEW_FILES), (many, _LIVE_FILES)):
        for table in (RAW_EVENTS, ORDER_EVENTS):
            _add_files(lake / table, count)
    _compare_batches(loaded, folder, rounds, {"20,000 files": many, "100 files": few})


def _compare_batches(loaded: Preloaded, folder: Path, rounds: int, lakes: Mapping[str, Path]) -> None:
    """Go on with a copy of each lake; the first micro-batches of a process are not counted."""
    first, second = lakes
    found: dict[str, list[float]] = {name: [] for name in lakes}
    for number in range(rounds):
        for name, kept in _in_turn([*lakes.items()], is_reversed=number % 2):
            lake = folder / "copy"
            _copy(kept, lake)
            last = _last_batch(lake) + 2 * _AROUND
            _drain_until(loaded, lake, batch=last)
            durations = _durations(lake)
            found[name].append(
                statistics.median(durations[batch] for batch in range(last - _COUNTED, last + 1))
            )
            shutil.rmtree(lake)
            print(f"{name}: {found[name][-1]:.0f} ms", flush=True)
    _tell(found, "ms", ratios={f"{first} / {second}": (first, second)})


def outputs(loaded: Preloaded, folder: Path, rounds: int) -> None:
    """CPU of ingest, in all: with all of its tables, and with the dearest alone."""
    _compare_cpu(loaded, folder, rounds, {"all": "ingest", "order_events alone": "ingest:order_events"})


def state(loaded: Preloaded, folder: Path, rounds: int) -> None:
    """CPU of totals per customer, in all: as keyed state, and by Spark's own aggregation."""
    _compare_cpu(
        loaded, folder, rounds, {"keyed": "speed:customer_totals", "built in": "built-in:customer_totals"}
    )


def incremental(loaded: Preloaded, folder: Path, rounds: int) -> None:
    """A batch run of customer_hourly_spend after 1 to 2 % new rows, incremental and in full; start-up apart.

    It goes by time, so the events are spread over 240 hours. One incremental run has gone before, as in a schedule: the first
    takes the newest rows out of files that hold those of all times.
    """
    settings = (f"ingest.max_offsets_per_trigger={loaded.records // 100}", "ingest.trigger=0 seconds")
    kept = folder / "kept"
    _drain_until(loaded, kept, batch=94, settings=settings)
    measured(job("batch:customer_hourly_spend", loaded, kept, ()), timeout_seconds=3600)
    _drain_until(loaded, kept, batch=_last_batch(kept) + 1, settings=settings)
    measured(job("batch-incremental:customer_hourly_spend", loaded, kept, ()), timeout_seconds=3600)
    _drain_until(loaded, kept, batch=_last_batch(kept) + 1, settings=settings)
    found: dict[str, list[float]] = {"incremental": [], "full": []}
    for number in range(rounds):
        for name, what in _in_turn(
            [("incremental", "batch-incremental"), ("full", "batch")], is_reversed=number % 2
        ):
            lake = folder / "copy"
            _copy(kept, lake)
            cost = measured(job(f"{what}:customer_hourly_spend", loaded, lake, ()), timeout_seconds=3600)
            found[name].append(cost.drain_seconds)
            shutil.rmtree(lake)
            print(f"{name}: {cost.drain_seconds:.2f} s", flush=True)
    _tell(found, "s", ratios={"incremental / full": ("incremental", "full")})


def _compare_cpu(loaded: Preloaded, folder: Path, rounds: int, jobs: Mapping[str, str]) -> None:
    first, second = jobs
    found: dict[str, list[float]] = {name: [] for name in jobs}
    for number in range(rounds):
        for name, what in _in_turn([*jobs.items()], is_reversed=number % 2):
            lake = folder / "lake"
            cost = measured(job(what, loaded, lake, ()), timeout_seconds=3600)
            found[name].append(cost.cpu_seconds * 1e6 / loaded.records)
            shutil.rmtree(lake)
            print(f"{name}: {found[name][-1]:.1f} µs/event, drain {cost.drain_seconds:.1f} s", flush=True)
    _tell(found, "CPU µs/event", ratios={f"{first} / {second}": (first, second)})


PARTS: Mapping[str, Callable[[Preloaded, Path, int], None]] = {
    part.__name__: part for part in (start, growth, files, outputs, state, incremental)
}


def _in_turn(these: Sequence[Of], *, is_reversed: int) -> Sequence[Of]:
    return [*reversed(these)] if is_reversed else these


def _seconds(command: Sequence[str]) -> float:
    began = time.monotonic()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.monotonic() - began


def _seconds_to_commit(command: Sequence[str], table: Path, version: int) -> float:
    commit = table / "_delta_log" / f"{version:020d}.json"
    began = time.monotonic()
    running = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    while not commit.exists():
        if running.poll() is not None:
            raise RuntimeError(f"{command[1]} has ended without a commit")
        time.sleep(0.01)
    took = time.monotonic() - began
    os.killpg(running.pid, signal.SIGKILL)
    running.wait()
    return took


def _drain_until(
    loaded: Preloaded, lake: Path, *, batch: int, settings: tuple[str, ...] = _SMALL_BATCHES
) -> None:
    """Ingest until the query has finished that batch, and end it as an operator would."""
    command = job("ingest", loaded, lake, settings)
    running = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    commit = lake / "_checkpoints" / QUERY / "commits" / str(batch)
    while not commit.exists() and running.poll() is None:
        time.sleep(0.05)
    running.terminate()
    if running.wait():
        raise RuntimeError(f"{command[1]} has ended with code {running.returncode}")


def _last_batch(lake: Path) -> int:
    names = (file.name for file in (lake / "_checkpoints" / QUERY / "commits").iterdir())
    return max(int(name) for name in names if name.isdigit())


def _copy(lake: Path, to: Path) -> None:
    """By further names of the same files: neither Delta nor Spark writes into a file that is there."""
    shutil.copytree(lake, to, copy_function=os.link)


def _add_files(table: Path, count: int) -> None:
    """As many live files more: each another name of a file that is there, all in one commit."""
    version = DeltaTable(table).version()
    adds = [
        add["add"]
        for line in (table / "_delta_log" / f"{version:020d}.json").read_text().splitlines()
        if "add" in (add := json.loads(line))
    ]
    lines = [json.dumps({"commitInfo": {"operation": "WRITE", "operationParameters": {"mode": "Append"}}})]
    for number in range(count):
        name = f"more-{number:06d}.parquet"
        os.link(table / adds[0]["path"], table / name)
        lines.append(json.dumps({"add": {**adds[0], "path": name}}))
    (table / "_delta_log" / f"{version + 1:020d}.json").write_text("\n".join(lines) + "\n")


def _durations(lake: Path) -> dict[int, int]:
    """Milliseconds by batch of ingest."""
    files = DeltaTable(lake / "batch_metrics").file_uris()
    query = "SELECT batch_id, duration_ms FROM read_parquet(?) WHERE query = ? ORDER BY batch_id"
    return dict(duckdb.execute(query, [files, QUERY]).fetchall())


def _tell(found: Mapping[str, list[float]], unit: str, *, ratios: Mapping[str, tuple[str, str]]) -> None:
    for name, values in found.items():
        print(f"{name}: {_spread(values)} {unit}, {len(values)} rounds", flush=True)
    for name, (one, other) in ratios.items():
        pairs = [a / b for a, b in zip(found.get(one, ()), found.get(other, ()), strict=False)]
        if pairs:
            print(f"{name}: {_spread(pairs)}", flush=True)


def _spread(values: Sequence[float]) -> str:
    return f"{statistics.median(values):.2f} ({min(values):.2f}–{max(values):.2f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("--events", type=int, default=1_050_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--folder",
        type=Path,
        default=Path.home() / ".pipeline" / "bench",
        help="the broker's data and the answers, kept",
    )
    options = parser.parse_args()
    with kafka.broker(options.folder / "kafka") as broker, tempfile.TemporaryDirectory() as folder:
        part = PARTS[options.part]
        loaded = preload(
            broker.bootstrap_servers,
            options.folder,
            events=options.events,
            seed=7,
            hours=_MANY_HOURS if part is incremental else _HOURS,
            told=print,
        )
        part(loaded, Path(folder), options.rounds)


if __name__ == "__main__":
    main()
