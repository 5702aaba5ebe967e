"""The shop in Postgres into raw tables and fact_orders, under spark-submit. The same as `pipeline etl-orders`."""

from __future__ import annotations

import sys

from pipeline.cli import main

if __name__ == "__main__":
    sys.exit(main(["etl-orders", *sys.argv[1:]]))
