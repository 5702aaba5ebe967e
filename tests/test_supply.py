"""What set-up installs is named by version and SHA-256, and nothing else is installed."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import re
import subprocess
import sys
import zipfile
from importlib import metadata
from pathlib import Path
from types import ModuleType

import pytest
from packaging.markers import Marker
from packaging.requirements import Requirement

REPOSITORY = Path(__file__).parents[1]
SUPPLY = REPOSITORY / "supply"
LOCKS = [SUPPLY / "requirements.lock", SUPPLY / "airflow.lock"]


@pytest.fixture(scope="module")
def sbom() -> ModuleType:
    spec = importlib.util.spec_from_file_location("sbom", SUPPLY / "sbom.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def for_this_machine(sbom: ModuleType, lock: Path) -> dict[str, str]:
    return {
        plain(wheel.name): wheel.version
        for wheel in sbom.locked(lock)
        if not wheel.marker or Marker(wheel.marker).evaluate()
    }


@pytest.mark.parametrize("lock", LOCKS, ids=lambda lock: lock.name)
def test_each_wheel_has_its_sums_and_no_place(sbom: ModuleType, lock: Path) -> None:
    wheels = [*sbom.locked(lock)]
    assert len(wheels) > 100
    for wheel in wheels:
        assert wheel.sums, wheel.name
        assert all(re.fullmatch("[0-9a-f]{64}", one) for one in wheel.sums), wheel.name
    assert "://" not in lock.read_text()


def test_the_lock_holds_what_setup_py_pins_and_this_environment_what_the_lock_holds(sbom: ModuleType) -> None:
    locked = for_this_machine(sbom, LOCKS[0])
    pins = [Requirement(line) for line in metadata.requires("pipeline") or ()]
    assert {plain(pin.name): str(pin.specifier) for pin in pins}.items() <= {
        name: f"=={version}" for name, version in locked.items()
    }.items()
    installed = {plain(one.metadata["Name"]): one.version for one in metadata.distributions()}
    assert locked.items() <= installed.items()
    assert installed.keys() - locked.keys() <= {"pipeline", "pip", "wheel"}


def test_airflow_is_the_one_that_was_tried_and_new_enough(sbom: ModuleType) -> None:
    locked = for_this_machine(sbom, LOCKS[1])
    listed = (SUPPLY.parent / "orchestration" / "airflow-constraints.txt").read_text()
    assert all(f"\n{name}=={locked[name]}" in listed for name in ("apache-airflow", "apache-airflow-core"))
    assert tuple(map(int, locked["apache-airflow"].split("."))) >= (3, 2, 2)


def test_a_wheel_with_another_sum_is_not_installed(tmp_path: Path) -> None:
    wheel = tmp_path / "some-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as content:
        content.writestr("some.py", "")
        content.writestr("some-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: some\nVersion: 1.0\n")
        content.writestr("some-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        content.writestr("some-1.0.dist-info/RECORD", "")
    lock = tmp_path / "requirements.lock"
    lock.write_text(f"some==1.0 --hash=sha256:{hashlib.sha256(wheel.read_bytes()).hexdigest()}\n")
    assert installs(lock, tmp_path).returncode == 0
    with zipfile.ZipFile(wheel, "a") as content:
        content.writestr("evil.py", "")
    refused = installs(lock, tmp_path)
    assert refused.returncode != 0
    assert "THESE PACKAGES DO NOT MATCH THE HASHES" in refused.stderr
    assert not (tmp_path / "target" / "evil.py").exists()


def installs(lock: Path, folder: Path) -> subprocess.CompletedProcess[str]:
    """As set-up does, but from a folder into a folder."""
    (options,) = re.findall(r"^FROM_LOCK := install (.*)$", (REPOSITORY / "Makefile").read_text(), re.M)
    command = [sys.executable, "-m", "pip", "install", *options.split(), "--no-index", "--find-links", folder]
    return subprocess.run(
        [*command, "--upgrade", "--no-cache-dir", "--target", folder / "target", "-r", lock],
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_bill_of_materials_is_valid_and_names_each_jar_and_wheel(sbom: ModuleType) -> None:
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator

    text = sbom.as_json(sbom.bill())
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    assert text == sbom.as_json(sbom.bill())
    components = {component["purl"]: component for component in json.loads(text)["components"]}
    driver = components["pkg:maven/org.postgresql/postgresql@42.7.11"]
    assert driver["scope"] == "required"
    assert driver["hashes"][0]["content"] in (REPOSITORY / "src/pipeline/jars.sha256").read_text()
    assert components["pkg:maven/org.apache.kafka/kafka_2.13@4.1.2"]["scope"] == "excluded"
    assert components["pkg:pypi/pyspark@4.2.0"]["scope"] == "required"
    assert components["pkg:pypi/py4j@" + metadata.version("py4j")]["scope"] == "required"
    assert components["pkg:pypi/psycopg-binary@3.3.9"]["scope"] == "required"
    assert components["pkg:pypi/pytest@9.2.0"]["scope"] == "excluded"
