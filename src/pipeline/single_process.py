"""Ingest and the views in one process and one session: one JVM's heap and compiled code, where the machine is one as well."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack

from pipeline import ingest, speed
from pipeline.lag import observer
from pipeline.settings import Settings
from pipeline.starting import session
from pipeline.stopping import stop_requests
from pipeline.streaming import await_all, end_all

__all__ = ["run"]


def run(settings: Settings, *, views: Sequence[str] = (), once: bool) -> None:
    """Ingest and run the live versions of the views (all by default) until stopped; `pipeline stop` ends single queries.

    With `once` ingest takes what is there in Kafka, then the views what is in the log. Raises as ingest.run and speed.run.
    """
    if once:
        ingest.run(settings, once=True)
        speed.run(settings, views=views, once=True)
        return
    ingest.require_all_topics(settings)
    chosen = speed.live(settings, views)
    speed.require_their_topics(settings, chosen)
    spark, root = session(settings), settings.lake.root
    with ExitStack() as at_the_end:
        stop = at_the_end.enter_context(stop_requests())
        at_the_end.enter_context(ingest.held(spark, settings))
        held = at_the_end.enter_context(speed.held(spark, settings, chosen, job="run"))
        watcher = at_the_end.enter_context(observer(spark, settings, "run", [ingest.QUERY, *held.names]))
        queries = [ingest.start_ingest(spark, settings, once=False)]
        try:
            queries += held.start(once=False)
        except BaseException:
            end_all(queries)
            raise
        await_all(
            queries,
            root=root,
            stop=stop,
            at_end=held.enter_batches,
            observer=watcher,
            meanwhile=held.extend_feeds,
        )
