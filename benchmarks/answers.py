"""Whether what a candidate wrote is right; a wrong answer makes its time void."""

from __future__ import annotations

from pathlib import Path

import duckdb
from deltalake import DeltaTable
from events import Preloaded

__all__ = ["Wrong", "check"]

_LOG = """
SELECT count(*) AS rows, count(*) - count(DISTINCT value) AS twice, sum(hash(value)) AS content FROM {records}
"""

_SPEND = """
WITH found AS (
    SELECT customer_id, window_start::TIMESTAMP AS window_start, hourly_spend, order_count FROM {found} WHERE window_start::TIMESTAMP < {closing}
), compared AS (
    SELECT w.order_count AS most, w.hourly_spend AS most_spend, w.sure_count AS least, w.sure_spend AS least_spend,
           f.order_count AS n, f.hourly_spend AS spend
    FROM {wanted} AS w FULL JOIN found AS f USING (customer_id, window_start)
)
SELECT count(*) FILTER (most IS NULL) AS extra, count(*) FILTER (n IS NULL AND least > 0) AS missing,
       count(*) FILTER (n NOT BETWEEN least AND most OR spend NOT BETWEEN least_spend AND most_spend
                        OR (n = least AND spend <> least_spend) OR (n = most AND spend <> most_spend)) AS wrong,
       (SELECT count(*) - count(DISTINCT (customer_id, window_start)) FROM found) AS twice
FROM compared
"""

_JOIN = """
WITH found AS (SELECT order_id, product_id, name, cost FROM {found} WHERE NOT starts_with(order_id, 'closing'))
SELECT count(*) FILTER (w.order_id IS NULL) AS extra, count(*) FILTER (f.order_id IS NULL AND w.is_sure) AS missing,
       count(*) FILTER (f.product_id IS DISTINCT FROM w.product_id OR f.name IS DISTINCT FROM w.name OR f.cost IS DISTINCT FROM w.cost)
           - count(*) FILTER (w.order_id IS NULL) - count(*) FILTER (f.order_id IS NULL) AS wrong,
       (SELECT count(*) - count(DISTINCT order_id) FROM found) AS twice
FROM {wanted} AS w FULL JOIN found AS f USING (order_id)
"""


class Wrong(Exception):
    """The answer is not the right one; the message says in which way."""


def check(workload: str, answer: str, loaded: Preloaded) -> str:
    """What was right, in a few words. A stream may have dropped what came too late, and nothing else; a batch nothing. Raises Wrong."""
    found = _rows_of(answer)
    if workload == "log":
        return _same_bytes(found, loaded)
    is_join = workload == "join"
    wanted = _file(loaded, "enriched_lines" if is_join else "hourly_spend")
    rule = _JOIN if is_join else _SPEND
    query = rule.format(
        found=found,
        wanted=wanted,
        closing=f"make_timestamp({loaded.closing_ms // 3_600_000 * 3_600_000_000})",
    )
    counts = _one_row(query)
    if workload.startswith("rebuild"):
        counts["incomplete"] = _one_row(
            f"SELECT count(*) AS n FROM {wanted} AS w ANTI JOIN {found} AS f "
            "ON w.customer_id = f.customer_id AND w.window_start = f.window_start::TIMESTAMP AND w.order_count = f.order_count"
        )["n"]
    if any(counts.values()):
        raise Wrong(", ".join(f"{count:,} {name}" for name, count in counts.items() if count))
    return f"{_one_row(f'SELECT count(*) AS n FROM {found}')['n']:,} rows right"


def _same_bytes(found: str, loaded: Preloaded) -> str:
    of_orders = f"(SELECT CAST(value AS BLOB) AS value FROM {found} WHERE topic = '{loaded.orders}')"
    sent = f"(SELECT CAST(value AS BLOB) AS value FROM {_file(loaded, 'order_records')})"
    got, wanted = (_one_row(_LOG.format(records=records)) for records in (of_orders, sent))
    if got != wanted:
        raise Wrong(
            f"{got['rows']:,} records, {wanted['rows']:,} were sent"
            if got["rows"] != wanted["rows"]
            else "other bytes than sent"
        )
    return f"{got['rows']:,} records, the same bytes"


def _rows_of(answer: str) -> str:
    files = DeltaTable(answer).file_uris()
    if not files:
        raise Wrong("the table has no rows")
    return f"read_parquet([{', '.join(repr(file) for file in files)}])"


def _file(loaded: Preloaded, answer: str) -> str:
    return f"read_parquet('{Path(loaded.answers) / answer}.parquet')"


def _one_row(query: str) -> dict[str, int]:
    result = duckdb.sql(query)
    [values] = result.fetchall()
    return dict(zip(result.columns, (value or 0 for value in values), strict=True))
