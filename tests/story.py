"""One lake in which everything happened once that a proof must tell apart; played once, and copied to be damaged."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from confluent_kafka import Producer
from delta.tables import DeltaTable
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from lake import Sent, at, order, send
from pipeline import batch, evidence, ingest, speed
from pipeline.late import Lateness
from pipeline.settings import Settings
from pipeline.tables import ORDER_EVENTS, REPAIRS, table_path

VIEWS = ("customer_hourly_spend", "word_counts")

FIRST = [
    order("one", time=at(0)),
    order("one", time=at(0), partition=1),
    order("two", time=at(5), customer_id="c2", total="0.10"),
    order("twin", time=at(20), customer_id="c-twin", total="7.00", partition=1),
    order("fixed", time=at(10), customer_id="c-fixed", total="much"),
    order("dead", time=at(10), total="more"),
    order("old", time=at(12), customer_id="c-old", total="5.00"),
    Sent(None, partition=1),
    order("newest", time=at(30), customer_id="c2", total="2.00", partition=1),
    order("either", time=at(15), customer_id="c-either", total="1.00", partition=1),
    order("either", time=at(15), customer_id="c-either", total="2.00", partition=1),
    Sent(b"to be or not to be", kind="text-lines"),
    Sent(b"\xff", kind="text-lines"),
]
SECOND = [
    order("too late", time=at(2), total="3.33"),
    order("too late", time=at(2), total="3.33", partition=1),
    order("twin", time=at(20), customer_id="c-twin", total="9.00"),
    order("closing", time=at(60 * 30), customer_id="c-closing"),
    order("closing too", time=at(60 * 30), customer_id="c-closing", partition=1),
]


@dataclass(frozen=True)
class Story:
    """The lake, and how late its events came as told before the batch run."""

    settings: Settings
    before_batch: Lateness

    def copy(self, to: Path) -> Settings:
        """The same lake at another place."""
        shutil.copytree(self.settings.lake.root, to)
        return replace(self.settings, lake=replace(self.settings.lake, root=str(to)))


def play(spark: SparkSession, settings: Settings) -> Story:
    """Two pieces, each read by the queries; an aborted transaction; a repair; an event that an older contract typed."""
    for records in (FIRST, SECOND):
        send(settings, records)
        if records is FIRST:
            send_and_abort(settings, [order("aborted", time=at(3), customer_id="c-aborted")])
        ingest.run(settings, once=True)
        speed.run(settings, views=VIEWS, once=True)
    repair(spark, settings)
    as_another_contract_had_it(spark, settings)
    (before_batch,) = evidence.lateness(settings, views=["customer_hourly_spend"])
    batch.run(settings, views=VIEWS, until=at(60 * 5))
    return Story(settings, before_batch)


def send_and_abort(settings: Settings, records: Sequence[Sent]) -> None:
    """Send orders in a transaction that is aborted: they and its mark take offsets, and no reader gets them."""
    producer = Producer(
        {
            "bootstrap.servers": settings.kafka.bootstrap_servers,
            "transactional.id": settings.kafka.topics.orders,
        }
    )
    producer.init_transactions(30)
    producer.begin_transaction()
    for record in records:
        producer.produce(settings.kafka.topics.orders, record.value, record.key, record.partition)
    producer.flush(30)
    producer.abort_transaction(30)


def repair(spark: SparkSession, settings: Settings) -> None:
    """What fixing and replaying the dead order "fixed" leaves behind."""
    address = [(settings.kafka.topics.orders, 0, 2)]
    repairs = spark.createDataFrame(address, "topic string, partition int, offset bigint")
    repairs.withColumns(
        {"status": F.lit("repaired"), "repaired_value": F.lit(None).cast("binary")}
    ).write.format("delta").save(table_path(settings.lake.root, REPAIRS))
    path = table_path(settings.lake.root, ORDER_EVENTS)
    like = spark.read.format("delta").load(path).where("order_id = 'one' AND partition = 0")
    replayed = like.withColumns(
        {
            "order_id": F.lit("fixed"),
            "customer_id": F.lit("c-fixed"),
            "event_time": F.lit(at(10)).cast("timestamp"),
            "offset": F.lit(2).cast("long"),
        }
    )
    replayed.write.format("delta").mode("append").save(path)


def as_another_contract_had_it(spark: SparkSession, settings: Settings) -> None:
    DeltaTable.forPath(spark, table_path(settings.lake.root, ORDER_EVENTS)).update(
        "order_id = 'old'", {"contract_version": F.lit(0), "total": F.lit("5.50").cast("decimal(12,2)")}
    )
