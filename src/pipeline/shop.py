"""The source shop: what its tables in Postgres hold, and the fact table that is made of them.

Everything here is plain data. Ids are text, times are UTC, money is decimal(12,2).
"""

from __future__ import annotations

from pyspark.sql import types as T

from pipeline.contracts import MONEY

__all__ = ["CUSTOMERS", "FACT_ORDERS", "KEYS", "ORDERS", "PRODUCTS", "SCHEMAS"]

ORDERS = "orders"
CUSTOMERS = "customers"
PRODUCTS = "products"

_ORDERS = T.StructType(
    [
        T.StructField("order_id", T.StringType(), nullable=False),
        T.StructField("customer_id", T.StringType(), nullable=False),
        T.StructField("product_id", T.StringType(), nullable=False),
        T.StructField("total", MONEY, nullable=False),
        T.StructField("cost", MONEY, nullable=False),
        T.StructField("status", T.StringType(), nullable=False),
        T.StructField("created_at", T.TimestampType(), nullable=False),
        T.StructField("updated_at", T.TimestampType(), nullable=False),
    ]
)

_CUSTOMERS = T.StructType(
    [
        T.StructField("customer_id", T.StringType(), nullable=False),
        T.StructField("name", T.StringType()),
        T.StructField("email", T.StringType()),
        T.StructField("segment", T.StringType()),
        T.StructField("region", T.StringType()),
        T.StructField("updated_at", T.TimestampType(), nullable=False),
    ]
)

_PRODUCTS = T.StructType(
    [
        T.StructField("product_id", T.StringType(), nullable=False),
        T.StructField("name", T.StringType()),
        T.StructField("product_category", T.StringType()),
        T.StructField("price", MONEY),
        T.StructField("cost", MONEY),
        T.StructField("updated_at", T.TimestampType(), nullable=False),
    ]
)

SCHEMAS = {ORDERS: _ORDERS, CUSTOMERS: _CUSTOMERS, PRODUCTS: _PRODUCTS}
"""The columns of each table; a column that is not nullable is required: a row without it is a dead letter."""

KEYS = {ORDERS: "order_id", CUSTOMERS: "customer_id", PRODUCTS: "product_id"}

FACT_ORDERS = T.StructType(
    [
        T.StructField("order_id", T.StringType(), nullable=False),
        T.StructField("customer_id", T.StringType(), nullable=False),
        T.StructField("total", MONEY, nullable=False),
        T.StructField("cost", MONEY, nullable=False),
        T.StructField("status", T.StringType(), nullable=False),
        T.StructField("created_at", T.TimestampType(), nullable=False),
        T.StructField("order_date", T.DateType(), nullable=False),
        T.StructField("order_month", T.DateType(), nullable=False),
        T.StructField("segment", T.StringType()),
        T.StructField("region", T.StringType()),
        T.StructField("profit_margin", T.DecimalType(18, 4)),
    ]
)
"""An order with its customer's segment and region. `order_date` and `order_month` (its first day) are of `created_at` in
UTC; `profit_margin` = (total − cost) / total, half away from zero, null where the total is 0."""
