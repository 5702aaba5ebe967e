"""Orders of every shape that JSON's grammar knows, and some that it does not: depth, lengths, digits, escapes, repeated names.

What the contract leaves open is left out: text after the object, lone surrogates, ids that are neither string nor integer, and
numbers of more than 15 digits where they are read. So are names of more than 50,000 characters some of which are escapes, which the
stream refuses. What two parsers make of the rest is to be the same.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable

__all__ = ["FIELDS", "structured_order"]

FIELDS = {
    "event_type": '"order_created"',
    "order_id": '"o1"',
    "customer_id": '"c1"',
    "total": "12.50",
    "status": '"pending"',
    "items": '[{"product_id":"p1","price":"2.50","quantity":2}]',
    "timestamp": '"2026-01-05T11:59:00Z"',
}
_MOST_DIGITS, _MOST_LEVELS, _LONGEST_NAME = 1_000, 1_000, 50_000
_NEAR = (-2, -1, 0, 1, 2, 50)
_SPACES = ("", "", "", " ", "\t", "\n", "\r\n", "  ", "\f", "\v", "\u00a0", "\ufeff", "\u2028", "\x00")
_ESCAPES = (
    r"\"", r"\\", r"\/", r"\b", r"\f", r"\n", r"\r", r"\t", r"\u0000", r"\u0041", r"\u00e9", r"\u00E9", r"\ud83d\ude00",
    r"\u2028", r"\uFFFF", r"\x41", r"\u12", r"\u00g1", r"\a", r"\'", r"\0", r"\U0041", "\\\n", "\\",
)  # fmt: skip
_CHARACTERS = (
    "a",
    "é",
    "日",
    "😀",
    "\u007f",
    "\u0080",
    "\u2029",
    "\ufffd",
    "\uffff",
    "'",
    "/",
    "\t",
    "\n",
    "\x00",
    "\x1f",
    "\x1b",
)
_LITERALS = (
    "null",
    "true",
    "false",
    "True",
    "NULL",
    "nan",
    "NaN",
    "Infinity",
    "-Infinity",
    "undefined",
    "nul",
    "tru",
    "truex",
    "",
)


def structured_order(rng: random.Random) -> bytes:
    """An order of known fields, with up to three things done to it."""
    members = [(f'"{name}"', token) for name, token in FIELDS.items()]
    for _ in range(rng.choice((1, 1, 2, 3))):
        rng.choice(_CHANGES)(rng, members)
    comma, colon = rng.choice(((",", ":"), (", ", " : "), (",\n\t", ":\r\n")))
    if rng.random() < 0.03:
        comma = rng.choice(_SPACES) + rng.choice((",", ",", ",,", ";", ""))
    if rng.random() < 0.03:
        colon = rng.choice(_SPACES) + rng.choice((":", ":", "::", "=", ""))
    edge = rng.choice(_SPACES) if rng.random() < 0.05 else ""
    text = edge + "{" + edge + comma.join(name + colon + token for name, token in members) + "}" + edge
    return text.encode()


_Members = list[tuple[str, str]]
_IDS, _MONEY = ("order_id", "customer_id", "product_id"), ("total", "price")


def _value_of(rng: random.Random, name: str) -> str:
    """Left open are ids that are neither string nor integer, and amounts as numbers of more than 15 digits."""
    if name in _IDS and rng.random() < 0.9:
        return rng.choice((_string(rng), "null", "0", "-0", "-7", "123456789012345"))
    if name in _IDS:
        return f"{rng.randrange(-(10**15), 10**15)}"
    if name in _MONEY:
        return rng.choice(
            (_string(rng), "null", "-0", "0.0", "1.230E1", "1e-2", "12.345", "[]", "{}", "true", '"1.5"')
        )
    return _value(rng)


def _unknown(rng: random.Random, members: _Members) -> None:
    members.insert(rng.randrange(len(members) + 1), (_name(rng), _value(rng)))


def _known(rng: random.Random, members: _Members) -> None:
    at = rng.randrange(len(members))
    members[at] = (members[at][0], _value_of(rng, _unescaped(members[at][0])))


def _repeated(rng: random.Random, members: _Members) -> None:
    name = rng.choice([*FIELDS])
    token = FIELDS[name] if rng.random() < 0.4 else _value_of(rng, name)
    members.insert(rng.randrange(len(members) + 1), (_spelled(rng, name), token))


def _respelled(rng: random.Random, members: _Members) -> None:
    at = rng.randrange(len(members))
    name = members[at][0].strip('"')
    if name in FIELDS:
        members[at] = (_spelled(rng, name), members[at][1])


def _dropped(rng: random.Random, members: _Members) -> None:
    if len(members) > 1:
        del members[rng.randrange(len(members))]


def _lines(rng: random.Random, members: _Members) -> None:
    """`items` whose lines have odd members, one of them twice."""
    lines = []
    for _ in range(rng.choice((1, 1, 2))):
        line = [("product_id", '"p1"'), ("price", "2.5"), ("quantity", "1")]
        for _ in range(rng.choice((1, 2))):
            name, token = rng.choice([*line, ("note", "1")])
            line.insert(
                rng.randrange(len(line) + 1), (name, token if rng.random() < 0.4 else _value_of(rng, name))
            )
        lines.append("{" + ",".join(f"{_spelled(rng, name)}:{token}" for name, token in line) + "}")
    members.append(('"items"', "[" + ",".join(lines) + rng.choice(("]", "]", "]", ",]", ""))))


_CHANGES: tuple[Callable[[random.Random, _Members], None], ...] = (
    _unknown, _unknown, _unknown, _known, _repeated, _repeated, _respelled, _dropped, _lines,
)  # fmt: skip


def _unescaped(name: str) -> str:
    return re.sub(r"\\u(00[0-9a-f]{2})", lambda found: chr(int(found[1], 16)), name.strip('"'))


def _spelled(rng: random.Random, name: str) -> str:
    """A name, now and then with one of its characters as an escape."""
    if rng.random() < 0.7:
        return f'"{name}"'
    at = rng.randrange(len(name))
    return f'"{name[:at]}\\u{ord(name[at]):04x}{name[at + 1 :]}"'


def _name(rng: random.Random) -> str:
    if rng.random() < 0.01:
        return '"' + rng.choice(("k" * 2, "é" * 2, "😀")) * (_LONGEST_NAME // 2 + rng.choice(_NEAR)) + '"'
    return _string(rng) if rng.random() < 0.7 else '"note"'


def _value(rng: random.Random, levels: int = 3) -> str:
    kind = rng.random()
    if kind < 0.3:
        return _number(rng)
    if kind < 0.55:
        return _string(rng)
    if kind < 0.65:
        return rng.choice(_LITERALS)
    if kind < 0.68:
        return _deep(rng)
    if levels == 0:
        return "1"
    inner = [_value(rng, levels - 1) for _ in range(rng.choice((0, 1, 2)))]
    if kind < 0.85:
        return "[" + ",".join(inner) + rng.choice(("]",) * 12 + (",]", "}", ""))
    return "{" + ",".join(f"{_name(rng)}:{one}" for one in inner) + rng.choice(("}",) * 12 + (",}", "]", ""))


def _number(rng: random.Random) -> str:
    def digits(least: int = 1) -> str:
        many = (
            _MOST_DIGITS + rng.choice(_NEAR)
            if rng.random() < 0.08
            else rng.choice((1, 2, 15, 16, 19, 40, 310))
        )
        return "".join(rng.choice("0123456789") for _ in range(max(least, many)))

    whole = digits() if rng.random() < 0.1 else digits().lstrip("0") or "0"
    text = rng.choice(("", "", "-")) + whole
    if rng.random() < 0.4:
        text += "." + (digits() if rng.random() < 0.95 else "")
    if rng.random() < 0.3:
        text += (
            rng.choice("eE")
            + rng.choice(("", "+", "-"))
            + (digits() if rng.random() < 0.5 else rng.choice(("1", "02", "308", "400", "")))
        )
    return text


def _string(rng: random.Random) -> str:
    if rng.random() < 0.02:
        return '"' + "x" * rng.choice((127, 128, 129, 5_000)) + '"'
    parts = [rng.choice(_ESCAPES if rng.random() < 0.3 else _CHARACTERS) for _ in range(rng.randrange(5))]
    return '"' + "".join(parts) + '"'


def _deep(rng: random.Random) -> str:
    """Of so many levels, the order among them, or one beside."""
    levels = rng.choice((5, 100, _MOST_LEVELS - 1 + rng.choice(_NEAR)))
    opening, closing = rng.choice((("[", "]"), ('{"a":', "}"), ('[{"[":', "}]")))
    times = levels // (2 if len(opening) == 6 else 1)
    inside = rng.choice(("1", '"["', "[]", "{}"))
    return opening * times + inside + closing * times
