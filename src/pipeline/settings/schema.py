"""Every key with its type and form; what each means is told in conf/base.yml. And the questions asked of that schema."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, is_dataclass
from typing import Annotated, Any, get_args, get_origin, get_type_hints

from pipeline.settings import forms

__all__ = [
    "Alerts",
    "DevServices",
    "Elt",
    "Etl",
    "Ingest",
    "Kafka",
    "KeyPath",
    "Lake",
    "Lineage",
    "Logs",
    "Maintain",
    "Metrics",
    "Postgres",
    "Quality",
    "Serve",
    "Settings",
    "Spark",
    "Speed",
    "Topics",
    "checks_of",
    "is_free",
    "is_map",
    "key_paths",
    "keys",
    "keys_of",
    "kind_at",
]

KeyPath = tuple[str, ...]


@dataclass(frozen=True)
class Topics:
    orders: Annotated[str, forms.topic]
    products: Annotated[str, forms.topic]
    text_lines: Annotated[str, forms.topic]
    word_counts_output: Annotated[str, forms.topic]


@dataclass(frozen=True)
class Kafka:
    bootstrap_servers: Annotated[str, forms.brokers]
    topics: Topics
    extension_topics: Annotated[Mapping[str, str], forms.filled]
    options: Annotated[Mapping[str, str], forms.consumer_option]
    allow_plaintext: bool


@dataclass(frozen=True)
class Lake:
    root: Annotated[str, forms.location]
    min_free_mebibytes: Annotated[int, forms.between(0, 2**40)]


@dataclass(frozen=True)
class Ingest:
    trigger: Annotated[str, forms.interval]
    max_offsets_per_trigger: Annotated[int, forms.COUNT]


@dataclass(frozen=True)
class Speed:
    source: Annotated[str, forms.one_of("kafka", "log")]
    trigger: Annotated[str, forms.interval]
    max_offsets_per_trigger: Annotated[int, forms.COUNT]
    state_partitions: Annotated[int | None, forms.between(1, 100_000)]
    join_state: Annotated[str, forms.one_of("memory", "rocksdb")]


@dataclass(frozen=True)
class Postgres:
    source_url: Annotated[str, forms.postgres_url]
    source_schema: Annotated[str, forms.filled]
    warehouse_url: Annotated[str, forms.postgres_url]


@dataclass(frozen=True)
class Etl:
    overlap_minutes: Annotated[int, forms.between(0, 10_000_000)]
    read_partitions: Annotated[int | None, forms.between(1, 1_000)]


@dataclass(frozen=True)
class Elt:
    start_date: Annotated[str, forms.day]
    overlap_days: Annotated[int, forms.between(0, 3650)]


@dataclass(frozen=True)
class Alerts:
    channel: Annotated[str, forms.filled]
    token: Annotated[str | None, forms.filled]
    webhook_url: Annotated[str | None, forms.slack_address]
    api_url: Annotated[str, forms.slack_address]
    state_file: Annotated[str, forms.path]
    max_lag_records: Annotated[int | None, forms.COUNT]
    max_lag_seconds: Annotated[int | None, forms.COUNT]
    max_batch_age_hours: Annotated[int | None, forms.COUNT]
    max_dead_percent: Annotated[int | None, forms.between(0, 99)]
    max_late_percent: Annotated[int | None, forms.between(0, 99)]


@dataclass(frozen=True)
class Metrics:
    host: Annotated[str, forms.filled]
    port: Annotated[int | None, forms.between(0, 65_535)]
    history: Annotated[str, forms.one_of("kept", "none")]


@dataclass(frozen=True)
class Maintain:
    retention_hours: Annotated[int, forms.between(24, 24 * 3650)]
    max_files: Annotated[int, forms.between(2, 1_000_000)]


@dataclass(frozen=True)
class Logs:
    format: Annotated[str, forms.one_of("text", "json")]


@dataclass(frozen=True)
class Lineage:
    url: Annotated[str | None, forms.http_address]
    namespace: Annotated[str, forms.filled]


@dataclass(frozen=True)
class Serve:
    host: Annotated[str, forms.filled]
    port: Annotated[int, forms.between(0, 65_535)]
    token: Annotated[str | None, forms.filled]
    max_rows: Annotated[int, forms.between(1, 1_000_000)]
    timeout_seconds: Annotated[int, forms.between(1, 3_600)]
    refresh_seconds: Annotated[int, forms.between(1, 86_400)]


@dataclass(frozen=True)
class Quality:
    expectations: Annotated[str | None, forms.path]


@dataclass(frozen=True)
class DevServices:
    home: Annotated[str, forms.path]
    kafka_port: Annotated[int, forms.between(1, 65_534)]
    postgres_port: Annotated[int, forms.between(1, 65_534)]


@dataclass(frozen=True)
class Spark:
    master: Annotated[str, forms.filled]
    conf: Annotated[Mapping[str, str], forms.spark_option]


@dataclass(frozen=True)
class Settings:
    """All settings of one run; `origins` tells for each dotted key path where its value came from."""

    extensions: Annotated[str | None, forms.modules]
    kafka: Kafka
    lake: Lake
    ingest: Ingest
    speed: Speed
    postgres: Postgres
    etl: Etl
    elt: Elt
    quality: Quality
    serve: Serve
    metrics: Metrics
    maintain: Maintain
    logs: Logs
    lineage: Lineage
    alerts: Alerts
    devservices: DevServices
    spark: Spark
    origins: Mapping[str, str] = field(default_factory=dict, compare=False, repr=False)


def keys() -> dict[str, str]:
    """Each dotted key path with the form of its value, in the order of the schema."""
    return {".".join(path): _form(kind_at(path)) for path in _leaf_paths(Settings, ())}


def _leaf_paths(section: Any, path: KeyPath) -> Iterator[KeyPath]:
    for name, kind in keys_of(section).items():
        if is_dataclass(kind):
            yield from _leaf_paths(kind, (*path, name))
        else:
            yield (*path, name)


def _form(kind: Any) -> str:
    if is_map(kind):
        return "map of texts"
    if kind is bool:
        return "true or false"
    of = get_args(kind) or (kind,)
    named = "whole number" if int in of else "text"
    return f"{named} or null" if type(None) in of else named


def keys_of(section: Any) -> dict[str, Any]:
    """The keys of a section with the type of each."""
    return {name: kind for name, kind in get_type_hints(section).items() if name != "origins"}


def checks_of(section: Any) -> dict[str, Callable[[Any], Any] | None]:
    """The keys of a section with the form of each; None where any value of its type will do."""
    hints = get_type_hints(section, include_extras=True)
    return {name: next(iter(getattr(kind, "__metadata__", ())), None) for name, kind in hints.items()}


def is_map(kind: Any) -> bool:
    """Whether the names in it are free."""
    return get_origin(kind) is Mapping


def is_free(path: KeyPath) -> bool:
    """Whether the path ends in a name that is free."""
    return len(path) > 1 and is_map(kind_at(path[:-1]))


def kind_at(path: KeyPath) -> Any:
    """The type of the key at `path`; None where there is no such key."""
    kind: Any = Settings
    for name in path:
        if is_map(kind):
            kind = str if name == path[-1] else None
        else:
            kind = keys_of(kind).get(name) if is_dataclass(kind) else None
    return kind


def key_paths(section: Any = Settings, path: KeyPath = ()) -> Iterator[str]:
    """Every dotted path that there is, those of sections too."""
    for name, kind in keys_of(section).items():
        yield ".".join((*path, name))
        if is_dataclass(kind):
            yield from key_paths(kind, (*path, name))
