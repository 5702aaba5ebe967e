"""Seeded events for a broker: orders, products and text lines, with everything that goes wrong in real ones.

The same arguments give the same bytes in the same partitions at the same time stamps. Records come in the order of
their arrival, which is also their Kafka time stamp; all topics advance together until the end, so that no watermark
waits for an idle input. What an order says of the past differs: 5 % come up to 8 minutes after the fact, the `late`
share 10.5 to 70 minutes. Only random() is drawn from: its sequence is the same in every Python.
"""

from __future__ import annotations

import time
from bisect import bisect
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from functools import lru_cache
from itertools import accumulate
from random import Random
from typing import Any, NamedTuple, Protocol
from zlib import crc32

from confluent_kafka import KafkaError, Message, Producer

from pipeline.devservices.kafka import MAX_MESSAGE_BYTES, create_topics
from pipeline.devservices.malformed import MALFORMED_ORDERS, MALFORMED_PRODUCTS, NOT_UTF8, Malformed
from pipeline.errors import KafkaUnreachable
from pipeline.kafka_check import failure

__all__ = ["PARTITIONS", "Record", "Summary", "Topics", "generate", "records"]

PARTITIONS: Mapping[str, int] = {"orders": 2, "products": 1, "text_lines": 1}
CATALOGUE = 200
CUSTOMERS_PER_EVENT = 1_000 / 50_000
START = datetime(2026, 1, 1, tzinfo=timezone.utc)

_PRODUCTS_SHARE, _TEXT_SHARE = 0.02, 0.04
_CANCELLED_SHARE, _OUT_OF_ORDER_SHARE, _TOMBSTONE_SHARE = 0.08, 0.05, 0.0005
_MINUTE_MS = 60_000
_CATEGORIES = ("books", "coffee", "garden", "kitchen", "music", "outdoor", "toys", "wool")
_WORDS = (
    *(
        "the",
        "order",
        "of",
        "a",
        "café",
        "is",
        "fast",
        "and",
        "right",
        "Straße",
        "東京",
        "naïve",
        "stream",
        "batch",
    ),
    *(
        "table",
        "lake",
        "late",
        "window",
        "Δelta",
        "ПРИВЕТ",
        "snake_case",
        "don't",
        "e-mail",
        "42",
        "3.14",
        "LOG",
    ),
)
_OFFSETS = (("+02:00", 120), ("-05:30", -330), ("+05:45", 345), ("+14:00", 840), ("-00:00", 0), ("+00:00", 0))


class Topics(Protocol):
    """The names of the three topics, as the settings have them."""

    @property
    def orders(self) -> str: ...
    @property
    def products(self) -> str: ...
    @property
    def text_lines(self) -> str: ...


class Record(NamedTuple):  # ten times as fast to make as a frozen dataclass
    """One record to be: `topic` is a key of PARTITIONS, `fate` what was planted in it, `violations` what it breaks."""

    topic: str
    partition: int
    timestamp_ms: int
    key: bytes | None
    value: bytes | None
    fate: str = "plain"  # plain, late, duplicate, malformed or tombstone
    violations: tuple[str, ...] = ()


@dataclass(frozen=True)
class Summary:
    """What was sent: records by topic (key of PARTITIONS), and how many of them were planted as what.

    `late` counts events more than 10 minutes behind their arrival, copies of them not included; `violations` counts the
    malformed records by the names they break, joined with "+".
    """

    records: Mapping[str, int]
    late: int
    duplicates: int
    malformed: int
    tombstones: int
    violations: Mapping[str, int]


def generate(
    bootstrap: str,
    topics: Topics,
    *,
    events: int,
    seed: int,
    late: float = 0.005,
    duplicates: float = 0.01,
    malformed: float = 0.001,
    hot: float | None = None,
    rate: float | None = None,
    start: datetime = START,
    hours: float = 6,
    login: Mapping[str, Any] | None = None,
    progress: Callable[[int], None] | None = None,
) -> Summary:
    """Send the catalogue and `events` records, `rate` a second where given; missing topics are made. `login` is librdkafka's.

    `progress` is told how many have been sent so far. Raises KafkaUnreachable where the broker does not take them.
    """
    names = {"orders": topics.orders, "products": topics.products, "text_lines": topics.text_lines}
    partitions = {names[topic]: number for topic, number in PARTITIONS.items()}
    create_topics(bootstrap, partitions, login=login)
    planned = records(
        events=events,
        seed=seed,
        late=late,
        duplicates=duplicates,
        malformed=malformed,
        hot=hot,
        start=start,
        hours=hours,
    )
    return _send(bootstrap, names, planned, rate=rate, login=login or {}, progress=progress)


def records(
    *,
    events: int,
    seed: int,
    late: float = 0.005,
    duplicates: float = 0.01,
    malformed: float = 0.001,
    hot: float | None = None,
    start: datetime = START,
    hours: float = 6,
) -> Iterator[Record]:
    """The catalogue of 200 products in the two hours before `start`, then `events` records over `hours`, by arrival.

    The shares late, duplicates and malformed are of all events; the broken ones go through every kind in turn. The best customer
    has the share `hot` of all orders, by default what Zipf's law gives.
    """
    shop = _Shop(Random(seed), customers=max(20, int(events * CUSTOMERS_PER_EVENT)), hot=hot)
    start_ms = round(start.timestamp() * 1000)
    span_ms = round(hours * 60 * _MINUTE_MS)
    for number in range(CATALOGUE):
        yield shop.product(start_ms - (CATALOGUE - number) * 120 * _MINUTE_MS // CATALOGUE, number=number)
    for index in range(events):
        arrival_ms = start_ms + (index + 1) * span_ms // events
        yield shop.next(arrival_ms, late=late, duplicates=duplicates, malformed=malformed)


@dataclass
class _Shop:
    """What the events so far leave behind for those to come: who may cancel, what may come twice, what costs how much."""

    random: Random
    customers: int
    hot: float | None = None
    created: list[tuple[str, str, str]] = field(
        default_factory=list
    )  # order, customer, total as JSON has them
    history: list[Record] = field(default_factory=list)
    product_instants: set[tuple[int, int]] = field(default_factory=set)
    broken: Counter[str] = field(default_factory=Counter)
    orders: int = 0

    def __post_init__(self) -> None:
        weights = [1 / rank**1.1 for rank in range(1, self.customers + 1)]
        if self.hot is not None:
            others = weights[1:]
            weights = [self.hot * sum(others), *((1 - self.hot) * weight for weight in others)]
        self.popularity = list(accumulate(weights))
        self.price_cents = [100 + int(self.random.random() * 19_900) for _ in range(CATALOGUE)]

    def below(self, limit: int) -> int:
        return int(self.random.random() * limit)

    def happens(self, share: float) -> bool:
        return self.random.random() < share

    def next(self, arrival_ms: int, *, late: float, duplicates: float, malformed: float) -> Record:
        topic = self.random.random()
        luck = self.random.random()
        if luck < duplicates and self.history:
            return self.copy(arrival_ms)
        luck -= duplicates
        if 0 <= luck < malformed:
            return self.malformed(arrival_ms, topic)
        luck -= malformed
        if 0 <= luck < _TOMBSTONE_SHARE or (
            len(self.history) == CATALOGUE + 50 and not self.broken["tombstone"]
        ):
            return self.tombstone(arrival_ms, topic)
        if topic < _TEXT_SHARE:
            return self.text_line(arrival_ms)
        delay_ms, fate = self.delay(late)
        if topic < _TEXT_SHARE + _PRODUCTS_SHARE:
            return self.product(arrival_ms, delay_ms=delay_ms, fate=fate)
        return self.order(arrival_ms, delay_ms=delay_ms, fate=fate)

    def delay(self, late: float) -> tuple[int, str]:
        """How long before its arrival something happened, in milliseconds, and whether that is late."""
        luck = self.random.random()
        # Text lines are never late; the others make up for them.
        late /= 1 - _TEXT_SHARE
        if luck < late:
            # A till that lost its line for a while, or a telephone that was off overnight.
            most_ms = 70 * _MINUTE_MS if self.below(2) else 24 * 60 * _MINUTE_MS
            return 630_000 + self.below(most_ms - 630_000), "late"
        if luck < late + _OUT_OF_ORDER_SHARE:
            return 1_000 + self.below(8 * _MINUTE_MS - 1_000), "plain"
        return self.below(1_000), "plain"

    def order(self, arrival_ms: int, *, delay_ms: int, fate: str) -> Record:
        if self.created and self.happens(_CANCELLED_SHARE):
            return self.cancellation(arrival_ms, delay_ms=delay_ms, fate=fate)
        self.orders += 1
        customer = self.customer()
        order_id = str(7_000_000 + self.orders) if self.happens(0.03) else f'"o-{self.orders:07d}"'
        items, cents = self.items() if self.happens(0.85) else ("", 100 + self.below(50_000))
        total = self.total(cents)
        luck = self.random.random()
        status = "" if luck < 0.1 else ',"status":"completed"' if luck < 0.4 else ',"status":"pending"'
        shown_total = "" if items and self.happens(0.1) else f',"total":{total}'
        value = (
            f'{{"event_type":"order_created","order_id":{order_id},"customer_id":{customer}{shown_total}{status}{items}'
            f',"timestamp":"{self.timestamp(arrival_ms - delay_ms)}"}}'
        )
        self.created.append((order_id, customer, total))
        return self.kept("orders", customer.strip('"'), value, arrival_ms, fate)

    def cancellation(self, arrival_ms: int, *, delay_ms: int, fate: str) -> Record:
        """Mostly of a recent order; some orders are cancelled twice."""
        back = int(self.random.random() ** 3 * len(self.created))
        order_id, customer, total = self.created[-1 - back]
        shown_total = "" if self.happens(0.5) else f',"total":{total}'
        status = "" if self.happens(0.5) else ',"status":"cancelled"'
        value = (
            f'{{"event_type":"order_cancelled","order_id":{order_id},"customer_id":{customer}{shown_total}{status}'
            f',"timestamp":"{self.timestamp(arrival_ms - delay_ms, whole_seconds=0)}"}}'
        )
        return self.kept("orders", customer.strip('"'), value, arrival_ms, fate)

    def items(self) -> tuple[str, int]:
        """One to four lines as JSON, and what they cost together; 1 % of the lines name an unknown product."""
        lines, total_cents = [], 0
        for _ in range(1 + int(4 * self.random.random() ** 2)):
            number = self.below(CATALOGUE)
            quantity = 1 + self.below(5)
            cents = self.price_cents[number]
            total_cents += cents * quantity
            product_id = f"unknown-{number}" if self.happens(0.01) else f"p-{number:03d}"
            shown = "" if quantity == 1 and self.happens(0.5) else f',"quantity":{quantity}'
            lines.append(f'{{"product_id":"{product_id}","price":{_money(cents)}{shown}}}')
        return f',"items":[{",".join(lines)}]', total_cents

    def product(
        self, arrival_ms: int, *, number: int | None = None, delay_ms: int = 0, fate: str = "plain"
    ) -> Record:
        """A product of the catalogue; after its first time at a price up to 10 % off the last one."""
        if number is None:
            number = self.below(CATALOGUE)
            self.price_cents[number] = max(50, self.price_cents[number] * (90 + self.below(21)) // 100)
        event_ms = arrival_ms - delay_ms
        while (number, event_ms) in self.product_instants:  # two versions of one instant would be a conflict
            event_ms -= 1
        self.product_instants.add((number, event_ms))
        cents = self.price_cents[number]
        value = (
            f'{{"product_id":"p-{number:03d}","name":"Product {number}","product_category":"{_CATEGORIES[number % 8]}"'
            f',"price":{_money(cents)},"cost":{_money(cents * (40 + number % 50) // 100)}'
            f',"timestamp":"{self.timestamp(event_ms, whole_seconds=0)}"}}'
        )
        return self.kept("products", f"p-{number:03d}", value, arrival_ms, fate)

    def text_line(self, arrival_ms: int) -> Record:
        words = [_WORDS[self.below(len(_WORDS))] for _ in range(3 + self.below(10))]
        return Record("text_lines", 0, arrival_ms, None, " ".join(words).encode())

    def copy(self, arrival_ms: int) -> Record:
        """The bytes of an earlier event again: mostly one of the last 300, else any."""
        far = self.happens(0.1)
        back = self.below(len(self.history) if far else min(300, len(self.history)))
        first = self.history[-1 - back]
        return Record(first.topic, first.partition, arrival_ms, first.key, first.value, "duplicate")

    def malformed(self, arrival_ms: int, topic: float) -> Record:
        """The next kind of broken record of its topic, so that all of them come up."""
        if topic < _TEXT_SHARE:
            return Record("text_lines", 0, arrival_ms, None, NOT_UTF8, "malformed", ("not_utf8",))
        name, kinds = (
            ("products", MALFORMED_PRODUCTS)
            if topic < _TEXT_SHARE + _PRODUCTS_SHARE
            else ("orders", MALFORMED_ORDERS)
        )
        kind: Malformed = kinds[self.broken[name] % len(kinds)]
        if kind.only_once and self.broken[name] >= len(kinds):
            self.broken[name] += 1
            kind = kinds[self.broken[name] % len(kinds)]
        self.broken[name] += 1
        key = self.customer().strip('"') if name == "orders" else f"p-{self.below(CATALOGUE):03d}"
        value = kind.value(f"x-{self.broken[name]}", _iso(arrival_ms), _iso(arrival_ms + 6 * _MINUTE_MS))
        partition = crc32(key.encode()) % PARTITIONS[name]
        return Record(name, partition, arrival_ms, key.encode(), value, "malformed", kind.violations)

    def tombstone(self, arrival_ms: int, topic: float) -> Record:
        self.broken["tombstone"] += 1
        name = "products" if topic < 0.2 else "orders"
        key = f"p-{self.below(CATALOGUE):03d}" if name == "products" else self.customer().strip('"')
        partition = crc32(key.encode()) % PARTITIONS[name]
        return Record(name, partition, arrival_ms, key.encode(), None, "tombstone")

    def kept(self, topic: str, key: str, value: str, arrival_ms: int, fate: str) -> Record:
        """A good event, remembered because it may come again."""
        key_bytes = key.encode()
        record = Record(
            topic, crc32(key_bytes) % PARTITIONS[topic], arrival_ms, key_bytes, value.encode(), fate
        )
        self.history.append(record)
        return record

    def customer(self) -> str:
        """As JSON has it. Every 50th customer's id is a number, and is sometimes sent as one."""
        number = bisect(self.popularity, self.random.random() * self.popularity[-1])
        if number % 50 != 7:
            return f'"c-{number:05d}"'
        return f"{100_000 + number}" if self.happens(0.5) else f'"{100_000 + number}"'

    def total(self, cents: int) -> str:
        luck = self.random.random()
        if luck < 0.05:
            return f'"{_money(cents)}"'
        return f"{_money(cents)}0" if luck < 0.07 else _money(cents)

    def timestamp(self, epoch_ms: int, *, whole_seconds: float = 0.1) -> str:
        """Mostly UTC in milliseconds; sometimes another offset, microseconds, or no fraction."""
        luck = self.random.random()
        if luck < whole_seconds:
            return f"{_iso(epoch_ms)[:19]}Z"
        if luck > 0.98:
            return f"{_iso(epoch_ms)[:-1]}000Z"
        if luck > 0.93:
            text, minutes = _OFFSETS[self.below(len(_OFFSETS))]
            return _iso(epoch_ms + minutes * _MINUTE_MS)[:-1] + text
        return _iso(epoch_ms)


def _money(cents: int) -> str:
    return f"{cents // 100}.{cents % 100:02d}"


_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)


def _iso(epoch_ms: int) -> str:
    seconds, milliseconds = divmod(epoch_ms, 1000)
    return f"{_whole_second(seconds)}.{milliseconds:03d}Z"


@lru_cache(maxsize=4_096)  # neighbours share their second
def _whole_second(epoch_seconds: int) -> str:
    return (_EPOCH + timedelta(seconds=epoch_seconds)).isoformat()[:19]


def _send(
    bootstrap: str,
    names: Mapping[str, str],
    planned: Iterator[Record],
    *,
    rate: float | None,
    login: Mapping[str, Any],
    progress: Callable[[int], None] | None,
) -> Summary:
    failures: list[KafkaError] = []

    def note_failure(error: KafkaError | None, _: Message) -> None:
        if error is not None:
            failures.append(error)

    producer = Producer(
        {
            "bootstrap.servers": bootstrap,
            "enable.idempotence": True,  # keeps the order in a partition, also over a retry
            "linger.ms": 50 if rate is None else 5,
            "message.max.bytes": MAX_MESSAGE_BYTES,
            "message.timeout.ms": 30_000,
            "delivery.report.only.error": True,
            "log_level": 0,
            **login,
        }
    )
    sent, fates, violations = Counter[str](), Counter[str](), Counter[str]()
    began = time.monotonic()
    for number, record in enumerate(planned, start=1):
        _produce(producer, names[record.topic], record, note_failure)
        sent[record.topic] += 1
        fates[record.fate] += 1
        if record.violations:
            violations["+".join(record.violations)] += 1
        if rate is not None:
            producer.poll(max(0.0, began + number / rate - time.monotonic()))
        if number % 1_000 == 0:
            producer.poll(0)
            if progress is not None:
                progress(number)
    missing = producer.flush(30)
    if missing or failures:
        count = missing + len(failures)
        if failures:
            raise failure(bootstrap, failures[0], what=f"{count} of the generated records are not taken")
        raise KafkaUnreachable(
            f"Kafka at {bootstrap} did not take {count} of the generated records: no answer within 30 s.",
            bootstrap_servers=bootstrap,
        )
    if progress is not None:
        progress(sent.total())
    return Summary(
        records=dict(sent),
        late=fates["late"],
        duplicates=fates["duplicate"],
        malformed=fates["malformed"],
        tombstones=fates["tombstone"],
        violations=dict(sorted(violations.items())),
    )


def _produce(
    producer: Producer, topic: str, record: Record, note_failure: Callable[[KafkaError | None, Message], None]
) -> None:
    while True:
        try:
            producer.produce(
                topic,
                value=record.value,
                key=record.key,
                partition=record.partition,
                timestamp=record.timestamp_ms,
                on_delivery=note_failure,
            )
        except BufferError:  # the queue is full: let it drain
            producer.poll(0.1)
        else:
            return
