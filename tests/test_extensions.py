"""Kinds of events and views from a module of somebody's own: through every command, and told apart from what does not fit."""

from __future__ import annotations

import json
import runpy
import shlex
import sys
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from decimal import Decimal
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from pyspark.sql import SparkSession
from pyspark.sql import types as T

from lake import fresh, order, rows_of, send
from pipeline import catalog, cli, ingest
from pipeline.contracts import RAW_EVENTS
from pipeline.devservices import kafka
from pipeline.errors import ConfigurationError, PlanChanged
from pipeline.failpoints import watched
from pipeline.kinds import Field, Kind, amount, choice, identifier
from pipeline.settings import Settings
from pipeline.sources import kind_of_topic
from pipeline.streaming import QueryFailed
from pipeline.tables import table_path
from pipeline.transforms.decode import accepted_events, classify
from pipeline.views import VIEWS, start_of_hour

pytestmark = pytest.mark.kafka

EXAMPLE = Path(__file__).parents[1] / "examples" / "payments"
DOCUMENT = EXAMPLE.parents[1] / "docs" / "bring-your-own-topic.md"
VIEW = "hourly_takings"
METHODS = ("card", "transfer", "cash")


@pytest.fixture
def extended(
    spark: SparkSession,
    base_settings: Settings,
    bootstrap: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Settings:
    """A lake that had no extension when it ingested its first order, and has one now; its payments are sent."""
    monkeypatch.syspath_prepend(str(EXAMPLE))
    plain = fresh(base_settings, bootstrap, tmp_path / "lake")
    send(plain, [order()])
    ingest.run(plain, once=True)
    topic = f"payments-{plain.kafka.topics.orders}"
    kafka.create_topics(bootstrap, {topic: 1})
    runpy.run_path(str(EXAMPLE / "send.py"))["main"](bootstrap, topic)
    return replace(
        plain,
        extensions="payments",
        kafka=replace(plain.kafka, extension_topics={"payments": topic}),
        ingest=replace(plain.ingest, max_offsets_per_trigger=300),
        speed=replace(plain.speed, max_offsets_per_trigger=100),
    )


def expected(methods: Sequence[str] = METHODS) -> dict[tuple[str, datetime], tuple[Decimal, int]]:
    """By region and hour the takings of the payments by these methods, each once, and how many they are."""
    sums: dict[tuple[str, datetime], list[Decimal]] = defaultdict(list)
    seen = set()
    for payment in runpy.run_path(str(EXAMPLE / "send.py"))["payments"]():
        if payment["method"] in methods and payment["payment_id"] not in seen:
            seen.add(payment["payment_id"])
            time = datetime.fromisoformat(payment["timestamp"])
            sums[payment["region"], start_of_hour(time)].append(Decimal(payment["amount"]))
    return {key: (sum(amounts, Decimal(0)), len(amounts)) for key, amounts in sums.items()}


def documented() -> list[list[str]]:
    """The commands that the document tells to run, from ingest on; and it shows the example as it is."""
    text = DOCUMENT.read_text(encoding="utf-8")
    assert (EXAMPLE / "payments.py").read_text(encoding="utf-8") in text
    assert (EXAMPLE / "payments.yml").read_text(encoding="utf-8") in text
    lines = (shlex.split(line, comments=True) for line in text.splitlines() if line.startswith("pipeline "))
    return [words[1:] for words in lines if words[1] != "up"]


class Terminal:
    """Runs commands on one lake, in this process."""

    def __init__(self, settings: Settings, capsys: pytest.CaptureFixture[str]) -> None:
        kafka_settings, topics = settings.kafka, settings.kafka.topics
        pairs = {
            "extensions": settings.extensions,
            "kafka.bootstrap_servers": kafka_settings.bootstrap_servers,
            "kafka.topics.orders": topics.orders,
            "kafka.topics.products": topics.products,
            "kafka.topics.text_lines": topics.text_lines,
            "kafka.topics.word_counts_output": topics.word_counts_output,
            "kafka.extension_topics": json.dumps(dict(kafka_settings.extension_topics)),
            "lake.root": settings.lake.root,
            "ingest.max_offsets_per_trigger": settings.ingest.max_offsets_per_trigger,
            "speed.max_offsets_per_trigger": settings.speed.max_offsets_per_trigger,
        }
        self._options = ["--env", "test", *(f"--set={key}={value}" for key, value in pairs.items())]
        self._capsys = capsys

    def __call__(self, *words: str, code: int = 0) -> str:
        self._capsys.readouterr()
        assert cli.main([*words, *self._options]) == code, self._capsys.readouterr().err
        return self._capsys.readouterr().out

    def rows(self, *words: str) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self(*words, "--format", "json").splitlines()]


def test_the_example_goes_through_every_command(
    extended: Settings, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    run = Terminal(extended, capsys)

    def takings(layer: str) -> dict[tuple[str, datetime], tuple[Decimal, int]]:
        return {
            (row["region"], datetime.fromisoformat(row["window_start"])): (
                Decimal(row["takings"]),
                row["payment_count"],
            )
            for row in run.rows("query", VIEW, "--layer", layer)
        }

    commands = documented()
    assert [words[0] for words in commands[:3]] == ["ingest", "speed", "batch"]
    run(*commands[0])
    run(*commands[1])
    everything = expected()
    late = run.rows("late", VIEW)
    assert (
        sum(count for _, count in everything.values()) - sum(count for _, count in takings("speed").values())
        == int(late[0]["events"])
        > 5
    )

    newest = max(start for _, start in everything)
    until = (newest + timedelta(hours=1)).isoformat()
    for words in commands[2:]:
        run(*words)
    run("batch", VIEW, "--until", until)
    assert takings("batch") == everything
    (healed,) = run.rows("late", VIEW)
    assert (healed["events"], healed["not_healed"]) == (late[0]["events"], 0)
    served = run.rows("query", VIEW)
    assert all(row["is_final"] for row in served)
    assert len(served) == len(everything)

    audited = run.rows("audit")
    (account,) = (
        row for row in audited if row.get("topic", "").startswith("payments") and "delivered" in row
    )
    assert (account["delivered"], account["dead"], account["duplicates"]) == (2040, 13, 40)
    (agreement,) = run.rows("reconcile", VIEW)
    assert agreement["unexplained"] == 0
    assert agreement["late"] > 0

    cheques = run.rows("dead-letters", "list", "--each", "--violation", "method")
    addresses = [f"{row['topic']}:{row['partition']}:{row['offset']}" for row in cheques]
    run(
        "dead-letters", "fix", *addresses, "--patch", '{"method": "transfer"}',
        "--reason", "a cheque is booked as a transfer",
    )  # fmt: skip
    run("dead-letters", "replay")
    run("batch", VIEW, "--until", until)
    assert takings("batch") == expected((*METHODS, "cheque"))
    run("batch", VIEW, "--until", until, "--from", "raw")
    assert takings("batch") == expected((*METHODS, "cheque"))
    run("audit")
    (agreement,) = run.rows("reconcile", VIEW)
    assert (agreement["unexplained"], agreement["repaired"] > 0) == (0, True)

    expectations = tmp_path / "quality.yml"
    expectations.write_text(
        "payment_events: {if_missing: fail, expectations: {contract: {expect: contract, otherwise: fail}}}\n"
    )
    judged = run.rows("quality", f"--set=quality.expectations={expectations}")
    assert {"contract: method in_set", "contract: amount in_range"} <= {row["expectation"] for row in judged}
    assert {row["outcome"] for row in judged} == {"passed"}
    told = run("status", "--format", "json")
    assert VIEW in told
    assert account["topic"] in told
    assert VIEW in Path(run("report", "--output", str(tmp_path / "report.html")).strip()).read_text()


def test_a_crash_in_the_first_batch_with_a_new_topic_is_gone_on_after(
    spark: SparkSession, extended: Settings
) -> None:
    def trap(place: str) -> None:
        if place == "ingest: all appended":
            raise LookupError(place)

    with watched(trap), pytest.raises(QueryFailed):
        ingest.run(extended, once=True)
    ingest.run(extended, once=True)
    payments = spark.read.format("delta").load(table_path(extended.lake.root, "payment_events"))
    addresses = rows_of(payments.select("topic", "partition", "offset"))
    assert len(addresses) == payments.distinct().count() > 2000


def test_a_topic_that_is_read_no_more_is_refused(extended: Settings) -> None:
    ingest.run(extended, once=True)
    without = replace(extended, extensions=None, kafka=replace(extended.kafka, extension_topics={}))
    with pytest.raises(PlanChanged):
        ingest.run(without, once=True)


PAYMENT = Kind("payments", table="payment_events", key="id", fields=(identifier("id"), amount("amount")))
SPEND = VIEWS["customer_hourly_spend"]


def module_of(kinds: Sequence[object] = (), views: Sequence[object] = ()) -> ModuleType:
    module = ModuleType("an_extension")
    module.__dict__.update(KINDS=kinds, VIEWS=views)
    return module


@pytest.mark.parametrize(
    ("module", "told"),
    [
        (module_of(), "neither KINDS nor VIEWS"),
        (module_of(["payments"]), "pipeline.kinds.Kind"),
        (module_of([replace(PAYMENT, fields=())]), "needs fields"),
        (module_of([replace(PAYMENT, name="orders")]), "'orders' already"),
        (module_of([replace(PAYMENT, table="raw_events")]), "'raw_events'"),
        (module_of([replace(PAYMENT, table="../raw")]), "'../raw'"),
        (module_of([PAYMENT, replace(PAYMENT, name="more")]), "'payment_events'"),
        (module_of([], [SPEND]), "'customer_hourly_spend'"),
        (module_of([], [replace(SPEND, name="mine", inputs=("payments",))]), "came ['payments']"),
        (module_of([PAYMENT], [replace(SPEND, name="mine", inputs=("payments",))]), "reads"),
        (module_of([], [replace(SPEND, name="mine", keys=("region",))]), "lacks region"),
        (module_of([], [replace(SPEND, name="mine", settles_by=None)]), "settles_by"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(
    base_settings: Settings, monkeypatch: pytest.MonkeyPatch, module: ModuleType, told: str
) -> None:
    name = f"an_extension_{id(module)}"
    monkeypatch.setitem(sys.modules, name, module)
    with pytest.raises(ConfigurationError) as caught:
        catalog.catalog(replace(base_settings, extensions=name))
    assert told in caught.value.message
    assert caught.value.key == "extensions"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("raise ValueError('no such region')", "no such region"),
        ("import no_such_module_of_ours", "no_such_module_of_ours"),
        (None, "cannot be found"),
    ],
)
def test_a_module_that_cannot_be_loaded_is_named(
    base_settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str | None, told: str
) -> None:
    name = f"broken_{tmp_path.name}"
    if text is not None:
        (tmp_path / f"{name}.py").write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ConfigurationError) as caught:
        catalog.catalog(replace(base_settings, extensions=name))
    assert name in caught.value.message
    assert told in caught.value.message


@pytest.mark.parametrize(
    "make",
    [
        lambda: Field("Amount", "amount"),
        lambda: Field("offset", "amount"),
        lambda: choice("method"),
        lambda: Field("region", "identifier", ("north",)),
        lambda: Kind("Payments", table="t", key="id", fields=(identifier("id"),)),
        lambda: Kind("topic", table="t", key="id", fields=(identifier("id"),)),
        lambda: Kind("payments", table="t", key="other", fields=(identifier("id"),)),
        lambda: Kind("payments", table="t", key="id", fields=(identifier("id", required=False),)),
        lambda: Kind("payments", table="t", key="id", fields=(identifier("id"), amount("id"))),
    ],
)
def test_a_kind_that_makes_no_sense_is_no_kind(make: Any) -> None:
    with pytest.raises(ValueError, match=r"name|values|key"):
        make()


def test_each_kind_has_a_topic_of_its_own(base_settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "an_extension", module_of([PAYMENT]))

    def topics(**extension_topics: str) -> dict[str, str]:
        changed = replace(base_settings.kafka, extension_topics=extension_topics)
        return dict(kind_of_topic(replace(base_settings, extensions="an_extension", kafka=changed)))

    assert topics()["payments"] == "payments"
    assert topics(payments="takings")["takings"] == "payments"
    for wrong in ({"payments": "orders"}, {"payment": "takings"}, {"payments": "word-counts-output"}):
        with pytest.raises(ConfigurationError):
            topics(**wrong)


def test_an_optional_field_may_be_absent_and_a_wrong_one_is_named(spark: SparkSession) -> None:
    kind = Kind(
        "payments",
        table="payment_events",
        key="id",
        fields=(identifier("id"), amount("tip", required=False), choice("method", "card", required=False)),
    )
    time, now = '"timestamp":"2026-03-02T08:00:00Z"', datetime(2026, 3, 2, 8, 1, tzinfo=timezone.utc)
    values = {
        '{"id":"a",%s}': (),
        '{"id":"b","tip":1.50,"method":"card",%s}': (),
        '{"id":"c","tip":null,%s}': (),
        '{"id":"d","tip":-1,"method":"cash",%s}': ("tip", "method"),
        '{"id":"","tip":0.001}': ("id", "tip", "timestamp"),
        '{"id":"e","items":7,"tip":"1e1",%s}': (),
        "[]": ("not_json",),
    }
    rows = [
        ("payments", 0, offset, now, None, (value.replace("%s", time)).encode(), [], "payments")
        for offset, value in enumerate(values)
    ]
    schema = T.StructType([*RAW_EVENTS.fields, T.StructField("kind", T.StringType())])
    classified = classify(spark.createDataFrame(rows, schema), [kind]).orderBy("offset")
    assert [tuple(row.violations) for row in classified.collect()] == [*values.values()]
    events = accepted_events(classified, kind).orderBy("offset")
    assert events.schema.simpleString() == kind.schema.simpleString()
    found = [(row.id, row.tip, row.method) for row in events.collect()]
    assert found == [
        ("a", None, None),
        ("b", Decimal("1.50"), "card"),
        ("c", None, None),
        ("e", Decimal("10.00"), None),
    ]
