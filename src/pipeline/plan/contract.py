"""How the contract differs from the one by which ingest has judged, and what it would make of the last day's records."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import Literal

from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from pipeline import catalog, guards, ledger
from pipeline.contract_rules import Change, changes, rules_of
from pipeline.contracts import ACCEPTED, DEAD, RECORD_IDENTITY
from pipeline.delta_log import newest_version
from pipeline.instants import shifted
from pipeline.settings import Settings
from pipeline.sources import kind_of_topic, with_kind
from pipeline.tables import DEAD_LETTERS, RAW_EVENTS, checkpoint_path, table_path
from pipeline.transforms.decode import classify

__all__ = ["ContractPlan", "of_contract"]

_DAY = timedelta(hours=24)


@dataclass(frozen=True)
class ContractPlan:
    """The contract beside the one that ingest noted at its last start.

    Of the `records` of the last day in the log, `rejected` were accepted and would be dead letters now, `accepted` were dead
    letters and would be accepted now; None where nothing has changed, or there is no log to judge again.
    """

    verdict: Literal["unchanged", "not noted", "backward compatible", "breaking"]
    changes: Sequence[Change] = ()
    records: int | None = None
    rejected: int | None = None
    accepted: int | None = None

    @property
    def is_refused(self) -> bool:
        return self.verdict == "breaking"


def of_contract(spark: SparkSession, settings: Settings, *, has_other_steps: bool) -> ContractPlan:
    """`has_other_steps`: what ingest does to a record is not what it did, so the same rules may be applied otherwise."""
    checkpoint = checkpoint_path(settings.lake.root, ledger.INGEST)
    then = guards.noted_rules(spark, checkpoint=checkpoint)
    found = changes(then, rules_of(catalog.kinds(settings).values())) if then is not None else []
    if not found and not has_other_steps:
        return ContractPlan("unchanged" if then is not None else "not noted")
    records, rejected, accepted = _judged_again(spark, settings)
    is_breaking = bool(rejected) or any(change.effect == "breaking" for change in found)
    if not found and not rejected and not accepted:
        return ContractPlan("unchanged", (), records, rejected, accepted)
    return ContractPlan(
        "breaking" if is_breaking else "backward compatible", found, records, rejected, accepted
    )


def _judged_again(spark: SparkSession, settings: Settings) -> tuple[int | None, int | None, int | None]:
    """How many records the log has of the last 24 hours before its newest one; of them, those newly dead and newly accepted.

    One that is ahead of the clock does not count as the newest: a producer's was wrong.
    """
    raw, dead = (table_path(settings.lake.root, name) for name in (RAW_EVENTS, DEAD_LETTERS))
    if newest_version(spark, raw) is None or newest_version(spark, dead) is None:
        return None, None, None
    log = spark.read.format("delta").load(raw)
    known = log.where(F.col("kafka_timestamp") <= F.lit(datetime.now(timezone.utc)))
    ((newest,),) = known.agg(F.max("kafka_timestamp")).collect()
    if newest is None:
        return 0, 0, 0
    recent = log.where(F.col("kafka_timestamp") > F.lit(shifted(newest, -_DAY)))
    judged = classify(
        recent.transform(with_kind, kinds=kind_of_topic(settings)), catalog.kinds(settings).values()
    )
    letters = spark.read.format("delta").load(dead).select(*RECORD_IDENTITY, F.lit(True).alias("was_dead"))
    both = judged.select(*RECORD_IDENTITY, "fate").join(letters, on=[*RECORD_IDENTITY], how="left")
    was_dead = F.coalesce("was_dead", F.lit(False))
    ((records, rejected, accepted),) = both.agg(
        F.count(F.lit(1)),
        F.count_if((F.col("fate") == DEAD) & ~was_dead),
        F.count_if((F.col("fate") == ACCEPTED) & was_dead),
    ).collect()
    return records, rejected, accepted
