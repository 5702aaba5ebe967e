"""What a killed process runs: ingest and views, drained once, in an order of its own. `python -m crash.worker JSON`."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence

from crash.plays import INGEST, with_batches_of
from pipeline import ingest, speed
from pipeline.settings import load


def work(overrides: Sequence[str], actors: Sequence[str], batch_size: int) -> None:
    here = with_batches_of(load("test", overrides), batch_size)
    for actor in actors:
        if actor == INGEST:
            ingest.run(here, once=True)
        else:
            speed.run(here, views=[actor], once=True)


if __name__ == "__main__":
    work(**json.loads(sys.argv[1]))
