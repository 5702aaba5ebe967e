"""A session takes the class archive of its jars and its Java where there is one, and starts without one all the same."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from pyspark.sql import SparkSession

from pipeline import class_archive as archives
from pipeline.class_archive import class_archive
from pipeline.jvm import java_class
from pipeline.session import _java_options, class_path
from pipeline.settings import Settings


def test_the_jvm_has_the_archive_mapped(spark: SparkSession, base_settings: Settings) -> None:
    archive = class_archive(class_path(base_settings))
    if not archive.exists():
        pytest.skip("there is no class archive: python -m pipeline.archiving")
    pid = java_class(spark, "java.lang.ProcessHandle").current().pid()
    maps = Path(f"/proc/{pid}/maps")
    if not maps.exists():
        pytest.skip("this system does not say which files a process has mapped")
    assert str(archive) in maps.read_text()


def test_other_jars_and_another_java_have_another_archive(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for home in ("one", "two"):
        java = tmp_path / home / "bin" / "java"
        java.parent.mkdir(parents=True)
        java.touch()
    monkeypatch.setenv("JAVA_HOME", str(tmp_path / "one"))
    first = class_archive("a.jar:b.jar")
    assert first == class_archive("a.jar:b.jar")
    assert first != class_archive("b.jar:a.jar")
    monkeypatch.setenv("JAVA_HOME", str(tmp_path / "two"))
    assert first != class_archive("a.jar:b.jar")


def test_without_an_archive_none_is_asked_for(
    base_settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archives, "FOLDER", tmp_path)
    assert "SharedArchiveFile" not in _java_options(base_settings)
    archive = class_archive(class_path(base_settings))
    archive.touch()
    assert f"-XX:SharedArchiveFile={archive}" in _java_options(base_settings)


def test_a_jar_of_ones_own_makes_it_another_class_path(base_settings: Settings) -> None:
    own = {**base_settings.spark.conf, "spark.driver.extraClassPath": "/own.jar"}
    with_own = replace(base_settings, spark=replace(base_settings.spark, conf=own))
    assert class_archive(class_path(with_own)) != class_archive(class_path(base_settings))
    remote = replace(base_settings, spark=replace(base_settings.spark, master="spark://127.0.0.1:7077"))
    assert class_path(remote) != class_path(base_settings)
