"""A seeded shop in Postgres: customers, products and their orders. The same seed makes the same rows."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime, timedelta, timezone
from decimal import Decimal

import psycopg
from psycopg import sql

__all__ = ["ORDERS", "seed"]

ORDERS = 5_000
"""Of a shop to try things with."""

FIRST_DAY = datetime(2023, 12, 15, tzinfo=timezone.utc)
DAYS = 120
ORDERS_A_CUSTOMER = 20
PRODUCTS = 200
SEGMENTS = ("retail", "business", "public", None)
REGIONS = ("north", "east", "south", "west")
CATEGORIES = ("tools", "toys", "books", "garden", "kitchen")
STATUSES = ("pending", "completed", "cancelled")
SHARE_OF_STATUS = (10, 80, 10)

_TABLES = """
CREATE TABLE customers (
    customer_id text PRIMARY KEY, name text, email text, segment text, region text, updated_at timestamptz NOT NULL
);
CREATE TABLE products (
    product_id text PRIMARY KEY, name text, product_category text, price numeric(12, 2), cost numeric(12, 2),
    updated_at timestamptz NOT NULL
);
CREATE TABLE orders (
    order_id text PRIMARY KEY, customer_id text NOT NULL, product_id text NOT NULL, total numeric(12, 2) NOT NULL,
    cost numeric(12, 2) NOT NULL, status text NOT NULL, created_at timestamptz NOT NULL, updated_at timestamptz NOT NULL
);
CREATE INDEX ON customers (updated_at);
CREATE INDEX ON products (updated_at);
CREATE INDEX ON orders (updated_at);
"""

Row = Sequence[object]


def seed(url: str, *, orders: int, seed: int) -> bool:
    """Make the three tables and fill them, in one transaction; False where there is a table of orders already."""
    with psycopg.connect(url) as connection:
        (there,) = connection.execute("SELECT to_regclass('orders') IS NOT NULL").fetchone() or (False,)
        if there:
            return False
        connection.execute(_TABLES)
        rng = random.Random(seed)
        products = list(_products(rng))
        customers = list(_customers(rng, max(1, orders // ORDERS_A_CUSTOMER)))
        _copy(connection, "products", products)
        _copy(connection, "customers", customers)
        _copy(connection, "orders", _orders(rng, orders, customers, products))
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("VACUUM ANALYZE")
    return True


def _copy(connection: psycopg.Connection[tuple[object, ...]], table: str, rows: Iterable[Row]) -> None:
    copying = sql.SQL("COPY {} FROM STDIN").format(sql.Identifier(table))
    with connection.cursor().copy(copying) as copy:
        for row in rows:
            copy.write_row(row)


def _customers(rng: random.Random, count: int) -> Iterator[Row]:
    for number in range(count):
        name = f"c-{number:06d}"
        segment = rng.choice(SEGMENTS)
        yield name, f"Customer {number}", f"{name}@shop.example", segment, rng.choice(REGIONS), _instant(rng)


def _products(rng: random.Random) -> Iterator[Row]:
    for number in range(PRODUCTS):
        price = Decimal(rng.randint(100, 50_000)).scaleb(-2)
        cost = (price * rng.randint(30, 110) / 100).quantize(Decimal("0.01"))
        yield f"p-{number:04d}", f"Product {number}", rng.choice(CATEGORIES), price, cost, _instant(rng)


def _orders(
    rng: random.Random, count: int, customers: Sequence[Row], products: Sequence[Row]
) -> Iterator[Row]:
    """An order of one product each; some are changed up to three days after they were created."""
    for number in range(count):
        product, quantity = rng.choice(products), rng.randint(1, 5)
        price, cost = product[3], product[4]
        assert isinstance(price, Decimal)
        assert isinstance(cost, Decimal)
        (status,) = rng.choices(STATUSES, SHARE_OF_STATUS)
        created = _instant(rng)
        updated = created if status == "pending" else created + timedelta(seconds=rng.randint(1, 3 * 86_400))
        customer = rng.choice(customers)
        yield (
            f"o-{number:08d}", customer[0], product[0], price * quantity, cost * quantity, status, created, updated,
        )  # fmt: skip


def _instant(rng: random.Random) -> datetime:
    return FIRST_DAY + timedelta(milliseconds=rng.randrange(DAYS * 86_400_000))
