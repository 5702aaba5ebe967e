"""Loading is strict, later sources win, and a secret is never shown."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from pipeline import conf_files, settings
from pipeline.errors import ConfigurationError
from pipeline.settings import Settings, flattened

CHECKOUT = Path(__file__).parents[1]


def load(*overrides: str, env: str | None = None, folder: Path | None = None, **environ: str) -> Settings:
    return settings.load(env, overrides, environ, folder)


def refused(
    *overrides: str, env: str | None = None, folder: Path | None = None, **environ: str
) -> ConfigurationError:
    with pytest.raises(ConfigurationError) as caught:
        load(*overrides, env=env, folder=folder, **environ)
    return caught.value


@pytest.fixture
def overlay(tmp_path: Path) -> Path:
    """An overlay named `own` in a folder of its own; tests write to it."""
    return tmp_path / "own.yml"


def test_the_defaults_are_complete_and_safe() -> None:
    defaults = load()
    assert defaults.kafka.bootstrap_servers == "localhost:29092"
    assert defaults.speed.state_partitions is None
    assert defaults.elt.start_date == "2024-01-01"
    assert defaults.lake.root == str(Path.home() / ".pipeline" / "lake")
    assert defaults.spark.conf["spark.sql.session.timeZone"] == "UTC"
    assert defaults.spark.conf["spark.ui.enabled"] == "false"


@pytest.mark.parametrize("env", ["local", "cluster", "test"])
def test_every_shipped_overlay_loads(env: str) -> None:
    assert load(env=env) == load(PIPELINE_ENV=env)


def test_later_sources_win(overlay: Path) -> None:
    overlay.write_text("kafka: {topics: {orders: from-file, products: from-file, text_lines: from-file-too}}")
    loaded = load(
        "kafka.topics.orders=from-set",
        env="own",
        folder=overlay.parent,
        PIPELINE_KAFKA__TOPICS__ORDERS="from-variable",
        PIPELINE_KAFKA__TOPICS__PRODUCTS="from-variable",
    )
    topics = loaded.kafka.topics
    assert (topics.orders, topics.products, topics.text_lines) == (
        "from-set",
        "from-variable",
        "from-file-too",
    )
    assert topics.word_counts_output == "word-counts-output"
    assert loaded.origins["kafka.topics.orders"] == "--set kafka.topics.orders"
    assert loaded.origins["kafka.topics.products"] == "PIPELINE_KAFKA__TOPICS__PRODUCTS"
    assert loaded.origins["kafka.topics.text_lines"] == f"{overlay}:1"


def test_the_folder_can_come_from_a_variable(overlay: Path) -> None:
    overlay.write_text("lake: {root: /elsewhere}")
    assert load(PIPELINE_CONF=str(overlay.parent), PIPELINE_ENV="own").lake.root == "/elsewhere"


@pytest.mark.parametrize(
    ("override", "nearest"),
    [
        ("kafka.bootstrap_server=a:1", "kafka.bootstrap_servers"),
        ("bootstrap_servers=a:1", "kafka.bootstrap_servers"),
        ("kafka.topic.orders=o", "kafka.topics.orders"),
        ("lake.root.path=/x", "lake.root"),
        ("spark.config.spark.ui.enabled=true", "spark.conf"),
        ("ingset.trigger=1 second", "ingest.trigger"),
        ("qwxz=1", None),
    ],
)
def test_an_unknown_key_is_refused_and_the_nearest_named(override: str, nearest: str | None) -> None:
    error = refused(override)
    assert (error.key, error.nearest) == (override.partition("=")[0], nearest)


def test_an_unknown_key_in_a_file_is_refused_with_its_line(overlay: Path) -> None:
    overlay.write_text("lake:\n  root: /x\nkafka:\n  topics:\n    order: o\n")
    error = refused(env="own", folder=overlay.parent)
    assert (error.source, error.key, error.nearest) == (
        f"{overlay}:5",
        "kafka.topics.order",
        "kafka.topics.orders",
    )


def test_an_unknown_variable_is_refused() -> None:
    error = refused(PIPELINE_KAFKA_BOOTSTRAP_SERVERS="a:1")
    assert (error.source, error.nearest) == ("PIPELINE_KAFKA_BOOTSTRAP_SERVERS", "kafka.bootstrap_servers")
    assert "PIPELINE_KAFKA__BOOTSTRAP_SERVERS" in error.message


def test_variables_that_are_no_keys_are_left_alone() -> None:
    load(PIPELINE_IVY_SETTINGS="/x.xml", PIPELINE_ENV="", OTHER="1")


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("speed: {state_partitions: many}", "speed.state_partitions"),
        ("speed: {state_partitions: true}", "speed.state_partitions"),
        ("speed: {state_partitions: 0}", "speed.state_partitions"),
        ("elt: {start_date: yesterday}", "elt.start_date"),
        ("elt: {start_date: '2024-02-30'}", "elt.start_date"),
        ("elt: {start_date: 2024-01-01 10:00:00}", "elt.start_date"),
        ("elt: {overlap_days: -1}", "elt.overlap_days"),
        ("speed: {source: postgres}", "speed.source"),
        ("speed: {trigger: 1}", "speed.trigger"),
        ("speed: {trigger: soon}", "speed.trigger"),
        ("ingest: {max_offsets_per_trigger: null}", "ingest.max_offsets_per_trigger"),
        ("ingest: {max_offsets_per_trigger: 1.5}", "ingest.max_offsets_per_trigger"),
        ("kafka: {topics: {orders: 2024}}", "kafka.topics.orders"),
        ("kafka: {topics: {orders: a b}}", "kafka.topics.orders"),
        ("kafka: {topics: {orders: products}}", "kafka.topics.products"),
        ("kafka: {topics: orders}", "kafka.topics"),
        ("kafka: {bootstrap_servers: localhost}", "kafka.bootstrap_servers"),
        ("kafka: {bootstrap_servers: 'a:1,b:99999'}", "kafka.bootstrap_servers"),
        ("kafka: {options: {subscribe: x}}", "kafka.options.subscribe"),
        ("spark: {conf: {ui.enabled: true}}", "spark.conf.ui.enabled"),
        ("spark: {conf: {spark: {ui: true}}}", "spark.conf.spark"),
        ("devservices: {kafka_port: 70000}", "devservices.kafka_port"),
        ("lake: {root: '${HOME}/lake'}", "lake.root"),
        ("lake: {root: 'file:lake'}", "lake.root"),
    ],
)
def test_a_wrong_value_is_refused_with_file_and_key(overlay: Path, text: str, key: str) -> None:
    overlay.write_text(text)
    error = refused(env="own", folder=overlay.parent)
    assert error.key == key
    assert key in error.message
    assert key == "kafka.topics.products" or error.source == f"{overlay}:1"


@pytest.mark.parametrize(
    "text",
    [
        "lake: [",
        "lake:\n\troot: x",
        "lake: {root: &a /x}\nspark: {master: *a}",
        "lake: {root: !!python/object/apply:os.getcwd []}",
        "lake: {root: !own x}",
        "lake: {root: /a, root: /b}",
        "- lake",
        "1: x",
        "---\nlake: {root: /a}\n---\nlake: {root: /b}",
        "lake: {root: 2024-99-99}",
        "[" * 600,
    ],
)
def test_what_is_not_plain_yaml_is_refused_with_its_file(overlay: Path, text: str) -> None:
    overlay.write_text(text)
    error = refused(env="own", folder=overlay.parent)
    assert (error.source or "").startswith(str(overlay))


def test_bad_yaml_is_refused_with_its_line(overlay: Path) -> None:
    overlay.write_text("lake:\n  root: /x\n root: /y\n")
    assert refused(env="own", folder=overlay.parent).source == f"{overlay}:3"


def test_a_missing_environment_lists_those_there_are() -> None:
    error = refused(env="tset")
    assert error.nearest == "test"
    assert all(name in error.message for name in ("cluster", "local", "test"))


def test_an_environment_is_a_name_and_not_a_path(overlay: Path) -> None:
    overlay.write_text("lake: {root: /x}")
    refused(env="../own", folder=overlay.parent)
    refused(env="base")


def test_spark_options_are_one_key_after_conf() -> None:
    loaded = load(
        "spark.conf.spark.sql.shuffle.partitions=4",
        PIPELINE_SPARK__CONF="{spark.ui.enabled: null, spark.a: true, spark.b: 2}",
    )
    conf = loaded.spark.conf
    assert (conf["spark.sql.shuffle.partitions"], conf["spark.a"], conf["spark.b"]) == ("4", "true", "2")
    assert "spark.ui.enabled" not in conf
    assert "spark.conf.spark.ui.enabled" not in loaded.origins


def test_brokers_may_be_a_list_or_separated_by_commas(overlay: Path) -> None:
    overlay.write_text("kafka: {bootstrap_servers: ['a:1', 'b.c-d:2', '[::1]:3']}")
    assert load(env="own", folder=overlay.parent).kafka.bootstrap_servers == "a:1,b.c-d:2,[::1]:3"
    assert load("kafka.bootstrap_servers=a:1, b:2").kafka.bootstrap_servers == "a:1,b:2"


@pytest.mark.parametrize(
    ("root", "loaded"),
    [
        ("~/lake", str(Path.home() / "lake")),
        ("data/lake", str(Path.cwd() / "data" / "lake")),
        ("/data/lake", "/data/lake"),
        ("file:///data/lake/", "file:///data/lake"),
        ("s3a://bucket/lake", "s3a://bucket/lake"),
        ("hdfs:///", "hdfs:///"),
    ],
)
def test_the_lake_is_a_url_or_an_absolute_path(root: str, loaded: str) -> None:
    assert load(f"lake.root={root}").lake.root == loaded


def test_secrets_come_from_variables_and_files_and_are_masked(tmp_path: Path) -> None:
    (tmp_path / "pw").write_text("from-file\n")
    loaded = load(
        "spark.master=spark://${env:HOST_SECRET}:7077",
        f"kafka.options.kafka.ssl.key=${{file:{tmp_path}/pw}}",
        "lake.root=s3a://user:${env:BUCKET_SECRET}@bucket/lake",
        HOST_SECRET="from-variable",
        BUCKET_SECRET="hunter3",
        PIPELINE_KAFKA__OPTIONS="{kafka.sasl.jaas.config: hunter2}",
    )
    assert loaded.spark.master == "spark://from-variable:7077"
    assert loaded.kafka.options["kafka.ssl.key"] == "from-file"
    assert loaded.lake.root == "s3a://user:hunter3@bucket/lake"
    shown = repr(loaded) + repr(flattened(loaded))
    assert not any(secret in shown for secret in ("from-variable", "from-file", "hunter"))
    assert flattened(loaded)["spark.master"] == "spark://********:7077"


@pytest.mark.parametrize(
    "setting",
    [
        'kafka.options.kafka.sasl.jaas.config=x.ScramLoginModule required username="me" password="hunter2";',
        "kafka.options.kafka.ssl.keystore.password=hunter2",
        "kafka.options.kafka.ssl.keystore.key=-----BEGIN PRIVATE KEY----- hunter2",
        "kafka.options.kafka.ssl.truststore.location=/x?password=hunter2",
        "postgres.source_url=postgresql://me:hunter2@host/shop",
        "postgres.source_url=postgresql://me:hunt/er2@host/shop",
        "postgres.warehouse_url=postgresql://me@host/shop?password=hunter2",
        "postgres.warehouse_url=postgresql://me:${env:P}hunter2@host/shop",
        "alerts.token=hunter2",
        "alerts.webhook_url=https://hooks.slack.com/services/hunter2",
        "lineage.url=https://hooks.slack.com/services/hunter2",
        "lineage.url=https://me:hunter2@host/",
        "serve.token=hunter2",
        "lake.root=s3a://me:hunter2@bucket/lake",
        "spark.conf.spark.hadoop.fs.s3a.secret.key=hunter2",
        "spark.conf.spark.hadoop.fs.s3a.access.key=hunter2",
        "spark.conf.spark.hadoop.fs.azure.account.key.me.dfs.core.windows.net=hunter2",
        "spark.conf.spark.ssl.keyPassword=hunter2",
        "spark.conf.spark.authenticate.secret=hunter2",
        "spark.conf.spark.executor.extraJavaOptions=-Dx.trustStorePassword=hunter2",
        "spark.conf.spark.executor.extraJavaOptions=-Dx.trustStorePassword=${env:P}",
    ],
)
def test_a_secret_that_stands_there_as_itself_is_refused_and_not_shown(setting: str, overlay: Path) -> None:
    key, _, value = setting.partition("=")
    parts = key.split(".", 2 if key.startswith(("kafka.options", "spark.conf")) else -1)
    tree: object = value
    for part in reversed(parts):
        tree = {part: tree}
    overlay.write_text(json.dumps(tree))
    for error in (refused(setting, P="hunter2"), refused(env="own", folder=overlay.parent, P="hunter2")):
        assert error.key == key
        assert "hunt" not in error.message
        assert error.source in (f"--set {key}", f"{overlay}:1")


@pytest.mark.parametrize(
    "setting",
    [
        "spark.conf.spark.hadoop.fs.s3a.aws.credentials.provider=org.example.Provider",
        "spark.conf.spark.security.credentials.kafka.enabled=false",
        "spark.conf.spark.kubernetes.driver.secretKeyRef.PASSWORD=name:key",
        "spark.conf.spark.authenticate.secret.file=/run/secret",
        "kafka.options.kafka.sasl.oauthbearer.token.endpoint.url=https://host/token",
        "kafka.options.kafka.ssl.keystore.location=/etc/kafka/client.p12",
        "postgres.source_url=postgresql://me@host/shop?passfile=/run/pgpass",
        "postgres.source_url=postgresql://me:${env:P}@host/shop",
        'kafka.options.kafka.sasl.jaas.config=x.Y required username="me" password="${env:P}";',
        "alerts.token=",
        "serve.token=null",
    ],
)
def test_what_is_only_about_a_secret_may_be_written(setting: str) -> None:
    load(setting, P="hunter2")


def test_a_variable_may_hold_a_secret() -> None:
    loaded = load(PIPELINE_SERVE__TOKEN="hunter2", PIPELINE_SPARK__CONF="{spark.ssl.keyPassword: hunter2}")
    assert loaded.serve.token == "hunter2"
    assert "hunter" not in repr(loaded) + repr(flattened(loaded))


@pytest.mark.parametrize(
    ("given", "found"), [("true", True), ("false", False), ("yes", None), ("1", None), ("", None)]
)
def test_true_and_false_are_the_two(given: str, found: bool | None, overlay: Path) -> None:
    overlay.write_text(f"kafka: {{allow_plaintext: {given or 'null'}}}")
    if found is None:
        assert refused(f"kafka.allow_plaintext={given}").key == "kafka.allow_plaintext"
        if given != "yes":  # which YAML takes for true
            assert refused(env="own", folder=overlay.parent).key == "kafka.allow_plaintext"
    else:
        assert load(f"kafka.allow_plaintext={given}").kafka.allow_plaintext is found
        assert load(env="own", folder=overlay.parent).kafka.allow_plaintext is found


@pytest.mark.parametrize("password", ["hunter2", "hunt/er2", "hunter2@home", "hunter2:x"])
def test_the_password_of_a_database_is_masked(password: str) -> None:
    url = f"postgresql://me:{password}@host:5432/shop"
    told = refused(f"postgres.source_url={url}".replace("5432/shop", "x/shop")).message
    assert "hunt" not in told
    loaded = load("postgres.warehouse_url=postgresql://me:${env:P}@host/db", P="hunter2")
    assert loaded.postgres.warehouse_url == "postgresql://me:hunter2@host/db"
    assert "hunter" not in repr(loaded) + repr(flattened(loaded))


@pytest.mark.parametrize(
    "url",
    ["host", "mysql://me@host/shop", "postgresql://host", "postgresql:///shop", "postgresql://a,b:1/shop"],
)
def test_a_database_is_a_url_of_one_server(url: str) -> None:
    assert "postgresql://user" in refused(f"postgres.source_url={url}").message


def test_the_embedded_databases_are_the_default() -> None:
    defaults = load()
    assert defaults.postgres.source_url == (
        f"postgresql://pipeline@127.0.0.1:{defaults.devservices.postgres_port}/shop"
        f"?passfile={defaults.devservices.home}/postgres/pgpass"
    )


def test_a_secret_is_masked_in_the_error_about_it() -> None:
    assert "hunter" not in refused("kafka.bootstrap_servers=${env:X}", X="hunter2").message


@pytest.mark.parametrize(
    "value", ["${env:NOT_SET}", "${file:/does/not/exist}", "${file:relative}", "${evn:X}"]
)
def test_a_secret_that_is_not_there_is_refused(value: str) -> None:
    assert refused(f"lake.root={value}").key == "lake.root"


def test_a_secret_that_is_overridden_is_not_needed(overlay: Path) -> None:
    overlay.write_text("lake: {root: '${env:NOT_SET}'}")
    assert load("lake.root=/x", env="own", folder=overlay.parent).lake.root == "/x"


def test_a_base_without_a_key_is_refused(tmp_path: Path) -> None:
    base = (CHECKOUT / "conf" / "base.yml").read_text().replace("  trigger: 1 second  ", "  # ", 1)
    (tmp_path / "base.yml").write_text(base)
    assert refused(folder=tmp_path).key == "ingest.trigger"


def test_base_tells_about_every_key_once() -> None:
    document = conf_files.read(CHECKOUT / "conf" / "base.yml")
    named = {".".join(path) for path in document.lines}
    assert {key for key in flattened(load()) if key not in named} == set()


def test_the_shipped_files_are_found_inside_a_zipped_package(tmp_path: Path) -> None:
    wheel = tmp_path / "pipeline.zip"
    with zipfile.ZipFile(wheel, "w") as archive:
        package = CHECKOUT / "src" / "pipeline"
        for module in (*(package / "settings").glob("*.py"), *package.glob("*.py")):
            archive.write(module, f"pipeline/{module.relative_to(package)}")
        for file in (CHECKOUT / "conf").glob("*.yml"):
            archive.write(file, f"pipeline/conf/{file.name}")
    program = (
        f"import sys; sys.path.insert(0, {str(wheel)!r}); from pipeline import settings; "
        "print(settings.__file__); print(settings.load('test', environ={}).spark.master)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=tmp_path, check=False
    )
    assert done.stdout.splitlines() == [f"{wheel}/pipeline/settings/__init__.py", "local[2]"], done.stderr


def test_a_folder_without_base_builds_on_the_shipped_one(tmp_path: Path) -> None:
    shutil.copy(CHECKOUT / "conf" / "test.yml", tmp_path / "mine.yml")
    assert load(env="mine", folder=tmp_path) == load(env="test")


@pytest.mark.parametrize(
    ("key", "text"),
    [
        ("kafka.options.kafka.ssl.key.password", "kafka: {options: {kafka.ssl.key.password: 271828}}"),
        ("spark.conf.spark.authenticate.secret", "spark: {conf: {spark.authenticate.secret: 271828}}"),
        ("alerts.token", "alerts: {token: 271828}"),
    ],
)
def test_a_secret_of_digits_is_one(key: str, text: str, overlay: Path) -> None:
    overlay.write_text(text)
    error = refused(env="own", folder=overlay.parent)
    assert error.key == key
    assert "271828" not in error.message


def test_a_variable_may_hold_a_secret_of_digits() -> None:
    loaded = load(PIPELINE_SPARK__CONF="{spark.authenticate.secret: 271828}")
    assert loaded.spark.conf["spark.authenticate.secret"] == "271828"
    assert "271828" not in repr(loaded) + repr(flattened(loaded))


def test_what_is_only_about_a_secret_is_shown() -> None:
    loaded = load(
        "spark.conf.spark.security.credentials.kafka.enabled=false",
        "spark.conf.spark.authenticate.secretBitLength=256",
    )
    assert "Secret" not in {type(value).__name__ for value in loaded.spark.conf.values()}
