"""How a notebook begins: one call opens a lake, and its tables and served views are there by name."""

from __future__ import annotations

from pathlib import Path

from pyspark.sql import SparkSession

from pipeline import catalog, serving, versions
from pipeline.delta_log import newest_version
from pipeline.errors import LakeUnreachable
from pipeline.session import session
from pipeline.settings import Settings, load
from pipeline.tables import local_path, table_path, view_path

__all__ = ["open_lake"]


def open_lake(*overrides: str) -> tuple[SparkSession, Settings]:
    """The session and the settings; `spark.table("pipeline.<name>")` has each table and served view as it is now, and
    `pipeline.<view>_speed` and `pipeline.<view>_batch` its layers, with columns that the view does not show.

    The lake is that of the configuration (`overrides` are as after --set); where it names none, the one that `pipeline demo
    --keep` has left. Raises LakeUnreachable where there is none.
    """
    settings = load(overrides=overrides)
    if settings.origins["lake.root"].partition(":")[0].endswith("base.yml"):
        settings = load(overrides=[f"lake.root={settings.devservices.home}/demo/lake", *overrides])
    root = settings.lake.root
    lake = local_path(root)
    if lake is not None and not Path(lake, "raw_events").is_dir():
        raise LakeUnreachable(
            f"There is no lake at {root}.\nRun `pipeline demo --keep` once, or name yours: "
            'open_lake("lake.root=/path/to/lake"), or PIPELINE_LAKE__ROOT.',
            root=root,
        )
    spark = session(settings)
    serving.register(spark, settings)
    tables = {name: table_path(root, name) for name in catalog.schemas(settings)}
    for view in versions.live_views(spark, settings).values():
        tables[f"{view.name}_batch"] = view_path(root, view.name, "batch", view.label)
        speed = view_path(root, view.name, "speed", view.label)
        version = newest_version(spark, speed)
        if version is not None:
            rows = serving.speed_sql(spark, view, speed, version)
            spark.sql(f"CREATE OR REPLACE VIEW pipeline.{view.name}_speed AS {rows}")
    for name, path in tables.items():
        version = newest_version(spark, path)
        if version is not None:
            quoted = path.replace("`", "``")
            spark.sql(
                f"CREATE OR REPLACE VIEW pipeline.{name} AS SELECT * FROM delta.`{quoted}` VERSION AS OF {version}"
            )
    return spark, settings
