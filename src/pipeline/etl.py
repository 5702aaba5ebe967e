"""The shop in Postgres → raw tables and fact_orders in the lake, fact_orders and its views in the warehouse.

Four steps, each of which runs by itself and may be run again: what one leaves for the next lies in tables of the lake.

- extract: what may be new since the last run, as texts, into `staged_rows`, in one commit that says what it is of.
- transform: typed into the raw tables, or into `etl_dead_letters`; the facts that may have changed into `staged_facts`.
- load: the facts into the warehouse's table, with the run and its watermarks in one transaction, and into the lake's before it ends.
- analyze: the warehouse's materialized views.

A run has its number from the warehouse, one more than the newest that has loaded. So a run that was broken off anywhere is
begun again under the same number, from the same place in the source, and puts the same rows in by the same keys.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from functools import partial, reduce

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from pipeline import delta_log, postgres_source, shop, warehouse
from pipeline.console import step
from pipeline.errors import RefusedToStart
from pipeline.failpoints import failpoint
from pipeline.postgres import Connection, is_passing
from pipeline.postgres_source import Since, Source
from pipeline.session import side_by_side
from pipeline.settings import Settings
from pipeline.sinks import create_table, insert_new, merge, replace
from pipeline.sources import read_version, table_version
from pipeline.starting import session
from pipeline.tables import (
    ETL_DEAD_LETTERS,
    FACT_ORDERS,
    RAW_CUSTOMERS,
    RAW_ORDERS,
    RAW_PRODUCTS,
    SCHEMAS,
    STAGED_FACTS,
    STAGED_ROWS,
    table_path,
)
from pipeline.transforms import extracted, facts
from pipeline.warehouse import Refused, Run

__all__ = ["STEPS", "analyze", "extract", "load", "run", "transform"]

STEPS = ("extract", "transform", "load", "analyze")
RAW = {shop.ORDERS: RAW_ORDERS, shop.CUSTOMERS: RAW_CUSTOMERS, shop.PRODUCTS: RAW_PRODUCTS}
_WATERMARK = "updated_at"
_FIRST = datetime.min.replace(tzinfo=timezone.utc)
_TRIES = 3
_KEPT = (*RAW.values(), FACT_ORDERS)
_MADE = (*_KEPT, ETL_DEAD_LETTERS, STAGED_ROWS, STAGED_FACTS)


@dataclass(frozen=True)
class _Extract:
    """What the newest extract has left: its run, and the version of the staged `rows`."""

    run: Run
    version: int
    rows: DataFrame


def extract(settings: Settings) -> None:
    """Stage what may be new in the source. Raises SourceMismatch where a table or column is missing: nothing is staged then."""
    run(settings, steps=["extract"])


def transform(settings: Settings) -> None:
    """Put the staged rows into the raw tables or the dead letters, and stage the facts that they touch."""
    run(settings, steps=["transform"])


def load(settings: Settings) -> None:
    """Put the staged facts into the lake and the warehouse. Raises RefusedToStart where they are not of the newest extract."""
    run(settings, steps=["load"])


def analyze(settings: Settings) -> None:
    """Compute the warehouse's materialized views anew."""
    run(settings, steps=["analyze"])


def run(settings: Settings, *, steps: Sequence[str] = STEPS) -> None:
    """Do the steps while no other process does any.

    Raises PostgresUnreachable, PostgresRefused, AlreadyRunning, and what the steps do.
    """
    with warehouse.opened(settings.postgres.warehouse_url) as connection:
        for name in steps:
            with step(f"etl-orders {name}"):
                _do(name, settings, connection)


def _do(name: str, settings: Settings, connection: Connection) -> None:
    """Do the step, anew where a transaction has lost against others."""
    for _ in range(_TRIES - 1):
        try:
            return _STEPS[name](settings, connection)
        except Exception as error:
            if not is_passing(error):
                raise
    return _STEPS[name](settings, connection)


def _extract(settings: Settings, connection: Connection) -> None:
    before = warehouse.newest_run(connection)
    place = settings.postgres
    with postgres_source.opened(place.source_url, schema=place.source_schema, tables=[*RAW]) as source:
        for table in RAW:
            postgres_source.columns_of(source, table, wanted=shop.SCHEMAS[table].names)
        spark, root = session(settings), settings.lake.root
        for name in _MADE:
            create_table(spark, table_path(root, name), SCHEMAS[name])
        lake = ",".join(str(delta_log.table_id(spark, table_path(root, name))) for name in _KEPT)
        newest = {table: postgres_source.newest(source, table, _WATERMARK) for table in RAW}
        fresh = Run((before.number if before else 0) + 1, source.identity, source.snapshot, lake, newest)
        rows = [_new_rows(spark, settings, source, fresh, before, table) for table in RAW]
        with postgres_source.reaching(source):
            staged = reduce(DataFrame.unionAll, rows)
            replace(staged, table_path(root, STAGED_ROWS), metadata=warehouse.as_json(fresh))
    failpoint("etl: extracted")


def _new_rows(
    spark: SparkSession, settings: Settings, source: Source, fresh: Run, before: Run | None, table: str
) -> DataFrame:
    """The table's rows that may be new or changed."""
    since = _since(before, fresh, source, table, overlap=timedelta(minutes=settings.etl.overlap_minutes))
    return postgres_source.rows_as_json(
        spark,
        source,
        table,
        columns=shop.SCHEMAS[table].names,
        where=postgres_source.changed(source, table, key=shop.KEYS[table], by=_WATERMARK, since=since),
        connections=settings.etl.read_partitions or spark.sparkContext.defaultParallelism,
    )


def _since(before: Run | None, fresh: Run, source: Source, table: str, *, overlap: timedelta) -> Since | None:
    """From where on the table is read; None: from its beginning, also where source or lake is another than before."""
    if before is None or (before.source, before.lake) != (fresh.source, fresh.lake):
        return None
    if before.oldest_open > source.next_transaction:  # a backup has been put in its place
        return None
    watermark = before.watermarks.get(table)
    return Since(before.oldest_open, watermark - min(overlap, watermark - _FIRST) if watermark else None)


def _transform(settings: Settings, _: Connection) -> None:
    spark, root = session(settings), settings.lake.root
    extract = _newest_extract(spark, root)
    stored = {table: _read(spark, root, RAW[table]) for table in RAW}
    rows = {
        table: extracted.judged(extract.rows, table=table, stored=stored[table]).persist() for table in RAW
    }
    try:
        side_by_side(spark, [partial(_land, rows[table], root, table) for table in RAW])
        letters = [extracted.dead_letters(rows[table], run=extract.run.number) for table in RAW]
        _keep_dead_letters(reduce(DataFrame.unionAll, letters), root)
        touched = facts.touched_orders(
            _read(spark, root, RAW_ORDERS),
            new_orders=_keys(rows[shop.ORDERS], shop.ORDERS),
            new_customers=_keys(rows[shop.CUSTOMERS], shop.CUSTOMERS),
        )
        fresh = facts.fact_orders(touched, _read(spark, root, RAW_CUSTOMERS))
        replace(fresh, table_path(root, STAGED_FACTS), metadata={"extract": extract.version})
        failpoint("etl: transformed")
    finally:
        for judged in rows.values():
            judged.unpersist()


def _keys(rows: DataFrame, table: str) -> DataFrame:
    """Of all rows that were read: those of a run that was broken off may have been taken by it."""
    return rows.select(F.col("key").alias(shop.KEYS[table]))


def _land(rows: DataFrame, root: str, table: str) -> None:
    merge(extracted.accepted(rows, table=table), table_path(root, RAW[table]), keys=[shop.KEYS[table]])
    failpoint(f"etl: merged {table}")


def _keep_dead_letters(letters: DataFrame, root: str) -> None:
    if not letters.isEmpty():
        insert_new(letters, table_path(root, ETL_DEAD_LETTERS), keys=["table", "key", "row", "reason"])
        failpoint("etl: dead letters")


def _load(settings: Settings, connection: Connection) -> None:
    spark, root = session(settings), settings.lake.root
    extract = _newest_extract(spark, root)
    if warehouse.is_loaded(connection, extract.run):
        return
    staged = _staged_facts(spark, root, extract)
    texts = staged.select(*[F.col(name).cast("string") for name in shop.FACT_ORDERS.names])

    def into_the_lake(refused: Sequence[Refused]) -> None:
        taken = staged
        if refused:
            letters = _letters_of(spark, refused, run=extract.run.number)
            _keep_dead_letters(letters, root)
            taken = staged.join(letters, on=staged["order_id"] == letters["key"], how="left_anti")
        merge(taken, table_path(root, FACT_ORDERS), keys=[shop.KEYS[shop.ORDERS]])
        failpoint("etl: facts in the lake")

    facts_as_texts = (tuple(row) for row in texts.toLocalIterator())
    warehouse.load(connection, facts_as_texts, run=extract.run, then=into_the_lake)
    failpoint("etl: loaded")


def _letters_of(spark: SparkSession, refused: Sequence[Refused], *, run: int) -> DataFrame:
    """The facts that the warehouse does not take, as dead letters."""
    rows = [
        (
            run,
            FACT_ORDERS,
            fact[0],
            json.dumps(dict(zip(shop.FACT_ORDERS.names, fact, strict=True))),
            f"warehouse: {reason}",
        )
        for fact, reason in refused
    ]
    return spark.createDataFrame(rows, SCHEMAS[ETL_DEAD_LETTERS])


def _analyze(_: Settings, connection: Connection) -> None:
    warehouse.refresh_views(connection)
    failpoint("etl: analyzed")


_STEPS: Mapping[str, Callable[[Settings, Connection], None]] = {
    "extract": _extract,
    "transform": _transform,
    "load": _load,
    "analyze": _analyze,
}


def _newest_extract(spark: SparkSession, root: str) -> _Extract:
    """Raises RefusedToStart where there is none."""
    path = table_path(root, STAGED_ROWS)
    version = table_version(spark, path)
    commit = None if version is None else delta_log.commit(spark, path, version)
    if version is None or commit is None or commit.metadata is None:
        raise RefusedToStart(
            f"Nothing has been extracted into the lake {root} yet. Run `pipeline etl-orders` with all steps, or "
            "`--step extract` first."
        )
    return _Extract(warehouse.from_json(commit.metadata), version, read_version(spark, path, version))


def _staged_facts(spark: SparkSession, root: str, extract: _Extract) -> DataFrame:
    """Raises RefusedToStart where they are not of this extract."""
    path = table_path(root, STAGED_FACTS)
    version = table_version(spark, path) or 0
    commit = delta_log.commit(spark, path, version)
    if commit is None or (commit.metadata or {}).get("extract") != extract.version:
        raise RefusedToStart(
            "The newest extract has not been transformed yet. Run `pipeline etl-orders --step transform` first, or all steps."
        )
    return read_version(spark, path, version)


def _read(spark: SparkSession, root: str, name: str) -> DataFrame:
    """The table at its version of now."""
    path = table_path(root, name)
    return read_version(spark, path, table_version(spark, path) or 0)
