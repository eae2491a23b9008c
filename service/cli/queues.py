"""`queues`: list queues, pause, resume and drain one, and set its limits."""

import argparse
import asyncio
import time
from collections.abc import Callable
from typing import Any, Final

from service.cli.actor import cli_actor
from service.cli.command import Command, number, say
from service.cli.database import with_database
from service.db.engine import Database
from service.db.session import bound_queries
from service.errors import InvalidInput
from service.jobs.core.queue_limits import AT_LIMIT, LimitChange, QueueLimits, Rate
from service.jobs.maintenance.unserved import alive_seconds
from service.jobs.queues import configure_queue, pause_queue, resume_queue
from service.jobs.read.queues import QueueState, get_queue, list_queues
from service.settings import Settings

LOOK_SECONDS: Final = 1.0
"""How often `drain` looks whether jobs still run."""

DRAIN_SECONDS: Final = 300.0
"""How long `drain` waits, unless it is told."""


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(required=True, dest="action", metavar="ACTION")
    actions.add_parser("list", help="show every queue: what it holds and what is set for it")
    for name, what in (
        ("pause", "start no more jobs of a queue; what runs goes on"),
        ("resume", "start jobs of a queue again; its limits stay"),
        ("drain", "pause a queue, and wait until nothing of it runs"),
        ("set", "set limits of a queue, over all processes; `none` lifts one"),
    ):
        # A limit that is left out is absent, and stays; `none` is None.
        action = actions.add_parser(
            name, help=what, description=what, argument_default=argparse.SUPPRESS
        )
        action.add_argument("name", metavar="QUEUE")
        action.add_argument("--reason", default=None, help="why, for the audit log")
        if name == "drain":
            action.add_argument(
                "--timeout",
                type=number(0, 86_400, float),
                default=DRAIN_SECONDS,
                metavar="SECONDS",
                help=f"default {DRAIN_SECONDS:g}; the queue stays paused",
            )
        elif name == "set":
            _add_limits(action)


def _add_limits(parser: argparse.ArgumentParser) -> None:
    whole = _or_none(int, "a whole number")
    parser.add_argument("--max-running", type=whole, metavar="JOBS", help="that run at once")
    parser.add_argument(
        "--max-running-per-key", type=whole, metavar="JOBS", help="the same, of one concurrency key"
    )
    for option, what in (
        ("--rate", "that start within a time"),
        ("--rate-per-key", "the same, of one concurrency key"),
    ):
        parser.add_argument(
            option,
            type=_or_none(_rate, "such as 100/60 or 100/60:10"),
            metavar="JOBS/SECONDS[:BURST]",
            help=what,
        )
    parser.add_argument("--weight", type=whole, help="its share beside other queues (default 1)")
    parser.add_argument(
        "--key-fairness",
        action=argparse.BooleanOptionalAction,
        help="whether its concurrency keys take turns",
    )
    parser.add_argument("--at-limit", choices=AT_LIMIT, help="what becomes of a job over a limit")


def _or_none(kind: Callable[[str], Any], expected: str) -> Callable[[str], Any]:
    def parse(text: str) -> Any:
        try:
            return None if text == "none" else kind(text)
        except ValueError:
            raise argparse.ArgumentTypeError(
                f"{text!r} is not {expected}; `none` lifts the limit"
            ) from None

    return parse


def _rate(text: str) -> Rate:
    rate, _, burst = text.partition(":")
    limit, _, seconds = rate.partition("/")
    return Rate(int(limit), float(seconds), int(burst) if burst else None)


def _queues(settings: Settings, arguments: argparse.Namespace) -> int:
    async def run(database: Database) -> bool:
        match arguments.action:
            case "list":
                await _list(database, settings)
            case "pause":
                await _pause(database, arguments)
            case "resume":
                await _resume(database, arguments)
            case "set":
                await _set(database, arguments)
            case "drain":
                return await _drain(database, settings, arguments)
        return True

    return 0 if with_database(settings, run) else 1


async def _list(database: Database, settings: Settings) -> None:
    async with database.sessions.begin() as session:
        await bound_queries(session, settings.query_timeout_seconds)
        found = await list_queues(
            session, cap=settings.count_cap, alive_seconds=alive_seconds(settings)
        )
    for queue in found.queues:
        print(_line(queue))
    if not found.complete:
        say("There are more queues than are listed.")


async def _pause(database: Database, arguments: argparse.Namespace) -> None:
    async with database.sessions.begin() as session:
        await pause_queue(session, arguments.name, actor=cli_actor(), reason=arguments.reason)
    say(f"{arguments.name} is paused: what runs goes on, and nothing new starts")


async def _resume(database: Database, arguments: argparse.Namespace) -> None:
    async with database.sessions.begin() as session:
        ended = await resume_queue(
            session, arguments.name, actor=cli_actor(), reason=arguments.reason
        )
    say(f"{arguments.name} {'goes on' if ended else 'was not paused'}")


async def _set(database: Database, arguments: argparse.Namespace) -> None:
    given = vars(arguments)
    changes: Any = {name: given[name] for name in LimitChange.__optional_keys__ & given.keys()}
    if not changes:
        raise InvalidInput("Nothing is to be set: give at least one limit, see `queues set --help`")
    async with database.sessions.begin() as session:
        limits = await configure_queue(
            session, arguments.name, actor=cli_actor(), reason=arguments.reason, **changes
        )
    print(f"{arguments.name}  {_limits(limits) or 'no limits'}")


async def _drain(database: Database, settings: Settings, arguments: argparse.Namespace) -> bool:
    await _pause(database, arguments)
    until = time.monotonic() + arguments.timeout
    said = ""
    while True:
        async with database.sessions.begin() as session:
            await bound_queries(session, settings.query_timeout_seconds)
            queue = await get_queue(
                session,
                arguments.name,
                cap=settings.count_cap,
                alive_seconds=alive_seconds(settings),
            )
        if queue.drained:
            say(f"{queue.name} is drained: nothing of it runs")
            return True
        words = f"{queue.name}: {_jobs(queue)}"
        if time.monotonic() >= until:
            say(f"{words} after {arguments.timeout:g} seconds; it stays paused")
            return False
        if queue.running and words != said:
            said = words
            say(words)
        await asyncio.sleep(LOOK_SECONDS)


def _jobs(queue: QueueState) -> str:
    least = "" if queue.exact else "at least "
    return f"{least}{queue.running} {'job runs' if queue.running == 1 else 'jobs run'}"


def _line(queue: QueueState) -> str:
    more = "" if queue.exact else "+"
    words = [
        queue.name,
        f"due={queue.due}{more}",
        f"held={queue.held}{more}",
        f"running={queue.running}{more}",
        f"failed={queue.dead}",
        f"workers={queue.workers}",
        _limits(queue.limits),
    ]
    if pause := queue.pause:
        by = f" by {pause.by}" if pause.by else ""
        why = f": {pause.reason}" if pause.reason else ""
        words.append(f"{'drained, ' if queue.drained else ''}paused{by}{why}")
    return "  ".join(filter(None, words))


def _limits(limits: QueueLimits) -> str:
    shown = {
        "max_running": limits.max_running,
        "max_running_per_key": limits.max_running_per_key,
        "rate": _rate_words(limits.rate),
        "rate_per_key": _rate_words(limits.rate_per_key),
        "weight": limits.weight,
        "key_fairness": "on" if limits.key_fairness else None,
        "at_limit": limits.at_limit if limits.at_limit != "wait" else None,
    }
    return "  ".join(f"{name}={value}" for name, value in shown.items() if value is not None)


def _rate_words(rate: Rate | None) -> str | None:
    if rate is None:
        return None
    return f"{rate.limit}/{rate.per_seconds:g}" + (f":{rate.burst}" if rate.burst else "")


QUEUES: Final = Command(
    "queues", "list queues, pause, resume and drain one, set its limits", _queues, _add_arguments
)
"""The command `queues`."""
