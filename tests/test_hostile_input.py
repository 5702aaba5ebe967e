"""What is made to do harm does none: SQL in every place that takes a text, paths out of the lake, YAML, code that runs texts."""

from __future__ import annotations

import ast
import itertools
import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any
from unittest import mock

import duckdb
import pytest
import yaml
from pyspark.sql import types as T

from pipeline import catalog, cli, conf_files, expectations, postgres_source, warehouse
from pipeline.cli.arguments import known_views
from pipeline.conditions import as_condition
from pipeline.devservices import postgres
from pipeline.errors import ConfigurationError, PipelineError, SourceMismatch, UsageError
from pipeline.instants import instant
from pipeline.kinds import KINDS
from pipeline.postgres import connected
from pipeline.service.questions import Cursor, asked
from pipeline.settings import Settings, load
from pipeline.tables import checkpoint_path, table_path, view_path
from pipeline.views import VIEWS

ROOT = Path(__file__).parents[1]
COLUMNS: dict[str, T.DataType] = {
    "customer_id": T.StringType(),
    "total_spend": T.DecimalType(38, 2),
    "last_event_time": T.TimestampType(),
}

# --- SQL in --where

STATEMENTS = (
    "DROP TABLE kept",
    "DELETE FROM kept",
    "INSERT INTO kept VALUES ('x')",
    "CREATE TABLE made AS SELECT 1",
    "COPY kept TO '{folder}/out'",
    "COPY (SELECT * FROM kept) TO '{folder}/out'",
    "ATTACH '{folder}/other.db'",
    "INSTALL httpfs",
    "SET threads = 1",
    "PRAGMA version",
    "EXPORT DATABASE '{folder}/out'",
    "CALL pragma_version()",
)
ENDS = (
    "1 = 1; {} --",
    "'; {} --",
    "customer_id = 'a'); {}; --",
    "customer_id = 'a\\'; {} --'",
    "customer_id = \"a\\\"; {} --\"",
    "customer_id = 'a''; {} --",
    "1 = 1 /* */ ; {}",
    "1 = 1\n;{}",
    "1 = 1 -- x\r\n; {}",
)  # fmt: skip
VALUES = (
    "(SELECT max(secret) FROM kept)",
    "(SELECT secret FROM kept LIMIT 1)",
    "(TABLE kept)",
    "(VALUES ('planted'))",
    "(FROM kept SELECT secret)",
    "read_text('{folder}/canary')",
    "read_csv('{folder}/canary')",
    "read_blob('{folder}/canary')",
    "getenv('HOME')",
    "current_setting('home_directory')",
    "query('SELECT secret FROM kept')",
    "query_table('kept')",
    "version()",
    "current_user",
    "current_database()",
    "session_user()",
    "input_file_name()",
    "java_method('java.lang.System', 'getenv', 'HOME')",
    "reflect('java.lang.Runtime', 'getRuntime')",
    "try_reflect('java.lang.System', 'exit', '0')",
    "kept.secret",
    "memory.main.kept",
    "information_schema.tables.table_name",
    "transform(array(1), x -> x)[0]",
    "struct(customer_id).col1",
    "CAST('planted' AS kept)",
    "pg_sleep(10)",
    "random()",
    "uuid()",
    "now()",
)
PLACES = (
    "{} = 'planted'",
    "customer_id = {}",
    "customer_id IN ({})",
    "customer_id LIKE {}",
    "coalesce({}, 'x') = 'planted'",
    "CASE WHEN {} = 'planted' THEN TRUE ELSE FALSE END",
    "NOT ({} IS NULL)",
)
CLAUSES = (
    "1 = 1 UNION SELECT secret, 1, now() FROM kept",
    "1 = 1 UNION ALL (SELECT secret, 1, now() FROM kept)",
    "1 = 1) UNION SELECT secret, 1, now() FROM kept --",
    "1 = 1 EXCEPT SELECT 'a', 1, now()",
    "1 = 1 INTERSECT SELECT 'a', 1, now()",
    "1 = 1 ORDER BY (SELECT secret FROM kept)",
    "1 = 1 LIMIT (SELECT 1 FROM kept)",
    "1 = 1 OFFSET 1",
    "1 = 1 GROUP BY ALL",
    "1 = 1 HAVING 1 = 1",
    "1 = 1 QUALIFY 1 = 1",
    "1 = 1 WINDOW w AS (ORDER BY 1)",
    "1 = 1 LATERAL VIEW explode(array(1)) t AS x",
    "1 = 1 TABLESAMPLE (1 ROWS)",
    "EXISTS (SELECT 1 FROM kept)",
    "NOT EXISTS (FROM kept)",
    "customer_id = ANY (SELECT secret FROM kept)",
    "customer_id > ALL (SELECT secret FROM kept)",
    "customer_id IN (TABLE kept)",
    "(customer_id, 1) IN (SELECT secret, 1 FROM kept)",
    "max(customer_id) OVER () = 'a'",
    "sum(total_spend) > 1",
    "count(*) > 0",
    "* IS NULL",
    "COLUMNS('.*') = 'a'",
    "customer_id::kept = 'a'",
    "customer_id = $1",
    "customer_id = ?",
    "customer_id = :secret",
    "customer_id = @@version",
    "customer_id = $$planted$$",
    "customer_id = {secret}",
    "customer_id = ${env:HOME}",
    "customer_id = IDENTIFIER('kept')",
    "`customer_id` = 'a' AND `secret` = 'planted'",
    "\"customer_id\" = 'a'; DROP TABLE kept",
    "TRUE AND FALSE; ; DROP TABLE kept;",
)
HARMLESS = (
    "customer_id = '; DROP TABLE kept; --'",
    "customer_id = 'a\\' OR \\'1\\' = \\'1'",
    "customer_id = 'a\\' OR 1 = 1 --'",
    "customer_id LIKE '%;DROP TABLE kept'",
    "customer_id = '/* */'",
    "customer_id = '\\u0027 OR 1 = 1 --'",
    "customer_id = '${env:HOME}'",
    "customer_id = '{folder}'",
    "total_spend > 0 -- ; DROP TABLE kept",
    "total_spend > 0 /* ; DROP TABLE kept */",
    "customer_id = 'planted' OR TRUE",
)
DEEP = (
    "NOT " * 2_400 + "TRUE",
    "(" * 4_000 + "1 = 1" + ")" * 4_000,
    "- " * 4_000 + "1 = 1",
    " AND ".join(["1 = 1"] * 1_100),
    "CASE WHEN " * 900 + "TRUE",
    "coalesce(" * 900 + "1" + ")" * 900 + " = 1",
    "customer_id = '" + "x" * 10_000 + "'",
)
CONDITIONS = [
    *(end.format(statement) for end, statement in itertools.product(ENDS, STATEMENTS)),
    *(place.format(value) for place, value in itertools.product(PLACES, VALUES)),
    *CLAUSES,
    *HARMLESS,
    *DEEP,
]  # fmt: skip


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[duckdb.DuckDBPyConnection]:
    """An engine that would do whatever it is told, with a table that no condition may reach, beside the view's rows."""
    (tmp_path / "canary").write_text("planted")
    connection = duckdb.connect()
    connection.execute("CREATE TABLE kept AS SELECT 'planted' AS secret")
    connection.execute(
        "CREATE TABLE answer AS SELECT 'a' AS customer_id, 1.5 AS total_spend, TIMESTAMP '2026-01-01' AS last_event_time"
    )
    yield connection
    connection.close()


def test_no_condition_does_more_than_choose_rows(engine: duckdb.DuckDBPyConnection, tmp_path: Path) -> None:
    before, accepted = _state(engine, tmp_path), []
    for text in (one.replace("{folder}", str(tmp_path)) for one in CONDITIONS):
        try:
            condition = as_condition(text, columns=COLUMNS, engine="duckdb")
            as_condition(text, columns=COLUMNS, engine="spark")
        except UsageError as error:
            assert len(error.message) < 1_000  # noqa: PT017
            continue
        accepted.append(text)
        try:
            rows = engine.execute(f"SELECT * FROM answer WHERE {condition}").fetchall()
        except duckdb.Error:
            continue  # an engine may refuse what we do not
        finally:
            assert _state(engine, tmp_path) == before, text
        assert {row[0] for row in rows} <= {"a"}, text
    assert len(CONDITIONS) > 350
    refused = {*CONDITIONS} - {*accepted}
    assert {*CLAUSES} <= refused
    assert {*HARMLESS} - {one for one in HARMLESS if "{folder}" in one} <= {*accepted}
    for place, value in itertools.product(PLACES, VALUES):
        assert place.format(value) in refused


def _state(engine: duckdb.DuckDBPyConnection, folder: Path) -> tuple[Any, ...]:
    tables = engine.execute("SELECT table_name FROM duckdb_tables() ORDER BY ALL").fetchall()
    databases = engine.execute("SELECT database_name FROM duckdb_databases() ORDER BY ALL").fetchall()
    kept = engine.execute("SELECT * FROM kept").fetchall()
    threads = engine.execute("SELECT current_setting('threads')").fetchall()
    return tables, databases, kept, threads, sorted(folder.iterdir())


def test_a_condition_that_is_refused_ends_the_command_with_2(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "lake").mkdir()
    for text in (CLAUSES[0], "customer_id = (SELECT secret FROM kept)", "read_text('/etc/passwd') = 'x'"):
        words = ["query", "customer_totals", "--where", text, f"--set=lake.root={tmp_path}/lake"]
        assert cli.main(words) == 2
        assert capsys.readouterr().out == ""


# --- SQL in names, and in watermarks

NAMES = [
    before + middle + after
    for before, middle, after in itertools.product(
        ("", "x", "public"),
        (
            "'; DROP TABLE kept; --",
            '"; DROP TABLE kept; --',
            '"."kept"; DROP TABLE kept; --',
            "`; DROP TABLE kept; --",
            "; DROP TABLE kept",
            ") AS found; DROP TABLE kept; --",
            "' OR '1' = '1",
            '" WHERE TRUE; DELETE FROM kept; --',
            "%s",
            "%(x)s",
            "{}",
            "{0}",
            "$1",
            "?",
            "\\'; DROP TABLE kept; --",
            "/* */; DROP TABLE kept",
            "\n; DROP TABLE kept",
            "é'; DROP TABLE kept; --",
        ),
        ("", ' ; COMMIT; "'),
    )
]


@pytest.mark.postgres
def test_a_schema_of_any_name_is_a_name(postgres_server: postgres.Server) -> None:
    """What Spark would be given is run as it is: in schemas that are called so, and in those that are not there."""
    url = postgres_server.url(postgres.SHOP)
    with connected(url, autocommit=True) as connection:
        connection.execute("CREATE TABLE IF NOT EXISTS public.kept AS SELECT 1 AS secret")
    for place, name in enumerate(NAMES):
        with pytest.raises(SourceMismatch), postgres_source.opened(url, schema=name, tables=["orders"]):
            pass
        if place % 6 == 0:
            assert _read_through(url, name) == [("orders", '{"order_id" : "o1"}')]
    with connected(url, autocommit=True) as connection:
        assert connection.execute("SELECT count(*) FROM public.kept").fetchone() == (1,)
        connection.execute("DROP TABLE public.kept")


def _read_through(url: str, schema: str) -> list[tuple[Any, ...]]:
    from psycopg import sql

    made = sql.Identifier(schema)
    with connected(url, autocommit=True) as connection:
        connection.execute(sql.SQL("CREATE SCHEMA {}").format(made))
        connection.execute(
            sql.SQL("CREATE TABLE {}.orders AS SELECT 'o1' AS order_id, now() AS updated_at").format(made)
        )
    queries: list[str] = []

    def keep(_: object, source: postgres_source.Source, query: sql.Composable) -> None:
        queries.append(query.as_string(source.connection))

    since = postgres_source.Since(0, datetime(2026, 1, 1, tzinfo=timezone.utc))
    with postgres_source.opened(url, schema=schema, tables=["orders"]) as source:
        assert postgres_source.newest(source, "orders", "updated_at")
        where = postgres_source.changed(source, "orders", key="order_id", by="updated_at", since=since)
        with mock.patch.object(postgres_source, "_read", keep):
            postgres_source.rows_as_json(
                mock.Mock(), source, "orders", columns=["order_id"], where=where, connections=1
            )
    with connected(url, autocommit=True) as connection:
        rows = connection.execute(f"SELECT * FROM {queries[0]}").fetchall()
        connection.execute(sql.SQL("DROP SCHEMA {} CASCADE").format(made))
    return rows


WATERMARKS = [
    text.format(statement)
    for text, statement in itertools.product(
        (
            "2026-01-01T00:00:00+00:00'; {} --",
            "'; {} --",
            "2026-01-01'::timestamptz; {}",
            "infinity'; {}",
            "2026-01-01T00:00:00Z OR 1 = 1; {}",
            "(SELECT now()); {}",
        ),
        STATEMENTS,
    )
]


def test_a_watermark_is_a_time_or_nothing() -> None:
    run = {"number": 1, "source": "s", "snapshot": "1:1:", "lake": "/lake"}
    for text in WATERMARKS:
        with pytest.raises(ValueError):
            warehouse.from_json({**run, "watermarks": {"orders": text}})
        with pytest.raises(UsageError):
            instant(text, option="--until")
    assert cli.main(["batch", "--until", WATERMARKS[0]]) == 2
    assert cli.main(["query", "customer_totals", "--as-of", WATERMARKS[0]]) == 2
    assert len(CONDITIONS) + len(NAMES) + len(WATERMARKS) >= 500


# --- what `pipeline serve` is asked

PARAMETERS = [
    ("customer_id", "'; DROP TABLE kept; --"),
    ("customer_id", "' OR '1' = '1"),
    ("customer_id.ne", "x' UNION SELECT secret FROM kept --"),
    ("customer_id' OR 1=1 --", "x"),
    ('customer_id" OR 1=1 --', "x"),
    ("customer_id.eq); DROP TABLE kept; --", "x"),
    ("secret", "x"),
    ("order_by", "customer_id; DROP TABLE kept"),
    ("order_by", "(SELECT secret FROM kept)"),
    ("order_by", 'customer_id", (SELECT secret FROM kept) --'),
    ("order_by", "-customer_id DESC NULLS LAST; --"),
    ("limit", "1; DROP TABLE kept"),
    ("limit", "-1"),
    ("limit", "1 OFFSET 5"),
    ("limit", "٣"),
    ("layer", "speed; DROP TABLE kept"),
    ("layer", "../../etc"),
    ("as_of", "2026-01-01T00:00:00Z'; DROP TABLE kept; --"),
    ("last_event_time.gte", "2026-01-01'; DROP TABLE kept; --"),
    ("total_spend", "1; DROP TABLE kept"),
    ("total_spend.gt", "1e999999999"),
    ("total_spend.gt", "nan"),
    ("order_count", "0x10"),
    ("cursor", "../../etc/passwd"),
    ("cursor", "W10"),
]


def test_what_is_asked_over_http_is_a_value_or_refused(engine: duckdb.DuckDBPyConnection) -> None:
    view = VIEWS["customer_totals"]
    engine.execute("ALTER TABLE answer ADD COLUMN order_count BIGINT DEFAULT 1")
    accepted = []
    for name, value in PARAMETERS:
        try:
            question = asked(view, [(name, value)], max_rows=100)
        except UsageError:
            continue
        accepted.append((name, value))
        assert value not in question.tail
        rows = engine.execute(f"SELECT * FROM answer {question.tail}", [*question.values]).fetchall()
        assert {row[0] for row in rows} <= {"a"}
    assert accepted == PARAMETERS[:3]
    assert engine.execute("SELECT * FROM kept").fetchall() == [("planted",)]


@pytest.mark.parametrize(
    "versions",
    [
        {"../../etc": [0, 0, None]},
        {"customer_totals": ["../1", 0, None]},
        {"customer_totals": [0, 0, "2026-01-01'; DROP TABLE kept; --"]},
        {"customer_totals": [-1, 0, None]},
    ],
)
def test_a_cursor_leads_nowhere_else(versions: dict[str, Any]) -> None:
    import base64

    text = base64.urlsafe_b64encode(json.dumps([0, versions, "x"]).encode()).decode().rstrip("=")
    try:
        found = Cursor.read(text)
    except UsageError:
        return
    # Only the names of the views that the question needs are looked up in it.
    assert {*found.versions} & {*VIEWS} == set()


# --- paths

PATHS = [
    "..",
    ".",
    "/",
    "",
    "../outside",
    "../../etc/passwd",
    "/etc/passwd",
    "//etc/passwd",
    "customer_totals/../../../outside",
    "customer_totals/..",
    "./customer_totals",
    "views/customer_totals",
    "..\\..\\outside",
    "%2e%2e%2foutside",
    "..%2foutside",
    "%252e%252e%252foutside",
    "..;/outside",
    "....//outside",
    "\u2025/outside",
    "\uff0e\uff0e/outside",
    "..\u2215outside",
    "..\x00/outside",
    "customer_totals\x00",
    "customer_totals\n../outside",
    "~/outside",
    "~root/outside",
    "$HOME/outside",
    "${env:HOME}",
    "file:///etc/passwd",
    "s3a://bucket/outside",
    "hdfs://name/outside",
    "delta.`/outside`",
    "c:\\outside",
    "\\\\server\\outside",
    "-rf",
    "--",
    "*",
    "customer_*",
    "[c]ustomer_totals",
    "customer_totals|id",
    "$(id)",
    "`id`",
    "; id",
    "customer_totals ",
    " customer_totals",
    "customer_totals.",
    "CUSTOMER_TOTALS",
    "customer\u200b_totals",
    "ｃustomer_totals",
    "con",
    "_delta_log",
    "_checkpoints",
    "_checkpoints/ingest_v1",
    "../_checkpoints/ingest_v1",
    "/proc/self/environ",
    "/proc/self/cwd/outside",
    "/dev/stdin",
    "/dev/zero",
    "outside/" * 40,
    "x" * 300,
    "../" * 60 + "etc/passwd",
    "a/../b",
]  # fmt: skip


@pytest.mark.parametrize("path", PATHS)
def test_a_path_out_of_the_lake_is_no_name(path: str, tmp_path: Path, base_settings: Settings) -> None:
    lake = tmp_path / "lake"
    lake.mkdir()
    (tmp_path / "outside").mkdir()
    before = sorted(tmp_path.rglob("*"))
    for command in ("query", "stop"):
        assert cli.main([command, f"--set=lake.root={lake}", "--", path]) == 2
    with pytest.raises(UsageError):
        known_views(base_settings, [path])
    with pytest.raises(ConfigurationError):
        load(path or "..", [], {})
    for made in (
        lambda: table_path(str(lake), path),
        lambda: checkpoint_path(str(lake), path),
        lambda: view_path(str(lake), path, "speed", 1),
    ):
        try:
            inside = Path(made()).resolve()
        except UsageError:
            continue
        assert inside.is_relative_to(lake)
        assert inside != lake
    assert sorted(tmp_path.rglob("*")) == before
    assert len(PATHS) >= 60


@pytest.mark.parametrize("name", ["../outside", "a/b", "A", "", "x; DROP TABLE y", "é"])
def test_an_extension_names_no_path(name: str) -> None:
    known = catalog.Catalog(KINDS, VIEWS)
    with pytest.raises(ConfigurationError):
        catalog._fitting_kind("own", replace(KINDS["orders"], name="own", table=name), known)
    with pytest.raises(ConfigurationError):
        catalog._fitting_view("own", replace(VIEWS["customer_totals"], name=name), known)


# --- YAML

LAUGHS = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{one}: &{one} [{', '.join(['*' + before] * 9)}]\n" for before, one in itertools.pairwise("abcdefghi")
)
DOCUMENTS = {
    "laughs": LAUGHS,
    "alias": "lake: {root: &x /x}\nspark: {master: *x}\n",
    "merge": "ingest: &x {trigger: 1 second}\nspeed: {<<: *x}\n",
    "recursion": "lake: &x [*x]\n",
    "python object": "lake: {root: !!python/object/apply:os.system ['touch {mark}']}\n",
    "python new": "lake: {root: !!python/object/new:os.system ['touch {mark}']}\n",
    "python name": "lake: {root: !!python/name:os.system }\n",
    "python module": "lake: {root: !!python/module:os }\n",
    "python tuple": "lake: !!python/tuple [root, /x]\n",
    "python exec": "lake: {root: !!python/object/apply:builtins.exec [\"open('{mark}', 'w')\"]}\n",
    "python subprocess": "lake: {root: !!python/object/apply:subprocess.Popen [[touch, '{mark}']]}\n",
    "own tag": "lake: !include /etc/passwd\n",
    "own tag with a handle": "%TAG ! tag:example.org,2026:\n---\nlake: !x {root: /x}\n",
    "binary": "lake: {root: !!binary L2V0Yw==}\n",
    "set": "lake: !!set {root}\n",
    "omap": "lake: !!omap [root: /x]\n",
    "two documents": "lake: {root: /x}\n---\nlake: {root: /y}\n",
    "deep": "[" * 20_000,
    "deep maps": "{a: " * 5_000,
    "deep lists": "- " * 20_000,
    "deep keys": "? " * 20_000,
    "deep indents": "".join(" " * one + "a:\n" for one in range(400)),
    "large": "lake: {root: '" + "x" * 2_000_000 + "'}\n",
    "control": 'lake: {root: "/x\x07"}\n',
    "key that is a list": "? [lake]\n: x\n",
    "key twice": "lake: {root: /x}\nlake: {root: /y}\n",
    "secret of a file": "lake: {root: '${file:../../etc/passwd}'}\n",
    "device": "lake: {root: '${file:/dev/../etc/does-not-exist}'}\n",
}


@pytest.mark.parametrize("kind", [*DOCUMENTS])
def test_yaml_is_values_and_nothing_else(kind: str, tmp_path: Path) -> None:
    known = catalog.Catalog(KINDS, VIEWS)
    mark = tmp_path / "mark"
    text = DOCUMENTS[kind].replace("{mark}", str(mark))
    (tmp_path / "own.yml").write_text(text)
    with pytest.raises(ConfigurationError) as caught:
        load("own", [], {}, tmp_path)
    assert len(caught.value.message) < 2_000
    (tmp_path / "quality.yml").write_text(text)
    with pytest.raises(PipelineError):
        expectations.load(known, tmp_path / "quality.yml")
    assert not mark.exists()
    assert len(DOCUMENTS) >= 20


def test_a_variable_is_read_under_the_same_rules() -> None:
    for text in ("!!python/object/apply:os.getcwd []", "{a: &x 1, b: *x}", "[" * 20_000):
        with pytest.raises(ConfigurationError):
            conf_files.plain_value(text, "PIPELINE_KAFKA__OPTIONS")


# --- code

FORBIDDEN = {
    "eval", "exec", "compile", "__import__",
    "os.system", "os.popen", "os.spawnl", "os.spawnv", "os.execl", "os.execv", "os.execvp", "pty.spawn",
    "subprocess.getoutput", "subprocess.getstatusoutput", "commands.getoutput",
    "yaml.load", "yaml.load_all", "yaml.full_load", "yaml.unsafe_load", "yaml.FullLoader", "yaml.UnsafeLoader", "yaml.Loader",
    "tempfile.mktemp", "marshal.loads", "shelve.open",
}  # fmt: skip
NEVER_IMPORTED = {"pickle", "cloudpickle", "dill", "marshal", "shelve", "joblib", "pty", "telnetlib"}
SHELLS = {"sh", "/bin/sh", "bash", "/bin/bash", "/usr/bin/env"}


def sources() -> Sequence[Path]:
    return [
        file
        for folder in ("src", "jobs", "orchestration", "examples")
        for file in sorted((ROOT / folder).rglob("*.py"))
    ]


@pytest.mark.parametrize("file", sources(), ids=lambda file: str(file.relative_to(ROOT)))
def test_no_text_is_run(file: Path) -> None:
    """No eval, no pickle, no shell, no YAML but plain values; `${…}` and SQL have their own rules above."""
    assert _offences(file.read_text(encoding="utf-8")) == []


def _offences(source: str) -> list[str]:
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            names = [one.name for one in node.names] if isinstance(node, ast.Import) else [node.module or ""]
            found += [name for name in names if name.partition(".")[0] in NEVER_IMPORTED]
        elif isinstance(node, (ast.Name, ast.Attribute)) and ast.unparse(node) in FORBIDDEN:
            found.append(ast.unparse(node))
        elif isinstance(node, ast.keyword) and node.arg == "shell" and ast.unparse(node.value) != "False":
            found.append("shell")
        elif isinstance(node, ast.List) and node.elts and isinstance(first := node.elts[0], ast.Constant):
            found += [str(first.value)] if first.value in SHELLS else []
    return found


@pytest.mark.parametrize(
    "source",
    [
        "eval('1')",
        "import pickle",
        "from pickle import loads",
        "import os; os.system('x')",
        "run(x, shell=True)",
        "run(['/bin/sh', '-c', x])",
        "yaml.load(x, yaml.SafeLoader)",
    ],
)
def test_what_runs_a_text_would_be_found(source: str) -> None:
    assert _offences(source)


def test_yaml_is_not_taken_from_elsewhere() -> None:
    """One module reads YAML, by the safe loader."""
    readers = [file for file in sources() if "yaml.safe_load" in file.read_text(encoding="utf-8")]
    assert [file.name for file in readers] == ["conf_files.py"]
    assert yaml.safe_load("1") == 1
