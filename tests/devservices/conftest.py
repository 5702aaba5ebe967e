"""One broker for the tests of this folder."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.devservices import kafka


@pytest.fixture(scope="package")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("broker")


@pytest.fixture(scope="package")
def broker(home: Path) -> Iterator[kafka.Broker]:
    with kafka.broker(home) as started:
        yield started
