"""Every number of the report, read from the lake by DuckDB; times are UTC with their zone, money is exact."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from decimal import Decimal
from itertools import islice

from pipeline import catalog, checkpoints, late, serving, versions
from pipeline.contracts import DEAD, DEAD_LETTER_STATUSES
from pipeline.delta_log import commits, newest_version
from pipeline.instants import in_utc, microseconds
from pipeline.ledger import INGEST
from pipeline.local_lake import DuckDb, Row
from pipeline.reconcile import CAUSES
from pipeline.served import Layer, State, Table, layer_sql, needed_views
from pipeline.settings import Settings
from pipeline.sinks import Transaction
from pipeline.tables import (
    BATCH_LEDGER,
    DEAD_LETTERS,
    ETL_DEAD_LETTERS,
    LATE_EVENTS,
    QUALITY_RESULTS,
    RAW_EVENTS,
    RECONCILIATION,
    REPAIRS,
    SKIPPED_RECORDS,
    checkpoint_path,
    table_path,
    view_path,
)
from pipeline.views import VIEWS, View

__all__ = [
    "HOURS",
    "Agreement",
    "Duration",
    "Expectations",
    "Fates",
    "Hour",
    "Late",
    "Moment",
    "Numbers",
    "Reason",
    "Spend",
    "TableRead",
    "TopicFates",
    "ViewRows",
    "Violation",
    "read",
]

HOURS = 7 * 24
"""So many windows, up to the newest, are told one by one."""

_MOST_MOMENTS = 72
_WIDTHS_SECONDS = tuple(
    amount * unit
    for unit, amounts in (
        (1, (1, 10, 30)),
        (60, (1, 5, 15, 30)),
        (3_600, (1, 3, 6, 12)),
        (86_400, (1, 7, 28)),
    )
    for amount in amounts
)
_STRAY_SHARE = 0.01
"""One old record must not make the picture a year wide: so many of the oldest records may lie before it."""

_MOST_BATCHES, _MOST_COMMITS, _MOST_RUNS = 100, 300, 20
_TOP, _MOST_REASONS, _MOST_KEYS = 10, 20, 5
_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)

_ADDRESS = 'topic, "partition", "offset"'
_NO_REPAIRS = (
    """(SELECT '' AS topic, 0 AS "partition", 0 AS "offset", '' AS status, '' AS reason WHERE FALSE)"""
)


@dataclass(frozen=True)
class TopicFates:
    """A topic: how many offsets ingest has read, how many records the log has, and how many met which fate."""

    topic: str
    offsets_read: int
    records: int
    accepted: int
    dead: int
    tombstones: int


@dataclass(frozen=True)
class ViewRows:
    """How many rows each layer of a view has; None where it has no table yet."""

    view: str
    speed: int | None
    batch: int | None
    served: int | None
    horizon: datetime | None
    watermark: datetime | None


@dataclass(frozen=True)
class Hour:
    """The window that begins at `start`: spend and orders of all customers, and how many have ordered."""

    start: datetime
    spend: Decimal
    orders: int
    customers: int
    is_final: bool


@dataclass(frozen=True)
class Spend:
    """The newest windows of the served view, what the earlier ones add up to, and those that have not begun yet by the clock: a
    producer's was wrong.
    """

    hours: Sequence[Hour]
    earlier_hours: int
    earlier_spend: Decimal
    ahead_hours: int
    ahead_spend: Decimal

    @property
    def total(self) -> Decimal:
        return sum((hour.spend for hour in self.hours), self.earlier_spend + self.ahead_spend)

    @property
    def provisional(self) -> list[Hour]:
        return [hour for hour in self.hours if not hour.is_final]


@dataclass(frozen=True)
class Moment:
    """The records whose Kafka timestamp lies in [start, end), by fate."""

    start: datetime
    end: datetime
    accepted: int
    dead: int
    tombstones: int


@dataclass(frozen=True)
class Fates:
    """Moments of equal width; `earlier` records came before them, `ahead` are ahead of the clock, `untimed` have no Kafka timestamp."""

    moments: Sequence[Moment]
    width: timedelta
    earlier: int
    ahead: int
    untimed: int


@dataclass(frozen=True)
class Violation:
    """Dead letters of a topic that break this rule, by what has been decided on them."""

    topic: str
    violation: str
    by_status: Mapping[str, int]

    @property
    def letters(self) -> int:
        return sum(self.by_status.values())


@dataclass(frozen=True)
class Late:
    """Late events of a view's query in one class of lateness; `healed` are counted by a batch run."""

    view: str
    class_seconds: int
    healed: int
    not_healed: int


@dataclass(frozen=True)
class Duration:
    """How long a micro-batch of a query (`records`: how many it read) or a batch run of a view took."""

    name: str
    is_micro_batch: bool
    began_at: datetime
    seconds: float
    records: int | None


@dataclass(frozen=True)
class Agreement:
    """The newest comparison of a view's two layers: rows compared, equal, and by the cause of their difference."""

    view: str
    run_at: datetime
    horizon: datetime | None
    compared: int
    equal: int
    causes: Mapping[str, int]
    unexplained_keys: Sequence[str]


@dataclass(frozen=True)
class Expectations:
    """How many expectations of a table came out how when quality judged it last; `unmet` names those that failed or warned."""

    table: str
    run_at: datetime
    passed: int
    warned: int
    failed: int
    skipped: int
    unmet: Sequence[str]


@dataclass(frozen=True)
class Reason:
    """Rows that were put aside, and why: of a topic or table, what has become of them, in whose words."""

    place: str
    status: str
    reason: str
    rows: int


@dataclass(frozen=True)
class TableRead:
    name: str
    version: int
    rows: int


@dataclass(frozen=True)
class Numbers:
    root: str
    made_at: datetime
    topics: Sequence[TopicFates]
    letters: Mapping[str, int]
    views: Sequence[ViewRows]
    spend: Spend
    customers: Sequence[tuple[str, int, Decimal]]
    words: Sequence[tuple[str, int]]
    fates: Fates | None
    violations: Sequence[Violation]
    reasons: Sequence[Reason]
    late: Sequence[Late]
    durations: Sequence[Duration]
    agreements: Sequence[Agreement]
    expectations: Sequence[Expectations]
    tables: Sequence[TableRead]


class _Lake:
    """The tables of a lake, each at the version it had when it was first asked for."""

    def __init__(self, settings: Settings) -> None:
        root, views = settings.lake.root, catalog.views(settings)
        self._duckdb = DuckDb()
        self._tables = {name: _newest(table_path(root, name)) for name in catalog.schemas(settings)}
        self.states: dict[str, State] = {}
        for view in views.values():
            self.states |= serving.states(None, settings, view)

    def rows(self, sql: str, *tables: str) -> list[Row]:
        """The answer to SQL that names these tables in braces; nothing where one of them does not exist yet."""
        found = {name: table for name in tables if (table := self._tables[name])}
        if len(found) < len(tables):
            return []
        named = {name: self._duckdb.relation(table).name for name, table in found.items()}
        return [*self._duckdb.rows(sql.format(**named))]

    def view_rows(self, select: str, view: View, layer: Layer, tail: str = "") -> list[Row]:
        """The answer to a SELECT over one layer of a view; nothing where that has no table yet."""
        state = self.states[view.name]
        has_rows = {"speed": bool(state.speed), "batch": bool(state.batch)}
        used = [self.states[each.name] for each in needed_views(view)]
        if not has_rows.get(layer, any(each.speed or each.batch for each in used)):
            return []
        sql = layer_sql(view, layer, self.states, self._duckdb.relation)
        return [*self._duckdb.rows(f"SELECT {select} FROM ({sql}) AS layer {tail}")]

    def has(self, name: str) -> bool:
        return self._tables[name] is not None

    def read(self) -> Iterator[TableRead]:
        """The tables that are there, with the versions that were read."""
        for name, table in self._tables.items():
            if table:
                ((count,),) = self.rows(f"SELECT count(*) FROM {{{name}}}", name)
                yield TableRead(name, table.version, count)


def _newest(path: str) -> Table | None:
    version = newest_version(None, path)
    return None if version is None else Table(path, version)


def read(settings: Settings) -> Numbers:
    """What the lake says now; where it has no table for a number yet, there is none."""
    lake, views = _Lake(settings), [*versions.live_views(None, settings).values()]
    now = datetime.now(timezone.utc)
    return Numbers(
        root=settings.lake.root,
        made_at=now,
        topics=_topics(lake),
        letters=_letters(lake),
        views=[_view(lake, view) for view in views],
        spend=_spend(lake, now),
        customers=_customers(lake),
        words=_words(lake),
        fates=_fates(lake, now),
        violations=_violations(lake),
        reasons=_reasons(lake),
        late=_late(lake),
        durations=[*_micro_batches(settings.lake.root, views), *_batch_runs(settings.lake.root, views)],
        agreements=_agreements(lake, views),
        expectations=_expectations(lake),
        tables=[*lake.read()],
    )


def _topics(lake: _Lake) -> list[TopicFates]:
    spans = lake.rows(
        f"""SELECT topic, CAST(SUM(last - first) AS BIGINT) FROM (
            SELECT topic, "partition", MIN(first_offset) AS first, MAX(end_offset) AS last
            FROM {{batch_ledger}} WHERE query = '{INGEST}' GROUP BY topic, "partition") AS spans
        GROUP BY topic""",
        BATCH_LEDGER,
    )

    def by_topic(table: str, condition: str = "TRUE") -> dict[str, int]:
        return dict(
            lake.rows(f"SELECT topic, count(*) FROM {{{table}}} WHERE {condition} GROUP BY topic", table)
        )

    counted: dict[str, dict[str, int]] = {
        "offsets_read": dict(spans),
        "records": by_topic(RAW_EVENTS),
        "dead": by_topic(DEAD_LETTERS),
        "tombstones": by_topic(RAW_EVENTS, "value IS NULL"),
    }
    topics = sorted({topic for counts in counted.values() for topic in counts})
    found = [{name: counts.get(topic, 0) for name, counts in counted.items()} for topic in topics]
    return [
        TopicFates(topic, accepted=one["records"] - one["dead"] - one["tombstones"], **one)
        for topic, one in zip(topics, found, strict=True)
    ]


def _letters(lake: _Lake) -> dict[str, int]:
    """The dead letters by what has been decided on them."""
    rows = lake.rows(
        f"SELECT COALESCE(status, '{DEAD}') AS decided, count(*) FROM {{dead_letters}} "
        f"LEFT JOIN {_repairs(lake)} AS repairs USING ({_ADDRESS}) GROUP BY decided",
        DEAD_LETTERS,
        *_with_repairs(lake),
    )
    counts: dict[str, int] = dict(rows)
    return {name: counts[name] for name in DEAD_LETTER_STATUSES if name in counts}


def _repairs(lake: _Lake) -> str:
    return "{repairs}" if lake.has(REPAIRS) else _NO_REPAIRS


def _with_repairs(lake: _Lake) -> list[str]:
    return [REPAIRS] if lake.has(REPAIRS) else []


def _view(lake: _Lake, view: View) -> ViewRows:
    state = lake.states[view.name]

    def count(layer: Layer) -> int | None:
        return next((rows for (rows,) in lake.view_rows("count(*)", view, layer)), None)

    return ViewRows(
        view.name,
        speed=count("speed"),
        batch=count("batch"),
        served=count("served"),
        horizon=in_utc(state.horizon) if state.horizon else None,
        watermark=state.watermark,
    )


def _spend(lake: _Lake, now: datetime) -> Spend:
    rows = lake.view_rows(
        "window_start, CAST(SUM(hourly_spend) AS DECIMAL(38, 2)), CAST(SUM(order_count) AS BIGINT), count(*), BOOL_AND(is_final)",
        VIEWS["customer_hourly_spend"],
        "served",
        "GROUP BY window_start ORDER BY window_start",
    )
    known = [Hour(in_utc(start), *others) for start, *others in rows]
    hours = [hour for hour in known if hour.start <= now]
    first = hours[-1].start - timedelta(hours=HOURS - 1) if hours else _EPOCH
    earlier, ahead = [hour for hour in hours if hour.start < first], known[len(hours) :]
    return Spend(hours[len(earlier) :], len(earlier), _sum(earlier), len(ahead), _sum(ahead))


def _sum(hours: Sequence[Hour]) -> Decimal:
    return sum((hour.spend for hour in hours), Decimal("0.00"))


def _customers(lake: _Lake) -> list[tuple[str, int, Decimal]]:
    rows = lake.view_rows(
        "customer_id, order_count, total_spend",
        VIEWS["customer_totals"],
        "served",
        f"ORDER BY total_spend DESC, customer_id LIMIT {_TOP}",
    )
    return [(customer, orders, spend) for customer, orders, spend in rows]


def _words(lake: _Lake) -> list[tuple[str, int]]:
    rows = lake.view_rows(
        "word, count", VIEWS["word_counts"], "served", f"ORDER BY count DESC, word LIMIT {_TOP}"
    )
    return [(word, count) for word, count in rows]


def _fates(lake: _Lake, now: datetime) -> Fates | None:
    micros = "epoch_us(kafka_timestamp)"
    is_known = f"{micros} <= {microseconds(now)}"
    whole = lake.rows(
        f"SELECT MIN({micros}), approx_quantile({micros}, {_STRAY_SHARE}), MAX({micros}) FROM {{raw_events}} WHERE {is_known}",
        RAW_EVENTS,
    )
    if not whole or whole[0][0] is None:
        return None
    ((oldest, early, last),) = whole
    ((ahead, untimed),) = lake.rows(
        f"SELECT count(*) FILTER (NOT ({is_known})), count(*) FILTER (kafka_timestamp IS NULL) FROM {{raw_events}}",
        RAW_EVENTS,
    )
    # Where the oldest lie near enough to the others, they are in the picture too.
    begin = oldest if last - oldest <= 2 * (last - early) else early
    begin = max(begin, last - _MOST_MOMENTS * _WIDTHS_SECONDS[-1] * 1_000_000)
    width = _width_micros(begin, last)
    first = begin // width

    def counted(table: str, condition: str) -> dict[int, int]:
        by_moment = f"SELECT {micros} // {width} AS moment, count(*) FROM {{{table}}} WHERE {condition} GROUP BY moment"
        return dict(lake.rows(by_moment, table))

    records = counted(RAW_EVENTS, is_known)
    dead = counted(DEAD_LETTERS, is_known)
    tombstones = counted(RAW_EVENTS, f"value IS NULL AND {is_known}")
    moments = [
        Moment(
            start=_EPOCH + timedelta(microseconds=moment * width),
            end=_EPOCH + timedelta(microseconds=(moment + 1) * width),
            accepted=records.get(moment, 0) - dead.get(moment, 0) - tombstones.get(moment, 0),
            dead=dead.get(moment, 0),
            tombstones=tombstones.get(moment, 0),
        )
        for moment in range(first, last // width + 1)
    ]
    earlier = sum(count for moment, count in records.items() if moment < first)
    return Fates(moments, timedelta(microseconds=width), earlier, ahead, untimed)


def _width_micros(first: int, last: int) -> int:
    widths = [seconds * 1_000_000 for seconds in _WIDTHS_SECONDS]
    return next((width for width in widths if last // width - first // width < _MOST_MOMENTS), widths[-1])


def _violations(lake: _Lake) -> list[Violation]:
    rows = lake.rows(
        f"""SELECT topic, violation, decided, count(*) FROM (
            SELECT topic, UNNEST(violations) AS violation, COALESCE(status, '{DEAD}') AS decided
            FROM {{dead_letters}} LEFT JOIN {_repairs(lake)} AS repairs USING ({_ADDRESS})) AS named
        GROUP BY topic, violation, decided""",
        DEAD_LETTERS,
        *_with_repairs(lake),
    )
    found: dict[tuple[str, str], dict[str, int]] = {}
    for topic, violation, status, count in rows:
        found.setdefault((topic, violation), {})[status] = count
    violations = [Violation(*names, by_status) for names, by_status in found.items()]
    return sorted(violations, key=lambda one: (-one.letters, one.topic, one.violation))


def _reasons(lake: _Lake) -> list[Reason]:
    """Why rows were put aside, in the words of who did it, the most frequent first."""
    rows = [
        *lake.rows("SELECT topic, status, reason, count(*) FROM {repairs} GROUP BY ALL", REPAIRS),
        *lake.rows(
            "SELECT topic, 'skipped', reason, count(*) FROM {skipped_records} GROUP BY ALL", SKIPPED_RECORDS
        ),
        *lake.rows(
            "SELECT \"table\", 'not extracted', reason, count(*) FROM {etl_dead_letters} GROUP BY ALL",
            ETL_DEAD_LETTERS,
        ),
    ]
    reasons = sorted((Reason(*row) for row in rows), key=lambda one: (-one.rows, one.place, one.reason))
    return reasons[:_MOST_REASONS]


def _late(lake: _Lake) -> list[Late]:
    rows = lake.rows(
        "SELECT query, lateness_seconds, healed_at IS NOT NULL, count(*) FROM {late_events} GROUP BY ALL",
        LATE_EVENTS,
    )
    found: dict[tuple[str, int], list[int]] = {}
    for view, seconds, is_healed, count in rows:
        bound = max((low for low in late.CLASS_SECONDS if low <= seconds), default=0)
        found.setdefault((view, bound), [0, 0])[0 if is_healed else 1] += count
    return [Late(view, bound, *counts) for (view, bound), counts in sorted(found.items())]


def _micro_batches(root: str, views: Sequence[View]) -> Iterator[Duration]:
    """From when Spark chose what a micro-batch reads to its last commit; ingest ends with the ledger, a view with its table."""
    ends = {INGEST: table_path(root, BATCH_LEDGER)}
    ends |= {view.query: view_path(root, view.name, "speed", view.label) for view in views}
    for query, table in ends.items():
        checkpoint = checkpoint_path(root, query)
        generation = checkpoints.generation(None, checkpoint)
        if generation is None:
            continue
        application = Transaction(query, generation, 0).application
        committed = {
            taken[application]: commit.made_at
            for commit in islice(commits(None, table), _MOST_COMMITS)
            if application in (taken := commit.transactions)
        }
        for batch_id in sorted(committed, reverse=True)[:_MOST_BATCHES]:
            try:
                batch = checkpoints.micro_batch(None, checkpoint, batch_id)
            except FileNotFoundError:  # Spark keeps the last 100, and may be running
                break
            seconds = (committed[batch_id] - batch.planned_at).total_seconds()
            records = sum(part.end - part.first for part in batch.ranges) if batch.ranges else None
            name = query.rpartition("_v")[0]
            yield Duration(name, True, batch.planned_at, max(seconds, 0.0), records)


def _batch_runs(root: str, views: Sequence[View]) -> Iterator[Duration]:
    """From the beginning of a view's batch run to the commit that publishes it."""
    for view in views:
        path = view_path(root, view.name, "batch", view.label)
        told = ((commit, commit.metadata) for commit in commits(None, path))
        published = ((commit, facts) for commit, facts in told if facts and "begun_at" in facts)
        for commit, facts in islice(published, _MOST_RUNS):
            began_at = datetime.fromisoformat(facts["begun_at"])
            yield Duration(
                view.name, False, began_at, max((commit.made_at - began_at).total_seconds(), 0.0), None
            )


def _agreements(lake: _Lake, views: Sequence[View]) -> list[Agreement]:
    rows = lake.rows(
        f"SELECT view, run_at, horizon, compared, equal, unexplained_keys, {', '.join(CAUSES)} FROM {{reconciliation}} "
        "QUALIFY ROW_NUMBER() OVER (PARTITION BY view ORDER BY run_at DESC) = 1",
        RECONCILIATION,
    )
    order = [view.name for view in views]
    found = [
        Agreement(
            view=view,
            run_at=in_utc(run_at),
            horizon=in_utc(horizon) if horizon else None,
            compared=compared,
            equal=equal,
            causes=dict(zip(CAUSES, counts, strict=True)),
            unexplained_keys=keys[:_MOST_KEYS],
        )
        for view, run_at, horizon, compared, equal, keys, *counts in rows
    ]
    return sorted(
        found, key=lambda one: (order.index(one.view) if one.view in order else len(order), one.view)
    )


def _expectations(lake: _Lake) -> list[Expectations]:
    outcomes = ("passed", "warned", "failed", "skipped")
    counts = ", ".join(f"count(*) FILTER (outcome = '{outcome}')" for outcome in outcomes)
    rows = lake.rows(
        f"""SELECT "table", run_at, {counts},
            LIST(expectation ORDER BY expectation) FILTER (outcome IN ('failed', 'warned'))
        FROM (SELECT * FROM {{quality_results}}
              QUALIFY run_at = MAX(run_at) OVER (PARTITION BY "table")) AS newest
        GROUP BY "table", run_at ORDER BY "table" """,
        QUALITY_RESULTS,
    )
    return [
        Expectations(table, in_utc(run_at), passed, warned, failed, skipped, unmet or ())
        for table, run_at, passed, warned, failed, skipped, unmet in rows
    ]
