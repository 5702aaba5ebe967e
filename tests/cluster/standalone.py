"""A Spark cluster of its own user: a master and two workers on loopback, with a Spark and a Python that are not the driver's.

Run by root, its processes belong to nobody, who cannot read what belongs to root. Their folder holds a virtual environment with
Spark and what a worker needs, and nothing of this project: what a job needs beyond that has to travel.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

from pipeline.devservices.ports import HOST, claim_port
from pipeline.java import require_java

__all__ = ["IS_ROOT", "NOBODY", "Cluster", "cluster", "node_python", "run_as_node"]

NOBODY = 65534
IS_ROOT = os.geteuid() == 0
WORKERS = 2
START_TIMEOUT_SECONDS = 120.0
_POLL_SECONDS = 0.1
_DISTRIBUTIONS = (
    *(
        "pyspark",
        "py4j",
        "pandas",
        "numpy",
        "python-dateutil",
        "six",
        "pytz",
        "tzdata",
        "pyarrow",
        "protobuf",
    ),
)


@dataclass
class Cluster:
    """`home` is the folder of its user, `python` the interpreter there."""

    url: str
    home: Path
    python: Path
    web_url: str
    workers: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def kill_worker(self) -> None:
        """The first of them, with the executors that it has started: `kill -9`."""
        worker = self.workers.pop(0)
        os.killpg(worker.pid, signal.SIGKILL)
        worker.wait()

    def cores_in_use(self) -> list[int]:
        """Of each living worker."""
        return [worker["coresused"] for worker in self._alive()]

    def _alive(self) -> list[Any]:
        with urllib.request.urlopen(f"{self.web_url}/json/", timeout=10) as answer:
            return [worker for worker in json.load(answer)["workers"] if worker["state"] == "ALIVE"]

    def wait(self) -> None:
        deadline = time.monotonic() + START_TIMEOUT_SECONDS
        while True:
            with suppress(OSError, json.JSONDecodeError):  # the page is there before what it shows
                if len(self._alive()) == len(self.workers):
                    return
            assert time.monotonic() < deadline, _logs(self.home)
            time.sleep(_POLL_SECONDS)


@contextmanager
def cluster(*, cores: int = 2, memory: str = "2g") -> Iterator[Cluster]:
    """A running cluster with so many cores and so much memory a worker; everything of it is gone afterwards."""
    home = Path(tempfile.mkdtemp(prefix="pipeline-node-"))
    home.chmod(0o755)
    started: list[subprocess.Popen[bytes]] = []
    try:
        python = node_python(home / "python")
        (home / "work").mkdir()
        if IS_ROOT:
            os.chown(home / "work", NOBODY, NOBODY)
        port, web_port = (claim_port(0, service="cluster") for _ in range(2))
        made = Cluster(f"spark://{HOST}:{port}", home, python, f"http://{HOST}:{web_port}", started)
        master = ["master.Master", "--port", str(port), "--webui-port", str(web_port)]
        worker = ["worker.Worker", "--cores", str(cores), "--memory", memory, "--webui-port", "0", made.url]
        first = _daemon(made, "master", master)
        started += [_daemon(made, f"worker-{number}", worker) for number in range(WORKERS)]
        running = [first, *started]
        try:
            made.wait()
            yield made
        finally:
            for process in running:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
    finally:
        shutil.rmtree(home, ignore_errors=True)


def run_as_node(command: Sequence[str | Path], **options: Any) -> subprocess.CompletedProcess[str]:
    """Run it as the cluster's user."""
    return subprocess.run(
        command, capture_output=True, text=True, check=False, cwd="/", **_identity(), **options
    )


def node_python(folder: Path) -> Path:
    """A virtual environment with Spark and what it needs on a worker, made of the files of this one, by links where they can be."""
    subprocess.run([_base_python(), "-m", "venv", "--without-pip", folder], check=True)
    packages = next(folder.glob("lib/python3.*/site-packages"))
    for name in _DISTRIBUTIONS:
        for file in metadata.files(name) or ():
            source = Path(str(file.locate()))
            if ".." in file.parts or file.suffix == ".pyc" or not source.is_file():
                continue
            target = packages / file
            target.parent.mkdir(parents=True, exist_ok=True)
            _link_or_copy(source, target)
    return folder / "bin" / "python"


def _base_python() -> str:
    """An interpreter of this version that the cluster's user may run; the one below this environment may lie in a home folder."""
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    own = str(Path(getattr(sys, "_base_executable", sys.executable)).resolve())
    for candidate in (shutil.which(f"python{version}", path="/usr/local/bin:/usr/bin"), own):
        if candidate and _runs(candidate):
            return candidate
    raise RuntimeError(f"There is no Python {version} that another user than this one may run.")


def _runs(python: str) -> bool:
    try:
        return run_as_node([python, "-c", "import venv, ctypes, sqlite3"]).returncode == 0
    except OSError:
        return False


def _link_or_copy(source: Path, target: Path) -> None:
    try:
        target.hardlink_to(source)
    except OSError:
        shutil.copy2(source, target)


def _daemon(made: Cluster, name: str, command: Sequence[str]) -> subprocess.Popen[bytes]:
    spark = next(made.home.glob("python/lib/python3.*/site-packages/pyspark"))
    kind, *options = command
    folder = made.home / "work" / name
    folder.mkdir()
    if IS_ROOT:
        os.chown(folder, NOBODY, NOBODY)
    environment = {
        "HOME": str(folder),
        "JAVA_HOME": str(require_java().resolve().parents[1]),
        "PATH": "/usr/local/bin:/usr/bin:/bin",
        "SPARK_DAEMON_JAVA_OPTS": "-XX:+UseSerialGC -XX:TieredStopAtLevel=1",
        "SPARK_DAEMON_MEMORY": "256m",
        "SPARK_HOME": str(spark),
        "SPARK_LOCAL_DIRS": str(folder),
        "SPARK_LOCAL_IP": HOST,
        "SPARK_WORKER_DIR": str(folder / "applications"),
    }
    with (made.home / f"{name}.log").open("wb") as log:
        return subprocess.Popen(
            [str(spark / "bin" / "spark-class"), f"org.apache.spark.deploy.{kind}", "--host", HOST, *options],
            cwd=folder,
            env=environment,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            umask=0,  # what an executor writes the driver must be able to change, and the other way round
            **_identity(),
        )


def _identity() -> Mapping[str, Any]:
    return {"user": NOBODY, "group": NOBODY, "extra_groups": ()} if IS_ROOT else {}


def _logs(home: Path) -> str:
    return "\n".join(log.read_text(errors="replace")[-2000:] for log in sorted(home.glob("*.log")))
