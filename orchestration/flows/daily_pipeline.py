"""The flow `daily_pipeline`: every layer once a day, one task for each step, in order.

`python orchestration/flows/daily_pipeline.py` serves it on its schedule until stopped. A task runs a command of `pipeline`;
the variable PIPELINE names the executable, PIPELINE_ENV the environment of the scheduled runs.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping
from typing import Any

from prefect import Task, flow, get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import ConcurrencyLimitConfig, ConcurrencyLimitStrategy
from prefect.transactions import Transaction, transaction

from pipeline import scheduled
from pipeline.schedule import DAILY, LOAD, Step


@flow(name=DAILY.name)
def daily_pipeline(environment: str | None = None) -> None:
    """The steps one after the other; the first that fails for good ends the run.

    The load stands in a transaction of Prefect's, which by itself undoes nothing: it only says, in the run's log, what
    Postgres has done. The load is one transaction there, in which the facts, the run and its watermarks are put in together.
    A rollback here means that no try has committed it; the lake's `fact_orders` may have the rows already, and the next run
    puts the same ones in again. A commit here means that Postgres has committed. `environment` is one of `conf/`.
    """
    environ = {**os.environ, **({"PIPELINE_ENV": environment} if environment else {})}
    for step in DAILY.steps:
        run = _task(step, environ)
        if step == LOAD:
            with transaction() as load:
                load.on_commit_hooks.append(committed)
                load.on_rollback_hooks.append(rolled_back)
                run()
        else:
            run()


def _task(step: Step, environ: Mapping[str, str]) -> Task[[], None]:
    """The step with its retries; if it fails for good, that goes to the alert channel where its command could not say it."""

    def tell(_: object, task_run: Any, state: Any) -> None:
        error = state.result(raise_on_failure=False)
        scheduled.tell(DAILY, step, error, since=task_run.start_time.timestamp(), environ=environ)

    @task(
        name=step.name,
        task_run_name=step.name,
        retries=DAILY.retries,
        retry_delay_seconds=DAILY.retry_delay.total_seconds(),
        cache_policy=NO_CACHE,
        on_failure=[tell],
    )
    def run() -> None:
        scheduled.check(step, *_ran(scheduled.command(step), environ))

    return run


def _ran(command: list[str], environ: Mapping[str, str]) -> tuple[int, str]:
    """Run the command, its output in the run's log; its exit code and last line. Whoever stops us stops it."""
    log, line = get_run_logger(), ""
    with subprocess.Popen(
        command, env=environ, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
    ) as process:
        try:
            for line in process.stdout or ():
                log.info("%s", line.rstrip())
        except BaseException:
            process.terminate()
            raise
    return process.returncode, line.rstrip()


def committed(_: Transaction) -> None:
    get_run_logger().info("the load is committed: its facts are in the warehouse")


def rolled_back(_: Transaction) -> None:
    get_run_logger().warning("the load is rolled back: the warehouse is as before; the next run loads again")


if __name__ == "__main__":
    daily_pipeline.serve(
        name="daily",
        cron=DAILY.cron,
        parameters={"environment": os.environ.get("PIPELINE_ENV")},
        # A run that was missed comes late; while another one runs it is cancelled, not queued.
        global_limit=ConcurrencyLimitConfig(limit=1, collision_strategy=ConcurrencyLimitStrategy.CANCEL_NEW),
    )
