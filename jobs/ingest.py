"""Kafka to raw_events, order_events, product_events and dead_letters, under spark-submit. The same as `pipeline ingest`."""

from __future__ import annotations

import sys

from pipeline.cli import main

if __name__ == "__main__":
    sys.exit(main(["ingest", *sys.argv[1:]]))
