"""How many records met which fate."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass

from .contract import KINDS, Kind, classify
from .kafka_log import Record
from .views import identity


@dataclass
class Counts:
    """Of a partition: delivered = accepted + dead + tombstones; accepted = distinct + duplicates."""

    delivered: int = 0
    accepted: int = 0
    dead: int = 0
    tombstones: int = 0
    distinct: int = 0
    duplicates: int = 0


def audit_counts(
    records: Iterable[Record], kinds: Mapping[str, Kind] = KINDS
) -> dict[tuple[str, int], Counts]:
    """The counts by (topic, partition).

    A duplicate is counted where it lies: the first of an identity in (partition, offset) over the whole topic
    is the distinct one, so the partitions' numbers add up to the topic's.
    """
    counts: dict[tuple[str, int], Counts] = defaultdict(Counts)
    seen: set[tuple[str, Hashable]] = set()
    for record in sorted(records, key=lambda record: (record.topic, record.partition, record.offset)):
        if record.topic not in kinds:
            continue
        of_partition = counts[record.topic, record.partition]
        of_partition.delivered += 1
        verdict = classify(record, kinds[record.topic])
        if verdict.fate == "dead":
            of_partition.dead += 1
        elif verdict.event is None:
            of_partition.tombstones += 1
        else:
            of_partition.accepted += 1
            known = identity(verdict.event)
            is_duplicate = known is not None and (record.topic, known) in seen
            of_partition.duplicates += is_duplicate
            of_partition.distinct += not is_duplicate
            seen.add((record.topic, known))
    return dict(counts)
