"""What a condition may say, and what it may not, whatever the engine would do with it."""

from __future__ import annotations

import pytest

from pipeline.conditions import as_condition
from pipeline.errors import UsageError

COLUMNS = ("customer_id", "total_spend", "last_event_time")


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("customer_id = 'c1'", "customer_id = 'c1'"),
        ('customer_id = "c1"', "customer_id = 'c1'"),
        (
            "`customer_id` IN ('a', 'b') OR NOT total_spend > 5",
            "\"customer_id\" IN ('a', 'b') OR NOT total_spend > 5",
        ),
        ("total_spend BETWEEN -1.50 AND 1e3", "total_spend BETWEEN -1.50 AND 1e3"),
        ("customer_id IS NOT NULL AND lower(customer_id) LIKE 'c%'", None),
        ("last_event_time >= '2026-01-01T00:00:00Z'", "last_event_time >= '2026-01-01T00:00:00Z'"),
        ("last_event_time > TIMESTAMP '2026-01-01 00:00:00' + INTERVAL 1 HOUR", None),
        ("(total_spend + 1) * 2 % 3 = 0", None),
        ("customer_id = 'it''s -- not a comment'", None),
        ("CASE WHEN total_spend > 1 THEN TRUE ELSE FALSE END", None),
    ],
)
def test_a_condition_is_written_anew(text: str, written: str | None) -> None:
    found = as_condition(text, columns=COLUMNS, dialect="duckdb")
    assert found if written is None else found == written


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "customer_id =",
        "1 = 1; DROP TABLE x",
        "1 = 1) UNION SELECT * FROM x --",
        "TRUE ORDER BY 1",
        "TRUE LIMIT 5",
        "TRUE GROUP BY customer_id",
        "customer_id IN (SELECT customer_id FROM batch)",
        "EXISTS (SELECT 1)",
        "total_spend > (SELECT max(total_spend) FROM other)",
        "read_text('/etc/passwd') = 'x'",
        "customer_id = getenv('HOME')",
        "glob('/*') IS NOT NULL",
        "current_setting('threads') = '1'",
        "java_method('java.lang.System', 'exit', '0') = 1",
        "reflect('java.lang.System', 'getenv', 'HOME') = 'x'",
        "sum(total_spend) > 1",
        "row_number() OVER (ORDER BY customer_id) = 1",
        "other.customer_id = 'x'",
        "no_such_column = 1",
        "password = 'x'",
        "transform(array(1), x -> x)[0] = 1",
        "version() = 'x'",
        "/*+ hint */ customer_id = 'x' AND rand() > 0",
        "customer_id = :name",
        "customer_id = ?",
        "customer_id = @variable",
        "(" * 5_000 + "TRUE" + ")" * 5_000,
        "customer_id = '" + "x" * 20_000 + "'",
    ],
)
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        as_condition(text, columns=COLUMNS, dialect="duckdb")
