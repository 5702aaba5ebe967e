"""The jars that pip does not bring: fetched once from Maven, each checked against jars.sha256.

`python -m pipeline.jars` puts them into the environment's share/pipeline/jars/{spark,first,broker} by the Ivy of the
pyspark wheel, as a Maven repository has them; where they are complete it starts nothing and asks nobody. `--with s3` adds
those of a lake on S3. `--lock` writes jars.sha256 anew after a change of ivy.xml. PIPELINE_IVY_SETTINGS names an
ivysettings.xml where Maven Central is only reached by a mirror.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from pipeline.errors import PipelineError, SetupError
from pipeline.java import require_java

__all__ = ["added_jars", "broker_jars", "first_jars", "install", "main", "require_s3_jars", "spark_jars"]

JARS = Path(sys.prefix) / "share" / "pipeline" / "jars"
LOCK = Path(__file__).with_name("jars.sha256")
IVY = Path(__file__).with_name("ivy.xml")

ALWAYS = ("spark", "first", "broker")
OPTIONAL = ("s3",)

_INSTALL = "Run `make install` (or `python -m pipeline.jars` with this Python)"
_SEAL = ".seal"
_MAVEN = "[organisation]/[artifact]/[revision]/[artifact]-[revision](-[classifier]).[ext]"


def spark_jars() -> list[Path]:
    """The jars of every Spark session; SetupError where one is missing or not what jars.sha256 says."""
    return _checked_jars("spark")


def added_jars() -> list[Path]:
    """The jars of the optional parts that are installed; SetupError as in spark_jars."""
    return [jar for part in OPTIONAL if (JARS / part).is_dir() for jar in _checked_jars(part)]


def first_jars() -> list[Path]:
    """What must come on the class path before Spark's own jars of that name; SetupError as in spark_jars."""
    return _checked_jars("first")


def broker_jars() -> list[Path]:
    """The class path of the embedded Kafka broker; SetupError as in spark_jars."""
    return _checked_jars("broker")


def require_s3_jars() -> None:
    """Raise SetupError where the jars of a lake on S3 are not installed."""
    if not (JARS / "s3").is_dir():
        raise SetupError(
            "A lake on S3 needs jars that set-up has not put in place. Run `python -m pipeline.jars --with s3` with this "
            "Python (12 MB)."
        )


def install(folder: Path = JARS, lock: Path = LOCK, *, parts: Sequence[str] = ALWAYS) -> bool:
    """True where jars had to be fetched; SetupError where they cannot be, or are not those of the lock."""
    wanted = _read_lock(lock)
    missing = [part for part in parts if not _is_complete(folder, lock, part)]
    if missing:
        with _fetched(folder.parent, missing) as fetched:
            for part in missing:
                _verify(fetched, _of(part, wanted))
            for part in missing:
                shutil.rmtree(folder / part, ignore_errors=True)
                folder.mkdir(exist_ok=True)
                if (fetched / part).is_dir():
                    (fetched / part).rename(folder / part)
                _write_seal(folder, lock, part)
    return bool(missing)


def write_lock(lock: Path = LOCK) -> None:
    """Fetch what ivy.xml asks for and write down the sums, in the format of sha256sum."""
    with tempfile.TemporaryDirectory() as scratch, _fetched(Path(scratch), (*ALWAYS, *OPTIONAL)) as fetched:
        jars = sorted(fetched.rglob("*.jar"))
        lock.write_text("".join(f"{_sha256(jar)}  {jar.relative_to(fetched)}\n" for jar in jars))


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit code: 0 done, 3 not possible, with the reason on standard error."""
    parser = argparse.ArgumentParser(prog="python -m pipeline.jars", description=__doc__.splitlines()[0])
    parser.add_argument("--lock", action="store_true", help="write jars.sha256 anew from ivy.xml")
    parser.add_argument(
        "--list", action="store_true", help="print the jars of Spark, as spark-submit's --jars wants them"
    )
    parser.add_argument(
        "--first", action="store_true", help="print what must come before Spark's own jars, as a class path"
    )
    parser.add_argument(
        "--with", dest="added", action="append", default=[], choices=OPTIONAL, help="jars of this part, too"
    )
    asked = parser.parse_args(arguments)
    try:
        if asked.first:
            print(os.pathsep.join(map(str, first_jars())))
            return 0
        if asked.list:
            print(",".join(map(str, [*spark_jars(), *added_jars()])))
            return 0
        if asked.lock:
            write_lock()
        if install(parts=(*ALWAYS, *asked.added)):
            print(f"jars: fetched from Maven and verified, in {JARS}")
    except PipelineError as error:
        print(f"jars: {error.message}", file=sys.stderr)
        return error.exit_code
    return 0


def _checked_jars(part: str, folder: Path = JARS, lock: Path = LOCK) -> list[Path]:
    wanted = _of(part, _read_lock(lock))
    if not _is_sealed(folder, lock, part):
        _verify(folder, wanted)
    return [folder / name for name in wanted]


def _is_complete(folder: Path, lock: Path, part: str) -> bool:
    if _is_sealed(folder, lock, part):
        return True
    try:
        _verify(folder, _of(part, _read_lock(lock)))
    except SetupError:
        return False
    _write_seal(folder, lock, part)
    return True


def _of(part: str, wanted: Mapping[str, str]) -> dict[str, str]:
    return {name: expected for name, expected in wanted.items() if name.startswith(f"{part}/")}


def _read_lock(lock: Path) -> dict[str, str]:
    pairs = (line.split() for line in lock.read_text().splitlines())
    return {name: wanted for wanted, name in pairs}


def _verify(folder: Path, wanted: Mapping[str, str]) -> None:
    for name, expected in wanted.items():
        jar = folder / name
        if not jar.is_file():
            raise SetupError(f"The jar {jar} is missing. {_INSTALL}.")
        found = _sha256(jar)
        if found != expected:
            raise SetupError(
                f"The jar {jar} is not the one this version was tested with: its SHA-256 is {found}, expected was "
                f"{expected}. It is not used. {_INSTALL}; if that does not help, ask who runs the Maven mirror."
            )


def _sha256(file: Path) -> str:
    digest = hashlib.sha256()
    with file.open("rb") as content:
        while block := content.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _seal(folder: Path, lock: Path, part: str) -> str:
    """What changes whenever the lock or a jar does: hashing 60 MB at every start would cost more than it protects."""
    states = [(name, (folder / name).stat()) for name in _of(part, _read_lock(lock))]
    return _sha256(lock) + "".join(f"\n{name} {state.st_size} {state.st_mtime_ns}" for name, state in states)


def _is_sealed(folder: Path, lock: Path, part: str) -> bool:
    try:
        return (folder / part / _SEAL).read_text() == _seal(folder, lock, part)
    except FileNotFoundError:
        return False


def _write_seal(folder: Path, lock: Path, part: str) -> None:
    (folder / part).mkdir(parents=True, exist_ok=True)
    (folder / part / _SEAL).write_text(_seal(folder, lock, part))


@contextmanager
def _fetched(beside: Path, parts: Sequence[str]) -> Iterator[Path]:
    """A folder with what ivy.xml asks for in these parts of it; gone afterwards.

    Ivy's own cache stays where the fetch failed, so that running again goes on where it broke off.
    """
    beside.mkdir(parents=True, exist_ok=True)
    cache = beside / "ivy-cache"
    with tempfile.TemporaryDirectory(dir=beside, ignore_cleanup_errors=True) as scratch:
        target = Path(scratch) / "jars"
        _run_ivy(cache, f"{target}/[conf]/{_MAVEN}", parts)
        shutil.rmtree(cache, ignore_errors=True)
        yield target


def _run_ivy(cache: Path, pattern: str, parts: Sequence[str]) -> None:
    settings = os.environ.get("PIPELINE_IVY_SETTINGS")
    command = [
        *(str(require_java()), "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", *_proxy_properties()),
        "-Divy.checksums=",  # the mirror's SHA-1 files double the requests, and our own SHA-256 is checked anyway
        *("-cp", f"{_pyspark_jars()}/*", "org.apache.ivy.Main"),
        *(("-settings", settings) if settings else ()),
        *("-ivy", str(IVY), "-cache", str(cache), "-confs", *parts, "-retrieve", pattern),
    ]
    print(f"jars: fetching from Maven: {', '.join(parts)} (60 MB in all)", flush=True)
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    if ran.returncode:
        said = [line.strip(":\t ") for line in (ran.stdout + ran.stderr).splitlines()]
        reasons = [line for line in said if "not found" in line or "Exception" in line or "FAILED" in line][
            -3:
        ]
        raise SetupError(
            f"The jars could not be fetched from {settings or 'Maven Central (https://repo1.maven.org)'}: "
            f"{'; '.join(reasons) or f'Ivy ended with {ran.returncode}'}. Check the network; behind a proxy set "
            "HTTPS_PROXY; with a mirror set PIPELINE_IVY_SETTINGS to an ivysettings.xml; then run the same command again."
        )


def _pyspark_jars() -> Path:
    pyspark = importlib.util.find_spec("pyspark")
    if pyspark is None or pyspark.origin is None:
        raise SetupError("pyspark is not installed in this Python. Run `make install`.")
    return Path(pyspark.origin).with_name("jars")


def _proxy_properties() -> Iterator[str]:
    """HTTPS_PROXY and its like, which pip honours, in the words that Java understands."""
    for scheme in ("http", "https"):
        proxy = urlsplit(os.environ.get(f"{scheme}_proxy") or os.environ.get(f"{scheme.upper()}_PROXY") or "")
        if proxy.hostname:
            yield f"-D{scheme}.proxyHost={proxy.hostname}"
            yield f"-D{scheme}.proxyPort={proxy.port or 80}"


if __name__ == "__main__":
    sys.exit(main())
