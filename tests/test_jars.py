"""Jars are used only when they are, byte for byte, those of the lock."""

from __future__ import annotations

import hashlib
import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest
from pyspark.sql import SparkSession

from pipeline import jars
from pipeline.errors import SetupError
from pipeline.jvm import java_class


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("spark/a-1.jar", "broker/b-2.jar"):
        jar = tmp_path / "jars" / name
        jar.parent.mkdir(parents=True)
        jar.write_text(name)
    return tmp_path / "jars"


@pytest.fixture
def lock(folder: Path) -> Path:
    lock = folder.parent / "jars.sha256"
    names = ("broker/b-2.jar", "spark/a-1.jar")
    lock.write_text("".join(f"{hashlib.sha256(name.encode()).hexdigest()}  {name}\n" for name in names))
    return lock


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object) -> None:
        raise AssertionError("nothing may be fetched")

    monkeypatch.setattr(jars, "_run_ivy", refuse)


@pytest.mark.usefixtures("no_network")
def test_complete_jars_are_sealed_and_then_not_even_read_again(
    folder: Path, lock: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert jars.install(folder, lock) is False
    monkeypatch.setattr(jars, "_verify", lambda *_: pytest.fail("read again"))
    assert jars.install(folder, lock) is False
    assert jars._checked_jars("spark", folder, lock) == [folder / "spark/a-1.jar"]


def test_a_tampered_jar_is_refused_with_its_name_and_both_sums(folder: Path, lock: Path) -> None:
    jars.install(folder, lock)
    jar = folder / "spark/a-1.jar"
    jar.write_text("spark/evil!")
    with pytest.raises(SetupError) as raised:
        jars._checked_jars("spark", folder, lock)
    message = raised.value.message
    assert str(jar) in message
    assert hashlib.sha256(b"spark/evil!").hexdigest() in message
    assert hashlib.sha256(b"spark/a-1.jar").hexdigest() in message


def test_a_changed_lock_breaks_the_seal(folder: Path, lock: Path) -> None:
    jars.install(folder, lock)
    lock.write_text(lock.read_text().replace(hashlib.sha256(b"broker/b-2.jar").hexdigest(), "0" * 64))
    with pytest.raises(SetupError, match="0" * 64):
        jars._checked_jars("broker", folder, lock)


def test_a_missing_jar_says_what_to_do(folder: Path, lock: Path) -> None:
    (folder / "broker/b-2.jar").unlink()
    with pytest.raises(SetupError, match="make install"):
        jars._checked_jars("broker", folder, lock)


def test_a_fetched_jar_with_another_sum_is_not_installed(
    folder: Path, lock: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def deliver_evil(cache: Path, pattern: str, parts: Sequence[str]) -> None:
        for name in ("spark/a-1.jar", "broker/b-2.jar"):
            jar = Path(pattern.partition("/[conf]")[0]) / name
            jar.parent.mkdir(parents=True)
            jar.write_text("evil")

    monkeypatch.setattr(jars, "_run_ivy", deliver_evil)
    (folder / "broker/b-2.jar").unlink()
    with pytest.raises(SetupError, match=hashlib.sha256(b"evil").hexdigest()):
        jars.install(folder, lock)
    assert not (folder / "broker/b-2.jar").exists()


def test_a_failed_download_says_why_and_what_to_do(
    folder: Path, lock: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "broker/b-2.jar").unlink()
    settings = tmp_path / "ivysettings.xml"
    settings.write_text(
        '<ivysettings><settings defaultResolver="m"/><resolvers>'
        '<ibiblio name="m" m2compatible="true" root="http://127.0.0.1:1/"/></resolvers></ivysettings>'
    )
    monkeypatch.setenv("PIPELINE_IVY_SETTINGS", str(settings))
    with pytest.raises(SetupError) as raised:
        jars.install(folder, lock)
    for word in (str(settings), "HTTPS_PROXY", "again"):
        assert word in raised.value.message
    assert not os.path.lexists(folder / "broker/b-2.jar")


def test_the_command_line_shows_no_stack_trace(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(**_: object) -> bool:
        raise SetupError("no network")

    monkeypatch.setattr(jars, "install", fail)
    assert jars.main([]) == 3
    assert capsys.readouterr().err == "jars: no network\n"


def test_what_is_optional_is_fetched_and_used_only_when_asked_for(
    folder: Path, lock: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with lock.open("a") as text:
        text.write(f"{hashlib.sha256(b's3/c-3.jar').hexdigest()}  s3/c-3.jar\n")
    asked: list[Sequence[str]] = []

    def deliver(cache: Path, pattern: str, parts: Sequence[str]) -> None:
        asked.append(parts)
        jar = Path(pattern.partition("/[conf]")[0]) / "s3/c-3.jar"
        jar.parent.mkdir(parents=True)
        jar.write_text("s3/c-3.jar")

    monkeypatch.setattr(jars, "_run_ivy", deliver)
    monkeypatch.setattr(jars, "JARS", folder)
    assert jars.install(folder, lock) is False
    with pytest.raises(SetupError, match="--with s3"):
        jars.require_s3_jars()
    assert jars.install(folder, lock, parts=(*jars.ALWAYS, "s3")) is True
    assert asked == [["s3"]]
    jars.require_s3_jars()
    assert (folder / "spark/a-1.jar").exists()
    assert jars._checked_jars("s3", folder, lock) == [folder / "s3/c-3.jar"]


def test_the_lock_is_what_sha256sum_reads_and_holds_the_versions_that_are_safe() -> None:
    names = jars._read_lock(jars.LOCK)
    assert sum(name.startswith("spark/") for name in names) == 7
    checked = subprocess.run(
        ["sha256sum", "--check", "--quiet", "--ignore-missing", jars.LOCK], cwd=jars.JARS, check=False
    )
    assert checked.returncode == 0
    versions: dict[str, set[tuple[int, ...]]] = {}
    for name in names:
        _, _, artifact, version, _ = name.split("/")
        if artifact in {"postgresql", "lz4-java"}:
            versions.setdefault(artifact, set()).add(tuple(map(int, version.split("."))))
    assert min(versions["postgresql"]) >= (42, 7, 11)
    assert min(versions["lz4-java"]) >= (1, 11, 2)


def test_spark_loads_the_newer_lz4_and_not_the_wheels_own(spark: SparkSession) -> None:
    assert [place_of(spark, "net.jpountz.lz4.LZ4Factory")] == [str(jar) for jar in jars.first_jars()]


def test_what_every_session_has_is_on_the_class_path_of_a_local_one(spark: SparkSession) -> None:
    delta = place_of(spark, "org.apache.spark.sql.delta.DeltaLog")
    assert delta in map(str, jars.spark_jars())
    assert delta in java_class(spark, "java.lang.System").getProperty("java.class.path").split(os.pathsep)


def place_of(spark: SparkSession, name: str) -> str:
    """The jar that Spark has this class from."""
    loader = java_class(spark, "java.lang.Thread").currentThread().getContextClassLoader()
    return str(loader.loadClass(name).getProtectionDomain().getCodeSource().getLocation().getPath())
