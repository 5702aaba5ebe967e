"""Batch against speed, row by row, over what both have closed; each difference has one cause, or is `unexplained`."""

from __future__ import annotations

from pipeline.reconcile.agreement import Agreement, compare, run
from pipeline.reconcile.causes import CAUSES, COMPARED

__all__ = ["CAUSES", "COMPARED", "Agreement", "compare", "run"]
