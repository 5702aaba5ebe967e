"""What OpenLineage is told of a run, received over HTTP; and that a receiver that is not there stops nothing."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from pyspark.sql import SparkSession

from lake import at, fresh, order, send
from pipeline import batch, ingest, lineage
from pipeline.errors import RefusedToStart
from pipeline.settings import Settings
from pipeline.tables import ORDER_EVENTS, table_path, view_path

VIEW = "customer_hourly_spend"


@contextmanager
def receiver() -> Iterator[tuple[str, list[dict[str, Any]]]]:
    events: list[dict[str, Any]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            assert self.path == "/api/v1/lineage"
            events.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(201)
            self.end_headers()

        def log_message(self, *_: object) -> None: ...

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", events
    finally:
        server.shutdown()
        server.server_close()


def to(settings: Settings, url: str) -> Settings:
    return replace(settings, lineage=replace(settings.lineage, url=url))


@pytest.mark.kafka
def test_a_run_tells_what_it_read_and_wrote(
    spark: SparkSession, base_settings: Settings, bootstrap: str, tmp_path: Path
) -> None:
    with receiver() as (url, events):
        here = to(fresh(base_settings, bootstrap, tmp_path / "lake"), url)
        send(here, [order("o1"), order("o2", time=at(60 * 3))])
        ingest.run(here, once=True)
        batch.run(here, views=[VIEW])
    told = [(one["job"]["name"], one["eventType"]) for one in events]
    assert told == [
        ("ingest", "START"), ("ingest", "COMPLETE"), (f"batch {VIEW}", "START"), (f"batch {VIEW}", "COMPLETE"),
    ]  # fmt: skip
    assert len({one["run"]["runId"] for one in events}) == 2
    of_ingest, of_batch = events[1], events[3]
    topics = {(one["namespace"], one["name"]) for one in of_ingest["inputs"]}
    assert (f"kafka://{bootstrap}", here.kafka.topics.orders) in topics
    assert ("file", table_path(here.lake.root, ORDER_EVENTS)) in {
        (one["namespace"], one["name"]) for one in of_ingest["outputs"]
    }
    (read,) = of_batch["inputs"]
    assert read["name"] == table_path(here.lake.root, ORDER_EVENTS)
    assert read["facets"]["version"]["datasetVersion"] == "1"
    assert [one["name"] for one in of_batch["outputs"]] == [view_path(here.lake.root, VIEW, "batch", 1)]


def test_a_failure_is_told_without_secrets(base_settings: Settings) -> None:
    with receiver() as (url, events):
        here = to(base_settings, url)
        where = "postgresql://user:very-secret@host:5432/shop"
        with pytest.raises(RefusedToStart), lineage.told(here, "batch x", inputs=[], outputs=[]):
            raise RefusedToStart(f"nothing at {where}")
    assert [one["eventType"] for one in events] == ["START", "FAIL"]
    message = events[1]["run"]["facets"]["errorMessage"]["message"]
    assert "RefusedToStart: nothing at" in message
    assert "very-secret" not in message


def test_a_receiver_that_is_not_there_stops_nothing(
    base_settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    done = []
    with lineage.told(to(base_settings, "http://127.0.0.1:1"), "batch x", inputs=[], outputs=[]):
        done.append(True)
    assert done == [True]
    assert "START of batch x is not told" in caplog.text


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/data/lake/raw_events", ("file", "/data/lake/raw_events")),
        ("file:///data/lake", ("file", "/data/lake")),
        ("s3a://bucket/lake/raw_events", ("s3://bucket", "lake/raw_events")),
        ("hdfs://name:8020/lake", ("hdfs://name:8020", "lake")),
    ],
)
def test_tables_have_the_names_of_the_specification(path: str, expected: tuple[str, str]) -> None:
    named = lineage.table(path)
    assert (named.namespace, named.name) == expected
