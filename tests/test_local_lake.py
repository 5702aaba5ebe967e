"""DuckDB over Delta tables: what a filter asks for is found."""

from __future__ import annotations

import shutil
from decimal import Decimal
from pathlib import Path

import duckdb
import pyarrow as pa
import pytest
from deltalake import write_deltalake

from pipeline.errors import LakeUnreachable, UsageError
from pipeline.local_lake import DuckDb, failure
from pipeline.reading import LocalTables
from pipeline.served import Table
from pipeline.service.questions import asked
from pipeline.views import VIEWS


@pytest.mark.parametrize(
    "amount", ["0.01", "90071992547409.93", "-12345678901234567890.12", "-" + "9" * 36 + ".99"]
)
def test_money_beyond_a_double_is_found_by_its_value(tmp_path: Path, amount: str) -> None:
    money = pa.array([Decimal(amount)], pa.decimal128(38, 2))
    write_deltalake(str(tmp_path), pa.table({"money": money}))
    lake = DuckDb()
    name = lake.relation(Table(str(tmp_path), 0)).name
    assert [*lake.rows(f"SELECT money FROM {name} WHERE money = {amount}")] == [(Decimal(amount),)]
    question = asked(VIEWS["customer_totals"], [("total_spend", amount)], max_rows=1)
    sql = f"SELECT money FROM (SELECT money, money AS total_spend FROM {name}) WHERE {question.conditions[0]}"
    assert [*lake.rows(sql, question.values)] == [(Decimal(amount),)]


@pytest.mark.parametrize("scheme", ["", "file://"])
def test_a_lake_that_was_made_anew_is_not_answered_from_the_one_before(tmp_path: Path, scheme: str) -> None:
    """Its first version has the number that the other one's had."""
    path, lake = tmp_path / "table", DuckDb()

    def told(number: int) -> list[tuple[int]]:
        write_deltalake(str(path), pa.table({"number": [number]}))
        name = lake.relation(Table(f"{scheme}{path}", 0)).name
        return [*lake.rows(f"SELECT number FROM {name}")]  # type: ignore[arg-type]

    assert told(1) == [(1,)]
    shutil.rmtree(path)
    assert told(2) == [(2,)]


def test_a_file_that_is_gone_is_not_said_of_the_question(tmp_path: Path) -> None:
    write_deltalake(str(tmp_path), pa.table({"money": [1]}))
    lake = DuckDb()
    name = lake.relation(Table(str(tmp_path), 0)).name
    for file in tmp_path.glob("*.parquet"):
        file.unlink()
    with pytest.raises((duckdb.Error, OSError)) as gone:
        [*lake.rows(f"SELECT money FROM {name}")]
    assert isinstance(failure(gone.value, str(tmp_path)), LakeUnreachable)
    with pytest.raises(duckdb.Error) as wrong:
        [*lake.rows(f"SELECT no_such_column FROM {name}")]
    assert isinstance(failure(wrong.value, str(tmp_path)), UsageError)


def test_a_log_that_is_damaged_is_told_with_its_table(tmp_path: Path) -> None:
    write_deltalake(str(tmp_path), pa.table({"money": [1]}))
    (tmp_path / "_delta_log" / f"{0:020d}.json").write_text("no json")
    for ask in (LocalTables().size, lambda path: DuckDb().relation(Table(path, 0))):
        with pytest.raises(LakeUnreachable) as refused:
            ask(str(tmp_path))
        assert refused.value.root == str(tmp_path)
