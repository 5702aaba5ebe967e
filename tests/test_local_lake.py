"""DuckDB over Delta tables: what a filter asks for is found."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pytest
from deltalake import write_deltalake

from pipeline.local_lake import DuckDb
from pipeline.served import Table


@pytest.mark.parametrize("amount", ["0.01", "90071992547409.93", "-12345678901234567890.12"])
def test_money_beyond_a_double_is_found_by_its_value(tmp_path: Path, amount: str) -> None:
    money = pa.array([Decimal(amount)], pa.decimal128(38, 2))
    write_deltalake(str(tmp_path), pa.table({"money": money}))
    lake = DuckDb()
    name = lake.relation(Table(str(tmp_path), 0))
    assert [*lake.rows(f"SELECT money FROM {name} WHERE money = {amount}")] == [(Decimal(amount),)]
