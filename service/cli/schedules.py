"""`schedules`: list schedules, pause, resume and run them."""

import argparse
from typing import Final

from service.cli.actor import cli_actor
from service.cli.command import Command, say
from service.cli.database import with_database
from service.db.engine import Database
from service.schedules import managing, repository
from service.schedules.by_hand import run_now
from service.schedules.model import Schedule
from service.settings import Settings

PAGE: Final = 500
"""Schedules that one query lists."""


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(required=True, dest="action", metavar="ACTION")
    actions.add_parser("list", help="show every schedule: its rule, its next tick, how runs fare")
    for name, what in (
        ("pause", "act on no tick of these schedules; all or none"),
        ("resume", "have these schedules go on with their next tick; all or none"),
        ("run", "enqueue a job of each of these schedules now"),
    ):
        action = actions.add_parser(name, help=what, description=what)
        action.add_argument("names", nargs="+", metavar="SCHEDULE")
        action.add_argument("--reason", default=None, help="why, for the audit log")


def _schedules(settings: Settings, arguments: argparse.Namespace) -> int:
    async def run(database: Database) -> None:
        match arguments.action:
            case "list":
                await _list(database)
            case "pause" | "resume":
                await _pause_or_resume(database, arguments)
            case "run":
                await _run(database, arguments)

    with_database(settings, run)
    return 0


async def _list(database: Database) -> None:
    after = ""
    while True:
        async with database.sessions() as session:
            found = await repository.page(session, limit=PAGE, after=after)
        for one in found:
            print(_line(one))
        if len(found) < PAGE:
            return
        after = found[-1].name


async def _pause_or_resume(database: Database, arguments: argparse.Namespace) -> None:
    act = managing.pause if arguments.action == "pause" else managing.resume
    async with database.sessions.begin() as session:
        done = await act(session, arguments.names, actor=cli_actor(), reason=arguments.reason)
    for one in done:
        say(f"{one.name} {'is paused' if one.is_paused else 'goes on with its next tick'}")


async def _run(database: Database, arguments: argparse.Namespace) -> None:
    async with database.sessions.begin() as session:
        notes = [
            await run_now(session, one, actor=cli_actor(), reason=arguments.reason)
            for one in await managing.lock(session, arguments.names)
        ]
    for note in notes:
        print(f"{note.schedule.name}  job={note.job_id}")


def _line(schedule: Schedule) -> str:
    tick = schedule.next_tick_at
    words = [
        schedule.name,
        schedule.definition.timing.words,
        f"job_type={schedule.definition.job_type}",
        f"next={'none' if tick is None else tick.isoformat(timespec='seconds')}",
    ]
    if schedule.failures:
        words.append(f"failures={schedule.failures}")
    if schedule.is_paused:
        by = f" by {schedule.paused_by}" if schedule.paused_by else ""
        why = f": {schedule.pause_reason}" if schedule.pause_reason else ""
        words.append(f"paused{by}{why}")
    return "  ".join(words)


SCHEDULES: Final = Command(
    "schedules", "list schedules, pause, resume and run them", _schedules, _add_arguments
)
"""The command `schedules`."""
