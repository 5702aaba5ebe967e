"""`pipeline plan`: what a start would meet, before anything starts.

Code, configuration, checkpoints and tables are compared by the rules that a start itself asks (`guards`), in a session, because
only Spark can say what a query's steps are. Nothing is written.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timezone

from pyspark.sql import SparkSession

from pipeline import ahead, catalog, checkpoints, files, ledger, versions
from pipeline.plan.contract import ContractPlan, of_contract
from pipeline.plan.queries import QueryPlan, of_query
from pipeline.plan.rates import CatchUp, catch_ups
from pipeline.plan.tables import TablePlan, of_tables
from pipeline.settings import Settings
from pipeline.standing import queries
from pipeline.starting import session
from pipeline.tables import checkpoint_path

__all__ = ["CatchUp", "ContractPlan", "QueryPlan", "Report", "TablePlan", "look"]


@dataclass(frozen=True)
class Report:
    """`contract` is None where ingest was not asked for; `notes` is what else should be known before a start."""

    queries: Sequence[QueryPlan]
    catch_ups: Sequence[CatchUp]
    tables: Sequence[TablePlan]
    contract: ContractPlan | None
    notes: Sequence[str]

    @property
    def is_refused(self) -> bool:
        """Whether a start would fail, or lose something."""
        is_contract_refused = self.contract is not None and self.contract.is_refused
        return is_contract_refused or any(
            [*(one.is_refused for one in self.queries), *(one.is_refused for one in self.tables)]
        )


def look(settings: Settings, *, only: Sequence[str] = ()) -> Report:
    """What a start of these queries (versioned names; all by default) would meet."""
    spark = session(settings)
    chosen = [query for query in queries(spark, settings) if not only or query.name in only]
    plans = [of_query(spark, settings, query) for query in chosen]
    behind, warnings = catch_ups(spark, settings, chosen)
    of_ingest = next((plan for plan in plans if plan.query == ledger.INGEST), None)
    contract = None
    if of_ingest is not None:
        contract = of_contract(spark, settings, has_other_steps="steps without state" in of_ingest.because)
    return Report(
        queries=plans,
        catch_ups=[behind[plan.query] for plan in plans],
        tables=[table for query in chosen for table in of_tables(spark, settings, query)],
        contract=contract,
        notes=[*warnings, *_notes(spark, settings, plans, behind), *_left_behind(spark, settings)],
    )


def _notes(
    spark: SparkSession, settings: Settings, plans: Sequence[QueryPlan], behind: dict[str, CatchUp]
) -> list[str]:
    told, now = [], datetime.now(timezone.utc)
    for plan in plans:
        lag = behind[plan.query]
        if plan.told is not None:
            told.append(plan.told)
        watermark = None
        if not plan.is_refused:
            watermark = checkpoints.newest_watermark(spark, checkpoint_path(settings.lake.root, plan.query))
        if watermark is not None and ahead.is_ahead(watermark, now):
            told.append(f"{ahead.of_watermark(plan.query, watermark)}.")
        if lag.may_expire:
            told.append(
                f"{plan.query}: catching up takes {lag.seconds:.0f} s at the pace of its last batches, and Kafka keeps its "
                f"oldest unread record {max(0, lag.expires_in_seconds or 0):.0f} s more. Lengthen the topic's retention."
            )
    return told


def _left_behind(spark: SparkSession, settings: Settings) -> list[str]:
    """Checkpoints of queries that nobody would start any more."""
    folder = f"{settings.lake.root}/_checkpoints"
    known = {ledger.INGEST}
    lines = versions.read(spark, settings)
    for name, view in catalog.views(settings).items():
        line = lines.line(name)
        made = [line.live, *line.before, *([line.next] if line.next else [])]
        known |= {one.of(view).query for one in made}
    names = [
        name
        for name in files.names(spark, folder)
        if name not in known and files.exists(spark, f"{folder}/{name}/metadata")
    ]
    return [f"{name} has a checkpoint, and no query has this name any more." for name in names]
