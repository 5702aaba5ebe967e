"""The schedules: what they name exists."""

from __future__ import annotations

import pytest

from pipeline import cli, etl
from pipeline.errors import StepFailed
from pipeline.schedule import DAILY, ETL_ORDERS, LOAD, Schedule
from pipeline.scheduled import check, command


@pytest.mark.parametrize("schedule", [ETL_ORDERS, DAILY])
def test_every_step_is_a_job_of_the_command_line(schedule: Schedule) -> None:
    for step in schedule.steps:
        assert cli._parser().parse_args(step.arguments).is_job, step.name
    names = [step.name for step in schedule.steps]
    assert len({*names}) == len(names)


def test_the_steps_of_the_etl_are_those_that_it_has_and_a_stream_ends() -> None:
    assert tuple(step.name for step in ETL_ORDERS.steps) == etl.STEPS
    for step in DAILY.steps:
        arguments = cli._parser().parse_args(step.arguments)
        assert getattr(arguments, "once", True), step.name


def test_the_variable_names_the_executable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PIPELINE", raising=False)
    assert command(LOAD) == ["pipeline", "etl-orders", "--step", "load"]
    monkeypatch.setenv("PIPELINE", "/opt/pipeline/bin/pipeline")
    assert command(LOAD)[0] == "/opt/pipeline/bin/pipeline"


@pytest.mark.parametrize(("exit_code", "words"), [(3, "exit code 3"), (-9, "signal SIGKILL")])
def test_a_step_that_ended_badly_says_how(exit_code: int, words: str) -> None:
    with pytest.raises(StepFailed, match=words) as caught:
        check(LOAD, exit_code, "no space left")
    assert (caught.value.step, caught.value.ended_with) == ("load", exit_code)
    assert "no space left" in caught.value.message
    check(LOAD, 0, "")
