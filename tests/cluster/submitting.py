"""Jobs sent by spark-submit.sh from a checkout that only its owner can read."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from cluster.standalone import Cluster
from pipeline.devservices.ports import HOST
from pipeline.settings import Settings

__all__ = ["Checkout", "Job", "ended", "overrides"]

REPOSITORY = Path(__file__).parents[2]
TIMEOUT_SECONDS = 900.0
_PARTS = ("conf", "jobs", "pyproject.toml", "setup.py", "spark-submit.sh", "src")


@dataclass
class Job:
    name: str
    process: subprocess.Popen[bytes]
    log: Path

    def stop(self) -> None:
        """As an operator does: the running batch is finished."""
        self.process.send_signal(signal.SIGTERM)
        self.succeed()

    def succeed(self, *, codes: Sequence[int] = (0,)) -> None:
        assert self.process.wait(TIMEOUT_SECONDS) in codes, self.said()

    def kill(self) -> None:
        """With all that it has started: spark-submit.sh gives the driver a process group of its own, in the same session."""
        if self.process.poll() is None:
            for process in _of_session(self.process.pid):
                with suppress(ProcessLookupError):
                    os.kill(process, signal.SIGKILL)
            self.process.wait()

    def said(self) -> str:
        return f"{self.name}: exit code {self.process.poll()}\n{self.log.read_text(errors='replace')[-6000:]}"


def _of_session(leader: int) -> list[int]:
    found = []
    for folder in Path("/proc").iterdir():
        with suppress(ProcessLookupError):
            if folder.name.isdigit() and os.getsid(int(folder.name)) == leader:
                found.append(int(folder.name))
    return found


@contextmanager
def ended(jobs: Sequence[Job]) -> Iterator[None]:
    """What of them still runs at the end of the block, because something has failed, is killed."""
    try:
        yield
    finally:
        for job in jobs:
            job.kill()


@dataclass
class Checkout:
    """A copy of what a user has, with mode 700, and the environment of a shell there."""

    home: Path
    environment: dict[str, str]

    @classmethod
    def make(cls, home: Path, environment: dict[str, str]) -> Checkout:
        home.mkdir(mode=0o700)
        for part in _PARTS:
            copy = shutil.copytree if (REPOSITORY / part).is_dir() else shutil.copy2
            copy(REPOSITORY / part, home / part)
        (home / ".venv").symlink_to(sys.prefix)
        return cls(home, environment)

    def submit(
        self, where: Cluster | str, job: str, arguments: Sequence[str], *, options: Sequence[str] = ()
    ) -> Job:
        """Start `jobs/<job>.py` by spark-submit.sh on a cluster, or on another master, from the root folder."""
        master, python = (where, sys.executable) if isinstance(where, str) else (where.url, str(where.python))
        log = self.home / f"{job}.log"
        settings = {
            "spark.driver.host": HOST,
            "spark.driver.bindAddress": HOST,
            "spark.executor.memory": "768m",
            "spark.hadoop.fs.permissions.umask-mode": "000",  # driver and executors are two users
        }
        conf = [part for key, value in settings.items() for part in ("--conf", f"{key}={value}")]
        command = [
            str(self.home / "spark-submit.sh"),
            *("--master", master),
            *("--driver-memory", "1g"),
            *conf,
            *options,
            f"jobs/{job}.py",
            *arguments,
        ]
        with log.open("wb") as output:
            process = subprocess.Popen(
                command,
                cwd="/",
                env={**os.environ, **self.environment, "PYSPARK_PYTHON": python, "SPARK_LOCAL_IP": HOST},
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                umask=0,
            )
        return Job(job, process, log)


def overrides(here: Settings, **changed: str) -> list[str]:
    """The settings as options of a command; `changed` has a key's dots as two underscores."""
    topics = here.kafka.topics
    values = {
        "kafka.bootstrap_servers": here.kafka.bootstrap_servers,
        "kafka.topics.orders": topics.orders,
        "kafka.topics.products": topics.products,
        "kafka.topics.text_lines": topics.text_lines,
        "kafka.topics.word_counts_output": topics.word_counts_output,
        "lake.root": here.lake.root,
        **{key.replace("__", "."): value for key, value in changed.items()},
    }
    return ["--env", "test", *(part for key, value in values.items() for part in ("--set", f"{key}={value}"))]
