"""Which batch form the speed table of a seeded query began as."""

from __future__ import annotations

from decimal import Decimal

import pytest
from pyspark.sql import SparkSession

from lake import at
from pipeline.published import Snapshot, facts_of, seed_of
from pipeline.settings import Settings
from pipeline.sinks import Transaction, append, create_table, replace
from pipeline.tables import view_path
from pipeline.views import VIEWS

pytestmark = pytest.mark.kafka

TOTALS = VIEWS["customer_totals"]


def test_the_seed_is_the_last_copy_before_the_first_batch(spark: SparkSession, settings: Settings) -> None:
    """Starts that were refused have left copies, and maintenance commits that say nothing of rows."""
    path = view_path(settings.lake.root, TOTALS.name, "speed", TOTALS.label)
    create_table(spark, path, TOTALS.schema)
    rows = spark.createDataFrame([("c1", 1, Decimal("1.00"), at(0))], TOTALS.schema)
    assert seed_of(spark, settings, TOTALS) is None
    for hour in (1, 2):
        replace(rows, path, metadata=facts_of(at(60 * hour), Snapshot({})))
        spark.sql(f"ALTER TABLE delta.`{path}` SET TBLPROPERTIES ('kept.for' = '{hour}')")
    append(rows, path, transaction=Transaction(TOTALS.query, "a generation", 0))
    replace(rows, path, metadata=facts_of(at(60 * 3), Snapshot({})))
    seed = seed_of(spark, settings, TOTALS)
    assert seed is not None
    assert (seed.horizon, seed.version) == (at(60 * 2), 3)
