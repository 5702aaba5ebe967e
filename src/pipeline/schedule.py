"""What runs when: the schedules as data. Airflow and Prefect translate them, and know nothing else of the pipeline."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

__all__ = ["DAILY", "ETL_ORDERS", "LOAD", "Schedule", "Step"]


@dataclass(frozen=True)
class Step:
    """A command of `pipeline` with its arguments. Each may be run again alone: what it leaves lies in tables."""

    name: str
    arguments: tuple[str, ...]


@dataclass(frozen=True)
class Schedule:
    """Steps in their order, begun by `cron` (UTC); a failed step is tried `retries` times more, `retry_delay` apart.

    A run that was missed is not made up for, because each takes all that is new; nor does one begin while another runs.
    """

    name: str
    cron: str
    steps: tuple[Step, ...]
    retries: int = 3
    retry_delay: timedelta = timedelta(minutes=5)


LOAD = Step("load", ("etl-orders", "--step", "load"))

ETL_ORDERS = Schedule(
    "etl_orders_pipeline",
    cron="0 2 * * *",
    steps=(
        Step("extract", ("etl-orders", "--step", "extract")),
        Step("transform", ("etl-orders", "--step", "transform")),
        LOAD,
        Step("analyze", ("etl-orders", "--step", "analyze")),
    ),
)

DAILY = Schedule(
    "daily_pipeline",
    cron="0 2 * * *",
    steps=(
        Step("ingest", ("ingest", "--once")),
        Step("speed", ("speed", "--once")),
        Step("batch", ("batch",)),
        Step("audit", ("audit",)),
        Step("reconcile", ("reconcile",)),
        *ETL_ORDERS.steps,
        Step("elt", ("elt",)),
        Step("quality", ("quality",)),
    ),
)
