"""The warehouse inside the lake: dbt makes its models of the raw tables, as Delta tables under `elt/`, and tests them."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from delta.tables import DeltaTable
from pyspark.sql import SparkSession

from pipeline import shop
from pipeline.console import done, step
from pipeline.dbt_project import Model, Outcome, Project, lent_to_dbt, unpacked
from pipeline.delta_log import is_table
from pipeline.errors import DataTestsFailed, ModelsFailed, RefusedToStart, UsageError
from pipeline.settings import Settings
from pipeline.sinks import commit_lock
from pipeline.sources import table_version
from pipeline.starting import session
from pipeline.tables import RAW_CUSTOMERS, RAW_ORDERS, RAW_PRODUCTS, elt_path, local_path, table_path

__all__ = ["run"]

_SOURCES = {shop.ORDERS: RAW_ORDERS, shop.CUSTOMERS: RAW_CUSTOMERS, shop.PRODUCTS: RAW_PRODUCTS}
_REASON_LINES = 4
_DOCS = {"static_index.html": "index.html", "manifest.json": "manifest.json", "catalog.json": "catalog.json"}


def run(
    settings: Settings, *, select: Sequence[str] = (), full_refresh: bool = False, docs: Path | None = None
) -> None:
    """Build the models (all, or those that `select` names in dbt's way), then test them, then write dbt's documentation.

    Raises RefusedToStart where a raw table is missing, UsageError where `select` names nothing, ModelsFailed and
    DataTestsFailed.
    """
    spark = session(settings)
    root = settings.lake.root
    versions = _raw_versions(spark, root)
    with commit_lock(elt_path(root)), lent_to_dbt(spark), _work_folder(root) as folder:
        with step("elt: reading the models"):
            project = unpacked(folder, _variables(settings))
            _register_sources(spark, root, versions)
            _register_models(spark, root, project.models)
        _build(project, ["--select", *select] if select else [], full_refresh=full_refresh)
        if docs is not None:
            _write_docs(project, docs)


def _raw_versions(spark: SparkSession, root: str) -> dict[str, int]:
    """The newest version of each source's table: all models of a run read the same rows."""
    found = {source: table_version(spark, table_path(root, table)) for source, table in _SOURCES.items()}
    missing = [_SOURCES[source] for source, version in found.items() if version is None]
    if missing:
        raise RefusedToStart(
            f"there is no {', '.join(missing)} in the lake {root}: nothing has been extracted yet.\n"
            "Run `pipeline etl-orders` first, or set lake.root to the lake you mean."
        )
    return {source: version for source, version in found.items() if version is not None}


def _variables(settings: Settings) -> dict[str, str | int]:
    escaped = elt_path(settings.lake.root).replace("\\", "\\\\").replace("'", "\\'")
    return {
        "models_root": escaped,  # dbt puts it into quotes as it is
        "start_date": settings.elt.start_date,
        "overlap_days": settings.elt.overlap_days,
    }


@contextmanager
def _work_folder(root: str) -> Iterator[Path]:
    """Where dbt leaves what it compiles and its log: in a lake of this machine, else until a run has succeeded."""
    lake = local_path(root)
    if lake is not None:
        yield lake / "_dbt"
        return
    folder = tempfile.mkdtemp(prefix="pipeline-dbt-")
    yield Path(folder)
    shutil.rmtree(folder, ignore_errors=True)


def _register_sources(spark: SparkSession, root: str, versions: dict[str, int]) -> None:
    spark.sql("CREATE SCHEMA IF NOT EXISTS raw")
    for source, version in versions.items():
        path = table_path(root, _SOURCES[source]).replace("`", "``")
        spark.sql(
            f"CREATE OR REPLACE VIEW raw.{source} AS SELECT * FROM delta.`{path}` VERSION AS OF {version}"
        )


def _register_models(spark: SparkSession, root: str, models: Sequence[Model]) -> None:
    """Put the tables that earlier runs have made into the catalog, which may know none, or those of another lake."""
    for schema, name, is_view in models:
        if is_view:
            continue
        table, path = f"{schema}.{name}", f"{elt_path(root)}/{schema}/{name}"
        spark.sql(f"CREATE SCHEMA IF NOT EXISTS {schema}")
        _forget(spark, table)
        if is_table(spark, path):
            DeltaTable.createIfNotExists(spark).tableName(table).location(path).execute()


def _forget(spark: SparkSession, table: str) -> None:
    """Drop the name, never rows: those of an external table stay, and a managed one is not ours."""
    if not spark.catalog.tableExists(table):
        return
    kind = spark.catalog.getTable(table).tableType
    if kind != "EXTERNAL":
        raise RefusedToStart(
            f"the catalog has a {kind.lower()} table {table}, which `pipeline elt` has not made and would replace.\n"
            "Rename it, or run with a catalog of its own (without Hive support Spark's is in memory)."
        )
    spark.sql(f"DROP TABLE {table}")


def _build(project: Project, selection: Sequence[str], *, full_refresh: bool) -> None:
    """Run the models, then their tests; each model is told when it is there."""
    if selection:
        # What is selected may read a view, and a catalog in memory has forgotten it.
        _require_good(project, project.invoke("run", "--select", "config.materialized:view"))
    with step("elt: models"):
        options = [*selection, *(["--full-refresh"] if full_refresh else [])]
        built = project.invoke("run", *options, told=_tell)
        _require_good(project, built)
    with step("elt: tests"):
        tested = project.invoke("test", *selection, told=_tell_of_failure)
        if not built and not tested:
            names = ", ".join(model.name for model in project.models)
            raise UsageError(f"{' '.join(selection)} selects nothing. The models are: {names}.")
        _require_passed(project, tested)


def _tell(model: Outcome) -> None:
    if not model.is_skipped:
        done(model.name, model.seconds, is_good=model.is_good)


def _tell_of_failure(test: Outcome) -> None:
    if not test.is_good:
        done(test.name, test.seconds, is_good=False)


def _require_good(project: Project, models: Sequence[Outcome]) -> None:
    failed = [model for model in models if not model.is_good and not model.is_skipped]
    if failed:
        raise ModelsFailed(
            f"{_reasons(failed)}\nModels that read these were not made. The whole of it: {project.log}",
            models=[model.name for model in failed],
        )


def _require_passed(project: Project, tests: Sequence[Outcome]) -> None:
    failed = [test for test in tests if not test.is_good]
    if failed:
        raise DataTestsFailed(
            f"{len(failed)} of {len(tests)} tests of the data failed. The queries: {project.target / 'compiled'}\n"
            f"{_reasons(failed)}",
            tests=[test.name for test in failed],
        )


def _reasons(failed: Sequence[Outcome]) -> str:
    """Each name with the beginning of its message: Spark puts the query's whole plan at the end of it."""
    return "\n".join(
        "\n".join([f"{one.name}:", *one.message.strip().splitlines()[:_REASON_LINES]]) for one in failed
    )


def _write_docs(project: Project, folder: Path) -> None:
    """dbt's documentation: one page that needs no server, and the two files that other tools read."""
    with step(f"elt: documentation in {folder}"):
        project.invoke("docs generate", "--static")
        folder.mkdir(parents=True, exist_ok=True)
        for made, name in _DOCS.items():
            shutil.copyfile(project.target / made, folder / name)
