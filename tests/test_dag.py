"""The DAG in a real Airflow, which lives in an environment of its own: `make airflow` builds it."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import pytest

from commands import PIPELINE, always_killed, killed_once_at
from pipeline.devservices import postgres
from pipeline.schedule import ETL_ORDERS
from shopping import SEEDED_FACTS, SEEDED_MONTHS, databases, facts, months, seed
from slack_server import Slack, slack

ROOT = Path(__file__).parents[1]
DAGS = ROOT / "orchestration" / "dags"
AIRFLOW = ROOT / ".venv-airflow" / "bin"

pytestmark = [
    pytest.mark.postgres,
    pytest.mark.skipif(
        not (AIRFLOW / "airflow").exists(), reason="there is no .venv-airflow; `make airflow` builds it"
    ),
]

# The real DAG; only nobody waits five minutes for a retry.
_IMPATIENT = """
from datetime import timedelta
from etl_orders_pipeline import dag

for task in dag.tasks:
    task.retry_delay = timedelta(seconds=1)
"""

_DESCRIBED = """
import json
from airflow.dag_processing.dagbag import DagBag

bag = DagBag()
assert not bag.import_errors, bag.import_errors
dag = bag.dags["etl_orders_pipeline"]
print(json.dumps({
    "schedule": dag.schedule,
    "catchup": dag.catchup,
    "max_active_runs": dag.max_active_runs,
    "start": dag.start_date.isoformat(),
    "tasks": {t.task_id: [t.retries, t.retry_delay.total_seconds(), *t.downstream_task_ids] for t in dag.tasks},
}))
"""


class Airflow(NamedTuple):
    """An Airflow with its database in `home`, which sees the folder `dags`."""

    home: Path

    def run(self, *command: str, dags: Path, **variables: str) -> subprocess.CompletedProcess[str]:
        environ = {name: value for name, value in os.environ.items() if not name.startswith("PIPELINE")}
        return subprocess.run(
            [str(AIRFLOW / command[0]), *command[1:]],
            env={
                **environ,
                "AIRFLOW_HOME": str(self.home),
                "AIRFLOW__CORE__DAGS_FOLDER": str(dags),
                "AIRFLOW__CORE__DAG_DISCOVERY_SAFE_MODE": "False",
                "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
                "AIRFLOW__USAGE_DATA_COLLECTION__ENABLED": "False",
                "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(DAGS)]),
                **variables,
            },
            capture_output=True,
            text=True,
            timeout=900,
        )

    def test_dag(self, folder: Path, **variables: str) -> subprocess.CompletedProcess[str]:
        dags = folder / "dags"
        dags.mkdir(exist_ok=True)
        (dags / "impatient.py").write_text(_IMPATIENT)
        return self.run("airflow", "dags", "test", ETL_ORDERS.name, dags=dags, **variables)


@pytest.fixture(scope="module")
def airflow(tmp_path_factory: pytest.TempPathFactory) -> Airflow:
    found = Airflow(tmp_path_factory.mktemp("airflow"))
    made = found.run("airflow", "db", "migrate", dags=DAGS)
    assert made.returncode == 0, made.stdout + made.stderr
    return found


@pytest.fixture
def here() -> Iterator[Slack]:
    with slack() as running:
        yield running


def variables(folder: Path, here: Slack, pipeline: Path, **given: str) -> Mapping[str, str]:
    """What a step sees: a lake and a channel of its own."""
    return {
        "PIPELINE": str(pipeline),
        "PIPELINE_ENV": "test",
        "PIPELINE_LAKE__ROOT": str(folder / "lake"),
        "PIPELINE_ALERTS__WEBHOOK_URL": here.webhook,
        "PIPELINE_ALERTS__STATE_FILE": str(folder / "alerts.db"),
        "NO_PROXY": "127.0.0.1",
        **given,
    }


def test_the_dag_is_the_schedule(airflow: Airflow) -> None:
    ran = airflow.run("python", "-c", _DESCRIBED, dags=DAGS)
    assert ran.returncode == 0, ran.stderr
    described = json.loads(ran.stdout.splitlines()[-1])
    assert described == {
        "schedule": "0 2 * * *",
        "catchup": False,
        "max_active_runs": 1,
        "start": "2026-01-01T00:00:00+00:00",
        "tasks": {
            "extract": [3, 300.0, "transform"],
            "transform": [3, 300.0, "load"],
            "load": [3, 300.0, "analyze"],
            "analyze": [3, 300.0],
        },
    }


def test_a_load_killed_between_lake_and_warehouse_is_tried_again(
    airflow: Airflow, postgres_server: postgres.Server, here: Slack, tmp_path: Path
) -> None:
    source, warehouse = databases(postgres_server)
    seed(source)
    pipeline = killed_once_at("etl: facts in the lake", tmp_path)
    ran = airflow.test_dag(
        tmp_path,
        **variables(tmp_path, here, pipeline, AIRFLOW_CONN_SHOP=source, AIRFLOW_CONN_WAREHOUSE=warehouse),
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert (tmp_path / "mark").exists()
    assert facts(warehouse) == SEEDED_FACTS
    assert months(warehouse) == SEEDED_MONTHS
    assert here.texts == []


def test_a_command_that_says_itself_why_it_failed_is_told_once(
    airflow: Airflow, here: Slack, tmp_path: Path
) -> None:
    nowhere = "postgresql://someone:hidden-word@127.0.0.1:1/warehouse"
    ran = airflow.test_dag(tmp_path, **variables(tmp_path, here, PIPELINE, AIRFLOW_CONN_WAREHOUSE=nowhere))
    assert ran.returncode != 0
    (text,) = here.texts
    assert "etl-orders" in text
    assert "PostgresUnreachable" in text
    assert "hidden-word" not in text


@pytest.mark.parametrize(
    ("make", "error"),
    [(always_killed, "StepFailed"), (lambda folder: folder / "missing", "FileNotFoundError")],
)
def test_what_the_command_cannot_say_is_told_by_the_callback(
    airflow: Airflow, here: Slack, tmp_path: Path, make: object, error: str
) -> None:
    assert callable(make)
    ran = airflow.test_dag(tmp_path, **variables(tmp_path, here, make(tmp_path)))
    assert ran.returncode != 0
    assert ran.stdout.count("running task") == 1 + ETL_ORDERS.retries
    (text,) = here.texts
    assert f"job *etl-orders* · step *extract* · {error}" in text
    assert "etl_orders_pipeline" in text
    assert "SIGKILL" in text or "missing" in text
