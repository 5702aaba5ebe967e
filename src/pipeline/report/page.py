"""The page: sections, pictures and tables put together. What comes from the lake is escaped wherever it stands."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from typing import Any

import vl_convert
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from pipeline.rendering import printable
from pipeline.report import charts, numbers
from pipeline.report.flow import drawing
from pipeline.report.look import DARK, DESK, LIGHT, PHONE, PICTURE, Look
from pipeline.report.numbers import Numbers
from pipeline.report.sections import Section, sections, tiles, verdicts
from pipeline.settings import Settings

__all__ = ["Page", "make"]

_MARGIN = 20


@dataclass(frozen=True)
class Page:
    """The HTML, and the pictures as PNG by name."""

    html: str
    pictures: Mapping[str, bytes]


def make(settings: Settings, *, with_pictures: bool = False, script: str | None = None) -> Page:
    """The page about the settings' lake. `script` is where a page that is served finds what refreshes it."""
    found, reads_log = numbers.read(settings), settings.speed.source == "log"
    told = sections(found, reads_log=reads_log)
    drawn = {
        section.name: [_svg(found, section, look, reads_log=reads_log) for look in (DESK, PHONE)]
        for section in told
        if _has_picture(section)
    }
    html = _environment.get_template("page.html").render(
        numbers=found,
        sections=told,
        drawn=drawn,
        tiles=tiles(found),
        verdicts=[*verdicts(found)],
        light=LIGHT,
        dark=DARK,
        script=script,
    )
    pictures = (
        {name: _png(found, section, reads_log) for section in told if (name := section.name) in drawn}
        if with_pictures
        else {}
    )
    return Page(html, pictures)


def _has_picture(section: Section) -> bool:
    return (section.name == "way" and not section.is_empty) or bool(section.draw and section.grids[0].rows)


def _svg(found: Numbers, section: Section, look: Look, *, reads_log: bool) -> Markup:
    """The picture as text to be put into the page; Vega-Lite and the template have escaped what stands in it."""
    if section.draw is None:
        return Markup(_flow(found, section, look, reads_log=reads_log))
    return Markup(charts.svg(section.draw(look), look))


def _png(found: Numbers, section: Section, reads_log: bool) -> bytes:
    if section.draw is None:
        svg = _flow(found, section, PICTURE, reads_log=reads_log)
        return bytes(vl_convert.svg_to_png(svg, scale=2))
    chart = section.draw(PICTURE)
    return charts.png(chart.properties(title=section.title), PICTURE)


def _flow(found: Numbers, section: Section, look: Look, *, reads_log: bool) -> str:
    drawn = drawing(found, is_narrow=look.is_narrow, reads_log=reads_log)
    return _drawings.get_template("flow.svg").render(drawing=drawn, look=look, title=section.title)


def _shown(value: Any) -> Any:
    """A value as the page shows it: exact, with separators; text from the lake without what could hide in it."""
    if isinstance(value, Markup) or value is None:
        return "" if value is None else value
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (int, Decimal)):
        return f"{value:,}"
    if isinstance(value, datetime):
        return _time(value)
    return printable(value) if isinstance(value, str) else value


def _time(time: datetime) -> Markup:
    text = f"{time:%Y-%m-%d %H:%M}" if not time.second else f"{time:%Y-%m-%d %H:%M:%S}"
    return Markup('<time datetime="{}">{}</time>').format(f"{time:%Y-%m-%dT%H:%M:%S}Z", text)


def _is_number(value: object) -> bool:
    return isinstance(value, (int, Decimal)) and not isinstance(value, bool)


def _coded(text: str) -> Markup:
    """The text with what stands in backquotes as code."""
    parts = [escape(printable(part)) for part in text.split("`")]
    return Markup().join(
        Markup("<code>{}</code>").format(part) if place % 2 else part for place, part in enumerate(parts)
    )


_environment = Environment(
    loader=PackageLoader("pipeline.report", ""),
    autoescape=True,
    finalize=_shown,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_drawings = _environment.overlay(finalize=None)
"""In a drawing a number is a coordinate."""
_environment.filters["coded"] = _coded
_environment.tests["a_number"] = _is_number
_environment.tests["a_time"] = lambda value: isinstance(value, date)
