"""The values that were given, with where they stand: in base.yml, <env>.yml, PIPELINE_ variables and --set; the last one counts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from pipeline import conf_files
from pipeline.errors import ConfigurationError
from pipeline.settings.faults import meant, nearest_of, unknown, wrong
from pipeline.settings.schema import KeyPath, is_free, is_map, keys_of, kind_at

if TYPE_CHECKING:
    from importlib.abc import Traversable

__all__ = ["Given", "given_values"]

NOT_KEYS = frozenset({"PIPELINE_CONF", "PIPELINE_ENV", "PIPELINE_IVY_SETTINGS"})


class Given(NamedTuple):
    """One value as it was written; `is_text` where it comes from a variable or --set and still has to be parsed."""

    value: Any
    source: str
    is_text: bool = False


def given_values(
    env: str | None, overrides: Sequence[str], environ: Mapping[str, str], folder: Path | None
) -> dict[KeyPath, Given]:
    """Each key's value as it was given last; an entry of a free map that is set to null is as if it had never been given."""
    given: dict[KeyPath, Given] = {}
    for document in _documents(env or environ.get("PIPELINE_ENV") or None, environ, folder):
        given.update(_from_document(document))
    given.update(_from_environ(environ))
    given.update(_from_overrides(overrides))
    return {path: one for path, one in given.items() if not (is_free(path) and one.value is None)}


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
        nearest = nearest_of(env, there)
        raise ConfigurationError(
            f"There is no environment {env!r}: {folder} has {', '.join(there) or 'none'}." + meant(nearest),
            source=str(folder / f"{env}.yml"),
            nearest=nearest,
        )
    return folder / f"{env}.yml"


def _from_document(document: conf_files.Document) -> Iterator[tuple[KeyPath, Given]]:
    return _leaves(document.tree, (), document)


def _leaves(tree: Any, path: KeyPath, document: conf_files.Document) -> Iterator[tuple[KeyPath, Given]]:
    source, kind = document.where(path), kind_at(path)
    if kind is None:
        raise unknown(path, source)
    if not (is_dataclass(kind) or is_map(kind)):
        yield path, Given(tree, source)
        return
    if tree is not None and not isinstance(tree, dict):
        raise wrong(path, source, "a section with keys below it", tree)
    for key, value in (tree or {}).items():
        yield from _leaves(value, (*path, key), document)


def _from_environ(environ: Mapping[str, str]) -> Iterator[tuple[KeyPath, Given]]:
    for name in sorted(environ):
        if name.startswith("PIPELINE_") and name not in NOT_KEYS:
            yield from _from_text(_variable_path(name), environ[name], name)


def _variable_path(name: str) -> KeyPath:
    """PIPELINE_SPARK__CONF__spark.ui.port → spark, conf, spark.ui.port: keys of a free map are taken as they stand."""
    path: KeyPath = ()
    rest = name.removeprefix("PIPELINE_")
    while rest and not is_map(kind_at(path)):
        part, _, rest = rest.partition("__")
        path = (*path, part.lower())
    return (*path, rest) if rest else path


def _from_overrides(overrides: Sequence[str]) -> Iterator[tuple[KeyPath, Given]]:
    for override in overrides:
        dotted, separator, text = override.partition("=")
        if not separator:
            raise ConfigurationError(f"--set {override}: expected key=value.", source=f"--set {override}")
        yield from _from_text(_dotted_path(dotted.strip()), text, f"--set {dotted.strip()}")


def _dotted_path(dotted: str) -> KeyPath:
    path: KeyPath = ()
    rest = dotted
    while rest and not is_map(kind_at(path)):
        part, _, rest = rest.partition(".")
        path = (*path, part)
    return (*path, rest) if rest else path


def _from_text(path: KeyPath, text: str, source: str) -> Iterator[tuple[KeyPath, Given]]:
    kind = kind_at(path)
    if kind is None or not path:
        raise unknown(path, source)
    if is_dataclass(kind):
        raise ConfigurationError(
            f"{source}: {'.'.join(path)} is a section; its keys are {', '.join(keys_of(kind))}.",
            source=source,
            key=".".join(path),
        )
    if not is_map(kind):
        yield path, Given(text, source, is_text=True)
        return
    entries = conf_files.plain_value(text, source)
    if not isinstance(entries, dict):
        raise wrong(path, source, "a map such as {key: value}", entries)
    yield from (((*path, key), Given(value, source)) for key, value in entries.items())
