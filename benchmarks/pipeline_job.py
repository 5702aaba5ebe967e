"""A job of the pipeline that says when its session is up and when its last commit is made; settings as after --set."""

from __future__ import annotations

import sys

from pipeline import batch, ingest, speed
from pipeline.session import session
from pipeline.settings import Settings, load
from pipeline.tables import table_path
from pipeline.views import VIEWS


def run(settings: Settings, job: str) -> str:
    """Drain or rebuild; the folder of the table with the answer."""
    kind, _, view = job.partition(":")
    root = settings.lake.root
    if kind == "ingest":
        ingest.run(settings, once=True)
        return table_path(root, "raw_events")
    if kind == "speed":
        speed.run(settings, views=[view] if view else (), once=True)
    else:
        batch.run(settings, views=[view] if view else (), source="raw" if kind == "batch-raw" else "typed")
    layer = "speed" if kind == "speed" else "batch"
    return f"{root}/views/{view}/v{VIEWS[view].version}/{layer}" if view else root


def main() -> None:
    job, *overrides = sys.argv[1:]
    settings = load(None, overrides)
    session(settings)
    print("begin", flush=True)
    print(f"end {run(settings, job)}", flush=True)


if __name__ == "__main__":
    main()
