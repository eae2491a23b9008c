"""Why a job does not run."""

from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy.ext.asyncio import AsyncSession

from service.db.engine import Database
from service.jobs import NewJob, enqueue_batch, get_job
from service.jobs.queues import pause_queue
from service.jobs.read.waiting import Waiting, waiting_for
from tests import databases


async def why(session: AsyncSession, job: NewJob) -> Waiting | None:
    made = (await enqueue_batch(session, [job]))[0]
    now = datetime.now(UTC) + timedelta(seconds=1)
    found = await waiting_for(session, [await get_job(session, made.id)], now=now, alive_seconds=60)
    return found[made.id]


@pytest.mark.parametrize(
    ("served", "queue", "expected"),
    [
        ("mail", "mail", None),
        ("mail:5", "mail", None),  # a queue with a limit
        ("*", "mail", None),
        ("mail:5", "mailbox", Waiting.WORKER),
    ],
)
async def test_a_worker_serves_the_queues_that_it_was_told_with_their_limits(
    database: Database, pg_dsn: str, served: str, queue: str, expected: Waiting | None
) -> None:
    await databases.execute(
        pg_dsn,
        "INSERT INTO job_workers (name, queues, job_types, concurrency)"
        f" VALUES ('w', '{{{served}}}', '{{x}}', 1)",
    )
    async with database.sessions.begin() as session:
        assert await why(session, NewJob("x", queue=queue)) is expected


async def test_a_due_job_of_a_paused_queue_waits_for_that_whoever_serves_it(
    database: Database,
) -> None:
    async with database.sessions.begin() as session:
        await pause_queue(session, "q")
        assert await why(session, NewJob("x", queue="q")) is Waiting.QUEUE_PAUSED
        assert await why(session, NewJob("x", queue="q", delay_seconds=60)) is Waiting.TIME
        assert await why(session, NewJob("x", queue="r")) is Waiting.WORKER
