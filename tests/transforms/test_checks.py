"""The rules for single fields, each as one table of texts and what they mean."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime, timezone
from decimal import Decimal

import pytest
from pyspark.sql import Column, SparkSession
from pyspark.sql import functions as F

from pipeline.transforms.checks import amount, event_time, instant, is_identifier

AMOUNTS: Sequence[tuple[str | None, str | None]] = [
    ("0", "0.00"),
    ("12.5", "12.50"),
    ("1.500", "1.50"),
    ("9999999999.99", "9999999999.99"),
    ("9999999999.990000000000000000000000", "9999999999.99"),
    ("9999999999.991", None),
    ("10000000000", None),
    ("1e10", None),
    ("1.23456789E7", "12345678.90"),
    ("9.99999999999E9", "9999999999.99"),
    ("0.010e1", "0.10"),
    ("1500e-1", "150.00"),
    ("1E+2", "100.00"),
    ("100e-4", "0.01"),
    ("10e-4", None),
    ("0.001", None),
    ("0.0010", None),
    ("1e-400", None),
    ("1e400", None),
    ("0e999999999999", "0.00"),
    ("-0.0", "0.00"),
    ("-0", "0.00"),
    ("-0.01", None),
    ("1e-99999999999999999999", None),
    ("1e99999999999999999999", None),
    ("1e0000000000000000000001", "10.00"),
    ("1" + "0" * 5_000 + "e-5000", "1.00"),
    ("0." + "0" * 5_000 + "1e5001", "1.00"),
    ("1" * 5_000, None),
    (" 1.5", None),
    ("1.5 ", None),
    ("1.5\n", None),
    ("+5", None),
    (".5", None),
    ("5.", None),
    ("05", None),
    ("1e", None),
    ("1,5", None),
    ("٣", None),
    ("0x1", None),
    ("NaN", None),
    ("Infinity", None),
    ("true", None),
    ("", None),
    (None, None),
]

KAFKA_TIME = datetime(2026, 1, 5, 12, 0, tzinfo=timezone.utc)

TIMES: Sequence[tuple[str | None, str | None]] = [
    ("2026-01-05T12:00:00Z", "2026-01-05 12:00:00.000000"),
    ("2026-01-05T12:05:00Z", "2026-01-05 12:05:00.000000"),
    ("2026-01-05T12:05:00.000001Z", None),
    ("2026-01-05T14:04:59.5+02:00", "2026-01-05 12:04:59.500000"),
    ("2026-01-05T11:59:59.123456-00:00", "2026-01-05 11:59:59.123456"),
    ("2026-01-05T12:00:00.1234567Z", None),
    ("2026-01-05T12:00:00.Z", None),
    ("2026-01-06T11:59:00+23:59", "2026-01-05 12:00:00.000000"),
    ("2026-01-04T12:01:00-23:59", "2026-01-05 12:00:00.000000"),
    ("2026-01-05T12:00:00+24:00", None),
    ("2026-01-05T12:00:00+01:60", None),
    ("2000-01-01T00:00:00Z", "2000-01-01 00:00:00.000000"),
    ("1999-12-31T23:59:59.999999Z", None),
    ("1999-12-31T23:30:00-01:00", "2000-01-01 00:30:00.000000"),
    ("2000-01-01T00:30:00+01:00", None),
    ("0000-01-01T00:00:00Z", None),
    ("2024-02-29T00:00:00Z", "2024-02-29 00:00:00.000000"),
    ("2025-02-29T00:00:00Z", None),
    ("2025-02-29T00:00:00+01:00", None),
    ("2026-01-05T24:00:00Z", None),
    ("2026-01-04T23:59:60Z", None),
    ("2026-01-05T12:00:00", None),
    ("2026-01-05 12:00:00Z", None),
    ("2026-01-05T12:00:00z", None),
    ("2026-01-05T12:00Z", None),
    ("2026-01-05", None),
    ("T03:04:05Z", None),
    ("2026-01-05T12:00:00 UTC", None),
    ("2026-01-05T12:00:00+0100", None),
    ("2026-01-05T12:00:00Z\n", None),
    (" 2026-01-05T12:00:00Z", None),
    ("٢٠٢٦-01-05T12:00:00Z", None),
    ("1767614400", None),
    (None, None),
]

IDENTIFIERS: Sequence[tuple[str | None, str | None]] = [
    ("a", "a"),
    (" ", " "),
    ("x" * 128, "x" * 128),
    ("x" * 129, None),
    ("😀" * 128, "😀" * 128),
    ("😀" * 129, None),
    ("", None),
    (None, None),
]


def outcomes(
    spark: SparkSession, texts: Sequence[str | None], check: Callable[[Column], Column]
) -> list[str | None]:
    """What the check makes of each text, in one job, as text."""
    rows = spark.createDataFrame(list(enumerate(texts)), "id int, text string")
    found = rows.select("id", check(F.col("text")).cast("string").alias("outcome")).collect()
    return [row["outcome"] for row in sorted(found, key=lambda row: row["id"])]


def test_amounts(spark: SparkSession) -> None:
    found = outcomes(spark, [text for text, _ in AMOUNTS], lambda text: amount(text, F.lit("{}"), "total"))
    wrong = [(text, got, want) for (text, want), got in zip(AMOUNTS, found, strict=True) if got != want]
    assert wrong == []


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        ('{"total":0.0}', Decimal("0.00")),
        ('{"total":1e-400}', None),
        ('{"total" : -12.5E-0400}', None),
        ('{"name":"1e-400","total":0.0}', Decimal("0.00")),
        ('{"total":0.0,"items":[{"price":1e-400}]}', Decimal("0.00")),
    ],
)
def test_a_zero_may_be_a_number_too_small_for_a_double(
    spark: SparkSession, document: str, expected: Decimal | None
) -> None:
    row = spark.range(1).select(amount(F.lit("0.0"), F.lit(document), "total").alias("amount")).first()
    assert row is not None
    assert row["amount"] == expected


def test_event_times(spark: SparkSession) -> None:
    found = outcomes(
        spark,
        [text for text, _ in TIMES],
        lambda text: F.date_format(
            event_time(instant(text), F.lit(KAFKA_TIME)), "yyyy-MM-dd HH:mm:ss.SSSSSS"
        ),
    )
    wrong = [(text, got, want) for (text, want), got in zip(TIMES, found, strict=True) if got != want]
    assert wrong == []


def test_no_event_time_without_a_kafka_timestamp(spark: SparkSession) -> None:
    nothing = F.lit(None).cast("timestamp")
    assert outcomes(spark, ["2026-01-05T12:00:00Z"], lambda text: event_time(instant(text), nothing)) == [
        None
    ]


def test_identifiers(spark: SparkSession) -> None:
    found = outcomes(spark, [text for text, _ in IDENTIFIERS], lambda text: F.when(is_identifier(text), text))
    assert found == [want for _, want in IDENTIFIERS]
