"""The rule of the merge, in one place: batch rows before the horizon, speed rows from it on; of a key's rows in a speed table the
one that counts.

It is SQL over relations that whoever asks makes known by name: Spark for notebooks and jobs, DuckDB for `pipeline query`.
Table versions are pinned before anything is read, so an answer is of one published batch, never of two.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal, NamedTuple

from pipeline.errors import RefusedToStart
from pipeline.views import BATCH_ID, VIEWS, View, place_of_row

__all__ = ["Layer", "Relation", "State", "Table", "columns_of", "counting_rows", "layer_sql", "needed_views"]

Layer = Literal["served", "speed", "batch"]

_NO_HORIZON = "0001-01-01 00:00:00"

_WINDOWS = """
SELECT *, TRUE AS is_final FROM {batch}
UNION ALL
SELECT *, COALESCE(window_end <= {watermark}, FALSE) AS is_final FROM {speed} AS speed WHERE window_end > {horizon}
"""

_ROWS = """
SELECT * FROM {batch}
UNION ALL
SELECT * FROM {speed} AS speed WHERE {settles_by} >= {horizon}
"""

_TOTALS = """
SELECT customer_id, CAST(SUM(order_count) AS BIGINT) AS order_count,
       CAST(SUM(total_spend) AS DECIMAL(38, 2)) AS total_spend, MAX(last_event_time) AS last_event_time
FROM (
    SELECT customer_id, order_count, total_spend, last_event_time FROM {batch}
    UNION ALL
    SELECT customer_id, order_count, hourly_spend, last_event_time FROM ({spend}) AS spend
    WHERE window_start >= {horizon}
) AS parts
GROUP BY customer_id
"""

_ALL_TIME = "SELECT * FROM {speed} AS speed"

_SPEND_VIEW = VIEWS["customer_hourly_spend"]
_TOTALS_VIEW = VIEWS["customer_totals"]


@dataclass(frozen=True)
class Table:
    """One version of a view's table."""

    path: str
    version: int


class Relation(NamedTuple):
    """What SQL calls the rows of a table, and the columns that they have."""

    name: str
    columns: Sequence[str]


@dataclass(frozen=True)
class State:
    """What a view's two tables hold at one moment; None where one does not exist yet.

    `watermark` is the one by which the speed layer has closed windows.
    """

    view: View
    batch: Table | None
    speed: Table | None
    horizon: datetime | None
    watermark: datetime | None


def needed_views(view: View) -> tuple[View, ...]:
    """The views whose tables a served answer about this one takes rows from."""
    return (view, _SPEND_VIEW) if view.name == _TOTALS_VIEW.name else (view,)


def columns_of(view: View, layer: Layer) -> list[str]:
    """What a reader sees; served windows have `is_final` too."""
    return [*view.columns, "is_final"] if layer == "served" and _has_windows(view) else [*view.columns]


def _has_windows(view: View) -> bool:
    return view.settles_by == "window_end"


def counting_rows(
    view: View,
    speed: Relation,
    *,
    where: str | None = None,
    shows_ties: bool = False,
) -> str:
    """A query for the rows of a speed table that count: one of each key. `where` decides of whole keys.

    `shows_ties`: where a table has a row twice, for whatever reason, both, as proofs want it. Tables of
    earlier lakes have one row of each key, and no micro-batch beside it.
    """
    among = f"{speed.name} WHERE {where}" if where else speed.name
    if BATCH_ID not in speed.columns:
        return f"SELECT * FROM {among}"
    columns = ", ".join(name for name in speed.columns if name != BATCH_ID)
    place = place_of_row(view, [*view.precedence, BATCH_ID], shows_ties=shows_ties)
    return f"SELECT {columns} FROM (SELECT *, {place} AS _place FROM {among}) AS placed WHERE _place = 1"


def layer_sql(
    view: View, layer: Layer, states: dict[str, State], relation: Callable[[Table], Relation]
) -> str:
    """A query for the rows of one layer; `states` has one of each of the needed views, `relation` names a table.

    Raises RefusedToStart where the layer has no table yet.
    """
    state = states[view.name]
    table = {"speed": state.speed, "batch": state.batch}.get(layer)
    if layer != "served" and table is None:
        raise _nothing_yet(view, layer)
    if table is None:
        rows = _served_sql(view, states, relation)
    elif layer == "speed":
        rows = counting_rows(view, relation(table))
    else:
        rows = f"SELECT * FROM {relation(table).name}"
    columns = ", ".join(columns_of(view, layer))
    return f"SELECT {columns} FROM ({rows}) AS rows_of_layer"


def _served_sql(view: View, states: dict[str, State], relation: Callable[[Table], Relation]) -> str:
    used = [states[each.name] for each in needed_views(view)]
    if all(state.batch is None and state.speed is None for state in used):
        raise _nothing_yet(view, "served")
    state = states[view.name]
    if view.name == _TOTALS_VIEW.name:
        return _merge(_TOTALS, state, relation, spend=_merge(_WINDOWS, states[_SPEND_VIEW.name], relation))
    if view.settles_by is None:
        return _merge(_ALL_TIME, state, relation)
    return _merge(_WINDOWS if _has_windows(view) else _ROWS, state, relation)


def _merge(rule: str, state: State, relation: Callable[[Table], Relation], **parts: str) -> str:
    """The rule with its tables and times filled in; none of them comes from a user's text."""
    horizon = _timestamp(state.horizon) if state.horizon else f"TIMESTAMP '{_NO_HORIZON}'"
    speed = _no_rows(state.view)
    if state.speed:
        # No optimizer knows that a window's start tells its end, so what ends before the horizon would be compared, too.
        is_open = f"window_end > {horizon}" if _has_windows(state.view) else None
        speed = f"({counting_rows(state.view, relation(state.speed), where=is_open)})"
    return rule.format(
        batch=relation(state.batch).name if state.batch else _no_rows(state.view),
        speed=speed,
        horizon=horizon,
        watermark=_timestamp(state.watermark) if state.watermark else "NULL",
        settles_by=state.view.settles_by,
        **parts,
    )


def _no_rows(view: View) -> str:
    columns = ", ".join(
        f"CAST(NULL AS {field.dataType.simpleString()}) AS {field.name}" for field in view.schema
    )
    return f"(SELECT {columns} WHERE FALSE)"


def _timestamp(time: datetime) -> str:
    return f"TIMESTAMP '{time:%Y-%m-%d %H:%M:%S.%f}'"


def _nothing_yet(view: View, layer: Layer) -> RefusedToStart:
    command = "batch" if layer == "batch" else "speed"
    return RefusedToStart(
        f"{view.name} has no {layer} rows yet in this lake.\n"
        f"Run `pipeline {command} {view.name}` first, or set lake.root to the lake you mean."
    )
