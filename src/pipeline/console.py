"""The one place that knows the terminal: progress and errors go to stderr, rows and reports to stdout.

On a terminal progress moves and has colours; elsewhere (a file, a pipe, CI) it is plain lines, one for each event.
"""

from __future__ import annotations

import os
import sys
import time
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from rich.console import Console

__all__ = ["counted", "done", "error", "note", "step", "table", "write_bytes", "write_lines"]


@contextmanager
def step(title: str) -> Iterator[None]:
    """Say that `title` is under way, and how many seconds it took or that it failed.

    What fails it gets the attribute `failed_step`: the innermost title.
    """
    started = time.monotonic()
    try:
        if _is_terminal(sys.stderr):
            with _moving(title):
                yield
        else:
            note(f"… {title}")
            yield
    except BaseException as error:
        vars(error).setdefault("failed_step", title)
        _ended("✗", "red", title, time.monotonic() - started)
        raise
    _ended("✓", "green", title, time.monotonic() - started)


@contextmanager
def counted(title: str, total: int) -> Iterator[Callable[[int], None]]:
    """As `step`, for work whose end is known: call what it gives with the number done so far."""
    if not _is_terminal(sys.stderr):
        with step(title):
            yield lambda _: None
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    started = time.monotonic()
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=_stderr_console(), transient=True) as progress:
        task = progress.add_task(title, total=total)
        yield lambda done: progress.update(task, completed=done)
    _ended("✓", "green", title, time.monotonic() - started)


def done(title: str, seconds: float, *, is_good: bool = True) -> None:
    """Say that a part of the step that is under way has ended, well or not."""
    _ended(*(("✓", "green") if is_good else ("✗", "red")), title, seconds)


def note(text: str) -> None:
    """One plain line about what is going on; a spinner that is turning stays below it."""
    if _is_terminal(sys.stderr):
        _stderr_console().print(text, markup=False, soft_wrap=True)
    else:
        _to_stderr(text)


def error(text: str) -> None:
    """The one block a failed command ends with."""
    if _is_terminal(sys.stderr):
        from rich.text import Text

        _stderr_console().print(Text.assemble(("error: ", "bold red"), text), soft_wrap=True)
    else:
        _to_stderr(f"error: {text}")


def table(columns: Sequence[str], rows: Iterable[Sequence[str]], *, right: Sequence[str] = ()) -> None:
    """Write a table to stdout; the columns named in `right` are aligned to the right."""
    import rich.box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    grid = Table(box=rich.box.SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        grid.add_column(column, justify="right" if column in right else "left", no_wrap=True)
    for row in rows:
        grid.add_row(*(Text(cell) for cell in row))
    # Where nobody looks at a screen no cell is cut to its width.
    width = None if _is_terminal(sys.stdout) else 10_000
    console = Console(width=width, highlight=False)
    with console.capture() as captured:
        console.print(grid)
    write_lines(line.rstrip() if width else line for line in captured.get().splitlines())


def write_lines(lines: Iterable[str]) -> None:
    """Write `lines` to stdout in UTF-8; a reader that has gone away (`| head`) ends it quietly."""
    _in_utf8(sys.stdout)
    for line in lines:
        try:
            sys.stdout.write(line + "\n")
        except BrokenPipeError:
            _forget_stdout()
            return
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        _forget_stdout()


def write_bytes(value: bytes) -> None:
    """Write the bytes to stdout as they are."""
    sys.stdout.flush()
    try:
        sys.stdout.buffer.write(value)
        sys.stdout.buffer.flush()
    except BrokenPipeError:
        _forget_stdout()


def _forget_stdout() -> None:
    # Python flushes stdout once more at its end, which would complain about the pipe again.
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)


def _in_utf8(stream: TextIO) -> None:
    reconfigure = getattr(stream, "reconfigure", None)
    if reconfigure is not None:
        reconfigure(encoding="utf-8", errors="backslashreplace")


def _is_terminal(stream: TextIO) -> bool:
    return stream.isatty() and os.environ.get("TERM") != "dumb"


@cache
def _stderr_console() -> Console:
    # One for all: rich nests what moves, and prints above it, only within one console.
    from rich.console import Console

    return Console(stderr=True, highlight=False)


@contextmanager
def _moving(title: str) -> Iterator[None]:
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (SpinnerColumn(), TextColumn("{task.description}", markup=False), TimeElapsedColumn())
    with Progress(*columns, console=_stderr_console(), transient=True) as progress:
        progress.add_task(title, total=None)
        yield


def _ended(mark: str, style: str, title: str, seconds: float) -> None:
    if _is_terminal(sys.stderr):
        from rich.text import Text

        _stderr_console().print(Text.assemble((mark, style), f" {title}  ", (f"{seconds:.1f} s", "dim")))
    else:
        _to_stderr(f"{mark} {title}  {seconds:.1f} s")


def _to_stderr(text: str) -> None:
    _in_utf8(sys.stderr)
    print(text, file=sys.stderr, flush=True)
