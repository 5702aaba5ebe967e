"""Nothing to do: a topic without a record, a batch without one, a lake without a row. No step takes that for a fault."""

from __future__ import annotations

import pytest
from pyspark.sql import SparkSession

from lake import order, send
from pipeline import audit, ingest, ledger
from pipeline.failpoints import watched
from pipeline.settings import Settings
from pipeline.streaming import QueryFailed
from pipeline.tables import BATCH_LEDGER, RAW_EVENTS, table_path
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
