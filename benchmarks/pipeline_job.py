"""A job of the pipeline that says when its session is up and when its last commit is made; settings as after --set."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from pipeline import batch, ingest, speed
from pipeline.contracts import WIDE_MONEY
from pipeline.session import session
from pipeline.settings import Settings, load
from pipeline.tables import table_path
from pipeline.transforms.events import created_orders
from pipeline.views import VIEWS


def run(settings: Settings, job: str) -> str:
    """Drain or rebuild; the folder of the table with the answer."""
    kind, _, view = job.partition(":")
    root = settings.lake.root
    if kind == "ingest":
        if view:
            ingest._parts = partial(_only, view, ingest._parts)
        ingest.run(settings, once=True)
        return table_path(root, "raw_events")
    if kind == "speed":
        of_kafka = replace(
            settings, speed=replace(settings.speed, source="kafka")
        )  # as who it is compared with
        speed.run(of_kafka, views=[view] if view else (), once=True)
    elif kind == "built-in":
        speed.run_versions(settings, [replace(VIEWS[view], define=_totals, source="kafka")], once=True)
    else:
        batch.run(
            settings,
            views=[view] if view else (),
            source="raw" if kind == "batch-raw" else "typed",
            incremental=kind == "batch-incremental",
        )
    layer = "batch" if kind.startswith("batch") else "speed"
    return f"{root}/views/{view}/v{VIEWS[view].version}/{layer}" if view else root


def _only(table: str, parts: Callable[..., dict[str, DataFrame]], *arguments: Any) -> dict[str, DataFrame]:
    """What ingest would write, of one table."""
    return {name: rows for name, rows in parts(*arguments).items() if name == table}


def _totals(orders: DataFrame) -> DataFrame:
    """What customer_totals keeps as state of its own, by Spark's aggregation."""
    return (
        created_orders(orders, "customer_id", "total")
        .groupBy("customer_id")
        .agg(
            F.count(F.lit(1)).alias("order_count"),
            F.sum("total").cast(WIDE_MONEY).alias("total_spend"),
            F.max("event_time").alias("last_event_time"),
        )
    )


def main() -> None:
    job, *overrides = sys.argv[1:]
    settings = load(None, overrides)
    session(settings)
    print("begin", flush=True)
    print(f"end {run(settings, job)}", flush=True)


if __name__ == "__main__":
    main()
