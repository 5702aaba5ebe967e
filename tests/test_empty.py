"""Nothing to do: a topic without a record, a batch without one, a lake without a row. No step takes that for a fault."""

from __future__ import annotations

from dataclasses import asdict

import pytest
from confluent_kafka import TopicPartition
from confluent_kafka.admin import AdminClient
from pyspark.sql import SparkSession

from lake import order, send
from pipeline import audit, cli, ingest, ledger
from pipeline.failpoints import watched
from pipeline.settings import Settings
from pipeline.streaming import QueryFailed
from pipeline.tables import BATCH_LEDGER, RAW_EVENTS, table_path
from pipeline.views import VIEWS
from story import send_and_abort

pytestmark = pytest.mark.kafka


def rows(spark: SparkSession, settings: Settings, table: str) -> int:
    return spark.read.format("delta").load(table_path(settings.lake.root, table)).count()


def test_an_ingest_that_ended_in_a_batch_without_a_record_goes_on(
    spark: SparkSession, settings: Settings
) -> None:
    """As one that was started before its topics' first record ended, at every start, until such a batch could be written."""

    def end(point: str) -> None:
        if point == "ingest: begun":
            raise ValueError("max_workers must be greater than 0")

    with watched(end), pytest.raises(QueryFailed):
        ingest.run(settings, once=True)
    ingest.run(settings, once=True)
    send(settings, [order()])
    ingest.run(settings, once=True)
    assert rows(spark, settings, RAW_EVENTS) == 1


def test_a_batch_of_nothing_but_the_marks_of_an_aborted_transaction(
    spark: SparkSession, settings: Settings
) -> None:
    send_and_abort(settings, [order("aborted"), order("aborted", partition=1)])
    ingest.run(settings, once=True)
    assert (rows(spark, settings, RAW_EVENTS), audit.run(settings).faults) == (0, [])
    entries = spark.read.format("delta").load(table_path(settings.lake.root, BATCH_LEDGER)).collect()
    assert [(one.query, one.partition, one.end_offset, one.accepted) for one in entries] == [
        (ledger.INGEST, partition, 2, 0) for partition in (0, 1)
    ]
    send(settings, [order()])
    ingest.run(settings, once=True)
    assert (rows(spark, settings, RAW_EVENTS), audit.run(settings).faults) == (1, [])


def test_records_that_retention_took_before_ingest_came(spark: SparkSession, settings: Settings) -> None:
    send(settings, [order(), order(partition=1)])
    admin = AdminClient({"bootstrap.servers": settings.kafka.bootstrap_servers})
    places = [TopicPartition(settings.kafka.topics.orders, partition, 1) for partition in (0, 1)]
    for future in admin.delete_records(places).values():
        future.result(timeout=20)
    ingest.run(settings, once=True)
    assert (rows(spark, settings, RAW_EVENTS), audit.run(settings).faults) == (0, [])
    send(settings, [order("o2")])
    ingest.run(settings, once=True)
    assert (rows(spark, settings, RAW_EVENTS), audit.run(settings).faults) == (1, [])


NOON, EVENING = "2026-01-01T12:00:00Z", "2026-01-01T20:00:00Z"
COMMANDS = {
    "ingest --once": 0,
    "speed --once": 0,
    "batch": 4,  # no event gives it a horizon
    f"batch --until {NOON}": 0,
    f"batch order_outcomes --incremental --until {EVENING}": 0,
    f"batch word_counts --from raw --until {EVENING}": 0,
    "audit": 0,
    "reconcile": 0,
    "late": 0,
    "quality product_events customer_hourly_spend": 0,
    "quality order_events": 1,  # of which it is expected that it is not empty
    "status": 0,
    "status --check": 0,
    "plan": 0,
    "report": 0,
    **{f"query {name}": 0 for name in VIEWS},
    "query order_outcomes --layer speed --where order_id='o1'": 0,
    "state list": 0,
    "state show customer_totals --key c1": 0,
    "dead-letters list": 0,
    "dead-letters list --each": 0,
    "dead-letters fix --bulk trim --reason none": 0,
    "dead-letters replay": 0,
    "replay order_outcomes --once": 4,  # nothing has been ingested
    "rollback order_outcomes": 4,
    "erase --customer c1 --yes": 0,
    "maintain": 0,
}
"""How each ends on a lake whose topics have never had a record."""


def test_every_command_on_a_lake_without_a_row(
    spark: SparkSession,  # which every command takes
    settings: Settings,
    capsys: pytest.CaptureFixture[str],
) -> None:
    topics = settings.kafka.topics
    given = {
        "lake.root": settings.lake.root,
        "kafka.bootstrap_servers": settings.kafka.bootstrap_servers,
        **{f"kafka.topics.{role}": name for role, name in asdict(topics).items()},
    }
    options = ["--env", "test", *(f"--set={key}={value}" for key, value in given.items())]
    ended = {}
    for command in COMMANDS:
        ended[command] = cli.main([*command.split(), *options])
        if ended[command] != COMMANDS[command]:
            print(command, capsys.readouterr())
    assert ended == COMMANDS
