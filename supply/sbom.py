"""`make sbom`: what the pipeline is made of, as CycloneDX 1.6: each wheel and jar with its version and its SHA-256.

Read from the locks, so it tells what set-up installs, not what happens to be there. Components of development, tests and the
embedded broker have the scope `excluded`.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Iterator, Sequence
from importlib import metadata
from pathlib import Path
from typing import NamedTuple
from uuid import NAMESPACE_URL, uuid5

from cyclonedx.model import HashAlgorithm, HashType
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentScope, ComponentType
from cyclonedx.output.json import JsonV1Dot6
from packageurl import PackageURL
from packaging.requirements import Requirement

REPOSITORY = Path(__file__).parents[1]
WHEELS = REPOSITORY / "supply" / "requirements.lock"
JARS = REPOSITORY / "src" / "pipeline" / "jars.sha256"
DEVELOPMENT = {"test", "dev", "devservices"}


class Locked(NamedTuple):
    """A wheel as the lock names it; `marker` says on which machines it is installed, `sums` are of its files for all of them."""

    name: str
    version: str
    marker: str
    sums: tuple[str, ...]


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("sbom.json"))
    asked = parser.parse_args(argv)
    asked.output.write_text(as_json(bill()), encoding="utf-8")
    print(f"sbom: {asked.output}")
    return 0


def bill() -> Bom:
    """The same locks give the same bill, to the byte."""
    whole = Component(
        name="pipeline",
        version=metadata.version("pipeline"),
        type=ComponentType.APPLICATION,
        bom_ref="pipeline",
    )
    components = sorted([*_wheels(), *_jars()], key=lambda component: str(component.bom_ref.value))
    made = Bom(
        serial_number=uuid5(NAMESPACE_URL, WHEELS.read_text() + JARS.read_text()), components=components
    )
    made.metadata.component = whole
    made.register_dependency(whole, components)
    return made


def as_json(made: Bom) -> str:
    told = json.loads(JsonV1Dot6(made).output_as_string())
    del told["metadata"]["timestamp"]  # two bills of one lock are the same
    return json.dumps(told, indent=2, sort_keys=True) + "\n"


def locked(lock: Path = WHEELS) -> Iterator[Locked]:
    for entry in re.split(r"\n(?=\S)", lock.read_text(encoding="utf-8")):
        if entry.startswith("#") or not entry.strip():
            continue
        requirement, *options = re.split(r"\s*\\\n\s*", entry.strip())
        found = Requirement(requirement)
        (pin,) = found.specifier
        assert pin.operator == "==", entry
        sums = tuple(option.removeprefix("--hash=sha256:").split()[0] for option in options)
        yield Locked(found.name, pin.version, str(found.marker or ""), sums)


def runtime() -> set[str]:
    """The names of what the package needs to run, with all its extras but those of development."""
    left = {("pipeline", extra) for extra in _extras("pipeline") - DEVELOPMENT | {""}}
    seen: set[tuple[str, str]] = set()
    while left:
        name, asked = left.pop()
        seen.add((name, asked))
        for requirement in map(Requirement, _requires(name)):
            if requirement.marker is None or requirement.marker.evaluate({"extra": asked}):
                left |= {(_plain(requirement.name), extra) for extra in requirement.extras | {""}}
        left -= seen
    return {name for name, _ in seen} - {"pipeline"}


def _requires(name: str) -> Sequence[str]:
    try:
        return metadata.requires(name) or ()
    except metadata.PackageNotFoundError:  # not for this machine
        return ()


def _extras(name: str) -> set[str]:
    return set(metadata.metadata(name).get_all("Provides-Extra") or ())


def _plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _wheels() -> Iterator[Component]:
    needed = runtime()
    for wheel in locked():
        scope = ComponentScope.REQUIRED if _plain(wheel.name) in needed else ComponentScope.EXCLUDED
        url = PackageURL("pypi", name=wheel.name, version=wheel.version)
        yield _component(wheel.name, wheel.version, url, scope, sums=wheel.sums)


def _jars() -> Iterator[Component]:
    parts: dict[str, set[str]] = {}
    sums: dict[str, str] = {}
    for line in JARS.read_text(encoding="utf-8").splitlines():
        expected, path = line.split()
        part, _, jar = path.partition("/")
        parts.setdefault(jar, set()).add(part)
        sums[jar] = expected
    for jar, used_by in parts.items():
        group, artifact, version, _ = jar.split("/")
        scope = ComponentScope.EXCLUDED if used_by == {"broker"} else ComponentScope.REQUIRED
        yield _component(
            artifact,
            version,
            PackageURL("maven", group, artifact, version),
            scope,
            group=group,
            sums=(sums[jar],),
        )


def _component(
    name: str,
    version: str,
    url: PackageURL,
    scope: ComponentScope,
    *,
    sums: Sequence[str],
    group: str | None = None,
) -> Component:
    return Component(
        name=name,
        group=group,
        version=version,
        purl=url,
        bom_ref=str(url),
        type=ComponentType.LIBRARY,
        scope=scope,
        hashes=[HashType(alg=HashAlgorithm.SHA_256, content=one) for one in sums],
    )


if __name__ == "__main__":
    sys.exit(main())
