"""The command line: `main` is what the console script, `python -m pipeline` and every job file call.

A command is a function of the settings and its arguments, and one entry in COMMANDS. It imports what it needs when it
runs, so that `--help` and a wrong argument are answered at once, without Spark.
"""

from __future__ import annotations

import argparse
import os
import sys
import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

from pipeline.cli import change_it, dead_letters, keep_it, look_at_it, prove_it, run_it, try_it
from pipeline.cli.arguments import unknown
from pipeline.cli.command import Arguments, Command
from pipeline.errors import PipelineError, UsageError

if TYPE_CHECKING:
    from pipeline.settings import Settings

__all__ = ["main"]

INTERRUPTED = 130
FAULT_OF_OURS = 70
_SHELLS = ("bash", "zsh")
_WIDTH = 80
_LAST_WORDS = """\
To begin with: pipeline demo --keep, and then pipeline status.
What a command takes, with examples: pipeline COMMAND --help
The shell completes commands, views and options: eval "$(pipeline --completion bash)", or zsh"""

COMMANDS: Mapping[str, Sequence[Command]] = {
    "Try it": try_it.COMMANDS,
    "Run it": run_it.COMMANDS,
    "Prove it": prove_it.COMMANDS,
    "Look at it": look_at_it.COMMANDS,
    "Change it": change_it.COMMANDS,
    "Mend it": dead_letters.COMMANDS,
    "Keep it": keep_it.COMMANDS,
}


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message}\n{self.format_usage().strip()}\nMore: {self.prog} --help")


class _Completion(argparse.Action):
    """Prints what a shell is to load, and ends."""

    def __init__(self, *, commands: Any, **keywords: Any) -> None:
        super().__init__(**keywords)
        self._commands = commands

    def __call__(
        self, parser: argparse.ArgumentParser, _: object, values: Any, __: object = None
    ) -> NoReturn:
        if values not in _SHELLS:
            raise unknown("completion for", values, _SHELLS)
        import shtab

        self._commands.help = "what to do"  # shtab passes over what the help leaves out
        views = _view_names()
        names = {"VIEW": views, "QUERY": ["ingest", *views]}
        for command in self._commands.choices.values():
            command.description = command.description.partition(". ")[0]  # zsh shows a line of each
            for action in command._actions:
                action.choices = names.get(action.metavar, action.choices)
                if action.metavar in ("FILE", "FOLDER"):
                    action.complete = shtab.FILE if action.metavar == "FILE" else shtab.DIRECTORY
        script = shtab.complete(parser, values)
        # As shtab has it, zsh takes what `source` reads for an autoloaded function, and calls it at once.
        print(script.replace("$zsh_eval_context[-1] == eval", "$zsh_eval_context[-1] != loadautofunc"))
        parser.exit()


def _view_names() -> list[str]:
    """Those of the configuration in force, its extensions' among them; without a good one, those of every lake: a shell that begins
    is not held up by a secret that is not there yet.
    """
    from pipeline import catalog
    from pipeline.settings import load
    from pipeline.views import VIEWS

    try:
        return sorted(catalog.views(load(None, [])))
    except PipelineError:
        return sorted(VIEWS)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; an error is told in one block on stderr."""
    given = list(sys.argv[1:] if argv is None else argv)
    try:
        return _run(given)
    except SystemExit as end:  # argparse after --help
        return end.code if isinstance(end.code, int) else 0
    except KeyboardInterrupt:
        return INTERRUPTED
    except Exception as error:  # noqa: BLE001  # whatever it is, the user gets a message and an exit code
        return _told(error, with_trace="--debug" in given)


def _run(given: Sequence[str]) -> int:
    _require_known_command(given)
    arguments = _parser().parse_args(given)
    # Spark's workers must run the Python that we run.
    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
    from pipeline import console
    from pipeline.settings import load, without_secrets

    settings = load(arguments.env, arguments.overrides)
    console.mask(lambda text: without_secrets(settings, text))
    if settings.logs.format == "json":
        console.log_json()
    run = _run_job if arguments.is_job else _run_command
    return run(settings, arguments)


def _run_command(settings: Settings, arguments: Arguments) -> int:
    try:
        return arguments.run(settings, arguments) or 0
    except Exception as error:
        ended = _spark_ended(error)
        if ended is None:
            raise
        raise ended from error


def _spark_ended(error: Exception) -> PipelineError | None:
    """What is behind an error where Spark was started, and its JVM has ended by itself."""
    if "pyspark" not in sys.modules:
        return None
    from pipeline.jvm import ended

    return ended(error)


def _run_job(settings: Settings, arguments: Arguments) -> int:
    """As any command, and its failure goes to the alert channel; the person who reads the terminal is told first."""
    from pipeline import alerts

    with alerts.sending(settings):
        try:
            exit_code = _run_command(settings, arguments)
        except UsageError:
            raise
        except Exception as error:  # noqa: BLE001  # as in main
            alerts.report(alerts.failure(arguments.command, error))
            return _told(error, with_trace=arguments.debug)
        alerts.over(arguments.command, alerts.RUN)
        return exit_code


def _told(error: Exception, *, with_trace: bool) -> int:
    from pipeline import console

    if with_trace:
        import traceback

        console.note("".join(traceback.format_exception(error)).rstrip())
    if isinstance(error, PipelineError):
        console.error(error.message)
        return error.exit_code
    first_line = next(iter(str(error).splitlines()), "")
    advice = "" if with_trace else "\nThe same command with --debug shows the stack trace."
    console.error(f"This is a fault of the pipeline itself: {type(error).__name__}: {first_line}{advice}")
    return FAULT_OF_OURS


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="pipeline",
        usage="pipeline COMMAND [options]",
        description="Orders in Kafka become trusted Delta tables, by a speed layer and a batch layer that agree.",
        epilog=_overview(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    commands = parser.add_subparsers(
        dest="command", prog="pipeline", metavar="COMMAND", required=True, help=argparse.SUPPRESS
    )
    parser.add_argument(
        "--completion",
        action=_Completion,
        commands=commands,
        metavar="SHELL",
        help="print the completion of bash or zsh",
    )
    groups: dict[str, Any] = {}
    for command in _all_commands():
        first, _, second = command.name.partition(" ")
        if second and first not in groups:
            summary = f"one of: {_below(first)}"
            group = commands.add_parser(first, help=summary, description=summary, allow_abbrev=False)
            groups[first] = group.add_subparsers(dest="subcommand", metavar="COMMAND", required=True)
        _add_command(groups[first] if second else commands, second or first, command)
    return parser


def _add_command(commands: Any, name: str, command: Command) -> None:
    parser = commands.add_parser(
        name,
        help=command.summary,
        description=command.summary,
        epilog=_examples(command),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    command.options(parser)
    parser.description = textwrap.fill(parser.description, _WIDTH)
    common = parser.add_argument_group("for every command")
    common.add_argument(
        "--env", metavar="NAME", help="take conf/NAME.yml over conf/base.yml (default: PIPELINE_ENV)"
    )
    common.add_argument(
        "--set",
        dest="overrides",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="change one setting; repeatable",
    )
    common.add_argument("--debug", action="store_true", help="show the stack trace of an error")
    parser.set_defaults(run=command.run, is_job=command.is_job)


def _all_commands() -> list[Command]:
    return [command for group in COMMANDS.values() for command in group]


def _below(first: str) -> str:
    words = (command.name.partition(" ") for command in _all_commands())
    return ", ".join(second for name, _, second in words if name == first)


def _examples(command: Command) -> str | None:
    return (
        "\n".join(["for example:", *(f"  {line}" for line in command.examples)]) if command.examples else None
    )


def _overview() -> str:
    width = max(len(command.name) for command in _all_commands())
    blocks = (
        "\n".join([_title(title), *(f"  {command.name:<{width}}  {command.summary}" for command in group)])
        for title, group in COMMANDS.items()
    )
    return "\n\n".join([*blocks, _LAST_WORDS])


def _title(text: str) -> str:
    is_plain = not sys.stdout.isatty() or os.environ.get("TERM") == "dumb" or "NO_COLOR" in os.environ
    return f"{text}:" if is_plain else f"\033[1m{text}:\033[0m"


def _require_known_command(given: Sequence[str]) -> None:
    if not given:
        raise UsageError(f"Which command?\n\n{_overview()}")
    known = sorted({command.name.partition(" ")[0] for command in _all_commands()})
    if not given[0].startswith("-") and given[0] not in known:
        raise unknown("command", given[0], known)
