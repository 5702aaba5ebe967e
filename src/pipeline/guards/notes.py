"""What is noted in a query's checkpoint, and how a query that stands otherwise than noted is told."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pyspark.sql import SparkSession

from pipeline import checkpoints, files
from pipeline.errors import CheckpointDamaged, PlanChanged

__all__ = [
    "Comparison",
    "Difference",
    "anew",
    "keep_note",
    "known_note",
    "listed",
    "note_rules",
    "noted_rules",
    "plan_changed",
    "read_note",
]

Difference = tuple[str, str, str]
"""What differs, what it was then, what it is now."""
_RULES = "contract.json"


@dataclass(frozen=True)
class Comparison:
    """How a query stands to the one that made its checkpoint.

    With `forbidden` differences it is another query, with `allowed` ones it goes on. `steps` are the stateful steps then and
    now, where they are what differs. `note` is what a start notes of it.
    """

    forbidden: Sequence[Difference] = ()
    allowed: Sequence[Difference] = ()
    steps: tuple[Sequence[str], Sequence[str]] | None = None
    note: Mapping[str, Any] = field(default_factory=dict)


def note_rules(spark: SparkSession, *, checkpoint: str, rules: Mapping[str, Any]) -> None:
    """Keep by which rules the records are judged from now on. No start is refused for them: a dead letter is not lost."""
    keep_note(spark, checkpoint, _RULES, rules)


def noted_rules(spark: SparkSession, *, checkpoint: str) -> Mapping[str, Any] | None:
    """By which rules the last start judged; None where it was not noted."""
    text = files.read_text(spark, f"{checkpoint}/pipeline/{_RULES}")
    return None if text is None else dict(json.loads(text))


def known_note(spark: SparkSession, *, query: str, checkpoint: str, name: str) -> dict[str, Any] | None:
    """What was noted; None until the first batch has begun."""
    if checkpoints.last_batch(spark, checkpoint) is None:
        return None
    return read_note(spark, query=query, checkpoint=checkpoint, name=name)


def keep_note(spark: SparkSession, checkpoint: str, name: str, noted: Mapping[str, Any]) -> None:
    """Write it, where it does not stand there as it is."""
    where, text = f"{checkpoint}/pipeline/{name}", json.dumps(noted, sort_keys=True)
    if files.read_text(spark, where) != text:
        files.write_atomically(spark, where, text)


def read_note(spark: SparkSession, *, query: str, checkpoint: str, name: str) -> dict[str, Any]:
    """What was noted, of a query that has begun. Raises CheckpointDamaged where it is not there, or cannot be read."""
    where = f"{checkpoint}/pipeline/{name}"
    try:
        noted = json.loads(files.read_text(spark, where) or "")
    except ValueError:
        noted = None
    if not isinstance(noted, dict):
        raise CheckpointDamaged(
            f"query {query} has begun, but {where} is missing or cannot be read.\n"
            "Without it nobody can say whether topics, tables and plan are still those of the checkpoint. Bring the "
            f"checkpoint back as a whole, or begin anew: {anew(checkpoint)}",
            query=query,
            file=where,
        )
    return noted


def plan_changed(query: str, checkpoint: str, differences: Sequence[tuple[str, str, str]]) -> PlanChanged:
    """The refusal that names these differences."""
    told = "\n".join(f"  {what}\n    then: {before}\n    now:  {now}" for what, before, now in differences)
    return PlanChanged(
        f"query {query} is not the one that made its checkpoint. What has changed:\n{told}\n"
        "State and tables were built by the other one. Take the change back, or give the query a new version "
        f"(views.py), which begins anew beside the old; or begin anew: {anew(checkpoint)}",
        query=query,
        differences=differences,
    )


def listed(value: Any) -> str:
    """As a difference tells it."""
    if isinstance(value, (list, dict)):
        return "; ".join(map(str, value)) or "none"
    return str(value)


def anew(checkpoint: str) -> str:
    """What to do where nothing else helps."""
    return f"remove the query's tables and its checkpoint {checkpoint}"
