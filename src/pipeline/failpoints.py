"""Named places between every two durable steps: the crash tests stop a run there. In every other run nothing happens."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

__all__ = ["POINTS", "failpoint", "watched"]

POINTS = (
    "ingest: begun",  # Spark has written offsets/N, nothing else is there
    "ingest: raw_events",  # before the append; the others may or may not be in
    "ingest: order_events",
    "ingest: product_events",
    "ingest: dead_letters",
    "ingest: all appended",
    "ingest: in the ledger",  # commits/N comes next
    "speed: begun",
    "speed: written",
    "speed: counts published",
    "speed: in the ledger",
    "seed: copied",
    "ledger: read from the checkpoint",
    "replay: history in order",  # beside the feed, which begins next
    "replay: a slice",  # of the history is in the feed
    "replay: feed extended",  # by what ingest has read since
    "batch: table made",
    "batch: replaced",
    "etl: extracted",
    "etl: merged orders",  # into its raw table
    "etl: merged customers",
    "etl: merged products",
    "etl: dead letters",
    "etl: transformed",
    "etl: copied",  # the next three lie inside of the warehouse's transaction
    "etl: upserted",
    "etl: facts in the lake",
    "etl: loaded",
    "etl: analyzed",
    "erase: entered",
    "erase: out of a table",
    "erase: streamed anew",
    "erase: promoted",
    "erase: a version dropped",
    "erase: over",  # but for the commit that says so
)
"""Every name that is passed, in the order of the steps."""

_watcher: Callable[[str], None] | None = None


def failpoint(name: str) -> None:
    """Tell whoever watches that this place is reached; what they raise goes on from here."""
    if _watcher is not None:
        _watcher(name)


@contextmanager
def watched(watcher: Callable[[str], None]) -> Iterator[None]:
    """Call `watcher` with the name of each place that any thread reaches inside the block."""
    global _watcher
    before, _watcher = _watcher, watcher
    try:
        yield
    finally:
        _watcher = before
