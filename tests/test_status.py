"""What `pipeline status` says of a real lake and a real broker, against plain Python and the files themselves; no JVM answers it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from confluent_kafka.admin import AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource, ResourceType
from deltalake import write_deltalake
from pyspark.sql import SparkSession

from lake import Sent, at, fresh, kinds_of, line, on_kafka, order, product, send, topics_of
from pipeline import batch, cli, ingest, speed, status, stopping
from pipeline.observe import observed
from pipeline.settings import Settings
from pipeline.tables import REPAIRS, checkpoint_path, table_path
from pipeline.views import VIEWS
from reference import Record, audit_counts, read_records
from story import Story

pytestmark = pytest.mark.kafka

SPEND, ENRICHED, OUTCOMES = VIEWS["customer_hourly_spend"], VIEWS["enriched_orders"], VIEWS["order_outcomes"]
TEN_YEARS_SECONDS = 10 * 365 * 86_400
FIRST = [
    product("p1", time=at(-5)),
    order("o1", time=at(0), items=[line("p1")]),
    order("o1", time=at(0), items=[line("p1")], partition=1),
    order("o2", time=at(20), customer_id="c2"),
    order("o3", time=at(30), items=[line("p1")]),
    order("dead", time=at(10), total="much"),
    Sent(None, partition=1),
    Sent(b"to be or not to be", kind="text-lines"),
]
SECOND = [order("late", time=at(1)), order("o4", time=at(45))]

Said = dict[str, Any]
Ask = Callable[..., dict[str, Said]]


@dataclass(frozen=True)
class Played:
    """A lake in which two views have run twice and one of them has a batch form, and what Kafka held of it then."""

    settings: Settings
    records: list[Record]

    def copy(self, to: Path) -> Settings:
        shutil.copytree(self.settings.lake.root, to)
        return replace(self.settings, lake=replace(self.settings.lake, root=str(to)))


@pytest.fixture(scope="module")
def played(
    spark: SparkSession, base_settings: Settings, bootstrap: str, tmp_path_factory: pytest.TempPathFactory
) -> Played:
    here = on_kafka(fresh(base_settings, bootstrap, tmp_path_factory.mktemp("status") / "lake"))
    keep(here, here.kafka.topics.orders, TEN_YEARS_SECONDS)
    for piece in (FIRST, SECOND):
        send(here, piece)
        ingest.run(here, once=True)
        speed.run(here, views=[SPEND.name, ENRICHED.name], once=True)
    batch.run(here, views=[SPEND.name], until=at(60))
    return Played(here, read_records(bootstrap, list(topics_of(here).values())))


def keep(here: Settings, topic: str, seconds: int) -> None:
    entry = ConfigEntry("retention.ms", str(seconds * 1000), incremental_operation=AlterConfigOpType.SET)
    resource = ConfigResource(ResourceType.TOPIC, topic, incremental_configs=[entry])
    admin = AdminClient({"bootstrap.servers": here.kafka.bootstrap_servers})
    (done,) = admin.incremental_alter_configs([resource]).values()
    done.result()


def words(here: Settings) -> list[str]:
    topics = here.kafka.topics
    changed = {
        "lake.root": here.lake.root,
        "speed.source": here.speed.source,
        "kafka.bootstrap_servers": here.kafka.bootstrap_servers,
        "kafka.topics.orders": topics.orders,
        "kafka.topics.products": topics.products,
        "kafka.topics.text_lines": topics.text_lines,
    }
    return ["status", "--env", "test", *(f"--set={key}={value}" for key, value in changed.items())]


@pytest.fixture
def ask(capsys: pytest.CaptureFixture[str]) -> Ask:
    """Asks for the status as JSON: what is said of each thing, by its name."""

    def asking(here: Settings) -> dict[str, Said]:
        capsys.readouterr()
        assert cli.main([*words(here), "--format", "json"]) == 0
        captured = capsys.readouterr()
        assert captured.err == ""
        return by_name(captured.out.splitlines())

    return asking


def by_name(lines: list[str]) -> dict[str, Said]:
    told = [json.loads(line) for line in lines]
    return {f"{one['status']} {one[one['status']]}": one for one in told}


def text(here: Settings, capsys: pytest.CaptureFixture[str]) -> str:
    capsys.readouterr()
    assert cli.main(words(here)) == 0
    return capsys.readouterr().out


def commits(here: Settings, query: str) -> Path:
    return Path(checkpoint_path(here.lake.root, query)) / "commits"


def numbers(folder: Path) -> list[int]:
    return sorted(int(file.name) for file in folder.iterdir() if file.name.isdigit())


def written_at(file: Path) -> datetime:
    """To the millisecond, as status says it."""
    milliseconds = file.stat().st_mtime_ns // 1_000_000
    return datetime.fromtimestamp(0, timezone.utc) + timedelta(milliseconds=milliseconds)


def instant(said: str | None) -> datetime | None:
    return None if said is None else datetime.fromisoformat(said.replace("Z", "+00:00"))


def test_records_and_tables_are_what_plain_python_counts(played: Played, ask: Ask) -> None:
    said = ask(played.settings)
    counts = audit_counts(played.records, kinds_of(played.settings))
    for topic in topics_of(played.settings).values():
        mine = [one for (name, _), one in counts.items() if name == topic]
        topic_said = said[f"topic {topic}"]
        for fate in ("accepted", "dead", "tombstones", "duplicates"):
            assert topic_said[fate] == sum(getattr(one, fate) for one in mine), (topic, fate)
        assert topic_said["dead_open"] == topic_said["dead"]
    assert said[f"topic {played.settings.kafka.topics.orders}"]["retention_ms"] == TEN_YEARS_SECONDS * 1000
    assert said[f"topic {played.settings.kafka.topics.products}"]["retention_ms"] == -1
    raw = said["table raw_events"]
    assert (raw["rows"], raw["path"]) == (
        len(played.records),
        table_path(played.settings.lake.root, "raw_events"),
    )
    parquet = Path(raw["path"]).glob("*.parquet")
    assert raw["bytes"] == sum(file.stat().st_size for file in parquet)
    assert said["table customer_hourly_spend.batch"]["rows"] == 2
    assert "table repairs" not in said


def test_a_query_is_told_by_its_files(played: Played, ask: Ask) -> None:
    said = ask(played.settings)
    folder = commits(played.settings, ingest.QUERY)
    (first, newest), offsets = numbers(folder), folder.parent / "offsets"
    ingested = said[f"query {ingest.QUERY}"]
    assert (ingested["batch_id"], ingested["batch_records"], ingested["batch_rows"]) == (newest, 2, 2)
    assert instant(ingested["batch_ended_at"]) == written_at(folder / str(newest))
    seconds = (written_at(folder / str(newest)) - written_at(offsets / str(first))).total_seconds()
    assert ingested["records_per_second"] == pytest.approx(len(played.records) / seconds)
    assert ingested["rows_per_second"] == pytest.approx(len(played.records) / seconds)
    assert (ingested["is_running"], ingested["begun_batch_id"], ingested["state_bytes"]) == (
        False,
        None,
        None,
    )
    spend = said[f"query {SPEND.query}"]
    assert spend["batch_id"] == numbers(commits(played.settings, SPEND.query))[-1]
    state = commits(played.settings, SPEND.query).parent / "state"
    assert spend["state_bytes"] == sum(file.stat().st_size for file in state.rglob("*") if file.is_file())
    assert spend["state_rows"] is None
    outcomes = said[f"query {OUTCOMES.query}"]
    assert (outcomes["batch_id"], outcomes["watermark"], outcomes["state_bytes"]) == (None, None, 0)


def test_watermarks_lateness_and_horizon(
    played: Played, ask: Ask, capsys: pytest.CaptureFixture[str]
) -> None:
    said = ask(played.settings)
    spend, enriched = said[f"query {SPEND.query}"], said[f"query {ENRICHED.query}"]
    assert instant(spend["watermark"]) == at(45 - 10)
    assert instant(spend["newest_event"]) == at(45)
    assert (spend["watermark_behind_seconds"], spend["waits_for"]) == (600, None)
    assert (spend["late_events"], spend["late_not_healed"]) == (1, 0)
    assert instant(enriched["watermark"]) == at(-5 - 10)
    assert enriched["watermark_behind_seconds"] == 60 * 60
    assert enriched["late_events"] == 0
    waits_for = enriched["waits_for"]
    assert (waits_for["topic"], waits_for["event_type"]) == (played.settings.kafka.topics.products, None)
    assert instant(waits_for["newest_event"]) == at(-5)
    silent = datetime.now(timezone.utc) - FIRST[0].timestamp
    assert waits_for["silent_seconds"] == pytest.approx(silent.total_seconds(), abs=30)
    view = said["view customer_hourly_spend"]
    assert (instant(view["horizon"]), view["rows"]) == (at(60), 2)
    assert 0 < view["age_seconds"] < 600
    assert said["view enriched_orders"]["published_at"] is None
    seen = observed(None, played.settings.lake.root, SPEND.query)
    assert seen is not None
    assert (seen.records_behind, seen.state_rows) == (0, None)
    assert seen.batch_id == numbers(commits(played.settings, SPEND.query))[-1]
    assert seen.state_memory_bytes > 0
    waiting = next(line for line in text(played.settings, capsys).splitlines() if "waits for" in line)
    topic = played.settings.kafka.topics.products
    assert waiting.startswith(f"· enriched_orders waits for {topic}, which has sent nothing for ")
    assert "its watermark stands at 2026-01-01T11:45:00Z" in waiting


def test_what_is_sent_after_is_lag(spark: SparkSession, played: Played, ask: Ask, tmp_path: Path) -> None:
    here = played.copy(tmp_path / "behind")
    long_ago = datetime.now(timezone.utc) - timedelta(days=365)
    before = ask(here)
    send(here, [replace(order("n1", time=at(50)), timestamp=long_ago), order("n2", time=at(51), partition=1)])
    send(here, [Sent(b"more", kind="text-lines")])
    after = ask(here)
    grown = {
        name: one["lag_records"] - before[name]["lag_records"]
        for name, one in after.items()
        if name.startswith("query")
    }
    assert grown == {
        "query ingest_v1": 3,
        "query customer_hourly_spend_v1": 2,
        "query enriched_orders_v1": 2,
        "query order_outcomes_v1": 2,
        "query customer_totals_v2": 2,
        "query word_counts_v1": 1,
    }
    assert [before[f"query {query}"]["lag_records"] for query in (ingest.QUERY, SPEND.query)] == [0, 0]
    assert before[f"query {SPEND.query}"]["lag_seconds"] == 0
    spend = after[f"query {SPEND.query}"]
    assert spend["lag_seconds"] == pytest.approx(365 * 86_400, abs=60)
    assert spend["retention_seconds"] == TEN_YEARS_SECONDS
    blocked = commits(here, ingest.QUERY).parent / "pipeline" / "progress.json"
    blocked.unlink()
    (blocked / "in the way").mkdir(parents=True)
    ingest.run(here, once=True)  # that nothing can be noted is nothing to the stream
    caught_up = ask(here)
    assert caught_up[f"query {ingest.QUERY}"]["lag_records"] == 0
    assert caught_up["table raw_events"]["rows"] == len(played.records) + 3
    assert instant(caught_up[f"query {SPEND.query}"]["newest_event"]) == at(51)


def test_of_a_query_that_reads_the_log_the_lag_is_rows(played: Played, ask: Ask) -> None:
    here = replace(played.settings, speed=replace(played.settings.speed, source="log"))
    said = ask(here)
    assert said[f"query {OUTCOMES.query}"]["lag_records"] == said["table order_events"]["rows"] == 6
    assert said[f"query {OUTCOMES.query}"]["lag_seconds"] > 0


def test_without_kafka_the_rest_is_told(played: Played, ask: Ask, capsys: pytest.CaptureFixture[str]) -> None:
    here = replace(played.settings, kafka=replace(played.settings.kafka, bootstrap_servers="localhost:1"))
    said = ask(here)
    assert "localhost:1" in said[f"lake {here.lake.root}"]["kafka_silence"]
    spend = said[f"query {SPEND.query}"]
    assert (spend["lag_records"], spend["lag_seconds"]) == (0, None)
    ended_at = instant(spend["batch_ended_at"])
    assert ended_at is not None
    assert instant(spend["lag_at"]) < ended_at  # type: ignore[operator]
    assert instant(spend["watermark"]) == at(35)
    assert said[f"query {OUTCOMES.query}"]["lag_records"] is None
    orders = said[f"topic {here.kafka.topics.orders}"]
    assert (orders["kafka_records"], orders["accepted"]) == (None, 6)
    assert "Kafka localhost:1 is silent" in text(here, capsys)


def test_running_is_who_holds_the_lock(
    spark: SparkSession, played: Played, ask: Ask, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    here = played.copy(tmp_path / "running")
    newest = numbers(commits(here, SPEND.query))[-1]
    for file in commits(here, SPEND.query).glob(f"*{newest}*"):
        file.unlink()
    cut = ask(here)[f"query {SPEND.query}"]
    assert (cut["is_running"], cut["batch_id"], cut["begun_batch_id"]) == (False, newest - 1, newest)
    assert f"· customer_hourly_spend: batch {newest} was cut short" in text(here, capsys)
    stopping.hold(spark, here.lake.root, SPEND.query)
    try:
        running = ask(here)
        assert [name for name, one in running.items() if one.get("is_running")] == [f"query {SPEND.query}"]
        assert not running[f"query {SPEND.query}"]["is_asked_to_stop"]
        assert "was cut short" not in text(here, capsys)
        stopping.stop_queries(here.lake.root, [SPEND.query], timeout_seconds=0.1)
        assert ask(here)[f"query {SPEND.query}"]["is_asked_to_stop"]
    finally:
        stopping.let_go(spark, here.lake.root, SPEND.query)
    assert not ask(here)[f"query {SPEND.query}"]["is_running"]


def test_by_spark_it_is_the_same(
    spark: SparkSession, played: Played, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As of a lake that is not on this machine's file system."""
    by_files = status.look(played.settings)
    monkeypatch.setattr(status, "_session_if_needed", lambda _: spark)
    by_spark = status.look(played.settings)
    assert by_spark.topics == by_files.topics
    assert by_spark.tables == by_files.tables
    facts = (
        "batch_id",
        "batch_records",
        "batch_rows",
        "watermark",
        "newest_event",
        "lag_records",
        "late_events",
    )
    for one, other in zip(by_spark.queries, by_files.queries, strict=True):
        assert [getattr(one, name) for name in facts] == [getattr(other, name) for name in facts]
    assert [(one.horizon, one.rows) for one in by_spark.views] == [
        (one.horizon, one.rows) for one in by_files.views
    ]


def test_a_repaired_letter_is_not_open_and_no_duplicate(story: Story, ask: Ask) -> None:
    """The story's repaired order has the identity of no other; of its two dead orders one is repaired."""
    orders = ask(story.settings)[f"topic {story.settings.kafka.topics.orders}"]
    assert (orders["dead"], orders["dead_open"]) == (2, 1)
    counts = audit_counts(
        read_records(story.settings.kafka.bootstrap_servers, [orders["topic"]]), kinds_of(story.settings)
    )
    later = orders["kafka_records"] - sum(one.delivered for one in counts.values())
    assert later == 2  # the aborted order and its mark
    assert orders["duplicates"] == sum(one.duplicates for one in counts.values())


def test_a_decision_on_a_letter_that_is_not_in_the_log_does_not_count(
    story: Story, ask: Ask, tmp_path: Path
) -> None:
    """As while a log is ingested anew: what was decided on the one before is there already, its letters are not yet."""
    here = story.copy(tmp_path / "lake")
    repairs = pa.Table.from_pylist(
        [
            {"topic": here.kafka.topics.orders, "partition": 0, "offset": offset, "status": "repaired"}
            for offset in (1001, 1002, 1003)
        ],
        pa.schema(
            [
                ("topic", pa.string()),
                ("partition", pa.int32()),
                ("offset", pa.int64()),
                ("status", pa.string()),
            ]
        ),
    )
    write_deltalake(table_path(here.lake.root, REPAIRS), repairs, mode="append", schema_mode="merge")
    orders = ask(here)[f"topic {here.kafka.topics.orders}"]
    assert (orders["dead"], orders["dead_open"]) == (2, 1)


def test_a_damaged_checkpoint_is_told_and_costs_only_its_own_numbers(
    played: Played, ask: Ask, tmp_path: Path
) -> None:
    here = played.copy(tmp_path / "damaged")
    offsets = commits(here, SPEND.query).parent / "offsets"
    (offsets / str(numbers(offsets)[-1])).write_text("")
    said = ask(here)
    assert "is damaged" in said[f"query {SPEND.query}"]["problem"]
    assert said[f"query {ENRICHED.query}"]["problem"] is None
    assert said[f"query {ENRICHED.query}"]["batch_id"] is not None


@pytest.mark.parametrize("is_there", [False, True])
def test_no_lake_is_an_error_with_a_way_out(
    is_there: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "nowhere"
    if is_there:
        (root / "something else").mkdir(parents=True)
    assert cli.main(["status", "--format", "json", "--set", f"lake.root={root}"]) == 3
    captured = capsys.readouterr()
    assert captured.out == ""
    assert str(root) in captured.err
    assert "lake.root" in captured.err


def test_watching_refreshes_until_it_is_interrupted_and_needs_no_java(played: Played, tmp_path: Path) -> None:
    environ = {**os.environ, "PATH": str(tmp_path), "JAVA_HOME": str(tmp_path), "PYTHONUNBUFFERED": "1"}
    watching = subprocess.Popen(
        [sys.executable, "-m", "pipeline", *words(played.settings), "--watch", "0.2", "--format", "json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environ,
    )
    try:
        assert watching.stdout is not None
        seen: list[Said] = []
        while sum(one["status"] == "lake" for one in seen) < 3:
            seen.append(json.loads(watching.stdout.readline()))
        watching.send_signal(signal.SIGINT)
        _, errors = watching.communicate(timeout=60)
    finally:
        watching.kill()
    assert (watching.returncode, errors) == (0, "")
    times = sorted({one["at"] for one in seen})
    assert len(times) == 3
    rounds = [[one for one in seen if one["at"] == time] for time in times]
    assert len(rounds[0]) == len(rounds[1])
    assert sum(one["status"] == "query" for one in rounds[0]) == 1 + len(VIEWS)


def test_the_text_fits_a_small_terminal(played: Played, capsys: pytest.CaptureFixture[str]) -> None:
    told = text(played.settings, capsys).splitlines()
    tables = [line for line in told[2:] if not line.startswith(("·", "!"))]
    assert max(map(len, tables)) <= 80
    assert "\x1b" not in "".join(told)
