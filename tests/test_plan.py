"""What a start would meet, told before: each verdict is confirmed by really starting, on a copy of one small lake."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql import types as T

from lake import Row, at, cancellation, fresh, on_kafka, order, product, rows_of, send
from pipeline import catalog, cli, ingest, ledger, plan, serving, speed, versions
from pipeline.contract_rules import changes, rules_of
from pipeline.contracts import LATENESS, WIDE_MONEY
from pipeline.devservices import kafka
from pipeline.errors import CheckpointMismatch, DefinitionChanged, PlanChanged
from pipeline.kinds import KINDS, choice, identifier
from pipeline.plan import QueryPlan
from pipeline.settings import Settings
from pipeline.tables import DEAD_LETTERS, checkpoint_path, table_path, view_path
from pipeline.transforms import joins
from pipeline.views import VIEWS, View

SPEND, OUTCOMES = VIEWS["customer_hourly_spend"], VIEWS["order_outcomes"]
UNTOUCHED = {"c1": 2, "c2": 1, "c3": 1}


@pytest.fixture(scope="module")
def begun(
    spark: SparkSession,
    base_settings: Settings,
    bootstrap: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> Settings:
    """A lake whose ingest and two views have come to the last record but one of its topics."""
    here = fresh(base_settings, bootstrap, tmp_path_factory.mktemp("begun") / "lake")
    here = on_kafka(replace(here, metrics=replace(here.metrics, history="kept")))
    send(
        here,
        [
            order("o1", customer_id="c1", time=at(0)),
            order("o2", customer_id="c1", time=at(1), partition=1),
            cancellation("o1", time=at(2)),
            order("o3", customer_id="c2", time=at(3)),
            product("p1", category="tools"),
            product("p2", category="food"),
        ],
    )
    ingest.run(here, once=True)
    speed.run(here, views=[SPEND.name, OUTCOMES.name], once=True)
    send(here, [order("o4", customer_id="c3", time=at(4))])
    return here


def spend(
    orders: DataFrame,
    *,
    window: str = "1 hour",
    lateness: str = LATENESS,
    total: Callable[[str], Any] = F.sum,
    identity: tuple[str, ...] = ("order_id", "event_time"),
    keys: tuple[str, ...] = ("customer_id",),
) -> DataFrame:
    """The view, written in another way: with a name for each piece, and what a test is about to change."""
    # A comment is no change.
    only_created = orders.where(F.col("event_type") == "order_created").withWatermark("event_time", lateness)
    deduplicated = only_created.select("order_id", "event_time", "customer_id", "total").dropDuplicates(
        [*identity]
    )
    summed = deduplicated.groupBy(*keys, F.window("event_time", window)).agg(
        total("total").cast(WIDE_MONEY).alias("hourly_spend"),
        F.count(F.lit(1)).alias("order_count"),
        F.max("event_time").alias("last_event_time"),
    )
    given = summed if "customer_id" in keys else summed.withColumn("customer_id", F.lit("all"))
    return given.select(
        "customer_id",
        F.col("window.start").alias("window_start"),
        F.col("window.end").alias("window_end"),
        "hourly_spend",
        "order_count",
        "last_event_time",
    )


def with_more(orders: DataFrame) -> DataFrame:
    return spend(orders).withColumn("is_large", F.col("hourly_spend") > 100)


def outcomes_of_half_a_day(orders: DataFrame) -> DataFrame:
    before, joins._REACH = joins._REACH, "INTERVAL 12 HOURS"
    try:
        return joins.order_outcomes(orders)
    finally:
        joins._REACH = before


def without(schema: T.StructType, name: str) -> T.StructType:
    return T.StructType([one for one in schema.fields if one.name != name])


@dataclass(frozen=True)
class Change:
    """`view` in place of the one of its name, settings and damage; and what is told of the start, and what comes of it."""

    verdict: str
    because: tuple[str, ...] = ()
    view: View = SPEND
    settings: Callable[[Settings], Settings] = field(default=lambda here: here)
    damage: Callable[[Settings], object] = field(default=lambda _: None)
    raises: type[Exception] | None = None


def changed(**what: Any) -> View:
    return replace(SPEND, **what)


def speed_with(**what: Any) -> Callable[[Settings], Settings]:
    return lambda here: replace(here, speed=replace(here.speed, **what))


def reading_topic(name: str) -> Callable[[Settings], Settings]:
    def renamed(here: Settings) -> Settings:
        kafka.create_topics(here.kafka.bootstrap_servers, {name: 2})
        return replace(here, kafka=replace(here.kafka, topics=replace(here.kafka.topics, orders=name)))

    return renamed


def remove(path: Callable[[str], str]) -> Callable[[Settings], object]:
    return lambda here: shutil.rmtree(path(here.lake.root))


CHANGES: Mapping[str, Change] = {
    "nothing": Change("unchanged"),
    "a comment, and renamed variables": Change("unchanged", view=changed(define=spend)),
    "the pace": Change("unchanged", settings=speed_with(trigger="5 seconds", max_offsets_per_trigger=10)),
    "a condition before the state": Change(
        "restart is safe",
        ("steps without state",),
        view=changed(define=lambda orders: SPEND.define(orders.where(F.col("total") >= 0))),
    ),
    "the keys of the grouping": Change(
        "needs a new version",
        ("keys",),
        view=changed(define=lambda orders: spend(orders, keys=())),
        raises=PlanChanged,
    ),
    "the keys of the rows": Change(
        "needs a new version", ("keys",), view=changed(keys=("customer_id",)), raises=PlanChanged
    ),
    "the keys of deduplication": Change(
        "needs a new version",
        ("keys",),
        view=changed(define=lambda orders: spend(orders, identity=("order_id", "customer_id", "event_time"))),
        raises=PlanChanged,
    ),
    "the window": Change(
        "needs a new version",
        ("window",),
        view=changed(define=lambda orders: spend(orders, window="30 minutes")),
        raises=PlanChanged,
    ),
    "the watermark": Change(
        "needs a new version",
        ("watermark",),
        view=changed(define=lambda orders: spend(orders, lateness="20 minutes")),
        raises=PlanChanged,
    ),
    "an aggregate": Change(
        "needs a new version",
        ("state",),
        view=changed(define=lambda orders: spend(orders, total=F.max)),
        raises=PlanChanged,
    ),
    "the bound of a join": Change(
        "needs a new version",
        ("join",),
        view=replace(OUTCOMES, define=outcomes_of_half_a_day),
        raises=PlanChanged,
    ),
    "an output column more": Change(
        "needs a new version",
        ("output columns",),
        view=changed(
            define=with_more,
            schema=T.StructType([*SPEND.schema.fields, T.StructField("is_large", T.BooleanType())]),
        ),
        raises=PlanChanged,
    ),
    "an output column less": Change(
        "needs a new version",
        ("output columns",),
        view=changed(schema=without(SPEND.schema, "last_event_time")),
        raises=PlanChanged,
    ),
    "the output mode": Change(
        "needs a new version", ("output mode",), view=changed(output_mode="append"), raises=PlanChanged
    ),
    "a topic's name": Change(
        "needs a new version", ("sources",), settings=reading_topic("renamed-orders"), raises=PlanChanged
    ),
    "the log in place of Kafka": Change("unchanged", settings=speed_with(source="log")),
    "the checkpoint is gone": Change(
        "refused",
        damage=remove(lambda root: checkpoint_path(root, SPEND.query)),
        raises=CheckpointMismatch,
    ),
    "the table is gone": Change(
        "refused",
        damage=remove(lambda root: view_path(root, SPEND.name, "speed", 1)),
        raises=CheckpointMismatch,
    ),
    "a view that has not run": Change("begins", view=VIEWS["customer_totals"]),
    "a definition of a new version": Change(
        "needs a new version", ("definition",), view=changed(version=2), raises=DefinitionChanged
    ),
}


@pytest.fixture
def known_as(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Put views and kinds in the place of those of their names."""

    def put(*, views: tuple[View, ...] = (), kinds: Mapping[str, Any] = KINDS) -> None:
        named = {**VIEWS, **{view.name: view for view in views}}
        monkeypatch.setattr(catalog, "_of", lambda _: catalog.Catalog(kinds, named))

    return put


def copied(settings: Settings, to: Path) -> Settings:
    shutil.copytree(settings.lake.root, to)
    return replace(settings, lake=replace(settings.lake, root=str(to)))


def planned(settings: Settings, view: str) -> QueryPlan:
    """Of the version of the view that a start would take."""
    query = versions.live_views(None, settings)[view].query
    (found,) = plan.look(settings, only=[query]).queries
    return found


def counts(spark: SparkSession, settings: Settings, view: View) -> dict[str, int]:
    rows: list[Row] = rows_of(serving.read(spark, settings, view, layer="speed"))
    return {row["customer_id"]: row["order_count"] for row in rows}


@pytest.mark.kafka
@pytest.mark.parametrize("name", CHANGES)
def test_a_start_meets_what_was_told(
    spark: SparkSession, begun: Settings, tmp_path: Path, known_as: Callable[..., None], name: str
) -> None:
    change = CHANGES[name]
    here = change.settings(copied(begun, tmp_path / "lake"))
    change.damage(here)
    known_as(views=(change.view,))
    before = {path: path.stat().st_mtime_ns for path in Path(here.lake.root).rglob("*") if path.is_file()}
    told = planned(here, change.view.name)
    assert (told.verdict, tuple(told.because)) == (change.verdict, change.because), told
    after = {path: path.stat().st_mtime_ns for path in Path(here.lake.root).rglob("*") if path.is_file()}
    assert after == before, "a plan writes nothing"
    assert told.is_refused == (change.raises is not None)
    if change.raises is not None:
        with pytest.raises(change.raises):
            speed.run(here, views=[change.view.name], once=True)
        return
    speed.run(here, views=[change.view.name], once=True)
    assert counts(spark, here, change.view) == UNTOUCHED
    assert planned(here, change.view.name).verdict == "unchanged"


@pytest.mark.kafka
def test_state_keeps_its_partitions(
    spark: SparkSession, begun: Settings, tmp_path: Path, known_as: Callable[..., None]
) -> None:
    here = copied(begun, tmp_path / "lake")
    spark.conf.set("spark.sql.shuffle.partitions", "3")
    try:
        told = planned(here, SPEND.name)
        assert told.verdict == "state partitions differ"
        with pytest.raises(PlanChanged):
            speed.run(here, views=[SPEND.name], once=True)
        as_it_comes = speed_with(state_partitions=None)(here)
        told = planned(as_it_comes, SPEND.name)
        assert (told.verdict, told.because) == ("restart is safe", ["state partitions"])
        assert told.differences == [("state partitions", "2", "3")]
        speed.run(as_it_comes, views=[SPEND.name], once=True)
    finally:
        spark.conf.set("spark.sql.shuffle.partitions", "2")
    assert counts(spark, here, SPEND) == UNTOUCHED
    assert planned(here, SPEND.name).verdict == "unchanged"


@pytest.mark.kafka
@pytest.mark.parametrize(
    ("category", "verdict", "rejected", "accepted"),
    [
        (choice("product_category", "tools", "toys"), "breaking", 1, 0),
        (identifier("product_category", required=False), "backward compatible", 0, 0),
    ],
)
def test_a_change_of_the_contract_is_told_with_what_it_would_reject(
    spark: SparkSession,
    begun: Settings,
    tmp_path: Path,
    known_as: Callable[..., None],
    category: Any,
    verdict: str,
    rejected: int,
    accepted: int,
) -> None:
    products = KINDS["products"]
    fields = tuple(category if one.name == category.name else one for one in products.fields)
    known_as(kinds={**KINDS, "products": replace(products, fields=fields)})
    report = plan.look(begun, only=[ledger.INGEST])
    assert report.contract is not None
    assert report.contract.verdict == verdict
    assert (report.contract.rejected, report.contract.accepted) == (rejected, accepted)
    assert report.is_refused == (verdict == "breaking")
    anew = replace(begun, lake=replace(begun.lake, root=str(tmp_path / "anew")))
    ingest.run(anew, once=True)
    assert (
        spark.read.format("delta").load(table_path(anew.lake.root, DEAD_LETTERS)).count()
        == rejected - accepted
    )
    assert plan.look(anew, only=[ledger.INGEST]).contract == plan.ContractPlan("unchanged")


def test_looser_rules_are_compatible_and_tighter_ones_breaking() -> None:
    then = rules_of(KINDS.values())
    assert json.loads(json.dumps(then)) == then
    tried = [
        ("record.max_value_bytes", 2**21, "backward compatible"),
        ("record.max_value_bytes", 2**19, "breaking"),
        ("record.first_year", 1990, "backward compatible"),
        ("record.first_year", 2020, "breaking"),
        ("orders.total.most", "99999999999.99", "backward compatible"),
        ("orders.total.least", "1", "breaking"),
        ("orders.status.values", ["pending", "completed"], "breaking"),
        ("orders.status.values", ["pending", "completed", "cancelled", "lost"], "backward compatible"),
        ("products.name.is_required", False, "backward compatible"),
        ("products.name.rule", "amount", "breaking"),
    ]
    for rule, value, effect in tried:
        (change,) = changes(then, {**then, rule: value})
        assert (change.rule, change.effect) == (rule, effect)
    assert [one.effect for one in changes(then, {**then, "products.colour.is_required": True})] == [
        "breaking"
    ]
    assert [one.effect for one in changes({**then, "products.colour.rule": "amount"}, then)] == [
        "backward compatible"
    ]


@pytest.mark.kafka
def test_how_far_behind_a_query_is_and_what_that_costs(
    begun: Settings, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    here = copied(begun, tmp_path / "lake")
    topics = here.kafka.topics
    given = [
        f"--set=lake.root={here.lake.root}",
        f"--set=kafka.bootstrap_servers={here.kafka.bootstrap_servers}",
        f"--set=kafka.topics.orders={topics.orders}",
        f"--set=kafka.topics.products={topics.products}",
        f"--set=kafka.topics.text_lines={topics.text_lines}",
        f"--set=kafka.topics.word_counts_output={topics.word_counts_output}",
        "--env=test",
    ]
    assert cli.main(["plan", SPEND.name, "ingest", "--format=json", *given]) == 0
    told = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    queries = {one["query"]: one for one in told if one["plan"] == "query"}
    assert [*queries] == [ledger.INGEST, SPEND.query]
    for one in queries.values():
        assert (one["verdict"], one["lag_records"], one["is_held"], one["batches"]) == (
            "unchanged",
            1,
            True,
            1,
        )
        assert one["records_per_second"] > 0
        assert one["seconds"] == pytest.approx(1 / one["records_per_second"])
    assert {one["verdict"] for one in told if one["plan"] == "table"} <= {"unchanged", "new"}
    shutil.rmtree(checkpoint_path(here.lake.root, SPEND.query))
    assert cli.main(["plan", SPEND.name, *given]) == 1
    out = capsys.readouterr()
    assert "refused: CheckpointMismatch" in out.out
