"""The dbt project in this package (`dbt/`), and dbt itself, run inside this process's Spark session.

dbt writes beside the project it runs, so it runs a copy: the package may be read-only, or a zip.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from pyspark.logger import PySparkLogger
from pyspark.sql import SparkSession

from pipeline.errors import PipelineError, SetupError, UsageError

if TYPE_CHECKING:
    from importlib.abc import Traversable  # moved in 3.11, gone from here in 3.14

__all__ = ["Model", "Outcome", "Project", "lent_to_dbt", "unpacked"]

_ANSI = "spark.sql.ansi.enabled"
_QUIETLY = (
    *("--no-send-anonymous-usage-stats", "--no-partial-parse"),
    *("--log-level", "none", "--log-level-file", "debug"),  # the file alone tells what has been run
)
_ABOUT_WORDS = {"DbtUsageException", "DbtSelectorsError", "InvalidSelectorError"}


class Model(NamedTuple):
    schema: str
    name: str
    is_view: bool


class Outcome(NamedTuple):
    """What became of a model or a test; `failures` counts the rows that break a test."""

    name: str
    is_test: bool
    status: str
    seconds: float
    message: str
    failures: int

    @property
    def is_good(self) -> bool:
        return self.status in {"success", "pass", "warn", "no-op"}

    @property
    def is_skipped(self) -> bool:
        return self.status == "skipped"


@dataclass(frozen=True)
class Project:
    """A copy of the project in `folder`, with the values of its variables; dbt's target and logs lie beside it."""

    folder: Path
    variables: Mapping[str, Any]
    manifest: Any

    @property
    def log(self) -> Path:
        return self.folder.parent / "logs" / "dbt.log"

    @property
    def target(self) -> Path:
        return self.folder.parent / "target"

    @property
    def models(self) -> list[Model]:
        nodes = [node for node in self.manifest.nodes.values() if node.resource_type == "model"]
        return sorted(Model(node.schema, node.name, node.config.materialized == "view") for node in nodes)

    def invoke(
        self, command: str, *options: str, told: Callable[[Outcome], None] | None = None
    ) -> list[Outcome]:
        """Run dbt's command; `told` hears of each node when it has ended. Raises as `_invoked` does."""
        result = _invoked(self, [*command.split(), *options], told)
        return [_outcome(one) for one in getattr(result, "results", ())]


def unpacked(into: Path, variables: Mapping[str, Any]) -> Project:
    """A fresh copy of the project below `into`, parsed. Raises SetupError where dbt is not installed."""
    folder = into / "project"
    shutil.rmtree(folder, ignore_errors=True)
    _copy(resources.files("pipeline") / "dbt", folder)
    manifest = _invoked(Project(folder, variables, None), ["parse"])
    return Project(folder, variables, manifest)


def _copy(source: Traversable, target: Path) -> None:
    if not source.is_dir():
        target.write_bytes(source.read_bytes())
        return
    target.mkdir(parents=True)
    for entry in source.iterdir():
        _copy(entry, target / entry.name)


@contextmanager
def lent_to_dbt(spark: SparkSession) -> Iterator[None]:
    """dbt turns ANSI mode off in the session it finds, and leaves it so; and it tells itself which SQL failed."""
    ansi, logger = str(spark.conf.get(_ANSI)), PySparkLogger.getLogger("SQLQueryContextLogger")
    logger.disabled = True
    try:
        yield
    finally:
        logger.disabled = False
        spark.conf.set(_ANSI, ansi)


def _invoked(project: Project, command: Sequence[str], told: Callable[[Outcome], None] | None = None) -> Any:
    """What dbt returns. Raises UsageError for words that dbt does not understand, else PipelineError, where it gives up."""
    done = _runner(project.manifest, told).invoke([*_QUIETLY, *command, *_places(project)])
    if done.exception is None:
        return done.result
    if not isinstance(done.exception, Exception):  # the user's Ctrl-C
        raise done.exception
    if type(done.exception).__name__ in _ABOUT_WORDS:
        raise UsageError(f"dbt does not take {' '.join(command)}: {done.exception}")
    raise PipelineError(
        f"dbt gave up on `{command[0]}`: {done.exception}\nIts log: {project.log}"
    ) from done.exception


def _runner(manifest: Any, told: Callable[[Outcome], None] | None) -> Any:
    try:
        from dbt.cli.main import dbtRunner
    except ImportError as error:
        raise SetupError(
            f"dbt is not installed in this Python ({error}): pip install 'pipeline[elt]'."
        ) from error
    return dbtRunner(manifest, callbacks=[_hearing(told)] if told else [])


def _places(project: Project) -> list[str]:
    """Given as options, because dbt's environment variables win over what its files say."""
    return [
        *("--project-dir", str(project.folder)),
        *("--profiles-dir", str(project.folder)),
        *("--profile", "pipeline", "--target", "session"),
        *("--log-path", str(project.log.parent)),
        *("--target-path", str(project.target)),
        *("--vars", json.dumps(dict(project.variables))),
    ]


def _hearing(told: Callable[[Outcome], None]) -> Callable[[Any], None]:
    def hear(event: Any) -> None:
        if event.info.name == "NodeFinished":
            info, result = event.data.node_info, event.data.run_result
            told(
                Outcome(
                    name=info.node_name,
                    is_test=info.resource_type == "test",
                    status=result.status,
                    seconds=result.execution_time,
                    message=result.message,
                    failures=result.num_failures,
                )
            )

    return hear


def _outcome(result: Any) -> Outcome:
    return Outcome(
        name=result.node.name,
        is_test=result.node.resource_type == "test",
        status=str(result.status),
        seconds=result.execution_time,
        message=result.message or "",
        failures=result.failures or 0,
    )
