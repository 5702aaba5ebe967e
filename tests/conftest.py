"""One Spark session and one real broker for each process of the run; each test gets a lake and topics of its own."""

from __future__ import annotations

import sys
import uuid
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from pyspark.sql import SparkSession

from pipeline.devservices import kafka, postgres
from pipeline.session import session
from pipeline.settings import Settings, Topics, load

if TYPE_CHECKING:
    from secured import Secured
    from story import Story

sys.path.insert(0, str(Path(__file__).parent))

PARTITIONS = 2


@pytest.fixture(scope="session")
def base_settings() -> Settings:
    return load("test", [], {})


@pytest.fixture(scope="session")
def spark(base_settings: Settings) -> Iterator[SparkSession]:
    made = session(base_settings)
    yield made
    made.stop()


@pytest.fixture(scope="session")
def kafka_broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[kafka.Broker]:
    """A broker that lives as long as the process; each test has topics of its own."""
    with kafka.broker(tmp_path_factory.mktemp("kafka")) as running:
        yield running


@pytest.fixture(scope="session")
def secured_kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secured]:
    """A broker with TLS, logins and ACLs; each test has users of its own."""
    from secured import secured_broker

    with secured_broker(tmp_path_factory.mktemp("secured")) as running:
        yield running


@pytest.fixture(scope="session")
def bootstrap(kafka_broker: kafka.Broker) -> str:
    return kafka_broker.bootstrap_servers


@pytest.fixture(scope="session")
def postgres_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[postgres.Server]:
    """A Postgres that lives as long as the process; each test makes databases of its own."""
    with postgres.server(tmp_path_factory.mktemp("postgres")) as running:
        yield running


@pytest.fixture
def settings(base_settings: Settings, bootstrap: str, tmp_path: Path) -> Settings:
    """Settings with an empty lake and empty topics."""
    return _fresh(base_settings, bootstrap, tmp_path / "lake")


@pytest.fixture(scope="session")
def story(
    spark: SparkSession, base_settings: Settings, bootstrap: str, tmp_path_factory: pytest.TempPathFactory
) -> Story:
    """A lake that many tests look at; who damages it, or sends more to its topics, copies it first."""
    from story import play

    return play(spark, _fresh(base_settings, bootstrap, tmp_path_factory.mktemp("story") / "lake"))


def _fresh(base_settings: Settings, bootstrap: str, root: Path) -> Settings:
    mark = uuid.uuid4().hex[:8]
    topics = Topics(
        orders=f"orders-{mark}",
        products=f"products-{mark}",
        text_lines=f"text-lines-{mark}",
        word_counts_output=f"word-counts-output-{mark}",
    )
    partitions = {
        topics.orders: PARTITIONS,
        topics.products: 1,
        topics.text_lines: 1,
        topics.word_counts_output: 1,
    }
    kafka.create_topics(bootstrap, partitions)
    return replace(
        base_settings,
        kafka=replace(base_settings.kafka, bootstrap_servers=bootstrap, topics=topics),
        lake=replace(base_settings.lake, root=str(root)),
    )
