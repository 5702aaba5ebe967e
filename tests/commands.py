"""Stand-ins for the executable that a scheduler calls: the real command, with something happening to it."""

from __future__ import annotations

import sys
from pathlib import Path

PIPELINE = Path(sys.executable).with_name("pipeline")

_KILLED_ONCE = """#!{python}
import os, signal, sys
from pathlib import Path
from pipeline import cli, failpoints

def end(point):
    if point == {point!r} and not Path({mark!r}).exists():
        Path({mark!r}).touch()
        os.kill(os.getpid(), signal.SIGKILL)

with failpoints.watched(end):
    sys.exit(cli.main())
"""


def killed_once_at(point: str, folder: Path) -> Path:
    """`pipeline`, which is killed when it first reaches this failpoint; `mark` in the folder then says so."""
    text = _KILLED_ONCE.format(python=sys.executable, point=point, mark=str(folder / "mark"))
    return _written(folder / "killed_once", text)


def always_killed(folder: Path) -> Path:
    return _written(folder / "always_killed", "#!/bin/sh\nkill -9 $$\n")


def counted(folder: Path) -> Path:
    """`pipeline`, which writes each call as a line to `calls` in the folder."""
    return _written(
        folder / "counted", f'#!/bin/sh\necho "$*" >>"{folder / "calls"}"\nexec "{PIPELINE}" "$@"\n'
    )


def _written(file: Path, text: str) -> Path:
    file.write_text(text)
    file.chmod(0o755)
    return file
