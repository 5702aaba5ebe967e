"""Which rows a horizon covers: half-open, as windows are."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

import pytest
from pyspark.sql import SparkSession

from pipeline.views import VIEWS, settled

HORIZON = datetime(2026, 1, 1, 12, tzinfo=timezone.utc)
TICK = timedelta(microseconds=1)


@pytest.mark.parametrize("name", [name for name, view in VIEWS.items() if view.settles_by])
def test_a_window_that_ends_at_the_horizon_is_covered_and_an_event_at_it_is_not(
    spark: SparkSession, name: str
) -> None:
    view = VIEWS[name]
    assert view.settles_by is not None
    times = [HORIZON - TICK, HORIZON, HORIZON + TICK]
    rows = spark.createDataFrame([(time,) for time in times], f"{view.settles_by} timestamp")
    covered = settled(rows, view=view, horizon=HORIZON).count()
    assert covered == (2 if view.settles_by == "window_end" else 1)
