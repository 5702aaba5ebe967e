"""Seeded logs: small, with everything in them that a batch can meet."""

from __future__ import annotations

import json
import random
from dataclasses import replace

from lake import Sent, at, cancellation, line, order, product
from pipeline.settings import Settings
from story import send_and_abort

__all__ = ["ending", "hot_key", "marks", "piece"]

HOT_ORDERS = 10_500
"""An Arrow batch has 10,000 rows."""
_DELAYS = (0, 0, 0, 0, 1, 4, 8, 25, 300)
"""Minutes between an event and its arrival."""
_WORDS = ("order", "Order", "straße", "ŁÓDŹ", "x_1", "2026", "naïve", "日本")


def piece(rng: random.Random, number: int) -> list[Sent]:
    """The records of one piece of a log in order of arrival; `number` counts the pieces from 0.

    Something for each table is in every piece, so that each step of a batch is reached.
    """
    first = 20 + 90 * number
    sent = [_created(rng, f"{number}-first", first), _product(rng, first), _broken(rng), _text(rng)]
    for index in range(rng.randint(6, 11)):
        sent.append(_any(rng, sent, f"{number}-{index}", first + 7 * index))
    if number == 0:
        sent.append(product("p1", time=at(15), cost="1.00"))
    return sent


def hot_key(number: int) -> list[Sent]:
    """More orders of one customer than a library's buffer holds, all in the first hour of this piece."""
    return [
        order(
            f"hot-{number}-{index}",
            time=at(21 + 90 * number + index / 1000),
            customer_id="c1",
            total="0.01",
            partition=index % 2,
        )
        for index in range(HOT_ORDERS)
    ]


def marks(here: Settings) -> None:
    """What an aborted transaction leaves: offsets without a record for anybody."""
    send_and_abort(here, [order("aborted"), Sent(b"not json")])


def ending(number: int) -> list[Sent]:
    """One event that is late for everyone who has a watermark, and then what closes all that came before."""
    later = 60 * (31 + 24 * number)
    return [
        order("too late", time=at(-120), customer_id="c-late", total="77.77", items=[line("p1")]),
        product("p1", time=at(later)),
        order("closing", time=at(later), customer_id="c-closing"),
        cancellation("closing", time=at(later)),
        Sent(b"the end", kind="text-lines"),
    ]


def _any(rng: random.Random, sent: list[Sent], mark: str, minute: int) -> Sent:
    what = rng.choice(
        ["created"] * 5 + ["cancelled", "cancelled", "product", "again", "again", "broken", "text", "none"]
    )
    if what == "created":
        return _created(rng, mark, minute)
    if what == "cancelled":
        created = [
            json.loads(record.value or b"{}") for record in sent if b"order_created" in (record.value or b"")
        ]
        order_id = rng.choice(created)["order_id"]
        time = at(minute - rng.choice(_DELAYS))
        return cancellation(order_id, time=time, partition=rng.randint(0, 1))
    if what == "product":
        return _product(rng, minute)
    if what == "again":
        record = rng.choice(sent)
        return replace(record, partition=rng.randint(0, 1)) if record.kind == "orders" else record
    if what == "broken":
        return _broken(rng)
    if what == "text":
        return _text(rng)
    return Sent(None, kind=rng.choice(["orders", "products", "text-lines"]))


def _created(rng: random.Random, mark: str, minute: int) -> Sent:
    number = rng.randint(0, 9)
    return order(
        f"o{mark}",
        time=at(minute - rng.choice(_DELAYS)),
        customer_id=f"c{number % 3}",
        total=f"{number * 10}.01" if number else None,
        items=[line(f"p{number % 3}", price=f"{number}.99"), line("unknown", quantity=2)],
        partition=rng.randint(0, 1),
    )


def _product(rng: random.Random, minute: int) -> Sent:
    """Its cost follows from its identity: two versions of one instant must not contradict each other."""
    before = rng.choice(_DELAYS)
    return product(f"p{rng.randint(0, 2)}", time=at(minute - before), cost=f"{(minute - before) % 97}.25")


def _broken(rng: random.Random) -> Sent:
    value = rng.choice(
        [
            b"not json",
            b"{}",
            b'{"order_id": "o',
            b"\xff\xfe",
            b'{"order_id": "o1", "total": -1}',
        ]
    )
    return Sent(value, kind=rng.choice(["orders", "orders", "products"]), partition=0)


def _text(rng: random.Random) -> Sent:
    if rng.random() < 0.1:
        return Sent(b"\xc3\x28", kind="text-lines")
    return Sent(" ".join(rng.choices(_WORDS, k=rng.randint(1, 5))).encode(), kind="text-lines")
