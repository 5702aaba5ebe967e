"""From what was given to what is in force: converted to the key's type, filled in from elsewhere, and judged by its form."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import is_dataclass
from datetime import date, datetime
from pathlib import Path
from typing import Any, TypeVar, get_args

from pipeline.errors import ConfigurationError
from pipeline.settings.faults import wrong
from pipeline.settings.given import Given
from pipeline.settings.masking import MASK, REFERENCE, Secret, masked, refuse_secret
from pipeline.settings.schema import KeyPath, checks_of, is_free, is_map, keys_of

__all__ = ["built"]

Section = TypeVar("Section")


def built(
    section: type[Section], path: KeyPath, given: Mapping[KeyPath, Given], environ: Mapping[str, str]
) -> Section:
    """The section at `path` with those below it, every key in force. Raises ConfigurationError."""
    values: dict[str, Any] = {}
    checks = checks_of(section)
    for name, kind in keys_of(section).items():
        here = (*path, name)
        if is_dataclass(kind):
            values[name] = built(kind, here, given, environ)  # type: ignore[arg-type]
        elif is_map(kind):
            # The check of a free map is for its names.
            values[name] = {
                _accepted(one[-1], checks[name], one, Given(one[-1], given[one].source)): _text(
                    one, given[one], environ
                )
                for one in given
                if one[:-1] == here
            }
        elif here not in given:
            raise ConfigurationError(
                f"base.yml has no {'.'.join(here)}; every key needs its default there.", key=".".join(here)
            )
        else:
            converted = _converted(kind, here, given[here], environ)
            values[name] = _accepted(converted, checks[name], here, given[here])
    return section(**values)


def _accepted(value: Any, check: Callable[[Any], Any] | None, path: KeyPath, one: Given) -> Any:
    if check is None or value is None:
        return value
    try:
        accepted = check(value)
    except ValueError as error:
        raise wrong(path, one.source, str(error), value if isinstance(value, Secret) else one.value) from None
    return Secret(accepted, value.shown) if isinstance(value, Secret) else accepted


def _converted(kind: Any, path: KeyPath, one: Given, environ: Mapping[str, str]) -> Any:
    if kind is str:
        return _text(path, one, environ)
    if kind is bool:
        return _truth(path, one)
    is_optional = type(None) in get_args(kind)
    if is_optional and (one.value is None or (one.is_text and one.value in {"", "null"})):
        return None
    if str in get_args(kind):
        return _text(path, one, environ)
    if one.is_text and re.fullmatch(r"[+-]?\d+", one.value):
        return int(one.value)
    if isinstance(one.value, int) and not isinstance(one.value, bool):
        return one.value
    raise wrong(path, one.source, "a whole number or null" if is_optional else "a whole number", one.value)


def _truth(path: KeyPath, one: Given) -> bool:
    value = {"true": True, "false": False}.get(one.value) if one.is_text else one.value
    if not isinstance(value, bool):
        raise wrong(path, one.source, "true or false", one.value)
    return value


def _text(path: KeyPath, one: Given, environ: Mapping[str, str]) -> str:
    value = one.value
    if (
        path == ("kafka", "bootstrap_servers")
        and isinstance(value, list)
        and all(isinstance(item, str) for item in value)
    ):
        value = ",".join(value)
    if isinstance(value, date) and not isinstance(value, datetime):  # YAML reads 2024-01-01 as one
        value = value.isoformat()
    if is_free(path) and isinstance(value, (bool, int, float)):
        value = str(value).lower() if isinstance(value, bool) else str(value)
    if not isinstance(value, str):
        raise wrong(path, one.source, "a text", value)
    if not one.source.startswith("PIPELINE_"):
        refuse_secret(path, value, one.source)
    return masked(path, _interpolated(path, value, one.source, environ))


def _interpolated(path: KeyPath, text: str, source: str, environ: Mapping[str, str]) -> str:
    def value_of(match: re.Match[str]) -> str:
        scheme, name = match[1], match[2]
        return _variable(path, name, source, environ) if scheme == "env" else _file_text(path, name, source)

    pattern = REFERENCE
    if "${" in pattern.sub("", text) and path[0] != "spark":  # Spark has variables of its own
        raise wrong(path, source, "${env:NAME} or ${file:/absolute/path} for what comes from elsewhere", text)
    return Secret(pattern.sub(value_of, text), pattern.sub(MASK, text)) if pattern.search(text) else text


def _variable(path: KeyPath, name: str, source: str, environ: Mapping[str, str]) -> str:
    if name not in environ:
        dotted = ".".join(path)
        raise ConfigurationError(
            f"{source}: {dotted} takes the variable {name}, which is not set.", source=source, key=dotted
        )
    return environ[name]


def _file_text(path: KeyPath, name: str, source: str) -> str:
    dotted, file = ".".join(path), Path(name).expanduser()
    if not file.is_absolute():
        raise ConfigurationError(
            f"{source}: {dotted} takes the file {name}; its path must be absolute.", source=source, key=dotted
        )
    try:
        return file.read_text(encoding="utf-8").rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(
            f"{source}: {dotted} takes the file {file}: {error}.", source=source, key=dotted
        ) from error
