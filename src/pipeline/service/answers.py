"""Rows of a view for a question: by DuckDB over pinned versions of the tables, which stay open from one question to the next."""

from __future__ import annotations

import os
import queue
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from threading import Timer

import duckdb

from pipeline import serving
from pipeline.delta_log import commit
from pipeline.errors import LakeUnreachable, PipelineError, UsageError
from pipeline.local_lake import DuckDb, Row
from pipeline.published import published
from pipeline.served import State, Table, columns_of, layer_sql, needed_views
from pipeline.service.questions import Cursor, Question
from pipeline.settings import Settings
from pipeline.tables import view_path
from pipeline.views import View, labelled

__all__ = ["Answer", "Answers", "Expired", "Freshness", "TooLong"]

_READERS = max(2, os.cpu_count() or 2)


class TooLong(PipelineError):
    """The question took longer than serve.timeout_seconds."""


class Expired(PipelineError):
    """A version that a cursor names is there no more."""


@dataclass(frozen=True)
class Freshness:
    """Of one view whose tables an answer is from: versions, when they were committed, and the times that bound them, in UTC."""

    view: str
    batch_version: int | None
    batch_committed_at: datetime | None
    speed_version: int | None
    speed_committed_at: datetime | None
    horizon: datetime | None
    watermark: datetime | None


@dataclass(frozen=True)
class Answer:
    columns: Sequence[str]
    rows: Sequence[Row]
    freshness: Sequence[Freshness]
    next_page: Cursor | None


class Answers:
    """Answers questions, several at a time."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._idle: queue.LifoQueue[DuckDb] = queue.LifoQueue()
        for _ in range(_READERS):
            self._idle.put(DuckDb())

    def answer(self, question: Question) -> Answer:
        """Raises RefusedToStart where the layer has no table, TooLong, Expired, and UsageError where DuckDB refuses."""
        states = self.states(question)
        with self._reader() as (duck, seconds):
            try:
                sql = layer_sql(question.view, question.layer, states, duck.relation)
                rows = [*duck.rows(f"SELECT * FROM ({sql}) AS answer {question.tail}", question.values)]
            except duckdb.InterruptException as error:
                raise TooLong(
                    f"this takes longer than {seconds} s (serve.timeout_seconds). Ask for less: a key, a range of time."
                ) from error
            except (OSError, LakeUnreachable) as error:
                raise _expired(question) from error
            except duckdb.Error as error:
                if ".parquet" in str(error):  # what is said of a file is not said of the question
                    raise _expired(question) from error
                raise UsageError(f"the view cannot be asked that: {str(error).splitlines()[0]}") from error
        has_more = len(rows) > question.limit
        return Answer(
            columns_of(question.view, question.layer),
            rows[: question.limit],
            [_freshness(state) for state in states.values()],
            _next_page(question, states) if has_more else None,
        )

    def states(self, question: Question) -> dict[str, State]:
        """Those that the cursor pins, or the newest, or those of the moment that is asked for."""
        if question.cursor is None:
            return serving.states(None, self._settings, question.view, as_of=question.as_of)
        pinned = question.cursor.versions
        return {
            view.name: self._pinned(
                labelled(view, pinned[view.name][3]) if view.name in pinned else view, question
            )
            for view in needed_views(question.view)
        }

    def _pinned(self, view: View, question: Question) -> State:
        assert question.cursor is not None
        batch, speed, watermark, _ = question.cursor.versions.get(view.name, (None, None, None, ""))
        form = None
        if batch is not None:
            form = published(None, self._settings, view, version=batch)
            if form is None:
                raise _expired(question)
        root = self._settings.lake.root
        return State(
            view=view,
            batch=Table(form.path, form.version) if form else None,
            speed=Table(view_path(root, view.name, "speed", view.label), speed)
            if speed is not None
            else None,
            horizon=form.horizon if form else None,
            watermark=datetime.fromisoformat(watermark) if watermark else None,
        )

    @contextmanager
    def _reader(self) -> Iterator[tuple[DuckDb, int]]:
        """A DuckDB for one question, and the seconds after which it is interrupted."""
        seconds = self._settings.serve.timeout_seconds
        try:
            duck = self._idle.get(timeout=seconds)
        except queue.Empty:
            raise TooLong(f"{_READERS} other questions have taken all of {seconds} s. Ask again.") from None
        timer = Timer(seconds, duck.interrupt)
        timer.daemon = True
        timer.start()
        try:
            yield duck, seconds
        finally:
            timer.cancel()
            self._idle.put(duck)


def _next_page(question: Question, states: Mapping[str, State]) -> Cursor:
    versions = {
        name: (
            state.batch.version if state.batch else None,
            state.speed.version if state.speed else None,
            state.watermark.isoformat() if state.watermark else None,
            state.view.label,
        )
        for name, state in states.items()
    }
    offset = (question.cursor.offset if question.cursor else 0) + question.limit
    return Cursor(offset, versions, question.mark)


def _freshness(state: State) -> Freshness:
    return Freshness(
        state.view.name,
        state.batch.version if state.batch else None,
        _committed_at(state.batch),
        state.speed.version if state.speed else None,
        _committed_at(state.speed),
        state.horizon,
        state.watermark,
    )


def _committed_at(table: Table | None) -> datetime | None:
    made = commit(None, table.path, table.version) if table else None
    return made.made_at if made else None


def _expired(question: Question) -> Expired:
    return Expired(
        f"{question.view.name}: the version that this page is of is there no more. Begin anew, without the cursor."
        if question.cursor
        else f"{question.view.name}: its table has just been replaced. Ask again."
    )
