"""The report against plain Python over the same rows, which are written without Spark; and in a real browser."""

from __future__ import annotations

import json
import re
import shutil
import struct
import subprocess
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta, timezone
from decimal import Decimal
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import deltalake
import pyarrow as pa
import pytest
from deltalake import CommitProperties, Transaction
from pyspark.sql import types as T

from pipeline import cli, report
from pipeline.errors import RefusedToStart, SetupError, UsageError
from pipeline.report import page
from pipeline.settings import Settings
from pipeline.tables import (
    BATCH_LEDGER,
    DEAD_LETTERS,
    ETL_DEAD_LETTERS,
    LATE_EVENTS,
    QUALITY_RESULTS,
    RAW_EVENTS,
    RECONCILIATION,
    REPAIRS,
    SCHEMAS,
    table_path,
    view_path,
)
from pipeline.views import VIEWS

Row = dict[str, Any]

NOON = datetime(2026, 3, 1, 12, tzinfo=timezone.utc)
HOUR = timedelta(hours=1)
SCRIPT = "<script>document.title='broken'</script>"
IMAGE = "\"'><img src=x onerror=alert(1)>\u202e\x1b[31m\x00"
INGEST = "ingest_v1:generation"
SPEND = "customer_hourly_spend"


def arrow(type_: T.DataType) -> pa.DataType:
    """The type of Arrow for one of Spark's."""
    plain = {
        T.StringType: pa.string(),
        T.LongType: pa.int64(),
        T.IntegerType: pa.int32(),
        T.BinaryType: pa.binary(),
        T.TimestampType: pa.timestamp("us", "UTC"),
    }
    if isinstance(type_, T.DecimalType):
        return pa.decimal128(type_.precision, type_.scale)
    if isinstance(type_, T.ArrayType):
        return pa.list_(arrow(type_.elementType))
    if isinstance(type_, T.MapType):
        return pa.map_(arrow(type_.keyType), arrow(type_.valueType))
    if isinstance(type_, T.StructType):
        return pa.struct([pa.field(one.name, arrow(one.dataType)) for one in type_])
    return plain[type(type_)]


def write(
    path: str,
    schema: T.StructType,
    rows: Sequence[Row],
    *,
    batch: tuple[str, int] | None = None,
    facts: Mapping[str, Any] | None = None,
    mode: str = "append",
) -> None:
    """One commit, which may carry a micro-batch or say what its rows are, as Spark's do."""
    fields = pa.schema([pa.field(one.name, arrow(one.dataType)) for one in schema])
    properties = CommitProperties(
        custom_metadata={"userMetadata": json.dumps(facts)} if facts else None,
        app_transactions=[Transaction(*batch)] if batch else None,
    )
    table = pa.Table.from_pylist([{name: row.get(name) for name in schema.names} for row in rows], fields)
    deltalake.write_deltalake(path, table, mode=mode, commit_properties=properties)  # type: ignore[call-overload]


@dataclass
class Lake:
    """A small lake, and the rows that it was made of."""

    root: str
    raw: list[Row] = field(default_factory=list)
    dead: list[Row] = field(default_factory=list)
    repairs: list[Row] = field(default_factory=list)
    batch: list[Row] = field(default_factory=list)
    speed: list[Row] = field(default_factory=list)
    late: list[Row] = field(default_factory=list)


def record(offset: int, *, topic: str = "orders", minutes: float = 0, value: bytes | None = b"{}") -> Row:
    at = NOON + timedelta(minutes=minutes)
    return {"topic": topic, "partition": 0, "offset": offset, "kafka_timestamp": at, "value": value}


def letter(of: Row, *violations: str) -> Row:
    return {**of, "violations": [*violations], "contract_version": 1}


def window(customer: str, hour: int, spend: str, orders: int = 1) -> Row:
    start = NOON + hour * HOUR
    return {
        "customer_id": customer,
        "window_start": start,
        "window_end": start + HOUR,
        "hourly_spend": Decimal(spend),
        "order_count": orders,
        "last_event_time": start,
    }


def missed(view: str, seconds: str, *, is_healed: bool) -> Row:
    return {
        "query": view,
        "key": "order_created|1",
        "event_time": NOON,
        "watermark": NOON,
        "lateness_seconds": Decimal(seconds),
        "topic": "orders",
        "partition": 0,
        "offset": 1,
        "batch_id": 1,
        "generation": "g",
        "healed_at": NOON if is_healed else None,
    }


def make_lake(root: str) -> Lake:
    lake = Lake(root)
    lake.raw = [
        *(record(offset, minutes=offset) for offset in range(100)),
        record(100, minutes=60, value=None),
        *(record(offset, topic="text-lines", minutes=3) for offset in range(7)),
    ]
    lake.dead = [
        letter(lake.raw[10], "total", "items"),
        letter(lake.raw[11], "total"),
        letter(lake.raw[12], SCRIPT),
        letter(lake.raw[101], "not_utf8"),
    ]
    lake.repairs = [
        {
            **{name: lake.dead[1][name] for name in ("topic", "partition", "offset")},
            "kind": "orders",
            "status": "repaired",
            "author": "somebody",
            "reason": f"a fix {IMAGE}",
            "made_at": NOON,
            "history": [],
        }
    ]
    # Batch covers what ends before its horizon; the speed rows of it do not count, and the watermark closes one hour more.
    lake.batch = [window("c-1", 0, "10.10"), window(SCRIPT, 0, "0.05", 2), window("c-1", 1, "99999999999.99")]
    lake.speed = [
        window("c-1", 1, "7.77"),
        window("c-2", 2, "20.20"),
        window("c-2", 3, "1.00"),
        window("c-3", 3, "2.50"),
    ]
    lake.late = [
        missed(SPEND, "59.999999", is_healed=True),
        missed(SPEND, "60", is_healed=True),
        missed("order_outcomes", "90000", is_healed=False),
    ]
    write_log(lake)
    write_views(lake)
    write_proofs(lake)
    return lake


def write_log(lake: Lake) -> None:
    entry = {"query": "ingest_v1", "generation": "generation", "batch_id": 0, "source": 0, "partition": 0}
    ledger = [
        {**entry, "topic": "orders", "first_offset": 0, "end_offset": 103},
        {**entry, "topic": "text-lines", "first_offset": 0, "end_offset": 7},
        {**entry, "query": "word_counts_v1", "topic": "text-lines", "first_offset": 0, "end_offset": 5},
    ]
    for name, rows in (
        (RAW_EVENTS, lake.raw),
        (DEAD_LETTERS, lake.dead),
        (REPAIRS, lake.repairs),
        (LATE_EVENTS, lake.late),
    ):
        write(table_path(lake.root, name), SCHEMAS[name], rows)
    write(table_path(lake.root, BATCH_LEDGER), SCHEMAS[BATCH_LEDGER], ledger, batch=(INGEST, 0))
    began_at = datetime.now(timezone.utc) - timedelta(seconds=4321)
    write_checkpoint(lake.root, "ingest_v1", began_at, ['{"orders":{"0":103},"text-lines":{"0":7}}'])
    write_checkpoint(lake.root, f"{SPEND}_v1", NOON, ['{"orders":{"0":103}}'], watermark=NOON + 3 * HOUR)


def write_checkpoint(
    root: str, query: str, planned_at: datetime, ends: Sequence[str], watermark: datetime | None = None
) -> None:
    """A checkpoint with one finished micro-batch, as Spark leaves it."""
    folder = Path(root, "_checkpoints", query)
    told = {
        "batchWatermarkMs": int(watermark.timestamp() * 1000) if watermark else 0,
        "batchTimestampMs": int(planned_at.timestamp() * 1000),
    }
    for name, text in {
        "metadata": '{"id":"generation"}',
        "offsets/0": "\n".join(["v1", json.dumps(told), *ends]),
        "commits/0": 'v1\n{"nextBatchWatermarkMs":0}',
        "sources/0/0": 'v1\n{"orders":{"0":0},"text-lines":{"0":0}}',
    }.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")


def write_views(lake: Lake) -> None:
    spend, words = VIEWS[SPEND], VIEWS["word_counts"]
    facts = {
        "horizon": (NOON + 2 * HOUR).isoformat(),
        "log": {},
        "begun_at": (datetime.now(timezone.utc) - timedelta(seconds=1234)).isoformat(),
    }
    write(view_path(lake.root, SPEND, "batch", 1), spend.schema, lake.batch, facts=facts)
    write(view_path(lake.root, SPEND, "speed", 1), spend.schema, lake.speed)
    counts = [{"word": "plain", "count": 3}, {"word": f"w{SCRIPT}", "count": 5}]
    write(view_path(lake.root, "word_counts", "speed", 1), words.schema, counts)


def write_proofs(lake: Lake) -> None:
    compared: Row = {
        "view": SPEND,
        "horizon": NOON + 2 * HOUR,
        "batch_version": 0,
        "speed_version": 0,
        "log_versions": [],
        **dict.fromkeys(("late", "repaired", "conflicting", "contract_changed", "open", "unexplained"), 0),
        "late_events": 2,
        "unexplained_keys": [],
    }
    runs = [
        {**compared, "run_at": NOON, "compared": 77, "equal": 77},
        {
            **compared,
            "run_at": NOON + HOUR,
            "compared": 1003,
            "equal": 1000,
            "late": 2,
            "unexplained": 1,
            "unexplained_keys": [f"customer_id={IMAGE}"],
        },
    ]
    write(table_path(lake.root, RECONCILIATION), SCHEMAS[RECONCILIATION], runs)
    judged = {"run_at": NOON, "table": "order_events", "table_version": 1, "observed": "", "expected": ""}
    results = [
        {**judged, "expectation": "contract", "outcome": "passed"},
        {**judged, "expectation": f"recent {SCRIPT}", "outcome": "failed"},
        {**judged, "run_at": NOON - HOUR, "expectation": "older", "outcome": "failed"},
    ]
    write(table_path(lake.root, QUALITY_RESULTS), SCHEMAS[QUALITY_RESULTS], results)
    rejected = [{"run": 1, "table": "orders", "key": "1", "row": "{}", "reason": f"no total {SCRIPT}"}]
    write(table_path(lake.root, ETL_DEAD_LETTERS), SCHEMAS[ETL_DEAD_LETTERS], rejected)


@dataclass
class Table:
    columns: list[str] = field(default_factory=list)
    rows: list[list[str]] = field(default_factory=list)

    def records(self) -> list[dict[str, str]]:
        return [dict(zip(self.columns, row, strict=True)) for row in self.rows]


class Reading(HTMLParser):
    """What a browser would make of the page: its tags and attributes, its text, and its tables by their label."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: Counter[str] = Counter()
        self.attributes: list[tuple[str, str | None]] = []
        self.text = ""
        self.tables: dict[str, Table] = {}
        self.sections: dict[str, str] = {}
        self._label, self._section, self._in_head = "", "", False
        self._cell: list[str] | None = None
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        self.attributes += attrs
        found = dict(attrs)
        if tag == "section":
            self._section = found["id"] or ""
        if found.get("role") == "region":
            self._label = f"{self._section}/{found['aria-label']}"
            self.tables[self._label] = Table()
        if tag in ("thead", "tbody"):
            self._in_head = tag == "thead"
        if tag == "tr" and not self._in_head:
            self.tables[self._label].rows.append([])
        if tag in ("th", "td"):
            self._cell = []

    def handle_endtag(self, tag: str) -> None:
        if tag in ("th", "td") and self._cell is not None:
            table, text = self.tables[self._label], "".join(self._cell)
            (table.columns if self._in_head else table.rows[-1]).append(text)
            self._cell = None

    def handle_data(self, data: str) -> None:
        self.text += data
        self.sections[self._section] = self.sections.get(self._section, "") + data
        if self._cell is not None:
            self._cell.append(data)


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Lake:
    return make_lake(str(tmp_path_factory.mktemp("report") / "lake"))


@pytest.fixture(scope="module")
def made(lake: Lake, base_settings: Settings) -> page.Page:
    return page.make(settings_of(base_settings, lake.root), with_pictures=True)


@pytest.fixture(scope="module")
def read(made: page.Page) -> Reading:
    return Reading(made.html)


def number(text: str) -> Decimal:
    return Decimal(text.replace(",", ""))


def told(time: datetime) -> str:
    return f"{time:%Y-%m-%d %H:%M}"


def test_the_records_of_each_topic_and_their_fates(lake: Lake, read: Reading) -> None:
    for row in read.tables["way/Records by topic"].records():
        raw = [one for one in lake.raw if one["topic"] == row["topic"]]
        dead = sum(one["topic"] == row["topic"] for one in lake.dead)
        empty = sum(one["value"] is None for one in raw)
        assert int(row["in raw_events"]) == len(raw)
        assert (int(row["dead"]), int(row["tombstones"])) == (dead, empty)
        assert int(row["accepted"]) == len(raw) - dead - empty
    assert [int(row["offsets read"]) for row in read.tables["way/Records by topic"].records()] == [103, 7]


def test_spend_by_window_is_the_served_view_and_exact(lake: Lake, read: Reading) -> None:
    horizon, watermark = NOON + 2 * HOUR, NOON + 3 * HOUR
    served = [*lake.batch, *(row for row in lake.speed if row["window_end"] > horizon)]
    expected = {}
    for start in {row["window_start"] for row in served}:
        rows = [row for row in served if row["window_start"] == start]
        is_final = start + HOUR <= max(horizon, watermark)
        expected[told(start)] = (
            sum(row["hourly_spend"] for row in rows),
            sum(row["order_count"] for row in rows),
            len({row["customer_id"] for row in rows}),
            "final" if is_final else "not final yet",
        )
    found = {
        row["window start"]: (number(row["spend"]), int(row["orders"]), int(row["customers"]), row["state"])
        for row in read.tables["spend/Spend by window, the newest first"].records()
    }
    assert found == expected
    assert {row[-1] for row in found.values()} == {"final", "not final yet"}
    assert f"{sum(row[0] for row in expected.values()):,}" in read.sections["spend"]


def test_fates_over_time_add_up(lake: Lake, read: Reading) -> None:
    rows = read.tables["fates/Records in each bar, the newest first"].records()
    minutes = Counter(
        told(one["kafka_timestamp"].replace(minute=one["kafka_timestamp"].minute // 5 * 5))
        for one in lake.raw
    )
    found = {row["from"]: sum(int(row[name]) for name in ("accepted", "dead", "tombstones")) for row in rows}
    assert found == minutes
    assert sum(int(row["dead"]) for row in rows) == len(lake.dead)
    assert sum(int(row["tombstones"]) for row in rows) == 1


def test_dead_letters_by_violation_and_what_was_decided(lake: Lake, read: Reading) -> None:
    expected = Counter((name, one["topic"]) for one in lake.dead for name in one["violations"])
    rows = read.tables["dead_letters/Dead letters by violation and topic"].records()
    assert {(row["violation"], row["topic"]): int(row["letters"]) for row in rows} == expected
    assert {row["violation"]: (row["dead"], row["repaired"]) for row in rows}["total"] == ("1", "1")


def test_late_events_by_class(read: Reading) -> None:
    rows = read.tables["late/Late events by view"].records()
    assert {
        row["view"]: (row["under 1 minute"], row["1 to 10 minutes"], row["24 hours and more"]) for row in rows
    } == {
        SPEND: ("1", "1", "0"),
        "order_outcomes": ("0", "0", "1"),
    }
    assert {row["view"]: row["not counted yet"] for row in rows} == {SPEND: "0", "order_outcomes": "1"}


def test_the_newest_reconciliation_counts(read: Reading) -> None:
    (row,) = read.tables["agreement/Rows by view"].records()
    assert (row["compared"], row["equal"], row["late"], row["unexplained"]) == ("1,003", "1,000", "2", "1")
    assert "99.70 %" in read.sections["agreement"]
    assert "1 row of batch and speed differ without a cause" in read.text


def test_durations_are_from_plan_or_begin_to_commit(read: Reading) -> None:
    rows = {(row["query"], row["kind"]): row for row in read.tables["durations/Seconds by query"].records()}
    micro_batch, batch_run = rows["ingest", "micro-batch"], rows[SPEND, "batch run"]
    assert 4321 <= number(micro_batch["median s"]) < 4500
    assert (micro_batch["batches"], micro_batch["records read"]) == ("1", "110")
    assert 1234 <= number(batch_run["longest s"]) < 1400


def test_the_newest_judgement_of_quality_counts(read: Reading) -> None:
    (row,) = read.tables["expectations/Expectations by table"].records()
    assert (row["passed"], row["failed"]) == ("1", "1")
    assert row["not met"] == f"recent {SCRIPT}"


def test_what_an_event_says_is_text_and_nothing_else(made: page.Page, read: Reading) -> None:
    assert read.tags["script"] == read.tags["img"] == 0
    assert not [name for name, _ in read.attributes if name.startswith("on")]
    for section in ("spend", "served", "dead_letters", "agreement", "expectations"):
        assert ("<script>" in read.sections[section]) == (section not in ("spend", "agreement"))
    assert "<img src=x onerror=alert(1)>\\u202e\\x1b[31m\\x00" in read.text
    assert not re.search("[\x00\x1b\u202e]", made.html)


def test_the_live_page_takes_it_as_text_too(lake: Lake, base_settings: Settings) -> None:
    """Its own script puts the newest page in the place of the old: what is text there stays text, and nothing else may run."""
    html = page.make(settings_of(base_settings, lake.root), script="/live.js").html
    live = Reading(html)
    scripts = [value for name, value in live.attributes if name == "src"]
    assert live.tags["script"] == 1
    assert scripts == ["/live.js"]
    assert live.tags["img"] == 0
    assert not [name for name, _ in live.attributes if name.startswith("on")]
    assert "default-src 'none'" in html
    assert "script-src 'self'" in html
    assert "<img src=x onerror=alert(1)>\\u202e\\x1b[31m\\x00" in live.text


def test_nothing_is_loaded_from_elsewhere(made: page.Page, read: Reading) -> None:
    addresses = [
        value
        for name, value in read.attributes
        if name in ("src", "href", "xlink:href", "action", "data", "srcset")
    ]
    assert addresses == []
    assert "default-src 'none'" in dict(read.attributes).values() or "default-src 'none'" in made.html
    others = set(re.findall(r"(?:https?:)?//[\w.]+[^\s\"'<]*", made.html))
    assert others <= {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}
    assert not re.search(r"url\(|@import", made.html)


def test_every_picture_is_described_and_has_its_numbers_as_a_table(made: page.Page, read: Reading) -> None:
    labels = re.findall(r'role="img" aria-label="([^"]+)"', made.html)
    assert len(labels) == read.tags["svg"] == 2 * len(made.pictures)
    assert all(len(label) > 20 for label in labels)
    assert {*made.pictures} == {"way", "spend", "fates", "dead_letters", "late", "agreement", "durations"}
    assert {*made.pictures} <= {label.partition("/")[0] for label in read.tables}
    for png in made.pictures.values():
        width, height = struct.unpack(">II", png[16:24])
        assert png.startswith(b"\x89PNG")
        assert width >= 1900
        assert height >= 150


def test_an_empty_lake_has_nothing_yet(base_settings: Settings, tmp_path: Path) -> None:
    html = page.make(settings_of(base_settings, tmp_path)).html
    assert html.count("Nothing yet") == 10
    assert "<svg" not in html
    assert "The two layers have not been compared yet." in html


def test_a_lake_with_part_of_its_tables_tells_that_part(base_settings: Settings, tmp_path: Path) -> None:
    write(table_path(str(tmp_path), RAW_EVENTS), SCHEMAS[RAW_EVENTS], [record(0), record(1, value=None)])
    write(table_path(str(tmp_path), DEAD_LETTERS), SCHEMAS[DEAD_LETTERS], [])
    read = Reading(page.make(settings_of(base_settings, tmp_path)).html)
    assert [row["accepted"] for row in read.tables["way/Records by topic"].records()] == ["1"]
    assert "Nothing yet" in read.sections["spend"]


def test_one_old_record_does_not_make_the_picture_a_year_wide(
    base_settings: Settings, tmp_path: Path
) -> None:
    rows = [record(offset, minutes=offset) for offset in range(300)]
    write(table_path(str(tmp_path), RAW_EVENTS), SCHEMAS[RAW_EVENTS], [record(300, minutes=-600_000), *rows])
    read = Reading(page.make(settings_of(base_settings, tmp_path)).html)
    bars = read.tables["fates/Records in each bar, the newest first"].records()
    assert 30 < len(bars) <= 72
    (before,) = re.findall(r"Left out: (\d+) records? from before the picture", read.sections["fates"])
    assert sum(int(row["accepted"]) for row in bars) + int(before) == 301


def settings_of(base: Settings, root: Path | str) -> Settings:
    return replace(base, lake=replace(base.lake, root=str(root)))


def test_the_page_goes_where_it_is_wanted(
    base_settings: Settings, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    here = settings_of(base_settings, tmp_path)
    assert report.write(here) == tmp_path / "report.html"
    first = (tmp_path / "report.html").stat().st_ino
    words = [
        "report",
        "--set",
        f"lake.root={tmp_path}",
        "--output",
        f"{tmp_path}/new/page.html",
        "--pictures",
        f"{tmp_path}/p",
    ]
    assert cli.main(words) == 0
    assert capsys.readouterr().out == f"{tmp_path}/new/page.html\n"
    assert (tmp_path / "new" / "page.html").read_text(encoding="utf-8").startswith("<!doctype html>")
    assert report.write(here) == tmp_path / "report.html"
    assert (tmp_path / "report.html").stat().st_ino != first, "the page is put in place as a whole"
    assert not [*tmp_path.rglob(".*.new")]


def test_without_a_lake_it_says_so(base_settings: Settings, tmp_path: Path) -> None:
    with pytest.raises(RefusedToStart, match="pipeline ingest"):
        report.write(settings_of(base_settings, tmp_path / "none"))
    with pytest.raises(UsageError, match="s3a"):
        report.write(settings_of(base_settings, "s3a://bucket/lake"))
    with pytest.raises(UsageError, match="cannot be written"):
        report.write(settings_of(base_settings, tmp_path), output=tmp_path)


def test_without_the_extra_it_says_what_to_install(
    base_settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "pipeline.report.page", None)
    monkeypatch.delattr("pipeline.report.page")
    with pytest.raises(SetupError, match=r"pipeline\[report\]"):
        report.write(settings_of(base_settings, tmp_path))


CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium here; on Debian: apt-get install chromium")
@pytest.mark.parametrize(("width", "is_dark"), [(1100, False), (390, True)], ids=["desk", "dark phone"])
def test_a_browser_shows_it_without_a_complaint(
    made: page.Page, width: int, is_dark: bool, tmp_path: Path
) -> None:
    assert CHROMIUM is not None
    file, shot = tmp_path / "report.html", tmp_path / "report.png"
    file.write_text(made.html, encoding="utf-8")
    done = subprocess.run(
        [
            CHROMIUM,
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--enable-logging=stderr",
            f"--user-data-dir={tmp_path / 'profile'}",
            f"--window-size={width},3000",
            f"--screenshot={shot}",
            *(["--force-dark-mode"] if is_dark else []),
            file.as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    complaints = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    assert complaints == []
    png = shot.read_bytes()
    assert struct.unpack(">II", png[16:24]) == (width, 3000)
    assert len(png) > 50_000
