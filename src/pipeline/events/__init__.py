"""Order events without Spark: a producer, a consumer loop, and the contract that both judge by."""

from __future__ import annotations

from pipeline.events.consuming import Handled, consume
from pipeline.events.judging import Item, OrderEvent, Verdict, judged
from pipeline.events.publishing import OrderProducer

__all__ = ["Handled", "Item", "OrderEvent", "OrderProducer", "Verdict", "consume", "judged"]
