"""What is measured of micro-batches: in the table, for Prometheus, in the page that names it all, and never in the way."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import urllib.request
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from pyspark.sql import SparkSession

from lake import fresh, order, send
from pipeline import checkpoints, exporter, ingest, observe, speed
from pipeline.errors import UsageError
from pipeline.settings import Settings
from pipeline.tables import BATCH_METRICS, checkpoint_path, table_path
from pipeline.views import VIEWS

PAGE = Path(__file__).parents[1] / "docs" / "metrics.md"
SPEND = VIEWS["customer_hourly_spend"]


def kept(settings: Settings) -> Settings:
    """In small batches, with a history."""
    return replace(
        settings,
        metrics=replace(settings.metrics, history="kept"),
        ingest=replace(settings.ingest, max_offsets_per_trigger=6),
    )


@pytest.mark.kafka
def test_each_micro_batch_has_its_row_once(spark: SparkSession, settings: Settings) -> None:
    here = kept(settings)
    send(here, [order(f"o{number}") for number in range(14)])
    ingest.run(here, once=True)
    speed.run(here, views=[SPEND.name], once=True)
    send(here, [order("one more")])
    ingest.run(here, once=True)
    rows = spark.read.format("delta").load(table_path(here.lake.root, BATCH_METRICS)).collect()
    by_batch = {(row.query, row.batch_id): row for row in rows}
    assert len(by_batch) == len(rows)
    of_ingest = [row for row in rows if row.query == ingest.QUERY]
    assert sorted(row.batch_id for row in of_ingest) == [0, 1, 2, 3]
    assert [by_batch[ingest.QUERY, number].records_read for number in range(4)] == [6, 6, 2, 1]
    assert [by_batch[ingest.QUERY, number].records_behind for number in range(4)] == [8, 2, 0, 0]
    generation = checkpoints.generation(spark, checkpoint_path(here.lake.root, ingest.QUERY))
    assert {row.generation for row in of_ingest} == {generation}
    assert all(row.duration_ms >= row.writing_ms > 0 for row in rows)
    of_view = [row for row in rows if row.query == SPEND.query]
    assert sum(row.records_read for row in of_view) == 14
    assert max(row.watermark for row in of_view if row.watermark).minute == 50


@pytest.mark.kafka
def test_prometheus_is_told_of_the_same(spark: SparkSession, settings: Settings) -> None:
    here = replace(kept(settings), metrics=replace(settings.metrics, port=0))
    port = 0

    def note(text: str) -> None:
        nonlocal port
        if found := re.search(r"127\.0\.0\.1:(\d+)/metrics", text):
            port = int(found[1])

    send(here, [*(order(f"o{number}") for number in range(7)), order("bad", total="much")])
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("pipeline.lag.note", note)
        ingest.run(here, once=True)
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        lines = [line for line in answer.read().decode().splitlines() if not line.startswith("#")]
    told = {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines}
    assert told['pipeline_records_read_total{query="ingest_v1"}'] == 8
    assert told['pipeline_batches_total{query="ingest_v1"}'] == 2
    assert told['pipeline_batch_id{query="ingest_v1"}'] == 1
    assert told['pipeline_records_behind{query="ingest_v1"}'] == 0
    assert told['pipeline_batch_duration_seconds{query="ingest_v1"}'] > 0
    topic = here.kafka.topics.orders
    fates = Counter(
        {
            fate: told[f'pipeline_ingested_records_total{{fate="{fate}",topic="{topic}"}}']
            for fate in ("accepted", "dead")
        }
    )
    assert fates == {"accepted": 7, "dead": 1}
    with pytest.raises(UsageError, match=str(port)):
        exporter.start("127.0.0.1", port)


@pytest.mark.kafka
def test_what_cannot_be_kept_is_in_nobodys_way(
    spark: SparkSession,
    base_settings: Settings,
    bootstrap: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    here = kept(fresh(base_settings, bootstrap, tmp_path / "lake"))
    send(here, [order("o1")])
    monkeypatch.setattr(observe, "_append", lambda *_: 1 / 0)
    monkeypatch.setattr(exporter, "observe", lambda _: 1 / 0)
    ingest.run(here, once=True)
    assert checkpoints.last_committed_batch(spark, checkpoint_path(here.lake.root, ingest.QUERY)) == 0


def test_the_page_names_every_metric() -> None:
    rows = re.findall(
        r"^\| `(pipeline_\w+)` \| (.+) \|$", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE
    )
    assert dict(rows) == exporter.measured()


def test_logs_are_json_where_that_is_asked_for(tmp_path: Path) -> None:
    options = ["--set=logs.format=json", f"--set=lake.root={tmp_path / 'no-lake'}"]
    done = subprocess.run(
        [sys.executable, "-m", "pipeline", "query", "word_counts", *options],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ},
    )
    (line,) = done.stderr.splitlines()
    told = json.loads(line)
    assert (done.returncode, done.stdout) == (4, "")
    assert (told["level"], told["logger"]) == ("ERROR", "pipeline")
    assert "pipeline speed word_counts" in told["msg"]


def test_a_step_says_in_json_what_it_is_and_how_long_it_took() -> None:
    program = (
        "from pipeline import console; console.log_json()\n"
        "with console.step('one'): console.note('on the way')\n"
        "with console.step('two'): raise KeyError('x')\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    told = [json.loads(line) for line in done.stderr.splitlines() if line.startswith("{")]
    assert [(one["level"], one["msg"], one.get("context", {}).get("step")) for one in told] == [
        ("INFO", "begun", "one"),
        ("INFO", "on the way", None),
        ("INFO", "done", "one"),
        ("INFO", "begun", "two"),
        ("ERROR", "failed", "two"),
    ]
    assert told[2]["context"]["seconds"] >= 0
