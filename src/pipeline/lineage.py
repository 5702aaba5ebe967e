"""What a run reads and writes, told as OpenLineage events where `lineage.url` names a receiver.

Datasets have the names that the specification gives them: a topic in the namespace of its brokers, a table by its path. A receiver
that does not answer costs the run a few seconds, and nothing else.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from pipeline.errors import SetupError
from pipeline.personal_data import without_personal_data
from pipeline.settings import without_secrets

if TYPE_CHECKING:
    from pipeline.settings import Settings

__all__ = ["Dataset", "table", "told", "topic"]

_PRODUCER = "https://pypi.org/project/pipeline"
_TIMEOUT_SECONDS = 3.0

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Dataset:
    namespace: str
    name: str
    version: int | None = None


def table(path: str, version: int | None = None) -> Dataset:
    """A Delta table, by the rules of https://openlineage.io/docs/spec/naming: `file` for a path, else the store and the path in it."""
    parts = urlsplit(path)
    if len(parts.scheme) <= 1 or parts.scheme == "file":
        return Dataset("file", parts.path or path, version)
    scheme = "s3" if parts.scheme in ("s3a", "s3n") else parts.scheme
    return Dataset(f"{scheme}://{parts.netloc}", parts.path.lstrip("/"), version)


def topic(bootstrap_servers: str, name: str) -> Dataset:
    return Dataset(f"kafka://{bootstrap_servers.partition(',')[0]}", name)


@contextmanager
def told(
    settings: Settings, job: str, *, inputs: Iterable[Dataset], outputs: Iterable[Dataset]
) -> Iterator[None]:
    """START before the block, COMPLETE or FAIL after it. Raises SetupError where the extra `lineage` is not installed."""
    if settings.lineage.url is None:
        yield
        return
    run = _Run(settings, job, [*inputs], [*outputs])
    run.tell("START")
    try:
        yield
    except BaseException as error:
        run.tell("FAIL", error)
        raise
    run.tell("COMPLETE")


class _Run:
    def __init__(self, settings: Settings, job: str, inputs: list[Dataset], outputs: list[Dataset]) -> None:
        try:
            from openlineage.client import OpenLineageClient
            from openlineage.client.transport.http import HttpConfig, HttpTransport
            from openlineage.client.uuid import generate_new_uuid
        except ModuleNotFoundError as error:
            raise SetupError(
                f"lineage.url is set, and {error.name} is not installed. Install it: pip install 'pipeline[lineage]'."
            ) from error
        url = settings.lineage.url or ""
        config = HttpConfig(url, timeout=_TIMEOUT_SECONDS, retry={"total": 0})
        self._client = OpenLineageClient(transport=HttpTransport(config))
        self._id = str(generate_new_uuid())
        self._settings, self._job, self._inputs, self._outputs = settings, job, inputs, outputs

    def tell(self, state: str, error: BaseException | None = None) -> None:
        try:
            self._client.emit(self._event(state, error))
        except Exception as failure:  # noqa: BLE001  # whatever the receiver does: the run goes on
            _log.warning("lineage: %s of %s is not told: %s", state, self._job, failure)

    def _event(self, state: str, error: BaseException | None) -> Any:
        from openlineage.client import event_v2 as events
        from openlineage.client.facet_v2 import error_message_run

        facets: dict[str, Any] = {}
        if error is not None:
            message = without_personal_data(
                without_secrets(self._settings, f"{type(error).__name__}: {error}")
            )
            facets["errorMessage"] = error_message_run.ErrorMessageRunFacet(
                message=message, programmingLanguage="python"
            )
        return events.RunEvent(
            eventType=events.RunState[state],
            eventTime=datetime.now(timezone.utc).isoformat(),
            run=events.Run(self._id, facets=facets),
            job=events.Job(self._settings.lineage.namespace, self._job),
            producer=_PRODUCER,
            inputs=[
                events.InputDataset(one.namespace, one.name, facets=_facets(one)) for one in self._inputs
            ],
            outputs=[
                events.OutputDataset(one.namespace, one.name, facets=_facets(one)) for one in self._outputs
            ],
        )


def _facets(one: Dataset) -> dict[str, Any]:
    from openlineage.client.facet_v2 import dataset_version_dataset

    if one.version is None:
        return {}
    return {"version": dataset_version_dataset.DatasetVersionDatasetFacet(datasetVersion=str(one.version))}
