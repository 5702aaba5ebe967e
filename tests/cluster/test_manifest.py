"""The manifest for the Spark operator fits the schema of a SparkApplication, and is about what this project has."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft7Validator
from pyspark.version import __version__ as spark_version

from pipeline.settings import load

DOCS = Path(__file__).parents[2] / "docs"
SCHEMA = Path(__file__).with_name("spark_application.yml")


@pytest.fixture
def manifest() -> dict[str, Any]:
    return dict(yaml.safe_load((DOCS / "kubernetes" / "ingest.yml").read_text(encoding="utf-8")))


def faults(manifest: dict[str, Any]) -> list[str]:
    validator = Draft7Validator(yaml.safe_load(SCHEMA.read_text(encoding="utf-8")))
    return [error.message for error in validator.iter_errors(manifest)]


def test_the_manifest_fits_the_schema(manifest: dict[str, Any]) -> None:
    assert faults(manifest) == []
    manifest["spec"]["driver"]["core"] = 1
    assert "'core' was unexpected" in faults(manifest)[0]


def test_the_manifest_is_about_this_project(manifest: dict[str, Any]) -> None:
    spec = manifest["spec"]
    assert spec["sparkVersion"] == spark_version
    job = Path(spec["mainApplicationFile"]).name
    assert (DOCS.parent / "jobs" / job).is_file()
    variables = {one["name"]: one["value"] for one in spec["driver"]["env"] if one["name"] != "PIPELINE_CONF"}
    assert load("cluster", [], variables).lake.root == variables["PIPELINE_LAKE__ROOT"]
