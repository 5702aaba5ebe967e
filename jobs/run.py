"""Ingest and the streaming views in one process, under spark-submit. The same as `pipeline run`."""

from __future__ import annotations

import sys

from pipeline.cli import main

if __name__ == "__main__":
    sys.exit(main(["run", *sys.argv[1:]]))
