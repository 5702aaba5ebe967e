"""The dbt models over the raw tables, under spark-submit. The same as `pipeline elt`."""

from __future__ import annotations

import sys

from pipeline.cli import main

if __name__ == "__main__":
    sys.exit(main(["elt", *sys.argv[1:]]))
