"""Dead letters: listed, fixed, replayed and discarded, compared with the reference computation over the patched bytes."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from delta.tables import DeltaTable
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from lake import (
    NOON,
    Row,
    Sent,
    at,
    by_key,
    cancellation,
    kinds_of,
    line,
    order,
    product,
    rows_of,
    send,
    topics_of,
)
from pipeline import batch, cli, dead_letters, ingest, serving
from pipeline.dead_letters import Address, Outcome
from pipeline.delta_log import is_table
from pipeline.devservices import kafka
from pipeline.errors import RefusedToStart, UsageError
from pipeline.published import events_of, snapshot
from pipeline.settings import Settings, Topics
from pipeline.sources import table_version
from pipeline.tables import DEAD_LETTERS, ORDER_EVENTS, PRODUCT_EVENTS, RAW_EVENTS, REPAIRS, table_path
from pipeline.transforms.patches import Patch, bulk_patch, merge_patch, value_patch
from pipeline.views import VIEWS
from reference import VIEWS as REFERENCE
from reference import Record, accepted_log, classify, default_until, read_records

pytestmark = pytest.mark.kafka

WHO = {"author": "ann", "reason": "agreed with the shop"}


def _order(order_id: str, **fields: str) -> bytes:
    """An order in JSON's own words: what a field's value is here, stands in the record."""
    event = {
        "event_type": '"order_created"',
        "order_id": f'"{order_id}"',
        "customer_id": '"c9"',
        "total": "12.50",
        "timestamp": f'"{NOON:%Y-%m-%dT%H}:30:00Z"',
        **fields,
    }
    return ("{" + ",".join(f'"{name}": {value}' for name, value in event.items()) + "}").encode()


LOCAL = '"2026-01-01T12:20:00.5"'
IN_UTC = '"2026-01-01T12:20:00.5Z"'
PRODUCT = b'{"product_id": "p2", "name": "Two", "product_category": "tools", "cost": 1, "timestamp": "2026-01-01T11:00:00Z", "price": %b}'
BROKEN = {
    "local": Sent(_order("local", timestamp=LOCAL)),
    "local too": Sent(_order("local too", timestamp=LOCAL), partition=1),
    "local and lost": Sent(_order("local and lost", timestamp=LOCAL, status='"lost"')),
    "shipped": Sent(_order("shipped", status='"shipped"', total="1.230E1", note='"Zoë"')),
    "spaced": Sent(_order("spaced", total='" 1.5"', items='[{"product_id":"p1","price":"2 "}]')),
    "no json": Sent(b"order for c9: 3 pieces"),
    "future": Sent(_order("future", timestamp='"2999-01-01T00:00:00Z"')),
    "dear": Sent(PRODUCT % b"-10.00", kind="products"),
    "latin": Sent("Zoë and zoë".encode("latin-1"), kind="text-lines"),
    "left": Sent(_order("left", event_type='"order"')),
}
REPAIRED = {
    "local": _order("local", timestamp=IN_UTC),
    "local too": _order("local too", timestamp=IN_UTC),
    "shipped": _order("shipped", status='"completed"', total="1.230E1"),
    "spaced": _order("spaced", total='"1.5"', items='[{"product_id":"p1","price":"2"}]'),
    "no json": _order("by hand", timestamp='"2026-01-01T12:59:59Z"'),
    "dear": PRODUCT % b"10.00",
    "latin": "Zoë and zoë".encode(),
}
"""What the fixes of `_fix_all` must come to."""

GOOD = [
    product("p1", time=at(-60)),
    *[order(f"o{n}", time=at(7 * n), customer_id=f"c{n % 3}", items=[line("p1"), line("p2")]) for n in range(12)],
    cancellation("shipped", time=at(40)),
    Sent(b"a line and another", kind="text-lines"),
    order("last", time=at(60 * 72)),
]  # fmt: skip


@dataclass(frozen=True)
class Log:
    """An ingested lake, what Kafka holds, and where each broken record is."""

    settings: Settings
    records: list[Record]
    address: Mapping[str, Address]

    def patched(self, values: Mapping[str, bytes]) -> list[Record]:
        """The records, those of these names with another value."""
        of_address = {self.address[name]: value for name, value in values.items()}
        return [replace(one, value=of_address.get(_address(one), one.value)) for one in self.records]


def _address(record: Record) -> Address:
    return record.topic, record.partition, record.offset


@pytest.fixture(scope="module")
def ingested(
    spark: SparkSession, base_settings: Settings, bootstrap: str, tmp_path_factory: pytest.TempPathFactory
) -> Log:
    topics = Topics(
        orders="dead-orders",
        products="dead-products",
        text_lines="dead-text",
        word_counts_output="dead-words",
    )
    settings = replace(
        base_settings,
        kafka=replace(base_settings.kafka, bootstrap_servers=bootstrap, topics=topics),
        lake=replace(base_settings.lake, root=str(tmp_path_factory.mktemp("dead") / "lake")),
    )
    kafka.create_topics(
        bootstrap, {topics.orders: 2, topics.products: 1, topics.text_lines: 1, topics.word_counts_output: 1}
    )
    send(settings, [*GOOD[:6], *BROKEN.values(), *GOOD[6:]])
    ingest.run(settings, once=True)
    records = read_records(bootstrap, [*topics_of(settings).values()])
    at_value = {one.value: _address(one) for one in records}
    return Log(settings, records, {name: at_value[sent.value] for name, sent in BROKEN.items()})


@pytest.fixture
def log(ingested: Log, tmp_path: Path) -> Log:
    """A copy of the lake, for a test to write to."""
    root = tmp_path / "lake"
    shutil.copytree(ingested.settings.lake.root, root)
    settings = replace(ingested.settings, lake=replace(ingested.settings.lake, root=str(root)))
    return replace(ingested, settings=settings)


def _table(spark: SparkSession, log: Log, name: str) -> DataFrame:
    return spark.read.format("delta").load(table_path(log.settings.lake.root, name))


def _dicts(listed: tuple[list[str], Any]) -> list[Row]:
    columns, rows = listed
    return [dict(zip(columns, row, strict=True)) for row in rows]


def _statuses(log: Log) -> dict[str, str]:
    names = {address: name for name, address in log.address.items()}
    rows = _dicts(dead_letters.letters(log.settings))
    return {names[row["topic"], row["partition"], row["offset"]]: row["status"] for row in rows}


def _fix(log: Log, patch: Patch, *names: str, **options: Any) -> Outcome:
    addresses = [log.address[name] for name in names]
    return dead_letters.fix(log.settings, patch, addresses=addresses, **WHO, **options)


def _fix_all(log: Log) -> None:
    """Fix in every way there is what REPAIRED names."""
    outcomes = [
        dead_letters.fix(log.settings, bulk_patch(["assume-utc"]), violation="timestamp", **WHO),
        _fix(log, merge_patch('{"status": "completed"}'), "shipped"),
        _fix(log, bulk_patch(["trim"]), "spaced"),
        _fix(log, value_patch(REPAIRED["no json"].decode()), "no json"),
        _fix(log, merge_patch('{"price": 10.00}'), "dear"),
        _fix(log, bulk_patch(["assume-latin-1"]), "latin"),
    ]
    assert [outcome.passed for outcome in outcomes] == [2, 1, 1, 1, 1, 1]


def _accepted(log: Log, records: Sequence[Record], kind: str) -> list[Address]:
    kinds = kinds_of(log.settings)
    return sorted(
        _address(one)
        for one in records
        if kinds[one.topic] == kind and classify(one, kinds[one.topic]).fate == "accepted"
    )


def _assert_in_the_log(spark: SparkSession, log: Log, records: Sequence[Record]) -> None:
    """Each accepted record is in its table once, and is there what its patched bytes say."""
    for table, kind in ((ORDER_EVENTS, "orders"), (PRODUCT_EVENTS, "products")):
        rows = rows_of(_table(spark, log, table))
        assert sorted((row["topic"], row["partition"], row["offset"]) for row in rows) == _accepted(
            log, records, kind
        )


def test_letters_are_grouped_by_violation_without_their_values(log: Log) -> None:
    kinds = kinds_of(log.settings)
    verdicts = [(one, classify(one, kinds[one.topic])) for one in log.records]
    broken = [(one, name) for one, verdict in verdicts for name in verdict.violations]
    groups = _dicts(dead_letters.groups(log.settings))
    assert {(row["topic"], row["violation"]): row["count"] for row in groups} == {
        (topic, name): sum(1 for one, other in broken if (one.topic, other) == (topic, name))
        for topic, name in {(one.topic, name) for one, name in broken}
    }
    assert [row["count"] for row in groups] == sorted((row["count"] for row in groups), reverse=True)
    (lost,) = _dicts(dead_letters.groups(log.settings, topic=log.address["left"][0], violation="event_type"))
    assert lost["example"] == ":".join(map(str, log.address["left"]))
    assert (lost["dead"], lost["fixed"], lost["repaired"], lost["discarded"]) == (1, 0, 0, 0)
    each = _dicts(dead_letters.letters(log.settings))
    assert len(each) == len(BROKEN)
    assert not {"key", "value"} & set(each[0])
    assert len(_dicts(dead_letters.letters(log.settings, violation="timestamp", status="dead", limit=2))) == 2


def test_a_replay_puts_what_passes_into_every_form_of_the_log(spark: SparkSession, log: Log) -> None:
    untouched = {name: _table(spark, log, name).collect() for name in (RAW_EVENTS, DEAD_LETTERS)}
    dry = dead_letters.fix(log.settings, bulk_patch(["assume-utc"]), dry_run=True, **WHO)
    assert (dry.passed, dry.rejected) == (2, 1)
    assert dry.still_dead == [(log.address["local and lost"], ["status"])]
    assert not is_table(spark, table_path(log.settings.lake.root, REPAIRS))
    _fix_all(log)
    assert dead_letters.replay(log.settings, dry_run=True).passed == len(REPAIRED)
    _assert_in_the_log(spark, log, log.records)
    outcome = dead_letters.replay(log.settings)
    assert (outcome.passed, outcome.rejected) == (len(REPAIRED), 0)
    assert {name for name, status in _statuses(log).items() if status == "repaired"} == set(REPAIRED)
    assert {name for name, status in _statuses(log).items() if status == "dead"} == set(BROKEN) - set(
        REPAIRED
    )

    records = log.patched(REPAIRED)
    _assert_in_the_log(spark, log, records)
    reference = accepted_log(records, kinds_of(log.settings))
    typed_views = ["customer_hourly_spend", "enriched_orders", "word_counts"]
    for source, views in (("typed", typed_views), ("raw", ["customer_hourly_spend"])):
        batch.run(log.settings, views=views, source=source)
        for name in views:
            found = rows_of(serving.read(spark, log.settings, VIEWS[name], layer="batch"))
            assert found == by_key(REFERENCE[name](reference, default_until(reference))), (source, name)
    pinned = snapshot(spark, log.settings)
    for kind in ("orders", "products"):
        typed, raw = (
            rows_of(events_of(spark, log.settings, kind, log=pinned, origin=origin))
            for origin in ("typed", "raw")
        )
        assert typed == raw
    for name, rows in untouched.items():
        assert _table(spark, log, name).collect() == rows


def test_a_replay_that_is_broken_off_anywhere_is_finished_by_the_next(
    spark: SparkSession, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    _fix(log, merge_patch('{"status": "completed"}'), "shipped")
    _fix(log, merge_patch('{"price": 10.00}'), "dear")
    records = log.patched({name: REPAIRED[name] for name in ("shipped", "dear")})
    append = dead_letters.append_missing

    def only_orders(events: DataFrame, path: str) -> None:
        if path.endswith(PRODUCT_EVENTS):
            raise KeyboardInterrupt
        append(events, path)

    def nothing(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    for step, crash in (("append_missing", only_orders), ("mark_replayed", nothing)):
        with monkeypatch.context() as broken:
            broken.setattr(dead_letters, step, crash)
            with pytest.raises(KeyboardInterrupt):
                dead_letters.replay(log.settings)
        assert set(_statuses(log).values()) == {"dead", "fixed"}
        # It is among the accepted: to decide otherwise now would make the log and its bytes differ.
        with pytest.raises(RefusedToStart):
            _fix(log, merge_patch('{"status": "pending"}'), "shipped")
        with pytest.raises(RefusedToStart):
            dead_letters.discard(log.settings, [log.address["shipped"]], **WHO)
    assert dead_letters.replay(log.settings).passed == 2
    _assert_in_the_log(spark, log, records)
    versions = [_version(spark, log, name) for name in (ORDER_EVENTS, PRODUCT_EVENTS)]
    assert dead_letters.replay(log.settings).passed == 0
    assert versions == [_version(spark, log, name) for name in (ORDER_EVENTS, PRODUCT_EVENTS)]

    log_made_anew = DeltaTable.forPath(spark, table_path(log.settings.lake.root, ORDER_EVENTS))
    log_made_anew.delete(F.col("order_id").eqNullSafe("shipped") & (F.col("event_type") == "order_created"))
    assert dead_letters.replay(log.settings, [log.address["dear"]]).passed == 1
    assert dead_letters.replay(log.settings, again=True).passed == 2
    _assert_in_the_log(spark, log, records)


def _version(spark: SparkSession, log: Log, name: str) -> int | None:
    return table_version(spark, table_path(log.settings.lake.root, name))


def test_a_patch_is_judged_by_the_first_kafka_timestamp(log: Log) -> None:
    first = BROKEN["future"].timestamp
    for minutes, passed in ((5, 1), (5.01, 0)):
        time = first + timedelta(minutes=minutes)
        patch = merge_patch(json.dumps({"timestamp": time.isoformat()}))
        assert _fix(log, patch, "future", dry_run=True).passed == passed


def test_what_does_not_pass_stays_dead_and_what_is_discarded_stays_listed(log: Log) -> None:
    rejected = _fix(log, bulk_patch(["assume-utc"]), "local and lost", "local")
    assert rejected.still_dead == [(log.address["local and lost"], ["status"])]
    assert rejected == dead_letters.replay(log.settings)
    assert _statuses(log)["local and lost"] == "fixed"
    assert _statuses(log)["local"] == "repaired"
    dead_letters.discard(log.settings, [log.address["local and lost"]], author="bob", reason="lost indeed")
    assert _statuses(log)["local and lost"] == "discarded"
    assert dead_letters.fix(log.settings, bulk_patch(["assume-utc", "lower-case"]), **WHO).rejected == 0
    assert dead_letters.replay(log.settings).passed == 1  # local too, which nobody has discarded
    assert _statuses(log)["local and lost"] == "discarded"
    _fix(log, merge_patch('{"status": null, "timestamp": "2026-01-01T12:00:00Z"}'), "local and lost")
    letter = dead_letters.show(log.settings, log.address["local and lost"])
    assert [(one["status"], one["author"], one["patch_form"]) for one in letter.decisions] == [
        ("fixed", "ann", "bulk:assume-utc"),
        ("discarded", "bob", None),
        ("fixed", "ann", "merge"),
    ]
    assert (letter.value, letter.remaining) == (BROKEN["local and lost"].value, [])


def test_what_cannot_be_decided_is_told(log: Log) -> None:
    topic, partition, _ = log.address["local"]
    _fix(log, bulk_patch(["assume-utc"]), "local")
    dead_letters.replay(log.settings)
    good = next(_address(one) for one in log.records if b'"o1"' in (one.value or b""))
    patch = merge_patch('{"status": "pending"}')
    with pytest.raises(UsageError, match="no dead letter"):
        dead_letters.fix(log.settings, patch, addresses=[good, log.address["left"]], **WHO)
    with pytest.raises(UsageError, match="no dead letter"):
        dead_letters.show(log.settings, (topic, partition, 10**9))
    with pytest.raises(UsageError, match="repaired already"):
        _fix(log, patch, "local")
    with pytest.raises(UsageError, match="repaired already"):
        dead_letters.discard(log.settings, [log.address["local"]], **WHO)
    with pytest.raises(UsageError, match="does not apply"):
        _fix(log, patch, "no json", "left")
    with pytest.raises(UsageError, match="without a patch"):
        dead_letters.replay(log.settings, [log.address["left"]])
    assert _statuses(log) == {name: "repaired" if name == "local" else "dead" for name in BROKEN}


def _run(log: Log, *words: str) -> int:
    topics = log.settings.kafka.topics
    sets = {
        "lake.root": log.settings.lake.root,
        "kafka.topics.orders": topics.orders,
        "kafka.topics.products": topics.products,
        "kafka.topics.text_lines": topics.text_lines,
    }
    settings = [word for key, value in sets.items() for word in ("--set", f"{key}={value}")]
    return cli.main(["dead-letters", *words, "--env", "test", *settings])


def _run(log: Log, *words: str) -> int:
    topics = log.settings.kafka.topics
    values = {
        "lake.root": log.settings.lake.root,
        "kafka.topics.orders": topics.orders,
        "kafka.topics.products": topics.products,
        "kafka.topics.text_lines": topics.text_lines,
    }
    sets = [word for key, value in values.items() for word in ("--set", f"{key}={value}")]
    return cli.main(["dead-letters", *words, "--env", "test", *sets])


def test_from_the_list_to_the_replay_by_commands(
    log: Log, tmp_path: Path, capsysbinary: pytest.CaptureFixture[bytes]
) -> None:
    assert _run(log, "list", "--format", "json") == 0
    listed = capsysbinary.readouterr().out
    assert b"c9" not in listed  # the customer of every broken order
    example = next(
        found["example"]
        for found in map(json.loads, listed.splitlines())
        if (found["topic"], found["violation"]) == (log.settings.kafka.topics.products, "price")
    )
    assert _run(log, "show", example, "--raw") == 0
    value = capsysbinary.readouterr().out
    assert value == BROKEN["dear"].value
    edited = tmp_path / "edited.json"
    edited.write_bytes(value.replace(b"-10.00", b"10.00"))
    assert (
        _run(log, "fix", example, "--value-file", str(edited), "--author", "ann", "--reason", "a typo") == 0
    )
    left = ":".join(map(str, log.address["left"]))
    assert _run(log, "fix", left, "--patch", '{"event_type": "sold"}', "--reason", "a try") == 1
    capsysbinary.readouterr()
    assert _run(log, "replay", "--format", "json") == 1
    told = json.loads(capsysbinary.readouterr().out)
    assert (told["passed"], told["still_dead"]) == (1, [{"address": left, "violations": ["event_type"]}])
    assert _run(log, "show", example) == 0
    shown = capsysbinary.readouterr().out.decode()
    assert f"{example}  repaired" in shown
    assert "by ann: a typo" in shown
    assert "under its patch, which passes:" in shown
    assert _run(log, "discard", left, "--reason", "nobody knows") == 0
    assert _run(log, "list", "--each", "--status", "discarded") == 0
    assert "nobody knows" in capsysbinary.readouterr().out.decode()
