"""What the audit says: accounts of partitions and queries, and what is wrong with them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pipeline import ledger
from pipeline.audit.runs import length
from pipeline.kafka_offsets import Partition, Run

__all__ = ["ADDS_UP", "Account", "Fault", "QueryAccount", "Report", "fault_at"]

ADDS_UP = "Every offset of Kafka is accounted for, by every query that read it."

_MOST_RUNS = 20

_FAULTS = {
    "not_in_ledger": "no batch in the ledger has read them, and the checkpoint says that they were read",
    "read_twice": "more than one batch in the ledger has read them",
    "lost": "Kafka holds a committed record there, raw_events does not",
    "untold": "raw_events has no row, and Kafka does not hold the offset any more to tell a gap from a loss",
    "unproven": "raw_events has no row, and Kafka could not be asked whether there is a record",
    "raw_repeated": "raw_events has them more than once",
    "not_in_raw": "a table of events has them, raw_events does not",
    "no_fate": "neither accepted nor dead nor a tombstone",
    "several_fates": "in more than one of accepted, dead, tombstone, or in one of them twice",
    "repair_missing": "repaired, but the table of events does not have them",
    "unasked": "raw_events has them, and they lie before the first offset that was delivered",
    "never_read": "Kafka held or holds them, and they were never delivered",
    "topic_replaced": "the topic was made anew since ingest began with it: Kafka holds records of another one",
    "kafka_is_shorter": "delivered, but Kafka's partition ends before: the topic was made anew, or has lost records",
    "not_counted": "read by the query, and neither counted nor in late_events",
    "wrongly_late": "in late_events, and the query counted them, or never had to read them",
    "table_differs": "the query's table adds up to another number of events than it counted",
    "key_repeated": "keys of which a table of the view has more than one row",
}
"""What can be wrong with offsets, by the name it has in the report."""


@dataclass(frozen=True)
class Fault:
    """Offsets of a partition that do not add up: which fault, of which query, how many, and the first runs of them."""

    fault: str
    query: str
    topic: str | None
    partition: int | None
    count: int
    offsets: Sequence[str] = ()
    detail: str = ""

    def __str__(self) -> str:
        where = self.query if self.topic is None else f"{self.query}, {self.topic}"
        where += "" if self.partition is None else f"-{self.partition}"
        named = f", offsets {', '.join(self.offsets)}" if self.offsets else ""
        return f"{self.fault}: {where}: {self.count}{named}: {self.detail or _FAULTS[self.fault]}"


@dataclass(frozen=True)
class Account:
    """A partition: delivered = raw_events + skipped + erased; raw_events = accepted + dead + tombstones; accepted = distinct + duplicates.

    Offsets are half-open. `gaps` are offsets without a committed record, which were not delivered; `skipped` are records that
    Spark could not read and ingest was told to go past, `erased` those that were removed on somebody's behalf; `dead` includes those repaired or discarded since; `behind` is what Kafka holds and ingest has not read yet (None: Kafka was not asked).
    """

    topic: str
    partition: int
    first_offset: int
    end_offset: int
    gaps: int = 0
    delivered: int = 0
    raw_events: int = 0
    skipped: int = 0
    erased: int = 0
    accepted: int = 0
    dead: int = 0
    repaired: int = 0
    discarded: int = 0
    tombstones: int = 0
    distinct: int = 0
    duplicates: int = 0
    behind: int | None = None


@dataclass(frozen=True)
class QueryAccount:
    """A speed query and topic: the distinct events it had to read = counted + late, up to batch `through_batch`."""

    query: str
    topic: str
    through_batch: int
    to_read: int
    counted: int
    late: int


@dataclass(frozen=True)
class Report:
    """The accounts, and what is wrong with them; `notes` say what could not be asked. All adds up where there are no faults."""

    partitions: Sequence[Account]
    queries: Sequence[QueryAccount]
    faults: Sequence[Fault]
    notes: Sequence[str] = ()

    def faults_of(self, account: Account | QueryAccount) -> list[Fault]:
        if isinstance(account, Account):
            about: tuple[object, ...] = (ledger.INGEST, account.topic, account.partition)
            return [one for one in self.faults if (one.query, one.topic, one.partition) == about]
        return [
            one for one in self.faults if one.query == account.query and one.topic in (None, account.topic)
        ]


def fault_at(fault: str, query: str, place: Partition, runs: Sequence[Run]) -> Fault:
    shown = [f"{first}" if end - first == 1 else f"{first}-{end - 1}" for first, end in runs[:_MOST_RUNS]]
    more = [f"and {len(runs) - _MOST_RUNS} more runs"] if len(runs) > _MOST_RUNS else []
    return Fault(fault, query, place[0], place[1], length(runs), [*shown, *more])
