"""What a lake must hold, worked out in plain Python from the records as Kafka holds them, and compared with what it holds.

Which events a query dropped as late follows from the watermark that the ledger gives each of its batches; the speed
layer must hold what the reference computes over all the others.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import astuple
from datetime import datetime, timedelta, timezone
from operator import itemgetter
from typing import Any

from pyspark.sql import SparkSession

from lake import Row, at, by_key, kinds_of, rows_of, topics_of
from pipeline import ingest, serving
from pipeline.settings import Settings
from pipeline.tables import BATCH_LEDGER, DEAD_LETTERS, ORDER_EVENTS, PRODUCT_EVENTS, RAW_EVENTS, table_path
from pipeline.views import VIEWS
from reference import VIEWS as REFERENCE
from reference import Record, accepted_log, classify
from reference.contract import OrderEvent, ProductEvent
from reference.views import AcceptedLog, identity

CLOCKED = ("customer_hourly_spend", "enriched_orders", "order_outcomes", "customer_totals")
SOURCES = {
    "customer_hourly_spend": ("order_created",),
    "enriched_orders": ("order_created", "product"),
    "order_outcomes": ("order_created", "order_cancelled"),
    "customer_totals": ("order_created",),
    "word_counts": ("text",),
}
"""What each source of a view's query counts."""

Address = tuple[str, int, int]


def ledger(spark: SparkSession, here: Settings) -> list[Any]:
    return spark.read.format("delta").load(table_path(here.lake.root, BATCH_LEDGER)).collect()


def late_identities(
    entries: Iterable[Any], here: Settings, name: str, log: AcceptedLog, *, query: str | None = None
) -> set[object]:
    """The identities of which every copy came at or before the watermark of the batch that read it (of the view's `query`)."""
    query = query or VIEWS[name].query
    verdicts: dict[object, bool] = {}
    for source, what in enumerate(SOURCES[name]):
        mine = [entry for entry in entries if entry.query == query and entry.source == source]
        places = log.products if what == "product" else log.orders
        topic = here.kafka.topics.products if what == "product" else here.kafka.topics.orders
        for placed in places:
            if isinstance(placed.event, OrderEvent) and placed.event.event_type != what:
                continue
            (entry,) = [
                entry
                for entry in mine
                if (entry.topic, entry.partition) == (topic, placed.partition)
                and entry.first_offset <= placed.offset < entry.end_offset
            ]
            watermark = entry.watermark.replace(tzinfo=timezone.utc) if entry.watermark else None
            is_in_time = watermark is None or placed.event.event_time > watermark
            key = identity(placed.event)
            verdicts[key] = verdicts.get(key, False) or is_in_time
    return {key for key, is_counted in verdicts.items() if not is_counted}


def without(log: AcceptedLog, late: set[object]) -> AcceptedLog:
    return AcceptedLog(
        orders=[placed for placed in log.orders if identity(placed.event) not in late],
        products=[placed for placed in log.products if identity(placed.event) not in late],
        lines=log.lines,
    )


def closed(name: str, rows: list[Row]) -> list[Row]:
    """Without what the closing events themselves, a day after the others, left open."""
    end = at(60 * 24)
    time = {
        "customer_hourly_spend": "window_start",
        "enriched_orders": "event_time",
        "order_outcomes": "created_at",
    }
    if name not in time:
        return rows
    return [row for row in rows if row[time[name]] < end]


def check_log(spark: SparkSession, here: Settings, records: list[Record]) -> None:
    """Every record once in `raw_events` with its bytes, and once where the contract puts it, typed as it says."""
    kinds = kinds_of(here)
    verdicts = {_address(record): classify(record, kinds[record.topic]) for record in records}
    raw = [
        (*_place(row), _ms(row.kafka_timestamp), row.key, row.value) for row in _rows(spark, here, RAW_EVENTS)
    ]
    assert sorted(raw, key=itemgetter(0, 1, 2)) == [
        (*_address(record), record.timestamp_ms, record.key, record.value) for record in records
    ]
    dead = [
        (*_place(row), _ms(row.kafka_timestamp), row.key, row.value, tuple(row.violations))
        for row in _rows(spark, here, DEAD_LETTERS)
    ]
    assert sorted(dead, key=itemgetter(0, 1, 2)) == [
        (
            *_address(record),
            record.timestamp_ms,
            record.key,
            record.value,
            verdicts[_address(record)].violations,
        )
        for record in records
        if verdicts[_address(record)].fate == "dead"
    ]
    typed = [
        *((_place(row), order_values(row)) for row in _rows(spark, here, ORDER_EVENTS)),
        *((_place(row), product_values(row)) for row in _rows(spark, here, PRODUCT_EVENTS)),
    ]
    events = {address: verdict.event for address, verdict in verdicts.items()}
    assert sorted(typed, key=itemgetter(0)) == [
        (address, event_values(event))
        for address, event in events.items()
        if isinstance(event, OrderEvent | ProductEvent)
    ]


def check_ledger(entries: list[Any], here: Settings, records: list[Record], queries: Iterable[str]) -> None:
    """Each query has read each partition from its beginning to its end, without a gap and nothing twice; its counts hold."""
    ends: dict[tuple[str, int], int] = {}
    for record in records:
        ends[record.topic, record.partition] = record.offset + 1
    for query in queries:
        ranges = defaultdict(list)
        for entry in entries:
            if entry.query == query:
                ranges[entry.source, entry.topic, entry.partition].append(entry)
        read = {(topic, partition) for _, topic, partition in ranges}
        assert read, f"the ledger has nothing of {query}"
        assert all(where in read for where in ends if where[0] in {topic for topic, _ in read}), query
        for (_, topic, partition), found in ranges.items():
            found.sort(key=lambda entry: entry.batch_id)
            assert len({entry.generation for entry in found}) == 1
            edges = [0, *(entry.end_offset for entry in found)]
            assert [entry.first_offset for entry in found] == edges[:-1], (query, topic, partition)
            assert edges == sorted(set(edges))
            assert edges[-1] == ends[topic, partition], (query, topic, partition)
            assert len({entry.batch_id for entry in found}) == len(found)
    _check_fates([entry for entry in entries if entry.query == ingest.QUERY], here, records)


def check_ledger_is_behind(spark: SparkSession, here: Settings) -> None:
    """At any moment, also right after a crash: what is in the ledger is in `raw_events`."""
    held = defaultdict(set)
    for row in _rows(spark, here, RAW_EVENTS):
        held[row.topic, row.partition].add(row.offset)
    for entry in ledger(spark, here):
        if entry.query == ingest.QUERY:
            offsets = range(entry.first_offset, entry.end_offset)
            in_raw = len(held[entry.topic, entry.partition].intersection(offsets))
            assert in_raw == entry.accepted + entry.dead + entry.tombstones, entry


def _check_fates(entries: list[Any], here: Settings, records: list[Record]) -> None:
    kinds = kinds_of(here)
    fates = {_address(record): classify(record, kinds[record.topic]).fate for record in records}
    for entry in entries:
        inside = Counter(
            fate
            for (topic, partition, offset), fate in fates.items()
            if (topic, partition) == (entry.topic, entry.partition)
            and entry.first_offset <= offset < entry.end_offset
        )
        assert (entry.accepted, entry.dead, entry.tombstones) == (
            inside["accepted"],
            inside["dead"],
            inside["tombstone"],
        ), entry


def check_speed(spark: SparkSession, here: Settings, name: str, counted: AcceptedLog) -> list[Row]:
    """The speed rows are what plain Python computes over the events that the query had to count."""
    found = rows_of(serving.read(spark, here, VIEWS[name], layer="speed"))
    assert closed(name, found) == closed(name, by_key(REFERENCE[name](counted, None))), name
    return found


def check_batch(spark: SparkSession, here: Settings, name: str, log: AcceptedLog, until: datetime) -> None:
    found = rows_of(serving.read(spark, here, VIEWS[name], layer="batch"))
    assert found == by_key(REFERENCE[name](log, until)), name


def counted_log(entries: Iterable[Any], here: Settings, name: str, records: list[Record]) -> AcceptedLog:
    """The accepted events but for those that were late for the view's query."""
    log = accepted_log(records, kinds_of(here))
    return log if name not in CLOCKED else without(log, late_identities(entries, here, name, log))


def topics_in(here: Settings) -> list[str]:
    return list(topics_of(here).values())


def _rows(spark: SparkSession, here: Settings, table: str) -> list[Any]:
    return spark.read.format("delta").load(table_path(here.lake.root, table)).collect()


def _address(record: Record) -> Address:
    return record.topic, record.partition, record.offset


def _place(row: Any) -> Address:
    return row.topic, row.partition, row.offset


def _ms(time: datetime) -> int:
    return (time.replace(tzinfo=timezone.utc) - datetime(1970, 1, 1, tzinfo=timezone.utc)) // timedelta(
        milliseconds=1
    )


def order_values(row: Any) -> tuple[object, ...]:
    """Of a typed order what `event_values` gives for the same order as plain Python reads it."""
    items = None if row["items"] is None else [tuple(item) for item in row["items"]]
    time = row.event_time.replace(tzinfo=timezone.utc)
    return (row.event_type, row.order_id, row.customer_id, row.total, row.status, items, time)


def product_values(row: Any) -> tuple[object, ...]:
    time = row.event_time.replace(tzinfo=timezone.utc)
    return (row.product_id, row.name, row.product_category, row.price, row.cost, time)


def event_values(event: OrderEvent | ProductEvent) -> tuple[object, ...]:
    if isinstance(event, ProductEvent):
        return astuple(event)
    items = None if event.items is None else [astuple(item) for item in event.items]
    return (
        event.event_type,
        event.order_id,
        event.customer_id,
        event.total,
        event.status,
        items,
        event.event_time,
    )
