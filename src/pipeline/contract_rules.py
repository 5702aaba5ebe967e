"""The contract's rules as plain values: to be noted by who applies them, and compared with what was noted.

A rule that lets more through than before is backward compatible: what was accepted still is. One that lets less through,
or another thing, is breaking.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import Any, Literal

from pipeline import contracts
from pipeline.contracts import ITEM_LIMITS, OPTIONAL_ITEM_FIELDS, ORDER_LIMITS, ORDERS, Limits
from pipeline.kinds import Kind

__all__ = ["Change", "changes", "rules_of"]

Effect = Literal["backward compatible", "breaking"]

_MORE_IS_LOOSER = {
    "max_value_bytes",
    "max_nesting_levels",
    "max_clock_skew_minutes",
    "amount_decimals",
    "most",
    "max_characters",
}
_LESS_IS_LOOSER = {"least", "first_year", "is_required"}


@dataclass(frozen=True)
class Change:
    """One rule that is not what it was; None where it was not, or is not any more."""

    rule: str
    then: Any
    now: Any
    effect: Effect


def rules_of(kinds: Iterable[Kind]) -> dict[str, Any]:
    """Every rule by its dotted name, such as `orders.order_id.max_characters`; only what JSON can hold."""
    found: dict[str, Any] = {
        "record.max_value_bytes": contracts.MAX_VALUE_BYTES,
        "record.max_nesting_levels": contracts.MAX_NESTING_LEVELS,
        "record.max_clock_skew_minutes": contracts.MAX_CLOCK_SKEW_MINUTES,
        "record.first_year": contracts.FIRST_YEAR,
        "record.amount_decimals": contracts.AMOUNT_DECIMALS,
    }
    required = {one.name for one in contracts.ORDER.fields if not one.nullable}
    for name, limits in ORDER_LIMITS.items():
        found |= _limits(f"{ORDERS}.{name}", limits, is_required=name in required)
    for name, limits in ITEM_LIMITS.items():
        found |= _limits(f"{ORDERS}.items.{name}", limits, is_required=name not in OPTIONAL_ITEM_FIELDS)
    for kind in kinds:
        for field in kind.fields:
            name = f"{kind.name}.{field.name}"
            found |= {
                f"{name}.rule": field.rule,
                **_limits(name, field.limits, is_required=field.is_required),
            }
    return found


def changes(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[Change]:
    """What differs, by the rules' names."""
    names = sorted({*then, *now})
    return [
        Change(name, then.get(name), now.get(name), _effect(name, then, now))
        for name in names
        if then.get(name) != now.get(name)
    ]


def _limits(name: str, limits: Limits, *, is_required: bool) -> dict[str, Any]:
    """Numbers are kept as they are read back from JSON: whole ones as such, others as text."""
    told = {key: value for key, value in limits._asdict().items() if value not in (None, ())}
    return {f"{name}.is_required": is_required} | {
        f"{name}.{key}": [*value]
        if isinstance(value, tuple)
        else value
        if isinstance(value, int)
        else str(value)
        for key, value in told.items()
    }


def _effect(name: str, then: Mapping[str, Any], now: Mapping[str, Any]) -> Effect:
    what, field = name.rpartition(".")[2], name.rpartition(".")[0]
    before, after = then.get(name), now.get(name)
    if _is_unknown(field, then):  # a field that had no rule: it may be absent, or it may not
        return "breaking" if what == "is_required" and after else "backward compatible"
    if after is None or _is_unknown(field, now):
        return "backward compatible"
    if before is None or what == "rule":
        return "breaking"
    return "backward compatible" if _is_looser(what, before, after) else "breaking"


def _is_unknown(field: str, rules: Mapping[str, Any]) -> bool:
    return not any(name.startswith(f"{field}.") for name in rules)


def _is_looser(what: str, before: Any, after: Any) -> bool:
    if isinstance(before, Sequence) and what == "values":
        return {*before} <= {*after}
    less, more = (after, before) if what in _LESS_IS_LOOSER else (before, after)
    return what in (_MORE_IS_LOOSER | _LESS_IS_LOOSER) and _is_at_most(less, more)


def _is_at_most(less: Any, more: Any) -> bool:
    try:
        return Decimal(less) <= Decimal(more)
    except InvalidOperation:  # instants: as texts they sort as they follow each other
        return str(less) <= str(more)
