"""`schedules`: list, make, change, delete, pause, resume and run schedules."""

import argparse
from typing import Any, Final

from service.cli import schedule_options
from service.cli.actor import cli_actor
from service.cli.command import Command, say
from service.cli.database import with_database
from service.db.engine import Database
from service.jobs.read.sealed_types import SealedTypes
from service.schedules import managing, repository
from service.schedules.by_hand import backfill, run_now
from service.schedules.declaring import release
from service.schedules.model import Overlap, Schedule
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
        ("release", "give schedules that were changed by hand back to their code"),
        ("delete", "delete these schedules; their jobs stay"),
    ):
        action = _action(actions, name, what)
        action.add_argument("names", nargs="+", metavar="SCHEDULE")
    create = _action(actions, "create", "make a schedule, by --cron or --every-seconds")
    create.add_argument("name", metavar="SCHEDULE")
    create.add_argument("job_type", metavar="TYPE", help="of the jobs that it enqueues")
    schedule_options.add_definition(create)
    change = _action(actions, "change", "change a schedule; what is left out stays")
    change.add_argument("name", metavar="SCHEDULE")
    change.add_argument("--job-type", metavar="TYPE", help="of the jobs that it enqueues")
    schedule_options.add_definition(change)
    past = _action(actions, "backfill", "enqueue a job for each tick of a time that has passed")
    past.add_argument("name", metavar="SCHEDULE")
    schedule_options.add_backfill(past)


def _action(actions: Any, name: str, what: str) -> argparse.ArgumentParser:
    action: argparse.ArgumentParser = actions.add_parser(name, help=what, description=what)
    if name != "create":
        action.add_argument("--reason", default=None, help="why, for the audit log")
    return action


def _schedules(settings: Settings, arguments: argparse.Namespace) -> int:
    async def run(database: Database) -> None:
        match arguments.action:
            case "list":
                await _list(database)
            case "pause" | "resume":
                await _pause_or_resume(database, arguments)
            case "run":
                await _run(database, arguments)
            case "release":
                await _release(database, arguments)
            case "delete":
                await _delete(database, arguments)
            case "create":
                await _create(database, settings, arguments)
            case "change":
                await _change(database, arguments)
            case "backfill":
                await _backfill(database, arguments)

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


async def _release(database: Database, arguments: argparse.Namespace) -> None:
    async with database.sessions.begin() as session:
        for one in await managing.lock(session, arguments.names):
            print(_line(await release(session, one, actor=cli_actor(), reason=arguments.reason)))


async def _delete(database: Database, arguments: argparse.Namespace) -> None:
    async with database.sessions.begin() as session:
        for one in await managing.lock(session, arguments.names):
            await managing.delete(session, one, actor=cli_actor(), reason=arguments.reason)
    say(f"{', '.join(arguments.names)} deleted; jobs stay")


async def _create(database: Database, settings: Settings, arguments: argparse.Namespace) -> None:
    wanted = schedule_options.new_schedule(arguments)
    await SealedTypes(database).look()
    async with database.sessions.begin() as session:
        made = await managing.create(
            session,
            wanted.name,
            wanted.definition(),
            max_schedules=settings.max_schedules,
            actor=cli_actor(),
        )
    print(_line(made))


async def _change(database: Database, arguments: argparse.Namespace) -> None:
    wanted = schedule_options.changes(arguments)
    await SealedTypes(database).look()
    async with database.sessions.begin() as session:
        (schedule,) = await managing.lock(session, [arguments.name])
        changed = await managing.change(
            session,
            schedule,
            wanted.of(schedule.definition),
            actor=cli_actor(),
            reason=arguments.reason,
        )
    print(_line(changed))


async def _backfill(database: Database, arguments: argparse.Namespace) -> None:
    async with database.sessions.begin() as session:
        (schedule,) = await managing.lock(session, [arguments.name])
        until = arguments.until or await repository.now(session)
        done = await backfill(
            session,
            schedule,
            arguments.begin,
            until,
            overlap=Overlap(arguments.overlap),
            actor=cli_actor(),
            reason=arguments.reason,
        )
    print(f"{schedule.name}  ticks={done.ticks}  enqueued={done.enqueued}  skipped={done.skipped}")


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
    "schedules",
    "list, make, change, delete, pause, resume, run and backfill schedules",
    _schedules,
    _add_arguments,
)
"""The command `schedules`."""
