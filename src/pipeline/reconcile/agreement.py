"""Batch against speed, view by view: how far they agree, kept as a table and in Markdown."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from functools import partial
from pathlib import Path

from pyspark.sql import Row, SparkSession
from pyspark.sql import functions as F

from pipeline import evidence, late, versions
from pipeline.console import step
from pipeline.errors import RefusedToStart
from pipeline.evidence import Evidence, speed_table
from pipeline.instants import written
from pipeline.reconcile.causes import (
    COMPARED,
    CONFLICTING,
    CONTRACT_CHANGED,
    LATE,
    OPEN,
    REPAIRED,
    UNEXPLAINED,
)
from pipeline.reconcile.comparison import batch_side, batch_table, closed_by_both, compared_rows
from pipeline.reconcile.explanation import explain_differences
from pipeline.serving import speed_rows
from pipeline.session import side_by_side
from pipeline.settings import Settings
from pipeline.sinks import commit_lock, create_table
from pipeline.starting import session
from pipeline.tables import RECONCILIATION, SCHEMAS, local_path, table_path
from pipeline.views import View

__all__ = ["Agreement", "compare", "run"]


_EXAMPLES = 20


@dataclass(frozen=True)
class Agreement:
    """How many rows of a view both layers have closed, how many of them are equal, and from which cause the others differ.

    `horizon` is the time up to which both are closed; None where nothing cuts the view. `open` counts also the rows
    that the horizon has not reached. `late_events` are those of its query, `unexplained_keys` some of the rows without cause.
    """

    view: str
    horizon: datetime | None
    compared: int
    equal: int
    late: int
    unexplained: int
    late_events: int
    repaired: int = 0
    conflicting: int = 0
    contract_changed: int = 0
    open: int = 0
    unexplained_keys: Sequence[str] = ()
    batch_version: int = 0
    speed_version: int = 0
    log_versions: Mapping[str, int] = field(default_factory=dict)


def run(settings: Settings, *, views: Sequence[str] = (), report: str | None = None) -> list[Agreement]:
    """Compare the views (all by default), enter what was late, and keep the result as a table and in Markdown.

    `report` is the Markdown file, by default `reconciliation.md` in a lake on this machine. Raises RefusedToStart where
    a layer has no table yet.
    """
    spark = session(settings)
    known = versions.live_views(spark, settings)
    with step("late events"):
        found = evidence.collect(spark, settings)
        if found.scopes:
            evidence.enter_late_events(spark, settings, found)

    def agreement(name: str) -> Agreement:
        with step(f"reconcile {name}"):
            return _agreement(spark, settings, known[name], found, batch_of=known[name])

    agreements = side_by_side(spark, [partial(agreement, name) for name in views or known])
    missed = late.recorded(spark, settings.lake.root).groupBy("query").count().collect()
    late_events = {row["query"]: row["count"] for row in missed}
    agreements = [replace(one, late_events=late_events.get(one.view, 0)) for one in agreements]
    _keep(spark, settings, agreements, report=report)
    return agreements


def compare(settings: Settings, *, new: View, live: View) -> tuple[Agreement, Agreement | None]:
    """Of a version beside the live one: its batch form against its own speed form, and against that of the live version (None
    where there is none), as `run` compares them. Nothing of it is kept.
    """
    spark = session(settings)
    with step(f"compare {new.name}: {new.label} batch with speed"):
        own = _agreement(
            spark, settings, new, evidence.collect(spark, settings, versions_of=[new]), batch_of=new
        )
    found = evidence.collect(spark, settings, versions_of=[live])
    if live.name not in found.scopes:
        return own, None
    with step(f"compare {new.name}: {new.label} with {live.label}"):
        return own, _agreement(spark, settings, live, found, batch_of=new)


def _agreement(
    spark: SparkSession, settings: Settings, view: View, found: Evidence, *, batch_of: View
) -> Agreement:
    """The batch form of one version against the speed form of `view`, another one or the same."""
    newest = batch_table(spark, settings, batch_of)
    speed = speed_table(spark, settings, view, found)
    if newest is None or speed is None:
        layer = "batch" if newest is None else "speed"
        raise RefusedToStart(
            f"{view.name} has no {layer} table yet: run `pipeline {layer} {view.name}` first."
        )
    horizon = closed_by_both(spark, settings, view, newest, found)
    sides = {
        "batch": batch_side(spark, settings, view, newest, found),
        "speed": speed_rows(spark, view, *speed),
    }
    compared = compared_rows(sides, view=view, horizon=horizon).persist()
    try:
        counts = {row["verdict"]: row["count"] for row in compared.groupBy("verdict").count().collect()}
        unexplained = []
        if counts.get("twice"):
            unexplained = compared.where(F.col("verdict") == "twice").limit(_EXAMPLES).collect()
        causes = {}
        if counts.get("differs"):
            closed = compared.where(F.col("verdict").isin("equal", "differs"))
            explained = explain_differences(
                spark, settings, view, closed, newest=newest, found=found
            ).persist()
            causes = {row["cause"]: row["count"] for row in explained.groupBy("cause").count().collect()}
            if causes.get(UNEXPLAINED):
                unexplained += explained.where(F.col("cause") == UNEXPLAINED).limit(_EXAMPLES).collect()
            explained.unpersist()
    finally:
        compared.unpersist()
    return Agreement(
        view=view.name,
        horizon=horizon,
        compared=sum(count for verdict, count in counts.items() if verdict != "open"),
        equal=counts.get("equal", 0),
        late=causes.get(LATE, 0),
        unexplained=causes.get(UNEXPLAINED, 0) + counts.get("twice", 0),
        late_events=0,
        repaired=causes.get(REPAIRED, 0),
        conflicting=causes.get(CONFLICTING, 0),
        contract_changed=causes.get(CONTRACT_CHANGED, 0),
        open=causes.get(OPEN, 0) + counts.get("open", 0),
        unexplained_keys=[_key_text(row, view) for row in unexplained[:_EXAMPLES]],
        batch_version=newest.version,
        speed_version=speed[1],
        log_versions=dict(found.log.versions),
    )


def _key_text(row: Row, view: View) -> str:
    return " ".join(f"{name}={_plain(row[name])}" for name in view.keys)


def _plain(value: object) -> str:
    return written(value, to_the_second=True) if isinstance(value, datetime) else str(value)


def _keep(
    spark: SparkSession, settings: Settings, agreements: Sequence[Agreement], *, report: str | None
) -> None:
    """Append the result to the table `reconciliation` and write the Markdown file."""
    run_at = datetime.now(timezone.utc)
    names = SCHEMAS[RECONCILIATION].names
    rows = [
        tuple(run_at if name == "run_at" else getattr(agreement, name) for name in names)
        for agreement in agreements
    ]
    path = table_path(settings.lake.root, RECONCILIATION)
    create_table(spark, path, SCHEMAS[RECONCILIATION])
    with commit_lock(path):
        entries = spark.createDataFrame(rows, SCHEMAS[RECONCILIATION]).coalesce(1)
        entries.write.format("delta").mode("append").save(path)
    lake = local_path(settings.lake.root)
    target = Path(report) if report else lake / "reconciliation.md" if lake else None
    if target is not None:
        target.write_text("\n".join(_markdown(agreements, run_at)) + "\n", encoding="utf-8")


def _markdown(agreements: Sequence[Agreement], run_at: datetime) -> Iterator[str]:
    columns = ("view", "horizon", *COMPARED, "late_events")
    yield "# Batch against speed"
    yield ""
    yield f"Compared at {_plain(run_at)}, row by row, over what both layers have closed. Money is compared to the cent."
    yield ""
    yield f"| {' | '.join(columns)} |"
    yield f"|{'|'.join(' --- ' if name in ('view', 'horizon') else ' ---: ' for name in columns)}|"
    for agreement in agreements:
        values = [getattr(agreement, name) for name in columns]
        yield f"| {' | '.join('' if value is None else _plain(value) for value in values)} |"
    for agreement in agreements:
        yield ""
        yield (
            f"`{agreement.view}`: batch table version {agreement.batch_version}, speed table version "
            f"{agreement.speed_version}, log {_versions(agreement.log_versions)}."
        )
        for key in agreement.unexplained_keys:
            yield f"- unexplained: `{key}`"


def _versions(versions: Mapping[str, int]) -> str:
    return ", ".join(f"`{table}` {version}" for table, version in sorted(versions.items()))
