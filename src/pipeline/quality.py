"""The batch tables against what is expected of them; every run is kept, one row for each expectation."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Literal

from pyspark.sql import SparkSession

from pipeline import catalog, versions
from pipeline.console import step
from pipeline.delta_log import newest_version
from pipeline.expectations import TableExpectations, load
from pipeline.settings import Settings
from pipeline.sinks import commit_lock, create_table
from pipeline.sources import read_version
from pipeline.starting import session
from pipeline.tables import QUALITY_RESULTS, SCHEMAS, table_path, view_path
from pipeline.validation import Verdict, verdicts

__all__ = ["Result", "expectations_of", "run"]

Outcome = Literal["passed", "warned", "failed", "skipped"]


@dataclass(frozen=True)
class Result:
    """What became of one expectation: not met it has warned or failed, and skipped it was not judged."""

    run_at: datetime
    table: str
    table_version: int | None
    expectation: str
    outcome: Outcome
    observed: str
    expected: str
    unexpected_count: int | None


def run(settings: Settings, *, only: Sequence[str] = ()) -> list[Result]:
    """Judge the tables (all that have expectations by default), at one version each, and keep the results.

    A failed one is in the results, not an error. Raises ConfigurationError, SetupError.
    """
    expected = [one for name, one in expectations_of(settings).items() if not only or name in only]
    spark, now = session(settings), datetime.now(timezone.utc)
    results: list[Result] = []
    for one in expected:
        with step(f"quality {one.table}"):
            results += _results(spark, settings, one, now)
    _keep(spark, settings.lake.root, results)
    return results


def expectations_of(settings: Settings) -> dict[str, TableExpectations]:
    """What is expected, by table. Raises ConfigurationError."""
    given = settings.quality.expectations
    return {one.table: one for one in load(catalog.catalog(settings), Path(given) if given else None)}


def _results(
    spark: SparkSession, settings: Settings, expected: TableExpectations, now: datetime
) -> list[Result]:
    path = _path(spark, settings, expected.table)
    version = newest_version(spark, path)
    is_there = _presence(expected, version, now)
    if version is None:
        return [is_there]
    judged = verdicts(read_version(spark, path, version), expected.expectations, now=now)
    return [is_there, *(_result(expected.table, version, verdict, now) for verdict in judged)]


def _path(spark: SparkSession, settings: Settings, name: str) -> str:
    root, views = settings.lake.root, versions.live_views(spark, settings)
    return view_path(root, name, "batch", views[name].label) if name in views else table_path(root, name)


def _presence(expected: TableExpectations, version: int | None, now: datetime) -> Result:
    """That the table is there is the first expectation of each."""
    if_missing: dict[str, Outcome] = {"skip": "skipped", "warn": "warned", "fail": "failed"}
    outcome = "passed" if version is not None else if_missing[expected.if_missing]
    observed = "there is no such table" if version is None else "there is"
    return Result(now, expected.table, version, "is there", outcome, observed, "the table", None)


def _result(table: str, version: int, verdict: Verdict, now: datetime) -> Result:
    one = verdict.expectation
    if verdict.is_met:
        outcome: Outcome = "passed"
    else:
        outcome = "failed" if one.otherwise == "fail" else "warned"
    expected = f"{one.kind} {json.dumps(one.arguments, default=_text, ensure_ascii=False)}"
    return Result(
        now, table, version, one.name, outcome, verdict.observed, expected, verdict.unexpected_count
    )


def _text(value: object) -> str:
    return value.isoformat() if isinstance(value, datetime) else str(value)


def _keep(spark: SparkSession, root: str, results: Sequence[Result]) -> None:
    path, schema = table_path(root, QUALITY_RESULTS), SCHEMAS[QUALITY_RESULTS]
    create_table(spark, path, schema)
    rows = spark.createDataFrame([astuple(one) for one in results], schema)
    with commit_lock(path):
        rows.write.format("delta").mode("append").save(path)
