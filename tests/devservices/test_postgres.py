"""The embedded Postgres: a real server, on loopback, behind a password."""

from __future__ import annotations

import re
import socket
import stat
from decimal import Decimal
from pathlib import Path
from typing import Any

import psycopg
import pytest

from pipeline.devservices import postgres, shop
from pipeline.errors import SetupError

pytestmark = pytest.mark.postgres


@pytest.fixture
def server(postgres_server: postgres.Server) -> postgres.Server:
    return postgres_server


@pytest.fixture
def home(server: postgres.Server) -> Path:
    return server.home


def rows(url: str, query: str) -> list[tuple[Any, ...]]:
    with psycopg.connect(url) as connection:
        return connection.execute(query).fetchall()


def test_starting_a_second_time_returns_the_running_server(home: Path, server: postgres.Server) -> None:
    assert postgres.start(home, 0) == server
    assert postgres.running(home) == server


def test_there_are_two_databases_in_utc(server: postgres.Server) -> None:
    for database in (postgres.SHOP, postgres.WAREHOUSE):
        assert rows(server.url(database), "SELECT current_database(), current_setting('TimeZone')") == [
            (database, "UTC")
        ]


def test_it_listens_on_loopback_only_and_on_no_socket_file(server: postgres.Server) -> None:
    settings = "SELECT current_setting('listen_addresses'), current_setting('unix_socket_directories')"
    assert rows(server.url("shop"), settings) == [("127.0.0.1", "")]
    with socket.socket() as other_address:
        assert other_address.connect_ex(("127.0.0.2", server.port)) != 0


def test_nobody_gets_in_without_the_password(
    home: Path, server: postgres.Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = server.url("shop").partition("?")[0]
    for password in (None, "", "wrong"):
        with pytest.raises(psycopg.OperationalError, match="password"):
            psycopg.connect(url, password=password, passfile="/dev/null")
    hashed = rows(server.url("shop"), "SELECT rolpassword FROM pg_authid WHERE rolname = 'pipeline'")
    assert hashed[0][0].startswith("SCRAM-SHA-256$")


def test_the_password_is_for_the_owner_alone_and_in_no_url(home: Path, server: postgres.Server) -> None:
    password = (home / "password").read_text()
    assert len(password) >= 20
    assert password not in server.url("shop")
    for name in ("password", "pgpass"):
        assert stat.S_IMODE((home / name).stat().st_mode) == 0o600
    assert password not in (home / "server.log").read_text()


def test_a_password_of_another_server_in_the_environment_does_not_matter(
    home: Path, server: postgres.Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PGPASSWORD", "another's")
    assert postgres.start(home, 0) == server


def test_a_taken_port_is_named(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(SetupError, match=rf"{port}[\s\S]*devservices\.postgres_port"):
            postgres.start(tmp_path, port)
    assert postgres.running(tmp_path) is None


def test_what_a_dead_server_left_is_no_server(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    for left_behind in ("", "1\n2\n", f"1\n{tmp_path}/data\n0\n5432\n"):
        (tmp_path / "data" / "postmaster.pid").write_text(left_behind)
        assert postgres.running(tmp_path) is None
    assert postgres.stop(tmp_path) is False


def test_data_and_password_survive_a_restart_and_a_broken_start(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "half").write_text("initdb was killed here")
    with postgres.server(tmp_path) as first:
        password = (tmp_path / "password").read_text()
        with psycopg.connect(first.url("shop")) as connection:
            connection.execute("CREATE TABLE kept AS SELECT 1 AS one")
    assert postgres.running(tmp_path) is None
    with postgres.server(tmp_path) as second:
        assert rows(second.url("shop"), "SELECT one FROM kept") == [(1,)]
        assert (tmp_path / "password").read_text() == password
        assert postgres.stop(tmp_path) is True
        assert postgres.stop(tmp_path) is False


def test_the_log_is_shown_when_it_does_not_come_up(tmp_path: Path) -> None:
    with postgres.server(tmp_path):
        pass
    with (tmp_path / "data" / "postgresql.conf").open("a") as settings:
        settings.write("\nno_such_setting = 1\n")
    with pytest.raises(SetupError, match="no_such_setting"):
        postgres.start(tmp_path, 0)


def test_the_same_seed_makes_the_same_shop_and_it_is_made_once(server: postgres.Server) -> None:
    url = server.url("shop")
    digest = "SELECT count(*), md5(string_agg(orders::text, ',' ORDER BY order_id)) FROM orders"
    found = []
    for seed in (1, 1, 2):
        with psycopg.connect(url) as connection:
            connection.execute("DROP TABLE IF EXISTS orders, customers, products")
        assert shop.seed(url, orders=300, seed=seed) is True
        found.append(rows(url, digest))
    assert found[0] == found[1]
    assert found[0][0][0] == 300
    assert found[0] != found[2]
    assert shop.seed(url, orders=10, seed=3) is False
    assert rows(url, digest) == found[2]


def test_the_shop_s_orders_belong_to_customers_and_products_and_have_all_statuses(
    server: postgres.Server,
) -> None:
    shop.seed(server.url("shop"), orders=300, seed=2)
    orphans = "SELECT count(*) FROM orders LEFT JOIN customers USING (customer_id) LEFT JOIN products USING (product_id) WHERE customers.name IS NULL OR products.name IS NULL"
    assert rows(server.url("shop"), orphans) == [(0,)]
    ((statuses, least, segments),) = rows(
        server.url("shop"),
        "SELECT count(DISTINCT status), min(total), (SELECT count(*) FROM customers WHERE segment IS NULL) FROM orders",
    )
    assert (statuses, least > Decimal(0), segments > 0) == (3, True, True)


def test_a_url_shows_where_the_server_is(home: Path, server: postgres.Server) -> None:
    shown = server.url("shop")
    assert re.fullmatch(
        rf"postgresql://pipeline@127\.0\.0\.1:{server.port}/shop\?passfile={home}/pgpass", shown
    )
