"""The dbt models against plain Python over the same rows. Rows are written and read without Spark, so that only dbt needs it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import date, datetime, timezone
from decimal import ROUND_HALF_UP, Decimal
from pathlib import Path
from typing import Any

import deltalake
import pyarrow as pa
import pytest
from pyspark.sql import SparkSession

from lake import Row, by_key
from pipeline import elt, shop
from pipeline.contracts import STATUSES
from pipeline.errors import DataTestsFailed, ModelsFailed, RefusedToStart, UsageError
from pipeline.settings import Settings
from pipeline.tables import RAW_CUSTOMERS, RAW_ORDERS, RAW_PRODUCTS, elt_path

CHECKOUT = Path(__file__).parents[1]
SOURCE = CHECKOUT / "src"
ACCEPTED = "accepted_values_stg_orders_status__pending__completed__cancelled"
START = date(2024, 1, 1)

_MONEY = pa.decimal128(12, 2)
_TIME = pa.timestamp("us", "UTC")
SCHEMAS = {
    RAW_ORDERS: pa.schema(
        {
            **dict.fromkeys(("order_id", "customer_id", "product_id"), pa.string()),
            **dict.fromkeys(("total", "cost"), _MONEY),
            "status": pa.string(),
            **dict.fromkeys(("created_at", "updated_at"), _TIME),
        }
    ),
    RAW_CUSTOMERS: pa.schema(
        {
            **dict.fromkeys(("customer_id", "name", "email", "segment", "region"), pa.string()),
            "updated_at": _TIME,
        }
    ),
    RAW_PRODUCTS: pa.schema(
        {
            **dict.fromkeys(("product_id", "name", "product_category"), pa.string()),
            **dict.fromkeys(("price", "cost"), _MONEY),
            "updated_at": _TIME,
        }
    ),
}


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=timezone.utc)


def order(
    order_id: str,
    *,
    customer_id: str = "c1",
    product_id: str = "p1",
    total: str = "10.00",
    status: str = "completed",
    created_at: str = "2024-03-01T12:00:00",
    updated_at: str | None = None,
) -> Row:
    return {
        "order_id": order_id,
        "customer_id": customer_id,
        "product_id": product_id,
        "total": Decimal(total),
        "cost": Decimal("4.00"),
        "status": status,
        "created_at": utc(created_at),
        "updated_at": utc(updated_at or created_at),
    }


def customer(customer_id: str, *, segment: str | None = "retail", region: str | None = "north") -> Row:
    return {
        "customer_id": customer_id,
        "name": f"the {customer_id}",
        "email": None,
        "segment": segment,
        "region": region,
        "updated_at": utc("2023-01-01T00:00:00"),
    }


def product(product_id: str, *, category: str | None = "tools") -> Row:
    return {
        "product_id": product_id,
        "name": f"the {product_id}",
        "product_category": category,
        "price": Decimal("10.00"),
        "cost": None,
        "updated_at": utc("2023-01-01T00:00:00"),
    }


CUSTOMERS = [customer("c1"), customer("c2", segment=None), customer("c3", region="south"), customer("c4")]
PRODUCTS = [product("p1"), product("p2", category=None)]
ORDERS = [
    order("before", created_at="2023-12-31T23:59:59.999999"),
    order("first", created_at="2024-01-01T00:00:00"),
    # At one time: the order_id breaks the tie.
    order("tie-b", created_at="2024-01-31T23:59:59.999999", total="0.01"),
    order("tie-a", created_at="2024-01-31T23:59:59.999999", total="0.02", status="cancelled"),
    order("tie-c", created_at="2024-02-01T00:00:00", total="0.01"),
    order("b2", customer_id="c2", product_id="p2", created_at="2024-02-29T08:00:00", total="9999999999.99"),
    order("b1", customer_id="c2", created_at="2024-02-29T07:00:00", total="9999999999.99"),
    order(
        "half",
        customer_id="c3",
        created_at="2024-03-05T00:00:00",
        total="0.00",
        status="pending",
        updated_at="2024-03-07T10:00:00",
    ),
    order("odd", customer_id="c3", created_at="2024-03-10T10:00:00", total="0.01"),
]


def write(root: str | Path, table: str, rows: Sequence[Row]) -> None:
    path = f"{root}/{table}"
    deltalake.write_deltalake(path, pa.Table.from_pylist([*rows], SCHEMAS[table]), mode="overwrite")


def read(root: str | Path, table: str) -> list[Row]:
    rows: list[Row] = deltalake.DeltaTable(f"{elt_path(str(root))}/{table}").to_pyarrow_table().to_pylist()
    return by_key(rows)


def filled(base: Settings, root: Path, *, orders: Sequence[Row] = ORDERS) -> Settings:
    write(root, RAW_ORDERS, orders)
    write(root, RAW_CUSTOMERS, CUSTOMERS)
    write(root, RAW_PRODUCTS, PRODUCTS)
    return replace(base, lake=replace(base.lake, root=str(root)))


def copied(built: Settings, root: Path) -> Settings:
    shutil.copytree(built.lake.root, root)
    return replace(built, lake=replace(built.lake, root=str(root)))


# --- the reference: what each model must hold


def staged(orders: Iterable[Row], *, start: date = START) -> list[Row]:
    """The orders from the start on, each with its number among its customer's."""
    counts: dict[str, int] = defaultdict(int)
    rows = []
    for one in sorted(orders, key=lambda row: (row["created_at"], row["order_id"])):
        if one["created_at"].date() >= start:
            counts[one["customer_id"]] += 1
            rows.append({**one, "order_date": one["created_at"].date(), "n": counts[one["customer_id"]]})
    return rows


def fact_orders(orders: Iterable[Row]) -> list[Row]:
    customers = {one["customer_id"]: one for one in CUSTOMERS}
    products = {one["product_id"]: one for one in PRODUCTS}
    return by_key(
        {
            **_of(one, "order_id", "customer_id", "product_id", "total", "cost", "status"),
            "order_timestamp": one["created_at"],
            "order_date": one["order_date"],
            **_of(customers[one["customer_id"]], "segment", "region"),
            **_of(products[one["product_id"]], "product_category"),
            "customer_order_number": one["n"],
        }
        for one in staged(orders)
    )


def incremental(orders: Iterable[Row], *, start: date = START) -> list[Row]:
    return by_key(
        {
            **_of(one, "order_id", "customer_id", "product_id", "total", "cost", "status"),
            "order_timestamp": one["created_at"],
            **_of(one, "order_date", "updated_at"),
        }
        for one in staged(orders, start=start)
    )


def order_metrics(orders: Iterable[Row]) -> list[Row]:
    rows = []
    for customer_id, own in _grouped(staged(orders), lambda one: one["customer_id"]).items():
        spent = sum((one["total"] for one in own), Decimal(0))
        days = sorted(one["order_date"] for one in own)
        rows.append(
            {
                "customer_id": customer_id,
                "total_orders": len(own),
                "lifetime_value": spent,
                "avg_order_value": (spent / len(own)).quantize(Decimal("0.01"), ROUND_HALF_UP),
                "first_order_date": days[0],
                "last_order_date": days[-1],
                "customer_tenure_days": (days[-1] - days[0]).days,
            }
        )
    return by_key(rows)


def monthly_orders(orders: Iterable[Row]) -> list[Row]:
    months = _grouped(staged(orders), lambda one: one["order_date"].replace(day=1))
    return by_key(
        {
            "month": month,
            "order_count": len(own),
            "revenue": sum((one["total"] for one in own), Decimal(0)),
            "unique_customers": len({one["customer_id"] for one in own}),
        }
        for month, own in months.items()
    )


def _of(row: Row, *names: str) -> Row:
    return {name: row[name] for name in names}


def _grouped(rows: Iterable[Row], key: Any) -> Mapping[Any, list[Row]]:
    groups: dict[Any, list[Row]] = defaultdict(list)
    for row in rows:
        groups[key(row)].append(row)
    return groups


# --- one run that many tests look at


@pytest.fixture(scope="module")
def built(spark: SparkSession, base_settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """A lake after one run of all models; who changes it copies it first."""
    settings = filled(base_settings, tmp_path_factory.mktemp("elt") / "a lake, it's")
    elt.run(settings)
    return settings


@pytest.mark.parametrize(
    ("table", "expected"),
    [
        ("intermediate/int_order_metrics", order_metrics),
        ("marts/fact_orders", fact_orders),
        ("marts/fact_orders_incremental", incremental),
        ("marts/mv_monthly_orders", monthly_orders),
    ],
)
def test_a_model_holds_what_plain_python_computes(built: Settings, table: str, expected: Any) -> None:
    assert read(built.lake.root, table) == expected(ORDERS)


def test_the_staging_views_are_in_the_catalog(built: Settings, spark: SparkSession) -> None:
    rows = spark.table("staging.stg_orders").select("order_id", "order_sequence").collect()
    assert {tuple(row) for row in rows} == {(one["order_id"], one["n"]) for one in staged(ORDERS)}
    assert spark.table("staging.stg_customers").count() == len(CUSTOMERS)
    assert spark.table("staging.stg_products").count() == len(PRODUCTS)


def test_orders_are_partitioned_by_day_and_money_is_decimal(built: Settings) -> None:
    facts = deltalake.DeltaTable(f"{elt_path(built.lake.root)}/marts/fact_orders")
    assert facts.metadata().partition_columns == ["order_date"]
    metrics = deltalake.DeltaTable(f"{elt_path(built.lake.root)}/intermediate/int_order_metrics")
    types = {field.name: str(field.type.type) for field in metrics.schema().fields}
    assert types["lifetime_value"] == "decimal(22,2)"


def test_the_session_is_as_it_was_and_nothing_is_written_beside_the_models(
    built: Settings, spark: SparkSession
) -> None:
    assert spark.conf.get("spark.sql.ansi.enabled") == "true"
    package = {path.suffix for path in (SOURCE / "pipeline" / "dbt").rglob("*") if path.is_file()}
    assert package == {".sql", ".yml"}
    assert "stg_orders" in (Path(built.lake.root) / "_dbt" / "logs" / "dbt.log").read_text(encoding="utf-8")
    assert {path.name for path in Path(built.lake.root).iterdir()} == {
        RAW_ORDERS, RAW_CUSTOMERS, RAW_PRODUCTS, "elt", "_dbt", "_elt.lock",
    }  # fmt: skip


def test_the_models_accept_the_statuses_of_the_contract() -> None:
    assert ACCEPTED.partition("__")[2].split("__") == [*STATUSES]


def test_the_raw_tables_are_the_shops() -> None:
    for name, table in (
        (shop.ORDERS, RAW_ORDERS),
        (shop.CUSTOMERS, RAW_CUSTOMERS),
        (shop.PRODUCTS, RAW_PRODUCTS),
    ):
        assert shop.SCHEMAS[name].names == SCHEMAS[table].names


# --- runs after the first

CHANGED = [
    order("odd", customer_id="c3", created_at="2024-03-10T10:00:00", total="7.77", status="cancelled", updated_at="2024-03-12T00:00:00"),
    order("late", customer_id="c4", created_at="2024-03-08T00:00:00"),
    # Changed under the time it had, which is the first of the overlap.
    order("half", customer_id="c3", created_at="2024-03-05T00:00:00", total="5.55", updated_at="2024-03-07T10:00:00"),
    # Committed late or imported, with times that no overlap reaches.
    order("tie-a", created_at="2024-01-31T23:59:59.999999", total="0.03", updated_at="2024-02-01T00:00:00"),
    order("imported", customer_id="c4", created_at="2024-01-15T00:00:00"),
]  # fmt: skip


def changed(orders: Sequence[Row], by: Sequence[Row]) -> list[Row]:
    return [*{one["order_id"]: one for one in (*orders, *by)}.values()]


def operations(root: str, table: str) -> list[str]:
    history = deltalake.DeltaTable(f"{elt_path(root)}/{table}").history()
    return [one["operation"] for one in reversed(history)]


def test_a_second_run_makes_the_same_tables_and_then_takes_what_is_late_or_changed(
    built: Settings, tmp_path: Path
) -> None:
    settings = copied(built, tmp_path / "lake")
    root = settings.lake.root
    elt.run(settings)
    assert read(root, "marts/fact_orders_incremental") == incremental(ORDERS)
    assert read(root, "marts/fact_orders") == fact_orders(ORDERS)

    orders = changed(ORDERS, CHANGED)
    write(root, RAW_ORDERS, orders)
    elt.run(settings)
    assert read(root, "marts/fact_orders_incremental") == incremental(orders)
    assert read(root, "marts/fact_orders") == fact_orders(orders)
    assert read(root, "marts/mv_monthly_orders") == monthly_orders(orders)
    assert operations(root, "marts/fact_orders_incremental")[1:] == ["MERGE", "MERGE"]
    # The run before looked at another lake, which is as it was.
    assert read(built.lake.root, "marts/fact_orders_incremental") == incremental(ORDERS)


def test_another_process_finds_the_table_of_an_earlier_one(built: Settings, tmp_path: Path) -> None:
    settings = copied(built, tmp_path / "lake")
    root = settings.lake.root
    orders = changed(ORDERS, CHANGED)
    write(root, RAW_ORDERS, orders)
    done = pipeline_elt(settings, "--select", "+fact_orders_incremental")
    assert done.returncode == 0, done.stderr
    assert "✓ fact_orders_incremental  " in done.stderr
    assert "mv_monthly_orders" not in done.stderr
    assert done.stdout == ""
    assert read(root, "marts/fact_orders_incremental") == incremental(orders)
    assert operations(root, "marts/fact_orders_incremental")[-1] == "MERGE"


def pipeline_elt(settings: Settings, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "pipeline", "elt", "--env", "test", "--set", f"lake.root={settings.lake.root}", *words],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(SOURCE)},
    )  # fmt: skip


def test_only_what_is_selected_is_made_and_a_full_refresh_forgets_what_the_source_no_longer_has(
    built: Settings, tmp_path: Path
) -> None:
    settings = copied(built, tmp_path / "lake")
    root = settings.lake.root
    orders = changed([one for one in ORDERS if one["order_id"] != "first"], CHANGED)
    write(root, RAW_ORDERS, orders)
    elt.run(settings, select=["fact_orders_incremental", "int_order_metrics"])
    assert read(root, "marts/fact_orders_incremental") == incremental(changed(ORDERS, CHANGED))
    assert read(root, "intermediate/int_order_metrics") == order_metrics(orders)
    assert read(root, "marts/fact_orders") == fact_orders(ORDERS)
    elt.run(settings, select=["fact_orders_incremental"], full_refresh=True)
    assert read(root, "marts/fact_orders_incremental") == incremental(orders)


def test_an_earlier_start_date_lets_earlier_orders_in(built: Settings, tmp_path: Path) -> None:
    settings = copied(built, tmp_path / "lake")
    start = date(2023, 12, 1)
    settings = replace(settings, elt=replace(settings.elt, start_date=start.isoformat()))
    elt.run(settings, select=["fact_orders_incremental"])
    rows = read(settings.lake.root, "marts/fact_orders_incremental")
    assert rows == incremental(ORDERS, start=start)
    assert "before" in {row["order_id"] for row in rows}


# --- the project as it ships


def test_the_wheel_has_the_project_and_it_runs_from_inside_of_it(tmp_path: Path) -> None:
    for name in ("src", "conf"):
        shutil.copytree(CHECKOUT / name, tmp_path / name, ignore=shutil.ignore_patterns("*.egg-info"))
    for name in ("setup.py", "pyproject.toml"):
        shutil.copy(CHECKOUT / name, tmp_path)
    options = ["--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", str(tmp_path)]
    subprocess.run([sys.executable, "-m", "pip", "wheel", *options, str(tmp_path)], check=True)
    (wheel,) = tmp_path.glob("*.whl")
    program = (
        "from pathlib import Path; from pipeline import dbt_project; "
        f"variables = dict(models_root='m', start_date='2024-01-01', overlap_days=3); "
        f"print(*(model.name for model in dbt_project.unpacked(Path({str(tmp_path / 'work')!r}), variables).models)); "
        "print(dbt_project.__file__)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path / "conf",
        env={**os.environ, "PYTHONPATH": str(wheel), "DBT_TARGET": "another", "DBT_PROFILE": "another"},
    )
    models = "int_order_metrics fact_orders fact_orders_incremental mv_monthly_orders stg_customers stg_orders stg_products"
    assert done.stdout.splitlines() == [models, f"{wheel}/pipeline/dbt_project.py"], done.stderr


# --- what goes wrong


def test_each_test_that_fails_is_named(
    built: Settings, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = copied(built, tmp_path / "lake")
    stray = order("stray", customer_id="nobody", product_id="nothing", status="shipped")
    write(settings.lake.root, RAW_ORDERS, [*ORDERS, ORDERS[-1], stray])
    with pytest.raises(DataTestsFailed) as caught:
        elt.run(settings, select=["staging"])
    assert set(caught.value.tests) >= {
        ACCEPTED,
        "unique_stg_orders_order_id",
        "relationships_stg_orders_customer_id__customer_id__ref_stg_customers_",
        "relationships_stg_orders_product_id__product_id__ref_stg_products_",
    }
    assert caught.value.exit_code == 1
    captured = capsys.readouterr()
    assert all(f"✗ {test}  " in captured.err for test in caught.value.tests)
    assert captured.out == ""


def test_what_a_broken_off_run_has_begun_is_made_anew(
    spark: SparkSession, base_settings: Settings, tmp_path: Path
) -> None:
    settings = filled(base_settings, tmp_path / "lake")
    begun = Path(f"{elt_path(settings.lake.root)}/intermediate/int_order_metrics")
    (begun / "_delta_log").mkdir(parents=True)
    (begun / "part-00000.snappy.parquet").write_bytes(b"PAR1")
    elt.run(settings, select=["int_order_metrics"])
    assert read(settings.lake.root, "intermediate/int_order_metrics") == order_metrics(ORDERS)


def test_without_raw_tables_it_says_what_to_run_first(
    spark: SparkSession, base_settings: Settings, tmp_path: Path
) -> None:
    settings = replace(base_settings, lake=replace(base_settings.lake, root=str(tmp_path / "lake")))
    write(settings.lake.root, RAW_ORDERS, ORDERS)
    with pytest.raises(RefusedToStart) as caught:
        elt.run(settings)
    assert "pipeline etl-orders" in caught.value.message
    assert RAW_CUSTOMERS in caught.value.message
    assert RAW_ORDERS not in caught.value.message


def test_a_model_without_what_it_reads_is_named(
    spark: SparkSession, base_settings: Settings, tmp_path: Path
) -> None:
    settings = filled(base_settings, tmp_path / "lake")
    with pytest.raises(ModelsFailed) as caught:
        elt.run(settings, select=["mv_monthly_orders"])
    assert caught.value.models == ("mv_monthly_orders",)
    assert "fact_orders" in caught.value.message


@pytest.mark.parametrize("selector", ["fact_order", "no_such_method:x"])
def test_a_selection_of_nothing_is_wrong_usage(built: Settings, selector: str) -> None:
    with pytest.raises(UsageError):
        elt.run(built, select=[selector])


def test_a_table_that_is_not_ours_is_not_replaced(
    built: Settings, spark: SparkSession, tmp_path: Path
) -> None:
    settings = copied(built, tmp_path / "lake")
    spark.sql("DROP TABLE marts.mv_monthly_orders")
    spark.sql("CREATE TABLE marts.mv_monthly_orders USING delta AS SELECT 1 AS theirs")
    try:
        with pytest.raises(RefusedToStart):
            elt.run(settings)
        assert spark.table("marts.mv_monthly_orders").columns == ["theirs"]
    finally:
        spark.sql("DROP TABLE marts.mv_monthly_orders")


def test_documentation_is_one_page_and_two_files(built: Settings, tmp_path: Path) -> None:
    elt.run(built, select=["staging"], docs=tmp_path / "docs")
    assert {path.name for path in (tmp_path / "docs").iterdir()} == {
        "index.html", "manifest.json", "catalog.json",
    }  # fmt: skip
    page = (tmp_path / "docs" / "index.html").read_text(encoding="utf-8")
    assert "fact_orders_incremental" in page
    assert "customer_order_number" in (tmp_path / "docs" / "catalog.json").read_text(encoding="utf-8")
