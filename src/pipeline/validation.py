"""Expectations judged by Great Expectations, on a DataFrame, quietly: no progress bars, no telemetry, no rows in the results."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import Any

from pyspark.sql import DataFrame

from pipeline.errors import SetupError
from pipeline.expectations import Expectation

__all__ = ["Verdict", "verdicts"]

_COUNTS_ONLY = {"result_format": "BASIC", "partial_unexpected_count": 0}
"""Values are customers' data: results have none of them."""


@dataclass(frozen=True)
class Verdict:
    """Whether the expectation is met; `observed` is what was found, `unexpected_count` how many rows are against it, where
    rows are judged.
    """

    expectation: Expectation
    is_met: bool
    observed: str
    unexpected_count: int | None


def verdicts(rows: DataFrame, expectations: Sequence[Expectation], *, now: datetime) -> list[Verdict]:
    """One verdict for each expectation, in their order. Raises SetupError where Great Expectations is not installed."""
    gx = _great_expectations()
    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = {"globally": False}
    source = context.data_sources.add_spark("lake", persist=False)
    whole = source.add_dataframe_asset("table").add_batch_definition_whole_dataframe("whole")
    batch = whole.get_batch({"dataframe": rows})
    # Each carries its place: an equal one would be judged, and answered, once.
    judged = [_as_great_expectation(gx, one, now, {"place": place}) for place, one in enumerate(expectations)]
    results = batch.validate(gx.ExpectationSuite("table", judged), result_format=_COUNTS_ONLY).results
    by_place = {result.expectation_config.meta["place"]: result for result in results}
    return [_verdict(one, by_place[place]) for place, one in enumerate(expectations)]


def _great_expectations() -> Any:
    os.environ["GX_ANALYTICS_ENABLED"] = "false"
    try:
        with _without_spark_connect():
            import great_expectations
    except ImportError as error:
        raise SetupError(
            "pipeline quality needs Great Expectations. Install it: pip install 'pipeline[quality]'."
        ) from error
    # The second is given a level of its own when it is imported.
    for name in ("great_expectations", "great_expectations.data_context.types.base"):
        logging.getLogger(name).setLevel(logging.ERROR)
    return great_expectations


@contextmanager
def _without_spark_connect() -> Iterator[None]:
    """Great Expectations does without Spark Connect where it cannot be imported. Where grpc is missing, importing it ends a
    process whose main module has no file, such as `python -c`, with exit code 0: its check takes that for a doctest.
    """
    connect = "pyspark.sql.connect"
    if connect in sys.modules:
        yield
        return
    sys.modules[connect] = None  # type: ignore[assignment]  # the import system's sign for "not to be had"
    try:
        yield
    finally:
        del sys.modules[connect]


def _as_great_expectation(gx: Any, one: Expectation, now: datetime, meta: dict[str, Any]) -> Any:
    known, given = gx.expectations, dict(one.arguments)
    column = {"column": given["column"], "meta": meta} if "column" in given else {"meta": meta}
    bounds = {"min_value": given.get("at_least"), "max_value": given.get("at_most")}
    match one.kind:
        case "not_null":
            return known.ExpectColumnValuesToNotBeNull(**column)
        case "in_range":
            return known.ExpectColumnValuesToBeBetween(
                **column, **{key: _bare(end) for key, end in bounds.items()}
            )
        case "in_set":
            return known.ExpectColumnValuesToBeInSet(**column, value_set=list(given["values"]))
        case "within_length":
            return known.ExpectColumnValueLengthsToBeBetween(**column, **bounds)
        case "unique" if len(given["columns"]) == 1:
            return known.ExpectColumnValuesToBeUnique(column=given["columns"][0], meta=meta)
        case "unique":
            return known.ExpectCompoundColumnsToBeUnique(column_list=list(given["columns"]), meta=meta)
        case "freshness":
            oldest = now - timedelta(hours=float(given["at_most_hours"]))
            return known.ExpectColumnMaxToBeBetween(**column, min_value=_bare(oldest))
        case "row_count":
            return known.ExpectTableRowCountToBeBetween(**column, **bounds)
        case "distribution":
            shares = {"values": list(given["shares"]), "weights": list(given["shares"].values())}
            return known.ExpectColumnKLDivergenceToBeLessThan(
                **column, partition_object=shares, threshold=float(given["max_divergence"])
            )
    raise ValueError(one.kind)


def _bare(end: Any) -> Any:
    """A time without its zone, in UTC, as Spark's Python side gives times."""
    return end.astimezone(timezone.utc).replace(tzinfo=None) if isinstance(end, datetime) else end


def _verdict(one: Expectation, result: Any) -> Verdict:
    found = result.result or {}
    unexpected = found.get("unexpected_count")
    # Of nothing there are no shares, which Great Expectations takes for infinitely far from those expected.
    is_of_nothing = one.kind == "distribution" and "details" in found and not any(_shares(found).values())
    return Verdict(
        expectation=one,
        is_met=bool(result.success) or is_of_nothing,
        observed=_exception(result) or ("no value to judge" if is_of_nothing else _observed(one, found)),
        unexpected_count=None if unexpected is None else int(unexpected),
    )


def _observed(one: Expectation, found: dict[str, Any]) -> str:
    if "unexpected_count" in found:
        return f"{found['unexpected_count'] or 0} of {found.get('element_count')} rows against it"
    if one.kind == "distribution":
        told = ", ".join(f"{name} {share:.4f}" for name, share in _shares(found).items())
        divergence = found.get("observed_value")
        return f"divergence {'infinite' if divergence is None else format(divergence, '.4f')}: {told}"
    value = found.get("observed_value")
    return value.isoformat() + "Z" if isinstance(value, datetime) else str(value)


def _shares(found: dict[str, Any]) -> dict[str, float]:
    shares = found.get("details", {}).get("observed_partition") or {"values": [], "weights": []}
    return dict(zip(shares["values"], shares["weights"], strict=True))


def _exception(result: Any) -> str | None:
    """The first line of what went wrong where it could not be judged at all; Great Expectations has two shapes for it."""
    info = result.exception_info or {}
    raised = [info] if "raised_exception" in info else list(info.values())
    told = [str(one["exception_message"]) for one in raised if one.get("raised_exception")]
    return f"could not be judged: {told[0].splitlines()[0]}" if told else None
