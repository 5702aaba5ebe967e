"""That a query's topics are those its checkpoint has read, and still hold what comes next; also while it runs."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from pyspark.sql import SparkSession

from pipeline import checkpoints, files
from pipeline.errors import DependencyError, KafkaFailed, OffsetsLost, TopicReplaced
from pipeline.guards.notes import Comparison, anew, keep_note, known_note, listed, plan_changed
from pipeline.kafka_topics import Topic, Topics, asking, describe

__all__ = ["check_sources", "compared_sources", "replaced_topics", "same_topics"]


def check_sources(spark: SparkSession, *, query: str, checkpoint: str, topics: Topics) -> None:
    """That the topics are those the checkpoint has read, and still hold what comes next; noted for a new query.

    A topic that has come in addition is read from its beginning, and noted. Raises PlanChanged where one is read no more, and
    as `compared_sources`.
    """
    found = compared_sources(spark, query=query, checkpoint=checkpoint, topics=topics)
    if found.forbidden:
        raise plan_changed(query, checkpoint, found.forbidden)
    keep_note(spark, checkpoint, "sources.json", found.note)


def compared_sources(spark: SparkSession, *, query: str, checkpoint: str, topics: Topics) -> Comparison:
    """The topics beside those that the checkpoint has read: one that is read no more is forbidden, one in addition allowed.

    A query that has read the log cannot go on with Kafka, nor the other way round: that is forbidden, too.

    Raises TopicReplaced for a topic made anew under its old name, OffsetsLost for records that have expired before they were
    read, or that were read and are there no more.
    """
    now = describe(spark, topics)
    ids = {name: topic.id for name, topic in sorted(now.items())}
    then = known_note(spark, query=query, checkpoint=checkpoint, name="sources.json")
    known = then or {}
    differences = [("topics", listed(known), listed(ids))]
    reads_another_source = then is not None and bool(known) != bool(ids)  # the log, or Kafka
    if reads_another_source or not {*known} <= {*ids}:
        return Comparison(forbidden=differences)
    for name, topic_id in known.items():
        if ids[name] != topic_id:
            raise _topic_replaced(query, checkpoint, name)
    places = {
        (name, partition): offset for name, partition, offset in checkpoints.next_offsets(spark, checkpoint)
    }
    if places:  # what has come in addition is to be read whole: Spark begins it at 0, and at nothing else
        places = {(name, part): 0 for name, topic in now.items() for part in topic.offsets} | places
    for (name, partition), offset in sorted(places.items()):
        _require_offset(query, checkpoint, name, partition, offset, now.get(name))
    return Comparison(allowed=differences if then is not None and known != ids else (), note=ids)


@contextmanager
def same_topics(
    spark: SparkSession, *, query: str, checkpoint: str, topics: Topics
) -> Iterator[Callable[[], None]]:
    """A function to call before and after each batch is written: it raises TopicReplaced where a topic has been made anew since now.

    What Spark has planned to read is of the topic that is there then, or older. A broker that does not tell is Spark's to judge.
    """
    if not topics.names:
        yield lambda: None
        return
    with asking(spark, topics) as ids:
        known = ids()

        def look() -> None:
            try:
                now = ids()
            except (DependencyError, KafkaFailed):
                return
            for name, topic_id in known.items():
                if now[name] != topic_id:
                    raise _topic_replaced(query, checkpoint, name)

        yield look


def replaced_topics(spark: SparkSession | None, *, checkpoint: str, ids: Mapping[str, str]) -> list[str]:
    """Which of the topics with these ids are not those that the checkpoint has read; none where that was not noted."""
    text = files.read_text(spark, f"{checkpoint}/pipeline/sources.json")
    try:
        known = dict(json.loads(text or "{}"))
    except ValueError:  # the start says so
        return []
    return sorted(name for name, topic_id in ids.items() if known.get(name, topic_id) != topic_id)


def _require_offset(
    query: str, checkpoint: str, name: str, partition: int, offset: int, topic: Topic | None
) -> None:
    if topic is None:
        return
    first, end = topic.offsets.get(partition, (0, 0))
    if first <= offset <= end:
        return
    if offset < first:
        what = (
            f"would go on at offset {offset}, but Kafka's first is {first}: {first - offset} offsets have expired unread.\n"
            "They may be in the log already (another query may have read them), and no query can read them from Kafka any "
            "more. Lengthen the topic's retention"
        )
    else:
        what = (
            f"has read up to offset {offset}, but Kafka's last is before {end}: {offset - end} offsets that were read are "
            "gone (a broker lost them, or an older copy was put in its place).\nFind out what happened to the topic"
        )
    raise OffsetsLost(
        f"query {query}, topic {name} partition {partition}: the query {what}; then begin anew: {anew(checkpoint)}",
        query=query,
        topic=name,
        partition=partition,
        expected=offset,
        first=first,
        end=end,
    )


def _topic_replaced(query: str, checkpoint: str, name: str) -> TopicReplaced:
    return TopicReplaced(
        f"query {query}: topic {name} has been deleted and made anew since its checkpoint began.\n"
        "Its offsets count from 0 again, so going on would leave records out or take other records for known ones. "
        f"Give it a new topic name, or a new lake; or begin anew: {anew(checkpoint)}",
        query=query,
        topic=name,
    )
