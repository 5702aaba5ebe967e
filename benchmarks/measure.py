"""Run a command and measure what it costs: seconds, CPU of all its processes, memory.

A command says `begin` when its engine is up and its work starts, and `end`, with the place of its answer, after its last commit.
"""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

import psutil

__all__ = ["Cost", "Failed", "Sampler", "measured"]

_SAMPLE_SECONDS = 0.1


class Failed(Exception):
    """The command ended with an error; the message has its last lines."""


@dataclass(frozen=True)
class Cost:
    """`drain` is from begin to end, `wall` from the start of the process to its end; CPU is that of the drain."""

    answer: str
    drain_seconds: float
    wall_seconds: float
    cpu_seconds: float
    peak_mebibytes: float


class Sampler(threading.Thread):
    """CPU seconds and resident memory of a process and its descendants, ten times a second; what has ended keeps counting."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self._root, self._cpu, self._done = psutil.Process(pid), dict[int, float](), threading.Event()
        self.peak_bytes = 0

    @property
    def cpu_seconds(self) -> float:
        return sum(self._cpu.values())

    def run(self) -> None:
        while not self._done.wait(_SAMPLE_SECONDS):
            self.look()

    def look(self) -> None:
        resident = 0
        with suppress(psutil.NoSuchProcess):
            for process in (self._root, *self._root.children(recursive=True)):
                with suppress(psutil.NoSuchProcess):
                    times = process.cpu_times()
                    self._cpu[process.pid] = times.user + times.system
                    resident += process.memory_info().rss
        self.peak_bytes = max(self.peak_bytes, resident)

    def stop(self) -> None:
        self._done.set()
        self.join()


def measured(command: Sequence[str], *, timeout_seconds: float) -> Cost:
    """Run it in a session of its own, of which nothing is left. Raises Failed."""
    started = time.monotonic()
    process = subprocess.Popen(
        command,
        start_new_session=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    )
    sampler = Sampler(process.pid)
    sampler.start()
    timer = threading.Timer(timeout_seconds, _kill, [process.pid])
    timer.start()
    marks: dict[str, tuple[float, float]] = {}
    answer, told = "", list[str]()
    assert process.stdout is not None
    for line in process.stdout:
        word, _, rest = line.strip().partition(" ")
        if word in ("begin", "end"):
            sampler.look()
            marks[word] = (time.monotonic(), sampler.cpu_seconds)
            answer = rest or answer
        told = [*told[-15:], line.rstrip()]
    code = process.wait()
    ended = time.monotonic()
    timer.cancel()
    sampler.stop()
    _kill(process.pid)
    if code or marks.keys() != {"begin", "end"}:
        raise Failed(f"exit code {code}\n" + "\n".join(told))
    (began_at, began_cpu), (ended_at, ended_cpu) = marks["begin"], marks["end"]
    return Cost(
        answer, ended_at - began_at, ended - started, ended_cpu - began_cpu, sampler.peak_bytes / 2**20
    )


def _kill(session: int) -> None:
    with suppress(ProcessLookupError):
        os.killpg(session, signal.SIGKILL)
