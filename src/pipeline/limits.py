"""What may be: the limits of `alerts.max_…`, each judged in one place, for running queries and for who looks from outside."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipeline import alerts
from pipeline.alerts import Problem
from pipeline.ledger import INGEST

if TYPE_CHECKING:
    from pipeline.settings import Alerts
    from pipeline.status import Report

__all__ = ["Finding", "findings", "lag", "tell"]


@dataclass(frozen=True)
class Finding:
    """A subject of a job with a limit; `error` says by how much it is over, None where it is not."""

    job: str
    subject: str
    step: str
    name: str
    error: str | None


def tell(finding: Finding) -> None:
    """To the alert channel: what is over, or later that it is so no more."""
    if finding.error is None:
        alerts.over(finding.job, finding.subject)
    else:
        alerts.report(Problem(finding.job, finding.subject, finding.step, finding.name, finding.error))


def lag(query: str, records: int, limits: Alerts) -> Finding:
    limit = limits.max_lag_records
    is_over = limit is not None and records > limit
    told = f"{records} records behind its topics; the limit (alerts.max_lag_records) is {limit}"
    return Finding(_job(query), f"lag of {query}", query, "LagOverLimit", told if is_over else None)


def findings(report: Report, limits: Alerts) -> Iterator[Finding]:
    """Whatever has a limit and can be judged now."""
    for query in (one for one in report.queries if not one.is_beside):  # a replay is behind while it lasts
        if limits.max_lag_records is not None and query.lag_records is not None:
            yield lag(query.query, query.lag_records, limits)
        if limits.max_lag_seconds is not None and query.lag_seconds is not None:
            told = f"the oldest record that it has not read is {query.lag_seconds:.0f} s old"
            error = _over(told, query.lag_seconds, limits.max_lag_seconds, "max_lag_seconds")
            yield Finding(_job(query.query), f"age of {query.query}", query.query, "LagOverLimit", error)
    for view in report.views:
        if limits.max_batch_age_hours is not None and view.age_seconds is not None:
            hours = view.age_seconds / 3600
            error = _over(
                f"it was published {hours:.1f} hours ago",
                hours,
                limits.max_batch_age_hours,
                "max_batch_age_hours",
            )
            yield Finding("batch", f"age of {view.view}", f"batch {view.view}", "BatchTooOld", error)
    yield from _shares(report, limits)


def _shares(report: Report, limits: Alerts) -> Iterator[Finding]:
    for share in report.shares:
        limit, key = (
            (limits.max_dead_percent, "max_dead_percent")
            if share.share == "dead"
            else (limits.max_late_percent, "max_late_percent")
        )
        if limit is not None and share.records:
            percent = 100 * share.count / share.records
            told = f"{share.count} of the newest {share.records} records are {share.share}, {percent:.1f} percent"
            job = "ingest" if share.share == "dead" else "speed"
            name = f"{share.share.capitalize()}OverLimit"
            yield Finding(
                job,
                f"{share.share} share of {share.subject}",
                share.subject,
                name,
                _over(told, percent, limit, key),
            )


def _over(told: str, value: float, limit: int, key: str) -> str | None:
    return f"{told}; the limit (alerts.{key}) is {limit}" if value > limit else None


def _job(query: str) -> str:
    return "ingest" if query == INGEST else "speed"
