"""`jobs`: say why a job is not running, and send it an event."""

import argparse
import json
from datetime import UTC, datetime

from service.cli.actor import cli_actor
from service.cli.command import Command, number, say
from service.cli.database import with_database
from service.db.engine import Database
from service.db.session import bound_queries
from service.errors import InvalidInput
from service.jobs.actions import send_event
from service.jobs.core.job import MAX_ID, JobId
from service.jobs.maintenance.unserved import alive_seconds
from service.jobs.read.advice import advice, summary, when
from service.jobs.read.explain import explain
from service.jobs.read.explanation import Explanation
from service.jobs.read.get import get_job
from service.settings import Settings


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(required=True, dest="action", metavar="ACTION")
    why = actions.add_parser("explain", help="say why a job is not running, and what to do")
    why.add_argument("job_id", type=number(1, MAX_ID, int), metavar="ID")
    what = "send a job an event: what a step of its handler waits for, or will"
    event = actions.add_parser("send-event", help=what, description=what)
    event.add_argument("job_id", type=number(1, MAX_ID, int), metavar="ID")
    event.add_argument("name", metavar="NAME")
    event.add_argument("--data", default="null", metavar="JSON", help="what the wait returns")
    event.add_argument("--reason", help="why, for the audit log")


def _jobs(settings: Settings, arguments: argparse.Namespace) -> int:
    act = {"explain": _explain, "send-event": _send_event}[arguments.action]
    return act(settings, arguments)


def _send_event(settings: Settings, arguments: argparse.Namespace) -> int:
    try:
        data = json.loads(arguments.data)
    except (ValueError, RecursionError) as error:
        raise InvalidInput(f"--data is not JSON: {error}") from None

    async def run(database: Database) -> None:
        async with database.sessions.begin() as session:
            sent = await send_event(
                session,
                JobId(arguments.job_id),
                arguments.name,
                data,
                max_bytes=settings.job_event_bytes,
                max_events=settings.job_events,
                actor=cli_actor(),
                reason=arguments.reason,
            )
        say(sent.summary)

    with_database(settings, run)
    return 0


def _explain(settings: Settings, arguments: argparse.Namespace) -> int:
    async def run(database: Database) -> None:
        async with database.sessions.begin() as session:
            await bound_queries(session, settings.query_timeout_seconds)
            why = await explain(
                session,
                await get_job(session, JobId(arguments.job_id)),
                now=datetime.now(UTC),
                alive_seconds=alive_seconds(settings),
                max_lost_leases=settings.max_lost_leases,
            )
        for line in _lines(why):
            print(line)

    with_database(settings, run)
    return 0


def _lines(why: Explanation) -> list[str]:
    lines = [f"Job {why.id}, {why.job_type} in the queue {why.queue}: {why.status}", summary(why)]
    if why.limit is not None:
        lines += [
            f"  {one.id}  {one.job_type}  since {when(one.since)}  {one.worker or ''}".rstrip()
            for one in why.limit.holders
        ]
    if why.estimate is not None and why.estimate.start_at is not None:
        earliest = "" if why.estimate.exact else "not before "
        lines.append(
            f"Starts {earliest}about {when(why.estimate.start_at)}: {why.estimate.based_on}."
        )
    return lines + advice(why)


JOBS = Command("jobs", "say why a job is not running, send one an event", _jobs, _add_arguments)
