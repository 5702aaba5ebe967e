"""The pointer: which version of a view readers see, and from when on; without Spark, on tables written here."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timezone
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from deltalake import write_deltalake
from pyspark.sql.pandas.types import to_arrow_schema

from lake import at
from pipeline import querying, versions
from pipeline.cli import main
from pipeline.delta_log import newest_version
from pipeline.errors import DefinitionChanged
from pipeline.service.answers import Answers
from pipeline.service.questions import asked
from pipeline.settings import Settings
from pipeline.tables import VIEW_VERSIONS, table_path, view_path
from pipeline.versions import Line, Made
from pipeline.views import VIEWS

SPEND = VIEWS["customer_hourly_spend"]
FIRST, SECOND = Made("1"), Made("1r1", "feed")


@pytest.fixture
def here(base_settings: Settings, tmp_path: Path) -> Settings:
    return replace(base_settings, lake=replace(base_settings.lake, root=str(tmp_path / "lake")))


def put(here: Settings, label: str, spend: str, *, customers: int = 3) -> None:
    """A state of the speed table of this version: each customer has spent this much."""
    schema = to_arrow_schema(SPEND.schema, timezone="UTC")
    rows = [
        {
            "customer_id": f"c{number}",
            "window_start": at(0),
            "window_end": at(60),
            "hourly_spend": Decimal(spend),
            "order_count": 1,
            "last_event_time": at(0),
        }
        for number in range(customers)
    ]
    path = view_path(here.lake.root, SPEND.name, "speed", label)
    write_deltalake(path, pa.Table.from_pylist(rows, schema), mode="overwrite")


def spent(here: Settings, **asked: Any) -> set[Decimal]:
    columns, rows = querying.query(here, SPEND.name, **asked)
    return {row[columns.index("hourly_spend")] for row in rows}


def switch(here: Settings, live: Made, *before: Made) -> None:
    with versions.changing(here):
        versions.enter(None, here, SPEND.name, Line(live, before, None, 1), became="live")


def begin(here: Settings) -> None:
    with versions.changing(here):
        versions.enter(None, here, SPEND.name, Line(FIRST, (), SECOND, 1), became="begun")


def test_readers_see_what_the_newest_commit_says_and_said_then(here: Settings) -> None:
    put(here, "1", "1.00")
    begin(here)
    put(here, "1r1", "2.00")
    assert spent(here) == {Decimal("1.00")}
    before = datetime.now(timezone.utc)
    switch(here, SECOND, FIRST)
    assert spent(here) == {Decimal("2.00")}
    switched = datetime.now(timezone.utc)
    switch(here, FIRST)
    assert [spent(here), spent(here, as_of=before), spent(here, as_of=switched)] == [
        {Decimal("1.00")},
        {Decimal("1.00")},
        {Decimal("2.00")},
    ]
    live = versions.live_views(None, here)[SPEND.name]
    assert (live.query, live.source) == ("customer_hourly_spend_v1", None)
    assert versions.live_views(None, here)["word_counts"] == VIEWS["word_counts"]


def test_before_the_first_entry_that_was_live_which_was_there_then(here: Settings) -> None:
    put(here, "1", "1.00")
    long_ago = datetime.now(timezone.utc)
    begin(here)
    switch(here, SECOND, FIRST)
    then = versions.read(None, here, as_of=long_ago)
    assert then.live(SPEND).label == "1"
    assert versions.read(None, here).live(SPEND) == replace(SPEND, rebuild=1, source="feed")


def test_a_new_definition_is_not_live_where_an_earlier_one_alone_has_tables(
    here: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(here, "1", "1.00")
    newer = replace(SPEND, version=2)
    monkeypatch.setattr("pipeline.catalog.views", lambda _: {**VIEWS, SPEND.name: newer})
    live = versions.live_views(None, here)[SPEND.name]
    assert live.label == "1"
    with pytest.raises(DefinitionChanged) as refused:
        versions.require_same_definition(here, [live])
    assert (refused.value.view, refused.value.live, refused.value.version) == (SPEND.name, "1", 2)
    put(here, "2", "2.00")
    assert versions.live_views(None, here)[SPEND.name].label == "2"


def test_a_rollback_is_one_commit_and_needs_no_spark(
    here: Settings, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.promotion.session", lambda _: pytest.fail("no Spark for this"))
    put(here, "1", "1.00")
    put(here, "1r1", "2.00")
    begin(here)
    switch(here, SECOND, FIRST)
    at_root = ["--set", f"lake.root={here.lake.root}"]
    table = table_path(here.lake.root, VIEW_VERSIONS)
    before = newest_version(None, table)
    assert before is not None
    assert main(["rollback", SPEND.name, *at_root]) == 0
    assert newest_version(None, table) == before + 1
    assert spent(here) == {Decimal("1.00")}
    assert versions.read(None, here).next(SPEND) == SECOND.of(SPEND)
    assert main(["rollback", SPEND.name, *at_root]) == 4
    assert "nothing to go back to" in capsys.readouterr().err


def test_a_promotion_asks_somebody_or_nobody(here: Settings) -> None:
    assert main(["promote", SPEND.name, "--set", f"lake.root={here.lake.root}"]) == 2


def test_a_page_stays_with_its_version(here: Settings) -> None:
    put(here, "1", "1.00")
    put(here, "1r1", "2.00")
    begin(here)
    switch(here, SECOND, FIRST)
    first = asked(SPEND, [("limit", "2")], max_rows=100)
    cursor = Answers(here).answer(first).next_page
    switch(here, FIRST)
    second = asked(SPEND, [("limit", "2"), ("cursor", str(cursor))], max_rows=100)
    (row,) = Answers(here).answer(second).rows
    assert Decimal("2.00") in row


def test_a_rollback_keeps_the_version_it_leaves_beside_the_one_that_is_being_made(here: Settings) -> None:
    third = Made("1r2", "feed")
    put(here, "1", "1.00")
    with versions.changing(here):
        versions.enter(None, here, SPEND.name, Line(SECOND, (FIRST,), third, 2), became="begun")
    assert main(["rollback", SPEND.name, "--set", f"lake.root={here.lake.root}"]) == 0
    assert versions.read(None, here).line(SPEND.name) == Line(FIRST, (SECOND,), third, 2)
