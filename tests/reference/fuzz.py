"""Random records over every class of the contract and every known trap of parsing.

Each record is a valid event, broken (or made odd) by up to three mutations, all from one seed. What the design
leaves open is left out: text after the object, ids that are neither string nor integer, JSON numbers of more than
15 digits, lone surrogates. So is what it does not spell out: a product's name or category as an integer,
quantities such as 2.0 or 1e3, texts over 1 MiB.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta, timezone
from typing import NamedTuple

from .contract import Kind
from .kafka_log import Record

EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
START_MS = int(datetime(2026, 1, 5, tzinfo=timezone.utc).timestamp() * 1_000)
SPAN_MS = 60 * 3_600 * 1_000
MEBIBYTE = 1_048_576

ODD_TEXTS = (
    "null",
    "NaN",
    " ",
    " padded ",
    "a'b",
    'a"b',
    "back\\slash",
    "tab\there",
    "line\nbreak",
    "nul\u0000inside",
    "é",
    "e\u0301",
    "日本語",
    "😀",
    "👩\u200d🚀",
    "\u202eabc",
    "\u2028",
    "\ufeffx",
    "\ufffd",
    "\uffff",
    "\U0010ffff",
    "\u007f",
    "{}",
    "[1]",
    "true",
    "007",
)

GOOD_NUMBERS: tuple[str, ...] = (
    "0",
    "1",
    "12.5",
    "1.500",
    "0.10",
    "9999999999.99",
    "9999999999",
    "1e2",
    "1E+2",
    "1.5e-1",
    "100e-2",
)
GOOD_NUMBERS += ("0.0", "-0", "-0.0", "0e5", "1.25e1", "1250e-3", "9.99999999999e9", "1e9", "0.010")
BAD_NUMBERS: tuple[str, ...] = (
    "-1",
    "-0.01",
    "0.001",
    "12.345",
    "12.3451",
    "10000000000",
    "9999999999.999",
    "1e10",
    "1.5e-2",
    "1e-3",
)
BAD_NUMBERS += ("1e400", "1e-400", "-1e2", "0.0149")
GOOD_NUMBER_TEXTS: tuple[str, ...] = (
    *GOOD_NUMBERS,
    "1.50" + "0" * 40,
    "0." + "0" * 60,
    "100000000000000e-14",
    "0e99999999999",
    "1000000000000000000000e-20",
    "0.000000000000000000001e21",
)
BAD_NUMBER_TEXTS: tuple[str, ...] = (
    *BAD_NUMBERS,
    "",
    " ",
    "01",
    "+5",
    ".5",
    "5.",
    " 1.5",
    "1.5 ",
    "1.5\n",
    "٣",
    "１２",
    "1,5",
    "0x10",
    "1e",
    "e1",
)
BAD_NUMBER_TEXTS += (
    "NaN",
    "Infinity",
    "1_000",
    "1d",
    "1f",
    "--1",
    "1e99999999999",
    "1e-99999999999",
    "null",
    "1.5.0",
)
BAD_NUMBER_TEXTS += (
    "0." + "0" * 50 + "1",
    "1" + "0" * 40,
    "1.50 EUR",
    "00",
    "-",
    "1e+",
    "1 000",
    "9" * 30 + ".99",
)

WRONG_TYPES = ("true", "false", "[]", "{}", "[1]", '["x"]', '{"a":1}', '""', '"x"', "12", "-1", "1.5", "0")
WRONG_IDS = ('""', "null", '"' + "x" * 129 + '"', '"' + "😀" * 129 + '"', '"' + "\\ud83d\\ude00" * 129 + '"')
GOOD_IDS: tuple[str, ...] = (
    "0",
    "7",
    "-5",
    "123456789012345",
    '"' + "x" * 127 + '"',
    '"' + "x" * 128 + '"',
    '"' + "😀" * 128 + '"',
)
GOOD_IDS += ('"' + "é" * 128 + '"', '"' + "\\ud83d\\ude00" * 128 + '"', '"\\u0041bc"', '"\\/"')

STATUSES = (
    "pending",
    "completed",
    "cancelled",
    "Pending",
    "pending ",
    "",
    "shipped",
    "CANCELLED",
    "canceled",
    "null",
)
EVENT_TYPES = (
    "order_created",
    "order_cancelled",
    "ORDER_CREATED",
    "order_created ",
    "",
    "order_updated",
    "order-created",
)

TIMESTAMPS = (
    "2026-01-05T03:04:05Z",
    "2026-01-05T03:04:05.1Z",
    "2026-01-05T03:04:05.123456Z",
    "2026-01-05T03:04:05.1234567Z",
    "2026-01-05T03:04:05.0000000Z",
    "2026-01-05T03:04:05.Z",
    "2026-01-05T03:04:05,5Z",
    "2026-01-05t03:04:05Z",
    "2026-01-05T03:04:05z",
    "2026-01-05 03:04:05Z",
    "2026-01-05T03:04:05",
    "2026-01-05T03:04:05 Z",
    " 2026-01-05T03:04:05Z",
    "2026-01-05T03:04:05Z\n",
    "2026-01-05T03:04Z",
    "2026-01-05T03Z",
    "2026-01-05",
    "2026-01-05Z",
    "T03:04:05Z",
    "03:04:05Z",
    "20260105T030405Z",
    "2026-1-5T3:4:5Z",
    "26-01-05T03:04:05Z",
    "+2026-01-05T03:04:05Z",
    "-2026-01-05T03:04:05Z",
    "12026-01-05T03:04:05Z",
    "2026-01-05T03:04:05 Europe/Berlin",
    "2026-01-05T03:04:05Europe/Berlin",
    "2026-01-05T03:04:05[UTC]",
    "2026-01-05T03:04:05Z[UTC]",
    "2026-01-05T03:04:05UTC",
    "2026-01-05T03:04:05UTC+1",
    "2026-01-05T03:04:05GMT",
    "2026-01-05T03:04:05CET",
    "2026-01-04T24:00:00Z",
    "2026-01-05T23:59:60Z",
    "2026-01-05T25:00:00Z",
    "2026-01-05T03:60:00Z",
    "2026-02-30T00:00:00Z",
    "2025-02-29T00:00:00Z",
    "2024-02-29T00:00:00Z",
    "2000-02-29T12:00:00Z",
    "2026-13-01T00:00:00Z",
    "2026-00-10T00:00:00Z",
    "2026-01-00T00:00:00Z",
    "2025-11-31T00:00:00Z",
    "2025-12-31T00:00:00+00:00",
    "2025-12-31T00:00:00-00:00",
    "2025-12-31T00:00:00+05:30",
    "2025-12-31T00:00:00+18:00",
    "2025-12-31T00:00:00+18:01",
    "2025-12-31T00:00:00-18:00",
    "2025-12-31T00:00:00+23:59",
    "2025-12-31T00:00:00-23:59",
    "2025-12-31T00:00:00.5-19:30",
    "2025-12-31T00:00:00+24:00",
    "2025-12-31T00:00:00-24:00",
    "2025-12-31T00:00:00+05:60",
    "2025-12-31T00:00:00+0530",
    "2025-12-31T00:00:00+05",
    "2025-12-31T00:00:00+5:30",
    "2025-12-31T00:00:00+05:30:00",
    "2025-12-31T00:00:00\u221205:30",
    "2025-12-31T00:00:00Z+01:00",
    "1999-12-31T23:59:59.999999Z",
    "2000-01-01T00:00:00Z",
    "1999-12-31T23:00:00-01:00",
    "1999-12-31T22:59:59.999999-01:00",
    "2000-01-01T00:59:59.999999+01:00",
    "2000-01-01T01:00:00+01:00",
    "1999-12-31T00:01:00-23:59",
    "2000-01-01T23:59:00+23:59",
    "2000-01-01T23:58:59.999999+23:59",
    "1970-01-01T00:00:00Z",
    "0000-01-01T00:00:00Z",
    "0001-01-01T00:00:00+01:00",
    "1582-10-10T00:00:00Z",
    "9999-12-31T23:59:59Z",
    "9999-12-31T23:59:59.999999-23:59",
    "٢٠٢٦-01-05T03:04:05Z",
    "2026-01-05T03:04:0５Z",
    "now",
    "today",
    "epoch",
    "1767582245",
    "",
    "null",
)

UNKNOWN_FIELDS = (
    ('"Total"', '"not money"'),
    ('"ORDER_ID"', "null"),
    ('"Timestamp"', "5"),
    ('"items "', "7"),
    ('"total.x"', "true"),
    ('""', "1"),
    ('"$"', '"x"'),
    ('"_corrupt_record"', '"x"'),
    ('"value"', '{"total":-5}'),
    ('"violations"', '["total"]'),
    ('"note"', '"it\'s NaN, {not} [json], \\"total\\": -1"'),
    ('"nested"', '{"order_id":null,"items":[{"price":-1}],"a":[[[{"b":[]}]]]}'),
    ('"numbers"', "[0,-0,1e5,-1.5E-3,0.0]"),
    ('"empty"', '[{},[],"",null,true,false]'),
    ('"\\u0000"', '"\\u0000\\b\\f\\n\\r\\t"'),
    ('"ключ"', '"значение 😀 \ufffd"'),
    ('"x"', '"\u2028\u2029\u0085\ufeff\u007f"'),
)

ITEMS = (
    "[]",
    "{}",
    '""',
    '"[]"',
    '"[{\\"product_id\\":\\"p1\\",\\"price\\":1}]"',
    "5",
    "true",
    "[1]",
    '["a"]',
    "[[]]",
    "[{}]",
    "[null]",
    '[{"product_id":"p1","price":1},null]',
    '{"product_id":"p1","price":1}',
    '[{"product_id":"p1"}]',
    '[{"price":1}]',
    '[{"product_id":"","price":1}]',
    '[{"product_id":null,"price":1}]',
    '[{"product_id":"p1","price":null}]',
    '[{"product_id":"p1","price":1,"quantity":null}]',
    '[{"product_id":"p1","price":1,"quantity":0}]',
    '[{"product_id":"p1","price":1,"quantity":1000000}]',
    '[{"product_id":"p1","price":1,"quantity":1000001}]',
    '[{"product_id":"p1","price":1,"quantity":99999999999}]',
    '[{"product_id":"p1","price":1,"quantity":-1}]',
    '[{"product_id":"p1","price":1,"quantity":"2"}]',
    '[{"product_id":"p1","price":1,"quantity":2.5}]',
    '[{"product_id":"p1","price":1,"quantity":true}]',
    '[{"product_id":"p1","price":1,"quantity":[2]}]',
    '[{"product_id":"p1","price":1,"Quantity":0,"PRICE":"x"}]',
    '[{"product_id":"p1","price":-1,"price":2,"quantity":0,"quantity":3}]',
    '[{"product_id":"p1","price":2,"price":-1}]',
    '[{"product_id":"p1","price":2,"price":null}]',
    '[{"product_id":5,"price":"1.500","quantity":2}]',
    '[{"product_id":"p1","price":12.345}]',
    '[{"product_id":"p1","price":"12.340","junk":{"a":[1]}}]',
    '[{"product_id":"p1","price":"1e1"},{"product_id":"p1","price":0,"quantity":2}]',
    '[{"product_id":"p1","price":true}]',
    '[{"product_id":"p1","price":{}}]',
    '[{"product_id":"p1","price":9999999999.99}]',
    '[{"product_id":"p1","price":9999999999.99,"quantity":2}]',
    '[{"product_id":"p1","price":9999999999.98},{"product_id":"p2","price":0.01}]',
    '[{"product_id":"p1","price":9999999999.99},{"product_id":"p2","price":0.01}]',
    '[{"product_id":"p1","price":10000,"quantity":1000000}]',
    '[{"product_id":"p1","price":9999.99,"quantity":1000000}]',
    '[{"product_id":"p1","price":9999999999.99,"quantity":1000000}]',
    '[{"product_id":"' + "x" * 128 + '","price":1}]',
    '[{"product_id":"' + "😀" * 129 + '","price":1}]',
)

WORDS = (
    "alpha",
    "Beta",
    "gamma",
    "don't",
    "snake_case",
    "x1",
    "42",
    "e-mail",
    "Straße",
    "naïve",
    "日本語",
    "привет",
    "_",
)
ODD_WORDS: tuple[str, ...] = (
    "e\u0301te",
    "x²",
    "½",
    "a\u200db",
    "ΑΣ",
    "ΑΣ.",
    "٣٤",
    "Ⅷ",
    "ⓐb",
    "ǅx",
    "ªº",
    "ʰx",
    "𝔘𝔫𝔦",
    "𝟘𝟙",
    "\ufeffbom",
)
ODD_WORDS += (
    "İstanbul",
    "ΟΔΥΣΣΕΥΣ",
    "कि",
    "กำ",
    "a\u00adb",
    "a\u203fb",
    "ß",
    "ẞ",
    "K",
    "nul\u0000l",
    "\ufffd",
    "😀",
)


class FuzzRecord(NamedTuple):
    """What a producer would send, and to which kind of topic."""

    kind: Kind
    key: bytes | None
    value: bytes | None
    timestamp_ms: int


@dataclass(frozen=True)
class Draft:
    """An event as raw JSON tokens, names and values alike, so that any spelling can be tried."""

    kind: Kind
    key: str
    fields: tuple[tuple[str, str], ...]
    timestamp_ms: int

    def names(self) -> list[str]:
        return [json.loads(name) for name, _ in self.fields]

    def having(self, name: str, token: str) -> Draft:
        """With a field's value replaced, or the field added."""
        if name not in self.names():
            return self.adding(json.dumps(name), token)
        fields = tuple((key, token if json.loads(key) == name else old) for key, old in self.fields)
        return replace(self, fields=fields)

    def without(self, name: str) -> Draft:
        return replace(self, fields=tuple(pair for pair in self.fields if json.loads(pair[0]) != name))

    def adding(self, name_token: str, token: str, *, first: bool = False) -> Draft:
        added = ((name_token, token),)
        return replace(self, fields=added + self.fields if first else self.fields + added)


Mutation = Callable[[random.Random, Draft], Draft]
Breakage = Callable[[random.Random, bytes], bytes]


def fuzz_records(n: int, seed: int) -> list[FuzzRecord]:
    """`n` records in the order of their Kafka timestamps; the same for the same seed.

    From 200 records on, the rare and large ones (1 MiB, deep nesting) are among them once each.
    """
    rng = random.Random(seed)
    timestamps_ms = sorted(START_MS + rng.randrange(SPAN_MS) for _ in range(n))
    rare = dict(zip(rng.sample(range(n), len(RARE)), RARE, strict=True)) if n >= 200 else {}
    clean: list[Draft] = []
    records = []
    for index, timestamp_ms in enumerate(timestamps_ms):
        if index in rare:
            draft = _order(rng, timestamp_ms)
            records.append(FuzzRecord("orders", draft.key.encode(), rare[index](draft), timestamp_ms))
        elif clean and rng.random() < 0.06:
            records.append(_repetition(rng, rng.choice(clean), timestamp_ms))
        else:
            records.append(_fresh(rng, timestamp_ms, clean))
    return records


def as_records(
    fuzzed: Iterable[FuzzRecord], *, partitions: int = 1, topics: Mapping[Kind, str] | None = None
) -> list[Record]:
    """The records as a log would hold them without a broker, dealt out to partitions in turn."""
    log: list[Record] = []
    ends: dict[tuple[str, int], int] = {}
    for index, (kind, key, value, timestamp_ms) in enumerate(fuzzed):
        topic = topics[kind] if topics else kind
        place = topic, index % partitions
        log.append(Record(*place, ends.get(place, 0), timestamp_ms, key, value))
        ends[place] = ends.get(place, 0) + 1
    return log


def _fresh(rng: random.Random, timestamp_ms: int, clean: list[Draft]) -> FuzzRecord:
    kind: Kind = rng.choices(("orders", "products", "text-lines"), weights=(60, 25, 15))[0]
    if rng.random() < 0.02:
        return FuzzRecord(kind, f"c{rng.randrange(20)}".encode(), None, timestamp_ms)
    if kind == "text-lines":
        return FuzzRecord(kind, None, _text_line(rng), timestamp_ms)
    draft = _order(rng, timestamp_ms) if kind == "orders" else _product(rng, timestamp_ms)
    mutations = rng.choices((0, 1, 2, 3), weights=(35, 35, 20, 10))[0]
    if mutations == 0:
        clean.append(draft)
    for _ in range(mutations):
        draft = rng.choice(ORDER_MUTATIONS if kind == "orders" else PRODUCT_MUTATIONS)(rng, draft)
    value = _rendered(rng, draft)
    if mutations and rng.random() < 0.15:
        value = rng.choice(BREAKAGES)(rng, value)
    key = None if rng.random() < 0.03 else b"other" if rng.random() < 0.03 else draft.key.encode()
    return FuzzRecord(kind, key, value, timestamp_ms)


def _repetition(rng: random.Random, draft: Draft, timestamp_ms: int) -> FuzzRecord:
    """The same event once more, sometimes with other contents under the same identity."""
    if rng.random() < 0.3:
        draft = draft.having("total" if draft.kind == "orders" else "cost", _cents(rng, 50_000))
    return FuzzRecord(draft.kind, draft.key.encode(), _rendered(rng, draft), timestamp_ms)


def _order(rng: random.Random, timestamp_ms: int) -> Draft:
    customer = f"c{rng.randrange(20)}"
    is_creation = rng.random() < 0.75
    fields = [
        ('"event_type"', '"order_created"' if is_creation else '"order_cancelled"'),
        ('"order_id"', f'"o{rng.randrange(400)}"'),
        ('"customer_id"', f'"{customer}"'),
    ]
    has_items = rng.random() < 0.7
    if rng.random() < 0.7 or (is_creation and not has_items):
        fields.append(('"total"', _cents(rng, 100_000)))
    if rng.random() < 0.5:
        fields.append(('"status"', f'"{rng.choice(("pending", "completed", "cancelled"))}"'))
    if has_items:
        fields.append(('"items"', _items(rng)))
    fields.append(('"timestamp"', _time_near(rng, timestamp_ms)))
    return Draft("orders", customer, tuple(fields), timestamp_ms)


def _items(rng: random.Random) -> str:
    lines = []
    for _ in range(rng.randrange(1, 4)):
        price = "0" if rng.random() < 0.08 else _cents(rng, 20_000)
        quantity = f',"quantity":{rng.randrange(1, 9)}' if rng.random() < 0.7 else ""
        lines.append(f'{{"product_id":"p{rng.randrange(12)}","price":{price}{quantity}}}')
    return f"[{','.join(lines)}]"


def _product(rng: random.Random, timestamp_ms: int) -> Draft:
    product = f"p{rng.randrange(12)}"
    fields = (
        ('"product_id"', f'"{product}"'),
        ('"name"', _quoted(rng, rng.choice(("Lamp", "Chair", "Tisch", "Étagère", "机")))),
        ('"product_category"', f'"{rng.choice(("light", "seat", "table"))}"'),
        ('"price"', _cents(rng, 20_000)),
        ('"cost"', _cents(rng, 20_000)),
        ('"timestamp"', _time_near(rng, timestamp_ms)),
    )
    return Draft("products", product, fields, timestamp_ms)


def _text_line(rng: random.Random) -> bytes:
    words = [rng.choice(ODD_WORDS if rng.random() < 0.1 else WORDS) for _ in range(rng.randrange(8))]
    value = rng.choice((" ", "  ", ", ", "-", "\n", "\t", "\u00a0", "\u2003")).join(words).encode()
    if rng.random() < 0.08:
        at = rng.randrange(len(value) + 1)
        value = value[:at] + rng.choice(INVALID_UTF8) + value[at:]
    return value


def _rendered(rng: random.Random, draft: Draft) -> bytes:
    fields = list(draft.fields)
    if len(set(draft.names())) == len(fields) and rng.random() < 0.3:
        rng.shuffle(fields)
    comma, colon, edge = rng.choice(((",", ":", ""), (", ", ": ", ""), (" ,\n", "\t:\r\n", " \n")))
    return (edge + "{" + comma.join(name + colon + token for name, token in fields) + "}" + edge).encode()


def _quoted(rng: random.Random, text: str) -> str:
    return json.dumps(text, ensure_ascii=rng.random() < 0.5)


def _cents(rng: random.Random, limit: int) -> str:
    whole, part = divmod(rng.randrange(limit), 100)
    spelled = rng.choice((f"{whole}.{part:02d}", f"{whole}.{part:02d}0", f"{whole}", f"{whole}.{part // 10}"))
    return f'"{spelled}"' if rng.random() < 0.3 else spelled


def _time_near(rng: random.Random, timestamp_ms: int) -> str:
    """An instant up to a day before the Kafka timestamp, now and then on the hour or 1 µs beside it."""
    back_ms = rng.choice((0, 1_000, 60_000, 600_000, 7_200_000, 100_000_000))
    microseconds = (timestamp_ms - rng.randrange(back_ms + 1)) * 1_000
    if rng.random() < 0.1:
        microseconds -= microseconds % 3_600_000_000 + rng.choice((0, 0, 1, -1))
    return f'"{_spelled(rng, microseconds)}"'


def _spelled(rng: random.Random, microseconds: int) -> str:
    """An instant in the contract's form, at a random offset, with some of its last zeros."""
    minutes = rng.choice((0, 0, 0, 60, -300, 330, 845, -720, 1080, -1080))
    local = EPOCH + timedelta(microseconds=microseconds, minutes=minutes)
    fraction = f"{local.microsecond:06d}"
    while fraction.endswith("0") and rng.random() < 0.8:
        fraction = fraction[:-1]
    zone = f"{'-' if minutes < 0 else '+'}{abs(minutes) // 60:02d}:{abs(minutes) % 60:02d}"
    if minutes == 0 and rng.random() < 0.8:
        zone = "Z"
    return local.strftime("%Y-%m-%dT%H:%M:%S") + ("." + fraction if fraction else "") + zone


def _drop(rng: random.Random, draft: Draft) -> Draft:
    return draft.without(rng.choice(draft.names() or [""]))


def _null(rng: random.Random, draft: Draft) -> Draft:
    return draft.having(rng.choice(draft.names() or ["note"]), "null")


def _wrong_type(names: Sequence[str]) -> Mutation:
    return lambda rng, draft: draft.having(rng.choice(names), rng.choice(WRONG_TYPES))


def _odd_id(names: Sequence[str]) -> Mutation:
    return lambda rng, draft: draft.having(rng.choice(names), rng.choice(GOOD_IDS + WRONG_IDS))


def _odd_text(names: Sequence[str]) -> Mutation:
    return lambda rng, draft: draft.having(rng.choice(names), _quoted(rng, rng.choice(ODD_TEXTS)))


def _odd_label(names: Sequence[str]) -> Mutation:
    strings = [token for token in GOOD_IDS + WRONG_IDS if token.startswith('"') or token == "null"]
    return lambda rng, draft: draft.having(rng.choice(names), rng.choice(strings))


def _odd_money(names: Sequence[str]) -> Mutation:
    return lambda rng, draft: draft.having(rng.choice(names), _money_token(rng))


def _money_token(rng: random.Random) -> str:
    if rng.random() < 0.5:
        return rng.choice(GOOD_NUMBERS + BAD_NUMBERS)
    return _quoted(rng, rng.choice(GOOD_NUMBER_TEXTS + BAD_NUMBER_TEXTS))


def _money_in_item(rng: random.Random, draft: Draft) -> Draft:
    return draft.having("items", f'[{{"product_id":"p1","price":{_money_token(rng)},"quantity":2}}]')


def _odd_items(rng: random.Random, draft: Draft) -> Draft:
    draft = draft.having("items", rng.choice(ITEMS))
    return draft.without("total") if rng.random() < 0.5 else draft


def _odd_timestamp(rng: random.Random, draft: Draft) -> Draft:
    return draft.having("timestamp", _quoted(rng, rng.choice(TIMESTAMPS)))


def _timestamp_at_the_future_border(rng: random.Random, draft: Draft) -> Draft:
    beyond = rng.choice((-1_000, -1, 0, 1, 999, 1_000, 1_001))
    microseconds = draft.timestamp_ms * 1_000 + 300_000_000 + beyond
    return draft.having("timestamp", f'"{_spelled(rng, microseconds)}"')


def _odd_status(rng: random.Random, draft: Draft) -> Draft:
    return draft.having("status", _quoted(rng, rng.choice(STATUSES)))


def _odd_event_type(rng: random.Random, draft: Draft) -> Draft:
    return draft.having("event_type", _quoted(rng, rng.choice(EVENT_TYPES)))


def _repeat(rng: random.Random, draft: Draft) -> Draft:
    """A field a second time, before or behind the first, its name sometimes spelled by an escape."""
    name = rng.choice(draft.names() or ["note"])
    spelled = (
        f'"\\u{ord(name[0]):04x}{name[1:]}"'
        if name and name.isascii() and rng.random() < 0.4
        else json.dumps(name)
    )
    token = rng.choice(("null", '""', '"12.50"', '"o1"', '"pending"', '"2026-01-04T12:00:00Z"'))
    return draft.adding(spelled, token, first=rng.random() < 0.5)


def _escaped_name(rng: random.Random, draft: Draft) -> Draft:
    names = [name for name in draft.names() if name and name.isascii()]
    chosen = rng.choice(names or [""])
    spelled = "".join(f"\\u{ord(character):04X}" for character in chosen)
    fields = tuple(
        (f'"{spelled}"' if json.loads(key) == chosen else key, token) for key, token in draft.fields
    )
    return replace(draft, fields=fields)


def _unknown_field(rng: random.Random, draft: Draft) -> Draft:
    return draft.adding(*rng.choice(UNKNOWN_FIELDS), first=rng.random() < 0.3)


def _wrong_case(rng: random.Random, draft: Draft) -> Draft:
    chosen = rng.choice(draft.names() or [""])
    fields = tuple(
        (json.dumps(chosen.upper()) if json.loads(key) == chosen else key, token)
        for key, token in draft.fields
    )
    return replace(draft, fields=fields)


def _broken_token(rng: random.Random, draft: Draft) -> Draft:
    """A token that JSON does not know, in a known or an unknown field."""
    tokens: tuple[str, ...] = (
        "NaN",
        "Infinity",
        "-Infinity",
        "-NaN",
        "True",
        "nil",
        "undefined",
        "01",
        "+1",
        ".5",
        "1.",
        "-",
        "0x1F",
        "1e",
    )
    tokens += (
        "'x'",
        '"a\\x"',
        '"\\u12G4"',
        '"\\u 123"',
        '"raw\ttab"',
        '"raw\nline"',
        '"raw\u0000nul"',
        '"open',
        "1_0",
        "",
    )
    tokens += ("[1,]", "{,}", '{"a"}', "{a:1}", "[1 2]", "/*x*/1", "٣", "nan", "INF", "1d", "“x”")
    return draft.having(rng.choice([*draft.names(), "note"]), rng.choice(tokens))


ORDER_MUTATIONS: tuple[Mutation, ...] = (
    _drop,
    _null,
    _wrong_type(("event_type", "total", "status", "items", "timestamp")),
    _odd_id(("order_id", "customer_id")),
    _odd_text(("order_id", "customer_id")),
    _odd_money(("total",)),
    _odd_money(("total",)),
    _money_in_item,
    _odd_items,
    _odd_items,
    _odd_timestamp,
    _odd_timestamp,
    _timestamp_at_the_future_border,
    _odd_status,
    _odd_event_type,
    _repeat,
    _escaped_name,
    _unknown_field,
    _unknown_field,
    _wrong_case,
    _broken_token,
)

PRODUCT_MUTATIONS: tuple[Mutation, ...] = (
    _drop,
    _null,
    _wrong_type(("price", "cost", "timestamp")),
    _odd_id(("product_id",)),
    _odd_label(("name", "product_category")),
    _odd_text(("product_id", "name", "product_category")),
    _odd_money(("price", "cost")),
    _odd_money(("price", "cost")),
    _odd_timestamp,
    _timestamp_at_the_future_border,
    _repeat,
    _escaped_name,
    _unknown_field,
    _wrong_case,
    _broken_token,
)

INVALID_UTF8 = (
    b"\xff",
    b"\xc0\xaf",
    b"\xed\xa0\x80",
    b"\xe2\x82",
    b"\xf8\x88\x80\x80\x80",
    b"\x80",
    b"\xf4\x90\x80\x80",
)


def _truncated(rng: random.Random, value: bytes) -> bytes:
    whole = value.rstrip()
    return whole[: rng.randrange(len(whole))]


def _invalid_utf8(rng: random.Random, value: bytes) -> bytes:
    """Bytes that are not UTF-8 within a string of an unknown field, or between the tokens."""
    invalid = rng.choice(INVALID_UTF8)
    at = value.find(b"{") + 1
    inside = b'"note":"' + invalid + b'",' if rng.random() < 0.7 else invalid
    return value[:at] + inside + value[at:]


BREAKAGES: tuple[Breakage, ...] = (
    _truncated,
    _truncated,
    _invalid_utf8,
    _invalid_utf8,
    lambda _, value: b"\xef\xbb\xbf" + value,
    lambda _, value: value.replace(b'"', b"'"),
    lambda rng, __: rng.choice((b"", b" ", b"\n\t\r ", "\u00a0".encode(), b"\x00", b"\x0b")),
    lambda _, value: b"[" + value + b"]",
    lambda rng, __: rng.choice((b"[]", b"null", b"true", b"12", b'"x"', b"NaN", b'"{}"')),
    lambda _, __: b"{}",
    lambda _, value: value.decode().encode("utf-16"),
    lambda _, value: value.rstrip()[:-1] + b",}",
    lambda _, value: b"/* x */" + value,
    lambda _, value: b"x" + value,
    lambda _, value: b"\x0c" + value,
    lambda _, value: value.replace(b":", b"=", 1),
    lambda _, value: value.replace(b",", b";", 1),
    lambda _, value: json.dumps(value.decode()).encode(),
)


def _sized(size: int, filler: bytes = b"x") -> Callable[[Draft], bytes]:
    def make(draft: Draft) -> bytes:
        head, tail = _plain(draft)[:-1] + b',"padding":"', b'"}'
        room = size - len(head) - len(tail)
        return head + filler * (room // len(filler)) + b"x" * (room % len(filler)) + tail

    return make


def _nested(levels: int, opening: str, closing: str) -> Callable[[Draft], bytes]:
    """The object counts as level 1."""

    def make(draft: Draft) -> bytes:
        return _plain(draft.adding('"deep"', opening * (levels - 1) + "1" + closing * (levels - 1)))

    return make


def _plain(draft: Draft) -> bytes:
    return ("{" + ",".join(f"{name}:{token}" for name, token in draft.fields) + "}").encode()


RARE: tuple[Callable[[Draft], bytes], ...] = (
    _sized(MEBIBYTE),
    _sized(MEBIBYTE, "😀".encode()),
    _sized(MEBIBYTE + 1),
    lambda _: b" " * (MEBIBYTE + 1),
    lambda _: b"\xff" * (MEBIBYTE + 1),
    _nested(999, "[", "]"),
    _nested(1_000, "[", "]"),
    _nested(1_001, "[", "]"),
    _nested(10_000, "[", "]"),
    _nested(999, '{"a":', "}"),
    _nested(1_000, '{"a":', "}"),
    _nested(1_001, '{"a":', "}"),
    lambda _: b"[" * 100_000,
    lambda draft: _plain(draft.adding('"' + "k" * 60_000 + '"', "1")),
    lambda draft: _plain(draft.adding('"' + "[{" * 2_000 + '"', '"' + "[" * 2_000 + '\\""')),
)
