"""The reference of the configuration, in Markdown: made from the settings' schema and from what base.yml says of each key."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import yaml

from pipeline import conf_files
from pipeline.settings import keys

__all__ = ["lines"]

_HEAD = """# Configuration reference

Every key there is, with its default. `pipeline config reference` makes this page from [conf/base.yml](../conf/base.yml); `pipeline
config show` tells what is in force, and where it came from.

A key is set in `conf/<env>.yml` (chosen by `--env` or `PIPELINE_ENV`), by its variable, or by `--set key=value`; the last one
counts. A secret is written as `${env:NAME}` or `${file:/absolute/path}`. `null` means that a key has no value.

A map is given as YAML where it comes by its variable: `PIPELINE_SPARK__CONF='{spark.ui.enabled: true}'`. `--set spark.conf.spark.ui.enabled=true` sets one
entry of it; a variable for one entry has dots in its name, which `env` takes and a shell's `export` does not.
"""


def lines() -> Iterator[str]:
    """The page, line by line."""
    base = conf_files.shipped_folder() / "base.yml"
    document, text = conf_files.read(base), base.read_text(encoding="utf-8").splitlines()
    yield from _HEAD.splitlines()
    section = None
    for key, form in keys().items():
        path = tuple(key.split("."))
        if path[0] != section:
            section = path[0]
            yield from _heading(section, _remark(text, document.lines[path[:1]]) if len(path) > 1 else "")
        for here, value in _entries(path, _value(document, path)):
            remark = _remark(text, document.lines[here])
            yield _row([f"`{'.'.join(here)}`", f"`{_written(value)}`", form, remark, _variable(here)])


def _heading(section: str, remark: str) -> Iterator[str]:
    yield ""
    yield f"## {section}"
    yield ""
    if remark:
        yield f"{remark}."
        yield ""
    yield "| key | default | form | meaning | variable |"
    yield "|---|---|---|---|---|"


def _entries(path: tuple[str, ...], value: object) -> list[tuple[tuple[str, ...], object]]:
    """The key itself; of a map that has entries, those."""
    if isinstance(value, dict) and value:
        return [((*path, name), one) for name, one in value.items()]
    return [(path, value)]


def _value(document: conf_files.Document, path: Sequence[str]) -> object:
    value: object = document.tree
    for name in path:
        assert isinstance(value, dict)
        value = value[name]
    return value


def _written(value: object) -> str:
    if isinstance(value, str):
        return value
    return yaml.safe_dump(value, default_flow_style=True).splitlines()[0]


def _variable(path: Sequence[str]) -> str:
    *sections, name = path
    is_free = any("." in part for part in path)
    words = [*(part.upper() for part in sections), name if is_free else name.upper()]
    return f"`PIPELINE_{'__'.join(words)}`"


def _remark(text: Sequence[str], line: int) -> str:
    """What stands behind `#` on the key's line, and below it in the same column."""
    first = text[line - 1]
    column = first.find(" # ") + 1
    if not column:
        return ""
    told = [first[column + 1 :].strip()]
    for more in text[line:]:
        if more[:column].strip() or not more[column:].startswith("#"):
            break
        told.append(more[column + 1 :].strip())
    return " ".join(told).replace("|", "\\|")


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
