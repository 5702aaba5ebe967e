"""What a start of each streaming query would meet: by the rules of `guards`, which a start itself asks."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from pyspark.errors import PySparkException
from pyspark.sql import DataFrame, SparkSession

from pipeline import checkpoints, guards, ingest, speed, versions
from pipeline.errors import (
    DefinitionChanged,
    DependencyError,
    KafkaFailed,
    PipelineError,
    RefusedToStart,
)
from pipeline.guards import Comparison, Difference
from pipeline.kafka_check import require_topics
from pipeline.settings import Settings
from pipeline.sources import kafka_options, kafka_topics
from pipeline.standing import Query
from pipeline.tables import checkpoint_path, view_path

__all__ = ["QueryPlan", "Verdict", "of_query", "tables_of"]

Verdict = Literal[
    "begins", "unchanged", "restart is safe", "needs a new version", "state partitions differ", "refused"
]

_REASONS = {
    "topics": "sources",
    "keys": "keys",
    "output mode": "output mode",
    "spark": "another version of Spark",
    "state partitions": "state partitions",
    "state store": "state store",
    "whole plan": "steps without state",
}
_STEPS = {
    "Window": "window",
    "EventTimeWatermark": "watermark",
    "Deduplicate": "keys",
    "Join": "join",
}
_GROUPING = re.compile(r"Aggregate \[(.*?)\], \[")
_WATERMARKED = re.compile(r"-T\d+ms")


@dataclass(frozen=True)
class QueryPlan:
    """What a start of the query would meet.

    `because` names what differs in a word each, `differences` what it was and is. Where it would be `refused`, `error` is the
    error's name and `told` its message. `batch_id` is the last finished batch, on which it goes on.
    """

    query: str
    view: str | None
    verdict: Verdict
    because: Sequence[str] = ()
    differences: Sequence[Difference] = ()
    error: str | None = None
    told: str | None = None
    batch_id: int | None = None

    @property
    def is_refused(self) -> bool:
        return self.verdict in ("needs a new version", "state partitions differ", "refused")


def of_query(spark: SparkSession, settings: Settings, query: Query) -> QueryPlan:
    """Nothing is written and nothing started."""
    checkpoint = checkpoint_path(settings.lake.root, query.name)
    found: list[Comparison] = []
    refusal: PipelineError | None = None
    has_begun = False
    try:
        for comparison in _comparisons(spark, settings, query, checkpoint):
            found.append(comparison)
        has_begun = checkpoints.last_batch(spark, checkpoint) is not None
    except (RefusedToStart, DependencyError, KafkaFailed) as error:
        refusal = error
    except PySparkException as error:  # its source is not there, or its definition does not fit it
        refusal = RefusedToStart(f"query {query.name} cannot be built: {str(error).splitlines()[0]}")
    forbidden = [difference for one in found for difference in one.forbidden]
    allowed = [difference for one in found for difference in one.allowed]
    steps = next((one.steps for one in found if one.steps is not None), None)
    differences = [*forbidden, *allowed]
    return QueryPlan(
        query=query.name,
        view=query.view.name if query.view else None,
        verdict=_verdict(refusal, forbidden, allowed, has_begun=has_begun),
        because=_because(refusal, forbidden or allowed, steps),
        differences=[(what, then, now) for what, then, now in differences if what != "whole plan"],
        error=type(refusal).__name__ if refusal else None,
        told=refusal.message if refusal else None,
        batch_id=checkpoints.last_committed_batch(spark, checkpoint) if refusal is None else None,
    )


def tables_of(settings: Settings, query: Query) -> list[str]:
    root = settings.lake.root
    if query.view is None:
        return ingest.written_tables(settings)
    return [view_path(root, query.view.name, "speed", query.view.label)]


def _comparisons(
    spark: SparkSession, settings: Settings, query: Query, checkpoint: str
) -> Iterator[Comparison]:
    """In the order of a start. Raises what a start would raise."""
    root, view = settings.lake.root, query.view
    if view is not None:
        versions.require_same_definition(settings, [view])
    topics = kafka_topics(settings, [*query.kinds] if _reads_kafka(spark, settings, query) else ())
    if topics.names:
        require_topics(settings.kafka.bootstrap_servers, topics.names, options=kafka_options(settings))
    tables = tables_of(settings, query)
    guards.check_tables(spark, query=query.name, checkpoint=checkpoint, root=root, tables=tables)
    yield guards.compared_sources(spark, query=query.name, checkpoint=checkpoint, topics=topics)
    guards.require_space(root, query=query.name, min_free_mebibytes=settings.lake.min_free_mebibytes)
    schemas = dict.fromkeys(tables, view.schema) if view else ingest.written_columns(settings)
    columns = [guards.compared_columns(spark, path, schema) for path, schema in schemas.items()]
    yield Comparison(forbidden=[difference for difference in columns if difference is not None])
    if checkpoints.last_batch(spark, checkpoint) is None:
        return
    yield guards.compared_plan(
        _rows(spark, settings, query),
        query=query.name,
        checkpoint=checkpoint,
        output_mode=view.output_mode if view else "append",
        keys=view.keys if view else (),
        state_partitions=settings.speed.state_partitions if view else None,
        join_state=settings.speed.join_state,
    )


def _reads_kafka(spark: SparkSession, settings: Settings, query: Query) -> bool:
    return query.view is None or versions.source_of(spark, settings, query.view) == "kafka"


def _rows(spark: SparkSession, settings: Settings, query: Query) -> DataFrame:
    """Of a query that has begun: for a new one, a seed would be copied."""
    return (
        speed.stream_rows(spark, settings, query.view) if query.view else ingest.stream_rows(spark, settings)
    )


def _verdict(
    refusal: PipelineError | None,
    forbidden: Sequence[Difference],
    allowed: Sequence[Difference],
    *,
    has_begun: bool,
) -> Verdict:
    if forbidden:
        is_of_partitions = [what for what, _, _ in forbidden] == ["state partitions"]
        return "state partitions differ" if is_of_partitions else "needs a new version"
    if isinstance(refusal, DefinitionChanged):
        return "needs a new version"
    if refusal is not None:
        return "refused"
    if not has_begun:
        return "begins"
    return "restart is safe" if allowed else "unchanged"


def _because(
    refusal: PipelineError | None,
    differences: Sequence[Difference],
    steps: tuple[Sequence[str], Sequence[str]] | None,
) -> list[str]:
    """Each reason once, in a word or two."""
    told = ["definition"] if isinstance(refusal, DefinitionChanged) else []
    for what, _, _ in differences:
        if what == "stateful steps" and steps is not None:
            told += _changed_steps(*steps)
        else:
            told.append("output columns" if what.startswith("columns of") else _REASONS[what])
    return list(dict.fromkeys(told))


def _changed_steps(then: Sequence[str], now: Sequence[str]) -> list[str]:
    """What of the stateful steps has changed. The columns' names tell their watermark, too: it counts once, as itself."""
    before, after = ([_WATERMARKED.sub("", step) for step in steps] for steps in (then, now))
    told = [name for kind, name in _STEPS.items() if _of_kind(before, kind) != _of_kind(after, kind)]
    grouped = [_GROUPING.match(step) for step in (*before, *after) if step.startswith("Aggregate")]
    groups = {one[1] for one in grouped if one}
    if _of_kind(before, "Aggregate") != _of_kind(after, "Aggregate"):
        told.append("keys" if len(groups) > 1 else "state")
    others = [
        [step for step in steps if not step.startswith((*_STEPS, "Aggregate"))] for steps in (before, after)
    ]
    return [*told, *(["state"] if others[0] != others[1] else [])] or ["order of the steps"]


def _of_kind(steps: Sequence[str], kind: str) -> list[str]:
    return [step for step in steps if step.startswith(kind)]
