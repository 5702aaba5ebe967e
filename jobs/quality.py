"""The batch tables against what is expected of them, under spark-submit. The same as `pipeline quality`."""

from __future__ import annotations

import sys

from pipeline.cli import main

if __name__ == "__main__":
    sys.exit(main(["quality", *sys.argv[1:]]))
