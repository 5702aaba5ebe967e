"""What Airflow and Prefect do alike: how a step is called, and how its failure is told. Needs no Spark."""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping
from typing import TYPE_CHECKING

from pipeline import alerts, settings
from pipeline.errors import StepFailed

if TYPE_CHECKING:
    from pipeline.schedule import Schedule, Step

__all__ = ["check", "command", "tell"]


def command(step: Step) -> list[str]:
    """The step's command line: the executable that the variable PIPELINE names, else `pipeline` from the PATH."""
    return [os.environ.get("PIPELINE") or "pipeline", *step.arguments]


def check(step: Step, exit_code: int, last_line: str) -> None:
    """Raises StepFailed unless the command has ended well; `exit_code` is negative where a signal killed it."""
    if exit_code:
        how = f"exit code {exit_code}" if exit_code > 0 else f"signal {signal.Signals(-exit_code).name}"
        said = f" The last line it wrote: {last_line}" if last_line else ""
        raise StepFailed(
            f"`{' '.join(['pipeline', *step.arguments])}` ended with {how}.{said}",
            step=step.name,
            ended_with=exit_code,
        )


def tell(
    schedule: Schedule, step: Step, error: BaseException | str, *, since: float, environ: Mapping[str, str]
) -> None:
    """Tell the alert channel that the step has failed for good, unless its command has done so itself since then.

    `environ` is what the command was given, `since` the beginning of its last try in seconds since 1970. The problem is
    that of the job, so the job's next success ends it.
    """
    problem = alerts.Problem(
        job=step.arguments[0],
        subject=alerts.RUN,
        step=step.name,
        name=type(error).__name__ if isinstance(error, BaseException) else "Failed",
        error=f"{schedule.name}: {error}",
    )
    alerts.report_for(settings.load(environ=environ), problem, since=since)
