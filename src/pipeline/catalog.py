"""What a lake is about: the kinds of events and the views that every lake has, and those of the modules that the setting
`extensions` names.

A module says what it adds in KINDS and VIEWS, each a sequence. What does not fit is a ConfigurationError that names the module.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from types import ModuleType
from typing import TypeVar

from pyspark.sql import types as T

from pipeline import kinds as own
from pipeline import tables
from pipeline.errors import ConfigurationError
from pipeline.kinds import Kind
from pipeline.settings import Settings
from pipeline.views import VIEWS, View

__all__ = ["Catalog", "catalog", "kinds", "schemas", "typed_tables", "views"]

_KEY = "extensions"


@dataclass(frozen=True)
class Catalog:
    """The kinds and the views by name, those of every lake first."""

    kinds: Mapping[str, Kind]
    views: Mapping[str, View]


def catalog(settings: Settings) -> Catalog:
    """Raises ConfigurationError where an extension cannot be loaded, or does not fit to the rest."""
    return _of(tuple(settings.extensions.split(",")) if settings.extensions else ())


def kinds(settings: Settings) -> Mapping[str, Kind]:
    return catalog(settings).kinds


def views(settings: Settings) -> Mapping[str, View]:
    return catalog(settings).views


def typed_tables(settings: Settings) -> tuple[str, ...]:
    """The tables of accepted events; text has none."""
    return tuple(kind.table for kind in kinds(settings).values() if not kind.is_text)


def schemas(settings: Settings) -> Mapping[str, T.StructType]:
    """What the tables of the lake hold, beside those of the views."""
    return {**tables.SCHEMAS, **{kind.table: kind.schema for kind in kinds(settings).values()}}


@cache
def _of(names: tuple[str, ...]) -> Catalog:
    found = Catalog(own.KINDS, VIEWS)
    for name in names:
        module = _module(name)
        more_kinds, more_views = _listed(module, "KINDS", Kind), _listed(module, "VIEWS", View)
        if not more_kinds and not more_views:
            raise _wrong(
                name, "has neither KINDS nor VIEWS: a sequence of pipeline.kinds.Kind, of pipeline.views.View"
            )
        for kind in more_kinds:
            found = Catalog({**found.kinds, kind.name: _fitting_kind(name, kind, found)}, found.views)
        for view in more_views:
            found = Catalog(found.kinds, {**found.views, view.name: _fitting_view(name, view, found)})
    return found


def _module(name: str) -> ModuleType:
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise _wrong(name, f"needs the module {error.name}, which is not installed") from error
        raise _wrong(
            name, "cannot be found. Install its package beside this one, or name its folder in PYTHONPATH"
        ) from error
    except (TypeError, ValueError, ImportError, SyntaxError) as error:
        raise _wrong(name, f"cannot be loaded: {type(error).__name__}: {error}") from error


Entry = TypeVar("Entry")


def _listed(module: ModuleType, name: str, of: type[Entry]) -> list[Entry]:
    found = list(getattr(module, name, ()))
    for one in found:
        if not isinstance(one, of):
            raise _wrong(module.__name__, f"{name} must hold {of.__module__}.{of.__name__}; came {one!r}")
    return found


def _fitting_kind(module: str, kind: Kind, known: Catalog) -> Kind:
    if not kind.fields:
        raise _wrong(module, f"kind {kind.name!r} needs fields")
    if kind.name in known.kinds:
        raise _wrong(module, f"there is a kind {kind.name!r} already")
    taken = {*tables.SCHEMAS, *(one.table for one in known.kinds.values())}
    if kind.table in taken or not re.fullmatch(r"[a-z][a-z0-9_]{0,62}", kind.table):
        raise _wrong(
            module,
            f"kind {kind.name!r}: its table {kind.table!r} must be a name of a-z, 0-9 and _ that no table has",
        )
    return kind


def _fitting_view(module: str, view: View, known: Catalog) -> View:
    about = f"view {view.name!r}"
    if (
        view.name in known.views
        or view.name in known.kinds
        or not re.fullmatch(r"[a-z][a-z0-9_]{0,62}", view.name)
    ):
        raise _wrong(module, f"{about} needs a name of a-z, 0-9 and _ that no other view has")
    unknown = [kind for kind in view.inputs if kind not in known.kinds]
    if unknown or not view.inputs:
        raise _wrong(module, f"{about}: its inputs must be kinds ({', '.join(known.kinds)}); came {unknown}")
    if {reading.kind for reading in view.reads} != {*view.inputs}:
        raise _wrong(
            module, f"{about}: its reads must be of its inputs {', '.join(view.inputs)}, one for each source"
        )
    missing = {*view.keys, *view.columns, *([view.settles_by] if view.settles_by else [])} - {
        *view.schema.names
    }
    if missing or not view.keys:
        raise _wrong(module, f"{about}: its schema lacks {', '.join(sorted(missing)) or 'keys'}")
    if (view.settles_by is None) != (view.horizon is None):
        raise _wrong(module, f"{about} needs both settles_by and horizon, or neither")
    return view


def _wrong(module: str, what: str) -> ConfigurationError:
    return ConfigurationError(f"{_KEY}: {module} {what}.", source=module, key=_KEY)
