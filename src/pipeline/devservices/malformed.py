"""Every way in which a generated record breaks the contract, each with the violations that it must be dead for."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["MALFORMED_ORDERS", "MALFORMED_PRODUCTS", "NOT_UTF8", "Malformed"]

NOT_UTF8 = b"\xff\xfe not text"
_TOO_LONG = "x" * 129

_ORDER = {
    "event_type": '"order_created"',
    "order_id": '"{id}"',
    "customer_id": '"c-broken"',
    "total": "12.50",
    "status": '"pending"',
    "items": '[{{"product_id":"p-001","price":12.50}}]',
    "timestamp": '"{now}"',
}
_PRODUCT = {
    "product_id": '"{id}"',
    "name": '"Broken"',
    "product_category": '"toys"',
    "price": "12.50",
    "cost": "10",
    "timestamp": '"{now}"',
}


@dataclass(frozen=True)
class Malformed:
    """A broken value: `template` is filled with an id and two instants; `only_once` where it is large."""

    violations: tuple[str, ...]
    template: bytes
    only_once: bool = False

    def value(self, id_: str, now: str, future: str) -> bytes:
        if b"{now}" not in self.template and b"{id}" not in self.template:
            return self.template
        filled = self.template.replace(b"{id}", id_.encode()).replace(b"{now}", now.encode())
        return filled.replace(b"{future}", future.encode())


def _with(good: dict[str, str], **fields: str | None) -> Malformed:
    """A good event with these fields set, as JSON, or left out (None); all of them are violated."""
    merged = {**good, **fields}
    body = ",".join(f'"{name}":{value}' for name, value in merged.items() if value is not None)
    template = "{" + body.replace("{{", "{").replace("}}", "}") + "}"
    return Malformed(tuple(fields), template.encode())


def _naming(violations: tuple[str, ...], broken: Malformed) -> Malformed:
    """The same value where fields had to change that are not themselves violated."""
    return Malformed(violations, broken.template)


def _item(item: str) -> Malformed:
    return _with(_ORDER, items=f'[{{"product_id":"p-002","price":1}},{item}]')


_GOOD_ORDER, _GOOD_PRODUCT = _with(_ORDER).template, _with(_PRODUCT).template

_NOT_JSON = tuple(
    Malformed(("not_json",), value)
    for value in (
        b"",
        b"  \t\n",
        b"order o-1 for c-1",
        b"[1]",
        b'"order_created"',
        b"null",
        b"42",
        _GOOD_ORDER[:-1],
        _GOOD_ORDER[: len(_GOOD_ORDER) // 2],
        _GOOD_ORDER.replace(b'"', b"'"),
        _GOOD_ORDER.replace(b"12.50,", b"NaN,", 1),
        _GOOD_ORDER.replace(b"c-broken", b"c-\xc3\x28"),
        NOT_UTF8,
        b'{"event_type":"order_created","nested":' + b"[" * 1_001 + b"]" * 1_001 + b"}",
    )
)
_TOO_LARGE = Malformed(
    ("too_large",), _GOOD_ORDER[:-1] + b',"note":"' + b"x" * 1_048_576 + b'"}', only_once=True
)
_TIMESTAMPS = (
    None,
    '"2026-01-01T00:00:00"',
    '"2026-01-01T00:00:00.000"',
    '"2026-01-01"',
    '"2026-01-01 00:00:00Z"',
    '"2026-02-30T00:00:00Z"',
    '"2026-01-01T00:00:00.1234567Z"',
    '"2026-01-01T00:00:00 Europe/Paris"',
    '"1999-12-31T23:59:59Z"',
    '"T03:04:05Z"',
    "1767225600",
    '"{future}"',
)
_AMOUNTS = ("-0.01", "12.345", '"abc"', "10000000000", '"+5"', '" 1.5"', '".5"', '""', "true")

MALFORMED_ORDERS = (
    *_NOT_JSON,
    _TOO_LARGE,
    *(_with(_ORDER, event_type=value) for value in (None, '"order_updated"', '""', "7")),
    *(_with(_ORDER, order_id=value) for value in (None, '""', f'"{_TOO_LONG}"')),
    *(_with(_ORDER, customer_id=value) for value in (None, '""', f'"{_TOO_LONG}"', "null")),
    *(_with(_ORDER, total=value) for value in _AMOUNTS),
    _naming(("total",), _with(_ORDER, total=None, items=None)),
    _naming(
        ("total",),
        _with(_ORDER, total=None, items='[{"product_id":"p-001","price":9999999999.99,"quantity":1000000}]'),
    ),
    *(_with(_ORDER, status=value) for value in ('"shipped"', '""', "1")),
    *(
        _with(_ORDER, items=value)
        for value in ('"p-001"', '{"product_id":"p-001","price":1}', '["p-001"]', "[[]]")
    ),
    _item('{"price":1}'),
    _item('{"product_id":"","price":1}'),
    _item('{"product_id":"p-001"}'),
    _item('{"product_id":"p-001","price":-1}'),
    _item('{"product_id":"p-001","price":1.005}'),
    _item('{"product_id":"p-001","price":1,"quantity":0}'),
    _item('{"product_id":"p-001","price":1,"quantity":1.5}'),
    _item('{"product_id":"p-001","price":1,"quantity":1000001}'),
    _item('{"product_id":"p-001","price":1,"quantity":"two"}'),
    _naming(("items",), _with(_ORDER, total=None, items='[{"product_id":"p-001"}]')),
    *(_with(_ORDER, timestamp=value) for value in _TIMESTAMPS),
    _with(
        _ORDER,
        event_type='"order"',
        order_id='""',
        customer_id=None,
        total='"x"',
        status='"lost"',
        timestamp="null",
    ),
    Malformed(("event_type", "order_id", "customer_id", "timestamp"), b'{"total":1}'),
)
MALFORMED_PRODUCTS = (
    *_NOT_JSON,
    *(_with(_PRODUCT, product_id=value) for value in (None, '""', f'"{_TOO_LONG}"')),
    *(_with(_PRODUCT, name=value) for value in (None, '""', f'"{_TOO_LONG}"')),
    *(_with(_PRODUCT, product_category=value) for value in (None, '""', f'"{_TOO_LONG}"')),
    *(_with(_PRODUCT, price=value) for value in (None, *_AMOUNTS)),
    *(_with(_PRODUCT, cost=value) for value in (None, *_AMOUNTS)),
    *(_with(_PRODUCT, timestamp=value) for value in _TIMESTAMPS),
    _with(_PRODUCT, name='""', price="-1", timestamp='"yesterday"'),
)
