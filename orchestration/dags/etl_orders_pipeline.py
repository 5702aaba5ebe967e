"""The shop in Postgres into the lake and the warehouse, every night, one task for each step.

A task runs `pipeline etl-orders --step …`. What a step leaves for the next lies in tables, so each task can be cleared
and run again alone, and a run that was killed anywhere gives the same tables when it is tried again.

The connection `warehouse` (Postgres) is where the facts go, `shop` where the orders come from; one that is not defined is
taken from the configuration of `pipeline`. The variable PIPELINE of the workers names the executable.
"""

from __future__ import annotations

import os
from datetime import datetime, timezone
from typing import Any

from airflow.exceptions import AirflowNotFoundException
from airflow.providers.standard.hooks.subprocess import SubprocessHook
from airflow.sdk import DAG, BaseHook, BaseOperator, Context, chain

from pipeline import scheduled
from pipeline.schedule import ETL_ORDERS, Step

CONNECTIONS = {
    "shop": "PIPELINE_POSTGRES__SOURCE_URL",
    "warehouse": "PIPELINE_POSTGRES__WAREHOUSE_URL",
}
STEPS = {step.name: step for step in ETL_ORDERS.steps}


class StepOperator(BaseOperator):
    """Runs the step's command, its output in the task's log; whoever stops the task stops the command."""

    def __init__(self, *, step: Step, **options: Any) -> None:
        super().__init__(task_id=step.name, **options)
        self._hook = SubprocessHook()

    def execute(self, context: Context) -> None:  # noqa: ARG002  # Airflow gives it
        step = STEPS[self.task_id]
        ended = self._hook.run_command(scheduled.command(step), env=environ())
        scheduled.check(step, ended.exit_code, ended.output)

    def on_kill(self) -> None:
        self._hook.send_sigterm()


def environ() -> dict[str, str]:
    """The variables of this process, and the URLs of the connections that are defined."""
    urls = {}
    for connection_id, variable in CONNECTIONS.items():
        try:
            urls[variable] = BaseHook.get_connection(connection_id).get_uri()
        except AirflowNotFoundException:
            continue
    return {**os.environ, **urls}


def tell(context: Context) -> None:
    """A failure for good goes to the alert channel of `pipeline`, where the command could not say it itself."""
    task = context["ti"]
    scheduled.tell(
        ETL_ORDERS,
        STEPS[task.task_id],
        context.get("exception") or "the task was lost; its log says more",
        since=task.start_date.timestamp(),
        environ=environ(),
    )


with DAG(
    ETL_ORDERS.name,
    description="The shop in Postgres into the lake and the warehouse",
    doc_md=__doc__,
    schedule=ETL_ORDERS.cron,
    start_date=datetime(2026, 1, 1, tzinfo=timezone.utc),
    catchup=False,
    max_active_runs=1,
    default_args={
        "retries": ETL_ORDERS.retries,
        "retry_delay": ETL_ORDERS.retry_delay,
        "on_failure_callback": tell,
    },
    tags=["etl", "orders"],
) as dag:
    chain(*(StepOperator(step=step) for step in ETL_ORDERS.steps))
