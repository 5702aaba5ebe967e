"""The manifest for the Spark operator names what there is. Against the operator's own schema it was checked by hand: docs/clusters.md."""

from __future__ import annotations

from pathlib import Path

import yaml

from pipeline import cli
from pipeline.settings import flattened, load

ROOT = Path(__file__).parents[1]


def test_the_manifest_runs_a_job_of_ours_with_settings_of_ours() -> None:
    given = yaml.safe_load((ROOT / "docs" / "kubernetes" / "ingest.yml").read_text(encoding="utf-8"))["spec"]
    job = Path(given["mainApplicationFile"]).relative_to("local:/opt/pipeline")
    assert (ROOT / job).exists()
    command = cli._parser().parse_args([job.stem, *given["arguments"]])
    variables = {one["name"]: one["value"] for one in given["driver"]["env"]}
    assert variables.pop("PIPELINE_CONF") == "/opt/pipeline/conf"
    settings = load(command.env, [], variables)
    assert {*variables.values()} <= {str(value) for value in flattened(settings).values()}
    assert given["sparkVersion"] == "4.2.0"
