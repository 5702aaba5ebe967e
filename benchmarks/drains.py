"""Who drains a topic, or rebuilds from a log, and by which command."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

from events import Preloaded

__all__ = ["CANDIDATES", "WORKLOADS", "command_of", "ingest", "job"]

HERE = Path(__file__).parent

WORKLOADS = {
    "log": "Kafka → log: every record of orders, exactly once",
    "spend": "Kafka → spend per customer and hour: contract, duplicates dropped, watermark",
    "join": "Kafka → order lines with the newest version of their product",
    "rebuild": "typed log → spend per customer and hour, as a batch",
    "rebuild-raw": "the same from the bytes as they came",
}

_PIPELINE_JOBS = {
    "log": "ingest",
    "spend": "speed:customer_hourly_spend",
    "join": "speed:enriched_orders",
    "rebuild": "batch:customer_hourly_spend",
    "rebuild-raw": "batch-raw:customer_hourly_spend",
}

CANDIDATES: Mapping[str, tuple[str, ...]] = {
    "pipeline": ("log", "spend", "join", "rebuild", "rebuild-raw"),
    "plain_spark": ("log", "spend", "rebuild-raw"),
    "polars_loop": ("log", "spend", "join"),
    "duckdb_rebuild": ("rebuild", "rebuild-raw"),
}
"""By name, the workloads that each is written for. Plain Spark picks no product version: its guides show no join that does."""


def command_of(
    candidate: str, workload: str, loaded: Preloaded, *, out: Path, lake: Path, settings: tuple[str, ...] = ()
) -> list[str]:
    """`lake` is where ingest has put the events, for those who rebuild; what they make goes to `out`, the pipeline's into its lake."""
    if candidate == "pipeline":
        root = lake if workload.startswith("rebuild") else out
        return job(_PIPELINE_JOBS[workload], loaded, root, settings)
    if candidate == "duckdb_rebuild":
        arguments = ["--lake", str(lake), "--out", str(out)]
    else:
        places = {
            "--bootstrap": loaded.bootstrap,
            "--orders": loaded.orders,
            "--products": loaded.products,
            "--out": str(out),
        }
        arguments = [word for pair in places.items() for word in pair]
        if workload.startswith("rebuild"):
            arguments += ["--log", str(lake / "raw_events")]
    return [sys.executable, str(HERE / f"{candidate}.py"), workload, *arguments]


def ingest(loaded: Preloaded, lake: Path) -> list[str]:
    return job("ingest", loaded, lake, ())


def job(name: str, loaded: Preloaded, root: Path, settings: tuple[str, ...]) -> list[str]:
    """A job of the pipeline (pipeline_job.py) with that lake."""
    given = {
        "kafka.bootstrap_servers": loaded.bootstrap,
        "kafka.topics.orders": loaded.orders,
        "kafka.topics.products": loaded.products,
        "kafka.topics.text_lines": loaded.text_lines,
        "kafka.topics.word_counts_output": loaded.word_counts,
        "lake.root": str(root),
    }
    overrides = [f"{key}={value}" for key, value in given.items()]
    return [sys.executable, str(HERE / "pipeline_job.py"), name, *overrides, *settings]
