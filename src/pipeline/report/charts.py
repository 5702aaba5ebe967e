"""The charts, drawn by Vega-Lite: each is a function of numbers, of which there are some, and of the look."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from statistics import median
from typing import Any, TypeAlias

import altair as alt
import vl_convert

from pipeline import late
from pipeline.contracts import ACCEPTED, DEAD, DEAD_LETTER_STATUSES, DISCARDED, FIXED, REPAIRED
from pipeline.reconcile.causes import CONFLICTING, CONTRACT_CHANGED, LATE, UNEXPLAINED
from pipeline.rendering import printable
from pipeline.report.look import Look
from pipeline.report.numbers import Agreement, Duration, Fates, Late, Spend, Violation

__all__ = [
    "BATCH_RUN",
    "FINAL",
    "HEALED",
    "MICRO_BATCH",
    "MOST_BARS",
    "NOT_HEALED",
    "PROVISIONAL",
    "agreements",
    "dead_letters",
    "durations",
    "fates",
    "late_events",
    "png",
    "spend",
    "svg",
]

FINAL, PROVISIONAL = "final", "not final yet"
TOMBSTONES = "tombstones"
HEALED, NOT_HEALED = "counted by batch since", "not counted yet"
MICRO_BATCH, BATCH_RUN = "micro-batch", "batch run"

_FATE_COLOURS = {ACCEPTED: "blue", DEAD: "red", TOMBSTONES: "grey"}
_STATUS_COLOURS = {DEAD: "red", FIXED: "amber", REPAIRED: "green", DISCARDED: "grey"}
_CAUSE_COLOURS = {
    LATE: "blue",
    REPAIRED: "green",
    CONFLICTING: "purple",
    CONTRACT_CHANGED: "amber",
    UNEXPLAINED: "red",
}
MOST_BARS = 15
_WIDE_SPAN = 50
"""From this ratio of the longest to the shortest on, only a logarithmic axis shows both."""

_CHARACTER = 7.4
"""The width of a letter of 12 points in a wide font."""
_HOUR = timedelta(hours=1)
_Chart: TypeAlias = Any
"""Altair's own methods are typed no closer."""


def svg(chart: _Chart, look: Look) -> str:
    return str(vl_convert.vegalite_to_svg(_specification(chart, look)))


def png(chart: _Chart, look: Look) -> bytes:
    """Twice as many pixels as the picture has points."""
    return bytes(vl_convert.vegalite_to_png(_specification(chart, look), scale=2))


def spend(found: Spend, look: Look) -> _Chart:
    rows = [
        {
            "start": _instant(hour.start),
            "end": _instant(hour.start + _HOUR),
            "spend": float(hour.spend),
            "state": FINAL if hour.is_final else PROVISIONAL,
        }
        for hour in found.hours
    ]
    states = [FINAL, PROVISIONAL]
    legend = _legend(look)
    bars = _data(rows).mark_bar(strokeWidth=1.3, binSpacing=1)
    return bars.encode(
        x=_time("start", "start of the window (UTC)", look),
        x2="end",
        y=alt.Y("spend:Q", title="spend of all customers", axis=alt.Axis(format="~s", tickCount=5)),
        fill=alt.Fill("state:N", scale=_scale(states, ["blue", "paper"], look), legend=legend),
        stroke=alt.Stroke("state:N", scale=_scale(states, ["paper", "amber"], look), legend=legend),
        strokeDash=alt.StrokeDash(
            "state:N", scale=alt.Scale(domain=states, range=[[1, 0], [4, 2]]), legend=legend
        ),
    ).properties(**_size(look, 240))


def fates(found: Fates, look: Look) -> _Chart:
    totals = {
        ACCEPTED: sum(one.accepted for one in found.moments),
        DEAD: sum(one.dead for one in found.moments),
        TOMBSTONES: sum(one.tombstones for one in found.moments),
    }
    named = {fate: f"{fate}: {total:,}" for fate, total in totals.items() if total}
    rows = [
        {"start": _instant(one.start), "end": _instant(one.end), "fate": label, "records": getattr(one, fate)}
        for fate, label in named.items()
        for one in found.moments
    ]
    panels = _data(rows).mark_bar(binSpacing=1)
    encoded = panels.encode(
        x=_time("start", "Kafka timestamp of the record (UTC)", look),
        x2="end",
        y=alt.Y("records:Q", title=None, axis=_counts(tickCount=3)),
        color=alt.Color(
            "fate:N",
            scale=_scale([*named.values()], [_FATE_COLOURS[fate] for fate in named], look),
            legend=None,
        ),
    ).properties(width=look.width - 50, height=70)
    header = alt.Header(title=None, orient="top", labelAnchor="start", labelFontWeight="bold", labelPadding=2)
    return encoded.facet(
        row=alt.Row("fate:N", sort=[*named.values()], header=header), spacing=14
    ).resolve_scale(y="independent")


def dead_letters(found: Sequence[Violation], look: Look) -> _Chart:
    shown = found[:MOST_BARS]
    names = [f"{printable(one.violation)} · {printable(one.topic)}" for one in shown]
    rows = [
        {"name": name, "status": status, "place": place, "letters": one.by_status[status]}
        for name, one in zip(names, shown, strict=True)
        for place, status in enumerate(DEAD_LETTER_STATUSES)
        if one.by_status.get(status)
    ]
    totals = [
        {"name": name, "letters": one.letters, "text": f"{one.letters:,}"}
        for name, one in zip(names, shown, strict=True)
    ]
    statuses = [status for status in DEAD_LETTER_STATUSES if any(status in one.by_status for one in shown)]
    bars = (
        _data(rows)
        .mark_bar()
        .encode(
            y=_name(names, look),
            x=alt.X(
                "letters:Q", title="dead letters", axis=_counts(), scale=_with_room(totals, "letters", look)
            ),
            order="place:O",
            color=alt.Color(
                "status:N",
                scale=_scale(statuses, [_STATUS_COLOURS[one] for one in statuses], look),
                legend=_legend(look),
            ),
        )
    )
    return (bars + _ends(totals, names, "letters", look)).properties(**_size(look, 24 * len(shown) + 60))


def late_events(found: Sequence[Late], look: Look) -> _Chart:
    classes = [late.class_name(low) for low in late.CLASS_SECONDS]
    states = [HEALED, NOT_HEALED]
    rows = [
        {"name": late.class_name(low), "state": state, "place": place, "events": _sum_late(found, low, state)}
        for low in late.CLASS_SECONDS
        for place, state in enumerate(states)
    ]
    sums = {
        low: sum(one.healed + one.not_healed for one in found if one.class_seconds == low)
        for low in late.CLASS_SECONDS
    }
    totals = [
        {"name": late.class_name(low), "events": total, "text": f"{total:,}"} for low, total in sums.items()
    ]
    bars = (
        _data(rows)
        .mark_bar()
        .encode(
            y=_name(classes, look, title="behind the watermark"),
            x=alt.X(
                "events:Q",
                title="late events of all views",
                axis=_counts(),
                scale=_with_room(totals, "events", look),
            ),
            order="place:O",
            color=alt.Color(
                "state:N", scale=_scale(states, ["green", "red"], look), legend=_legend(look, columns=1)
            ),
        )
    )
    return (bars + _ends(totals, classes, "events", look)).properties(**_size(look, 24 * len(classes) + 60))


def durations(found: Sequence[Duration], look: Look) -> _Chart:
    groups: dict[tuple[str, str], list[float]] = {}
    for one in found:
        kind = MICRO_BATCH if one.is_micro_batch else BATCH_RUN
        groups.setdefault((printable(one.name), kind), []).append(max(one.seconds, 0.001))
    names = [*dict.fromkeys(name for name, _ in groups)]
    kinds = [kind for kind in (MICRO_BATCH, BATCH_RUN) if any(kind == of for _, of in groups)]
    rows = [
        {"name": name, "kind": kind, "seconds": seconds}
        for (name, kind), times in groups.items()
        for seconds in times
    ]
    middles = [
        {"name": name, "kind": kind, "seconds": median(times)} for (name, kind), times in groups.items()
    ]
    shortest, longest = min(map(min, groups.values())), max(map(max, groups.values()))
    axis = alt.Axis(format="~r", tickCount=6, labelFlush=False)
    scale = alt.Scale(type="log", nice=True) if longest > _WIDE_SPAN * shortest else alt.Scale(zero=True)
    x = alt.X("seconds:Q", title="seconds (the line: their median)", scale=scale, axis=axis)
    offset = alt.YOffset(
        "kind:N", sort=kinds, scale=alt.Scale(domain=kinds, paddingInner=0.1, paddingOuter=0.3)
    )
    colour = alt.Color("kind:N", scale=_scale(kinds, ["blue", "red"], look), legend=_legend(look))
    shape = alt.Shape(
        "kind:N", scale=alt.Scale(domain=kinds, range=["circle", "diamond"]), legend=_legend(look)
    )
    dots = (
        _data(rows)
        .mark_point(filled=True, size=46, opacity=0.55)
        .encode(y=_name(names, look), yOffset=offset, x=x, color=colour, shape=shape)
    )
    lines = (
        _data(middles)
        .mark_tick(thickness=2, size=15, color=look.colours["ink"])
        .encode(y=_name(names, look), yOffset=offset, x=x)
    )
    return (dots + lines).properties(**_size(look, 40 * len(names) + 60))


def agreements(found: Sequence[Agreement], look: Look) -> _Chart:
    names = [printable(one.view) for one in found]
    rows = [
        {"name": name, "cause": cause, "place": place, "rows": one.causes[cause]}
        for name, one in zip(names, found, strict=True)
        for place, cause in enumerate(_CAUSE_COLOURS)
    ]
    totals = [
        {
            "name": name,
            "rows": one.compared - one.equal,
            "text": f"{one.compared - one.equal:,} of {one.compared:,}",
        }
        for name, one in zip(names, found, strict=True)
    ]
    bars = (
        _data(rows)
        .mark_bar()
        .encode(
            y=_name(names, look),
            x=alt.X(
                "rows:Q", title="rows that differ", axis=_counts(), scale=_with_room(totals, "rows", look)
            ),
            order="place:O",
            color=alt.Color(
                "cause:N",
                scale=_scale([*_CAUSE_COLOURS], [*_CAUSE_COLOURS.values()], look),
                legend=_legend(look, columns=1),
            ),
        )
    )
    return (bars + _ends(totals, names, "rows", look)).properties(**_size(look, 30 * len(found) + 60))


def _sum_late(found: Sequence[Late], low: int, state: str) -> int:
    of_class = [one for one in found if one.class_seconds == low]
    return sum(one.healed if state == HEALED else one.not_healed for one in of_class)


def _data(rows: Sequence[dict[str, Any]]) -> _Chart:
    return alt.Chart(alt.InlineData(values=[*rows]))


def _instant(time: datetime) -> int:
    return int(time.timestamp() * 1000)


def _time(field: str, title: str, look: Look) -> alt.X:
    clock, day = "%H:%M", "%b %-d"
    formats = {
        "hours": clock,
        "minutes": clock,
        "seconds": "%H:%M:%S",
        "milliseconds": "%H:%M:%S",
        "date": day,
        "day": day,
        "week": day,
    }
    axis = alt.Axis(
        format={**formats, "month": "%b %Y", "quarter": "%b %Y", "year": "%b %-d %Y"},
        tickCount=4 if look.is_narrow else 10,
        labelOverlap="greedy",
        grid=False,
    )
    return alt.X(f"{field}:T", bin="binned", title=title, scale=alt.Scale(type="utc"), axis=axis)


def _name(names: Sequence[str], look: Look, title: str | None = None) -> alt.Y:
    limit = 132 if look.is_narrow else 260
    axis = alt.Axis(
        labelLimit=limit,
        # What the reader's font needs is not known here: room for a wide one.
        minExtent=min(limit, _CHARACTER * max(map(len, names), default=0)) + 8,
        grid=False,
        ticks=False,
        domain=False,
        labelPadding=6,
    )
    return alt.Y(
        "name:N",
        sort=[*names],
        title=None if look.is_narrow else title,
        axis=axis,
        scale=alt.Scale(paddingInner=0.3),
    )


def _counts(**more: Any) -> alt.Axis:
    # A fraction is no count.
    whole = "datum.value % 1 ? '' : format(datum.value, '~s')"
    return alt.Axis(**{"labelExpr": whole, "tickCount": 5, "labelFlush": False, **more})


def _ends(totals: Sequence[dict[str, Any]], names: Sequence[str], field: str, look: Look) -> _Chart:
    """The text of each row at the end of its bar."""
    texts = _data(totals).mark_text(align="left", dx=5, color=look.colours["ink"])
    return texts.encode(y=_name(names, look), x=f"{field}:Q", text="text:N")


def _with_room(totals: Sequence[dict[str, Any]], field: str, look: Look) -> alt.Scale:
    """Bars that leave room for the text at their ends."""
    room = _CHARACTER * max(len(row["text"]) for row in totals) + 12
    plot = look.width - (160 if look.is_narrow else 220)
    longest = max(row[field] for row in totals) or 1
    return alt.Scale(domain=[0, longest * plot / (plot - room)], nice=False)


def _scale(domain: Sequence[str], colours: Sequence[str], look: Look) -> alt.Scale:
    return alt.Scale(domain=[*domain], range=[look.colours[name] for name in colours])


def _legend(look: Look, *, columns: int = 2) -> alt.Legend:
    return alt.Legend(
        title=None, orient="top", columns=columns if look.is_narrow else 0, labelLimit=200, columnPadding=28
    )


def _size(look: Look, height: int) -> dict[str, Any]:
    return {
        "width": look.width,
        "height": height,
        "autosize": alt.AutoSizeParams(type="fit", contains="padding"),
    }


def _specification(chart: _Chart, look: Look) -> dict[str, Any]:
    ink, muted, grid = (look.colours[name] for name in ("ink", "muted", "grid"))
    font = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Liberation Sans', sans-serif"
    words = {
        "labelFont": font,
        "titleFont": font,
        "labelFontSize": 12,
        "titleFontSize": 12,
        "labelColor": ink,
    }
    specification: dict[str, Any] = chart.to_dict()
    specification["config"] = {
        "aria": False,  # a picture is described as a whole, and its numbers stand in a table beside it
        "background": look.colours["paper"] if look.is_titled else "transparent",
        "font": font,
        "padding": 16 if look.is_titled else 2,
        "view": {"stroke": None},
        "axis": {
            **words,
            "titleColor": muted,
            "titleFontWeight": "normal",
            "gridColor": grid,
            "domainColor": grid,
            "tickColor": grid,
        },
        "legend": {
            **words,
            "layout": {"top": {"anchor": "start", "bounds": "full"}},
            "symbolSize": 130,
            "offset": 8,
        },
        "header": {**words},
        "title": {"font": font, "fontSize": 17, "anchor": "start", "color": ink, "offset": 12},
        "text": {"font": font, "fontSize": 12},
    }
    return specification
