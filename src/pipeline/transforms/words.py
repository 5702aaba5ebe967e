"""How often each word occurs."""

from __future__ import annotations

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

__all__ = ["word_counts"]

_NOT_A_WORD = r"[^\p{L}\p{Nd}_]+"


def word_counts(lines: DataFrame) -> DataFrame:
    """One row per word: word (lower case; letters and digits of any script, and `_`), count. No event time, so nothing is late."""
    words = lines.select(F.explode(F.split(F.lower("line"), _NOT_A_WORD)).alias("word"))
    return words.where(F.col("word") != "").groupBy("word").agg(F.count(F.lit(1)).alias("count"))
