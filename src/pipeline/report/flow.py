"""The data's way as a drawing: a card for each station with its numbers, and the ways between them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from pipeline.rendering import printable
from pipeline.report.numbers import Numbers

__all__ = ["Card", "Drawing", "Way", "drawing"]

_LINE, _HEAD, _FOOT = 18, 30, 8
_CHARACTER = 6.6
"""The usual width of one, in points of the drawing."""

KAFKA, LOG, ACCEPTED, DEAD, TOMBSTONES = "kafka", "log", "accepted", "dead", "tombstones"
BATCH, SPEED, LATE, SERVED = "batch", "speed", "late", "served"


@dataclass(frozen=True)
class Card:
    """A station: what it is called, how many rows it has where that is not told by its lines; `colour` is a name of the look's."""

    title: str
    total: str | None
    lines: Sequence[tuple[str, str]]
    colour: str
    x: float = 0
    y: float = 0
    width: float = 0

    @property
    def height(self) -> float:
        return _HEAD + _LINE * len(self.lines) + (_FOOT if self.lines else 2)

    @property
    def bottom(self) -> float:
        return self.y + self.height

    @property
    def right(self) -> float:
        return self.x + self.width

    @property
    def middle(self) -> float:
        return self.y + self.height / 2


@dataclass(frozen=True)
class Way:
    """A line, and the head of its arrow, as paths."""

    path: str
    head: str
    is_dashed: bool = False


@dataclass(frozen=True)
class Drawing:
    width: float
    height: float
    cards: Sequence[Card]
    ways: Sequence[Way]


def _cards(numbers: Numbers) -> dict[str, Card]:
    """The stations, each with its numbers and still without a place."""
    topics = numbers.topics
    healed = sum(one.healed for one in numbers.late)
    missed = healed + sum(one.not_healed for one in numbers.late)
    letters = [(status, count) for status, count in numbers.letters.items()]
    return {
        KAFKA: Card(
            "Kafka offsets", None, _with_sum([(one.topic, one.offsets_read) for one in topics]), "grey"
        ),
        LOG: Card("raw_events", None, _with_sum([(one.topic, one.records) for one in topics]), "ink"),
        ACCEPTED: Card("accepted", None, _with_sum([(one.topic, one.accepted) for one in topics]), "blue"),
        DEAD: Card("dead letters", None if letters else "0", _with_sum(letters), "red"),
        TOMBSTONES: Card("tombstones", f"{sum(one.tombstones for one in topics):,}", [], "grey"),
        BATCH: Card("batch views", None, [(one.view, _rows(one.batch)) for one in numbers.views], "green"),
        SPEED: Card("speed views", None, [(one.view, _rows(one.speed)) for one in numbers.views], "amber"),
        LATE: Card("late events", f"{missed:,}", [("counted by batch since", f"{healed:,}")], "purple"),
        SERVED: Card("served views", None, [(one.view, _rows(one.served)) for one in numbers.views], "blue"),
    }


def drawing(numbers: Numbers, *, is_narrow: bool, reads_log: bool) -> Drawing:
    """`reads_log`: the speed layer reads the ingested tables, not Kafka."""
    found = _cards(numbers)
    drawn = _upright(found, reads_log) if is_narrow else _lying(found, reads_log)
    return replace(drawn, cards=[_fitted(card) for card in drawn.cards])


def _lying(found: Mapping[str, Card], reads_log: bool) -> Drawing:
    gap, widths = 26, (142, 142, 142, 217, 217)
    lefts = [sum(widths[:place]) + gap * place for place in range(len(widths))]

    def put(name: str, column: int, y: float) -> Card:
        return replace(found[name], x=lefts[column], y=y, width=widths[column])

    kafka, log, accepted = put(KAFKA, 0, 0), put(LOG, 1, 0), put(ACCEPTED, 2, 0)
    dead = put(DEAD, 2, accepted.bottom + 14)
    tombstones = put(TOMBSTONES, 2, dead.bottom + 14)
    batch = put(BATCH, 3, 0)
    speed = put(SPEED, 3, batch.bottom + 22)
    late = put(LATE, 3, speed.bottom + 22)
    served = put(SERVED, 4, (batch.y + speed.bottom) / 2 - found[SERVED].height / 2)
    under = max(tombstones.bottom, kafka.bottom) + 16
    gutter = lefts[2] - gap / 2
    row = 15
    ways = [
        _right(kafka.right, row, log.x, row),
        _right(log.right, row, accepted.x, row),
        _right(log.right, row, dead.x, dead.y + row, by=gutter),
        _right(log.right, row, tombstones.x, tombstones.y + row, by=gutter),
        _right(accepted.right, row, batch.x, row),
        _right(batch.right, batch.middle, served.x, served.middle - 12, by=served.x - gap / 2),
        _right(speed.right, speed.middle, served.x, served.middle + 12, by=served.x - gap / 2),
        _down(speed.x + speed.width / 2, speed.bottom, late.y, is_dashed=True),
    ]
    turn = speed.x - gap / 2
    if reads_log:
        ways.append(_right(accepted.right, row, speed.x, speed.y + row, by=turn))
    else:
        start = kafka.x + kafka.width / 2
        path = f"M{start},{kafka.bottom}V{under}H{turn}V{speed.y + row}H{speed.x - 7}"
        ways.append(Way(path, _to_the_right(speed.x, speed.y + row)))
    placed = [kafka, log, accepted, dead, tombstones, batch, speed, late, served]
    height = max(under + 4, *(card.bottom for card in placed)) + 2
    return Drawing(lefts[-1] + widths[-1] + 1, height, placed, ways)


def _upright(found: Mapping[str, Card], reads_log: bool) -> Drawing:
    width, margin, gap = 350, 16, 22
    inner = width - 2 * margin
    y = 1.0
    placed: dict[str, Card] = {}

    def put(name: str, x: float = margin, wide: float = inner) -> Card:
        placed[name] = replace(found[name], x=x, y=y, width=wide)
        return placed[name]

    kafka = put(KAFKA)
    y = kafka.bottom + gap
    log = put(LOG)
    y = log.bottom + gap
    half = (inner - 10) / 2
    accepted = put(ACCEPTED)
    y = accepted.bottom + 10
    dead, tombstones = put(DEAD, margin, half), put(TOMBSTONES, margin + half + 10, half)
    y = max(dead.bottom, tombstones.bottom) + gap
    batch = put(BATCH)
    y = batch.bottom + gap
    speed = put(SPEED)
    y = speed.bottom + gap
    served = put(SERVED)
    y = served.bottom + gap
    late = put(LATE)
    centre, left, right = width / 2, margin / 2, width - margin / 2
    source = accepted if reads_log else kafka
    ways = [
        _down(centre, kafka.bottom, log.y),
        _down(centre, log.bottom, accepted.y),
        Way(
            f"M{accepted.right},{accepted.middle}H{right}V{batch.y + 15}H{batch.right + 7}",
            _to_the_left(batch.right, batch.y + 15),
        ),
        Way(
            f"M{source.x},{source.middle}H{left}V{speed.y + 15}H{speed.x - 7}",
            _to_the_right(speed.x, speed.y + 15),
        ),
        Way(
            f"M{batch.right},{batch.middle}H{right}V{served.y + 15}H{served.right + 7}",
            _to_the_left(served.right, served.y + 15),
        ),
        _down(centre, speed.bottom, served.y),
        Way(
            f"M{speed.x},{speed.middle}H{left}V{late.middle}H{late.x - 7}",
            _to_the_right(late.x, late.middle),
            is_dashed=True,
        ),
    ]
    return Drawing(width, late.bottom + 2, [*placed.values()], ways)


def _right(x: float, y: float, to_x: float, to_y: float, *, by: float | None = None) -> Way:
    turn = "" if by is None else f"H{by}V{to_y}"
    return Way(f"M{x},{y}{turn}H{to_x - 7}", _to_the_right(to_x, to_y))


def _down(x: float, y: float, to_y: float, *, is_dashed: bool = False) -> Way:
    return Way(f"M{x},{y}V{to_y - 7}", f"M{x - 4.5},{to_y - 8}h9l-4.5,8z", is_dashed)


def _to_the_right(x: float, y: float) -> str:
    return f"M{x - 8},{y - 4.5}v9l8,-4.5z"


def _to_the_left(x: float, y: float) -> str:
    return f"M{x + 8},{y - 4.5}v9l-8,-4.5z"


def _fitted(card: Card) -> Card:
    """The card with labels that leave room for their values."""
    return replace(
        card,
        lines=[
            (_short(label, card.width - 34 - _CHARACTER * len(value)), value) for label, value in card.lines
        ],
    )


def _short(text: str, width: float) -> str:
    shown, most = printable(text), max(4, int(width / _CHARACTER))
    return shown if len(shown) <= most else f"{shown[: most - 1]}…"


def _rows(count: int | None) -> str:
    return "–" if count is None else f"{count:,}"


def _with_sum(counts: Sequence[tuple[str, int]]) -> list[tuple[str, str]]:
    total = [("all", sum(count for _, count in counts))] if len(counts) > 1 else []
    return [(name, f"{count:,}") for name, count in [*counts, *total]]
