"""A view is made anew beside the live one, which goes on meanwhile; readers are switched, and switched back.

One lake is played: its log is generated with disorder, duplicates and lateness, and a dead letter is repaired. What the new
versions must hold is what the reference computes in plain Python over the whole log, late events included.
"""

from __future__ import annotations

import json
import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import pytest
from deltalake import DeltaTable
from pyspark.sql import SparkSession

import judge
from lake import (
    Sent,
    at,
    by_key,
    cancellation,
    fresh,
    kinds_of,
    line,
    order,
    product,
    rows_of,
    send,
    topics_of,
)
from pipeline import (
    audit,
    dead_letters,
    feeding,
    feeds,
    ingest,
    kept_state,
    promotion,
    querying,
    reconcile,
    serving,
    speed,
    stopping,
    versions,
)
from pipeline.delta_log import newest_version
from pipeline.errors import OffsetsLost, RefusedToStart
from pipeline.failpoints import watched
from pipeline.published import published
from pipeline.settings import Settings
from pipeline.streaming import QueryFailed
from pipeline.tables import ORDER_EVENTS, table_path, view_path
from pipeline.transforms.patches import merge_patch
from pipeline.views import VIEWS
from reference import VIEWS as REFERENCE
from reference import Record, accepted_log, read_records
from reference.views import AcceptedLog
from test_guards import drop_first_records
from test_law import plan_of

pytestmark = pytest.mark.kafka

READ = VIEWS["order_outcomes"]
_CANCELLED = READ.columns.index("cancelled_at")
BROKEN = order("mended", time=at(30), customer_id="c-mended", total="much")
MENDED = order("mended", time=at(30), customer_id="c-mended", total="3.00")
LATER = [
    order("later", time=at(60 * 72), customer_id="c-later", items=[line("p1")]),
    product("p1", time=at(60 * 72)),
    order("late for all", time=at(30), customer_id="c-late", total="1.00"),
    order("after a day", time=at(60 * 72), customer_id="c-later"),
    cancellation("after a day", time=at(60 * 72)),
]
LAST = [order("last", time=at(60 * 73), customer_id="c-later", total="5.00", items=[line("p1")])]


class Stopped(Exception):
    """A run ends here, as in a crash."""


@contextmanager
def stopped_at(place: str, *, times: int = 1) -> Iterator[None]:
    left = [times]

    def trap(name: str) -> None:
        if name == place:
            left[0] -= 1
            if not left[0]:
                raise Stopped(name)

    with watched(trap), pytest.raises(Stopped):
        yield


@dataclass
class Reader:
    """Asks for all rows of a view again and again, as anybody would, and keeps what it saw."""

    settings: Settings
    seen: list[frozenset[tuple[Any, ...]]] = field(default_factory=list)
    faults: list[Exception] = field(default_factory=list)

    def read(self) -> None:
        try:
            _, rows = querying.query(self.settings, READ.name)
            self.seen.append(frozenset(rows))
        except Exception as error:  # noqa: BLE001  # whatever a reader is told, it is no state
            self.faults.append(error)

    @contextmanager
    def reading(self, *, at_least: int) -> Iterator[None]:
        is_over = threading.Event()

        def poll() -> None:
            while not is_over.is_set() or (len(self.seen) < at_least and not self.faults):
                self.read()
                time.sleep(0.02)  # two cores are for the streams, too

        thread = threading.Thread(target=poll)
        thread.start()
        try:
            yield
        finally:
            is_over.set()
            thread.join()


def state(here: Settings, label: str, version: int) -> frozenset[tuple[Any, ...]]:
    """What readers see of one version of a speed table, with the batch form that lies before it."""
    view = replace(READ, rebuild=int(label.partition("r")[2] or 0))
    form = published(None, here, view)
    rows = _earliest(view_path(here.lake.root, view.name, "speed", label), version)
    if form is not None and form.horizon is not None:
        horizon = form.horizon.replace(tzinfo=None)
        created_at = view.columns.index("created_at")
        rows = _rows(form.path, form.version) | {row for row in rows if row[created_at] >= horizon}
    return rows


def _earliest(path: str, version: int) -> frozenset[tuple[Any, ...]]:
    """Of each order's rows in a speed table that with the earliest cancellation."""
    rows = {}
    for row in sorted(
        _rows(path, version), key=lambda row: (row[_CANCELLED] is None, row[_CANCELLED]), reverse=True
    ):
        rows[tuple(row[READ.columns.index(name)] for name in READ.keys)] = row
    return frozenset(rows.values())


def _rows(path: str, version: int) -> frozenset[tuple[Any, ...]]:
    told = DeltaTable(path, version=version).to_pyarrow_table(columns=[*READ.columns]).to_pylist()
    return frozenset(tuple(_plain(row[name]) for name in READ.columns) for row in told)


def _plain(value: Any) -> Any:
    return value.replace(tzinfo=None) if hasattr(value, "tzinfo") else value


def check(spark: SparkSession, here: Settings, name: str, label: str, counted: AcceptedLog) -> None:
    """The version's speed rows are what plain Python computes over these events."""
    path = view_path(here.lake.root, name, "speed", label)
    rows = serving.speed_rows(spark, VIEWS[name], path, newest_version(spark, path) or 0)
    found = rows_of(rows.select(*VIEWS[name].columns))
    assert judge.closed(name, found) == judge.closed(name, by_key(REFERENCE[name](counted, None))), name


def drain_in_batches_of(records: int, here: Settings, name: str) -> None:
    """Ingest so many at a time, and let the view take a batch of ingest in each of its own."""
    ingest.run(replace(here, ingest=replace(here.ingest, max_offsets_per_trigger=records)), once=True)
    speed.run(replace(here, speed=replace(here.speed, max_offsets_per_trigger=1)), views=[name], once=True)


def late(spark: SparkSession, here: Settings, query: str, log: AcceptedLog) -> set[object]:
    return judge.late_identities(judge.ledger(spark, here), here, READ.name, log, query=query)


def records_of(here: Settings) -> list[Record]:
    return read_records(here.kafka.bootstrap_servers, [*topics_of(here).values()])


def mended(records: list[Record]) -> list[Record]:
    return [replace(one, value=MENDED.value) if one.value == BROKEN.value else one for one in records]


@contextmanager
def running(here: Settings, run: Callable[[], None], query: str) -> Iterator[None]:
    """The query runs in a thread; it is asked to end at the end."""
    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        assert stopping.stop_queries(here.lake.root, [query], timeout_seconds=120) == []
        thread.join()


def wait_until(is_so: Callable[[], bool]) -> None:
    """However slow the machine is."""
    deadline = time.monotonic() + 300
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.2)


def has(here: Settings, label: str, order_id: str) -> bool:
    path = view_path(here.lake.root, READ.name, "speed", label)
    return any(row[0] == order_id for row in _rows(path, newest_version(None, path) or 0))


def test_a_view_is_made_anew_beside_the_live_one(
    spark: SparkSession, base_settings: Settings, bootstrap: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    here = fresh(base_settings, bootstrap, tmp_path_factory.mktemp("replay") / "lake")
    slices = replace(here, speed=replace(here.speed, max_offsets_per_trigger=30))
    reader, table = Reader(here), view_path(here.lake.root, READ.name, "speed", "1r1")
    plan = plan_of(random.Random(7))
    send(here, plan.first)
    ingest.run(here, once=True)
    speed.run(here, views=[READ.name], once=True)
    send(here, [*plan.rest, BROKEN, Sent(b"to be or not to be", kind="text-lines")])
    drain_in_batches_of(30, here, READ.name)
    dead_letters.fix(here, merge_patch('{"total": "3.00"}'), author="me", reason="it was not much")
    assert dead_letters.replay(here).passed == 1
    with reader.reading(at_least=1000):
        with stopped_at("replay: history in order"):
            promotion.replay(slices, [READ.name], once=True)
        with stopped_at("replay: a slice", times=2):
            promotion.replay(slices, [READ.name], once=True)
        promotion.replay(slices, [*VIEWS], once=True)
        everything = accepted_log(mended(records_of(here)), kinds_of(here))
        for name in VIEWS:
            check(spark, here, name, f"{VIEWS[name].version}r1", everything)
        now_and_then = replace(slices, speed=replace(slices.speed, trigger="1 second"))
        live_from_here = partial(promotion.replay, now_and_then, [READ.name], once=False)
        with running(here, live_from_here, f"{READ.name}_v1r1"):
            send(here, LATER)
            ingest.run(here, once=True)
            speed.run(here, views=[READ.name], once=True)
            wait_until(lambda: has(here, "1r1", "after a day"))
            before = newest_version(None, table)
            found = promotion.promote(here, READ.name, is_confirmed=lambda _: True)
        assert found is not None
        assert found.against_live is not None
        assert found.unexplained == 0, found
        assert (found.proof.late, found.proof.equal) == (1, found.proof.compared - 1), (
            found
        )  # what came too late for both
        assert found.against_live.late > 0, found
        assert found.against_live.repaired > 0, found
        send(here, LAST)
        ingest.run(here, once=True)
        with stopped_at("replay: feed extended"):
            speed.run(here, views=[READ.name], once=True)
        speed.run(here, views=[READ.name], once=True)
        after = newest_version(None, table)
        assert promotion.rollback(here, READ.name) == ("1r1", "1")
    reader.read()  # the last of those before may have begun before the rollback
    assert reader.faults == []
    assert len(reader.seen) >= 1000
    live = view_path(here.lake.root, READ.name, "speed", "1")
    assert before is not None
    assert after is not None
    of_live = {state(here, "1", version) for version in range((newest_version(None, live) or 0) + 1)}
    of_new = {state(here, "1r1", version) for version in range(before, after + 1)}
    assert of_live.isdisjoint(of_new)
    seen = {*reader.seen}
    assert seen <= of_live | of_new
    assert seen & of_live
    assert seen & of_new
    assert reader.seen[-1] in of_live

    assert promotion.promote(here, READ.name, is_confirmed=lambda _: True) is not None
    log = accepted_log(mended(records_of(here)), kinds_of(here))
    missed = late(spark, here, f"{READ.name}_v1r1", log)
    assert [str(one).count("late for all") for one in missed] == [1]
    check(spark, here, READ.name, "1r1", judge.without(log, missed))
    # Its rows say how many orders they hold, the mended one among them.
    assert promotion.promote(here, "customer_hourly_spend", is_confirmed=lambda _: True) is not None
    account = audit.run(here)
    assert account.faults == []
    assert {one.query: (one.to_read - one.counted, one.late) for one in account.queries} == {
        "customer_hourly_spend": (0, 0),
        READ.name: (1, 1),
    }
    (agreement,) = reconcile.run(here, views=[READ.name])
    assert agreement.unexplained == 0, agreement
    kept = kept_state.entries(here, READ.name, key="last")
    assert {one.operator for one in kept} == {"symmetricHashJoin", "dedupe"}, kept
    assert all(json.loads(one.key) for one in kept)
    assert {one.operator for one in kept_state.stores(here, views=[READ.name])} == {
        "symmetricHashJoin",
        "dedupe",
    }


def test_straight_from_kafka_late_stays_late(spark: SparkSession, settings: Settings) -> None:
    name = "customer_hourly_spend"
    slices = replace(settings, speed=replace(settings.speed, max_offsets_per_trigger=4))
    hours = [order(f"o{number}", time=at(20 * number), customer_id="c1") for number in range(9)]
    send(settings, [*hours, order("late", time=at(1), customer_id="c-late")])
    ingest.run(settings, once=True)
    ended = [2]

    def trap(place: str) -> None:
        ended[0] -= place == "speed: begun"
        if not ended[0]:
            raise Stopped(place)

    with watched(trap), pytest.raises(QueryFailed):
        promotion.replay(slices, [name], source="kafka", once=True)
    with pytest.raises(RefusedToStart, match="not read yet all"):
        promotion.promote(settings, name, is_confirmed=lambda _: True)
    promotion.replay(slices, [name], source="kafka", once=True)
    with pytest.raises(RefusedToStart):
        promotion.replay(settings, [name], once=True)
    log = accepted_log(records_of(settings), kinds_of(settings))
    missed = judge.late_identities(judge.ledger(spark, settings), settings, name, log, query=f"{name}_v1r1")
    assert [str(one).count("late") for one in missed] == [1]
    check(spark, settings, name, "1r1", judge.without(log, missed))
    found = promotion.promote(settings, name, is_confirmed=lambda _: True)
    assert found is not None
    assert (found.unexplained, found.proof.late) == (0, 1)
    drop_first_records(settings, before=1)
    with pytest.raises(OffsetsLost) as lost:
        promotion.replay(settings, [name], source="kafka", once=True, anew=True)
    assert (lost.value.expected, lost.value.first) == (0, 1)


def test_a_version_made_from_the_raw_bytes_in_both_layers_becomes_live(
    spark: SparkSession, settings: Settings
) -> None:
    """The typed log holds a wrong total, as after a fault in decoding: the bytes still say what was spent."""
    name = "customer_hourly_spend"
    slices = replace(settings, speed=replace(settings.speed, max_offsets_per_trigger=4))
    hours = [order(f"o{number}", time=at(20 * number), customer_id="c1") for number in range(9)]
    send(settings, [*hours, BROKEN, order("late", time=at(1), customer_id="c-late")])
    drain_in_batches_of(4, settings, name)
    dead_letters.fix(settings, merge_patch('{"total": "3.00"}'), author="me", reason="it was not much")
    assert dead_letters.replay(settings).passed == 1
    typed = table_path(settings.lake.root, ORDER_EVENTS)
    spark.sql(f"UPDATE delta.`{typed}` SET total = total + 1 WHERE order_id = 'o3'")

    (beside,) = promotion.batch_beside(settings, [name])
    with pytest.raises(RefusedToStart, match="no speed form"):
        promotion.promote(settings, name, is_confirmed=lambda _: True)
    assert versions.live_views(spark, settings)[name].label == "1"
    promotion.replay(slices, [name], source="raw", once=True)
    with pytest.raises(RefusedToStart, match="from the raw events"):
        promotion.replay(slices, [name], once=True)
    assert published(spark, settings, beside) is None
    found = promotion.promote(settings, name, is_confirmed=lambda _: True)
    assert found is not None
    assert found.unexplained == 0, found
    assert found.against_live is not None
    assert (found.against_live.late, found.against_live.repaired) == (1, 1), found
    live = versions.live_views(spark, settings)[name]
    assert live.label == "1r1"

    log = accepted_log(mended(records_of(settings)), kinds_of(settings))
    check(spark, settings, name, "1r1", log)
    form = published(spark, settings, live)
    assert form is not None
    assert (form.origin, form.path) == ("raw", view_path(settings.lake.root, name, "batch", "1r1"))
    rows = rows_of(spark.read.format("delta").load(form.path).select(*VIEWS[name].columns))
    assert rows == by_key(REFERENCE[name](log, form.horizon))


def test_a_feed_is_extended_by_whom_its_query_is_held_and_once(
    spark: SparkSession, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    send(settings, [order("o1", time=at(0))])
    ingest.run(settings, once=True)
    promotion.replay(settings, [READ.name], once=True)
    (view,) = promotion.batch_beside(settings, [READ.name])
    feed = feeds.feed_path(settings.lake.root, view)
    before = newest_version(spark, feed)
    send(settings, [order("o2", time=at(1))])
    ingest.run(settings, once=True)
    speed._feeder(spark, settings, {view.query: view})(["another_v1"])
    assert newest_version(spark, feed) == before

    made = feeding._events

    def meanwhile(*arguments: Any, **options: Any) -> Any:
        """Another process reads the same, and is the first to append."""
        monkeypatch.setattr(feeding, "_events", made)
        feeding.extend(spark, settings, view)
        return made(*arguments, **options)

    monkeypatch.setattr(feeding, "_events", meanwhile)
    speed._feeder(spark, settings, {view.query: view})([view.query])
    rows = spark.read.format("delta").load(feed).select("orders.order_id").collect()
    assert sorted(row["order_id"] for row in rows) == ["o1", "o2"]


def test_a_promotion_asks_for_the_definition_that_the_code_has(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    send(settings, [order("o1", time=at(0))])
    ingest.run(settings, once=True)
    promotion.batch_beside(settings, [READ.name])
    newer = {**VIEWS, READ.name: replace(READ, version=READ.version + 1)}
    monkeypatch.setattr("pipeline.catalog.views", lambda _: newer)
    with pytest.raises(RefusedToStart, match="--anew"):
        promotion.promote(settings, READ.name, is_confirmed=lambda _: True)
