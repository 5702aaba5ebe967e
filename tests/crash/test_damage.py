"""Damage to a checkpoint: whatever is done to a file of it, the result is exact or the refusal has a name.

A file is emptied, halved or deleted together with its checksum, as a file system without checksums leaves it after a
power failure; a flipped bit is left for the checksum to find, which is what every file system that Spark writes to has.
"""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from pyspark.sql import SparkSession

import judge
from crash import logs
from crash.plays import with_batches_of
from lake import fresh, on_kafka, send
from pipeline import ingest, speed
from pipeline.errors import RefusedToStart
from pipeline.settings import Settings
from pipeline.streaming import QueryFailed
from pipeline.tables import checkpoint_path
from pipeline.views import VIEWS
from reference import Record, read_records

pytestmark = pytest.mark.kafka

VIEW = "customer_hourly_spend"
SNAPSHOT_AT_EACH_COMMIT = {
    "spark.sql.streaming.stateStore.minDeltasForSnapshot": "1",
    "spark.sql.streaming.stateStore.unloadOnCommit": "true",
}
"""A snapshot is due after each batch, and uploaded at once: the maintenance that does so comes with the unloading."""


@dataclass(frozen=True)
class Halfway:
    """A lake that has read two thirds of its log, with state as changelogs or as snapshots; to be copied, not touched."""

    settings: Settings
    with_snapshots: Path
    records: list[Record]


@pytest.fixture(scope="module")
def halfway(
    spark: SparkSession, base_settings: Settings, bootstrap: str, tmp_path_factory: pytest.TempPathFactory
) -> Halfway:
    here = on_kafka(fresh(base_settings, bootstrap, tmp_path_factory.mktemp("halfway") / "lake"))
    small, rng = with_batches_of(here, 9), random.Random(1)
    snapshots = tmp_path_factory.mktemp("snapshots") / "lake"
    for number in range(2):
        send(here, logs.piece(rng, number))
        ingest.run(small, once=True)
        speed.run(small, views=[VIEW], once=True)
        with _snapshots(spark):
            speed.run(_at(small, snapshots), views=[VIEW], once=True)
    send(here, [*logs.piece(rng, 2), *logs.ending(0)])
    return Halfway(here, snapshots, read_records(bootstrap, judge.topics_in(here)))


def _emptied(file: Path) -> None:
    file.write_bytes(b"")
    _checksum(file).unlink(missing_ok=True)


def _halved(file: Path) -> None:
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 2])
    _checksum(file).unlink(missing_ok=True)


def _bit_flipped(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def _deleted(file: Path) -> None:
    file.unlink()
    _checksum(file).unlink(missing_ok=True)


def _checksum(file: Path) -> Path:
    return file.with_name(f".{file.name}.crc")


DAMAGES: tuple[Callable[[Path], None], ...] = (_emptied, _halved, _bit_flipped, _deleted)
INGEST_FILES = ("offsets", "commits", "metadata", "sources/0")
VIEW_FILES = ("offsets", "commits", "metadata", "sources/0", "changelog", "zip", "schema")


@pytest.mark.parametrize("kind", INGEST_FILES)
def test_a_damaged_checkpoint_of_ingest_loses_nothing(
    spark: SparkSession, halfway: Halfway, tmp_path: Path, kind: str
) -> None:
    def judged(here: Settings) -> None:
        judge.check_log(spark, here, halfway.records)
        judge.check_ledger(judge.ledger(spark, here), here, halfway.records, [ingest.QUERY])

    outcomes = {
        damage.__name__: _outcome(
            _damaged(
                halfway.settings, Path(halfway.settings.lake.root), tmp_path, ingest.QUERY, kind, damage
            ),
            lambda here: ingest.run(here, once=True),
            judged,
        )
        for damage in DAMAGES
    }
    _require_exact_or_named(kind, outcomes)


@pytest.mark.parametrize("kind", VIEW_FILES)
def test_a_damaged_checkpoint_of_a_view_gives_no_wrong_number(
    spark: SparkSession, halfway: Halfway, tmp_path: Path, kind: str
) -> None:
    query = VIEWS[VIEW].query

    def judged(here: Settings) -> None:
        entries = judge.ledger(spark, here)
        judge.check_ledger(entries, here, halfway.records, [query])
        judge.check_speed(spark, here, VIEW, judge.counted_log(entries, here, VIEW, halfway.records))

    source = halfway.with_snapshots if kind == "zip" else Path(halfway.settings.lake.root)
    outcomes = {}
    for damage in DAMAGES:
        here = _damaged(halfway.settings, source, tmp_path, query, kind, damage)
        outcomes[damage.__name__] = _outcome(
            here, lambda here: speed.run(here, views=[VIEW], once=True), judged
        )
    _require_exact_or_named(kind, outcomes)


def _outcome(here: Settings, run: Callable[[Settings], None], judged: Callable[[Settings], None]) -> str:
    """exact, or the name of the refusal; what must not be is told with its reason, so that one failure hides no other."""
    try:
        run(here)
    except (RefusedToStart, QueryFailed) as refusal:
        return type(refusal).__name__
    except Exception as error:  # noqa: BLE001  # whatever it is, it has no name
        return f"unnamed: {type(error).__name__} {error}"
    try:
        judged(here)
    except AssertionError as difference:
        return f"wrong: {difference}"
    return "exact"


def _require_exact_or_named(kind: str, outcomes: dict[str, str]) -> None:
    print(kind, outcomes)
    assert {name: told for name, told in outcomes.items() if told.startswith(("unnamed", "wrong"))} == {}


def _damaged(
    settings: Settings, source: Path, folder: Path, query: str, kind: str, damage: Callable[[Path], None]
) -> Settings:
    """A copy of the lake with one file of the query's checkpoint damaged."""
    root = folder / damage.__name__
    shutil.copytree(source, root)
    here = _at(settings, root)
    damage(_newest(Path(checkpoint_path(here.lake.root, query)), kind))
    return here


def _newest(checkpoint: Path, kind: str) -> Path:
    """The newest file of the kind; of state, the largest of those."""
    if kind == "metadata":
        return checkpoint / kind
    if kind in ("offsets", "commits", "sources/0"):
        return max(
            (file for file in (checkpoint / kind).iterdir() if file.name.isdigit()),
            key=lambda file: int(file.name),
        )
    files = [file for file in (checkpoint / "state").rglob(f"*{kind}") if not file.name.startswith(".")]
    assert files, f"no {kind} below {checkpoint}"
    return max(files, key=lambda file: (file.name.partition("_")[0].zfill(9), file.stat().st_size))


def _at(settings: Settings, root: Path) -> Settings:
    return replace(settings, lake=replace(settings.lake, root=str(root)))


@contextmanager
def _snapshots(spark: SparkSession) -> Iterator[None]:
    """State is written as a whole at each commit, beside what has changed."""
    for key, value in SNAPSHOT_AT_EACH_COMMIT.items():
        spark.conf.set(key, value)
    try:
        yield
    finally:
        for key in SNAPSHOT_AT_EACH_COMMIT:
            spark.conf.unset(key)
