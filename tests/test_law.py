"""The law of the house: what both layers have closed is equal to the cent, but for exactly the events that came late.

Logs with disorder, duplicates and lateness are generated and cut into micro-batches at generated places. Which events
each query dropped is worked out here, in plain Python, from the watermark that the ledger gives each batch; what the
speed layer must then hold is what the reference computes over all the others.
"""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass, replace
from datetime import datetime, timedelta, timezone

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from pyspark.sql import SparkSession

import judge
from judge import CLOCKED
from lake import (
    Row,
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
from pipeline import batch, ingest, reconcile, serving, speed
from pipeline.devservices import generate
from pipeline.settings import Settings
from pipeline.tables import BATCH_LEDGER, LATE_EVENTS, table_path
from pipeline.views import VIEWS
from reference import VIEWS as REFERENCE
from reference import Record, accepted_log, read_records
from reference.views import AcceptedLog, identity

pytestmark = pytest.mark.kafka

DELAYS = st.sampled_from([0, 0, 0, 0, 1, 4, 8, 25, 300])
"""Minutes between an event and its arrival."""


@dataclass(frozen=True)
class Plan:
    """The records of one log in order of arrival: `first` is a micro-batch of its own, `rest` is cut by the size of batches."""

    first: list[Sent]
    rest: list[Sent]
    batch_size: int


def plans() -> st.SearchStrategy[Plan]:
    event = st.tuples(
        st.sampled_from(["created", "created", "created", "cancelled", "product", "again"]),
        st.integers(0, 9),
        DELAYS,
        st.integers(0, 1),
    )
    return st.builds(
        _plan, st.lists(event, min_size=30, max_size=60), cut=st.integers(5, 20), batches=st.integers(2, 4)
    )


def plan_of(rng: random.Random) -> Plan:
    """A plan as hypothesis makes them."""
    kinds = ["created", "created", "created", "cancelled", "product", "again"]
    delays = [0, 0, 0, 0, 1, 4, 8, 25, 300]
    events = [
        (rng.choice(kinds), rng.randint(0, 9), rng.choice(delays), rng.randint(0, 1)) for _ in range(45)
    ]
    return _plan(events, cut=10, batches=3)


def _plan(events: list[tuple[str, int, int, int]], *, cut: int, batches: int) -> Plan:
    """Arrivals 7 minutes apart; `again` repeats an earlier record. Each plan begins and ends with what must occur."""
    sent: list[Sent] = [*_beginning()]
    for index, (what, number, delay, partition) in enumerate(events):
        time = at(20 + 7 * index - delay)
        if what == "created":
            items = [line(f"p{number % 4}", price=f"{number}.99"), line("unknown", quantity=2)]
            total = f"{number * 10}.01" if number else None
            sent.append(
                order(
                    f"o{index}",
                    time=time,
                    customer_id=f"c{number % 3}",
                    total=total,
                    items=items,
                    partition=partition,
                )
            )
        elif what == "cancelled":
            sent.append(cancellation(f"o{max(0, index - number)}", time=time, partition=partition))
        elif what == "product":
            sent.append(product(f"p{number % 4}", time=time, cost=f"{index % 9}.00"))
        else:
            sent.append(sent[-1 - number % len(sent)])
    first = len(_beginning()) + cut
    rest = [*_middle(), *sent[first:], *_end(20 + 7 * len(events))]
    return Plan(sent[:first], rest, batch_size=len(rest) // batches)


def _beginning() -> list[Sent]:
    return [
        product("p1", time=at(-30), cost="1.00"),
        order("replaced", time=at(18), items=[line("p1")]),
        order("matched", time=at(18), items=[line("p1")], partition=1),
        cancellation("replaced", time=at(19)),
        order("twice", time=at(19)),
        order("twice", time=at(19)),
        order("alone", time=at(19), items=[line("nobody's")]),
    ]


def _middle() -> list[Sent]:
    """A newer version and an earlier cancellation for what has been matched already; each is still in time."""
    return [
        product("p1", time=at(17), cost="2.00"),
        cancellation("replaced", time=at(18.5)),
        order("twice", time=at(19), partition=1),
    ]


def _end(minutes: float) -> list[Sent]:
    """One event that is late for everyone, and then what closes all that came before."""
    later = minutes + 60 * 30
    return [
        order("too late", time=at(-120), customer_id="c-late", total="77.77", items=[line("p1")]),
        product("p1", time=at(later)),
        order("closing", time=at(later), customer_id="c-closing"),
        cancellation("closing", time=at(later)),
    ]


def test_both_layers_agree_but_for_the_late_events(
    spark: SparkSession, base_settings: Settings, bootstrap: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    seen: Counter[str] = Counter()

    @settings(
        max_examples=2,
        deadline=None,
        database=None,
        derandomize=True,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(plan=plans())
    def law(plan: Plan) -> None:
        here = fresh(base_settings, bootstrap, tmp_path_factory.mktemp("law"))
        _play(spark, here, plan, seen)

    law()
    for what in ("late", "duplicate", "null", "replaced", "matched", "cut"):
        assert seen[what], f"no {what} row in any example: {seen}"


def _play(spark: SparkSession, here: Settings, plan: Plan, seen: Counter[str]) -> None:
    send(here, plan.first)
    ingest.run(here, once=True)
    speed.run(here, views=CLOCKED, once=True)
    first_matches = rows_of(serving.read(spark, here, VIEWS["enriched_orders"], layer="speed"))
    send(here, plan.rest)
    in_batches = replace(
        here,
        ingest=replace(here.ingest, max_offsets_per_trigger=plan.batch_size),
        speed=replace(here.speed, max_offsets_per_trigger=1),  # a commit of ingest in each
    )
    ingest.run(in_batches, once=True)
    speed.run(in_batches, views=CLOCKED, once=True)
    batch.run(here, views=CLOCKED, until=at(60 * 24 * 5))
    records = read_records(here.kafka.bootstrap_servers, list(topics_of(here).values()))
    log = accepted_log(records, kinds_of(here))
    entries = judge.ledger(spark, here)
    for name in CLOCKED:
        late = judge.late_identities(entries, here, name, log)
        judge.check_speed(spark, here, name, judge.without(log, late))
        judge.check_batch(spark, here, name, log, at(60 * 24 * 5))
        seen["late"] += len(late)
    _count(seen, spark, here, log, first_matches)
    for agreement in reconcile.run(here, views=CLOCKED):
        assert agreement.unexplained == 0, agreement
        assert agreement.compared > 0, agreement
    _same_late_events(spark, here, records)


def _count(
    seen: Counter[str], spark: SparkSession, here: Settings, log: AcceptedLog, first: list[Row]
) -> None:
    """What occurred in this example, by the names that the law asks for."""
    seen["duplicate"] += len(log.orders) - len({identity(placed.event) for placed in log.orders})
    before = {(row["order_id"], row["line"]): row["cost"] for row in first}
    for row in rows_of(serving.read(spark, here, VIEWS["enriched_orders"], layer="speed")):
        known = before.get((row["order_id"], row["line"]))
        seen["replaced"] += known is not None and known != row["cost"]
        seen["matched"] += row["cost"] is not None
        seen["null"] += row["cost"] is None
    entries = spark.read.format("delta").load(table_path(here.lake.root, BATCH_LEDGER))
    batches = entries.where("query = 'customer_hourly_spend_v1'").select("batch_id").distinct().count()
    assert batches >= 3
    seen["cut"] += 1


def _same_late_events(spark: SparkSession, here: Settings, records: list[Record]) -> None:
    """`late_events` names exactly the identities that were worked out here."""
    table = spark.read.format("delta").load(table_path(here.lake.root, LATE_EVENTS)).collect()
    log = accepted_log(records, kinds_of(here))
    entries = judge.ledger(spark, here)
    by_address = {
        (topic, placed.partition, placed.offset): placed.event
        for topic, places in (
            (here.kafka.topics.orders, log.orders),
            (here.kafka.topics.products, log.products),
        )
        for placed in places
    }
    for name in CLOCKED:
        named = [
            identity(by_address[row.topic, row.partition, row.offset]) for row in table if row.query == name
        ]
        assert len(named) == len(set(named))
        assert set(named) == judge.late_identities(entries, here, name, log)


def test_a_seeded_query_counts_from_its_seed_on(spark: SparkSession, settings: Settings) -> None:
    """1,000 customers come from the batch form, later events from the stream; a restart takes the seed no second time."""
    horizon = datetime(2026, 1, 1, 12, tzinfo=timezone.utc)
    old = [
        order(f"old{i}", time=horizon - timedelta(minutes=90), customer_id=f"c{i}", partition=i % 2)
        for i in range(1000)
    ]
    send(settings, [*old, order("edge", time=horizon, customer_id="c1", total="0.01")])
    ingest.run(settings, once=True)
    batch.run(settings, views=["customer_totals"], until=horizon + timedelta(minutes=30))
    speed.run(settings, views=["customer_totals"], once=True)
    send(
        settings,
        [
            order("new1", time=horizon + timedelta(minutes=5), customer_id="c1", total="2.50"),
            order("new2", time=horizon + timedelta(minutes=6), customer_id="c-new", total="1.00"),
            old[7],
        ],
    )
    ingest.run(settings, once=True)
    speed.run(settings, views=["customer_totals"], once=True)
    records = read_records(settings.kafka.bootstrap_servers, [settings.kafka.topics.orders])
    expected = REFERENCE["customer_totals"](accepted_log(records, kinds_of(settings)))
    assert len(expected) == 1001
    assert rows_of(serving.read(spark, settings, VIEWS["customer_totals"], layer="speed")) == by_key(expected)
    (agreement,) = reconcile.run(settings, views=["customer_totals"])
    assert (agreement.compared, agreement.unexplained) == (1001, 0)


def test_a_customer_with_a_third_of_all_orders_is_one_row_also_in_large_batches(
    spark: SparkSession, settings: Settings
) -> None:
    """A processor is handed 10,000 rows of a key at a time, and gives a row for each: of them the last one counts."""
    (name,) = views = ("customer_totals",)
    generate.generate(
        settings.kafka.bootstrap_servers, settings.kafka.topics, events=45_000, seed=3, hot=1 / 3
    )
    here = replace(
        settings,
        ingest=replace(settings.ingest, max_offsets_per_trigger=200_000),
        speed=replace(settings.speed, max_offsets_per_trigger=200_000),
    )
    ingest.run(here, once=True)
    speed.run(here, views=views, once=True)
    records = read_records(settings.kafka.bootstrap_servers, [settings.kafka.topics.orders])
    log = accepted_log(records, kinds_of(settings))
    late = judge.late_identities(judge.ledger(spark, settings), settings, name, log)
    rows = judge.check_speed(spark, settings, name, judge.without(log, late))
    assert max(row["order_count"] for row in rows) > 10_000
    batch.run(settings, views=views)
    (agreement,) = reconcile.run(settings, views=views)
    assert agreement.unexplained == 0
