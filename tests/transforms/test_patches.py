"""Patches: what they change, and that they leave the rest as it was written."""

from __future__ import annotations

import json

import pytest

from pipeline.transforms.patches import BULK_REPAIRS, bulk_patch, merge_patch, value_patch


def _merged(value: str, patch: str) -> object:
    patched = merge_patch(patch).apply(value.encode())
    return None if patched is None else json.loads(patched)


@pytest.mark.parametrize(
    ("target", "patch", "expected"),
    [  # the examples of RFC 7396 whose target and patch are objects
        ({"a": "b"}, {"a": "c"}, {"a": "c"}),
        ({"a": "b"}, {"b": "c"}, {"a": "b", "b": "c"}),
        ({"a": "b"}, {"a": None}, {}),
        ({"a": "b", "b": "c"}, {"a": None}, {"b": "c"}),
        ({"a": ["b"]}, {"a": "c"}, {"a": "c"}),
        ({"a": "c"}, {"a": ["b"]}, {"a": ["b"]}),
        ({"a": {"b": "c"}}, {"a": {"b": "d", "c": None}}, {"a": {"b": "d"}}),
        ({"a": [{"b": "c"}]}, {"a": [1]}, {"a": [1]}),
        ({"e": None}, {"a": 1}, {"e": None, "a": 1}),
        ({}, {"a": {"bb": {"ccc": None}}}, {"a": {"bb": {}}}),
    ],
)
def test_a_merge_patch_is_that_of_the_rfc(target: object, patch: object, expected: object) -> None:
    assert _merged(json.dumps(target), json.dumps(patch)) == expected


def test_what_a_patch_does_not_touch_stays_as_it_was_written() -> None:
    untouched = (
        '"total":12345678901234567890.10,"price":1.50E+1,"zero":-0.0,"name":"Zoë €\\u2028","half":"\\ud800"'
    )
    patched = merge_patch('{"quantity": 1.0}').apply(f'{{ {untouched} , "quantity" : 7}}'.encode())
    assert patched == ("{" + untouched.replace("\\u2028", "\u2028") + ',"quantity":1.0}').encode()


def test_of_a_repeated_key_the_last_counts() -> None:
    assert _merged('{"a": 1, "a": 2}', '{"b": 3}') == {"a": 2, "b": 3}


@pytest.mark.parametrize(
    "value",
    [b"", b"order", b"[1]", b"null", b'{"a": NaN}', b'{"a": 1', b'{"a": "\xff"}', b'{"a":' + b"[" * 9000 + b"]" * 9000 + b"}"],
)  # fmt: skip
def test_a_merge_patch_takes_hold_of_an_object_only(value: bytes) -> None:
    assert merge_patch('{"a": 1}').apply(value) is None


@pytest.mark.parametrize("text", ["", "status=completed", "[1]", "null", '"a"', "1", '{"a": NaN}'])
def test_a_merge_patch_is_a_json_object(text: str) -> None:
    with pytest.raises(ValueError):
        merge_patch(text)


def test_a_whole_value_takes_the_place_of_any() -> None:
    assert value_patch("Zoë").apply(b"\xff") == "Zoë".encode()


@pytest.mark.parametrize(
    ("name", "before", "after"),
    [
        ("assume-utc", '{"timestamp":"2026-01-01T00:00:00"}', '{"timestamp":"2026-01-01T00:00:00Z"}'),
        ("assume-utc", '{"timestamp":"2026-01-01T00:00:00.125"}', '{"timestamp":"2026-01-01T00:00:00.125Z"}'),
        ("assume-utc", '{"timestamp":"2026-01-01T00:00:00+01:00"}', None),
        ("assume-utc", '{"timestamp":"2026-01-01"}', None),
        ("assume-utc", '{"timestamp":1767225600}', None),
        ("assume-utc", '{"note":{"timestamp":"2026-01-01T00:00:00"}}', None),
        ("trim", '{"total":" 1.50\\n","items":[{"price":" 2"}]}', '{"total":"1.50","items":[{"price":"2"}]}'),
        ("trim", '{"total":1.50,"items":"p"}', None),
        ("lower-case", '{"event_type":"Order_Created","status":"PENDING","order_id":"A"}',
         '{"event_type":"order_created","status":"pending","order_id":"A"}'),
        ("lower-case", '{"status":1E5}', None),
        ("unquote-quantities", '{"items":[{"quantity":"2"},{"quantity":"two"},3]}',
         '{"items":[{"quantity":2},{"quantity":"two"},3]}'),
        ("unquote-quantities", '{"quantity":"2"}', None),
        ("assume-latin-1", b"Zo\xeb", "Zoë"),
        ("assume-latin-1", "Zoë", None),
    ],
)  # fmt: skip
def test_a_bulk_repair_changes_what_its_name_says(name: str, before: str | bytes, after: str | None) -> None:
    value = before if isinstance(before, bytes) else before.encode()
    assert bulk_patch([name]).apply(value) == (None if after is None else after.encode())


def test_bulk_repairs_follow_one_another() -> None:
    patch = bulk_patch(["assume-latin-1", "trim", "assume-utc"])
    assert patch.form == "bulk:assume-latin-1,trim,assume-utc"
    repaired = patch.apply(b'{"name":"Zo\xeb ","timestamp":" 2026-01-01T00:00:00"}')
    assert repaired == '{"name":"Zoë","timestamp":"2026-01-01T00:00:00Z"}'.encode()


@pytest.mark.parametrize("name", BULK_REPAIRS)
def test_a_bulk_repair_leaves_what_is_no_event(name: str) -> None:
    assert bulk_patch([name]).apply(b"no event") is None
