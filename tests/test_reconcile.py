"""Each difference between the layers gets its one cause; what events do not explain to the cent has none."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import pytest
from delta.tables import DeltaTable
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from lake import at
from pipeline import reconcile
from pipeline.tables import RECONCILIATION, table_path, view_path
from story import Story

pytestmark = pytest.mark.kafka


def test_each_difference_has_its_cause(spark: SparkSession, story: Story, tmp_path: Path) -> None:
    report = tmp_path / "report.md"
    spend, words = reconcile.run(
        story.settings, views=["customer_hourly_spend", "word_counts"], report=str(report)
    )
    causes = {cause: getattr(spend, cause) for cause in reconcile.CAUSES}
    assert causes == {
        "late": 1,
        "repaired": 1,
        "conflicting": 1,
        "contract_changed": 1,
        "open": 1,
        "unexplained": 0,
    }
    assert (spend.compared, spend.equal, spend.late_events) == (6, 2, 1)
    assert spend.horizon == at(60 * 5)
    assert (words.compared, words.equal, words.unexplained) == (4, 4, 0)
    kept = spark.read.format("delta").load(table_path(story.settings.lake.root, RECONCILIATION))
    (row,) = kept.where("view = 'customer_hourly_spend'").orderBy(F.desc("run_at")).limit(1).collect()
    assert (row.late, row.repaired, row.conflicting, row.contract_changed, row.open) == (1, 1, 1, 1, 1)
    assert "| customer_hourly_spend | 2026-01-01T17:00:00Z | 6 | 2 |" in report.read_text()


def test_a_lost_row_or_a_cent_is_unexplained_also_beside_late_rows(
    spark: SparkSession, story: Story, tmp_path: Path
) -> None:
    here = story.copy(tmp_path / "damaged")

    def table(layer: str) -> DeltaTable:
        return DeltaTable.forPath(spark, view_path(here.lake.root, "customer_hourly_spend", layer, 1))  # type: ignore[arg-type]

    # c1 has a late event, c-twin a conflict.
    table("speed").update(
        "customer_id = 'c1'", {"hourly_spend": F.col("hourly_spend") - F.lit("3.33").cast("decimal(5,2)")}
    )
    table("batch").delete("customer_id = 'c-old'")
    table("batch").update(
        "customer_id = 'c2'", {"hourly_spend": F.col("hourly_spend") + F.lit("0.01").cast("decimal(3,2)")}
    )
    table("speed").delete("customer_id = 'c-twin'")
    # One batch held both copies of this one, and may have taken either of them.
    table("speed").update(
        "customer_id = 'c-either'",
        {"hourly_spend": F.lit("3.00").cast("decimal(38,2)") - F.col("hourly_spend")},
    )
    words = view_path(here.lake.root, "word_counts", "speed", 1)
    DeltaTable.forPath(spark, words).delete("word = 'not'")
    spend, counts = reconcile.run(here, views=["customer_hourly_spend", "word_counts"])
    assert [key.split()[0] for key in sorted(spend.unexplained_keys)] == [
        "customer_id=c-old",
        "customer_id=c-twin",
        "customer_id=c1",
        "customer_id=c2",
    ]
    assert (spend.unexplained, spend.late, spend.conflicting, spend.repaired) == (4, 0, 1, 1)
    assert counts.unexplained_keys == ["word=not"]
    again = (Path(here.lake.root) / "reconciliation.md").read_text()
    assert "- unexplained: `word=not`" in again


@pytest.mark.parametrize("layer", ["speed", "batch"])
def test_a_key_that_a_table_has_twice_is_unexplained_whether_its_row_is_closed_or_not(
    spark: SparkSession, story: Story, tmp_path: Path, layer: Literal["speed", "batch"]
) -> None:
    here = story.copy(tmp_path / "damaged")

    def repeat(view: str, condition: str) -> None:
        path = view_path(here.lake.root, view, layer, 1)
        rows = spark.read.format("delta").load(path).where(condition).localCheckpoint()
        assert rows.count() == 1
        rows.write.format("delta").mode("append").save(path)

    customers = ["c-closing", "c2"] if layer == "speed" else ["c2"]
    for customer in customers:
        repeat("customer_hourly_spend", f"customer_id = '{customer}'")
    repeat("word_counts", "word = 'not'")
    spend, counts = reconcile.run(here, views=["customer_hourly_spend", "word_counts"])
    assert [key.split()[0] for key in sorted(spend.unexplained_keys)] == [
        f"customer_id={customer}" for customer in customers
    ]
    assert spend.unexplained == len(customers)
    assert (counts.unexplained, counts.unexplained_keys) == (1, ["word=not"])
