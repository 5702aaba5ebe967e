"""A play: a seeded log goes through ingest and a view or two, and crashes on the way; then the lake is judged.

A crash in the session is an exception at a failpoint: what the step before has made durable is there, what comes after
is not, and the query begins again from its checkpoint. Or it is the removal of the newest file under `commits/`: what
is left when a process dies after its writes and before Spark has noted that the batch is done.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path

from pyspark.sql import SparkSession

import judge
from crash import logs
from lake import at, kinds_of, on_kafka, send
from pipeline import batch, ingest, reconcile, speed
from pipeline.failpoints import watched
from pipeline.settings import Settings
from pipeline.streaming import QueryFailed
from pipeline.tables import checkpoint_path
from pipeline.views import VIEWS
from reference import VIEWS as REFERENCE
from reference import Record, accepted_log, read_records
from reference.views import AcceptedLog, identity

__all__ = [
    "INGEST",
    "Crashed",
    "Play",
    "Trap",
    "batch_sizes",
    "check",
    "forget_last_commit",
    "has_empty_batches",
    "has_hot_key",
    "play",
    "views_of",
    "with_batches_of",
]

INGEST = "ingest"
SEEDED = "customer_totals"
PIECES = 2
_BATCH_SIZES, _LARGE_BATCHES = (7, 1000), (12_000, 30_000)
UNTIL = at(60 * 24 * 5)
INGEST_TABLES = (
    "ingest: raw_events",
    "ingest: order_events",
    "ingest: product_events",
    "ingest: dead_letters",
)
INGEST_POINTS = ("ingest: begun", "ingest: all appended", "ingest: in the ledger")
SPEED_POINTS = ("speed: begun", "speed: written", "speed: in the ledger", "ledger: read from the checkpoint")


class Crashed(Exception):
    """A run that a trap has ended."""


@dataclass
class Trap:
    """Ends the run at the `nth` passing of each of its points."""

    points: frozenset[str]
    nth: int = 1
    passed: Counter[str] = field(default_factory=Counter)
    fired: list[str] = field(default_factory=list)

    def __call__(self, name: str) -> None:
        self.passed[name] += 1
        if name in self.points and self.passed[name] == self.nth:
            self.fired.append(name)
            raise Crashed(name)


@dataclass
class Play:
    """What is played, and what has happened so far; `crashes` tells each crash that really took place."""

    spark: SparkSession
    here: Settings
    views: tuple[str, ...]
    rng: random.Random
    batch_sizes: tuple[int, ...] = _BATCH_SIZES
    crashes: list[str] = field(default_factory=list)
    passed: Counter[str] = field(default_factory=Counter)
    seed: _Seed | None = None

    def run(self, actor: str) -> None:
        """Drain what is there, cut into batches of some size."""
        here = with_batches_of(self.here, self.rng.choice(self.batch_sizes))
        if actor == INGEST:
            ingest.run(here, once=True)
        else:
            speed.run(here, views=[actor], once=True)


@dataclass(frozen=True)
class _Seed:
    """What a seeded query began with: the identities that batch had counted, and its horizon."""

    horizon: datetime
    counted: frozenset[object]


def views_of(seed: int) -> tuple[str, ...]:
    """One view, by turns; every third case two."""
    names = [*VIEWS]
    first, second = names[seed % len(names)], names[(seed + 2) % len(names)]
    return (first, second) if seed % 3 == 0 else (first,)


def batch_sizes(seed: int) -> tuple[int, ...]:
    """Records a batch, by which a log is cut differently at each start; large in the cases that have a hot key."""
    return _LARGE_BATCHES if has_hot_key(seed) else _BATCH_SIZES


def has_hot_key(seed: int) -> bool:
    """Two cases of 35, both with keyed state."""
    return seed % 35 in (3, 13)


def has_empty_batches(seed: int) -> bool:
    return seed % 4 == 0


def with_batches_of(here: Settings, records: int) -> Settings:
    return replace(
        here,
        ingest=replace(here.ingest, max_offsets_per_trigger=records),
        speed=replace(here.speed, max_offsets_per_trigger=records),
    )


def play(spark: SparkSession, here: Settings, seed: int) -> Play:
    """Play the case of this seed and judge its lake; each crash has happened, or it fails."""
    rng = random.Random(seed)
    here = on_kafka(here) if seed % 2 else here
    told = Play(spark, here, views_of(seed), rng, batch_sizes(seed))
    if has_empty_batches(seed):
        _empty_batches(told)
    for number in range(PIECES):
        send(here, [*(logs.hot_key(number) if has_hot_key(seed) else ()), *logs.piece(rng, number)])
        actors = [INGEST, *told.views]
        rng.shuffle(actors)
        if (
            here.speed.source == "log"
        ):  # what the views are to meet, ingest has read, if not always to its end
            actors.sort(key=lambda actor: actor != INGEST)
        for actor in actors:
            is_new = number == 0 and not has_empty_batches(seed)
            if is_new and actor == SEEDED and rng.random() < 0.6:
                _publish_seed(told)
            for _ in range(rng.choice((1, 2)) if actor == INGEST else 2):
                _crash(told, actor)
            if actor == INGEST and here.speed.source == "log" and (number == 0 or rng.random() < 0.5):
                told.run(INGEST)
    if has_empty_batches(seed):
        logs.marks(here)
        _empty_batches(told)
    send(here, logs.ending(0))
    for actor in (INGEST, *told.views):
        told.run(actor)
    check(told, with_batch=seed % 5 == 0)
    return told


def _empty_batches(told: Play) -> None:
    """A batch of every actor for which Kafka has no record; that of ingest crashes first."""
    assert _crash_at(told, frozenset({"ingest: all appended"}), 1, lambda: told.run(INGEST))
    for actor in (INGEST, *told.views):
        told.run(actor)


def _crash(told: Play, actor: str) -> None:
    """One crash of the actor, at a place and time by the seed. If the run never comes there, its last commit is lost instead."""
    points, nth = _points(told, actor), told.rng.choice((1, 1, 2))
    if points and _crash_at(told, points, nth, lambda: told.run(actor)):
        if points & {*INGEST_TABLES}:
            judge.check_ledger_is_behind(told.spark, told.here)
        return
    query = ingest.QUERY if actor == INGEST else VIEWS[actor].query
    if not points:
        told.run(actor)
    number = forget_last_commit(told.here, query)
    told.crashes.append(f"{actor}: commits/{number} removed")


def _points(told: Play, actor: str) -> frozenset[str]:
    """The points of the next crash; none where a commit is to be removed."""
    if told.rng.random() < 0.25:
        return frozenset()
    if actor == INGEST:
        if told.rng.random() < 0.5:
            return frozenset(told.rng.sample(INGEST_TABLES, told.rng.randint(1, 4)))
        return frozenset({told.rng.choice(INGEST_POINTS)})
    points = list(SPEED_POINTS)
    if actor == "word_counts":
        points += ["speed: counts published"] * 2
    if actor == SEEDED and told.seed is not None and not told.passed["speed: begun"]:
        points += ["seed: copied"] * 6
    return frozenset({told.rng.choice(points)})


def _crash_at(told: Play, points: frozenset[str], nth: int, run: Callable[[], None]) -> bool:
    """Whether the run has come to the trap; if so, it has ended there."""
    trap, ended = Trap(points, nth), False
    with watched(trap):
        try:
            run()
        except (Crashed, QueryFailed) as end:
            if not trap.fired:
                raise AssertionError(f"the run ended by itself, with {told.crashes} behind it") from end
            ended = True
    assert ended == bool(trap.fired), f"the run went on after {trap.fired}"
    told.passed += trap.passed
    if trap.fired:
        told.crashes.append(f"{', '.join(sorted(trap.fired))} ({nth})")
    return bool(trap.fired)


def _publish_seed(told: Play) -> None:
    """A batch form for the seeded view to begin with; the batch run itself crashes first, as often as not."""
    told.run(INGEST)
    until = at(told.rng.choice((60, 125, 185)))

    def publish() -> None:
        batch.run(told.here, views=[SEEDED], until=until)

    if told.rng.random() < 0.5:
        _crash_at(told, frozenset({told.rng.choice(("batch: table made", "batch: replaced"))}), 1, publish)
    publish()
    horizon = until.replace(minute=0)
    log = accepted_log(_records(told), kinds_of(told.here))
    counted = {identity(placed.event) for placed in log.orders if placed.event.event_time < horizon}
    told.seed = _Seed(horizon, frozenset(counted))


def forget_last_commit(here: Settings, query: str) -> int:
    """Remove the newest file under `commits/`, with its checksum; its number."""
    commits = Path(checkpoint_path(here.lake.root, query)) / "commits"
    newest = max(int(file.name) for file in commits.iterdir() if file.name.isdigit())
    (commits / str(newest)).unlink()
    (commits / f".{newest}.crc").unlink(missing_ok=True)
    return newest


def check(told: Play, *, with_batch: bool = False) -> None:
    """Every table of the lake against the reference; then the product's own checks, which must find nothing.

    `with_batch`: batch and reconcile as well, which take as long as all the rest.
    """
    spark, here = told.spark, told.here
    records = _records(told)
    entries = judge.ledger(spark, here)
    judge.check_log(spark, here, records)
    judge.check_ledger(entries, here, records, [ingest.QUERY, *(VIEWS[name].query for name in told.views)])
    log = accepted_log(records, kinds_of(here))
    for name in told.views:
        judge.check_speed(spark, here, name, _counted(told, name, entries, records))
        if name == "word_counts":
            _check_published_words(here, log)
    if with_batch:
        _check_batch(told, log)
    _check_audit(told)


def _check_batch(told: Play, log: AcceptedLog) -> None:
    """Batch, after crashes of its own, and reconcile, which explains every difference."""

    def publish() -> None:
        batch.run(told.here, views=told.views, until=UNTIL)

    point = told.rng.choice(("batch: table made", "batch: replaced"))
    assert _crash_at(told, frozenset({point}), 1, publish)
    publish()
    for name in told.views:
        judge.check_batch(told.spark, told.here, name, log, UNTIL)
    for agreement in reconcile.run(told.here, views=told.views):
        assert agreement.unexplained == 0, agreement


def _check_audit(told: Play) -> None:
    """The audit finds every record accounted for. (In one place: it is called as soon as there is one.)"""
    if importlib.util.find_spec("pipeline.audit") is not None:
        audit = importlib.import_module("pipeline.audit")
        assert audit.run(told.here).faults == []


def _counted(told: Play, name: str, entries: Sequence[object], records: list[Record]) -> AcceptedLog:
    """What the query had to count: all but the late; of a seeded one, its seed and what came from its horizon on."""
    seed = told.seed if name == SEEDED else None
    counted = judge.counted_log(entries, told.here, name, records)
    if seed is None:
        return counted
    log = accepted_log(records, kinds_of(told.here))
    began = [
        placed
        for placed in log.orders
        if placed.event.event_time < seed.horizon and identity(placed.event) in seed.counted
    ]
    after = [placed for placed in counted.orders if placed.event.event_time >= seed.horizon]
    return replace(counted, orders=[*began, *after])


def _check_published_words(here: Settings, log: AcceptedLog) -> None:
    newest = {
        (record.key or b"").decode(): json.loads(record.value or b"")["count"]
        for record in read_records(here.kafka.bootstrap_servers, [here.kafka.topics.word_counts_output])
    }
    assert newest == {row["word"]: row["count"] for row in REFERENCE["word_counts"](log, None)}


def _records(told: Play) -> list[Record]:
    return read_records(told.here.kafka.bootstrap_servers, judge.topics_in(told.here))
