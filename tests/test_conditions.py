"""What a condition may say, that it means the same to both engines, and what it may not say."""

from __future__ import annotations

import random
from collections.abc import Sequence
from datetime import datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

import duckdb
import pyarrow as pa
import pytest
from pyspark.sql import SparkSession
from pyspark.sql import functions as F
from pyspark.sql import types as T

from pipeline.conditions import as_condition
from pipeline.errors import UsageError

COLUMNS: dict[str, T.DataType] = {
    "customer_id": T.StringType(),
    "total_spend": T.DecimalType(38, 2),
    "profit_margin": T.DecimalType(18, 4),
    "order_count": T.LongType(),
    "line": T.IntegerType(),
    "last_event_time": T.TimestampType(),
    "is_final": T.BooleanType(),
}
UTC = timezone.utc
EDGES: dict[str, list[Any]] = {
    "customer_id": [None, "", "c1", "C1", "c_1", "c%1", "c\\1", "it's", "ß", "ẞ", "İ", "Zoë", "🛒🛒", " c1 ", "42", "a\nb", "�"],
    "total_spend": [None, Decimal(0), Decimal("-0.01"), Decimal("0.10"), Decimal("2.50"), Decimal("3.00"), Decimal("9" * 36 + ".99"), Decimal("-" + "9" * 36 + ".99")],
    "profit_margin": [None, Decimal("0.0000"), Decimal("0.6667"), Decimal("-99999999999999.9999"), Decimal("0.5000")],
    "order_count": [None, 0, 1, -1, 2**63 - 1, -(2**63), 3],
    "line": [None, 0, 2**31 - 1, -(2**31), 7],
    "last_event_time": [
        None, datetime(1, 1, 1, tzinfo=UTC), datetime(9999, 12, 31, 23, 59, 59, 999_999, UTC), datetime(1970, 1, 1, tzinfo=UTC),
        datetime(1969, 12, 31, 23, 59, 59, 999_999, UTC), datetime(2026, 1, 1, tzinfo=UTC), datetime(2024, 2, 29, 12, 30, 15, 1, UTC),
        datetime(1582, 10, 10, tzinfo=UTC), datetime(1900, 1, 1, 0, 0, 1, tzinfo=UTC),
    ],
    "is_final": [None, True, False],
}  # fmt: skip
ROWS = 60
ASKED = 300
"""Conditions; 3,000 were asked when this was written."""


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("customer_id = 'c1'", "(\"customer_id\" = 'c1')"),
        ('customer_id = "c1"', "(\"customer_id\" = 'c1')"),
        ("`customer_id` IN ('a', 'b')", "(\"customer_id\" IN ('a', 'b'))"),
        ("customer_id = 'it\\'s -- not a comment'", "(\"customer_id\" = 'it''s -- not a comment')"),
        ("order_count > 1e3", '("order_count" > CAST(1000 AS BIGINT))'),
        ("total_spend = '1.5'", "(\"total_spend\" = CAST('1.5' AS DECIMAL(38, 2)))"),
        (
            "last_event_time > TIMESTAMP '2026-01-01 00:00:00' + INTERVAL 1 HOUR",
            "(\"last_event_time\" > TIMESTAMPTZ '2026-01-01 01:00:00.000000+00:00')",
        ),
        ("year(last_event_time) = 2026", '(year("last_event_time") = CAST(2026 AS BIGINT))'),
        ("EXTRACT(DAY FROM last_event_time) = 2", '(day("last_event_time") = CAST(2 AS BIGINT))'),
        ("month(last_event_time) = 2", '(month("last_event_time") = CAST(2 AS BIGINT))'),
        (
            "CAST(last_event_time AS DATE) = DATE '2026-01-01'",
            "(date_trunc('day', \"last_event_time\") = TIMESTAMPTZ '2026-01-01 00:00:00.000000+00:00')",
        ),
        ("is_final IS NOT TRUE", '(NOT (COALESCE("is_final", FALSE) = TRUE))'),
    ],
)
def test_a_condition_is_written_anew(text: str, written: str) -> None:
    assert as_condition(text, columns=COLUMNS, engine="duckdb") == written


def test_a_text_is_no_template_of_spark() -> None:
    written = as_condition("customer_id IN ('{answer}', '}', '${env:HOME}')", columns=COLUMNS, engine="spark")
    assert not {*"{}$"} & {*written}
    assert written.replace("\\u0024", "$").replace("\\u007b", "{").replace("\\u007d", "}") == (
        "(`customer_id` IN ('{answer}', '}', '${env:HOME}'))"
    )


def test_both_engines_keep_the_same_rows(spark: SparkSession) -> None:
    chance = random.Random(7)
    rows = [tuple(chance.choice(values) for values in EDGES.values()) for _ in range(ROWS)]
    texts = [_condition(chance, 2) for _ in range(ASKED)]
    frame = spark.createDataFrame(
        rows, T.StructType([T.StructField(*one) for one in COLUMNS.items()])
    ).coalesce(1)
    in_spark = [as_condition(text, columns=COLUMNS, engine="spark") for text in texts]
    (kept,) = frame.agg(
        *[F.collect_list(F.expr(one)).alias(f"c{n}") for n, one in enumerate(map(_told, in_spark))]
    ).collect()
    connection = duckdb.connect(config={"enable_external_access": "false"})
    connection.execute("SET TimeZone = 'UTC'")
    connection.register("rows", _as_arrow(rows))
    seen = set[bool | None]()
    for number, text in enumerate(texts):
        condition = as_condition(text, columns=COLUMNS, engine="duckdb")
        found = [row[0] for row in connection.sql(f"SELECT {_told(condition)} FROM rows").fetchall()]
        assert found == kept[number], (text, condition, in_spark[number])
        seen |= {*found}
    assert seen == {"true", "false", "null"}


def _told(condition: str) -> str:
    return f"CASE WHEN {condition} THEN 'true' WHEN NOT {condition} THEN 'false' ELSE 'null' END"


def _as_arrow(rows: Sequence[tuple[Any, ...]]) -> pa.Table:
    kinds = [
        pa.string(), pa.decimal128(38, 2), pa.decimal128(18, 4), pa.int64(), pa.int32(), pa.timestamp("us", tz="UTC"), pa.bool_(),
    ]  # fmt: skip
    columns = zip(*rows, strict=True)
    return pa.table(
        {name: pa.array(values, kind) for name, values, kind in zip(COLUMNS, columns, kinds, strict=True)}
    )


def _condition(chance: random.Random, depth: int) -> str:
    if depth and chance.random() < 0.4:
        one, other = _condition(chance, depth - 1), _condition(chance, depth - 1)
        return chance.choice(
            (f"({one} AND {other})", f"{one} OR {other}", f"NOT ({one})", f"({one}) IS NOT TRUE")
        )
    name = chance.choice([*COLUMNS])
    made = {
        "customer_id": (
            lambda: f"customer_id {_sign(chance)} {_text(chance)}",
            lambda: f"customer_id {chance.choice(('', 'NOT '))}LIKE {_pattern(chance)}",
            lambda: f"startswith(customer_id, {_text(chance)})",
            lambda: f"length(customer_id) {_sign(chance)} {chance.randrange(4)}",
            lambda: f"customer_id IN ({_text(chance)}, {_text(chance)})",
            lambda: f"coalesce(customer_id, {_text(chance)}) {_sign(chance)} {_text(chance)}",
        ),
        "is_final": (
            lambda: chance.choice(
                ("is_final", "is_final = FALSE", "is_final IS NULL", "is_final IS NOT FALSE")
            ),
        ),
        "last_event_time": (
            lambda: f"last_event_time {_sign(chance)} {_time(chance)}",
            lambda: f"last_event_time NOT BETWEEN {_time(chance)} AND {_time(chance)}",
            lambda: f"date(last_event_time) {_sign(chance)} {_time(chance)}",
            lambda: (
                f"date_trunc('{chance.choice(('year', 'MONTH', 'day', 'hour', 'minute'))}', last_event_time) {_sign(chance)} {_time(chance)}"
            ),
            lambda: (
                f"{chance.choice(('year', 'month', 'day', 'hour', 'minute'))}(last_event_time) {_sign(chance)} {chance.choice((1, 12, 30, 2026))}"
            ),
            lambda: f"extract(day FROM last_event_time) {_sign(chance)} {chance.randrange(1, 31)}",
        ),
    }
    if name in made:
        return chance.choice(made[name])()
    number = str(chance.choice([value for value in EDGES[name] if value is not None]))
    other = str(chance.choice([value for value in EDGES[name] if value is not None]))
    return chance.choice(
        (
            f"{name} {_sign(chance)} {number}",
            f"{name} BETWEEN {number} AND {other}",
            f"{name} NOT IN ({number}, {other})",
            f"coalesce({name}, {number}) {_sign(chance)} {other}",
            f"{name} IS NULL",
            f"{name} {_sign(chance)} {name}",
        )
    )


def _sign(chance: random.Random) -> str:
    return chance.choice(("=", "<>", "!=", "<", "<=", ">", ">=", "<=>"))


def _text(chance: random.Random) -> str:
    return _quoted(chance.choice([text for text in EDGES["customer_id"] if text is not None]))


def _pattern(chance: random.Random) -> str:
    return chance.choice(
        (
            "'c%'",
            "'c_1'",
            r"'c\_1%'",
            r"'c\%1'",
            r"'c\\\\1'",
            "'%1'",
            "'_'",
            "'__'",
            "''",
            "'%'",
            "'C%'",
            r"'%\%%'",
        )
    )


def _quoted(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


def _time(chance: random.Random) -> str:
    time = chance.choice([time for time in EDGES["last_event_time"] if time is not None])
    written = f"'{time.isoformat()}'"
    if timedelta(days=400) < time - datetime(1, 1, 1, tzinfo=UTC) < timedelta(days=3_000_000):
        return chance.choice(
            (
                written,
                f"TIMESTAMP {written}",
                f"TIMESTAMP {written} + INTERVAL 90 MINUTES",
                f"TIMESTAMP {written} - INTERVAL 2 DAYS",
            )
        )
    return written


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "customer_id",
        "customer_id =",
        "1",
        "1 = 1",
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
        # What the engines do not understand alike.
        "cast(total_spend AS int) = 3",
        "total_spend / 2 > 1",
        "total_spend * 2 > 1",
        "total_spend + 1 > 1",
        "order_count % 2 = 0",
        "total_spend > 1.001",
        "total_spend > 1e40",
        "order_count = 1.5",
        "order_count = 9223372036854775808",
        "order_count = total_spend",
        "customer_id = 42",
        "customer_id = total_spend",
        "lower(customer_id) = 'c1'",
        "customer_id ILIKE 'c%'",
        r"customer_id LIKE 'c\\1'",
        "substring(customer_id, 0, 1) = 'c'",
        "extract(dayofweek FROM last_event_time) = 1",
        "extract(second FROM last_event_time) = 1",
        "cast(last_event_time AS string) = '2026'",
        "last_event_time > 5",
        "last_event_time > '2026-13-01'",
        "last_event_time > TIMESTAMP '9999-12-31' + INTERVAL 2 DAYS",
        "last_event_time > now()",
        "last_event_time > TIMESTAMP '2026-01-01' + INTERVAL 999999999 WEEKS",
        "last_event_time > '20260101'",
        "last_event_time > '2026-W01-1'",
        "last_event_time > '2026-01-01T12:00:00.1234567Z'",
        "order_count = 1e999999999",
        "total_spend = 1e-999999999",
        "total_spend = 1e999999999 + 1",
        "'1' IN (customer_id, total_spend)",
        "'1' BETWEEN customer_id AND total_spend",
        "1 IN (order_count, total_spend)",
        "date_trunc('week', last_event_time) = '2026-01-01'",
        "customer_id = NULL",
        "customer_id IN ('a', NULL)",
        "customer_id = 'it''s'",
        "is_final = 1",
        "CASE WHEN is_final THEN TRUE END",
    ],
)
@pytest.mark.parametrize("engine", ["duckdb", "spark"])
def test_anything_else_is_refused_in_words(text: str, engine: Any) -> None:
    with pytest.raises(UsageError) as refused:
        as_condition(text, columns=COLUMNS, engine=engine)
    assert "sqlglot" not in refused.value.message
    assert "Expecting" not in refused.value.message
