"""The batch views from the log, under spark-submit. The same as `pipeline batch`."""

from __future__ import annotations

import sys

from pipeline.cli import main

if __name__ == "__main__":
    sys.exit(main(["batch", *sys.argv[1:]]))
