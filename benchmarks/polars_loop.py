"""The near limit in Python: a loop of librdkafka, Polars and delta-rs for each core, without an engine and without generality.

A process owns some of the partitions. Each turn takes a batch of records, parses them in one call, and commits what is finished together
with the offsets to go on from, as Delta transactions. Windows and known orders live in memory; after a crash they are read again from
the offsets that the newest commit names. Money is whole cents; JSON numbers are read as doubles and rounded to them, exact below 10^13.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
from collections.abc import Iterable, Iterator
from pathlib import Path

import polars as pl
from confluent_kafka import Consumer, TopicPartition
from deltalake import CommitProperties, DeltaTable, Transaction, write_deltalake

PARTITIONS = 4
HOUR_MS, LATENESS_MS, REACH_MS = 3_600_000, 600_000, 24 * 3_600_000
AT_A_TIME = 100_000
COMMIT_ROWS = 250_000

LINE = pl.Struct({"product_id": pl.String, "price": pl.Float64, "quantity": pl.Int64})
ORDER = {
    "event_type": pl.String,
    "order_id": pl.String,
    "customer_id": pl.String,
    "total": pl.Float64,
    "items": pl.List(LINE),
    "timestamp": pl.String,
}
PRODUCT = {
    "product_id": pl.String,
    "name": pl.String,
    "product_category": pl.String,
    "cost": pl.Float64,
    "timestamp": pl.String,
}
TIME = pl.Datetime("us", "UTC")


class Reader:
    """The records of some partitions of a topic, a batch at a time, up to where they ended when it began."""

    def __init__(self, bootstrap: str, topic: str, partitions: list[int]) -> None:
        self._consumer = Consumer(
            {
                "bootstrap.servers": bootstrap,
                "group.id": "polars-loop",
                "enable.auto.commit": False,
                "isolation.level": "read_committed",
                "queued.min.messages": 400_000,
                "queued.max.messages.kbytes": 262_144,
                "fetch.wait.max.ms": 50,
            }
        )
        places = [TopicPartition(topic, partition, 0) for partition in partitions]
        self._consumer.assign(places)
        self.next = dict.fromkeys(partitions, 0)
        self._ends = {place.partition: self._consumer.get_watermark_offsets(place)[1] for place in places}

    @property
    def has_more(self) -> bool:
        return any(self.next[partition] < end for partition, end in self._ends.items())

    def take(self) -> list:
        messages = self._consumer.consume(AT_A_TIME, 0.2)
        for message in messages:
            if message.error():
                raise RuntimeError(str(message.error()))
            self.next[message.partition()] = message.offset() + 1
        return messages


def batches(reader: Reader) -> Iterator[list]:
    while reader.has_more:
        if messages := reader.take():
            yield messages


class Clock:
    """The newest event time that each partition has reached: they are read at different speeds, and none may make another's late."""

    def __init__(self, partitions: Iterable[int]) -> None:
        self._newest_ms = dict.fromkeys(partitions, -(2**62))

    @property
    def reached_ms(self) -> int:
        return min(self._newest_ms.values())

    @property
    def watermark_ms(self) -> int:
        return self.reached_ms - LATENESS_MS

    def advance(self, rows: pl.DataFrame) -> None:
        for partition, newest_ms in rows.group_by("partition").agg(pl.col("event_ms").max()).iter_rows():
            self._newest_ms[partition] = max(self._newest_ms[partition], newest_ms)


def parsed(messages: list, fields: dict[str, pl.DataType]) -> pl.DataFrame:
    """The documents among the records with `partition` and `event_ms`; what is no JSON, or has no time, is left out."""
    values: dict[int, list[bytes]] = {}
    for message in messages:
        if (value := message.value()).endswith(b"}"):
            values.setdefault(message.partition(), []).append(value)
    none = pl.DataFrame(schema={**fields, "event_ms": pl.Int64, "partition": pl.Int32})
    return pl.concat([none, *(_read(own, fields, partition) for partition, own in values.items())])


def _read(values: list[bytes], fields: dict[str, pl.DataType], partition: int) -> pl.DataFrame:
    try:
        rows = pl.read_ndjson(b"\n".join(values), schema=fields)
    except pl.exceptions.ComputeError:  # one that is broken inside fails them all
        rows = pl.read_ndjson(b"\n".join(filter(_is_json, values)), schema=fields)
    time = pl.col("timestamp").str.to_datetime("%Y-%m-%dT%H:%M:%S%.fZ", time_unit="ms", strict=False)
    places = (time.dt.epoch("ms").alias("event_ms"), pl.lit(partition, pl.Int32).alias("partition"))
    return rows.with_columns(places).drop_nulls("event_ms")


def _is_json(value: bytes) -> bool:
    try:
        json.loads(value)
    except ValueError:
        return False
    return True


def accepted_creations(rows: pl.DataFrame) -> pl.DataFrame:
    are_named = (pl.col("order_id").str.len_chars() > 0) & (pl.col("customer_id").str.len_chars() > 0)
    return rows.filter((pl.col("event_type") == "order_created") & are_named & (pl.col("total") >= 0))


class Known:
    """Which orders have been met, as far back as a copy of one can still come in time."""

    def __init__(self) -> None:
        self._seen = pl.DataFrame(schema={"order_id": pl.String, "event_ms": pl.Int64})

    def new_of(self, rows: pl.DataFrame, *, watermark_ms: int) -> pl.DataFrame:
        """The rows, one of each identity, that came in time and had not been met."""
        fresh = (
            rows.filter(pl.col("event_ms") > watermark_ms)
            .unique(["order_id", "event_ms"], keep="first", maintain_order=True)
            .join(self._seen, on=["order_id", "event_ms"], how="anti")
        )
        seen = pl.concat([self._seen, fresh.select("order_id", "event_ms")])
        self._seen = seen.filter(pl.col("event_ms") > watermark_ms)
        return fresh


def commit(rows: pl.DataFrame, table: str, *, worker: int, offsets: dict[int, int]) -> None:
    kept = [Transaction(f"loop-{worker}-{partition}", offset) for partition, offset in offsets.items()]
    properties = CommitProperties(app_transactions=kept, max_commit_retries=50)
    write_deltalake(table, rows.to_arrow(), mode="append", commit_properties=properties)


def copy_records(options: argparse.Namespace, worker: int, partitions: list[int]) -> None:
    """Every record as it came."""
    reader, waiting = Reader(options.bootstrap, options.orders, partitions), []
    for messages in batches(reader):
        waiting += messages
        if len(waiting) >= COMMIT_ROWS or not reader.has_more:
            rows = pl.DataFrame(
                {
                    "topic": [options.orders] * len(waiting),
                    "partition": [message.partition() for message in waiting],
                    "offset": [message.offset() for message in waiting],
                    "kafka_timestamp": [message.timestamp()[1] for message in waiting],
                    "key": [message.key() for message in waiting],
                    "value": [message.value() for message in waiting],
                },
                schema_overrides={"partition": pl.Int32, "key": pl.Binary, "value": pl.Binary},
            ).with_columns(pl.from_epoch("kafka_timestamp", time_unit="ms").dt.replace_time_zone("UTC"))
            commit(rows, options.out, worker=worker, offsets=reader.next)
            waiting = []


def add_up_windows(options: argparse.Namespace, worker: int, partitions: list[int]) -> None:
    """Spend per customer and hour, each window once, when the watermark has passed its end."""
    reader, known = Reader(options.bootstrap, options.orders, partitions), Known()
    clock = Clock(partitions)
    open_windows = pl.DataFrame(
        schema={"customer_id": pl.String, "start_ms": pl.Int64, "cents": pl.Int64, "order_count": pl.UInt32}
    )
    for messages in batches(reader):
        rows = parsed(messages, ORDER)
        fresh = known.new_of(accepted_creations(rows), watermark_ms=clock.watermark_ms)
        added = fresh.group_by(
            "customer_id", (pl.col("event_ms") // HOUR_MS * HOUR_MS).alias("start_ms")
        ).agg(
            (pl.col("total") * 100).round().cast(pl.Int64).sum().alias("cents"), pl.len().alias("order_count")
        )
        open_windows = (
            pl.concat([open_windows, added])
            .group_by("customer_id", "start_ms")
            .agg(pl.col("cents", "order_count").sum())
        )
        clock.advance(rows)
        is_closed = pl.col("start_ms") + HOUR_MS <= clock.watermark_ms
        closed, open_windows = open_windows.filter(is_closed), open_windows.filter(~is_closed)
        if closed.height:
            commit(_spend(closed), options.out, worker=worker, offsets=reader.next)


def _spend(windows: pl.DataFrame) -> pl.DataFrame:
    start = pl.from_epoch("start_ms", time_unit="ms").cast(TIME)
    return windows.select(
        "customer_id",
        start.alias("window_start"),
        (start + pl.duration(hours=1)).alias("window_end"),
        (pl.col("cents").cast(pl.Decimal(18, 0)) * pl.lit("0.01").cast(pl.Decimal(3, 2)))
        .cast(pl.Decimal(18, 2))
        .alias("hourly_spend"),
        pl.col("order_count").cast(pl.Int64),
    )


def join_products(options: argparse.Namespace, worker: int, partitions: list[int]) -> None:
    """Order lines with the newest version of their product; a line waits until the products have come as far as it."""
    orders = Reader(options.bootstrap, options.orders, partitions)
    products = Reader(options.bootstrap, options.products, [*range(PARTITIONS)])
    known, versions, waiting = Known(), pl.DataFrame(), pl.DataFrame()
    clock, of_products = Clock(partitions), Clock(range(PARTITIONS))
    while orders.has_more or products.has_more:
        if products.has_more and (messages := products.take()):
            rows = parsed(messages, PRODUCT)
            of_products.advance(rows)
            rows = rows.select("product_id", "name", "product_category", "cost", "event_ms")
            versions = (
                pl.concat([versions, rows]).sort("event_ms") if versions.height else rows.sort("event_ms")
            )
        if orders.has_more and (messages := orders.take()):
            rows = parsed(messages, ORDER)
            fresh = known.new_of(accepted_creations(rows), watermark_ms=clock.watermark_ms)
            clock.advance(rows)
            lines = (
                fresh.select("order_id", "customer_id", "event_ms", "items").explode("items").unnest("items")
            )
            waiting = pl.concat([waiting, lines]) if waiting.height else lines
        if waiting.height and versions.height:
            is_due = (pl.col("event_ms") <= of_products.reached_ms) | pl.lit(not products.has_more)
            due, waiting = waiting.filter(is_due), waiting.filter(~is_due)
            if due.height:
                joined = due.sort("event_ms").join_asof(
                    versions,
                    on="event_ms",
                    by="product_id",
                    strategy="backward",
                    tolerance=REACH_MS,
                    check_sortedness=False,
                )
                commit(_enriched(joined), options.out, worker=worker, offsets=orders.next)


def _enriched(lines: pl.DataFrame) -> pl.DataFrame:
    money = [pl.col(name).round(2).cast(pl.Decimal(12, 2)) for name in ("price", "cost")]
    time = pl.from_epoch("event_ms", time_unit="ms").cast(TIME).alias("event_time")
    return lines.select(
        "order_id", "customer_id", time, "product_id", "quantity", "name", "product_category", *money
    )


WORKLOADS = {"log": copy_records, "spend": add_up_windows, "join": join_products}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("workload", choices=WORKLOADS)
    for name in ("--bootstrap", "--orders", "--products", "--out"):
        parser.add_argument(name, required=True)
    parser.add_argument("--processes", type=int, default=2)
    options = parser.parse_args()
    Path(options.out).mkdir(parents=True, exist_ok=True)
    share = [[*range(PARTITIONS)][worker :: options.processes] for worker in range(options.processes)]
    print("begin", flush=True)
    context = multiprocessing.get_context(
        "spawn"
    )  # Polars and librdkafka have threads, which a fork would lose
    workers = [
        context.Process(target=WORKLOADS[options.workload], args=(options, n, own))
        for n, own in enumerate(share)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    if any(worker.exitcode for worker in workers):
        raise SystemExit(1)
    print(f"end {DeltaTable(options.out).version()}", flush=True)


if __name__ == "__main__":
    main()
