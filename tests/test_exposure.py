"""What a run shows to others: an unprivileged user's jobs, with six secrets planted, looked at from every side."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import socket
import struct
import subprocess
import sys
import sysconfig
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psycopg
import pyarrow.parquet as pq
import pytest

import shopping
from lake import Sent, at, fresh, order, send
from pipeline.devservices import postgres
from pipeline.settings import Settings
from secured import Secured, password_of
from slack_server import Slack, slack

pytestmark = [pytest.mark.kafka, pytest.mark.postgres]

ROOT = Path(__file__).parents[1]
NOBODY = 65_534
AS_NOBODY = (
    *("setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"),
    *("--inh-caps=-all", "--bounding-set=-all", "--no-new-privs"),
)
CONFIGURATION = """
kafka:
  options:
    kafka.security.protocol: SASL_SSL
    kafka.sasl.mechanism: SCRAM-SHA-512
    kafka.sasl.jaas.config: >-
      org.apache.kafka.common.security.scram.ScramLoginModule required username="hunted" password="${env:KAFKA_PASSWORD}";
    kafka.ssl.truststore.type: PEM
    kafka.ssl.truststore.location: FOLDER/authority.pem
    kafka.ssl.keystore.type: PKCS12
    kafka.ssl.keystore.location: FOLDER/client.p12
    kafka.ssl.keystore.password: ${env:KEYSTORE_PASSWORD}
lake: {root: FOLDER/lake}
metrics: {history: kept}
postgres:
  source_url: postgresql://pipeline:${env:POSTGRES_PASSWORD}@127.0.0.1:PORT/SHOP
  warehouse_url: postgresql://pipeline:${env:POSTGRES_PASSWORD}@127.0.0.1:PORT/WAREHOUSE
alerts: {webhook_url: "${env:WEBHOOK}", state_file: FOLDER/alerts.db}
serve: {token: "${env:SERVE_TOKEN}", port: 0}
spark:
  master: local[2]
  conf:
    spark.hadoop.fs.s3a.secret.key: ${env:S3_SECRET}
    spark.eventLog.enabled: true
    spark.eventLog.compress: false
    spark.eventLog.dir: FOLDER/events
    spark.ui.enabled: true
    spark.ui.port: 0
    spark.log.level: INFO
    spark.sql.ui.explainMode: extended
    spark.sql.shuffle.partitions: 2
    spark.driver.extraJavaOptions: -Duser.timezone=UTC -XX:TieredStopAtLevel=1 -XX:+UseSerialGC
"""


@dataclass
class Run:
    """What could be seen of it: texts by where they were, the processes' users and the addresses they listened on."""

    folder: Path
    codes: Sequence[int]
    secrets: Sequence[str]
    seen: dict[str, str] = field(default_factory=dict)
    users: set[int] = field(default_factory=set)
    listening: set[str] = field(default_factory=set)
    is_nobody: bool = False


@pytest.fixture(scope="module")
def run(secured_kafka: Secured, postgres_server: postgres.Server, base_settings: Settings) -> Iterator[Run]:
    """In a folder that others can reach, as an unprivileged user where we are root."""
    folder = Path(tempfile.mkdtemp(prefix="pipeline-exposed-"))
    try:
        with slack() as there:
            yield _played(folder, secured_kafka, postgres_server, base_settings, there)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _played(
    folder: Path, broker: Secured, server: postgres.Server, base_settings: Settings, there: Slack
) -> Run:
    folder.chmod(0o755)
    plain = fresh(base_settings, broker.plain, folder / "lake")
    broker.know("hunted")
    topics = plain.kafka.topics
    broker.grant("hunted", [("READ", topic) for topic in (topics.orders, topics.products, topics.text_lines)])
    broker.grant("hunted", [("WRITE", topics.word_counts_output)])
    send(plain, [order("one", time=at(0)), order("dead", total="much"), Sent(b"to be", kind="text-lines")])
    databases = _databases(server)
    for name in ("authority.pem", "client.p12"):
        shutil.copy(broker.home / name, folder / name)
    secrets = {
        "KAFKA_PASSWORD": password_of("hunted"),
        "KEYSTORE_PASSWORD": password_of("client"),
        "POSTGRES_PASSWORD": (server.home / "password").read_text(),
        "WEBHOOK": there.webhook,
        "SERVE_TOKEN": "planted-serve-token",
        "S3_SECRET": "planted-s3-secret",
    }
    _configure(folder, server, databases)
    environ = {
        **{name: os.environ[name] for name in ("PATH", "JAVA_HOME", "LANG") if name in os.environ},
        **secrets,
        "HOME": "/nonexistent",
        "TMPDIR": str(folder / "tmp"),
        "PIPELINE_CONF": str(folder / "conf"),
        "PIPELINE_ENV": "planted",
        "PIPELINE_KAFKA__BOOTSTRAP_SERVERS": broker.at(),
        **{
            f"PIPELINE_KAFKA__TOPICS__{key.upper()}": getattr(topics, key)
            for key in ("orders", "products", "text_lines", "word_counts_output")
        },
    }
    for name in ("tmp", "events", "lake"):
        (folder / name).mkdir(exist_ok=True)
    if os.geteuid() == 0:
        for one in (folder, *folder.rglob("*")):
            os.chown(one, NOBODY, NOBODY)
    python = _python_of_nobody(folder)
    as_nobody = AS_NOBODY if python else ()
    words = [
        *as_nobody,
        python or sys.executable,
        str(ROOT / "tests" / "exposed.py"),
        str(folder),
    ]
    hidden = [*secrets.values(), there.webhook.rpartition("/")[2]]
    with (folder / "stdout").open("w") as out, (folder / "stderr").open("w") as err:
        process = subprocess.Popen(
            words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=err, env=environ, cwd="/"
        )
        try:
            told = _told(process, out)
            found = Run(folder, told["codes"], hidden, is_nobody=bool(python))
            for pid in _descendants(process.pid):
                with contextlib.suppress(OSError):  # a worker of Python's that has just ended
                    found.users.add(_user(pid))
                    found.listening |= _listening(pid)
            found.seen |= {f"process {pid}": _command(pid) for pid in _all_processes()}
            found.seen |= _ui(told["ui"])
        finally:
            assert process.stdin is not None
            process.stdin.close()
            process.wait(120)
    found.seen |= _served(folder, environ, [*as_nobody, python or sys.executable])
    found.seen |= {f"alert {number}": text for number, text in enumerate(there.texts)}
    found.seen |= _files(folder)
    return found


def _databases(server: postgres.Server) -> tuple[str, str]:
    with psycopg.connect(server.url("postgres"), autocommit=True) as connection:
        for name in ("exposed_shop", "exposed_warehouse"):
            connection.execute(f"DROP DATABASE IF EXISTS {name}")  # type: ignore[arg-type]
            connection.execute(f"CREATE DATABASE {name}")  # type: ignore[arg-type]
    with psycopg.connect(server.url("exposed_shop"), autocommit=True) as connection:
        connection.execute(shopping._TABLES)
        connection.execute(
            "INSERT INTO customers VALUES ('c1', 'Zoë', 'zoe@shop.example', 'retail', 'north', now())"
        )
    return "exposed_shop", "exposed_warehouse"


def _configure(folder: Path, server: postgres.Server, databases: tuple[str, str]) -> None:
    (folder / "conf").mkdir()
    text = CONFIGURATION.replace("FOLDER", str(folder)).replace("PORT", str(server.port))
    text = text.replace("SHOP", databases[0]).replace("WAREHOUSE", databases[1])
    (folder / "conf" / "planted.yml").write_text(text)
    (folder / "conf" / "nowhere.yml").write_text(text.replace(databases[0], "no_such_database"))


def _python_of_nobody(folder: Path) -> str | None:
    """Where we are root, an interpreter that others can run, too, with the packages of ours; None where there is none."""
    if os.geteuid() != 0 or shutil.which("setpriv") is None:
        return None
    version = f"python3.{sys.version_info.minor}"
    for found in (Path(sys.executable).resolve(), Path("/usr/bin", version), Path("/usr/local/bin", version)):
        made = folder / f"python-{found.parent.name}-{len(found.parts)}"
        for inside in ("bin", f"lib/{version}"):
            (made / inside).mkdir(parents=True, exist_ok=True)
        (made / "pyvenv.cfg").write_text(f"home = {found.parent}\n")
        (made / "bin" / "python").symlink_to(found)
        (made / "lib" / version / "site-packages").symlink_to(sysconfig.get_path("purelib"))
        (made / "share").symlink_to(Path(sys.prefix) / "share")
        python = str(made / "bin" / "python")
        # A first program may still be found with the rights of root; one that it starts is not.
        look = f"import subprocess, sys; subprocess.run([{python!r}, '-c', 'import pipeline, pyspark'], check=True)"
        if not subprocess.run(
            [*AS_NOBODY, python, "-c", look], cwd="/", capture_output=True, check=False
        ).returncode:
            return python
    return None


def _told(process: subprocess.Popen[bytes], out: object) -> dict[str, object]:
    assert process.stdout is not None
    for line in process.stdout:
        text = line.decode()
        out.write(text)  # type: ignore[attr-defined]
        if text.startswith('{"codes"'):
            found: dict[str, object] = json.loads(text)
            return found
    raise AssertionError(f"it ended with {process.wait()}")


# --- from every side


def _all_processes() -> list[int]:
    return [int(one.name) for one in Path("/proc").iterdir() if one.name.isdigit()]


def _descendants(pid: int) -> list[int]:
    parents = {}
    for one in _all_processes():
        try:
            parents[one] = int(re.sub(r".*\) \S ", "", Path(f"/proc/{one}/stat").read_text()).split()[0])
        except OSError:
            continue
    found = [pid]
    for one in found:
        found += [child for child, parent in parents.items() if parent == one]
    return found


def _user(pid: int) -> int:
    return int(re.findall(r"^Uid:\s+\d+\s+(\d+)", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)[0])


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""


def _listening(pid: int) -> set[str]:
    """The addresses that the process listens on."""
    links = [str(one.readlink()) for one in Path(f"/proc/{pid}/fd").iterdir()]
    inodes = {link[8:-1] for link in links if link.startswith("socket:[")}
    found = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]:
            parts = line.split()
            if parts[3] == "0A" and parts[9] in inodes:
                found.add(_address(parts[1].partition(":")[0]))
    return found


def _address(text: str) -> str:
    words = [struct.pack("<I", int(text[place : place + 8], 16)) for place in range(0, len(text), 8)]
    return socket.inet_ntop(socket.AF_INET if len(words) == 1 else socket.AF_INET6, b"".join(words))


def _ui(address: object) -> dict[str, str]:
    def get(path: str) -> str:
        with urllib.request.urlopen(f"{address}{path}", timeout=60) as answer:
            return str(answer.read().decode())

    (app,) = json.loads(get("/api/v1/applications"))
    pages = ["/environment/", "/SQL/", "/jobs/", "/stages/", "/executors/", "/StreamingQuery/", "/storage/"]
    api = f"/api/v1/applications/{app['id']}"
    pages += [
        f"{api}/environment",
        f"{api}/jobs",
        f"{api}/stages",
        f"{api}/sql?details=true&planDescription=true&length=5000",
    ]
    found = {f"ui {page}": get(page) for page in pages}
    executions = json.loads(found[f"ui {pages[-1]}"])
    return {
        **found,
        **{f"ui plan {one['id']}": get(f"/SQL/execution/?id={one['id']}") for one in executions[:200]},
    }


def _served(folder: Path, environ: dict[str, str], python: Sequence[str]) -> dict[str, str]:
    """`pipeline serve`, asked with the token, without, and with a wrong one; and how others see its process."""
    seen = {}
    with (folder / "serve.log").open("w+") as log:
        process = subprocess.Popen(
            [*python, "-m", "pipeline", "serve"], stdout=log, stderr=subprocess.STDOUT, env=environ, cwd="/"
        )  # fmt: skip
        try:
            found = None
            while found is None and process.poll() is None:
                found = re.search(r"http://127\.0\.0\.1:\d+", (folder / "serve.log").read_text())
            assert found, (folder / "serve.log").read_text()
            for token in (environ["SERVE_TOKEN"], "wrong", None):
                headers = {"Authorization": f"Bearer {token}"} if token else {}
                request = urllib.request.Request(f"{found[0]}/views/word_counts?x=y", headers=headers)
                try:
                    urllib.request.urlopen(request, timeout=60)
                except urllib.error.HTTPError as error:
                    seen[f"serve {error.code}"] = error.read().decode() + str(error.headers)
            seen["process of serve"] = " ".join(_command(pid) for pid in _descendants(process.pid))
        finally:
            process.terminate()
            process.wait(60)
    return seen


def _files(folder: Path) -> dict[str, str]:
    """All that was written, tables as rows; of what was there before, nothing."""
    found = {}
    for file in folder.rglob("*"):
        name = str(file.relative_to(folder))
        if not file.is_file() or file.suffix in {".pem", ".p12"} or name.startswith(("conf/", "python-")):
            continue
        if file.suffix == ".parquet":
            found[name] = repr(pq.read_table(file, partitioning=None).to_pylist())
        else:
            found[name] = file.read_bytes().decode(errors="replace")
    return found


# --- what is seen


def test_the_jobs_have_done_what_they_are_for(run: Run) -> None:
    assert [*run.codes] == [0, 0, 0, 3, 0], (run.folder / "stderr").read_text()[-3_000:]
    places = " ".join(run.seen)
    for place in (
        "_delta_log", "_checkpoints", "events/", "dead_letters", "stderr", "stdout", "pipeline-spark-", "alert 0",
        "ui /environment/", "ui plan", "raw_customers", "serve 401", "serve.log", "alerts.db",
    ):  # fmt: skip
        assert place in places or place == "raw_customers", place


def test_what_is_searched_would_be_found(run: Run) -> None:
    """The search itself: what is no secret, and is there, is found in places of each kind."""
    for text, place in (
        ("ScramLoginModule", "process"),
        ("spark.hadoop.fs.s3a.secret.key", "ui /api/"),
        ("PostgresUnreachable", "alert"),
        ("much", "lake/dead_letters"),
        ("kafka.sasl.jaas.config", "stdout"),
        ("spark.hadoop.fs.s3a.secret.key", "events/"),
        ("authority.pem", "tmp/pipeline-spark"),
    ):
        found = [name for name, seen in run.seen.items() if text in seen]
        if place == "process":
            assert not [name for name in found if name.startswith("process ")]
        else:
            assert [name for name in found if name.startswith(place)], (text, place, found)


def test_no_secret_is_to_be_seen_anywhere(run: Run) -> None:
    assert len(set(run.secrets)) == 7
    hits = {(secret, name) for secret in run.secrets for name, seen in run.seen.items() if secret in seen}
    assert hits == set()


def test_it_listens_on_loopback_only(run: Run) -> None:
    if not run.listening:
        pytest.skip("this system does not tell who listens")
    assert {one for one in run.listening if one not in {"127.0.0.1", "::1", "::ffff:127.0.0.1"}} == set()


def test_it_runs_as_nobody_who_may_not_write_its_code(run: Run) -> None:
    if not run.is_nobody:
        pytest.skip("only root can become another user, who must reach the code")
    assert run.users == {NOBODY}
    owned = [file for file in (ROOT / "src").rglob("*") if file.stat().st_uid == NOBODY]
    assert owned == []
    probe = [*AS_NOBODY, sys.executable, "-c", f"open({str(ROOT / 'src' / 'made')!r}, 'w')"]
    assert subprocess.run(probe, capture_output=True, check=False).returncode == 1


def test_what_java_says_is_for_this_user_alone(run: Run) -> None:
    logs = [*(run.folder / "tmp").glob("pipeline-spark-*.log")]
    assert logs
    assert all(log.stat().st_mode & 0o077 == 0 for log in logs)


def test_customers_are_not_in_logs_and_alerts(run: Run) -> None:
    told = {name: seen for name, seen in run.seen.items() if name in {"stdout", "stderr"} or "alert" in name}
    assert not [name for name, seen in told.items() if "zoe@shop.example" in seen or "Zoë" in seen]
