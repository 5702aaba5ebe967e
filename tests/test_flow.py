"""The flow in a real Prefect, with its server on loopback, and the commands that it runs."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from types import ModuleType

import pytest

from commands import PIPELINE, always_killed, counted
from pipeline.devservices import postgres
from pipeline.schedule import DAILY, ETL_ORDERS, LOAD, Step
from shopping import SEEDED_FACTS, SEEDED_MONTHS, databases, facts, months, seed
from slack_server import Slack, slack

FLOW = Path(__file__).parents[1] / "orchestration" / "flows" / "daily_pipeline.py"
RETRIES = 2
SHOW = Step("show", ("config", "show"))


@pytest.fixture(scope="module", autouse=True)
def _server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patched:
        # Before Prefect is imported: it reads them then.
        patched.setenv("PREFECT_HOME", str(tmp_path_factory.mktemp("prefect")))
        patched.setenv("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
        patched.setenv("DO_NOT_TRACK", "1")
        from prefect.testing.utilities import prefect_test_harness

        with prefect_test_harness(server_startup_timeout=180):
            yield


@pytest.fixture
def flow(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The flow's module as loaded anew; nobody waits five minutes for a retry."""
    spec = importlib.util.spec_from_file_location("daily_pipeline", FLOW)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "daily_pipeline", module)
    spec.loader.exec_module(module)
    module.DAILY = replace(DAILY, retries=RETRIES, retry_delay=timedelta(0))
    return module


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Slack]:
    """A channel, and a lake of its own for what tells it."""
    with slack() as running:
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        monkeypatch.setenv("PIPELINE_LAKE__ROOT", str(tmp_path / "lake"))
        monkeypatch.setenv("PIPELINE_ALERTS__WEBHOOK_URL", running.webhook)
        monkeypatch.setenv("PIPELINE_ALERTS__STATE_FILE", str(tmp_path / "alerts.db"))
        yield running


@pytest.mark.postgres
def test_the_steps_of_the_etl_put_the_facts_into_the_warehouse(
    flow: ModuleType,
    here: Slack,
    postgres_server: postgres.Server,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    source, warehouse = databases(postgres_server)
    seed(source)
    monkeypatch.setenv("PIPELINE", str(counted(tmp_path)))
    monkeypatch.setenv("PIPELINE_POSTGRES__SOURCE_URL", source)
    monkeypatch.setenv("PIPELINE_POSTGRES__WAREHOUSE_URL", warehouse)
    committed: list[object] = []
    monkeypatch.setattr(flow, "committed", committed.append)
    flow.DAILY = replace(flow.DAILY, steps=ETL_ORDERS.steps)
    assert flow.daily_pipeline(environment="test", return_state=True).is_completed()
    assert facts(warehouse) == SEEDED_FACTS
    assert months(warehouse) == SEEDED_MONTHS
    assert len(committed) == 1
    calls = (tmp_path / "calls").read_text().splitlines()
    assert calls == [" ".join(step.arguments) for step in ETL_ORDERS.steps]
    assert here.texts == []


def test_a_load_that_fails_is_tried_again_rolled_back_and_ends_the_run(
    flow: ModuleType, here: Slack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIPELINE", str(counted(tmp_path)))
    monkeypatch.setenv("PIPELINE_POSTGRES__WAREHOUSE_URL", "postgresql://someone@127.0.0.1:1/warehouse")
    rolled_back, committed = [], []
    monkeypatch.setattr(flow, "rolled_back", rolled_back.append)
    monkeypatch.setattr(flow, "committed", committed.append)
    flow.DAILY = replace(flow.DAILY, steps=(SHOW, LOAD, replace(SHOW, name="after")))
    state = flow.daily_pipeline(return_state=True)
    assert state.is_failed()
    assert "exit code 3" in state.message
    calls = (tmp_path / "calls").read_text().splitlines()
    assert calls == ["config show"] + ["etl-orders --step load"] * (1 + RETRIES)
    (load,) = rolled_back
    assert load.is_rolled_back()
    assert committed == []
    (text,) = here.texts  # the command's own
    assert "PostgresUnreachable" in text


def test_what_the_command_cannot_say_is_told_by_the_flow(
    flow: ModuleType, here: Slack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIPELINE", str(always_killed(tmp_path)))
    assert flow.daily_pipeline(return_state=True).is_failed()
    (text,) = here.texts
    assert "job *ingest* · step *ingest* · StepFailed" in text
    assert "daily_pipeline" in text
    assert "SIGKILL" in text


def test_another_environment_is_given_to_the_commands(
    flow: ModuleType, here: Slack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIPELINE", str(PIPELINE))
    flow.DAILY = replace(flow.DAILY, steps=(SHOW,), retries=0)
    assert flow.daily_pipeline(environment="nowhere", return_state=True).is_failed()
    assert flow.daily_pipeline(environment="test", return_state=True).is_completed()
