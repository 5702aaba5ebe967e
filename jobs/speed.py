"""The streaming views, under spark-submit. The same as `pipeline speed`."""

from __future__ import annotations

import sys

from pipeline.cli import main

if __name__ == "__main__":
    sys.exit(main(["speed", *sys.argv[1:]]))
