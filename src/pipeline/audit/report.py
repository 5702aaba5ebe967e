"""The whole account of a lake.

What was delivered is told by the checkpoint and the ledger, whose ranges must follow each other without hole or overlap.
Tables may be ahead of that by a batch that is being written; what lies behind the newest finished batch is not judged.
"""

from __future__ import annotations

from pipeline import evidence
from pipeline.audit.accounts import Report
from pipeline.audit.partitions import account_partitions, ask_bounds
from pipeline.audit.queries import account_queries
from pipeline.audit.spans import ingested_spans, ledger_faults, query_spans
from pipeline.console import step
from pipeline.session import side_by_side
from pipeline.settings import Settings
from pipeline.starting import session

__all__ = ["run"]


def run(settings: Settings) -> Report:
    """Account for every offset up to the last complete batch. Raises RefusedToStart where nothing has been ingested."""
    spark = session(settings)
    # Before the ledger: what is finished then, the ledger has.
    ingested = ingested_spans(spark, settings)
    with step("audit: what the queries have read"):
        found = evidence.collect(spark, settings)
        if found.scopes:
            evidence.enter_late_events(spark, settings, found)
        kafka = ask_bounds(spark, settings)
        read = [*ingested, *query_spans(spark, settings, found)]
        faults = ledger_faults(spark, found, read)

    def of_offsets() -> Report:
        with step("audit: every offset and its fate"):
            accounts, more = account_partitions(spark, settings, found, ingested, kafka)
            return Report(accounts, [], more)

    def of_queries() -> Report:
        with step("audit: every event and every query"):
            accounts, more = account_queries(spark, settings, found, read)
            return Report([], accounts, more)

    offsets, queries = side_by_side(spark, [of_offsets, of_queries])
    return Report(
        offsets.partitions,
        queries.queries,
        [*faults, *offsets.faults, *queries.faults],
        notes=[*kafka.warnings, *([kafka.silence] if kafka.silence else [])],
    )
