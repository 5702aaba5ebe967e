"""Speed tables are appended to, so their files grow in number and hold rows that newer ones have taken the place of.

Compaction leaves the rows that count (`views.place_of_row`) of the files that it puts together. Whichever files these are: a row
that does not count among some rows of its key does not count among all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from delta.exceptions import DeltaConcurrentModificationException
from pyspark.sql import DataFrame, SparkSession

from pipeline.delta_log import DataFile, file_count, put_together
from pipeline.sinks import commit_lock
from pipeline.views import BATCH_ID, View, first_of_each_key

__all__ = ["TARGET_BYTES", "compact", "keeper", "much_as_all_smaller"]

_FILES = 32
"""So many more files, and the table is looked at. Up to 50 in all, a commit needs no Spark job."""
TARGET_BYTES = 128 * 1024 * 1024


def keeper(spark: SparkSession, path: str, view: View) -> Callable[[], None]:
    """A function to call after each append of the view's query, which sees to it that reading the table stays cheap.

    The smaller files become one as soon as they are many, and a larger one with them when they hold as much as it does: so each row
    is written anew a few times only, however long the table has grown, and the files that are left are few. Those of half the
    target stay as they are, so that no micro-batch waits for long; `pipeline maintain` takes these, too.
    """
    most = _FILES

    def keep() -> None:
        nonlocal most
        if file_count(spark, path) <= most:
            return
        try:
            _, left = _compact(spark, path, view, chosen=much_as_all_smaller)
        except DeltaConcurrentModificationException:  # maintenance of another process: there is a next time
            return
        most = left + _FILES

    return keep


def compact(spark: SparkSession, path: str, view: View) -> None:
    """Of the whole table, leave the rows that count, in files of about the target.

    Where nothing keeps writers apart, its query may have put some of the files together meanwhile: then it begins anew.
    """
    for is_last in (False, False, True):
        try:
            _compact(spark, path, view, chosen=lambda files: files)
            return
        except DeltaConcurrentModificationException:
            if is_last:
                raise


def much_as_all_smaller(files: Sequence[DataFile]) -> Sequence[DataFile]:
    """The smaller ones among the files: the largest of them holds no more than the others together."""
    ordered = sorted((one for one in files if one.bytes < TARGET_BYTES // 2), key=lambda one: one.bytes)
    held = sum(one.bytes for one in ordered)
    while ordered and ordered[-1].bytes > held - ordered[-1].bytes:
        held -= ordered.pop().bytes
    return ordered


def _compact(
    spark: SparkSession,
    path: str,
    view: View,
    *,
    chosen: Callable[[Sequence[DataFile]], Sequence[DataFile]],
) -> tuple[int, int]:
    with commit_lock(path):
        return put_together(spark, path, chosen=chosen, rows_of=partial(_counting, view))


def _counting(view: View, rows: DataFrame, files: Sequence[DataFile]) -> DataFrame:
    """The rows that count, with the columns of the table, in partitions by key of about the target."""
    partitions = -(-sum(one.bytes for one in files) // TARGET_BYTES)
    spread = rows.repartition(partitions, *view.keys)
    if BATCH_ID not in rows.columns:  # a table of an earlier lake, which has one row of each key
        return spread
    return first_of_each_key(spread, view=view, precedence=[*view.precedence, BATCH_ID])
