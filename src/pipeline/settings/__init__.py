"""What can be configured, and how it is loaded: base.yml, <env>.yml, PIPELINE_ variables, --set; the last one counts.

The dataclasses of `schema` are all keys that there are. Loading is strict: an unknown key, a wrong type or a missing key is a
ConfigurationError that names the place, the key path and what was expected.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any

from pipeline.errors import ConfigurationError
from pipeline.settings.given import given_values
from pipeline.settings.masking import MASK, SECRET_NAME, URL_LOGIN, Secret, values_inside
from pipeline.settings.schema import (
    Alerts,
    DevServices,
    Elt,
    Etl,
    Ingest,
    Kafka,
    KeyPath,
    Lake,
    Lineage,
    Logs,
    Maintain,
    Metrics,
    Postgres,
    Quality,
    Serve,
    Settings,
    Spark,
    Speed,
    Topics,
    is_map,
    keys,
    keys_of,
)
from pipeline.settings.values import built

__all__ = [
    "SECRET_NAME",
    "Alerts",
    "DevServices",
    "Elt",
    "Etl",
    "Ingest",
    "Kafka",
    "Lake",
    "Lineage",
    "Logs",
    "Maintain",
    "Metrics",
    "Postgres",
    "Quality",
    "Secret",
    "Serve",
    "Settings",
    "Spark",
    "Speed",
    "Topics",
    "flattened",
    "keys",
    "load",
    "without_secrets",
]


def load(
    env: str | None = None,
    overrides: Sequence[str] = (),
    environ: Mapping[str, str] = os.environ,
    folder: Path | None = None,
) -> Settings:
    """The settings in force for `env` (else PIPELINE_ENV) and `overrides` (`key=value`, as after --set).

    The files are those of `folder`, else of PIPELINE_CONF, else the ones shipped with the package; a folder without
    base.yml builds on the shipped one. Raises ConfigurationError.
    """
    given = given_values(env, overrides, environ, folder)
    settings = built(Settings, (), given, environ)
    _refuse_shared_topics(settings)
    _refuse_two_ways(settings.alerts)
    object.__setattr__(settings, "origins", {".".join(path): one.source for path, one in given.items()})
    return settings


def flattened(settings: Settings) -> dict[str, Any]:
    """Each dotted key path with its value, secrets masked; in the order of the schema."""
    return dict(_flat(settings, ()))


def without_secrets(settings: Settings, text: str) -> str:
    """The text with every secret of the settings masked, and the login in any URL."""
    for secret in _secrets(settings):
        if secret.strip():
            text = text.replace(secret, secret.shown)
        for inside in values_inside(secret):
            text = text.replace(inside, MASK)
    return URL_LOGIN.sub(MASK, text)


def _secrets(section: Any) -> Iterator[Secret]:
    for name in keys_of(type(section)):
        value = getattr(section, name)
        if is_dataclass(value):
            yield from _secrets(value)
        else:
            values = value.values() if isinstance(value, Mapping) else [value]
            yield from (one for one in values if isinstance(one, Secret))


def _flat(section: Any, path: KeyPath) -> Iterator[tuple[str, Any]]:
    for name, kind in keys_of(type(section)).items():
        value = getattr(section, name)
        if is_dataclass(kind):
            yield from _flat(value, (*path, name))
        elif is_map(kind):
            yield from ((".".join((*path, name, key)), _shown(one)) for key, one in value.items())
        else:
            yield ".".join((*path, name)), _shown(value)


def _shown(value: Any) -> Any:
    return value.shown if isinstance(value, Secret) else value


def _refuse_two_ways(alerts: Alerts) -> None:
    if alerts.token is not None and alerts.webhook_url is not None:
        raise ConfigurationError(
            "alerts.token and alerts.webhook_url are both set; messages go one way: set one of them to null.",
            key="alerts.webhook_url",
        )


def _refuse_shared_topics(settings: Settings) -> None:
    names: dict[str, str] = {}
    for key in keys_of(Topics):
        topic = getattr(settings.kafka.topics, key)
        if topic in names:
            raise ConfigurationError(
                f"kafka.topics.{key} and kafka.topics.{names[topic]} are both {topic!r}; each needs a topic of its own.",
                key=f"kafka.topics.{key}",
            )
        names[topic] = key
