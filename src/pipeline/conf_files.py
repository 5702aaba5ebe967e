"""The YAML files of a configuration folder, read strictly: plain values only, no key twice, no aliases, no tags."""

from __future__ import annotations

import re
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import yaml

from pipeline.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from importlib.abc import Traversable  # moved in 3.11, gone from here in 3.14

__all__ = ["Document", "env_names", "plain_value", "read", "shipped_folder"]

MAX_BYTES = 256 * 1024
MAX_DEPTH = 64
NOT_ENVS = frozenset({"base.yml", "quality.yml"})


class Document(NamedTuple):
    """The content of one file: nested dicts with text keys, and the line each key path stands on."""

    name: str
    tree: dict[str, Any]
    lines: dict[tuple[str, ...], int]

    def where(self, path: tuple[str, ...]) -> str:
        """`conf/base.yml:12`, for the key at `path`."""
        return f"{self.name}:{self.lines[path]}" if path in self.lines else self.name


def shipped_folder() -> Traversable:
    """conf/ of the checkout this package is imported from, else the copy inside the installed or zipped package."""
    checkout = Path(__file__).parents[2] / "conf"
    return checkout if (checkout / "base.yml").is_file() else files("pipeline") / "conf"


def env_names(folder: Traversable) -> list[str]:
    """The environments that `folder` has an overlay for."""
    names = (entry.name for entry in folder.iterdir()) if folder.is_dir() else iter(())
    return sorted(name[:-4] for name in names if name.endswith(".yml") and name not in NOT_ENVS)


def read(file: Traversable) -> Document:
    """`file` as a document; ConfigurationError with file and line where it is not plain YAML with a mapping at its top."""
    name = str(file)
    try:
        content = file.read_bytes()
        if len(content) > MAX_BYTES:
            raise ConfigurationError(f"{name} is larger than {MAX_BYTES:,} bytes.", source=name)
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ConfigurationError(f"{name} is not UTF-8 text: {error}", source=name) from error
    except OSError as error:
        raise ConfigurationError(f"{name} cannot be read: {error.strerror or error}", source=name) from error
    tree, lines = _parse(text, name)
    if tree is None:
        tree = {}
    if not isinstance(tree, dict):
        raise ConfigurationError(
            f"{name} must hold keys with values, like `lake:`, not a {type(tree).__name__}.", source=name
        )
    return Document(name, tree, lines)


def plain_value(text: str, source: str) -> Any:
    """The value of one variable or --set, read under the same rules as a file."""
    return _parse(text, source)[0]


def _parse(text: str, name: str) -> tuple[Any, dict[tuple[str, ...], int]]:
    try:
        _refuse_depth(text, name)
        _refuse_aliases(text, name)
        node = yaml.compose(text, yaml.SafeLoader)
        lines = dict(_key_lines(node, name)) if node is not None else {}
        return yaml.safe_load(text), lines
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f"{name}:{mark.line + 1}" if mark else name
        raise ConfigurationError(
            f"{place}: not good YAML: {error.problem or error.context}.", source=place
        ) from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ConfigurationError(f"{name}: not good YAML: {error}.", source=name) from error


def _refuse_depth(text: str, name: str) -> None:
    # The parser takes time by the square of the depth: minutes for a line of brackets.
    depth = 0
    for sign in re.findall(r"[\[{\]}]", text):
        depth = depth + 1 if sign in "[{" else max(0, depth - 1)
        if depth > MAX_DEPTH:
            raise ConfigurationError(
                f"{name}: brackets more than {MAX_DEPTH} deep are not taken.", source=name
            )


def _refuse_aliases(text: str, name: str) -> None:
    # An alias makes a value depend on a place far away, and a nest of them fills the memory.
    for event in yaml.parse(text, yaml.SafeLoader):
        if isinstance(event, yaml.AliasEvent):
            line = event.start_mark.line + 1 if event.start_mark else 1
            place = f"{name}:{line}"
            raise ConfigurationError(
                f"{place}: aliases (*{event.anchor}) are not taken; write the value.", source=place
            )


def _key_lines(
    node: yaml.Node, name: str, path: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], int]]:
    if not isinstance(node, yaml.MappingNode):
        return
    seen: set[str] = set()
    for key, value in node.value:
        line = key.start_mark.line + 1
        if key.tag != "tag:yaml.org,2002:str":
            place, shown = f"{name}:{line}", getattr(key, "value", "")
            raise ConfigurationError(f"{place}: a key must be text; put {shown} in quotes.", source=place)
        if key.value in seen:
            place, dotted = f"{name}:{line}", ".".join((*path, key.value))
            raise ConfigurationError(
                f"{place}: {dotted} stands here a second time.", source=place, key=dotted
            )
        seen.add(key.value)
        yield (*path, key.value), line
        yield from _key_lines(value, name, (*path, key.value))
