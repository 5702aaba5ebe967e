"""Imports go down only: read from the sources with ast, nothing is imported."""

from __future__ import annotations

import ast
from graphlib import TopologicalSorter
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

SOURCE = Path(__file__).parents[1] / "src"

# From the top down. A module may import from its own layer and from those below; a name with a dot at its end is a
# package with everything in it. A new module gets its place here.
LAYERS: dict[str, set[str]] = {
    "command line": {"__main__", "archiving", "cli.", "demo", "devservices."},
    "assembly": {
        "ingest", "single_process", "skipping", "starting", "versions", "feeding", "promotion", "kept_state",
        "speed", "batch", "published", "incremental", "evidence", "lag", "limits", "lineage", "notebook", "serving", "querying", "replay", "etl", "elt", "reconcile.", "audit.", "dead_letters", "late",
        "standing", "status", "report.", "service.", "changes", "erase", "maintain", "plan.", "quality", "expectations", "reference", "validation", "order_contract", "events.", "scheduled",
    },
    "ends": {
        "catalog", "sources", "sinks", "feeds", "observe", "exporter", "progress", "session", "tables", "files", "checkpoints", "streaming", "ledger", "repairs", "kafka_check", "jars", "java", "class_archive",
        "alerts", "problems", "slack", "guards.", "leases", "jvm", "kafka_topics", "kafka_offsets", "kafka_login", "delta_log", "compaction", "state_stores", "stopping", "dbt_project", "postgres", "postgres_source",
        "warehouse", "reading", "local_lake", "rendering",
    },
    "pure": {"transforms.", "views", "served", "conditions"},
    "contracts": {"ahead", "contracts", "contract_rules", "kinds", "shop", "schedule"},
    "errors": {"errors", "failpoints", "instants", "loopback", "personal_data", "__init__"},
}  # fmt: skip
# Settings lie beside the layers: who assembles may see them, what is assembled may not. Where records come from
# and where messages go is nothing but settings.
SETTINGS = {"settings.", "conf_files"}
SEES_SETTINGS = (
    {"catalog", "session", "sources", "alerts", "slack"}
    | LAYERS["assembly"]
    | (LAYERS["command line"] - {"devservices."})
)
# The terminal, too, is for those who run something, not for what they run.
SEES_CONSOLE = SEES_SETTINGS - {"catalog", "session", "sources", "alerts", "slack"}
# For development only.
SEES_DEVSERVICES = {"archiving", "cli.", "demo"}
# Loaded before every command: only the standard library, and ours that keep to it.
LIGHT = {
    "__init__",
    "__main__",
    "cli.",
    "errors",
    "console",
    "instants",
    "personal_data",
    "rendering",
    "transforms.patches",
}
# What the business may not do: it takes DataFrames and gives DataFrames.
INPUT_AND_OUTPUT = {
    "read",
    "readStream",
    "write",
    "writeStream",
    "writeTo",
    "collect",
    "toPandas",
    "foreachBatch",
}


def modules() -> dict[str, Path]:
    files = sorted((SOURCE / "pipeline").rglob("*.py"))
    return {_dotted(file): file for file in files}


def _dotted(file: Path) -> str:
    parts = file.relative_to(SOURCE / "pipeline").with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)


def _is_in(module: str, names: set[str]) -> bool:
    return module in names or any(name.endswith(".") and f"{module}.".startswith(name) for name in names)


def _layer(module: str) -> str | None:
    return next((layer for layer, names in LAYERS.items() if _is_in(module, names)), None)


def _imports(tree: ast.AST) -> Iterator[str]:
    """Every imported name, dotted; `from pipeline import x` counts as pipeline.x."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            yield from (f"{node.module}.{name.name}" for name in node.names)


def _own(module: str, known: set[str]) -> set[str]:
    """The modules of ours that `module` imports."""
    found = set()
    for name in _imports(ast.parse(modules()[module].read_text(encoding="utf-8"))):
        head, _, inside = name.partition(".")
        if head == "pipeline":
            found.add(inside if inside in known else inside.rpartition(".")[0] or "__init__")
    return (found & known) - {module}


@pytest.mark.parametrize("module", modules())
def test_imports_go_down(module: str) -> None:
    known = set(modules())
    if _is_in(module, SETTINGS) or module == "console":
        assert all(_is_in(one, SETTINGS | LAYERS["errors"]) for one in _own(module, known))
        return
    order = list(LAYERS)
    own = _layer(module)
    assert own is not None, f"{module} has no layer yet: give it one in LAYERS"
    for imported in _own(module, known):
        if _is_in(imported, SETTINGS):
            assert _is_in(module, SEES_SETTINGS), f"{module} may not see the settings"
            continue
        if imported == "console":
            assert _is_in(module, SEES_CONSOLE), f"{module} may not write to the terminal"
            continue
        layer = _layer(imported)
        assert layer is not None, f"{imported} has no layer yet: give it one in LAYERS"
        assert order.index(layer) >= order.index(own), (
            f"{module} ({own}) imports {imported} ({layer}), which is above it"
        )
        if imported.startswith("devservices") and not module.startswith("devservices"):
            assert _is_in(module, SEES_DEVSERVICES), (
                f"{module} imports {imported}, which is for development only"
            )


def test_no_two_modules_need_each_other() -> None:
    known = set(modules())
    TopologicalSorter({module: _own(module, known) for module in known}).prepare()


@pytest.mark.parametrize("module", [module for module in modules() if _is_in(module, LIGHT)])
def test_what_every_command_loads_is_light(module: str) -> None:
    tree = ast.parse(modules()[module].read_text(encoding="utf-8"))
    heavy = {
        name.partition(".")[0]
        for statement in tree.body
        if not _is_for_types(statement)
        for name in _at_import(statement)
    } & {"pyspark", "delta", "rich", "yaml", "confluent_kafka", "pandas", "psycopg", "pyarrow"}
    assert heavy == set()


def _at_import(statement: ast.stmt) -> Iterator[str]:
    if not isinstance(statement, (ast.FunctionDef, ast.ClassDef)):
        yield from _imports(statement)


def _is_for_types(statement: ast.stmt) -> bool:
    return isinstance(statement, ast.If) and ast.unparse(statement.test) == "TYPE_CHECKING"


@pytest.mark.parametrize(
    "module", [module for module in modules() if _layer(module) in {"pure", "contracts"}]
)
def test_the_business_does_no_input_or_output(module: str) -> None:
    tree = ast.parse(modules()[module].read_text(encoding="utf-8"))
    used = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    assert used & INPUT_AND_OUTPUT == set()
