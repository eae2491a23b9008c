"""The command line: `python -m service <command>`, or `finmind-jobs <command>` once installed.

Exit codes: 0 done, 1 failed, 2 wrong usage or configuration, 130 ended by force.
"""

import argparse
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from datetime import datetime
from typing import Any, TypeVar

import asyncpg
from sqlalchemy.exc import DBAPIError

from service import commands, signals
from service.auth.principal import Permission, Role
from service.db.errors import DATABASE_ERRORS
from service.db.roles import RoleNames
from service.errors import FinMindError
from service.observability.logging import configure_logging
from service.settings import Settings, load_settings

T = TypeVar("T")
Command = Callable[[Settings, argparse.Namespace], int]


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the exit code."""
    arguments = _parser().parse_args(argv)
    for number in signals.ending():
        if number is not signal.SIGINT:  # which raises KeyboardInterrupt
            # Without this one would end a short command before it leaves the embedded server.
            signal.signal(number, lambda number, _: sys.exit(128 + number))
    try:
        settings = load_settings()
        settings = settings.model_copy(update=_overrides(arguments))
        configure_logging(settings)
        command: Command = arguments.command
        return command(settings, arguments)
    except FinMindError as error:
        commands.say(f"error: {error.detail}")
        return 2
    except (*DATABASE_ERRORS, DBAPIError) as error:
        commands.say(f"error: {_of_the_database(error)}")
        return 1
    except KeyboardInterrupt:
        return 130


def _of_the_database(error: Exception) -> str:
    """One line: what PostgreSQL refused, what is wrong with a file, or that nobody answers."""
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


def _overrides(arguments: argparse.Namespace) -> dict[str, Any]:
    """Settings that the command line gives: they win over the environment."""
    return {
        name: value
        for name in ("host", "port", "worker_port")
        if (value := getattr(arguments, name, None)) is not None
    }


def _number(low: float, high: float, kind: Callable[[str], T]) -> Callable[[str], T]:
    def parse(text: str) -> T:
        value = kind(text)
        if not low <= value <= high:  # type: ignore[operator]
            raise argparse.ArgumentTypeError(f"{text} is not between {low:g} and {high:g}")
        return value

    parse.__name__ = "number"
    return parse


def _time(text: str) -> datetime:
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a time: expected one with a zone, such as 2026-03-01T09:00:00Z"
        ) from None


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="finmind-jobs",
        description="A background-job service on PostgreSQL. Settings come from the environment; "
        "see docs/configuration.md.",
    )
    subparsers = parser.add_subparsers(required=True, metavar="COMMAND")

    def add(name: str, command: Command, text: str) -> argparse.ArgumentParser:
        added = subparsers.add_parser(name, help=text, description=text)
        added.set_defaults(command=command)
        return added

    serve = add("serve", commands.serve, "serve HTTP and run jobs")
    serve.add_argument("--no-worker", action="store_true", help="serve HTTP alone")
    serve.add_argument("--host", help="address to listen on, over HOST")
    serve.add_argument("--port", type=_number(0, 65535, int), help="port, over PORT")

    working = add("worker", commands.worker, "run jobs; serve health and metrics alone")
    working.add_argument("--host", help="address to listen on, over HOST")
    working.add_argument(
        "--port", dest="worker_port", type=_number(0, 65535, int), help="port, over WORKER_PORT"
    )

    migrating = add("migrate", commands.migrate, "bring the schema up to date")
    migrating.add_argument("--sql", action="store_true", help="print what would run")
    migrating.add_argument("--to", default="head", metavar="REV", help="revision, or base")
    migrating.add_argument("--back", action="store_true", help="allow an older one: drops data")

    roles = add("roles", commands.roles, "print the SQL of least-privilege database roles")
    for name, default in asdict(RoleNames()).items():
        if name != "schema":
            roles.add_argument(f"--{name}", default=default, metavar="NAME")
    roles.add_argument(
        "--schema", metavar="NAME", help="where the tables are, over DATABASE_SCHEMA"
    )

    token = add("token", commands.token, "print a bearer token signed with JWT_SECRET")
    token.add_argument("--role", required=True, choices=[role.value for role in Role])
    token.add_argument("--sub", default="cli", metavar="NAME", help="whom it is for")
    token.add_argument("--hours", type=_number(0.01, 8760, float), default=12.0)

    _add_key_arguments(add("api-keys", commands.api_keys, "make, list and revoke API keys"))
    _add_job_arguments(add("enqueue", commands.enqueue, "enqueue one job and print its id"))

    demo = add("demo", commands.demo, "enqueue a lively mix of demo jobs")
    demo.add_argument("--jobs", type=_number(1, 1_000_000, int), default=200)
    return parser


def _add_key_arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(required=True, dest="action", metavar="ACTION")
    create = actions.add_parser("create", help="make a key and print it, this once")
    create.add_argument("name", help="what it is for")
    create.add_argument(
        "--scope", action="append", required=True, type=Permission, choices=list(Permission)
    )
    create.add_argument(
        "--queue", action="append", help="the only queue that it may use, or several"
    )
    create.add_argument("--job-type", action="append", help="the only job type, or several")
    create.add_argument(
        "--priority", action="append", type=_number(0, 9, int), help="the only priority, or several"
    )
    create.add_argument("--days", type=_number(0.01, 3650, float), help="how long it holds")
    actions.add_parser("list", help="show every key, without secrets")
    revoke = actions.add_parser("revoke", help="make a key stop working at once")
    revoke.add_argument("prefix", help="as `list` shows it")


def _add_job_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("job_type", metavar="TYPE")
    parser.add_argument("--payload", default="{}", metavar="JSON")
    parser.add_argument("--queue")
    parser.add_argument("--priority", type=int, help="0, most urgent, to 9")
    parser.add_argument("--max-retries", type=int)
    parser.add_argument("--run-at", type=_time, metavar="TIME", help="such as 2026-03-01T09:00:00Z")
    parser.add_argument("--delay-seconds", "--delay", type=float, metavar="SECONDS")
    parser.add_argument("--timeout-seconds", "--timeout", type=float, metavar="SECONDS")
    parser.add_argument("--unique-key")
