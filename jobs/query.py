"""One view, served, speed or batch, under spark-submit. The same as `pipeline query`."""

from __future__ import annotations

import sys

from pipeline.cli import main

if __name__ == "__main__":
    sys.exit(main(["query", *sys.argv[1:]]))
