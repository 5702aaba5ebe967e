"""Every Kafka offset accounted for: delivered, in the log once, with one fate; and each event counted by each query, or late."""

from __future__ import annotations

from pipeline.audit.accounts import ADDS_UP, Account, Fault, QueryAccount, Report
from pipeline.audit.report import run

__all__ = ["ADDS_UP", "Account", "Fault", "QueryAccount", "Report", "run"]
