"""A version of a view beside the live one: begun, made by a replay of the history, compared with the live one, and switched to."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from pyspark.sql import SparkSession

from pipeline import batch, catalog, checkpoints, kafka_topics, ledger, reconcile, speed, versions
from pipeline.console import step
from pipeline.errors import AlreadyRunning, OffsetsLost, RefusedToStart
from pipeline.feeds import facts_at, feed_path
from pipeline.kafka_offsets import Partition, Run
from pipeline.published import Origin, published
from pipeline.reconcile import Agreement
from pipeline.settings import Settings
from pipeline.sources import kafka_topics as topics_of
from pipeline.starting import session
from pipeline.stopping import poll_seconds, running_queries
from pipeline.tables import BATCH_LEDGER, checkpoint_path, local_path, table_path
from pipeline.versions import Made
from pipeline.views import Source, View

__all__ = ["Comparison", "batch_beside", "promote", "replay", "rollback"]

From = Literal["typed", "raw", "kafka"]

_CATCH_UP_SECONDS = 60


@dataclass(frozen=True)
class Comparison:
    """The version to be promoted against the live one. `proof` is its batch form against its speed form, `against_live` its batch
    form against the live speed form.

    Where `has_new_definition`, the rows that differ from the live ones without another cause do so by the definition.
    """

    view: str
    live: str
    new: str
    has_new_definition: bool
    proof: Agreement
    against_live: Agreement | None

    @property
    def unexplained(self) -> int:
        other = self.against_live
        return self.proof.unexplained + (
            other.unexplained if other is not None and not self.has_new_definition else 0
        )


def replay(
    settings: Settings, names: Sequence[str], *, source: From = "typed", once: bool, anew: bool = False
) -> None:
    """Stream the history of each view into a version beside the live one, and go on with what comes, until stopped.

    A version that is being made is gone on with, or left with `anew`. With `once` it ends when it has caught up. Raises
    RefusedToStart where nothing has been ingested, or what is being made reads another source, OffsetsLost where Kafka does
    not hold the beginning any more.
    """
    spark = session(settings)
    reads: Source = "kafka" if source == "kafka" else "feed"
    asked = [replace(catalog.views(settings)[name], source=reads) for name in names]
    speed.require_ready(settings, asked)  # else what is refused would leave a version that is begun
    for view in asked if source == "kafka" else ():
        _require_beginning(spark, settings, view)
    origin: Origin = "raw" if source == "raw" else "typed"
    made = [_begun(spark, settings, name, source=reads, origin=origin, anew=anew) for name in names]
    speed.run_versions(settings, made, once=once, origin=origin, job="replay")


def batch_beside(settings: Settings, names: Sequence[str]) -> list[View]:
    """Of each view (all by default) the version that is being made; one is begun where there is none."""
    spark = session(settings)
    return [
        _begun(spark, settings, name, source=None, anew=False) for name in names or catalog.views(settings)
    ]


def promote(
    settings: Settings, name: str, *, is_confirmed: Callable[[Comparison], bool]
) -> Comparison | None:
    """Compare the version that is being made with the live one, and have readers see it from now on, if `is_confirmed` says so.

    A version without a batch form gets one first. The switch is one commit. None where it was not confirmed; nothing is
    switched either where a difference is unexplained. Raises RefusedToStart where there is no version that has caught up.
    """
    spark = session(settings)
    known = versions.read(spark, settings)
    definition = catalog.views(settings)[name]
    live, made = known.live(definition), known.line(name).next
    if made is None:
        raise RefusedToStart(
            f"{name} has no version beside the live one ({live.label}). Make one first: pipeline replay {name}"
        )
    new = made.of(definition)
    _require_same(settings, name, made, source=None)
    _require_caught_up(spark, settings, new)
    if published(spark, settings, new) is None:
        batch.publish(settings, [new], source=made.origin)
    proof, against_live = reconcile.compare(settings, new=new, live=live)
    found = Comparison(name, live.label, new.label, live.version != new.version, proof, against_live)
    if found.unexplained:
        return found
    if not is_confirmed(found):
        return None
    with versions.changing(settings):
        line = versions.read(spark, settings).line(name)
        if line.next is None or line.next.label != new.label or line.live.label != live.label:
            raise RefusedToStart(
                f"{name}: its versions have been changed meanwhile. Look again: pipeline promote {name}"
            )
        switched = replace(line, live=line.next, before=(*line.before, line.live), next=None)
        versions.enter(spark, settings, name, switched, became="live")
    return found


def rollback(settings: Settings, name: str) -> tuple[str, str]:
    """Have readers see the version again that was live before, in one commit; the labels of both, the one left first.

    The one that is left can be promoted again, unless another one is being made: then it is kept, as the oldest. Raises
    RefusedToStart where there is none to go back to.
    """
    spark = None if local_path(settings.lake.root) is not None else session(settings)
    with versions.changing(settings):
        line = versions.read(spark, settings).line(name)
        if not line.before:
            raise RefusedToStart(
                f"{name}: no version was live before {line.live.label}, so there is nothing to go back to."
            )
        *before, former = line.before
        kept = () if line.next is None else (line.live,)
        switched = replace(line, live=former, before=(*kept, *before), next=line.next or line.live)
        versions.enter(spark, settings, name, switched, became="live")
    return line.live.label, former.label


def _begun(
    spark: SparkSession,
    settings: Settings,
    name: str,
    *,
    source: Source | None,
    origin: Origin = "typed",
    anew: bool,
) -> View:
    """The version of the view that is being made, begun now where there is none (or `anew`), and what its query reads."""
    definition = catalog.views(settings)[name]
    with versions.changing(settings):
        line = versions.read(spark, settings).line(name)
        made = line.next
        if made is not None and anew:
            _require_stopped(spark, settings, made.of(definition))
            made = None
        if made is None:
            made = Made(replace(definition, rebuild=line.count + 1).label, source, origin)
            line = replace(line, count=line.count + 1)
        elif made.source is None:
            made = replace(made, source=source, origin=origin)
        _require_same(settings, name, made, source=source, origin=origin)
        if made != line.next:
            versions.enter(spark, settings, name, replace(line, next=made), became="begun")
    return made.of(definition)


def _require_same(
    settings: Settings, name: str, made: Made, *, source: Source | None, origin: Origin = "typed"
) -> None:
    """That what is being made is what is asked for, by the definition that the code has; `source` None asks for neither source."""
    definition = catalog.views(settings)[name]
    version = made.of(definition).version
    if source not in (None, made.source):
        what = f"reads {made.source}, and a checkpoint cannot change its source"
    elif source is not None and origin != made.origin:
        what = f"has its history from the {made.origin} events of the log, and it is not made twice"
    elif version != definition.version:
        what = f"is of version {version} of the definition, and the code has version {definition.version}"
    else:
        return
    raise RefusedToStart(
        f"{name}: the version {made.label} that is being made {what}.\n"
        f"Leave it and begin another one: pipeline replay {name} --anew"
    )


def _require_stopped(spark: SparkSession, settings: Settings, made: View) -> None:
    if made.query in running_queries(settings.lake.root, spark=spark):
        raise AlreadyRunning(
            f"{made.name}: the version {made.label} is being made by another process. End that first: pipeline stop {made.query}",
            query=made.query,
        )


def _require_caught_up(spark: SparkSession, settings: Settings, new: View) -> None:
    """That the version's query has read the whole history."""
    root = settings.lake.root
    checkpoint = checkpoint_path(root, new.query)
    if checkpoints.last_committed_batch(spark, checkpoint) is None:
        reason = "has no speed form: rows that come after its batch form would be missing"
    elif new.source == "feed":
        read = checkpoints.versions_read(spark, checkpoint)
        facts = [facts_at(spark, feed_path(root, new), version) for version in read.values()]
        if len(read) == len(new.reads) and all(one is not None and one.through is not None for one in facts):
            return
        reason = "has not read the whole history yet"
    elif not _comes_as_far_as_ingest(spark, settings, new, checkpoint):
        reason = "has not read yet all that ingest has"
    else:
        return
    raise RefusedToStart(
        f"{new.name}: the version {new.label} {reason}. Go on with it first: pipeline replay {new.name}"
    )


def _require_beginning(spark: SparkSession, settings: Settings, view: View) -> None:
    """That Kafka still holds what ingest has read first: else the version would begin with a hole that nobody sees."""
    spans = _ingested(spark, settings)
    for topic, held in kafka_topics.describe(spark, topics_of(settings, view.inputs)).items():
        for partition, (first, end) in held.offsets.items():
            began, _ = spans.get((topic, partition), (first, end))
            if began < first:
                raise OffsetsLost(
                    f"{view.name}: the log of topic {topic} partition {partition} begins at offset {began}, but Kafka's first is "
                    f"{first}: {first - began} offsets have expired.\nThe log has them: pipeline replay {view.name}",
                    query=view.query,
                    topic=topic,
                    partition=partition,
                    expected=began,
                    first=first,
                    end=end,
                )


def _comes_as_far_as_ingest(spark: SparkSession, settings: Settings, view: View, checkpoint: str) -> bool:
    """Whether the view's query, which reads Kafka itself, has read what ingest has by now.

    One that runs beside ingest is always some records behind it, so it is given a minute to come so far.
    """
    root, topics = settings.lake.root, topics_of(settings, view.inputs).names
    ends = {place: end for place, (_, end) in _ingested(spark, settings).items() if place[0] in topics}
    deadline = time.monotonic() + _CATCH_UP_SECONDS
    with step(f"promote {view.name}: {view.query} comes as far as ingest"):
        while True:
            is_over = view.query not in running_queries(root, spark=spark) or time.monotonic() > deadline
            read = {
                (topic, number): offset
                for topic, number, offset in checkpoints.next_offsets(spark, checkpoint)
            }
            has_read = all(read.get(place, 0) >= end for place, end in ends.items())
            if has_read or is_over:
                return has_read
            time.sleep(poll_seconds(root))


def _ingested(spark: SparkSession, settings: Settings) -> dict[Partition, Run]:
    """Which offsets ingest has read, half-open, by topic partition; none where it has read nothing."""
    root = settings.lake.root
    generation = ledger.generations(spark, root, [ledger.INGEST]).get(ledger.INGEST)
    newest = ledger.newest_batch(spark, root, ledger.INGEST, generation) if generation else None
    if generation is None or newest is None:
        return {}
    entries = spark.read.format("delta").load(table_path(root, BATCH_LEDGER))
    return ledger.spans_of_ingest(entries, generation, after=-1, through=newest)
