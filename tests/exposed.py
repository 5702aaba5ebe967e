"""A process of its own that runs jobs one after the other in one session, and waits to be looked at.

It prints the address of Spark's UI, its exit codes, and ends when its standard input does.
"""

from __future__ import annotations

import json
import sys

from pipeline import cli


def main(folder: str) -> None:
    codes = [
        cli.main(["ingest", "--once"]),
        cli.main(["speed", "word_counts", "--once"]),
        cli.main(["etl-orders", "--step", "extract", "--debug"]),
        cli.main(["etl-orders", "--debug", "--env", "nowhere"]),
        cli.main(["config", "show"]),
    ]
    from pyspark.sql import SparkSession

    spark = SparkSession.getActiveSession()
    assert spark is not None
    for table in ("raw_events", "dead_letters"):
        spark.read.format("delta").load(f"{folder}/lake/{table}").explain("formatted")
    print(json.dumps({"codes": codes, "ui": spark.sparkContext.uiWebUrl}), flush=True)
    sys.stdin.read()
    spark.stop()


if __name__ == "__main__":
    main(sys.argv[1])
