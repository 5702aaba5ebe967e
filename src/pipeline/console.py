"""The one place that knows the terminal: progress and errors go to stderr, rows and reports to stdout.

On a terminal progress moves and has colours; elsewhere (a file, a pipe, CI) it is plain lines, one for each event, or after
`log_json` JSON objects.
"""

from __future__ import annotations

import os
import sys
import time
from contextlib import ExitStack, contextmanager
from functools import cache
from typing import TYPE_CHECKING, TextIO

from pipeline.personal_data import without_personal_data

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from pyspark.logger import PySparkLogger
    from rich.console import Console, RenderableType
    from rich.progress import Progress, TaskID
    from rich.text import Text

__all__ = [
    "Styled",
    "counted",
    "done",
    "error",
    "list_lines",
    "log_json",
    "mask",
    "note",
    "step",
    "streams",
    "table",
    "table_lines",
    "text_line",
    "watch",
    "write_bytes",
    "write_lines",
]

_EVERY_SECONDS = 60.0
_LONG_SECONDS = 10.0

Styled = tuple[str, str]
"""A text and how it looks on a terminal."""


_log: PySparkLogger | None = None
_steps_moving: list[Progress] = []
_shown: Callable[[str], str] = without_personal_data


def log_json() -> None:
    """From now on what goes to stderr is JSON, an object a line, as PySpark's own logger writes it: ts, level, logger, msg, context."""
    global _log
    from pyspark.logger import PySparkLogger

    _log = PySparkLogger.getLogger("pipeline")
    _log.setLevel("INFO")
    _log.propagate = False


def mask(secrets: Callable[[str], str]) -> None:
    """From now on what goes to stderr is without what this function masks, and without personal data as ever."""
    global _shown

    def shown(text: str) -> str:
        return without_personal_data(secrets(text))

    _shown = shown


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
            with _told_where_long(title):
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


@contextmanager
def streams() -> Iterator[Callable[[str, str], None]]:
    """For work that has no end: call what it gives with a name and how it stands, as often as that changes.

    On a terminal each name has a line that changes. Elsewhere a name is told of at once, then once a minute at most, and at the end.
    """
    newest: dict[str, str] = {}
    if _is_terminal(sys.stderr):
        with _moving_lines() as show:

            def tell(name: str, text: str) -> None:
                newest[name] = text
                show(name, text)

            yield tell
        for name, text in newest.items():
            note(f"{name}: {text}")
        return
    told_at: dict[str, float] = {}
    told: dict[str, str] = {}

    def tell_at_times(name: str, text: str) -> None:
        newest[name] = text
        if time.monotonic() - told_at.get(name, float("-inf")) >= _EVERY_SECONDS:
            told_at[name], told[name] = time.monotonic(), text
            note(f"{name}: {text}")

    yield tell_at_times
    for name, text in newest.items():
        if told.get(name) != text:
            note(f"{name}: {text}")


def done(title: str, seconds: float, *, is_good: bool = True) -> None:
    """Say that a part of the step that is under way has ended, well or not."""
    _ended(*(("✓", "green") if is_good else ("✗", "red")), title, seconds)


def note(text: str) -> None:
    """One plain line about what is going on; a spinner that is turning stays below it."""
    text = _shown(text)
    if _log is not None:
        _log.info(text)
    elif _is_terminal(sys.stderr):
        _stderr_console().print(text, markup=False, soft_wrap=True)
    else:
        _to_stderr(text)


def error(text: str) -> None:
    """The one block a failed command ends with."""
    text = _shown(text)
    if _log is not None:
        _log.error(text)
    elif _is_terminal(sys.stderr):
        from rich.text import Text

        _stderr_console().print(Text.assemble(("error: ", "bold red"), text), soft_wrap=True)
    else:
        _to_stderr(f"error: {text}")


def table(columns: Sequence[str], rows: Iterable[Sequence[str]], *, right: Sequence[str] = ()) -> None:
    """Write a table to stdout; the columns named in `right` are aligned to the right."""
    write_lines(table_lines(columns, rows, right=right))


def table_lines(
    columns: Sequence[str],
    rows: Iterable[Sequence[str | Styled]],
    *,
    right: Sequence[str] = (),
    is_narrow: bool = False,
) -> list[str]:
    """The lines of a table for stdout. With `is_narrow` its columns stand closer together, and it is never cut."""
    import rich.box
    from rich.table import Table

    padding = (0, 1, 0, 0) if is_narrow else (0, 1)
    grid = Table(box=rich.box.SIMPLE_HEAD, pad_edge=False, padding=padding, show_edge=not is_narrow)
    for column in columns:
        grid.add_column(column, justify="right" if column in right else "left", no_wrap=True)
    for row in rows:
        grid.add_row(*map(_text, row))
    return _rendered(grid, is_cut=not is_narrow)


def text_line(*parts: str | Styled) -> str:
    """A line for stdout."""
    from rich.text import Text

    return "".join(_rendered(Text.assemble(*parts), is_cut=False))


def list_lines(items: Iterable[tuple[str | Styled, str]]) -> list[str]:
    """The lines of a list for stdout, each item with its mark; on a terminal long ones go on below their beginning."""
    from rich.table import Table

    grid = Table.grid(padding=(0, 1, 0, 0))
    for mark, text in items:
        grid.add_row(_text(mark), _text(text))
    return _rendered(grid, is_cut=True)


def _text(cell: str | Styled) -> Text:
    from rich.text import Text

    return Text(cell) if isinstance(cell, str) else Text(*cell)


def _rendered(what: RenderableType, *, is_cut: bool) -> list[str]:
    from rich.console import Console

    is_terminal = _is_terminal(sys.stdout)
    # Where nobody looks at a screen no cell is cut to its width.
    console = Console(width=None if is_cut and is_terminal else 10_000, highlight=False)
    with console.capture() as captured:
        console.print(what)
    lines = captured.get().splitlines()
    return lines if is_terminal else [line.rstrip() for line in lines]


def watch(look: Callable[[], Iterable[str]], every_seconds: float) -> None:
    """Show what `look` gives, again and again, until Ctrl-C: in place on a terminal, elsewhere one block after the other."""
    try:
        if not _is_terminal(sys.stdout):
            while True:
                write_lines(look())
                time.sleep(every_seconds)
        _watch_in_place(look, every_seconds)
    except KeyboardInterrupt:
        return


def _watch_in_place(look: Callable[[], Iterable[str]], every_seconds: float) -> None:
    from rich.live import Live
    from rich.text import Text

    lines = [*look()]
    try:
        with Live(screen=True, auto_refresh=False) as screen:
            while True:
                screen.update(Text.from_ansi("\n".join(lines)), refresh=True)
                time.sleep(every_seconds)
                lines = [*look()]
    finally:
        write_lines(lines)  # what was seen last stays


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
    return not (_log and stream is sys.stderr) and stream.isatty() and os.environ.get("TERM") != "dumb"


@cache
def _stderr_console() -> Console:
    # One for all: rich nests what moves, and prints above it, only within one console. It has the terminal to itself: while
    # Java is started, standard error is another file.
    from rich.console import Console

    terminal = os.fdopen(os.dup(sys.stderr.fileno()), "w", encoding="utf-8", errors="backslashreplace")
    return Console(file=terminal, highlight=False)


@contextmanager
def _moving(title: str) -> Iterator[None]:
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (SpinnerColumn(), TextColumn("{task.description}", markup=False), TimeElapsedColumn())
    with Progress(*columns, console=_stderr_console(), transient=True) as progress:
        progress.add_task(title, total=None)
        _steps_moving.append(progress)
        try:
            yield
        finally:
            _steps_moving.remove(progress)


@contextmanager
def _moving_lines() -> Iterator[Callable[[str, str], None]]:
    """Lines of their own, or below those of the step that is under way."""
    from rich.progress import Progress, SpinnerColumn, TextColumn

    columns = (SpinnerColumn(), TextColumn("{task.description}", markup=False))
    with ExitStack() as at_the_end:
        alone = Progress(*columns, console=_stderr_console(), transient=True)
        progress = _steps_moving[-1] if _steps_moving else at_the_end.enter_context(alone)
        lines: dict[str, TaskID] = {}

        def show(name: str, text: str) -> None:
            if name not in lines:
                lines[name] = progress.add_task("", total=None)
                at_the_end.callback(progress.remove_task, lines[name])
            progress.update(lines[name], description=f"{name}: {text}")

        yield show


@contextmanager
def _told_where_long(title: str) -> Iterator[None]:
    """A line says how a step has ended. One that takes long is told of before; of every one JSON has both."""
    if _log is not None:
        _log.info("begun", step=title)
        yield
        return
    import threading

    soon = threading.Timer(_LONG_SECONDS, note, [f"… {title}"])
    soon.daemon = True
    soon.start()
    try:
        yield
    finally:
        soon.cancel()


def _ended(mark: str, style: str, title: str, seconds: float) -> None:
    if _log is not None:
        say, outcome = (_log.info, "done") if mark == "✓" else (_log.error, "failed")
        say(outcome, step=title, seconds=round(seconds, 3))
    elif _is_terminal(sys.stderr):
        from rich.text import Text

        _stderr_console().print(Text.assemble((mark, style), f" {title}  ", (f"{seconds:.1f} s", "dim")))
    else:
        _to_stderr(f"{mark} {title}  {seconds:.1f} s")


def _to_stderr(text: str) -> None:
    _in_utf8(sys.stderr)
    print(text, file=sys.stderr, flush=True)
