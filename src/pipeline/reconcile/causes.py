"""Why a row can differ between the layers, by the names that reports have."""

from __future__ import annotations

__all__ = ["CAUSES", "COMPARED", "CONFLICTING", "CONTRACT_CHANGED", "LATE", "OPEN", "REPAIRED", "UNEXPLAINED"]


LATE, REPAIRED, CONFLICTING, CONTRACT_CHANGED = "late", "repaired", "conflicting", "contract_changed"
OPEN, UNEXPLAINED = "open", "unexplained"
CAUSES = (LATE, REPAIRED, CONFLICTING, CONTRACT_CHANGED, OPEN, UNEXPLAINED)
COMPARED = ("compared", "equal", *CAUSES)
"""The counts of a comparison, as every report of one has them."""
