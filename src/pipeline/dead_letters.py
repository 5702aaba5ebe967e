"""Dead letters: looked at, fixed by a patch, replayed through the contract they broke, or discarded.

The original never changes: a patch is kept beside it, with author, reason and time. A replay judges the patched value as
ingest judged the original, by the record's first Kafka timestamp, and appends what passes under its own (topic, partition,
offset); text has no table of its own and is patched whenever it is read, as all bytes are in a rebuild from raw.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from datetime import datetime, timezone
from functools import reduce
from typing import Any

from pyspark.sql import Column, DataFrame, Row, SparkSession
from pyspark.sql import functions as F
from pyspark.sql import types as T

from pipeline import catalog
from pipeline.contracts import (
    ACCEPTED,
    DEAD,
    DEAD_LETTER_STATUSES,
    DISCARDED,
    FIXED,
    HEADERS,
    RECORD_IDENTITY,
    REPAIRED,
    TOMBSTONE,
)
from pipeline.delta_log import is_table
from pipeline.errors import RefusedToStart, UsageError
from pipeline.repairs import append_missing, decide, deciding, mark_replayed, read_repairs
from pipeline.settings import Settings
from pipeline.sources import kind_of_topic, with_kind
from pipeline.starting import session
from pipeline.tables import DEAD_LETTERS, RAW_EVENTS, table_path
from pipeline.transforms.decode import accepted_events, classify
from pipeline.transforms.patches import Patch

__all__ = ["Address", "Letter", "Outcome", "discard", "fix", "groups", "letters", "replay", "show"]

Address = tuple[str, int, int]
"""topic, partition, offset."""

_DECISION = ("status", "patch_form", "patch", "author", "reason", "made_at", "replayed_at")
_MOST_TOLD = 20


@dataclass(frozen=True)
class Outcome:
    """How many letters pass under their patch, how many do not (the first 20 with what they violate), and to how many it does not apply."""

    passed: int
    rejected: int
    not_applicable: int
    still_dead: list[tuple[Address, list[str]]]


@dataclass(frozen=True)
class Letter:
    """A dead letter with its bytes and all that has been decided on it, oldest first: the last decision is in force.

    `repaired_value` is what its patch makes of it, and `remaining` what that still violates; None without a patch.
    """

    address: Address
    kafka_timestamp: datetime
    key: bytes | None
    value: bytes
    headers: list[tuple[str, bytes | None]]
    violations: list[str]
    status: str
    decisions: list[dict[str, Any]]
    repaired_value: bytes | None
    remaining: list[str] | None


def groups(
    settings: Settings,
    *,
    topic: str | None = None,
    violation: str | None = None,
    status: str | None = None,
    limit: int | None = None,
) -> tuple[list[str], Iterator[tuple[Any, ...]]]:
    """The letters by topic and violation, the most frequent first: column names and rows. One with two violations is in two groups."""
    found = _chosen(_letters(session(settings), settings), topic, violation, status)
    named = found.withColumn("violation", F.explode("violations"))
    if violation is not None:
        named = named.where(F.col("violation") == violation)
    by_status = [F.count_if(F.col("status") == name).alias(name) for name in DEAD_LETTER_STATUSES]
    grouped = named.groupBy("topic", "violation").agg(
        F.count(F.lit(1)).alias("count"),
        *by_status,
        F.min("kafka_timestamp").alias("first_seen"),
        F.max("kafka_timestamp").alias("last_seen"),
        F.min(F.struct(*RECORD_IDENTITY)).alias("first"),
    )
    example = F.concat_ws(":", *[F.col("first")[name] for name in RECORD_IDENTITY]).alias("example")
    return _rows(
        grouped.orderBy(F.desc("count"), "topic", "violation").select(
            "topic", "violation", "count", *DEAD_LETTER_STATUSES, "first_seen", "last_seen", example
        ),
        limit,
    )


def letters(
    settings: Settings,
    *,
    topic: str | None = None,
    violation: str | None = None,
    status: str | None = None,
    limit: int | None = None,
) -> tuple[list[str], Iterator[tuple[Any, ...]]]:
    """The letters one by one: column names and rows. Keys and values are left out: they are customers' data."""
    found = _chosen(_letters(session(settings), settings), topic, violation, status)
    return _rows(
        found.orderBy(*RECORD_IDENTITY).select(
            *RECORD_IDENTITY,
            "kafka_timestamp",
            "violations",
            "status",
            F.octet_length("value").alias("bytes"),
            "patch_form",
            "author",
            "reason",
            "made_at",
            "replayed_at",
        ),
        limit,
    )


def show(settings: Settings, address: Address) -> Letter:
    """The letter at the address, its original bytes among all else. Raises UsageError where there is none."""
    spark = session(settings)
    found = _named(_letters(spark, settings), [address])
    (letter,) = _required(found.collect(), [address])
    raw = _table(spark, settings, RAW_EVENTS).where(_is_at([address])).select("headers").first()
    return Letter(
        address=address,
        kafka_timestamp=letter["kafka_timestamp"],
        key=letter["key"],
        value=letter["value"],
        headers=[(header["key"], header["value"]) for header in (raw["headers"] if raw else None) or ()],
        violations=list(letter["violations"]),
        status=letter["status"],
        decisions=_decisions(letter),
        repaired_value=letter["repaired_value"],
        remaining=_remaining(found, settings) if letter["repaired_value"] is not None else None,
    )


def fix(
    settings: Settings,
    patch: Patch,
    *,
    addresses: Sequence[Address] = (),
    topic: str | None = None,
    violation: str | None = None,
    author: str,
    reason: str,
    dry_run: bool = False,
) -> Outcome:
    """Keep the patch for the letters at these addresses, whether they would pass or not; a patch before it gives way.

    Without addresses: for each letter that nothing has been decided on, where the patch applies and lets it pass. Nothing
    is replayed yet. Raises UsageError where an address is no dead letter, is repaired already, or the patch does not apply.
    """
    spark = session(settings)
    with _deciding(settings, dry_run):
        known = _letters(spark, settings)
        if addresses:
            _require_open(spark, settings, known, addresses)
            taken = _named(known, addresses)
        else:
            taken = _chosen(known, topic, violation, DEAD)
        with _judged(_with_patch(taken, patch), settings) as judged:
            outcome = _outcome(judged)
            if addresses and outcome.not_applicable:
                raise _does_not_apply(judged)
            kept = judged if addresses else judged.where(F.col("fate") == ACCEPTED)
            if not dry_run and outcome.passed + (outcome.rejected if addresses else 0):
                decide(
                    _as_decisions(kept, FIXED, author=author, reason=reason, patch=patch), settings.lake.root
                )
    return outcome


def replay(
    settings: Settings, addresses: Sequence[Address] = (), *, again: bool = False, dry_run: bool = False
) -> Outcome:
    """Put the letters whose patch passes among the accepted events: all fixed ones, or those at these addresses.

    With `again` also what was replayed before, which brings back what a log that was ingested anew does not hold. What is
    there already is not appended twice, so that a replay that was broken off can be repeated. Raises UsageError where an
    address is no dead letter, or has no patch.
    """
    spark = session(settings)
    with _deciding(settings, dry_run):
        known = _letters(spark, settings)
        has_patch = F.col("status").isin(FIXED, REPAIRED)
        if addresses:
            _require_patches(known, addresses)
            taken = _named(known, addresses)
        else:
            taken = known.where(has_patch if again else F.col("status") == FIXED)
        with _judged(taken.withColumn("value", F.col("repaired_value")), settings) as judged:
            outcome = _outcome(judged)
            if outcome.passed and not dry_run:
                for kind in catalog.kinds(settings).values():
                    if not kind.is_text:
                        events = accepted_events(judged, kind)
                        append_missing(events, table_path(settings.lake.root, kind.table))
                passed = judged.where(F.col("fate") == ACCEPTED)
                mark_replayed(passed, settings.lake.root, at=datetime.now(timezone.utc))
    return outcome


def discard(settings: Settings, addresses: Sequence[Address], *, author: str, reason: str) -> None:
    """Say of the letters that they stay dead for good; a later fix takes that back.

    Raises UsageError where an address is no dead letter, or is repaired already.
    """
    spark = session(settings)
    with _deciding(settings, False):
        known = _letters(spark, settings)
        _require_open(spark, settings, known, addresses)
        taken = with_kind(_named(known, addresses), kinds=kind_of_topic(settings))
        decide(_as_decisions(taken, DISCARDED, author=author, reason=reason), settings.lake.root)


def _letters(spark: SparkSession, settings: Settings) -> DataFrame:
    """Each dead letter with its original bytes, its status, and the decision in force (nulls where there is none)."""
    dead = _table(spark, settings, DEAD_LETTERS)
    decided = read_repairs(spark, settings.lake.root).drop("kind")
    joined = dead.join(decided, on=[*RECORD_IDENTITY], how="left")
    return joined.withColumn("status", F.coalesce("status", F.lit(DEAD)))


def _table(spark: SparkSession, settings: Settings, name: str) -> DataFrame:
    path = table_path(settings.lake.root, name)
    if not is_table(spark, path):
        raise RefusedToStart(
            f"there is no {name} in the lake {settings.lake.root}: nothing has been ingested yet.\n"
            "Run `pipeline ingest` first (`--once` ingests what is there), or set lake.root to the lake you mean."
        )
    return spark.read.format("delta").load(path)


def _chosen(known: DataFrame, topic: str | None, violation: str | None, status: str | None) -> DataFrame:
    if topic is not None:
        known = known.where(F.col("topic") == topic)
    if violation is not None:
        known = known.where(F.array_contains("violations", violation))
    return known if status is None else known.where(F.col("status") == status)


def _named(known: DataFrame, addresses: Sequence[Address]) -> DataFrame:
    return known.where(_is_at(addresses))


def _is_at(addresses: Sequence[Address]) -> Column:
    """Whether a row is at one of these addresses, in a form by which Delta passes files over."""
    offsets: dict[tuple[str, int], list[int]] = {}
    for topic, partition, offset in addresses:
        offsets.setdefault((topic, partition), []).append(offset)
    conditions = [
        (F.col("topic") == topic) & (F.col("partition") == partition) & F.col("offset").isin(of_partition)
        for (topic, partition), of_partition in offsets.items()
    ]
    return reduce(lambda one, other: one | other, conditions)


def _rows(frame: DataFrame, limit: int | None) -> tuple[list[str], Iterator[tuple[Any, ...]]]:
    limited = frame if limit is None else frame.limit(limit)
    return limited.columns, (tuple(row) for row in limited.toLocalIterator())


def _with_patch(taken: DataFrame, patch: Patch) -> DataFrame:
    """The letters with the value that the patch gives them; null where it does not apply.

    In Python: no function of Spark changes one member of a JSON object and leaves the others as they were written.
    """
    return taken.withColumn("value", F.udf(patch.apply, T.BinaryType(), useArrow=False)("value"))


@contextmanager
def _judged(patched: DataFrame, settings: Settings) -> Iterator[DataFrame]:
    """The letters under the contract, kept while they are needed. Without a value, their fate is tombstone: no patch applied."""
    records = patched.withColumn("headers", F.lit(None).cast(HEADERS))
    judged = classify(
        with_kind(records, kinds=kind_of_topic(settings)), catalog.kinds(settings).values()
    ).persist()
    try:
        yield judged
    finally:
        judged.unpersist()


def _outcome(judged: DataFrame) -> Outcome:
    counts = {row["fate"]: row["count"] for row in judged.groupBy("fate").count().collect()}
    rejected = counts.get(DEAD, 0)
    told = []
    if rejected:
        of_rejected = judged.where(F.col("fate") == DEAD).orderBy(*RECORD_IDENTITY)
        told = of_rejected.select(*RECORD_IDENTITY, "violations").limit(_MOST_TOLD).collect()
    return Outcome(
        passed=counts.get(ACCEPTED, 0),
        rejected=rejected,
        not_applicable=counts.get(TOMBSTONE, 0),
        still_dead=[(_address(row), list(row["violations"])) for row in told],
    )


def _as_decisions(
    taken: DataFrame, status: str, *, author: str, reason: str, patch: Patch | None = None
) -> DataFrame:
    return taken.select(
        *RECORD_IDENTITY,
        "kind",
        F.lit(status).alias("status"),
        F.lit(patch.text if patch else None).cast("string").alias("patch"),
        F.lit(patch.form if patch else None).cast("string").alias("patch_form"),
        (F.col("value") if patch else F.lit(None).cast("binary")).alias("repaired_value"),
        F.lit(author).alias("author"),
        F.lit(reason).alias("reason"),
        F.lit(datetime.now(timezone.utc)).alias("made_at"),
        F.lit(None).cast("timestamp").alias("replayed_at"),
    )


def _deciding(settings: Settings, dry_run: bool) -> AbstractContextManager[None]:
    return nullcontext() if dry_run else deciding(settings.lake.root)


def _require_open(
    spark: SparkSession, settings: Settings, known: DataFrame, addresses: Sequence[Address]
) -> None:
    """Whether all are dead letters that can still be decided on."""
    found = _required(_named(known, addresses).select(*RECORD_IDENTITY, "status").collect(), addresses)
    _require_known_topics(settings, addresses)
    repaired = [row for row in found if row["status"] == REPAIRED]
    if repaired:
        raise UsageError(
            f"{_told(repaired)}: repaired already, and among the accepted events; that cannot be taken back.\n"
            "`pipeline dead-letters show` tells by whom and why."
        )
    fixed = [_address(row) for row in found if row["status"] == FIXED]
    half = _appended(spark, settings, fixed) if fixed else []
    if half:
        raise RefusedToStart(
            f"{_told(half)}: a replay that was broken off has put it among the accepted events already.\n"
            "Run `pipeline dead-letters replay` to finish it; after that the letter is repaired."
        )


def _appended(spark: SparkSession, settings: Settings, addresses: Sequence[Address]) -> list[Row]:
    """Those of the addresses that are among the accepted events."""
    return [
        row
        for table in catalog.typed_tables(settings)
        for row in _table(spark, settings, table).where(_is_at(addresses)).select(*RECORD_IDENTITY).collect()
    ]


def _require_patches(known: DataFrame, addresses: Sequence[Address]) -> None:
    found = _required(_named(known, addresses).select(*RECORD_IDENTITY, "status").collect(), addresses)
    without = [row for row in found if row["status"] not in (FIXED, REPAIRED)]
    if without:
        raise UsageError(
            f"{_told(without)}: {without[0]['status']}, without a patch to be replayed.\n"
            "Give it one by `pipeline dead-letters fix`."
        )


def _required(found: Sequence[Row], addresses: Sequence[Address]) -> Sequence[Row]:
    missing = sorted(set(addresses) - {_address(row) for row in found})
    if missing:
        raise UsageError(
            f"{':'.join(map(str, missing[0]))}{_more(missing)}: no dead letter. An address is topic:partition:offset;\n"
            "`pipeline dead-letters list --each` names those there are."
        )
    return found


def _require_known_topics(settings: Settings, addresses: Sequence[Address]) -> None:
    known = kind_of_topic(settings)
    for topic, _, _ in addresses:
        if topic not in known:
            raise UsageError(
                f"topic {topic} is none of kafka.topics ({', '.join(known)}), so no contract says what its records must be.\n"
                "Set kafka.topics to the names that they had when they were ingested."
            )


def _does_not_apply(judged: DataFrame) -> UsageError:
    rows = judged.where(F.col("fate") == TOMBSTONE).select(*RECORD_IDENTITY).limit(_MOST_TOLD).collect()
    return UsageError(
        f"{_told(rows)}: the patch does not apply. A merge patch needs a value that is one JSON object, a bulk repair one "
        "that is wrong in its way.\n`pipeline dead-letters show` shows the value; --value gives a new one."
    )


def _told(rows: Sequence[Row]) -> str:
    return ":".join(map(str, _address(rows[0]))) + _more(rows)


def _more(all_of_them: Sequence[object]) -> str:
    return f" and {len(all_of_them) - 1} more" if len(all_of_them) > 1 else ""


def _address(row: Row) -> Address:
    return row["topic"], row["partition"], row["offset"]


def _decisions(letter: Row) -> list[dict[str, Any]]:
    if letter["status"] == DEAD:
        return []
    return [{name: decision[name] for name in _DECISION} for decision in (*letter["history"], letter)]


def _remaining(found: DataFrame, settings: Settings) -> list[str]:
    with _judged(found.withColumn("value", F.col("repaired_value")), settings) as judged:
        (verdict,) = judged.select("violations").collect()
    return list(verdict["violations"])
