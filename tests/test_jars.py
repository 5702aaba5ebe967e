"""Jars are used only when they are, byte for byte, those of the lock."""

from __future__ import annotations

import hashlib
import os
import subprocess
from pathlib import Path

import pytest

from pipeline import jars
from pipeline.errors import SetupError


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
        jars._checked_jars("spark", folder, lock)


def test_a_missing_jar_says_what_to_do(folder: Path, lock: Path) -> None:
    (folder / "broker/b-2.jar").unlink()
    with pytest.raises(SetupError, match="make install"):
        jars._checked_jars("spark", folder, lock)


def test_a_fetched_jar_with_another_sum_is_not_installed(
    folder: Path, lock: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def deliver_evil(cache: Path, pattern: str) -> None:
        for name in ("spark/a-1.jar", "broker/b-2.jar"):
            jar = Path(pattern.split("/[conf]")[0]) / name
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
    def fail() -> bool:
        raise SetupError("no network")

    monkeypatch.setattr(jars, "install", fail)
    assert jars.main([]) == 3
    assert capsys.readouterr().err == "jars: no network\n"


def test_the_lock_names_seven_jars_for_spark_and_is_what_sha256sum_reads() -> None:
    names = jars._read_lock(jars.LOCK)
    assert sum(name.startswith("spark/") for name in names) == 7
    assert (
        subprocess.run(["sha256sum", "--check", "--quiet", jars.LOCK], cwd=jars.JARS, check=False).returncode
        == 0
    )
