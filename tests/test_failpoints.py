"""The names of the failpoints are those that the code passes."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from pipeline import ingest, shop
from pipeline.failpoints import POINTS, failpoint, watched

SOURCE = Path(ingest.__file__).parent


def test_every_point_is_in_the_code_and_in_the_list() -> None:
    called = {
        name
        for file in SOURCE.rglob("*.py")
        for name in re.findall(r'failpoint\(f?"([^"]+)"\)', file.read_text(encoding="utf-8"))
    }
    tables = {"ingest: raw_events", "ingest: order_events", "ingest: product_events", "ingest: dead_letters"}
    steps = {f"etl: merged {table}" for table in shop.SCHEMAS}
    patterns = {"ingest: {name}", "etl: merged {table}"}
    assert patterns <= called
    assert (called - patterns) | tables | steps == set(POINTS)


def test_a_point_tells_only_who_watches() -> None:
    seen: list[str] = []
    failpoint("speed: begun")
    with watched(seen.append):
        failpoint("speed: written")
    failpoint("speed: begun")
    assert seen == ["speed: written"]

    def trap(name: str) -> None:
        raise LookupError(name)

    with watched(trap), pytest.raises(LookupError):
        failpoint("speed: begun")
