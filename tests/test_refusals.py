"""A command that is refused leaves nothing behind: no table, no version, no checkpoint, no lock."""

from __future__ import annotations

import shlex
import threading
from pathlib import Path

import pytest
from pyspark.sql import SparkSession

from pipeline import cli, files
from pipeline.settings import Settings
from story import Story

pytestmark = pytest.mark.kafka

SPEND = "customer_hourly_spend"
NOTHING_INGESTED = [
    f"speed {SPEND} --once --set speed.source=log",
    "batch",
    "batch --until 2026-01-01T00:00:00Z",
    f"batch {SPEND} --shadow",
    f"batch {SPEND} --shadow --until 2026-01-01T00:00:00Z",
    f"replay {SPEND} --once",
    f"replay {SPEND} --once --from raw",
    f"promote {SPEND} --yes",
    f"rollback {SPEND}",
    f"query {SPEND}",
    f"query {SPEND} --changed-between 2026-01-01T00:00:00Z 2026-01-02T00:00:00Z",
    "audit",
    "reconcile",
    f"late {SPEND}",
    "dead-letters list",
    "dead-letters show orders:0:1",
    "dead-letters fix orders:0:1 --value x --reason r",
    "dead-letters fix --bulk assume-utc --reason r",
    "dead-letters replay",
    "dead-letters discard orders:0:1 --reason r",
    "erase --customer c1 --yes",
    "state show customer_totals --key c1",
    "report",
    "serve",
    "elt",
    "ingest --once --set lake.min_free_mebibytes=1000000000",
    "speed --once --set lake.min_free_mebibytes=1000000000",
    "ingest --once --set kafka.topics.products=no-such-topic",
    "speed --once --set kafka.topics.products=no-such-topic",
    f"replay word_counts {SPEND} --once --from kafka --set kafka.topics.word_counts_output=no-such-topic",
    "ingest --once --skip {orders}:0:0 --reason r",
]
OF_THE_STORY = [
    f"replay {SPEND} --once --set lake.min_free_mebibytes=1000000000",
    "replay word_counts --once --set kafka.topics.word_counts_output=no-such-topic",
    f"promote {SPEND} --yes",
    f"rollback {SPEND}",
    "dead-letters fix {orders}:0:999 --value x --reason r",
    "dead-letters discard {orders}:0:999 --reason r",
    "ingest --once --skip {orders}:0:0 --reason r",
    "ingest --once --set kafka.topics.products=no-such-topic",
]


def played(line: str, here: Settings) -> int:
    topics = here.kafka.topics
    pairs = {
        "kafka.bootstrap_servers": here.kafka.bootstrap_servers,
        "kafka.topics.orders": topics.orders,
        "kafka.topics.products": topics.products,
        "kafka.topics.text_lines": topics.text_lines,
        "kafka.topics.word_counts_output": topics.word_counts_output,
        "lake.root": here.lake.root,
    }
    words = shlex.split(line.format(orders=topics.orders))
    settings = [f"--set={key}={value}" for key, value in pairs.items() if f"{key}=" not in line]
    return cli.main([*words, "--env=test", *settings])


def lying_in(root: str) -> set[str]:
    """All that is there, but for the locks of tables that are there."""
    found = [path for path in (Path(root), *Path(root).rglob("*")) if path.exists()]
    of_tables = {path.with_name(f"_{path.name}.lock") for path in found if path.is_dir()}
    return {str(path) for path in found if path not in of_tables}


@pytest.mark.parametrize("line", NOTHING_INGESTED)
def test_nothing_is_made_of_a_lake_that_is_not_there(
    line: str, spark: SparkSession, settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    assert played(line, settings) in (2, 3, 4), capsys.readouterr().err
    assert lying_in(settings.lake.root) == set()


@pytest.mark.parametrize("line", OF_THE_STORY)
def test_nothing_is_added_to_a_lake(
    line: str, story: Story, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    here = story.copy(tmp_path / "lake")
    before = lying_in(here.lake.root)
    assert played(line, here) in (2, 3, 4), capsys.readouterr().err
    assert lying_in(here.lake.root) == before


def test_a_lock_is_held_by_one_also_where_the_one_before_has_removed_it(tmp_path: Path) -> None:
    path = tmp_path / "made" / "for it" / "_table.lock"
    inside, most, counting = [0], [0], threading.Lock()

    def work() -> None:
        for _ in range(200):
            taken = files.lock(path, waits=True)
            with counting:
                inside[0] += 1
                most[0] = max(most[0], inside[0])
            with counting:
                inside[0] -= 1
            taken.give_back(of=tmp_path / "made" / "for it" / "table")

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1]
    assert [*tmp_path.rglob("*.lock")] == []


def test_a_lock_of_something_that_is_there_stays(tmp_path: Path) -> None:
    files.lock(tmp_path / "_table.lock", waits=False).give_back(of=tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["_table.lock"]
