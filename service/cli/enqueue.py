"""`enqueue`: enqueue one job and print its id."""

import argparse
import json
from datetime import datetime
from typing import Final

from service import audit
from service.cli.actor import cli_actor
from service.cli.command import Command, say
from service.cli.database import with_database
from service.db.engine import Database
from service.errors import InvalidInput
from service.jobs import NewJob, enqueue_batch
from service.jobs.core.encryption import Encrypt
from service.jobs.core.redaction import shown_of_new
from service.jobs.core.unique_key import POLICIES
from service.jobs.handlers.loader import use_keys_of
from service.jobs.read.sealed_types import SealedTypes
from service.settings import Settings

_DONE_TO_HOLDER: Final = {
    "replace": "The job that waits was given these values",
    "extend": "The job that waits was put off",
    "keep_latest": "The job that waits was given these values",
}


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("job_type", metavar="TYPE")
    parser.add_argument("--payload", default="{}", metavar="JSON")
    parser.add_argument("--queue")
    parser.add_argument("--priority", type=int, help="0, most urgent, to 9")
    parser.add_argument("--max-retries", type=int)
    parser.add_argument("--run-at", type=_time, metavar="TIME", help="such as 2026-03-01T09:00:00Z")
    parser.add_argument("--delay-seconds", "--delay", type=float, metavar="SECONDS")
    parser.add_argument("--timeout-seconds", "--timeout", type=float, metavar="SECONDS")
    parser.add_argument("--unique-key")
    parser.add_argument(
        "--encrypt",
        metavar="MEMBERS",
        help="what of the payload is kept encrypted: card,customer.iban; * for all of it",
    )
    parser.add_argument(
        "--on-conflict", choices=POLICIES, help="where a live job has the key (default return)"
    )


def _time(text: str) -> datetime:
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a time: expected one with a zone, such as 2026-03-01T09:00:00Z"
        ) from None


def _members(text: str | None) -> Encrypt | None:
    if text is None:
        return None
    return True if text == "*" else [one.strip() for one in text.split(",")]


def _enqueue(settings: Settings, arguments: argparse.Namespace) -> int:
    try:
        payload = json.loads(arguments.payload)
    except ValueError as error:
        raise InvalidInput(f"--payload is not JSON: {error}") from None
    job = NewJob(
        arguments.job_type,
        payload,
        queue=arguments.queue,
        priority=arguments.priority,
        max_retries=arguments.max_retries,
        run_at=arguments.run_at,
        delay_seconds=arguments.delay_seconds,
        timeout_seconds=arguments.timeout_seconds,
        unique_key=arguments.unique_key,
        on_conflict=arguments.on_conflict,
        encrypt=_members(arguments.encrypt),
    )
    use_keys_of(settings)

    async def run(database: Database) -> None:
        await SealedTypes(database).look()
        async with database.sessions.begin() as session:
            (enqueued,) = await enqueue_batch(session, [job])
            if enqueued.created:
                await audit.record(
                    session,
                    cli_actor(),
                    "job.enqueue",
                    subject_type="job",
                    subject_id=str(enqueued.id),
                    after={
                        "job_type": job.job_type,
                        "queue": job.queue,
                        "payload": shown_of_new(job),
                    },
                )
        print(enqueued.id)
        if not enqueued.created:
            done = _DONE_TO_HOLDER.get(arguments.on_conflict, "Nothing was enqueued")
            say(
                f"{done}: job {enqueued.id} is live and has the unique key {arguments.unique_key!r}."
            )

    with_database(settings, run)
    return 0


ENQUEUE = Command("enqueue", "enqueue one job and print its id", _enqueue, _add_arguments)
