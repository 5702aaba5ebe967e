"""Problems are told to Slack once, and once more when they are over, by a thread that nobody waits for.

Whoever meets a problem calls `report`, and `over` where that subject is well; both return at once and do nothing unless
`sending` is under way and Slack is configured. The thread writes each problem down first (`problems`), then sends what
is due, at most one message a second. At the end of `sending` it is given a few seconds; what is not sent by then is sent
by the next job on this lake.
"""

from __future__ import annotations

import contextlib
import logging
import queue
import socket
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.personal_data import without_personal_data
from pipeline.problems import Book, Due, Problem
from pipeline.settings import without_secrets
from pipeline.slack import Answer, Post, poster

if TYPE_CHECKING:
    from pipeline.settings import Settings

__all__ = ["RUN", "Alerts", "Problem", "failure", "over", "report", "report_for", "sending"]

RUN = "run"
"""The subject of a job's own failure; its step is the one that was under way."""

BACKLOG = 1_000
"""Reports that wait for the thread; more are dropped, and come back with the next observation of the same problem."""

PATIENCE_SECONDS = 5.0
"""How long the end of a job waits for Slack to take the next message."""

LONGEST_END_SECONDS = 60.0
"""How long it waits altogether, where there are many."""

_PAUSE_SECONDS = 1.0
_LONGEST_BACKOFF_SECONDS = 60.0
_MOST_CHARACTERS = 3_000

_log = logging.getLogger(__name__)

_Report = Problem | tuple[str, str]
"""A problem, or the job and subject of which there is none."""


class Alerts:
    """A bounded queue and the thread that empties it. No method waits, except `close`, and none raises."""

    def __init__(
        self, post: Post, *, lake: str, state_file: Path, mask: Callable[[str], str] = lambda text: text
    ) -> None:
        self._post, self._lake, self._state_file, self._mask = post, lake, state_file, mask
        self._reports: queue.Queue[_Report | None] = queue.Queue(BACKLOG)
        self._is_ending = threading.Event()
        self._is_left = threading.Event()
        self._failures = 0
        self._not_before = self._taken_at = 0.0
        self._thread = threading.Thread(target=self._work, name="alerts", daemon=True)
        self._thread.start()

    def put(self, one: _Report) -> None:
        try:
            self._reports.put_nowait(one)
        except queue.Full:
            _log.warning("alerts: more than %d reports wait; one is dropped", BACKLOG)

    def close(self, patience_seconds: float) -> None:
        """Send what is due, unless Slack takes nothing for so long; the rest is written down for the next job."""
        self._is_ending.set()
        self._wake()
        began = self._taken_at = time.monotonic()
        while self._thread.is_alive() and time.monotonic() < min(
            began + LONGEST_END_SECONDS, self._taken_at + patience_seconds
        ):
            self._thread.join(0.1)
        if self._thread.is_alive():
            self._is_left.set()
            book = self._book()
            while (one := self._next(0)) is not None:
                self._write_down(book, one)
            book.close()
            self._wake()

    def _wake(self) -> None:
        with contextlib.suppress(queue.Full):  # then it is awake
            self._reports.put_nowait(None)

    def _work(self) -> None:
        book = self._book()
        pause = self._send_due(book)
        while not (self._is_left.is_set() or (self._is_ending.is_set() and self._is_done(pause))):
            one = self._next(pause)
            try:
                if one is not None:
                    self._write_down(book, one)
                pause = self._send_due(book)
            except sqlite3.Error as error:
                _log.warning("alerts: %s failed (%s); going on without it", self._state_file, error)
                book = Book(None, self._lake)
                pause = self._retried(book, one)
        book.close()

    def _is_done(self, pause: float | None) -> bool:
        return pause is None and self._reports.empty()

    def _book(self) -> Book:
        try:
            return Book(self._state_file, self._lake)
        except (sqlite3.Error, OSError) as error:
            _log.warning(
                "alerts: %s cannot be used (%s); a restart may repeat messages", self._state_file, error
            )
            return Book(None, self._lake)

    def _retried(self, book: Book, one: _Report | None) -> float | None:
        if one is not None:
            self._write_down(book, one)
        return self._send_due(book)

    def _next(self, wait_seconds: float | None) -> _Report | None:
        try:
            return self._reports.get(block=wait_seconds != 0, timeout=wait_seconds)
        except queue.Empty:
            return None

    def _write_down(self, book: Book, one: _Report) -> None:
        if isinstance(one, Problem):
            book.enter(replace(one, error=self._mask(one.error)), time.time())
        else:
            book.end(*one, time.time())

    def _send_due(self, book: Book) -> float | None:
        """Send one message if it may be; the seconds until there may be another, None where nothing is due."""
        backoff = self._not_before - time.monotonic()
        if backoff > 0:
            return backoff
        due = book.take(time.time(), _PAUSE_SECONDS)
        if not isinstance(due, Due):
            return due
        answer = self._post(self._text(due))
        if answer.is_taken:
            book.told(due, time.time())
            self._failures, self._taken_at = 0, time.monotonic()
        else:
            book.not_told(due)
            self._hold_back(book, answer)
        return _PAUSE_SECONDS

    def _hold_back(self, book: Book, answer: Answer) -> None:
        if not self._failures:
            _log.warning("alerts: Slack does not take messages (%s); they wait", answer.reason)
        if answer.retry_after_seconds is not None:
            book.pause(time.time() + answer.retry_after_seconds)
        else:
            self._not_before = time.monotonic() + min(2.0**self._failures, _LONGEST_BACKOFF_SECONDS)
        self._failures += 1

    def _text(self, due: Due) -> str:
        problem = due.problem
        error = self._mask(problem.error)[:_MOST_CHARACTERS].replace("```", "'''")
        first_line = next(iter(error.splitlines()), "")
        where = f"job *{_escaped(problem.job)}* · step *{_escaped(problem.step)}* · {_escaped(problem.name)}"
        since = f"since {_instant(due.since)} · lake {_escaped(self._mask(self._lake))} · host {socket.gethostname()}"
        if due.over_at is None:
            return f":red_circle: {where}\n```{_escaped(error)}```\n{since}"
        return f":large_green_circle: over: {where}\n{_escaped(first_line)}\n{since}, until {_instant(due.over_at)}"


def _escaped(text: str) -> str:
    """As Slack wants text that is not to be read as its markup."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _instant(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


_current: Alerts | None = None


@contextlib.contextmanager
def sending(settings: Settings) -> Iterator[None]:
    """While it lasts, what this process reports goes to the configured channel, secrets of the settings masked."""
    global _current
    post = poster(settings.alerts)
    if post is None or _current is not None:
        yield
        return
    _current = Alerts(
        post,
        lake=settings.lake.root,
        state_file=Path(settings.alerts.state_file),
        mask=lambda text: without_personal_data(without_secrets(settings, text)),
    )
    try:
        yield
    finally:
        ending, _current = _current, None
        ending.close(PATIENCE_SECONDS)


def report(problem: Problem) -> None:
    """Tell about the problem, unless it has been told and is not over."""
    if _current is not None:
        _current.put(problem)


def over(job: str, subject: str) -> None:
    """Tell that the job's problem with the subject is over, if there was one."""
    if _current is not None:
        _current.put((job, subject))


def failure(job: str, error: Exception) -> Problem:
    """The failure of a run of the job."""
    step: str = getattr(error, "query", "") or getattr(error, "failed_step", job)
    return Problem(
        job=job, subject=RUN, step=step, name=type(error).__name__, error=str(error) or repr(error)
    )


def report_for(settings: Settings, problem: Problem, *, since: float) -> None:
    """Tell about the problem of a job in another process, unless that has reported one itself since then.

    For schedulers: a command that could not start, or was killed, tells nothing. `since`: seconds since 1970.
    """
    with sending(settings):
        if not _has_reported(settings, problem.job, since):
            report(problem)


def _has_reported(settings: Settings, job: str, since: float) -> bool:
    try:
        with contextlib.closing(Book(Path(settings.alerts.state_file), settings.lake.root)) as book:
            return book.has_reported(job, since)
    except (sqlite3.Error, OSError):  # said by `sending`; better twice than not at all
        return False
