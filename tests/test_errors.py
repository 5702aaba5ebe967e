"""The error tree: exit codes as the command line promises them, facts as attributes."""

from __future__ import annotations

import inspect

import pytest

from pipeline import errors


@pytest.mark.parametrize(
    ("error", "exit_code"),
    [
        (errors.PipelineError, 70),
        (errors.CheckFailed, 1),
        (errors.SourceMismatch, 1),
        (errors.DataTestsFailed, 1),
        (errors.KafkaFailed, 70),
        (errors.ModelsFailed, 70),
        (errors.InvalidEvent, 1),
        (errors.ValidationError, 1),
        (errors.DataContractError, 1),
        (errors.UsageError, 2),
        (errors.ConfigurationError, 2),
        (errors.DependencyError, 3),
        (errors.KafkaUnreachable, 3),
        (errors.KafkaRefused, 3),
        (errors.PostgresRefused, 1),
        (errors.PostgresUnreachable, 3),
        (errors.NotDelivered, 3),
        (errors.TopicMissing, 3),
        (errors.SetupError, 3),
        (errors.RefusedToStart, 4),
        (errors.AlreadyRunning, 4),
        (errors.CheckpointDamaged, 4),
        (errors.CheckpointMismatch, 4),
        (errors.DiskFull, 4),
        (errors.LeaseLost, 4),
        (errors.OffsetsLost, 4),
        (errors.PlanChanged, 4),
        (errors.TopicReplaced, 4),
        (errors.UnreadableRecord, 4),
    ],
)
def test_each_error_ends_with_its_exit_code(error: type[errors.PipelineError], exit_code: int) -> None:
    assert error.exit_code == exit_code
    assert issubclass(error, errors.PipelineError)


def test_only_dependencies_may_be_retried() -> None:
    transient = {name for name in errors.__all__ if issubclass(getattr(errors, name), errors.TransientError)}
    assert transient == {
        "TransientError",
        "DependencyError",
        "KafkaRefused",
        "KafkaUnreachable",
        "LakeUnreachable",
        "PostgresUnreachable",
        "NotDelivered",
        "SparkEnded",
        "TopicMissing",
    }


def test_the_tree_in_the_docstring_names_every_error() -> None:
    defined = {name for name, _ in inspect.getmembers(errors, inspect.isclass)}
    assert defined == set(errors.__all__)
    assert all(name in (errors.__doc__ or "") for name in defined)


def test_facts_are_attributes() -> None:
    error = errors.TopicMissing("no", bootstrap_servers="a:1", topics=["orders"], alike=["Orders"])
    assert (error.message, str(error), error.bootstrap_servers) == ("no", "no", "a:1")
    assert (error.topics, error.alike) == (("orders",), ("Orders",))
