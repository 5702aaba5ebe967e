"""`kill -9` of a process group: a worker of its own with its JVM, at a moment that the seed chooses."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from crash import logs
from crash.plays import INGEST, Play, check, has_empty_batches, has_hot_key
from lake import send
from pipeline.delta_log import is_table
from pipeline.settings import Settings
from pipeline.tables import ORDER_EVENTS, PRODUCT_EVENTS, RAW_EVENTS, table_path

__all__ = ["play_with_kills"]

KILLS = 3
WATCHED = ("offsets", "commits", "_delta_log")
LONGEST_DELAY_SECONDS = 12.0
TIMEOUT_SECONDS = 600.0
_POLL_SECONDS = 0.02


@dataclass
class _Worker:
    """A process of its own group that drains what is there; its output is kept for when it fails."""

    here: Settings
    actors: Sequence[str]
    batch_size: int
    log: Path
    process: subprocess.Popen[bytes] = field(init=False)

    def __post_init__(self) -> None:
        topics = self.here.kafka.topics
        given = {
            "overrides": [
                f"kafka.bootstrap_servers={self.here.kafka.bootstrap_servers}",
                f"lake.root={self.here.lake.root}",
                f"speed.source={self.here.speed.source}",
                f"kafka.topics.orders={topics.orders}",
                f"kafka.topics.products={topics.products}",
                f"kafka.topics.text_lines={topics.text_lines}",
                f"kafka.topics.word_counts_output={topics.word_counts_output}",
            ],
            "actors": self.actors,
            "batch_size": self.batch_size,
        }
        path = os.pathsep.join([str(Path(__file__).parents[1]), *sys.path])
        with self.log.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "crash.worker", json.dumps(given)],
                env={**os.environ, "PYTHONPATH": path},
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def has_ended(self) -> bool:
        return self.process.poll() is not None

    def kill(self) -> None:
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def succeed(self) -> None:
        """Wait for its end, which must be a good one."""
        assert self.process.wait(TIMEOUT_SECONDS) == 0, self.log.read_text(errors="replace")[-4000:]


def play_with_kills(told: Play, seed: int, folder: Path) -> None:
    """Kill the worker at KILLS moments, each other one right after a file has appeared; then let it end, and judge the lake."""
    rng = told.rng
    actors = [INGEST, *told.views]
    longest, number = LONGEST_DELAY_SECONDS, 0
    while len(told.crashes) < KILLS:
        send(told.here, [*(logs.hot_key(number) if has_hot_key(seed) else ()), *logs.piece(rng, number)])
        if has_empty_batches(seed):
            logs.marks(told.here)
        rng.shuffle(actors)
        if not _has_log(told):
            actors.sort(key=lambda actor: actor != INGEST)
        worker = _Worker(told.here, actors, rng.choice(told.batch_sizes), folder / f"worker-{number}.log")
        by_file = (seed + len(told.crashes)) % 2 == 0
        if by_file:
            moment = _kill_at_file(worker, Path(told.here.lake.root), rng.randint(1, 14))
        else:
            moment = _kill_after(worker, Path(told.here.lake.root), rng.uniform(0, longest))
        if moment is None:
            worker.succeed()
            longest /= 2
        else:
            told.crashes.append(f"kill -9 {moment}")
        number += 1
        assert number < 10, "the worker is always done before it can be killed"
    send(told.here, logs.ending(1))
    _Worker(told.here, [INGEST, *told.views], max(told.batch_sizes), folder / "worker-last.log").succeed()
    check(told)


def _has_log(told: Play) -> bool:
    """Whether views can begin: killed at its start, ingest has made some of its tables only."""
    root = told.here.lake.root
    return all(
        is_table(told.spark, table_path(root, name)) for name in (RAW_EVENTS, ORDER_EVENTS, PRODUCT_EVENTS)
    )


def _kill_at_file(worker: _Worker, root: Path, which: int) -> str | None:
    """Kill right after the `which`th new file under a watched folder; None where the worker has ended before."""
    known = _files(root)
    while not worker.has_ended():
        new = _files(root) - known
        if len(new) >= which:
            worker.kill()
            return f"after {which} new files, the last of them {max(new, key=_age)}"
        time.sleep(_POLL_SECONDS)
    return None


def _kill_after(worker: _Worker, root: Path, seconds: float) -> str | None:
    """Kill so many seconds after the first new file under a watched folder."""
    known = _files(root)
    while not _files(root) - known and not worker.has_ended():
        time.sleep(_POLL_SECONDS)
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and not worker.has_ended():
        time.sleep(_POLL_SECONDS)
    if worker.has_ended():
        return None
    worker.kill()
    return f"{seconds:.3f} s after its first file"


def _files(root: Path) -> set[str]:
    found = set()
    for folder, _, names in os.walk(root):
        if os.path.basename(folder) in WATCHED:  # noqa: PTH119  # called hundreds of times a second
            found |= {f"{folder}/{name}" for name in names if not name.startswith(".") and "crc" not in name}
    return found


def _age(file: str) -> float:
    try:
        return Path(file).stat().st_mtime
    except FileNotFoundError:
        return 0.0
