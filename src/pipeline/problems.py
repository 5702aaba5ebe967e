"""Which problems are open and what has been said about them: one SQLite file, seen by a restart and by other processes.

A problem is written down before anything is sent, and marked when Slack has taken the message. So a message is not
repeated by a restart, and one that could not be sent is sent by the next job.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

__all__ = ["Book", "Due", "Problem"]

_TABLES = """
CREATE TABLE IF NOT EXISTS problems (
  lake TEXT, job TEXT, subject TEXT, step TEXT, name TEXT, error TEXT,
  since REAL, told_at REAL, over_at REAL, claimed_until REAL,
  PRIMARY KEY (lake, job, subject));
CREATE TABLE IF NOT EXISTS pauses (lake TEXT PRIMARY KEY, until REAL);
CREATE TABLE IF NOT EXISTS reports (lake TEXT, job TEXT, reported_at REAL, PRIMARY KEY (lake, job));
"""
# With another step or name it is another fact, to be told anew; one that came back before its end was told never ended.
_ENTER = """
INSERT INTO problems VALUES (:lake, :job, :subject, :step, :name, :error, :now, NULL, NULL, 0)
ON CONFLICT DO UPDATE SET
  told_at = CASE WHEN step = excluded.step AND name = excluded.name THEN told_at END,
  since = CASE WHEN step = excluded.step AND name = excluded.name THEN since ELSE excluded.since END,
  step = excluded.step, name = excluded.name, error = excluded.error, over_at = NULL
"""
_IS_DUE = "lake = ? AND (told_at IS NULL OR over_at IS NOT NULL)"
_IS_IT = "lake = ? AND job = ? AND subject = ?"

_LONGEST_PAUSE = 3_600.0
_CLAIM_SECONDS = 60.0
_BUSY_SECONDS = 10.0


@dataclass(frozen=True)
class Problem:
    """A fact that someone should know: `name` (of an error) happened in `step` of `job`.

    `job` and `subject` identify it: a job has one problem for each subject, and it is over when that subject is well.
    """

    job: str
    subject: str
    step: str
    name: str
    error: str


class Due(NamedTuple):
    """What is to be said about a problem; `told_at` is None where nobody has heard of it, `over_at` where it lasts."""

    problem: Problem
    since: float
    told_at: float | None
    over_at: float | None


class Book:
    """The problems of one lake; without a file they are kept in memory. All times are seconds since 1970.

    To be used by one thread. Raises sqlite3.Error and OSError.
    """

    def __init__(self, file: Path | None, lake: str) -> None:
        if file is not None:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.touch(mode=0o600)  # errors are for this user
        self._lake = lake
        self._file = sqlite3.connect(file or ":memory:", timeout=_BUSY_SECONDS, isolation_level=None)
        self._file.executescript(_TABLES)

    def close(self) -> None:
        self._file.close()

    def enter(self, problem: Problem, now: float) -> None:
        with self._alone():
            self._file.execute(_ENTER, {**vars(problem), "lake": self._lake, "now": now})
            self._file.execute(
                "INSERT OR REPLACE INTO reports VALUES (?, ?, ?)", (self._lake, problem.job, now)
            )

    def has_reported(self, job: str, since: float) -> bool:
        """Whether any problem of the job has been entered since then, also one that was known."""
        found = self._file.execute(
            "SELECT 1 FROM reports WHERE lake = ? AND job = ? AND reported_at >= ?", (self._lake, job, since)
        )
        return found.fetchone() is not None

    def end(self, job: str, subject: str, now: float) -> None:
        with self._alone():
            self._file.execute(
                f"UPDATE problems SET over_at = ? WHERE {_IS_IT} AND over_at IS NULL",
                (now, self._lake, job, subject),
            )

    def take(self, now: float, pause_seconds: float) -> Due | float | None:
        """The next thing to be said, which no other process then says; the seconds to wait for it; None: there is nothing.

        After it, nothing of this lake is given out for `pause_seconds`, to no process.
        """
        with self._alone():
            found = self._file.execute(
                f"SELECT job, subject, step, name, error, since, told_at, over_at, claimed_until FROM problems WHERE {_IS_DUE} "
                "ORDER BY claimed_until > ?, coalesce(over_at, since) LIMIT 1",
                (self._lake, now),
            ).fetchone()
            if found is None:
                return None
            wait: float = max(self._pause(now), found[8] - now)
            if wait > 0:
                return wait
            due = Due(Problem(*found[:5]), *found[5:8])
            self._claim(due.problem, now + _CLAIM_SECONDS)
            self.pause(now + pause_seconds)
            return due

    def told(self, due: Due, now: float) -> None:
        """`due` has been said."""
        key = (self._lake, due.problem.job, due.problem.subject)
        with self._alone():
            if due.over_at is not None:
                self._file.execute(
                    f"DELETE FROM problems WHERE {_IS_IT} AND over_at = ?", (*key, due.over_at)
                )
            is_same = "step = ? AND name = ?"
            self._file.execute(
                f"UPDATE problems SET told_at = ? WHERE {_IS_IT} AND {is_same}",
                (now, *key, due.problem.step, due.problem.name),
            )
            self._claim(due.problem, 0)

    def not_told(self, due: Due) -> None:
        """`due` could not be said; it is given out again."""
        self._claim(due.problem, 0)

    def pause(self, until: float) -> None:
        """Give nothing out before that time, to no process."""
        self._file.execute("INSERT OR REPLACE INTO pauses VALUES (?, ?)", (self._lake, until))

    def _claim(self, problem: Problem, until: float) -> None:
        self._file.execute(
            f"UPDATE problems SET claimed_until = ? WHERE {_IS_IT}",
            (until, self._lake, problem.job, problem.subject),
        )

    def _pause(self, now: float) -> float:
        """The seconds left of a pause; one that is longer than any may be is of a clock that was wrong."""
        found = self._file.execute("SELECT until FROM pauses WHERE lake = ?", (self._lake,)).fetchone()
        left: float = found[0] - now if found else 0.0
        return left if left <= _LONGEST_PAUSE else 0.0

    @contextmanager
    def _alone(self) -> Iterator[None]:
        self._file.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._file.execute("ROLLBACK")
            raise
        self._file.execute("COMMIT")
