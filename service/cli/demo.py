"""`demo`: enqueue a lively mix of demo jobs."""

import argparse

from service import audit
from service.cli.actor import cli_actor
from service.cli.command import Command, number, say
from service.cli.database import with_database
from service.db.engine import Database
from service.jobs import enqueue_many
from service.settings import Settings


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--jobs", type=number(1, 1_000_000, int), default=200)


def _demo(settings: Settings, arguments: argparse.Namespace) -> int:
    from service.demo import mix  # which registers the handlers

    async def run(database: Database) -> None:
        async with database.sessions.begin() as session:
            enqueued = await enqueue_many(session, mix(arguments.jobs))
            after = {"demo_jobs": enqueued}
            await audit.record(session, cli_actor(), "job.enqueue", subject_type="job", after=after)
        say(f"Enqueued {enqueued} jobs; a running `serve` or `worker` takes them up.")

    with_database(settings, run)
    return 0


DEMO = Command("demo", "enqueue a lively mix of demo jobs", _demo, _add_arguments)
