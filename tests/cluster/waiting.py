"""How far queries on a cluster have come, as their checkpoints tell."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from cluster.submitting import Job
from pipeline import catalog, checkpoints, ingest
from pipeline.delta_log import newest_version
from pipeline.settings import Settings
from pipeline.tables import checkpoint_path, table_path

__all__ = ["has_read", "in_a_batch", "newest", "wait_until"]

PATIENCE_SECONDS = 300.0


def wait_until(holds: Callable[[], bool], running: Sequence[Job]) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not holds():
        for job in running:
            assert job.process.poll() is None, job.said()
        assert time.monotonic() < deadline, "\n".join(job.said() for job in running)
        time.sleep(0.05)


def newest(here: Settings, query: str, log: str) -> int:
    folder = Path(checkpoint_path(here.lake.root, query)) / log
    names = [file.name for file in folder.iterdir()] if folder.exists() else []
    return max((int(name) for name in names if name.isdigit()), default=-1)


def in_a_batch(here: Settings, query: str) -> bool:
    return newest(here, query, "offsets") > max(newest(here, query, "commits"), 0)


def has_read(here: Settings, query: str, ends: Mapping[tuple[str, int], int]) -> bool:
    """Whether the query's finished batches have come to the end of each topic that it reads, or of each table that ingest has
    filled by then.
    """
    checkpoint = checkpoint_path(here.lake.root, query)
    read, versions = checkpoints.next_offsets(None, checkpoint), checkpoints.versions_read(None, checkpoint)
    if versions:
        (view,) = [view for view in catalog.views(here).values() if view.query == query]
        tables = [table_path(here.lake.root, catalog.kinds(here)[kind].table) for kind in view.inputs]
        newest_versions = {source: newest_version(None, table) for source, table in enumerate(tables)}
        return has_read(here, ingest.QUERY, ends) and versions == newest_versions
    return bool(read) and all(ends.get((topic, partition), 0) == offset for topic, partition, offset in read)
