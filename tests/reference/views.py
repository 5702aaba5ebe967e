"""The five views in their batch form, over everything that was accepted, in plain Python.

Each view is a list of rows with exactly the view's columns, sorted by its key. With `until` the rows end at
the view's horizon; with None nothing is cut off. Times are UTC, money is Decimal.
"""

from __future__ import annotations

import unicodedata
from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from typing import Any, Generic, TypeVar

from .contract import KINDS, Event, Kind, OrderEvent, ProductEvent, TextLine, classify
from .kafka_log import Record

Row = dict[str, Any]
E = TypeVar("E", bound=Event)

HOUR = timedelta(hours=1)
DAY = timedelta(hours=24)
LATENESS = timedelta(minutes=10)


@dataclass(frozen=True)
class Placed(Generic[E]):
    """An accepted event and its place in its topic."""

    partition: int
    offset: int
    event: E

    @property
    def place(self) -> tuple[int, int]:
        return self.partition, self.offset


@dataclass(frozen=True)
class AcceptedLog:
    """All accepted events in (partition, offset) order, duplicates kept."""

    orders: list[Placed[OrderEvent]] = field(default_factory=list)
    products: list[Placed[ProductEvent]] = field(default_factory=list)
    lines: list[Placed[TextLine]] = field(default_factory=list)


def accepted_log(records: Iterable[Record], kinds: Mapping[str, Kind] = KINDS) -> AcceptedLog:
    """The accepted events; `kinds` names the kind of each topic, and other topics are passed over."""
    log = AcceptedLog()
    for record in sorted(records, key=lambda record: (record.topic, record.partition, record.offset)):
        if record.topic not in kinds:
            continue
        event = classify(record, kinds[record.topic]).event
        if isinstance(event, OrderEvent):
            log.orders.append(Placed(record.partition, record.offset, event))
        elif isinstance(event, ProductEvent):
            log.products.append(Placed(record.partition, record.offset, event))
        elif isinstance(event, TextLine):
            log.lines.append(Placed(record.partition, record.offset, event))
    return log


def identity(event: Event) -> Hashable | None:
    """What makes two events the same one; None for texts, which are never duplicates."""
    if isinstance(event, OrderEvent):
        return event.event_type, event.order_id, event.event_time
    if isinstance(event, ProductEvent):
        return event.product_id, event.event_time
    return None


def default_until(log: AcceptedLog) -> datetime | None:
    """The newest event time in the log minus 10 minutes; None for a log without events."""
    times = [placed.event.event_time for placed in log.orders]
    times += [placed.event.event_time for placed in log.products]
    return max(times) - LATENESS if times else None


def customer_hourly_spend(log: AcceptedLog, until: datetime | None = None) -> list[Row]:
    """One row per customer and hour with an order."""
    totals: dict[tuple[str, datetime], list[Decimal]] = defaultdict(list)
    for order in _creations(log):
        totals[order.customer_id, _hour(order.event_time)].append(_total(order))
    return [
        {
            "customer_id": customer_id,
            "window_start": start,
            "window_end": start + HOUR,
            "hourly_spend": sum(spent, Decimal("0.00")),
            "order_count": len(spent),
        }
        for (customer_id, start), spent in sorted(totals.items())
        if until is None or start + HOUR <= _hour(until)
    ]


def enriched_orders(log: AcceptedLog, until: datetime | None = None) -> list[Row]:
    """One row per line of a created order, with the product as it was then; by order_id, event_time, line."""
    versions: dict[str, list[Placed[ProductEvent]]] = defaultdict(list)
    for placed in log.products:
        versions[placed.event.product_id].append(placed)
    for of_product in versions.values():
        of_product.sort(key=lambda placed: (placed.event.event_time, placed.place))

    rows = []
    for order in _creations(log):
        if until is not None and order.event_time >= until:
            continue
        for line, item in enumerate(order.items or ()):
            product = _version_at(versions.get(item.product_id, []), order.event_time)
            rows.append(
                {
                    "order_id": order.order_id,
                    "line": line,
                    "customer_id": order.customer_id,
                    "event_time": order.event_time,
                    "product_id": item.product_id,
                    "quantity": item.quantity,
                    "price": item.price,
                    "name": product.name if product else None,
                    "product_category": product.product_category if product else None,
                    "cost": product.cost if product else None,
                    "profit_margin": profit_margin(item.price, product.cost if product else None),
                }
            )
    return sorted(rows, key=lambda row: (row["order_id"], row["event_time"], row["line"]))


def _version_at(versions: list[Placed[ProductEvent]], at: datetime) -> ProductEvent | None:
    """The newest version at or before an instant, at most 24 hours old; of equal times the last one."""
    newer = bisect_right(versions, at, key=lambda placed: placed.event.event_time)
    if newer == 0 or versions[newer - 1].event.event_time < at - DAY:
        return None
    return versions[newer - 1].event


def profit_margin(price: Decimal, cost: Decimal | None) -> Decimal | None:
    """(price − cost) / price, half away from zero to 4 decimals; None where price is 0 or cost unknown."""
    if cost is None or price == 0:
        return None
    margin = (Fraction(price) - Fraction(cost)) / Fraction(price) * 10_000
    rounded = int(abs(margin) + Fraction(1, 2))
    return (Decimal(rounded if margin >= 0 else -rounded) / 10_000).quantize(Decimal("0.0001"))


def order_outcomes(log: AcceptedLog, until: datetime | None = None) -> list[Row]:
    """One row per (order_id, created_at), with the earliest cancellation within 24 hours, or nulls."""
    cancellations: dict[str, list[datetime]] = defaultdict(list)
    for placed in log.orders:
        if placed.event.event_type == "order_cancelled":
            cancellations[placed.event.order_id].append(placed.event.event_time)

    rows = []
    for order in _creations(log):
        created_at = order.event_time
        if until is not None and created_at >= until - DAY:
            continue
        in_reach = (
            at for at in cancellations.get(order.order_id, ()) if created_at <= at <= created_at + DAY
        )
        cancelled_at = min(in_reach, default=None)
        rows.append(
            {
                "order_id": order.order_id,
                "customer_id": order.customer_id,
                "total": _total(order),
                "created_at": created_at,
                "cancelled_at": cancelled_at,
                "seconds_to_cancel": cancelled_at and (cancelled_at - created_at) // timedelta(seconds=1),
            }
        )
    return sorted(rows, key=lambda row: (row["order_id"], row["created_at"]))


def customer_totals(log: AcceptedLog, until: datetime | None = None) -> list[Row]:
    """One row per customer over the orders before the horizon."""
    orders: dict[str, list[OrderEvent]] = defaultdict(list)
    for order in _creations(log):
        if until is None or order.event_time < _hour(until):
            orders[order.customer_id].append(order)
    return [
        {
            "customer_id": customer_id,
            "order_count": len(of_customer),
            "total_spend": sum((_total(order) for order in of_customer), Decimal("0.00")),
            "last_event_time": max(order.event_time for order in of_customer),
        }
        for customer_id, of_customer in sorted(orders.items())
    ]


def word_counts(log: AcceptedLog, until: datetime | None = None) -> list[Row]:
    """One row per word of the whole log; texts have no event time, so `until` cuts nothing off."""
    del until
    counts = Counter(word for placed in log.lines for word in words(placed.event.text))
    return [{"word": word, "count": count} for word, count in sorted(counts.items())]


def words(text: str) -> list[str]:
    """The words of a text: lower-cased first, then split on all but letters (L*), digits (Nd) and `_`."""
    spaced = "".join(character if _is_of_word(character) else " " for character in text.lower())
    return [word for word in spaced.split(" ") if word]


def _is_of_word(character: str) -> bool:
    category = unicodedata.category(character)
    return character == "_" or category.startswith("L") or category == "Nd"


VIEWS: Mapping[str, Callable[[AcceptedLog, datetime | None], list[Row]]] = {
    "customer_hourly_spend": customer_hourly_spend,
    "enriched_orders": enriched_orders,
    "order_outcomes": order_outcomes,
    "customer_totals": customer_totals,
    "word_counts": word_counts,
}


def _creations(log: AcceptedLog) -> list[OrderEvent]:
    """Each creation once: of an identity the first in (partition, offset)."""
    first: dict[Hashable, OrderEvent] = {}
    for placed in sorted(log.orders, key=lambda placed: placed.place):
        first.setdefault(identity(placed.event), placed.event)
    return [event for event in first.values() if event.event_type == "order_created"]


def _total(order: OrderEvent) -> Decimal:
    if order.total is None:
        raise AssertionError(f"creation without a total: {order}")
    return order.total


def _hour(instant: datetime) -> datetime:
    return instant.replace(minute=0, second=0, microsecond=0)
