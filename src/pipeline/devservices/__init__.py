"""Kafka, Postgres and what they hold, on one machine, for development only."""

from __future__ import annotations

__all__ = ["DEMO"]

DEMO = "demo"
"""The folder below `devservices.home` where the demo has its own services, and its lake."""
