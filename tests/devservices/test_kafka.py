"""The embedded broker: a real process, real topics, real records."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient

from pipeline.devservices import kafka
from pipeline.errors import KafkaUnreachable, SetupError

pytestmark = pytest.mark.kafka


def test_starting_a_second_time_returns_the_running_broker(kafka_broker: kafka.Broker) -> None:
    assert kafka.start(kafka_broker.home, 0) == kafka_broker
    assert kafka.running(kafka_broker.home) == kafka_broker


def test_it_listens_on_loopback_only(kafka_broker: kafka.Broker) -> None:
    written = (kafka_broker.home / "server.properties").read_text()
    properties = dict(line.split("=", 1) for line in written.splitlines())
    listeners = [urlsplit(listener) for listener in properties["listeners"].split(",")]
    assert {listener.hostname for listener in listeners} == {"127.0.0.1"}
    for listener in listeners:
        # What listens on every address would answer here, too.
        with socket.socket() as other_address:
            assert other_address.connect_ex(("127.0.0.2", listener.port or 0)) != 0


def test_records_of_any_age_and_of_the_future_and_large_ones_get_in_and_stay(bootstrap: str) -> None:
    kafka.create_topics(bootstrap, {"old-and-new": 2})
    kafka.create_topics(bootstrap, {"old-and-new": 5})  # there already: stays as it is
    topics = AdminClient({"bootstrap.servers": bootstrap}).list_topics(timeout=10).topics
    assert len(topics["old-and-new"].partitions) == 2

    sent = [(b"old", 1_000), (b"future", 4_000_000_000_000), (b"x" * 2_000_000, 1_767_225_600_000)]
    producer = Producer({"bootstrap.servers": bootstrap, "message.max.bytes": 4_000_000})
    for value, timestamp_ms in sent:
        producer.produce("old-and-new", value, partition=1, timestamp=timestamp_ms)
    assert producer.flush(20) == 0

    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": "test"})
    consumer.assign([TopicPartition("old-and-new", 1, 0)])
    taken = consumer.consume(len(sent), timeout=20)
    consumer.close()
    assert [(message.value(), message.timestamp()[1]) for message in taken] == sent


def test_deleted_topics_are_gone_and_unknown_ones_do_not_matter(bootstrap: str) -> None:
    kafka.create_topics(bootstrap, {"doomed": 1})
    kafka.delete_topics(bootstrap, ["doomed", "never-there"])
    topics = AdminClient({"bootstrap.servers": bootstrap}).list_topics(timeout=10).topics
    assert "doomed" not in topics


def test_a_taken_port_is_named(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(SetupError, match=str(port)):
            kafka.start(tmp_path, port)
    assert kafka.running(tmp_path) is None


def test_what_a_dead_broker_left_is_removed(tmp_path: Path) -> None:
    state = tmp_path / "broker.json"
    for left_behind in (
        json.dumps({"bootstrap_servers": "127.0.0.1:1", "pid": os.getpid()}),
        "",
        '{"pid": 1',
    ):
        state.write_text(left_behind)
        assert kafka.running(tmp_path) is None
        assert not state.exists()
    assert kafka.stop(tmp_path) is False


def test_the_log_is_shown_when_it_does_not_come_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kafka, "_PROPERTIES", kafka._PROPERTIES + "num.io.threads=0\n")
    monkeypatch.setattr(kafka, "_format", lambda *_: None)
    with pytest.raises(SetupError, match=r"num\.io\.threads"):
        kafka.start(tmp_path, 0)
    assert kafka.running(tmp_path) is None


def test_no_broker_is_an_error_that_names_the_address(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kafka, "ADMIN_TIMEOUT_SECONDS", 1.0)
    with pytest.raises(KafkaUnreachable) as raised:
        kafka.create_topics("127.0.0.1:1", {"orders": 1})
    assert raised.value.bootstrap_servers == "127.0.0.1:1"
    assert "127.0.0.1:1" in raised.value.message


def test_data_survives_a_restart_and_stopping_twice_is_fine(tmp_path: Path) -> None:
    with kafka.broker(tmp_path) as first:
        kafka.create_topics(first.bootstrap_servers, {"kept": 1})
    assert kafka.running(tmp_path) is None
    with kafka.broker(tmp_path) as second:
        topics = AdminClient({"bootstrap.servers": second.bootstrap_servers}).list_topics(timeout=10).topics
        assert "kept" in topics
        assert kafka.stop(tmp_path) is True
        assert kafka.stop(tmp_path) is False
