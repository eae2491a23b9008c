"""The command line: `python -m service <command>`, or `finmind-jobs <command>` once installed.

Each command has a file of its own, with its arguments and what it does; `COMMANDS` lists them. Only that of
the command that runs is imported: all of them together take longer to import than most take to run.

Exit codes: 0 done, 1 failed, 2 wrong usage or configuration, 130 ended by force.
"""

import argparse
import importlib
import signal
import sys
from collections.abc import Iterable, Sequence
from typing import Any, Final

import asyncpg
from sqlalchemy.exc import DBAPIError

from service import signals
from service.cli.command import Command, say
from service.db.errors import DATABASE_ERRORS
from service.errors import FinMindError
from service.observability.logging import configure_logging
from service.settings import load_settings

COMMANDS: Final = {
    "serve": "serve",
    "worker": "serve",
    "migrate": "migrate",
    "roles": "roles",
    "token": "token",
    "api-keys": "api_keys",
    "enqueue": "enqueue",
    "jobs": "jobs",
    "queues": "queues",
    "schedules": "schedules",
    "targets": "targets",
    "demo": "demo",
}
"""The module of each command in this package, in the order that `--help` shows."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the exit code."""
    argv = sys.argv[1:] if argv is None else argv
    named = argv[:1] if argv[:1] and argv[0] in COMMANDS else COMMANDS
    arguments = _parser(named).parse_args(argv)
    for number in signals.ending():
        if number is not signal.SIGINT:  # which raises KeyboardInterrupt
            # Without this a signal would end a short command before it leaves the embedded server.
            signal.signal(number, lambda number, _: sys.exit(128 + number))
    try:
        settings = load_settings()
        settings = settings.model_copy(update=_overrides(arguments))
        configure_logging(settings)
        command: Command = arguments.command
        return command.run(settings, arguments)
    except FinMindError as error:
        say(f"error: {error.detail}")
        return 2
    except (*DATABASE_ERRORS, DBAPIError) as error:
        say(f"error: {_of_the_database(error)}")
        return 1
    except KeyboardInterrupt:
        return 130


def _parser(names: Iterable[str]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="finmind-jobs",
        description="A background-job service on PostgreSQL. Settings come from the environment; "
        "see docs/configuration.md.",
    )
    subparsers = parser.add_subparsers(required=True, metavar="COMMAND")
    for name in names:
        module = importlib.import_module(f"service.cli.{COMMANDS[name]}")
        command: Command = getattr(module, name.replace("-", "_").upper())
        added = subparsers.add_parser(command.name, help=command.help, description=command.help)
        added.set_defaults(command=command)
        command.add_arguments(added)
    return parser


def _overrides(arguments: argparse.Namespace) -> dict[str, Any]:
    """Settings that the command line gives: they win over the environment."""
    return {
        name: value
        for name in ("host", "port", "worker_port")
        if (value := getattr(arguments, name, None)) is not None
    }


def _of_the_database(error: Exception) -> str:
    """One line: what PostgreSQL refused, what is wrong with a file, or that the database is away."""
    origin = getattr(error, "orig", None) or error
    cause = origin.__cause__ or origin  # SQLAlchemy wraps the driver's error twice
    reason = (str(cause) or type(cause).__name__).splitlines()[0]
    if isinstance(cause, OSError) and cause.filename is not None:
        return f"{cause.filename}: {cause.strerror}"
    if isinstance(cause, asyncpg.PostgresError) and not isinstance(
        cause, asyncpg.PostgresConnectionError
    ):
        return f"PostgreSQL refuses: {reason}"
    return f"the database does not answer: {reason}"
