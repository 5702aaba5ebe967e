"""A broker that is secured, for real: who has the rights gets in, with no more than those; everybody else is told why not."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import pytest
from pyspark.sql import SparkSession

from lake import Sent, at, fresh, on_kafka, order, send
from pipeline import audit, cli, ingest, kafka_check, kafka_login, speed
from pipeline.devservices import kafka
from pipeline.errors import ConfigurationError, DependencyError, KafkaRefused, TopicMissing
from pipeline.events import OrderProducer, consume
from pipeline.settings import Settings
from pipeline.standing import ask_kafka
from pipeline.tables import RAW_EVENTS, table_path, view_path
from secured import Secured
from story import send_and_abort

pytestmark = pytest.mark.kafka

ROOT = Path(__file__).parents[1]
TOPICS = {"orders": 1, "products": 1, "text-lines": 1, "word-counts-output": 1}


@pytest.fixture(scope="module")
def broker(secured_kafka: Secured) -> Secured:
    """The users are called as the jobs, and have the rights of the page."""
    kafka.create_topics(secured_kafka.plain, TOPICS)
    for job, rights in rights_of_the_page().items():
        secured_kafka.know(job)
        secured_kafka.grant(job, rights)
    secured_kafka.grant("client", rights_of_the_page()["ingest"])
    return secured_kafka


def rights_of_the_page() -> dict[str, list[tuple[str, str]]]:
    """The rights by job, as operation and topic (or `group:` and its name), of the table in docs/security.md."""
    page = (ROOT / "docs" / "security.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+)` \| ((?:[A-Z_]+ [`\w, :-]+;? ?)+) \|", page, flags=re.MULTILINE)
    return {
        job: [
            (operation, name)
            for operation, names in re.findall(r"([A-Z_]+) ((?:`[\w:-]+`(?:, )?)+)", rights)
            for name in re.findall(r"`([\w:-]+)`", names)
        ]
        for job, rights in rows
    }


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., int]:
    """A command on a broker with these options; the exit code. Where Spark would start, it ends with 99."""

    def no_session(_: Settings) -> SparkSession:
        raise SystemExit(99)

    def command(*words: str, servers: str, options: Mapping[str, str], **environ: str) -> int:
        for module in (ingest, speed):
            monkeypatch.setattr(module, "session", no_session)
        monkeypatch.setenv("PIPELINE_KAFKA__BOOTSTRAP_SERVERS", servers)
        monkeypatch.setenv("PIPELINE_KAFKA__OPTIONS", json.dumps(dict(options)))
        for name, value in environ.items():
            monkeypatch.setenv(name, value)
        return cli.main([*words, "--set=speed.source=kafka", f"--set=lake.root={tmp_path}/lake"])

    return command


@pytest.mark.parametrize(
    ("how", "told"),
    [
        (lambda one: (one.at(), one.as_user("ingest", "not-this-one")), "login is wrong"),
        (lambda one: (one.at(), one.as_user("nobody")), "login is wrong"),
        (lambda one: (one.at(), one.as_user("ingest", authority="unknown")), "unable to get local issuer"),
        (lambda one: (one.at("OTHERNAME"), one.as_user("ingest")), "not valid for '127.0.0.1'"),
        (lambda one: (one.at("EXPIRED"), one.as_user("ingest")), "certificate has expired"),
        (lambda one: (one.at(), {}), "plain text is not taken"),
        (lambda one: (one.plain, one.as_user("ingest")), "does not speak TLS"),
        (lambda one: (one.at("CERTIFICATE"), one.by_certificate("stranger")), "does not accept our certificate"),
        (
            lambda one: (one.at("CERTIFICATE"), {**one.as_user("ingest"), "kafka.security.protocol": "SSL"}),
            "does not accept our certificate",
        ),
    ],
    ids=["password", "user", "authority", "name", "expired", "plain", "tls-to-plain", "stranger", "no-certificate"],
)  # fmt: skip
def test_who_is_not_let_in_is_told_why_before_spark_starts(
    how: Callable[[Secured], tuple[str, dict[str, str]]],
    told: str,
    broker: Secured,
    run: Callable[..., int],
    capsys: pytest.CaptureFixture[str],
) -> None:
    servers, options = how(broker)
    assert run("ingest", "--once", servers=servers, options=options) == KafkaRefused.exit_code
    captured = capsys.readouterr()
    assert told in captured.err
    assert servers in captured.err
    assert "pass-of-" not in captured.err


@pytest.mark.parametrize(
    "options",
    [
        lambda one: one.as_user("ingest"),
        lambda one: one.by_certificate("client"),
        lambda one: one.by_certificate("client", kind="PKCS12"),
    ],
)
def test_who_has_the_rights_of_the_page_is_let_in(
    options: Callable[[Secured], dict[str, str]], broker: Secured, run: Callable[..., int]
) -> None:
    given = options(broker)
    listener = "CERTIFICATE" if given["kafka.security.protocol"] == "SSL" else "SCRAM"
    assert run("ingest", "--once", servers=broker.at(listener), options=given) == 99


@pytest.mark.parametrize("job", ["ingest", "speed"])
def test_each_right_of_the_page_is_needed(job: str, broker: Secured, run: Callable[..., int]) -> None:
    rights = rights_of_the_page()[job]
    assert run(job, "--once", servers=broker.at(), options=broker.as_user(job)) == 99
    for left_out in rights:
        poorer = f"{job}-without-{'-'.join(left_out)}"
        broker.know(poorer)
        broker.grant(poorer, [right for right in rights if right != left_out])
        assert run(job, "--once", servers=broker.at(), options=broker.as_user(poorer)) == 3
        # Who may see the topic is told which right is missing.
        broker.grant(poorer, [("DESCRIBE", left_out[1])])
        with pytest.raises(KafkaRefused, match=left_out[0]):
            kafka_check.require_topics(
                broker.at(),
                [name for _, name in rights],
                options=broker.as_user(poorer),
                written=["word-counts-output"],
            )


def test_services_publish_and_consume_with_the_rights_of_the_page(broker: Secured) -> None:
    event = {
        "event_type": "order_created",
        "order_id": "o1",
        "customer_id": "c1",
        "total": "1.00",
        "timestamp": "2026-01-01T00:00:00Z",
    }
    with OrderProducer(broker.at(), options=broker.as_user("publish")) as producer:
        producer.publish(event)
    import threading

    stop = threading.Event()
    handled = consume(
        broker.at(),
        group="billing",
        on_created=lambda _: stop.set(),
        on_cancelled=print,
        stop=stop,
        options=broker.as_user("consume"),
    )
    assert handled.created == 1
    with pytest.raises(DependencyError):
        consume(
            broker.at(),
            group="another",
            on_created=print,
            on_cancelled=print,
            stop=threading.Event(),
            options=broker.as_user("consume"),
        )


@pytest.mark.parametrize("protocol", ["PLAINTEXT", "SASL_PLAINTEXT"])
def test_plain_text_over_a_network_must_be_allowed(
    protocol: str,
    run: Callable[..., int],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    away = {"servers": "192.0.2.1:9092,localhost:1", "options": {"kafka.security.protocol": protocol}}
    for command in ("ingest", "speed", "generate"):
        assert run(command, **away) == ConfigurationError.exit_code
        told = capsys.readouterr().err
        assert "kafka.allow_plaintext" in told
        assert "192.0.2.1:9092" in told
    for module in (ingest, speed):
        monkeypatch.setattr(module, "require_topics", lambda *_, **__: None)
    assert run("ingest", **away, PIPELINE_KAFKA__ALLOW_PLAINTEXT="true") == 99
    with pytest.raises(ConfigurationError):
        OrderProducer("192.0.2.1:9092")
    with pytest.raises(ConfigurationError):
        consume("192.0.2.1:9092", group="g", on_created=print, on_cancelled=print)


@pytest.mark.parametrize("servers", ["localhost:1", "127.0.0.1:1,127.8.9.1:2", "[::1]:1"])
def test_plain_text_on_this_machine_needs_no_leave(servers: str) -> None:
    kafka_login.require_encryption(servers, {}, is_plaintext_allowed=False)


def test_a_secured_broker_is_read_and_written_by_every_job(
    spark: SparkSession, base_settings: Settings, broker: Secured, tmp_path: Path
) -> None:
    plain = fresh(base_settings, broker.plain, tmp_path / "lake")
    topics = plain.kafka.topics
    named = {
        "orders": topics.orders,
        "products": topics.products,
        "text-lines": topics.text_lines,
        "word-counts-output": topics.word_counts_output,
    }
    rights = rights_of_the_page()
    for job in ("ingest", "speed", "audit", "status"):
        broker.grant(job, [(operation, named[of]) for operation, of in rights[job]])
    broker.grant("client", [(operation, named[of]) for operation, of in rights["ingest"]])

    def as_(options: Mapping[str, str], listener: str = "SCRAM") -> Settings:
        kafka = replace(plain.kafka, bootstrap_servers=broker.at(listener), options=options)
        return replace(plain, kafka=kafka)

    send(plain, [order("one", time=at(0)), order("two", time=at(1)), Sent(b"to be", kind="text-lines")])
    send_and_abort(plain, [order("aborted", time=at(3))])
    ingest.run(as_(broker.as_user("ingest")), once=True)
    send(plain, [order("three", time=at(2))])
    ingest.run(as_(broker.by_certificate("client"), "CERTIFICATE"), once=True)
    speed.run(on_kafka(as_(broker.as_user("speed"))), views=["word_counts"], once=True)

    assert spark.read.format("delta").load(table_path(plain.lake.root, RAW_EVENTS)).count() == 4
    words = spark.read.format("delta").load(view_path(plain.lake.root, "word_counts", "speed", 1))
    assert words.count() == 2
    known = ask_kafka(None, as_(broker.as_user("status")))
    assert known.silence is None
    assert known.retention_ms
    accounts = audit.run(as_(broker.as_user("audit")))
    assert not accounts.faults
    assert sum(one.gaps for one in accounts.partitions) > 0
    refused = ask_kafka(None, as_(broker.as_user("status", "not-this-one")))
    assert refused.silence
    assert "login is wrong" in refused.silence


# --- the one place that translates


JAAS = "org.apache.kafka.common.security.{} required username={} password={};"


@pytest.mark.parametrize(
    ("jaas", "credentials"),
    [
        (JAAS.format("scram.ScramLoginModule", '"me"', '"a;b=\\"c\\\\ d"'), ("me", 'a;b="c\\ d')),
        (JAAS.format("plain.PlainLoginModule", "me", "secret"), ("me", "secret")),
        ('  x.ScramLoginModule  required\n  password = "p"\n  username="u" ; ', ("u", "p")),
    ],
)
def test_a_login_of_java_is_one_of_librdkafka(jaas: str, credentials: tuple[str, str]) -> None:
    given = {
        "kafka.security.protocol": "SASL_SSL",
        "kafka.sasl.mechanism": "SCRAM-SHA-512",
        "kafka.sasl.jaas.config": jaas,
        "kafka.request.timeout.ms": "1",
    }
    assert kafka_login.client_options({**given, "client.id": "mine"}) == {
        "security.protocol": "SASL_SSL",
        "sasl.mechanism": "SCRAM-SHA-512",
        "sasl.username": credentials[0],
        "sasl.password": credentials[1],
        "ssl.endpoint.identification.algorithm": "https",
        "client.id": "mine",
    }


@pytest.mark.parametrize(
    "jaas",
    [
        "",
        "hunter2",
        'x.ScramLoginModule required username="u" password="hunter2"',
        'x.ScramLoginModule required username="u";',
        'com.sun.security.auth.module.Krb5LoginModule required username="u" password="hunter2";',
        'x.ScramLoginModule required username="u" password="hunter2"; y.Other required;',
    ],
)
def test_a_login_that_java_would_not_take_is_refused_and_not_shown(jaas: str) -> None:
    given = {
        "kafka.security.protocol": "SASL_SSL",
        "kafka.sasl.mechanism": "PLAIN",
        "kafka.sasl.jaas.config": jaas,
    }
    with pytest.raises(ConfigurationError) as caught:
        kafka_login.client_options(given)
    assert caught.value.key == "kafka.options.kafka.sasl.jaas.config"
    assert "hunter2" not in caught.value.message


@pytest.mark.parametrize("kind", ["JKS", "PKCS12"])
def test_a_truststore_of_java_is_read(kind: str, broker: Secured, tmp_path: Path) -> None:
    import subprocess

    store = tmp_path / "trust"
    command = [
        "keytool",
        "-importcert",
        "-noprompt",
        "-alias",
        "ca",
        "-storetype",
        kind,
        "-keystore",
        str(store),
    ]
    subprocess.run(
        [*command, "-storepass", "changeit", "-file", str(broker.home / "authority.pem")], check=True, capture_output=True
    )  # fmt: skip
    options = {
        **broker.as_user("ingest"),
        "kafka.ssl.truststore.type": kind,
        "kafka.ssl.truststore.location": str(store),
        "kafka.ssl.truststore.password": "changeit",
    }
    kafka_check.require_topics(broker.at(), ["orders"], options=options)
    with pytest.raises(ConfigurationError):
        kafka_login.client_options({**options, "kafka.ssl.truststore.password": "wrong!"})


def test_a_topic_that_is_hidden_is_said_to_be(broker: Secured) -> None:
    with pytest.raises(TopicMissing, match="may not describe"):
        kafka_check.require_topics(broker.at(), ["word-counts-output"], options=broker.as_user("ingest"))


def test_a_login_of_javas_alone_is_only_knocked_at() -> None:
    given = {"kafka.security.protocol": "SASL_SSL", "kafka.sasl.mechanism": "OAUTHBEARER"}
    assert not kafka_login.is_translatable(given)
    assert kafka_login.is_translatable({"security.protocol": "SASL_SSL", "sasl.mechanism": "OAUTHBEARER"})
