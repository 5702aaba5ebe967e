"""A lake that an earlier version of the code has written, with its checkpoints: this code goes on with it.

`fixtures/make_earlier_lake.py` made it. Its queries read the log, so no broker is needed: what ingest would have appended is
appended here in its name.
"""

from __future__ import annotations

import json
import re
import tarfile
from base64 import b64decode
from dataclasses import astuple, replace
from pathlib import Path

import pytest
from pyspark.sql import SparkSession

import judge
from lake import Sent, at, by_key, cancellation, kinds_of, line, order, product, rows_of
from pipeline import batch, catalog, checkpoints, ledger, plan, promotion, reconcile, speed
from pipeline.errors import DefinitionChanged
from pipeline.settings import Settings
from pipeline.sinks import Transaction, append
from pipeline.sources import with_kind
from pipeline.tables import BATCH_LEDGER, RAW_EVENTS, SCHEMAS, checkpoint_path, table_path, view_path
from pipeline.transforms.decode import accepted_events, classify
from pipeline.views import VIEWS
from reference import VIEWS as REFERENCE
from reference import Record, accepted_log

FIXTURE = Path(__file__).parent / "fixtures" / "earlier_lake.tar.gz"
SAME = tuple(name for name in judge.CLOCKED if VIEWS[name].version == 1)
CHANGED = "customer_totals"
"""It has another definition since: to Spark its keyed state is another operator's."""
NEW = [
    order("new", time=at(340), customer_id="c0", total="4.00", items=[line("p1"), line("p2")]),
    order("much too late", time=at(-300), customer_id="c0", total="8.00", items=[line("p1")]),
    product("p1", time=at(60 * 31)),
    order("closing", time=at(60 * 31), customer_id="c-closing", partition=1),
    cancellation("closing", time=at(60 * 31)),
]


@pytest.fixture
def here(base_settings: Settings, tmp_path: Path) -> Settings:
    with tarfile.open(FIXTURE) as packed:
        packed.extractall(tmp_path, filter="data")
    make_at_home(tmp_path / "lake")
    return replace(
        base_settings,
        lake=replace(base_settings.lake, root=str(tmp_path / "lake")),
        speed=replace(base_settings.speed, source="log"),
    )


def make_at_home(root: Path) -> None:
    """transformWithState writes down where its schemas lie, as a whole path (Spark 4.2): all else of a lake may be moved."""
    for file in root.glob("_checkpoints/*/state/*/_metadata/v2/[0-9]*"):
        text = file.read_text(encoding="utf-8")
        file.write_text(
            re.sub(r'file:[^"]*/_checkpoints/', f"file:{root}/_checkpoints/", text), encoding="utf-8"
        )
        file.with_name(f".{file.name}.crc").unlink(missing_ok=True)


def known_records(here: Settings) -> list[Record]:
    told = json.loads(Path(here.lake.root, "records.json").read_text(encoding="utf-8"))
    return [
        Record(**{**one, **{name: one[name] and b64decode(one[name]) for name in ("key", "value")}})
        for one in told
    ]


def ingested(spark: SparkSession, here: Settings, sent: list[Sent], known: list[Record]) -> list[Record]:
    """The log with these records, as one more batch of its ingest leaves it."""
    root = here.lake.root
    topics = {"orders": here.kafka.topics.orders, "products": here.kafka.topics.products}
    generation = checkpoints.generation(spark, checkpoint_path(root, ledger.INGEST))
    newest = checkpoints.last_committed_batch(spark, checkpoint_path(root, ledger.INGEST))
    assert generation is not None
    assert newest is not None
    ends = {(one.topic, one.partition): one.offset + 1 for one in known}
    begins, records = dict(ends), []
    for one in sent:
        place = (topics[one.kind], one.partition)
        records.append(
            Record(*place, ends[place], round(one.timestamp.timestamp() * 1000), one.key.encode(), one.value)
        )
        ends[place] += 1
    transaction = Transaction(ledger.INGEST, generation, newest + 1)
    rows = [(*astuple(one)[:3], one.timestamp_ms / 1000, one.key, one.value, None) for one in records]
    told = spark.createDataFrame(
        rows,
        "topic string, partition int, offset bigint, at double, key binary, value binary, headers string",
    )
    raw = told.selectExpr(
        "topic", "partition", "offset", "timestamp_seconds(at) AS kafka_timestamp", "key", "value",
        "CAST(NULL AS array<struct<key: string, value: binary>>) AS headers",
    )  # fmt: skip
    append(raw.coalesce(1), table_path(root, RAW_EVENTS), transaction=transaction)
    kinds = catalog.kinds(here)
    classified = classify(
        raw.transform(with_kind, kinds={topic: kind for kind, topic in topics.items()}), kinds.values()
    )
    for kind in topics:
        events = accepted_events(classified, kinds[kind]).coalesce(1)
        append(events, table_path(root, kinds[kind].table), transaction=transaction)
    entries = [
        (ledger.INGEST, generation, newest + 1, 0, *place, begins[place], end, None, 0, 0, 0)
        for place, end in ends.items()
        if end > begins[place]
    ]
    append(
        spark.createDataFrame(entries, SCHEMAS[BATCH_LEDGER]).coalesce(1),
        table_path(root, BATCH_LEDGER),
        transaction=transaction,
    )
    return [*known, *records]


def test_a_restart_of_what_an_earlier_version_has_left_is_safe(spark: SparkSession, here: Settings) -> None:
    records = ingested(spark, here, NEW, known_records(here))
    generations = ledger.generations(spark, here.lake.root, [f"{name}_v1" for name in SAME])
    assert len(generations) == len(SAME)
    assert {told.verdict for told in plan.look(here, only=[*generations]).queries} == {"restart is safe"}
    speed.run(here, views=SAME, once=True)
    assert {told.verdict for told in plan.look(here, only=[*generations]).queries} == {"unchanged"}
    assert ledger.generations(spark, here.lake.root, [*generations]) == generations
    batch.run(here, views=SAME[:1], until=at(60 * 24 * 5))
    log, entries = accepted_log(records, kinds_of(here)), judge.ledger(spark, here)
    for name in SAME:
        late = judge.late_identities(entries, here, name, log)
        assert late
        judge.check_speed(spark, here, name, judge.without(log, late))
    (agreement,) = reconcile.run(here, views=SAME[:1])
    assert agreement.unexplained == 0, agreement
    assert agreement.late > 0, agreement


def test_a_definition_that_has_changed_since_is_made_anew_and_promoted(
    spark: SparkSession, here: Settings
) -> None:
    records = ingested(spark, here, NEW, known_records(here))
    (told,) = plan.look(here, only=[f"{CHANGED}_v1"]).queries
    assert told.verdict == "needs a new version"
    with pytest.raises(DefinitionChanged):
        speed.run(here, views=[CHANGED], once=True)
    promotion.replay(here, [CHANGED], once=True)
    found = promotion.promote(here, CHANGED, is_confirmed=lambda _: True)
    assert found is not None
    assert found.has_new_definition
    assert (found.live, found.new) == ("1", "2r1")
    assert found.proof.unexplained == 0, found
    rows = spark.read.format("delta").load(view_path(here.lake.root, CHANGED, "speed", "2r1"))
    log = accepted_log(records, kinds_of(here))
    assert rows_of(rows.select(*VIEWS[CHANGED].columns)) == by_key(REFERENCE[CHANGED](log, None))
    speed.run(here, views=[CHANGED], once=True)
    assert promotion.rollback(here, CHANGED) == ("2r1", "1")
