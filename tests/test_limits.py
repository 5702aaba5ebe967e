"""`pipeline status --check`: what has a limit is judged, told once, and over when it is over."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline import cli, status
from pipeline.settings import Settings
from slack_server import slack
from story import Story

pytestmark = pytest.mark.kafka


def test_what_is_over_its_limit_is_told_until_it_is_not(
    story: Story, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def check(**limits: int) -> int:
        given = {
            "lake.root": story.settings.lake.root,
            "kafka.bootstrap_servers": story.settings.kafka.bootstrap_servers,
            "kafka.topics.orders": story.settings.kafka.topics.orders,
            "kafka.topics.products": story.settings.kafka.topics.products,
            "kafka.topics.text_lines": story.settings.kafka.topics.text_lines,
            "alerts.webhook_url": "${env:HOOK}",
            "alerts.state_file": tmp_path / "alerts.db",
            **{f"alerts.{name}": limit for name, limit in limits.items()},
        }
        capsys.readouterr()
        return cli.main(["status", "--check", *(f"--set={key}={value}" for key, value in given.items())])

    with slack() as channel:
        monkeypatch.setenv("HOOK", channel.webhook)
        assert check() == 0
        assert "no limit is set" in capsys.readouterr().out
        assert (
            check(max_dead_percent=1, max_late_percent=1, max_batch_age_hours=1, max_lag_records=1_000_000)
            == 1
        )
        told = capsys.readouterr().err
        assert (
            f"{story.settings.kafka.topics.orders}: 2 of the newest 16 records are dead, 12.5 percent" in told
        )
        assert "customer_hourly_spend: 1 of the newest" in told
        assert "BatchTooOld" not in told
        assert "lag of" not in told
        assert check(max_dead_percent=1, max_late_percent=1) == 1
        assert check(max_dead_percent=90, max_late_percent=90) == 0
        assert "late share of customer_hourly_spend" in capsys.readouterr().out
        texts = channel.texts
    dead = [text for text in texts if story.settings.kafka.topics.orders in text]
    assert [("DeadOverLimit" in text, "over:" in text) for text in dead] == [(True, False), (True, True)]
    late = [text for text in texts if "LateOverLimit" in text and "customer_hourly_spend" in text]
    assert ["over:" in text for text in late] == [False, True]


def test_an_old_batch_and_an_old_unread_record_are_over(story: Story) -> None:
    from dataclasses import replace

    from pipeline import limits

    report = status.look(story.settings)
    aged = replace(
        report,
        views=[replace(one, age_seconds=3601.0 * 2 if one.published_at else None) for one in report.views],
        queries=[replace(one, lag_seconds=61.0, lag_records=8) for one in report.queries],
    )
    asked = replace(story.settings.alerts, max_batch_age_hours=2, max_lag_seconds=60, max_lag_records=8)
    found = {one.subject: one for one in limits.findings(aged, asked)}
    assert "7202" not in str(found["age of customer_hourly_spend"].error)
    assert "published 2.0 hours ago" in str(found["age of customer_hourly_spend"].error)
    assert "61 s old" in str(found["age of ingest_v1"].error)
    assert (found["lag of ingest_v1"].error, found["lag of ingest_v1"].job) == (None, "ingest")
    assert "age of enriched_orders" not in found


def test_a_running_replay_raises_no_alert_of_lag(
    monkeypatch: pytest.MonkeyPatch, base_settings: Settings
) -> None:
    from dataclasses import replace
    from types import SimpleNamespace
    from typing import Any, cast

    from pipeline import lag, limits

    told: list[limits.Finding] = []
    monkeypatch.setattr(limits, "tell", told.append)
    asked = replace(base_settings.alerts, max_lag_records=1)
    now = SimpleNamespace(
        query="word_counts_v1r1",
        records_behind=9,
        records_read=1,
        duration_ms=1,
        batch_id=0,
        watermark=None,
    )
    for job in ("replay", "speed"):
        lag._Watch(job, [], asked, lambda *_: None)(cast("Any", now))
        assert len(told) == (job == "speed")
