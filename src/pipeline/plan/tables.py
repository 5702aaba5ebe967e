"""How the tables that are there fit what would be written to them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pyspark.sql import SparkSession
from pyspark.sql import types as T

from pipeline import checkpoints, guards, ingest
from pipeline.delta_log import newest_version
from pipeline.settings import Settings
from pipeline.standing import Query
from pipeline.tables import checkpoint_path, view_path

__all__ = ["TablePlan", "of_tables"]


@dataclass(frozen=True)
class TablePlan:
    """A table beside what would be written to it; `has` and `would_have` are the columns that differ, with their types."""

    table: str
    path: str
    verdict: Literal["new", "unchanged", "columns differ", "gone"]
    has: str = ""
    would_have: str = ""

    @property
    def is_refused(self) -> bool:
        return self.verdict in ("columns differ", "gone")


def of_tables(spark: SparkSession, settings: Settings, query: Query) -> list[TablePlan]:
    """The tables that the query writes, and the batch form of its view. One is gone where the query has written to it."""
    root, view = settings.lake.root, query.view
    has_finished = checkpoints.last_committed_batch(spark, checkpoint_path(root, query.name)) is not None
    if view is None:
        schemas = {
            path.removeprefix(f"{root}/"): (path, schema)
            for path, schema in ingest.written_columns(settings).items()
        }
        return [
            _plan(spark, name, path, schema, is_written=has_finished)
            for name, (path, schema) in schemas.items()
        ]
    speed, batch = (view_path(root, view.name, layer, view.label) for layer in ("speed", "batch"))  # type: ignore[arg-type]
    return [
        _plan(spark, f"{view.name}.speed", speed, view.schema, is_written=has_finished),
        _plan(spark, f"{view.name}.batch", batch, view.schema, is_written=False),
    ]


def _plan(spark: SparkSession, name: str, path: str, schema: T.StructType, *, is_written: bool) -> TablePlan:
    if newest_version(spark, path) is None:
        return TablePlan(name, path, "gone" if is_written else "new")
    difference = guards.compared_columns(spark, path, schema)
    if difference is None:
        return TablePlan(name, path, "unchanged")
    return TablePlan(name, path, "columns differ", *difference[1:])
