"""The near limit of a rebuild: DuckDB over the Parquet files of the pipeline's own log, one SQL statement, written as a Delta table."""

from __future__ import annotations

import argparse

import duckdb
from deltalake import DeltaTable, write_deltalake

_TYPED = """
SELECT order_id, customer_id, total, event_time, partition, "offset" FROM {files} WHERE event_type = 'order_created'
"""

_RAW = """
SELECT * FROM (
    SELECT order_id, customer_id, TRY_CAST(total AS DECIMAL(12, 2)) AS total, TRY_CAST("timestamp" AS TIMESTAMPTZ) AS event_time, partition, "offset"
    FROM (
        SELECT partition, "offset", unnest(from_json(document, '{{"event_type": "VARCHAR", "order_id": "VARCHAR", "customer_id": "VARCHAR", "total": "VARCHAR", "timestamp": "VARCHAR"}}'))
        FROM (SELECT partition, "offset", CASE WHEN json_valid(decode(value)) THEN decode(value) END AS document FROM {files})
    ) WHERE event_type = 'order_created' AND length(order_id) > 0 AND length(customer_id) > 0
) WHERE total >= 0 AND event_time IS NOT NULL
"""

_SPEND = """
SELECT customer_id, time_bucket(INTERVAL 1 HOUR, event_time) AS window_start, sum(total) AS hourly_spend, count(*) AS order_count
FROM (
    SELECT arg_min(customer_id, (partition, "offset")) AS customer_id, arg_min(total, (partition, "offset")) AS total, event_time
    FROM ({created}) GROUP BY order_id, event_time
) GROUP BY ALL
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("workload", choices=["rebuild", "rebuild-raw"])
    parser.add_argument("--lake", required=True)
    parser.add_argument("--out", required=True)
    options = parser.parse_args()
    print("begin", flush=True)
    is_raw = options.workload == "rebuild-raw"
    table = DeltaTable(f"{options.lake}/{'raw_events' if is_raw else 'order_events'}")
    files = f"read_parquet([{', '.join(map(repr, table.file_uris()))}])"
    created = (_RAW if is_raw else _TYPED).format(files=files)
    duckdb.execute("SET TimeZone = 'UTC'; SET threads = 2")
    write_deltalake(options.out, duckdb.sql(_SPEND.format(created=created)).to_arrow_table())
    print("end", flush=True)


if __name__ == "__main__":
    main()
