"""An S3 on loopback: moto's server, in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from pipeline.devservices.ports import HOST, claim_port

START_TIMEOUT_SECONDS = 60.0
LOGIN = {"AWS_ACCESS_KEY_ID": "somebody", "AWS_SECRET_ACCESS_KEY": "something", "AWS_REGION": "us-east-1"}


@contextmanager
def object_store(folder: Path) -> Iterator[str]:
    """Its URL; the bucket `lake` is there."""
    port = claim_port(0, service="s3")
    url = f"http://{HOST}:{port}"
    with (folder / "s3.log").open("wb") as log:
        server = subprocess.Popen(
            [sys.executable, "-c", "from moto.server import main; main()", "-H", HOST, "-p", str(port)],
            env={**os.environ, **LOGIN},
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    try:
        _make_bucket(f"{url}/lake", folder / "s3.log")
        yield url
    finally:
        server.kill()
        server.wait()


def options(url: str) -> dict[str, str]:
    """What Hadoop must know of it."""
    return {
        "fs.s3a.endpoint": url,
        "fs.s3a.endpoint.region": LOGIN["AWS_REGION"],
        "fs.s3a.path.style.access": "true",
        "fs.s3a.access.key": LOGIN["AWS_ACCESS_KEY_ID"],
        "fs.s3a.secret.key": LOGIN["AWS_SECRET_ACCESS_KEY"],
    }


def _make_bucket(url: str, log: Path) -> None:
    deadline = time.monotonic() + START_TIMEOUT_SECONDS
    while True:
        with suppress(OSError):
            urllib.request.urlopen(urllib.request.Request(url, method="PUT"), timeout=10).close()
            return
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.1)
