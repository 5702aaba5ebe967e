"""The service as its callers meet it: a process of its own, asked over HTTP; its rows are those that Spark gives."""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlencode

import pyarrow as pa
import pytest
from deltalake import DeltaTable, write_deltalake
from pyspark.sql import SparkSession

from pipeline import cli, rendering, serving
from pipeline.delta_log import commit
from pipeline.service import answers
from pipeline.service.questions import asked
from pipeline.settings import Settings
from pipeline.tables import view_path
from pipeline.views import VIEWS
from story import Story

pytestmark = pytest.mark.kafka

SPEND = VIEWS["customer_hourly_spend"]
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


class Reply(NamedTuple):
    status: int
    headers: dict[str, str]
    body: str

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@contextmanager
def served(root: str, *options: str, **environ: str) -> Iterator[Callable[..., Reply]]:
    """The service on this lake: a function that asks it."""
    command = [sys.executable, "-m", "pipeline", "serve", "--set=serve.port=0", f"--set=lake.root={root}"]
    process = subprocess.Popen(
        [*command, *options], stderr=subprocess.PIPE, text=True, env={**os.environ, **environ}
    )
    try:
        assert process.stderr is not None
        first = process.stderr.readline()
        found = re.match(r"http://127\.0\.0\.1:\d+", first)
        assert found, first + process.stderr.read()

        def ask(
            path: str, /, *, method: str = "GET", headers: dict[str, str] | None = None, **query: Any
        ) -> Reply:
            url = f"{found[0]}{path}{'?' + urlencode(query, doseq=True) if query else ''}"
            request = urllib.request.Request(url, method=method, headers=headers or {})
            try:
                with urllib.request.urlopen(request, timeout=60) as answer:
                    return Reply(answer.status, dict(answer.headers), answer.read().decode())
            except urllib.error.HTTPError as refused:
                return Reply(refused.code, dict(refused.headers), refused.read().decode())

        ask.url = found[0]  # type: ignore[attr-defined]
        yield ask
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
    finally:
        process.kill()


@pytest.fixture(scope="module")
def ask(story: Story) -> Iterator[Callable[..., Reply]]:
    with served(story.settings.lake.root, "--set=serve.max_rows=50") as asking:
        yield asking


def of_spark(spark: SparkSession, settings: Settings, layer: Any = "served") -> list[dict[str, Any]]:
    """The rows of the spend in the order of its keys, in the words of the service."""
    frame = serving.read(spark, settings, SPEND, layer=layer).orderBy(*SPEND.keys)
    return [json.loads(line) for line in rendering.json_lines(frame.columns, map(tuple, frame.collect()))]


@pytest.mark.parametrize("layer", ["served", "speed", "batch"])
def test_rows_are_those_that_spark_gives(
    spark: SparkSession, story: Story, ask: Callable[..., Reply], layer: str
) -> None:
    answer = ask(f"/views/{SPEND.name}", layer=layer).json
    assert answer["rows"] == of_spark(spark, story.settings, layer)
    assert len(answer["rows"]) > 4
    assert answer["columns"] == [*answer["rows"][0]]
    state = serving.states(None, story.settings, SPEND)[SPEND.name]
    (fresh,) = answer["freshness"]
    assert state.batch is not None
    assert state.speed is not None
    assert (fresh["batch_version"], fresh["speed_version"]) == (state.batch.version, state.speed.version)
    assert answer["horizon"] == fresh["horizon"] == "2026-01-01T17:00:00Z"
    assert fresh["age_seconds"] > 0


def test_columns_filter(spark: SparkSession, story: Story, ask: Callable[..., Reply]) -> None:
    rows = of_spark(spark, story.settings)

    def found(**query: Any) -> list[dict[str, Any]]:
        rows_found: list[dict[str, Any]] = ask(f"/views/{SPEND.name}", **query).json["rows"]
        return rows_found

    assert found(customer_id="c2") == [row for row in rows if row["customer_id"] == "c2"] != []
    both = found(customer_id=["c2", "c-twin"])
    assert both == [row for row in rows if row["customer_id"] in ("c2", "c-twin")]
    assert found(**{"hourly_spend.gte": "5", "hourly_spend.lt": "9.00"}) == [
        row for row in rows if 5 <= float(row["hourly_spend"]) < 9
    ]
    assert found(**{"window_start.gt": "2026-01-01T13:00:00+01:00"}) == [
        row for row in rows if row["window_start"] > "2026-01-01T12:00:00Z"
    ]
    assert found(is_final="false") == [row for row in rows if not row["is_final"]] != []
    assert found(**{"order_count.ne": "1"}) == [row for row in rows if row["order_count"] != 1]
    largest = sorted(rows, key=lambda row: (-float(row["hourly_spend"]), row["customer_id"]))
    assert found(order_by="-hourly_spend,customer_id", limit=2) == largest[:2]
    assert found(customer_id="' OR ''='") == []


@pytest.mark.parametrize(
    ("query", "told"),
    [
        ({"customer": "c1"}, "customer_id"),
        ({"customer_id.like": "c%"}, "customer_id.like"),
        ({'customer_id" OR 1=1 --': "x"}, "no parameter"),
        ({"hourly_spend.gte": "1 OR 1=1"}, "number"),
        ({"hourly_spend": "nan"}, "number"),
        ({"hourly_spend": "1e300"}, "number"),
        ({"order_count": "1.5"}, "number"),
        ({"window_start": "2026-01-01"}, "window_start"),
        ({"is_final": "1"}, "true or false"),
        ({"order_by": "hourly_spend; DROP TABLE x"}, "order_by"),
        ({"order_by": "(SELECT 1)"}, "order_by"),
        ({"limit": "0"}, "from 1 to 50"),
        ({"limit": "51"}, "from 1 to 50"),
        ({"limit": ["1", "2"]}, "once"),
        ({"layer": "gold"}, "served"),
        ({"as_of": "yesterday"}, "as_of"),
        ({"cursor": "bm9uc2Vuc2U"}, "cursor"),
        ({"cursor": base64.urlsafe_b64encode(b'[-1,{"customer_hourly_spend":["../x",1,null]},"a"]').decode()}, "cursor"),
        ({"customer_id": ["c"] * 201}, "200"),
    ],
)  # fmt: skip
def test_a_wrong_parameter_is_named(ask: Callable[..., Reply], query: dict[str, Any], told: str) -> None:
    refused = ask(f"/views/{SPEND.name}", **query)
    assert refused.status == 400
    assert told in refused.json["message"]


def test_what_is_not_there_is_said(ask: Callable[..., Reply]) -> None:
    assert ask("/views/customers").status == 404
    assert "customer_hourly_spend" in ask("/views/customers").json["message"]
    assert "pipeline speed" in ask("/views/enriched_orders").json["message"]
    assert ask(f"/views/{SPEND.name}", method="POST").status == 405
    assert ask("/docs").status == 404
    assert ask("/views/..%2f..%2fetc%2fpasswd").status == 404


def test_who_looks_for_its_paths_finds_them(ask: Callable[..., Reply]) -> None:
    views = {one["view"]: one for one in ask("/views").json}
    assert {*views} == {*VIEWS}
    assert views[SPEND.name]["columns"]["hourly_spend"] == "decimal(38,2)"
    assert views[SPEND.name]["layers"] == ["speed", "batch"]
    assert ask("/healthz").json == {"status": "ok"}
    paths = ask("/openapi.json").json["paths"]
    assert {"/views", "/views/{view}", "/healthz", "/metrics"} <= {*paths}
    assert "as_of" in {one["name"] for one in paths["/views/{view}"]["get"]["parameters"]}
    told = ask("/metrics").body
    assert 'pipeline_requests_total{path="/views",status="200"}' in told
    assert 'pipeline_view_horizon_timestamp_seconds{view="customer_hourly_spend"} 1.7672868e+09' in told
    assert ask("/views", headers={"Host": "elsewhere.example"}).status == 400


def test_csv_for_who_wants_it(ask: Callable[..., Reply]) -> None:
    reply = ask(f"/views/{SPEND.name}", customer_id="c2", headers={"Accept": "text/csv"})
    assert reply.headers["content-type"].startswith("text/csv")
    header, *lines = reply.body.splitlines()
    assert header == "customer_id,window_start,window_end,hourly_spend,order_count,is_final"
    assert {line.split(",")[0] for line in lines} == {"c2"}


def test_pages_are_of_one_state_until_it_is_gone(spark: SparkSession, story: Story, tmp_path: Path) -> None:
    here = story.copy(tmp_path / "lake")
    before = of_spark(spark, here)
    table = view_path(here.lake.root, SPEND.name, "speed", SPEND.version)
    with served(here.lake.root) as ask:
        first = ask(f"/views/{SPEND.name}", limit=2).json
        held = DeltaTable(table).to_pyarrow_table(filters=[("customer_id", "=", "c-closing")])
        dear = held.set_column(
            held.column_names.index("customer_id"), "customer_id", pa.array(["a-new-one"], pa.string())
        )
        write_deltalake(table, dear, mode="append")
        pages = [first]
        while "next" in pages[-1]:
            pages.append(ask(pages[-1]["next"]).json)
        assert [row for page in pages for row in page["rows"]] == before
        assert len(pages) == -(-len(before) // 2)
        assert ask(f"/views/{SPEND.name}").json["rows"][0]["customer_id"] == "a-new-one"
        other = ask(first["next"].replace("limit=2", "limit=2&customer_id=c2"))
        assert (other.status, "another question" in other.json["message"]) == (400, True)

        for file in DeltaTable(table).file_uris():
            Path(file).unlink()
        gone = ask(first["next"])
        assert gone.status == 410, gone
        assert "Begin anew" in gone.json["message"]


def test_as_of_a_moment_all_is_as_it_was(
    spark: SparkSession, story: Story, ask: Callable[..., Reply]
) -> None:
    state = serving.states(None, story.settings, SPEND)[SPEND.name]
    assert state.batch is not None
    assert state.speed is not None
    published, made = (commit(None, table.path, table.version) for table in (state.batch, state.speed))
    assert published is not None
    assert made is not None

    def at(time: datetime) -> Reply:
        return ask(f"/views/{SPEND.name}", as_of=time.isoformat())

    before_batch = at(published.made_at - timedelta(milliseconds=1)).json
    assert before_batch["horizon"] is None
    assert [{**row, "is_final": None} for row in before_batch["rows"]] == [
        {**row, "is_final": None} for row in of_spark(spark, story.settings, "speed")
    ]
    (fresh,) = before_batch["freshness"]
    assert (fresh["batch_version"], fresh["speed_version"]) == (None, state.speed.version)
    assert at(published.made_at).json["rows"] == of_spark(spark, story.settings)
    earlier = at(made.made_at - timedelta(milliseconds=1)).json
    assert 0 < len(earlier["rows"]) < len(before_batch["rows"])
    assert at(datetime(2020, 1, 1, tzinfo=timezone.utc)).status == 404


def test_the_command_line_asks_as_of_a_moment_too(
    story: Story, ask: Callable[..., Reply], capsys: pytest.CaptureFixture[str]
) -> None:
    state = serving.states(None, story.settings, SPEND)[SPEND.name]
    assert state.batch is not None
    published = commit(None, state.batch.path, state.batch.version)
    assert published is not None
    time = (published.made_at - timedelta(milliseconds=1)).isoformat()
    command = [
        "query",
        SPEND.name,
        "--as-of",
        time,
        "--format",
        "json",
        f"--set=lake.root={story.settings.lake.root}",
    ]
    capsys.readouterr()
    assert cli.main(command) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    expected = ask(f"/views/{SPEND.name}", as_of=time).json["rows"]
    assert sorted(lines, key=lambda row: [row[key] for key in SPEND.keys]) == expected


def test_a_token_is_asked_for(story: Story) -> None:
    with served(story.settings.lake.root, "--set=serve.token=${env:THE_TOKEN}", THE_TOKEN="sesame") as ask:
        basic = base64.b64encode(b"anybody:sesame").decode()
        wrong = base64.b64encode(b"anybody:sesam").decode()
        assert ask("/healthz").status == 200
        for path in ("/views", "/", "/metrics", "/openapi.json", "/live.js", f"/views/{SPEND.name}"):
            assert ask(path).status == 401
        assert ask("/views", headers={"Authorization": f"Basic {wrong}"}).status == 401
        assert ask("/views", headers={"Authorization": "Bearer sesame2"}).status == 401
        assert ask("/views", headers={"Authorization": "Basic ?"}).status == 401
        assert ask("/views", headers={"Authorization": "Bearer sesame"}).status == 200
        assert ask("/views", headers={"Authorization": f"Basic {basic}"}).status == 200


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["serve.host=0.0.0.0"], "serve.token"),
        (["serve.token=sesame"], "secret"),
        (["serve.port=70000"], "65535"),
        (["lake.root=/no/such/lake"], "no lake"),
        (["lake.root=s3a://bucket/lake"], "file system"),
    ],
)
def test_it_does_not_begin_where_it_should_not(
    story: Story, capsys: pytest.CaptureFixture[str], options: list[str], told: str
) -> None:
    given = [f"lake.root={story.settings.lake.root}", *options]
    assert cli.main(["serve", *(f"--set={one}" for one in given)]) in (2, 4)
    assert told in capsys.readouterr().err


def test_a_taken_port_is_said(story: Story, ask: Any, capsys: pytest.CaptureFixture[str]) -> None:
    port = ask.url.rpartition(":")[2]
    given = [f"--set=lake.root={story.settings.lake.root}", f"--set=serve.port={port}"]
    assert cli.main(["serve", *given]) == 2
    assert "serve.port=0" in capsys.readouterr().err


def test_what_takes_too_long_is_broken_off(story: Story, monkeypatch: pytest.MonkeyPatch) -> None:
    here = replace(story.settings, serve=replace(story.settings.serve, timeout_seconds=1))
    asking = answers.Answers(here)
    question = asked(SPEND, [("layer", "speed")], max_rows=10)
    endless = f"SELECT {', '.join(f'NULL AS {name}' for name in SPEND.columns)} FROM range(10000000000000) WHERE random() < 0"
    with monkeypatch.context() as patched:
        patched.setattr(answers, "layer_sql", lambda *_: endless)
        with pytest.raises(answers.TooLong, match="timeout_seconds"):
            asking.answer(question)
    assert len(asking.answer(question).rows) > 4


@pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium here; on Debian: apt-get install chromium")
def test_a_browser_shows_the_live_page_and_refreshes_it(story: Story, tmp_path: Path) -> None:
    """The script's pause is virtual time: the browser lets 25 seconds pass at once."""
    assert CHROMIUM is not None
    here = story.copy(tmp_path / "lake")
    shutil.rmtree(tmp_path / "lake" / "repairs")  # the story's has not all columns of one
    with served(here.lake.root, "--set=serve.refresh_seconds=1") as ask:
        done = subprocess.run(
            [
                CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr",
                f"--user-data-dir={tmp_path / 'profile'}", "--virtual-time-budget=25000", "--dump-dom",
                ask.url,  # type: ignore[attr-defined]
            ],
            capture_output=True,
            text=True,
            timeout=120,
            check=True,
        )  # fmt: skip
        pages = re.search(r'pipeline_requests_total\{path="/",status="200"\} (\d+)', ask("/metrics").body)
    assert [line for line in done.stderr.splitlines() if "CONSOLE" in line] == []
    assert "<svg" in done.stdout
    assert pages is not None
    assert int(pages[1]) >= 2, "the script has asked for a newer page"
