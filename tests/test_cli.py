"""The command line: exit codes, one clear message, nothing heavy before it is needed, exact text for rows."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import select
import shlex
import shutil
import subprocess
import sys
import time
import types
from datetime import date, datetime, timedelta, timezone
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pipeline import cli, console, kafka_check, rendering
from pipeline.errors import CheckFailed, KafkaUnreachable, RefusedToStart, TopicMissing

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

VIEWS = ("customer_hourly_spend", "enriched_orders", "order_outcomes", "customer_totals", "word_counts")
SOURCE = Path(__file__).parents[1] / "src"

Calls = list[dict[str, Any]]


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in os.environ:
        if name.startswith("PIPELINE_"):
            monkeypatch.delenv(name)


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Calls]:
    """Put `function` in the place of a module's, so that no command starts Spark."""
    import pipeline

    def put(module: str, function: str, answer: Any = None) -> Calls:
        calls: Calls = []

        def called(settings: object, *positional: object, **keywords: Any) -> Any:
            calls.append({**keywords, "settings": settings, "positional": positional})
            if isinstance(answer, BaseException):
                raise answer
            return answer

        fake = types.ModuleType(f"pipeline.{module}")
        setattr(fake, function, called)
        monkeypatch.setitem(sys.modules, f"pipeline.{module}", fake)
        monkeypatch.setattr(pipeline, module, fake, raising=False)
        return calls

    catalog = types.ModuleType("pipeline.catalog")
    catalog.views = lambda _: dict.fromkeys(VIEWS)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "pipeline.catalog", catalog)
    monkeypatch.setattr(pipeline, "catalog", catalog, raising=False)
    return put


def run(*words: str, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "pipeline", *words],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(SOURCE), **environ},
    )


def test_help_lists_every_command_and_loads_nothing_heavy() -> None:
    look = (
        "import sys; from pipeline.cli import main; main(['--help']); main(['qery']); "
        "print(sorted(sys.modules), file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", look],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": str(SOURCE)},
    )
    assert all(f"  {command.name} " in done.stdout for group in cli.COMMANDS.values() for command in group)
    assert max(map(len, done.stdout.splitlines())) <= 100
    assert "'argparse'" in done.stderr
    for heavy in ("pyspark", "rich", "yaml", "confluent_kafka"):
        assert f"'{heavy}'" not in done.stderr


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("pipeline que", {"query"}),
        ("pipeline query custo", {"customer_hourly_spend", "customer_totals"}),
        ("pipeline speed word", {"word_counts"}),
        ("pipeline dead-letters re", {"replay"}),
        ("pipeline query word_counts --layer s", {"served", "speed"}),
        ("pipeline ingest --on", {"--once"}),
    ],
)
def test_bash_completes_what_is_begun(typed: str, offered: set[str]) -> None:
    words = typed.split()
    asked = (
        f"COMP_WORDS=({typed}); COMP_CWORD={len(words) - 1}; "
        f"_shtab_pipeline pipeline {words[-1]} {words[-2]}; echo ${{COMPREPLY[@]}}"
    )
    script = run("--completion", "bash").stdout
    done = subprocess.run(["bash"], input=f"{script}\n{asked}\n", capture_output=True, text=True, check=True)
    assert set(done.stdout.split()) == offered


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_a_shell_completes_what_is_typed_in_it(shell: str, tmp_path: Path) -> None:
    """`pipeline` is a function there that writes down how it is called."""
    if not shutil.which(shell):
        pytest.skip(f"there is no {shell} here")
    typed = {
        "pipeline dead-letters li\t": "dead-letters list",
        "pipeline query word\t--la\tserved": "query word_counts --layer served",
        "pipeline stop ing\t": "stop ingest",
    }
    script, called = tmp_path / "completion", tmp_path / "called"
    script.write_text(run("--completion", shell).stdout)
    start = f'source {script}\npipeline() {{ echo "$*" >> {called}; }}\n'
    (tmp_path / ".zshrc").write_text(f"autoload -Uz compinit && compinit -u -D\n{start}")
    (tmp_path / ".bashrc").write_text(start)
    lines = "".join(f"{line}\n" for line in [*typed, "exit"])
    at_a_terminal([shell, "-i"], lines, HOME=str(tmp_path), ZDOTDIR=str(tmp_path), TERM="dumb")
    assert [line.split() for line in called.read_text().splitlines()] == [*map(str.split, typed.values())]


def at_a_terminal(words: Sequence[str], typed: str, **environ: str) -> None:
    """Run it on a terminal, type, and wait for its end."""
    ours, theirs = pty.openpty()
    given = {**os.environ, **environ}
    with subprocess.Popen(
        words, stdin=theirs, stdout=theirs, stderr=theirs, env=given, start_new_session=True
    ) as running:
        os.close(theirs)
        os.write(ours, typed.encode())
        with contextlib.suppress(OSError):  # which says that nobody holds the other end any more
            while select.select([ours], [], [], 30)[0] and os.read(ours, 4096):
                pass
        running.kill()
    os.close(ours)


def test_the_examples_of_a_help_are_commands() -> None:
    for command in (command for group in cli.COMMANDS.values() for command in group):
        for example in command.examples:
            assert cli._parser().parse_args(shlex.split(example)[1:]).run is command.run


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ([], "demo"),
        (["qery"], "query"),
        (["config"], "COMMAND"),
        (["ingest", "--onec"], "--onec"),
        (["ingest", "--on"], "--on"),
        (["query"], "VIEW"),
        (["query", "customer_hourly_spends"], "customer_hourly_spend"),
        (["speed", "word_count"], "word_counts"),
        (["query", "word_counts", "--limit", "0"], "--limit"),
        (["query", "word_counts", "--layer", "gold"], "gold"),
        (["query", "word_counts", "--order-by", "word", "up"], "--order-by"),
        (["generate", "--late", "2"], "--late"),
        (["generate", "--rate", "nan"], "--rate"),
        (["demo", "--events", "-1"], "--events"),
        (["ingest", "--set", "kafka.bootstrap_server=a:1"], "kafka.bootstrap_servers"),
        (["ingest", "--set", "speed.state_partitions=x"], "speed.state_partitions"),
        (["ingest", "--env", "nope"], "cluster"),
    ],
)
def test_wrong_usage_ends_with_2_and_says_what_is_right(
    words: list[str], told: str, stand_in: object, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(words) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert told in captured.err
    assert "Traceback" not in captured.err


@pytest.mark.parametrize(
    "until",
    [
        "",
        "yesterday",
        "2026-03-01",
        "2026-03-01T12:00:00",
        "2026-03-01 12:00:00Z",
        "2026-02-30T12:00:00Z",
        "0001-01-01T00:00:00+01:00",
    ],
)
def test_a_horizon_without_offset_is_refused(
    until: str, stand_in: object, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["batch", f"--until={until}"]) == 2
    assert "2026-03-01T12:00:00Z" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("until", "horizon"),
    [
        ("2026-03-01T12:00:00Z", datetime(2026, 3, 1, 12, tzinfo=timezone.utc)),
        ("2026-03-01T12:00Z", datetime(2026, 3, 1, 12, tzinfo=timezone.utc)),
        ("2026-03-01T12:00:00.5+05:30", datetime(2026, 3, 1, 6, 30, 0, 500_000, tzinfo=timezone.utc)),
    ],
)
def test_batch_gets_its_horizon_in_utc(until: str, horizon: datetime, stand_in: Callable[..., Calls]) -> None:
    calls = stand_in("batch", "run")
    assert cli.main(["batch", "word_counts", "word_counts", "--until", until, "--from", "raw"]) == 0
    (call,) = calls
    assert (call["views"], call["until"], call["source"]) == (["word_counts"], horizon, "raw")
    assert call["until"].utcoffset() == timedelta(0)


def test_elt_gets_what_dbt_is_to_select(stand_in: Callable[..., Calls]) -> None:
    calls = stand_in("elt", "run")
    assert cli.main(["elt"]) == 0
    assert cli.main(["elt", "--select", "staging", "+fact_orders", "--full-refresh", "--docs", "/d"]) == 0
    told = [(call["select"], call["full_refresh"], call["docs"]) for call in calls]
    assert told == [([], False, None), (["staging", "+fact_orders"], True, Path("/d"))]


def test_without_views_all_are_meant(stand_in: Callable[..., Calls]) -> None:
    calls = stand_in("speed", "run")
    assert cli.main(["speed", "--once", "--set", "speed.source=log"]) == 0
    assert (calls[0]["views"], calls[0]["once"]) == ([], True)
    assert calls[0]["settings"].speed.source == "log"


@pytest.mark.parametrize(
    ("raised", "exit_code"),
    [
        (CheckFailed("3 rows differ"), 1),
        (KafkaUnreachable("no broker at a:1", bootstrap_servers="a:1"), 3),
        (RefusedToStart("the checkpoint is another's"), 4),
        (ZeroDivisionError("by zero"), 70),
        (KeyboardInterrupt(), 130),
    ],
)
def test_an_error_ends_with_its_exit_code_and_no_stack_trace(
    raised: BaseException, exit_code: int, stand_in: Callable[..., Calls], capsys: pytest.CaptureFixture[str]
) -> None:
    stand_in("ingest", "run", raised)
    assert cli.main(["ingest"]) == exit_code
    captured = capsys.readouterr()
    assert str(raised) in captured.err
    assert "Traceback" not in captured.err
    assert captured.out == ""


def test_debug_shows_the_stack_trace(
    stand_in: Callable[..., Calls], capsys: pytest.CaptureFixture[str]
) -> None:
    stand_in("ingest", "run", ZeroDivisionError("by zero"))
    assert cli.main(["ingest", "--debug"]) == 70
    assert "Traceback" in capsys.readouterr().err


def test_a_command_ends_with_the_code_it_returns(stand_in: Callable[..., Calls]) -> None:
    stand_in("demo", "run", 1)
    assert cli.main(["demo"]) == 1


COLUMNS = ["customer_id", "window_start", "hourly_spend", "order_count", "is_final"]
ROWS = [
    ("Zoë, 1", datetime(2026, 3, 1, 12), Decimal("10.50"), 2, True),  # noqa: DTZ001  # as Spark gives it
    (
        None,
        datetime(2026, 3, 1, 13, 0, 0, 1500, tzinfo=timezone(timedelta(hours=1))),
        Decimal("1E+3"),
        1,
        None,
    ),
]


def test_rows_as_json(stand_in: Callable[..., Calls], capsys: pytest.CaptureFixture[str]) -> None:
    calls = stand_in("querying", "query", (COLUMNS, iter(ROWS)))
    words = [
        "customer_hourly_spend",
        "--format",
        "json",
        "--where",
        "a > 1",
        "--limit",
        "3",
        "--order-by",
        "hourly_spend",
        "desc",
    ]
    assert cli.main(["query", *words]) == 0
    captured = capsys.readouterr()
    assert [json.loads(line) for line in captured.out.splitlines()] == [
        {
            "customer_id": "Zoë, 1",
            "window_start": "2026-03-01T12:00:00Z",
            "hourly_spend": "10.50",
            "order_count": 2,
            "is_final": True,
        },
        {
            "customer_id": None,
            "window_start": "2026-03-01T12:00:00.001500Z",
            "hourly_spend": "1000",
            "order_count": 1,
            "is_final": None,
        },
    ]
    assert captured.err == ""
    (call,) = calls
    assert call["positional"] == ("customer_hourly_spend",)
    assert (call["layer"], call["where"], call["limit"], call["order_by"]) == (
        "served",
        "a > 1",
        3,
        ("hourly_spend", True),
    )


def test_rows_as_csv(stand_in: Callable[..., Calls], capsys: pytest.CaptureFixture[str]) -> None:
    stand_in("querying", "query", (COLUMNS, iter(ROWS)))
    assert cli.main(["query", "customer_hourly_spend", "--format", "csv"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "customer_id,window_start,hourly_spend,order_count,is_final",
        '"Zoë, 1",2026-03-01T12:00:00Z,10.50,2,true',
        ",2026-03-01T12:00:00.001500Z,1000,1,",
    ]


def test_rows_as_a_table_are_not_cut(
    stand_in: Callable[..., Calls], capsys: pytest.CaptureFixture[str]
) -> None:
    stand_in("querying", "query", (["word", "count"], [("[bold]" + "x" * 200, 12)]))
    assert cli.main(["query", "word_counts"]) == 0
    assert "[bold]" + "x" * 200 in capsys.readouterr().out


def test_other_values_as_json() -> None:
    row = (date(2026, 3, 1), b"\xff", float("nan"), [Decimal("1.10")], {"a": None})
    (line,) = rendering.json_lines(["a", "b", "c", "d", "e"], [row])
    assert json.loads(line) == {"a": "2026-03-01", "b": "/w==", "c": None, "d": ["1.10"], "e": {"a": None}}


def test_config_show_tells_where_values_come_from_and_masks_secrets() -> None:
    done = run(
        "config",
        "show",
        "--set",
        "kafka.options.kafka.sasl.jaas.config=${env:LOGIN}",
        PIPELINE_LAKE__ROOT="/from/env",
        LOGIN="hunter2",
    )
    lines = {line.partition(": ")[0]: line for line in done.stdout.splitlines()}
    assert done.returncode == 0, done.stderr
    assert "base.yml:" in lines["kafka.bootstrap_servers"]
    assert lines["lake.root"].split() == ["lake.root:", '"/from/env"', "#", "PIPELINE_LAKE__ROOT"]
    assert "--set" in lines["kafka.options.kafka.sasl.jaas.config"]
    assert "hunter2" not in done.stdout


def test_config_show_as_json_is_one_object() -> None:
    done = run("config", "show", "--format", "json")
    assert json.loads(done.stdout)["kafka.topics.orders"] == "orders"


def test_a_reader_that_goes_away_is_no_error() -> None:
    program = "from pipeline import console; console.write_lines('x' * 100 for _ in range(100_000))"
    done = subprocess.run(
        ["bash", "-c", f'set -o pipefail; "{sys.executable}" -c "{program}" | head -1'],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(SOURCE)},
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "x" * 100 + "\n", "")


def test_down_ends_what_the_demo_left_running_too(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from pipeline.devservices import kafka, postgres

    ended: list[Path] = []
    for service in (kafka, postgres):
        monkeypatch.setattr(service, "stop", ended.append)
    assert cli.main(["down", f"--set=devservices.home={tmp_path}"]) == 0
    homes = (tmp_path, tmp_path / "demo")
    assert {*ended} == {home / name for home in homes for name in ("kafka", "postgres")}


def test_what_goes_on_and_on_is_told_at_once_then_now_and_then_and_at_its_end(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with console.streams() as tell:
        for batch in range(3):
            tell("ingest", f"batch {batch}")
            tell("word_counts", "batch 0")
        assert capsys.readouterr().err == "ingest: batch 0\nword_counts: batch 0\n"
    assert capsys.readouterr().err == "ingest: batch 2\n"


def test_a_step_is_plain_lines_where_nobody_looks(capsys: pytest.CaptureFixture[str]) -> None:
    with console.step("Counting"):
        pass
    with pytest.raises(CheckFailed), console.step("Checking"):
        raise CheckFailed("no")
    lines = capsys.readouterr().err.splitlines()
    assert [line.split("  ")[0] for line in lines] == ["✓ Counting", "✗ Checking"]


def test_a_step_that_takes_long_is_told_of_before_its_end(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(console, "_LONG_SECONDS", 0.01)
    with console.step("Counting"):
        deadline = time.monotonic() + 10
        while not (told := capsys.readouterr().err) and time.monotonic() < deadline:
            time.sleep(0.01)
    assert told == "… Counting\n"
    assert capsys.readouterr().err.startswith("✓ Counting  ")


@pytest.fixture(scope="module")
def broker() -> Iterator[str]:
    """The address of a broker inside librdkafka, which knows the topics orders and text-lines."""
    from confluent_kafka import Producer

    producer = Producer({"test.mock.num.brokers": 1, "log_level": 0})
    for topic in ("orders", "text-lines"):
        producer.produce(topic, b"x")
    producer.flush(10)
    (address,) = (f"{one.host}:{one.port}" for one in producer.list_topics(timeout=10).brokers.values())
    yield address
    del producer


def test_topics_that_are_there_are_enough(broker: str) -> None:
    kafka_check.require_topics(broker, ["orders", "text-lines"])


def test_a_missing_topic_is_named_with_those_alike(broker: str) -> None:
    with pytest.raises(TopicMissing) as caught:
        kafka_check.require_topics(f"localhost:1,{broker}", ["orders", "Order"])
    assert (caught.value.topics, caught.value.alike) == (("Order",), ("orders",))


def test_an_unreachable_broker_is_named_and_librdkafka_is_quiet(
    capfd: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(KafkaUnreachable) as caught:
        kafka_check.require_topics("localhost:1", ["orders"], timeout_seconds=1)
    assert "localhost:1" in caught.value.message
    assert caught.value.bootstrap_servers == "localhost:1"
    captured = capfd.readouterr()
    assert captured.out + captured.err == ""


def test_completion_knows_the_views_of_extensions(tmp_path: Path) -> None:
    payments = SOURCE.parent / "examples" / "payments"
    environ = {
        "PYTHONPATH": f"{SOURCE}{os.pathsep}{payments}",
        "PIPELINE_CONF": str(payments),
        "PIPELINE_ENV": "payments",
    }
    assert "hourly_takings" in run("--completion", "bash", **environ).stdout
    broken = run("--completion", "bash", **environ, PIPELINE_EXTENSIONS="no_such_module")
    assert (broken.returncode, broken.stderr) == (0, "")
    assert "word_counts" in broken.stdout
