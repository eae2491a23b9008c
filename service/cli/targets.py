"""`targets`: list what HTTP requests are sent to, and close the breaker of one."""

import argparse
from typing import Final

from service.cli.actor import cli_actor
from service.cli.command import Command
from service.cli.database import with_database
from service.db.engine import Database
from service.db.session import bound_queries
from service.jobs.read.advice import when
from service.settings import Settings
from service.targets import repository
from service.targets.repository import Target
from service.targets.reset import reset_target

PAGE: Final = 500


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(required=True, dest="action", metavar="ACTION")
    listed = actions.add_parser("list", help="show the targets of the last 7 days")
    listed.add_argument("--open", action="store_true", help="only those that fail")
    reset = actions.add_parser("reset", help="close the breaker of a target: its jobs go at once")
    reset.add_argument("name", metavar="HOST:PORT")
    reset.add_argument("--reason", default=None, help="why, for the audit log")


def _targets(settings: Settings, arguments: argparse.Namespace) -> int:
    async def run(database: Database) -> None:
        if arguments.action == "list":
            await _list(database, settings, only_open=arguments.open)
            return
        async with database.sessions.begin() as session:
            target = await reset_target(
                session, arguments.name, actor=cli_actor(), reason=arguments.reason
            )
        print(_line(target))

    with_database(settings, run)
    return 0


async def _list(database: Database, settings: Settings, *, only_open: bool) -> None:
    after, full = "", True
    while full:
        async with database.sessions.begin() as session:
            await bound_queries(session, settings.query_timeout_seconds)
            found = await repository.page(session, after=after, limit=PAGE, only_open=only_open)
        for target in found:
            print(_line(target))
        full = len(found) == PAGE
        after = found[-1].name if full else ""


def _line(target: Target) -> str:
    line = (
        f"{target.name}  {target.state}  held={target.held}  answered={target.succeeded}"
        f"  failed={target.failed}"
    )
    if target.opened_at is not None:
        line += f"  since {when(target.opened_at)}, next try {when(target.retry_at)}"
        line += f": {target.last_error}" if target.last_error else ""
    return line


TARGETS: Final = Command(
    "targets", "list what HTTP requests are sent to, and reset one", _targets, _add_arguments
)
"""The command `targets`."""
