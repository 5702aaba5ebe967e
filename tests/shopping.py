"""What tests say about the source shop: tables that take anything, rows in which only what a test is about is given."""

from __future__ import annotations

import uuid
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql

from pipeline.devservices import postgres
from pipeline.settings import Settings

NOON = datetime(2026, 1, 1, 12, tzinfo=timezone.utc)

_TABLES = """
CREATE TABLE orders (order_id text, customer_id text, product_id text, total numeric(12, 2), cost numeric(12, 2),
                     status text, created_at timestamptz, updated_at timestamptz);
CREATE TABLE customers (customer_id text, name text, email text, segment text, region text, updated_at timestamptz);
CREATE TABLE products (product_id text, name text, product_category text, price numeric(12, 2), cost numeric(12, 2),
                       updated_at timestamptz);
"""


def at(minutes: float) -> datetime:
    """So many minutes after noon of the first day of 2026."""
    return NOON + timedelta(minutes=minutes)


def order(order_id: str | None = "o1", **given: Any) -> dict[str, Any]:
    default = {
        "order_id": order_id,
        "customer_id": "c1",
        "product_id": "p1",
        "total": "10.00",
        "cost": "4.00",
        "status": "completed",
        "created_at": NOON,
        "updated_at": NOON,
    }
    return {**default, **given}


def customer(customer_id: str = "c1", **given: Any) -> dict[str, Any]:
    default = {
        "customer_id": customer_id,
        "name": "Zoë",
        "email": "zoe@shop.example",
        "segment": "retail",
        "region": "north",
        "updated_at": NOON,
    }
    return {**default, **given}


def product(product_id: str = "p1", **given: Any) -> dict[str, Any]:
    default = {
        "product_id": product_id,
        "name": "hammer",
        "product_category": "tools",
        "price": "10.00",
        "cost": "4.00",
        "updated_at": NOON,
    }
    return {**default, **given}


def insert(connection: psycopg.Connection[Any], table: str, *rows: dict[str, Any]) -> None:
    for row in rows:
        connection.execute(
            sql.SQL("INSERT INTO {} ({}) VALUES ({})").format(
                sql.Identifier(table),
                sql.SQL(", ").join(map(sql.Identifier, row)),
                sql.SQL(", ").join(sql.Placeholder() * len(row)),
            ),
            list(row.values()),
        )


def execute(url: str, *statements: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        for statement in statements:
            connection.execute(statement)  # type: ignore[call-overload]


def rows(url: str, query: str) -> list[tuple[Any, ...]]:
    with psycopg.connect(url, options="-c timezone=UTC") as connection:
        return connection.execute(query).fetchall()  # type: ignore[call-overload]


def databases(server: postgres.Server) -> tuple[str, str]:
    """URLs of a source with the shop's tables, all empty, and of a warehouse, which nobody else has."""
    mark = uuid.uuid4().hex[:8]
    names = f"shop_{mark}", f"warehouse_{mark}"
    execute(server.url("postgres"), *(f"CREATE DATABASE {name}" for name in names))
    source, warehouse = (server.url(name) for name in names)
    make_tables(source)
    return source, warehouse


def make_tables(source: str) -> None:
    """The shop's three tables, empty, and nothing else."""
    execute(source, "DROP SCHEMA public CASCADE", "CREATE SCHEMA public", _TABLES)


def settings_for(base: Settings, server: postgres.Server, root: Path) -> Settings:
    """Settings with databases and a lake of their own."""
    source, warehouse = databases(server)
    return replace(
        base,
        postgres=replace(base.postgres, source_url=source, warehouse_url=warehouse),
        lake=replace(base.lake, root=str(root)),
    )


def seed(source: str) -> None:
    """Two customers and five orders, one of them bad: it has no total."""
    with psycopg.connect(source) as connection:
        insert(connection, "customers", customer("c1"), customer("c2", segment=None, region="east"))
        insert(connection, "products", product("p1"))
        insert(
            connection,
            "orders",
            order("o1", total="3.00", cost="1.00"),
            order("o2", customer_id="c2", total="0.00", cost="0.00"),
            order("o3", customer_id="c2", total="12.34", cost="6.17"),
            order("o4", created_at=datetime(2025, 12, 31, 23, 59, tzinfo=timezone.utc)),
            order("bad", total=None),
        )


SEEDED_FACTS = [
    ("o1", "3.00", "retail", "north", "0.6667"),
    ("o2", "0.00", None, "east", None),
    ("o3", "12.34", None, "east", "0.5000"),
    ("o4", "10.00", "retail", "north", "0.6000"),
]
"""What `facts` gives of them."""

SEEDED_MONTHS = [("2025-12-01", 1, "10.00"), ("2026-01-01", 3, "15.34")]


def facts(warehouse: str) -> list[tuple[Any, ...]]:
    """order_id, total, segment, region and profit_margin of each fact, as texts."""
    return rows(
        warehouse,
        "SELECT order_id, total::text, segment, region, profit_margin::text FROM fact_orders ORDER BY 1",
    )


def months(warehouse: str) -> list[tuple[Any, ...]]:
    """Each month's number of orders and their total."""
    return rows(warehouse, "SELECT month::text, order_count, revenue::text FROM mv_monthly_orders ORDER BY 1")
