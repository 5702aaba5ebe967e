"""What can be configured, and how it is loaded: base.yml, <env>.yml, PIPELINE_ variables, --set; the last one counts.

The dataclasses below are the whole schema. Loading is strict: an unknown key, a wrong type or a missing key is a
ConfigurationError that names the place, the key path and what was expected.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, is_dataclass
from datetime import date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple, TypeVar, get_args, get_origin, get_type_hints
from urllib.parse import urlsplit

from pipeline import conf_files
from pipeline.errors import ConfigurationError

if TYPE_CHECKING:
    from importlib.abc import Traversable

__all__ = [
    "Alerts",
    "DevServices",
    "Elt",
    "Etl",
    "Ingest",
    "Kafka",
    "Lake",
    "Lineage",
    "Logs",
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

MASK = "********"
NOT_KEYS = frozenset({"PIPELINE_CONF", "PIPELINE_ENV", "PIPELINE_IVY_SETTINGS"})


class Secret(str):
    """A text that is itself in use and `shown` wherever it is displayed through repr or `flattened`."""

    shown: str

    def __new__(cls, value: str, shown: str = MASK) -> Secret:
        secret = super().__new__(cls, value)
        secret.shown = shown
        return secret

    def __repr__(self) -> str:
        return repr(self.shown)


# --- what a value must look like: each check takes it and gives it in its one form, or raises ValueError(expected)


def _brokers(value: str) -> str:
    addresses = [address.strip() for address in value.split(",") if address.strip()]
    if not addresses or not all(_is_address(address) for address in addresses):
        raise ValueError("host:port, several separated by commas")
    return ",".join(addresses)


def _is_address(text: str) -> bool:
    host, _, port = text.rpartition(":")
    return (
        re.fullmatch(r"[\w.-]+|\[[0-9A-Fa-f:.%]+\]", host) is not None
        and port.isdecimal()
        and 0 < int(port) < 65536
    )


def _postgres_url(value: str) -> str:
    try:
        parts = urlsplit(value)
        is_one_server = parts.hostname is not None and "," not in parts.hostname and parts.port != 0
        is_complete = bool(parts.scheme in {"postgresql", "postgres"} and is_one_server and parts.path[1:])
    except ValueError:  # a port that is no number
        is_complete = False
    if not is_complete:
        raise ValueError("a URL of one server such as postgresql://user:${env:PASSWORD}@host:5432/database")
    return value.replace("passfile=~/", f"passfile={Path.home()}/")


def _topic(value: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9._-]{1,249}", value) or value in {".", ".."}:
        raise ValueError("a topic name: 1 to 249 of A-Z a-z 0-9 . _ -")
    return value


def _modules(value: str) -> str:
    names = [name.strip() for name in value.split(",") if name.strip()]
    if not names or not all(part.isidentifier() for name in names for part in name.split(".")):
        raise ValueError("names of Python modules, several separated by commas")
    return ",".join(dict.fromkeys(names))


def _interval(value: str) -> str:
    if not re.fullmatch(r"\d+ +(millisecond|second|minute|hour)s?", value.strip()):
        raise ValueError('an interval such as "1 second" or "500 milliseconds"')
    return value.strip()


def _location(value: str) -> str:
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]*:/", value):
        return value.rstrip("/") if re.search(r"[^:/]/*$", value) else value
    if not value.strip() or re.match(r"[A-Za-z][A-Za-z0-9+.-]*:", value):
        raise ValueError("a path, or a URL such as file:///data/lake, hdfs:///lake or s3a://bucket/lake")
    return _path(value)


def _path(value: str) -> str:
    if not value.strip():
        raise ValueError("a path")
    return str(Path(value).expanduser().absolute())


def _day(value: str) -> str:
    try:
        if not re.fullmatch(r"\d{4}-\d\d-\d\d", value):
            raise ValueError("another form")
        date.fromisoformat(value)
    except ValueError:
        raise ValueError("a day such as 2024-01-01") from None
    return value


def _one_of(*names: str) -> Callable[[str], str]:
    def check(value: str) -> str:
        if value not in names:
            raise ValueError(" or ".join(names))
        return value

    return check


def _between(low: int, high: int) -> Callable[[int], int]:
    def check(value: int) -> int:
        if not low <= value <= high:
            raise ValueError(f"a whole number from {low} to {high}")
        return value

    return check


def _filled(value: str) -> str:
    if not value.strip():
        raise ValueError("a text that is not empty")
    return value


def _slack_address(value: str) -> str:
    """Plain HTTP would show the credentials to everybody on the way; on this machine nobody is on it."""
    if not re.match(r"https://[^/\s]+/|http://(127\.0\.0\.1|localhost|\[::1\])(:\d+)?/", value):
        raise ValueError("an https:// address")
    return value


def _http_address(value: str) -> str:
    if not re.match(r"https?://[^/\s]+", value):
        raise ValueError("an http:// or https:// address")
    return value


def _consumer_option(name: str) -> str:
    if not name.startswith("kafka.") or name == "kafka.bootstrap.servers":
        raise ValueError(
            "named `kafka.…`, as Spark takes consumer options (the brokers are kafka.bootstrap_servers)"
        )
    return name


def _spark_option(name: str) -> str:
    if not name.startswith("spark."):
        raise ValueError("named `spark.…`, as Spark's options are")
    return name


COUNT = _between(1, 2**63 - 1)


# --- the keys; what each means is told in conf/base.yml


@dataclass(frozen=True)
class Topics:
    orders: Annotated[str, _topic]
    products: Annotated[str, _topic]
    text_lines: Annotated[str, _topic]
    word_counts_output: Annotated[str, _topic]


@dataclass(frozen=True)
class Kafka:
    bootstrap_servers: Annotated[str, _brokers]
    topics: Topics
    extension_topics: Annotated[Mapping[str, str], _filled]
    options: Annotated[Mapping[str, str], _consumer_option]
    allow_plaintext: bool


@dataclass(frozen=True)
class Lake:
    root: Annotated[str, _location]
    min_free_mebibytes: Annotated[int, _between(0, 2**40)]


@dataclass(frozen=True)
class Ingest:
    trigger: Annotated[str, _interval]
    max_offsets_per_trigger: Annotated[int, COUNT]


@dataclass(frozen=True)
class Speed:
    source: Annotated[str, _one_of("kafka", "log")]
    trigger: Annotated[str, _interval]
    max_offsets_per_trigger: Annotated[int, COUNT]
    state_partitions: Annotated[int | None, _between(1, 100_000)]
    join_state: Annotated[str, _one_of("memory", "rocksdb")]


@dataclass(frozen=True)
class Postgres:
    source_url: Annotated[str, _postgres_url]
    source_schema: Annotated[str, _filled]
    warehouse_url: Annotated[str, _postgres_url]


@dataclass(frozen=True)
class Etl:
    overlap_minutes: Annotated[int, _between(0, 10_000_000)]
    read_partitions: Annotated[int | None, _between(1, 1_000)]


@dataclass(frozen=True)
class Elt:
    start_date: Annotated[str, _day]
    overlap_days: Annotated[int, _between(0, 3650)]


@dataclass(frozen=True)
class Alerts:
    channel: Annotated[str, _filled]
    token: Annotated[str | None, _filled]
    webhook_url: Annotated[str | None, _slack_address]
    api_url: Annotated[str, _slack_address]
    state_file: Annotated[str, _path]
    max_lag_records: Annotated[int | None, COUNT]
    max_lag_seconds: Annotated[int | None, COUNT]
    max_batch_age_hours: Annotated[int | None, COUNT]
    max_dead_percent: Annotated[int | None, _between(0, 99)]
    max_late_percent: Annotated[int | None, _between(0, 99)]


@dataclass(frozen=True)
class Metrics:
    host: Annotated[str, _filled]
    port: Annotated[int | None, _between(0, 65_535)]
    history: Annotated[str, _one_of("kept", "none")]


@dataclass(frozen=True)
class Maintain:
    retention_hours: Annotated[int, _between(24, 24 * 3650)]
    max_files: Annotated[int, _between(2, 1_000_000)]


@dataclass(frozen=True)
class Logs:
    format: Annotated[str, _one_of("text", "json")]


@dataclass(frozen=True)
class Lineage:
    url: Annotated[str | None, _http_address]
    namespace: Annotated[str, _filled]


@dataclass(frozen=True)
class Serve:
    host: Annotated[str, _filled]
    port: Annotated[int, _between(0, 65_535)]
    token: Annotated[str | None, _filled]
    max_rows: Annotated[int, _between(1, 1_000_000)]
    timeout_seconds: Annotated[int, _between(1, 3_600)]
    refresh_seconds: Annotated[int, _between(1, 86_400)]


@dataclass(frozen=True)
class Quality:
    expectations: Annotated[str | None, _path]


@dataclass(frozen=True)
class DevServices:
    home: Annotated[str, _path]
    kafka_port: Annotated[int, _between(1, 65_534)]
    postgres_port: Annotated[int, _between(1, 65_534)]


@dataclass(frozen=True)
class Spark:
    master: Annotated[str, _filled]
    conf: Annotated[Mapping[str, str], _spark_option]


@dataclass(frozen=True)
class Settings:
    """All settings of one run; `origins` tells for each dotted key path where its value came from."""

    extensions: Annotated[str | None, _modules]
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


# --- loading

KeyPath = tuple[str, ...]


class _Given(NamedTuple):
    """One value as it was written; `is_text` where it comes from a variable or --set and still has to be parsed."""

    value: Any
    source: str
    is_text: bool = False


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
    given: dict[KeyPath, _Given] = {}
    for document in _documents(env or environ.get("PIPELINE_ENV") or None, environ, folder):
        given.update(_from_document(document))
    given.update(_from_environ(environ))
    given.update(_from_overrides(overrides))
    given = {path: one for path, one in given.items() if not (_is_free(path) and one.value is None)}
    settings = _built(Settings, (), given, environ)
    _refuse_shared_topics(settings)
    _refuse_two_ways(settings.alerts)
    object.__setattr__(settings, "origins", {".".join(path): one.source for path, one in given.items()})
    return settings


def flattened(settings: Settings) -> dict[str, Any]:
    """Each dotted key path with its value, secrets masked; in the order of the schema."""
    return dict(_flat(settings, ()))


def keys() -> dict[str, str]:
    """Each dotted key path with the form of its value, in the order of the schema."""
    return {".".join(path): _form(_kind(path)) for path in _leaf_paths(Settings, ())}


def _leaf_paths(section: Any, path: KeyPath) -> Iterator[KeyPath]:
    for name, kind in _keys(section).items():
        if is_dataclass(kind):
            yield from _leaf_paths(kind, (*path, name))
        else:
            yield (*path, name)


def _form(kind: Any) -> str:
    if _is_map(kind):
        return "map of texts"
    if kind is bool:
        return "true or false"
    of = get_args(kind) or (kind,)
    named = "whole number" if int in of else "text"
    return f"{named} or null" if type(None) in of else named


def without_secrets(settings: Settings, text: str) -> str:
    """The text with every secret of the settings masked, and the login in any URL."""
    for secret in _secrets(settings):
        if secret.strip():
            text = text.replace(secret, secret.shown)
        for inside in _values_inside(secret):
            text = text.replace(inside, MASK)
    return URL_LOGIN.sub(MASK, text)


def _secrets(section: Any) -> Iterator[Secret]:
    for name in _keys(type(section)):
        value = getattr(section, name)
        if is_dataclass(value):
            yield from _secrets(value)
        else:
            values = value.values() if isinstance(value, Mapping) else [value]
            yield from (one for one in values if isinstance(one, Secret))


def _flat(section: Any, path: KeyPath) -> Iterator[tuple[str, Any]]:
    for name, kind in _keys(type(section)).items():
        value = getattr(section, name)
        if is_dataclass(kind):
            yield from _flat(value, (*path, name))
        elif _is_map(kind):
            yield from ((".".join((*path, name, key)), _shown(one)) for key, one in value.items())
        else:
            yield ".".join((*path, name)), _shown(value)


def _shown(value: Any) -> Any:
    return value.shown if isinstance(value, Secret) else value


def _documents(env: str | None, environ: Mapping[str, str], folder: Path | None) -> list[conf_files.Document]:
    shipped = conf_files.shipped_folder()
    own: Traversable = shipped
    if folder is None and environ.get("PIPELINE_CONF"):
        folder = Path(environ["PIPELINE_CONF"]).expanduser()
    if folder is not None:
        if not folder.is_dir():
            raise ConfigurationError(f"The configuration folder {folder} does not exist.", source=str(folder))
        own = folder
    base = own / "base.yml"
    documents = [conf_files.read(base if base.is_file() else shipped / "base.yml")]
    if env is not None:
        documents.append(conf_files.read(_overlay(env, own)))
    return documents


def _overlay(env: str, folder: Traversable) -> Traversable:
    there = conf_files.env_names(folder)
    if env not in there:
        nearest = _nearest(env, there)
        raise ConfigurationError(
            f"There is no environment {env!r}: {folder} has {', '.join(there) or 'none'}." + _meant(nearest),
            source=str(folder / f"{env}.yml"),
            nearest=nearest,
        )
    return folder / f"{env}.yml"


def _from_document(document: conf_files.Document) -> Iterator[tuple[KeyPath, _Given]]:
    return _leaves(document.tree, (), document)


def _leaves(tree: Any, path: KeyPath, document: conf_files.Document) -> Iterator[tuple[KeyPath, _Given]]:
    source, kind = document.where(path), _kind(path)
    if kind is None:
        raise _unknown(path, source)
    if not (is_dataclass(kind) or _is_map(kind)):
        yield path, _Given(tree, source)
        return
    if tree is not None and not isinstance(tree, dict):
        raise _wrong(path, source, "a section with keys below it", tree)
    for key, value in (tree or {}).items():
        yield from _leaves(value, (*path, key), document)


def _from_environ(environ: Mapping[str, str]) -> Iterator[tuple[KeyPath, _Given]]:
    for name in sorted(environ):
        if name.startswith("PIPELINE_") and name not in NOT_KEYS:
            yield from _from_text(_variable_path(name), environ[name], name)


def _variable_path(name: str) -> KeyPath:
    """PIPELINE_SPARK__CONF__spark.ui.port → spark, conf, spark.ui.port: keys of a free map are taken as they stand."""
    path: KeyPath = ()
    rest = name.removeprefix("PIPELINE_")
    while rest and not _is_map(_kind(path)):
        part, _, rest = rest.partition("__")
        path = (*path, part.lower())
    return (*path, rest) if rest else path


def _from_overrides(overrides: Sequence[str]) -> Iterator[tuple[KeyPath, _Given]]:
    for override in overrides:
        dotted, separator, text = override.partition("=")
        if not separator:
            raise ConfigurationError(f"--set {override}: expected key=value.", source=f"--set {override}")
        yield from _from_text(_dotted_path(dotted.strip()), text, f"--set {dotted.strip()}")


def _dotted_path(dotted: str) -> KeyPath:
    path: KeyPath = ()
    rest = dotted
    while rest and not _is_map(_kind(path)):
        part, _, rest = rest.partition(".")
        path = (*path, part)
    return (*path, rest) if rest else path


def _from_text(path: KeyPath, text: str, source: str) -> Iterator[tuple[KeyPath, _Given]]:
    kind = _kind(path)
    if kind is None or not path:
        raise _unknown(path, source)
    if is_dataclass(kind):
        raise ConfigurationError(
            f"{source}: {'.'.join(path)} is a section; its keys are {', '.join(_keys(kind))}.",
            source=source,
            key=".".join(path),
        )
    if not _is_map(kind):
        yield path, _Given(text, source, is_text=True)
        return
    entries = conf_files.plain_value(text, source)
    if not isinstance(entries, dict):
        raise _wrong(path, source, "a map such as {key: value}", entries)
    yield from (((*path, key), _Given(value, source)) for key, value in entries.items())


# --- from what was given to what is in force

Section = TypeVar("Section")


def _built(
    section: type[Section], path: KeyPath, given: Mapping[KeyPath, _Given], environ: Mapping[str, str]
) -> Section:
    values: dict[str, Any] = {}
    checks = _checks(section)
    for name, kind in _keys(section).items():
        here = (*path, name)
        if is_dataclass(kind):
            values[name] = _built(kind, here, given, environ)  # type: ignore[arg-type]
        elif _is_map(kind):
            # The check of a free map is for its names.
            values[name] = {
                _accepted(one[-1], checks[name], one, _Given(one[-1], given[one].source)): _text(
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


def _accepted(value: Any, check: Callable[[Any], Any] | None, path: KeyPath, one: _Given) -> Any:
    if check is None or value is None:
        return value
    try:
        accepted = check(value)
    except ValueError as error:
        raise _wrong(
            path, one.source, str(error), value if isinstance(value, Secret) else one.value
        ) from None
    return Secret(accepted, value.shown) if isinstance(value, Secret) else accepted


def _converted(kind: Any, path: KeyPath, one: _Given, environ: Mapping[str, str]) -> Any:
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
    raise _wrong(path, one.source, "a whole number or null" if is_optional else "a whole number", one.value)


def _truth(path: KeyPath, one: _Given) -> bool:
    value = {"true": True, "false": False}.get(one.value) if one.is_text else one.value
    if not isinstance(value, bool):
        raise _wrong(path, one.source, "true or false", one.value)
    return value


def _text(path: KeyPath, one: _Given, environ: Mapping[str, str]) -> str:
    value = one.value
    if (
        path == ("kafka", "bootstrap_servers")
        and isinstance(value, list)
        and all(isinstance(item, str) for item in value)
    ):
        value = ",".join(value)
    if isinstance(value, date) and not isinstance(value, datetime):  # YAML reads 2024-01-01 as one
        value = value.isoformat()
    if _is_free(path) and isinstance(value, (bool, int, float)):
        return str(value).lower() if isinstance(value, bool) else str(value)
    if not isinstance(value, str):
        raise _wrong(path, one.source, "a text", value)
    if not one.source.startswith("PIPELINE_"):
        _refuse_secret(path, value, one.source)
    return _masked(path, _interpolated(path, value, one.source, environ))


def _interpolated(path: KeyPath, text: str, source: str, environ: Mapping[str, str]) -> str:
    def value_of(match: re.Match[str]) -> str:
        scheme, name = match[1], match[2]
        return _variable(path, name, source, environ) if scheme == "env" else _file_text(path, name, source)

    pattern = REFERENCE
    if "${" in pattern.sub("", text) and path[0] != "spark":  # Spark has variables of its own
        raise _wrong(
            path, source, "${env:NAME} or ${file:/absolute/path} for what comes from elsewhere", text
        )
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


REFERENCE = re.compile(r"\$\{(env|file):([^}]*)\}")
SECRET_NAME = re.compile(
    r"password|passwd|secret|token|webhook|credential|jaas|(access|api|private|account|encryption|keystore)[._-]?key",
    re.I,
)
ABOUT_A_SECRET = re.compile(
    r"\.(enabled|provider|path|mechanism|url|class|type|location|file|ms|seconds|service|name)$|File$|^spark\.kubernetes\."
)
"""Names of keys that have a word of SECRET_NAME in them and no secret behind them."""
NAMED_SECRET = re.compile(
    r"(?:password|passwd|secret|token|api_?key)[\w.]*\s*=\s*(?:\"(?P<quoted>(?:[^\"\\]|\\.)*)\"|'?(?P<value>[^\s\"'&;]+))",
    re.I,
)
LOGIN = re.compile(r"://[^/@\s:]*:(?P<value>\S+)@|//hooks\.slack\.com/services/(?P<webhook>\S+)", re.I)
# The first form also where a password has signs in it that a URL should spell as %40 or %2F.
URL_LOGIN = re.compile(r"(?<=://)[^/@\s:]+:\S+(?=@)|(?<=://)[^/@\s]+(?=@)|(?<=password=)[^&;\s]+", re.I)


def _masked(path: KeyPath, text: str) -> str:
    """Also what should have come through ${env:…}: a value whose key says that it is secret, and the login in a URL."""
    shown = text.shown if isinstance(text, Secret) else text
    if SECRET_NAME.search(path[-1]):
        return Secret(text)
    shown = URL_LOGIN.sub(MASK, shown)
    return Secret(text, shown) if shown != text else text


def _refuse_secret(path: KeyPath, text: str, source: str) -> None:
    """Everybody may read a file of the project, and the command line of a process: no secret stands there as itself."""
    is_secret = SECRET_NAME.search(path[-1]) and not ABOUT_A_SECRET.search(path[-1])
    is_written = bool(is_secret) and not REFERENCE.search(text)
    is_written = is_written or any(REFERENCE.sub("", value) for value in _values_inside(text))
    dotted = ".".join(path)
    if is_written and text not in ("true", "false"):
        raise ConfigurationError(
            f"{source}: {dotted} holds a secret as itself. Write ${{env:NAME}} or ${{file:/absolute/path}} in its place, or "
            "set the key by its PIPELINE_ variable.",
            source=source,
            key=dotted,
        )
    if path[-1].endswith("JavaOptions") and NAMED_SECRET.search(text):
        raise ConfigurationError(
            f"{source}: {dotted} holds a secret, and Java's options stand in the list of processes. Let the option name a file.",
            source=source,
            key=dotted,
        )


def _values_inside(text: str) -> list[str]:
    """What stands in the text as a password, a token or the like: of a URL, of a login of Kafka's, of an option."""
    found = [one.groupdict().values() for pattern in (NAMED_SECRET, LOGIN) for one in pattern.finditer(text)]
    return [value for values in found for value in values if value]


def _refuse_two_ways(alerts: Alerts) -> None:
    if alerts.token is not None and alerts.webhook_url is not None:
        raise ConfigurationError(
            "alerts.token and alerts.webhook_url are both set; messages go one way: set one of them to null.",
            key="alerts.webhook_url",
        )


def _refuse_shared_topics(settings: Settings) -> None:
    names: dict[str, str] = {}
    for key in _keys(Topics):
        topic = getattr(settings.kafka.topics, key)
        if topic in names:
            raise ConfigurationError(
                f"kafka.topics.{key} and kafka.topics.{names[topic]} are both {topic!r}; each needs a topic of its own.",
                key=f"kafka.topics.{key}",
            )
        names[topic] = key


# --- the schema, read from the dataclasses


def _keys(section: Any) -> dict[str, Any]:
    return {name: kind for name, kind in get_type_hints(section).items() if name != "origins"}


def _checks(section: Any) -> dict[str, Callable[[Any], Any] | None]:
    hints = get_type_hints(section, include_extras=True)
    return {name: next(iter(getattr(kind, "__metadata__", ())), None) for name, kind in hints.items()}


def _is_map(kind: Any) -> bool:
    return get_origin(kind) is Mapping


def _is_free(path: KeyPath) -> bool:
    return len(path) > 1 and _is_map(_kind(path[:-1]))


def _kind(path: KeyPath) -> Any:
    """The type of the key at `path`; None where there is no such key."""
    kind: Any = Settings
    for name in path:
        if _is_map(kind):
            kind = str if name == path[-1] else None
        else:
            kind = _keys(kind).get(name) if is_dataclass(kind) else None
    return kind


def _key_paths(section: Any = Settings, path: KeyPath = ()) -> Iterator[str]:
    for name, kind in _keys(section).items():
        yield ".".join((*path, name))
        if is_dataclass(kind):
            yield from _key_paths(kind, (*path, name))


def _nearest(name: str, known: Sequence[str], cutoff: float = 0.6) -> str | None:
    return next(iter(difflib.get_close_matches(name, known, n=1, cutoff=cutoff)), None)


def _nearest_key(dotted: str) -> str | None:
    known = list(_key_paths())
    by_last_name = {key.rpartition(".")[2]: key for key in reversed(known)}
    last = _nearest(dotted.rpartition(".")[2], list(by_last_name), cutoff=0.8)
    siblings = [key for key in known if key.rpartition(".")[0] == dotted.rpartition(".")[0]]
    return _nearest(dotted, siblings, 0.8) or (
        by_last_name[last] if last else _nearest(dotted, known, cutoff=0.5)
    )


def _unknown(path: KeyPath, source: str) -> ConfigurationError:
    dotted = ".".join(path)
    nearest = _nearest_key(dotted)
    shown = nearest
    if nearest and source.startswith("PIPELINE_"):
        shown = "PIPELINE_" + nearest.upper().replace(".", "__")
    return ConfigurationError(
        f"{source}: there is no key {dotted}." + _meant(shown), source=source, key=dotted, nearest=nearest
    )


def _meant(name: str | None) -> str:
    return f" Did you mean {name}?" if name else ""


def _wrong(path: KeyPath, source: str, expected: str, came: Any) -> ConfigurationError:
    dotted = ".".join(path)
    shown = repr(_masked(path, came)) if isinstance(came, str) else f"{came} (not in quotes)"
    # What stands inside a section or a list may be secret: only its kind is shown.
    shown = {dict: "a section", list: "a list", type(None): "nothing"}.get(type(came), shown)
    return ConfigurationError(
        f"{source}: {dotted} must be {expected}; came {shown}.", source=source, key=dotted
    )
