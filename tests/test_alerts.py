"""A problem is told once and its end once, whatever Slack does, and nobody waits for it."""

from __future__ import annotations

import logging
import socket
import sqlite3
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pyspark.sql import SparkSession

from lake import order, send
from pipeline import alerts, cli, console, ingest, lag
from pipeline.alerts import Alerts, Problem
from pipeline.errors import CheckFailed, ConfigurationError, SetupError
from pipeline.progress import records_behind
from pipeline.session import _defaults
from pipeline.settings import Settings, load, without_secrets
from pipeline.slack import poster
from slack_server import Reply, Slack, slack

SECRET = "xoxb-very-secret-token"
FAILED = Problem("batch", "run", step="batch word_counts", name="QueryFailed", error="no such <column> & row")


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def state(tmp_path: Path) -> Path:
    return tmp_path / "alerts.db"


def settings_for(here: Slack | str, state: Path, *overrides: str, by_token: bool = False) -> Settings:
    address = here if isinstance(here, str) else here.url
    hook = f"{address}services/T000/B000/very-secret-hook"
    way = ["alerts.token=${env:TOKEN}"] if by_token else ["alerts.webhook_url=${env:HOOK}"]
    return load(
        "test",
        [*way, f"alerts.api_url={address}", f"alerts.state_file={state}", "lake.root=/lake", *overrides],
        {"TOKEN": SECRET, "HOOK": hook},
    )


def alerts_for(here: Slack | str, state: Path, *, by_token: bool = False) -> Alerts:
    settings = settings_for(here, state, by_token=by_token)
    post = poster(settings.alerts)
    assert post is not None
    return Alerts(post, lake="/lake", state_file=state, mask=lambda text: without_secrets(settings, text))


def told(here: Slack | str, state: Path, *reports: Any, patience_seconds: float = 10) -> float:
    """Report in a process of its own, so to say; the seconds until it is over."""
    began = time.monotonic()
    sender = alerts_for(here, state)
    for one in reports:
        sender.put(one)
    sender.close(patience_seconds)
    return time.monotonic() - began


def open_problems(state: Path) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(state)) as file:
        return file.execute("SELECT job, subject, told_at IS NOT NULL, over_at FROM problems").fetchall()


def test_a_message_names_job_step_and_error(state: Path) -> None:
    with slack() as here:
        told(here, state, FAILED)
        (text,) = here.texts
    assert "job *batch* · step *batch word_counts* · QueryFailed" in text
    assert "no such &lt;column&gt; &amp; row" in text
    assert "lake /lake" in text


def test_a_token_posts_to_the_channel(state: Path) -> None:
    with slack() as here:
        sender = alerts_for(here, state, by_token=True)
        sender.put(FAILED)
        sender.close(10)
        ((path, headers, sent),) = here.requests
    assert (path, sent["channel"]) == ("/chat.postMessage", "#data-alerts")
    assert headers["Authorization"] == f"Bearer {SECRET}"


def test_one_message_for_one_fact_also_over_a_restart(state: Path) -> None:
    again = Problem("batch", "run", step="batch word_counts", name="QueryFailed", error="another text")
    with slack() as here:
        told(here, state, FAILED, again, FAILED)
        told(here, state, FAILED)
        assert len(here.texts) == 1


def test_another_error_is_another_fact(state: Path) -> None:
    other = Problem("batch", "run", step="batch word_counts", name="DiskFull", error="no space")
    with slack() as here:
        told(here, state, FAILED)
        told(here, state, other)
        assert ["DiskFull" in text for text in here.texts] == [False, True]


def test_the_end_is_told_once_and_then_it_may_come_again(state: Path) -> None:
    with slack() as here:
        told(here, state, ("batch", "run"))
        told(here, state, FAILED)
        told(here, state, ("batch", "run"), ("batch", "run"))
        told(here, state, ("batch", "run"))
        told(here, state, FAILED)
        assert [text.split(":")[1] for text in here.texts] == [
            "red_circle",
            "large_green_circle",
            "red_circle",
        ]


def test_a_scheduler_says_only_what_the_job_has_not_said(state: Path) -> None:
    killed = Problem("batch", "run", step="batch", name="StepFailed", error="killed")
    with slack() as here:
        settings = settings_for(here, state)
        alerts.report_for(settings, killed, since=time.time())
        began = time.time()
        told(here, state, FAILED)
        alerts.report_for(settings, killed, since=began)
        assert [text.split(" · ")[1] for text in here.texts] == ["step *batch*", "step *batch word_counts*"]
        alerts.report_for(settings, killed, since=time.time())
        assert len(here.texts) == 3
        alerts.report_for(settings, killed, since=began)
        told(here, state, ("batch", "run"))
        assert "large_green_circle" in here.texts[-1]


def test_at_most_one_a_second_over_all_processes(state: Path) -> None:
    with slack() as here:
        for number in range(3):
            told(here, state, Problem("quality", f"rule {number}", "rule", "ExpectationFailed", "no"))
        gaps = [later - earlier for earlier, later in zip(here.times, here.times[1:], strict=False)]
    assert len(here.texts) == 3
    assert all(gap > 0.95 for gap in gaps), gaps


def test_retry_after_is_honoured_also_by_the_next_process(state: Path) -> None:
    with slack(Reply(429, "", {"Retry-After": "3"}), Reply()) as here:
        told(here, state, FAILED, patience_seconds=0.5)
        told(here, state)
        assert (len(here.times), len(here.texts)) == (2, 1)
        assert here.times[1] - here.times[0] > 2.9


def test_the_end_waits_for_many_messages_as_long_as_they_are_taken(state: Path) -> None:
    rules = [Problem("quality", f"rule {number}", "rule", "ExpectationFailed", "no") for number in range(4)]
    with slack() as here:
        assert told(here, state, *rules, patience_seconds=1.5) > 2.9
        assert len(here.texts) == 4


@pytest.mark.parametrize(
    "refusal", [Reply(500, "<html>no</html>"), Reply(200, '{"ok": false, "error": "channel_not_found"}')]
)
def test_a_refused_message_is_tried_again(refusal: Reply, state: Path) -> None:
    with slack(refusal, Reply()) as here:
        sender = alerts_for(here, state, by_token=True)
        sender.put(FAILED)
        sender.close(10)
        assert (len(here.times), len(here.texts)) == (2, 1)
    assert open_problems(state) == [("batch", "run", 1, None)]


def test_nobody_waits_for_a_slow_slack(state: Path) -> None:
    with slack(Reply(after_seconds=2)) as here:
        sender = alerts_for(here, state)
        for number in range(500):
            sender.put(Problem("speed", f"lag {number}", "lag", "LagOverLimit", "behind"))
        sender.close(0.2)
        assert len(here.texts) < 500
    assert len(open_problems(state)) == 500


def test_what_a_hanging_slack_did_not_take_is_told_by_the_next_job(state: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr("pipeline.problems._CLAIM_SECONDS", 0.5)
    with slack(Reply(hangs=True)) as here:
        sender = alerts_for(here, state)
        sender.put(FAILED)
        here.wait_for(1)
        sender.put(Problem("etl-orders", "run", "load", "WarehouseUnreachable", "no answer"))
        sender.close(0.3)
        assert {row[0] for row in open_problems(state)} == {"batch", "etl-orders"}
    with slack() as here:
        told(here, state)
        assert len(here.texts) == 2


def test_without_a_slack_at_all_nothing_fails(state: Path) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{closed.getsockname()[1]}/"
        told(address, state, FAILED, patience_seconds=0.5)
    assert open_problems(state) == [("batch", "run", 0, None)]


def test_more_reports_than_the_queue_holds_are_dropped(state: Path, monkeypatch: Any, caplog: Any) -> None:
    monkeypatch.setattr(alerts, "BACKLOG", 3)
    with slack(Reply(hangs=True)) as here:
        sender = alerts_for(here, state)
        sender.put(FAILED)
        here.wait_for(1)
        for number in range(5):
            sender.put(Problem("quality", f"rule {number}", "rule", "ExpectationFailed", "no"))
        sender.close(0.1)
    assert len(open_problems(state)) == 1 + 3
    assert "dropped" in caplog.text


def test_a_state_file_that_cannot_be_used_costs_only_the_memory(tmp_path: Path, caplog: Any) -> None:
    (tmp_path / "file").write_text("")
    with slack() as here:
        told(here, tmp_path / "file" / "alerts.db", FAILED)
        assert len(here.texts) == 1
    assert "cannot be used" in caplog.text


def test_a_state_file_that_breaks_on_the_way_is_left(state: Path, caplog: Any) -> None:
    with slack(Reply(after_seconds=0.5)) as here:
        sender = alerts_for(here, state)
        sender.put(FAILED)
        here.wait_for(1)
        with closing(sqlite3.connect(state)) as file:
            file.execute("DROP TABLE problems")
            file.commit()
        sender.put(Problem("etl-orders", "run", "load", "DiskFull", "no space"))
        sender.close(10)
        assert len(here.texts) >= 2
    assert "going on without it" in caplog.text


def test_lakes_do_not_hear_of_each_other(state: Path) -> None:
    with slack(Reply(500)) as here:
        told(here, state, FAILED, patience_seconds=0.3)
    with slack() as here:
        settings = settings_for(here, state, "lake.root=/other")
        with alerts.sending(settings):
            pass
        assert here.texts == []


@pytest.mark.parametrize("by_token", [True, False])
@pytest.mark.parametrize("reply", [Reply(), Reply(500), Reply(200, '{"ok": false, "error": "invalid_auth"}')])
def test_the_secret_is_said_nowhere(
    by_token: bool, reply: Reply, state: Path, caplog: Any, capfd: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.DEBUG)
    monkeypatch.setattr(alerts, "PATIENCE_SECONDS", 0.3)
    error = f"cannot reach {SECRET} at http://user:pass@host/ with very-secret-hook"
    with slack(reply) as here:
        settings = settings_for(here, state, by_token=by_token)
        with alerts.sending(settings):
            alerts.report(Problem("batch", "run", "step", "Error", f"{error} {settings.alerts.webhook_url}"))
            here.wait_for(1)
        texts = " ".join(sent["text"] for _, _, sent in here.requests)
    said = caplog.text + "".join(capfd.readouterr()) + repr(settings) + repr(_defaults(settings))
    assert SECRET not in said
    assert "services/T000" not in said
    assert "user:pass" not in texts
    assert (SECRET if by_token else "services/T000") not in texts


def test_an_address_that_is_none_is_not_in_the_error(state: Path, caplog: Any) -> None:
    caplog.set_level(logging.DEBUG)
    told("http://127.0.0.1:1/very secret address/", state, FAILED, patience_seconds=0.3)
    assert "secret" not in caplog.text


@pytest.mark.parametrize(
    ("override", "key"),
    [
        (f"alerts.token={SECRET}", "alerts.token"),
        ("alerts.webhook_url=https://hooks.example/very-secret", "alerts.webhook_url"),
        ("alerts.webhook_url=${env:PLAIN}", "alerts.webhook_url"),
        ("alerts.chanel=#x", "alerts.chanel"),
    ],
)
def test_a_secret_comes_only_from_elsewhere_and_goes_only_by_https(override: str, key: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        load("test", [override], {"PLAIN": "http://hooks.example/very-secret"})
    assert caught.value.key == key
    assert "very-secret" not in caught.value.message


def test_a_variable_may_hold_the_secret_itself() -> None:
    settings = load("test", [], {"PIPELINE_ALERTS__TOKEN": SECRET})
    assert settings.alerts.token == SECRET
    assert SECRET not in repr(settings)


def test_two_ways_are_refused() -> None:
    ways = {"PIPELINE_ALERTS__TOKEN": SECRET, "PIPELINE_ALERTS__WEBHOOK_URL": "https://hooks.example/x"}
    with pytest.raises(ConfigurationError):
        load("test", [], ways)


def test_alerts_without_slack_sdk_say_what_to_install(state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "slack_sdk", None)
    with pytest.raises(SetupError, match=r"pipeline\[alerts\]"):
        poster(settings_for("http://127.0.0.1:1/", state).alerts)


def test_without_slack_nothing_is_kept(state: Path) -> None:
    with alerts.sending(load("test", [f"alerts.state_file={state}"], {})):
        alerts.report(FAILED)
    assert not state.exists()


def test_no_thread_is_left_behind(state: Path) -> None:
    with slack(Reply(500)) as here:
        told(here, state, FAILED, patience_seconds=0.2)
        until = time.monotonic() + 5
        while any(thread.name == "alerts" for thread in threading.enumerate()):
            assert time.monotonic() < until
            time.sleep(0.01)


@pytest.fixture
def job(state: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Runs `pipeline batch` with a batch that does what is asked, and gives its exit code and what Slack took."""
    import pipeline.batch

    def run(here: Slack, outcome: Exception | None) -> int:
        def batch(*_: object, **__: object) -> None:
            with console.step("batch word_counts"):
                if outcome is not None:
                    raise outcome

        monkeypatch.setattr(pipeline.batch, "run", batch)
        monkeypatch.setenv("HOOK", here.webhook)
        overrides = ["alerts.webhook_url=${env:HOOK}", f"alerts.state_file={state}"]
        return cli.main(["batch", *(word for one in overrides for word in ("--set", one))])

    return run


def test_a_failed_job_is_told_and_then_that_it_is_well(job: Any, capsys: Any) -> None:
    with slack() as here:
        assert job(here, CheckFailed("3 rows differ")) == 1
        assert job(here, CheckFailed("3 rows differ")) == 1
        assert job(here, None) == 0
        first, second = here.texts
    assert "job *batch* · step *batch word_counts* · CheckFailed" in first
    assert "3 rows differ" in first
    assert "over:" in second
    assert "very-secret-hook" not in "".join(capsys.readouterr())


def test_a_job_ends_with_its_own_code_when_slack_hangs(job: Any) -> None:
    with slack(Reply(hangs=True)) as here:
        assert job(here, ZeroDivisionError("by zero")) == 70


def progress(latest: int, end: int) -> dict[str, Any]:
    offsets = [f'{{"orders": {{"0": {count}, "1": {count}}}}}' for count in (latest, end)]
    source = {
        "description": "KafkaV2[Subscribe[orders]]",
        "latestOffset": offsets[0],
        "endOffset": offsets[1],
    }
    return {"sources": [source, {"description": "DeltaSource[x]", "latestOffset": None, "endOffset": None}]}


def test_lag_is_counted_over_the_partitions() -> None:
    assert records_behind(progress(1_000, 400)) == 1_200
    assert records_behind(progress(400, 400)) == 0


@pytest.mark.kafka
def test_a_query_behind_its_topics_is_told_until_it_has_caught_up(
    spark: SparkSession, settings: Settings, state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lag, "_EVERY_SECONDS", 0)
    send(settings, [order(f"o{number}", partition=number % 2) for number in range(20)])
    with slack() as here:
        limited = replace(settings_for(here, state).alerts, max_lag_records=10)
        whole = replace(settings, alerts=limited, ingest=replace(settings.ingest, max_offsets_per_trigger=6))
        with alerts.sending(whole):
            ingest.run(whole, once=True)
        here.wait_for(2)
        behind, over = here.texts
    assert "job *ingest* · step *ingest_v1* · LagOverLimit" in behind
    assert "14 records behind" in behind
    assert "over:" in over
