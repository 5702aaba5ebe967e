"""Spark and Delta as their guides show them, every setting at its default but three: local jars, UTC, and a trigger that ends."""

from __future__ import annotations

import argparse

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from pipeline.jars import spark_jars

ORDER = """event_type STRING, order_id STRING, customer_id STRING, total DECIMAL(12, 2), status STRING,
           items ARRAY<STRUCT<product_id: STRING, price: DECIMAL(12, 2), quantity: INT>>, timestamp TIMESTAMP"""


def session() -> SparkSession:
    return (
        SparkSession.builder.appName("plain")
        .master("local[*]")
        .config("spark.jars", ",".join(map(str, spark_jars())))
        .config("spark.sql.extensions", "io.delta.sql.DeltaSparkSessionExtension")
        .config("spark.sql.catalog.spark_catalog", "org.apache.spark.sql.delta.catalog.DeltaCatalog")
        .config("spark.sql.session.timeZone", "UTC")
        .getOrCreate()
    )


def created_orders(records: DataFrame) -> DataFrame:
    orders = records.select(F.from_json(F.col("value").cast("string"), ORDER).alias("order")).select(
        "order.*"
    )
    return orders.where(
        "event_type = 'order_created' AND order_id <> '' AND customer_id <> '' AND total >= 0 AND timestamp IS NOT NULL"
    )


def hourly_spend(orders: DataFrame) -> DataFrame:
    windows = orders.groupBy("customer_id", F.window("timestamp", "1 hour"))
    spend = windows.agg(F.sum("total").alias("hourly_spend"), F.count("*").alias("order_count"))
    return spend.select(
        "customer_id", F.col("window.start").alias("window_start"), "hourly_spend", "order_count"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("workload", choices=["log", "spend", "rebuild-raw"])
    for name in ("--bootstrap", "--orders", "--products", "--out"):
        parser.add_argument(name, required=True)
    parser.add_argument("--log", help="rebuild-raw: the raw Delta table")
    parser.add_argument("--follow", action="store_true", help="log: go on until stopped")
    options = parser.parse_args()

    spark = session()
    print("begin", flush=True)
    identity = ["event_type", "order_id", "timestamp"]
    if options.workload == "rebuild-raw":
        orders = created_orders(spark.read.format("delta").load(options.log)).dropDuplicates(identity)
        hourly_spend(orders).write.format("delta").save(options.out)
    else:
        records = (
            spark.readStream.format("kafka")
            .option("kafka.bootstrap.servers", options.bootstrap)
            .option("subscribe", options.orders)
            .option("startingOffsets", "earliest")
            .load()
        )
        if options.workload == "log":
            rows = records.select(
                "topic", "partition", "offset", F.col("timestamp").alias("kafka_timestamp"), "key", "value"
            )
        else:
            rows = hourly_spend(
                created_orders(records).withWatermark("timestamp", "10 minutes").dropDuplicates(identity)
            )
        writer = rows.writeStream.format("delta").option("checkpointLocation", f"{options.out}/_checkpoint")
        (writer if options.follow else writer.trigger(availableNow=True)).start(
            options.out
        ).awaitTermination()
    print("end", flush=True)
    spark.stop()


if __name__ == "__main__":
    main()
