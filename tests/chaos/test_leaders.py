"""The leader dies again and again: reminders, partitions, retention and counts stay right."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, date, datetime, timedelta
from typing import Any, Final

import pytest

from service.db.engine import Database
from service.jobs import JobStatus, get_job_stats
from service.jobs.maintenance import partitions
from service.jobs.store.partitions import PREFIX
from service.settings import Settings
from tests.chaos.trial import Trial
from tests.processes.fleet import Replica, until

DAYS_AHEAD: Final = 7
REMINDERS: Final = 20
"""A batch of them, twice a second."""
ROUNDS: Final = [
    pytest.param(2, 0.0, id="short", marks=pytest.mark.timeout(120)),
    pytest.param(30, 10.0, id="long", marks=[pytest.mark.chaos, pytest.mark.timeout(1800)]),
]
ENVIRONMENT: Final[dict[str, object]] = {
    "REMINDER_SCAN_SECONDS": 1,
    "MAINTENANCE_SECONDS": 0.3,
    "RETENTION_DAYS": 2,
    "PARTITION_DAYS_AHEAD": DAYS_AHEAD,
}
REMIND: Final = """
INSERT INTO reminders (send_at, user_id, message, channel, recipient)
SELECT now() + make_interval(secs => random() * 2), 'user', 'pay the bill', 'log', 'user'
FROM generate_series(1, $1)"""
OLD: Final = """
INSERT INTO background_jobs (job_type, status, finished_at)
SELECT 'old', 'SUCCESS', $1 FROM generate_series(1, 50)"""
OLD_COUNT: Final = "INSERT INTO job_stats VALUES ('default', 'old', 'SUCCESS', $1, 50)"
LEAVES: Final = """
SELECT relname FROM pg_inherits JOIN pg_class ON pg_class.oid = inhrelid
WHERE inhparent = 'jobs_done'::regclass"""


@pytest.mark.parametrize(("rounds", "seconds"), ROUNDS)
async def test_kill_9_of_leader_after_leader_leaves_one_job_a_reminder(
    trial: Trial, settings: Settings, rounds: int, seconds: float
) -> None:
    api, replicas = await asyncio.gather(trial.api(), trial.workers(3, **ENVIRONMENT))
    database = Database(trial.dsn, settings)
    changes: list[float] = []
    async with trial.load(api, rate=30, seconds=(0.02, 0.2)), reminding(trial):
        for number in range(rounds):
            began = time.monotonic()
            leader = await leader_of(replicas)
            await untidy(database, number)
            trial.kill(leader)
            replicas.remove(leader)
            killed = time.monotonic()
            await leader_of(replicas)
            changes.append(time.monotonic() - killed)
            await tidy(database)
            if rounds > len(replicas):
                replicas += await trial.workers(1, **ENVIRONMENT)
            await asyncio.sleep(max(0.0, began + seconds - time.monotonic()))
    await reminded(trial)
    await trial.at_rest()

    trial.figures["slowest_change_of_leader_seconds"] = round(max(changes), 2)
    await check_reminders(trial)
    await check_counts(trial, database)
    await database.close()
    await trial.verdict()
    assert [await replica.leads() for replica in replicas].count(True) == 1


@asynccontextmanager
async def reminding(trial: Trial) -> AsyncIterator[None]:
    """Reminders come due all the while."""
    connection = await trial.connect()
    over = asyncio.Event()

    async def remind() -> None:
        while not over.is_set():
            await connection.execute(REMIND, REMINDERS)
            try:
                await asyncio.wait_for(over.wait(), 0.5)
            except TimeoutError:
                continue

    task = asyncio.create_task(remind(), name="reminding")
    try:
        yield
    finally:
        over.set()
        await task
        await connection.close()


async def leader_of(replicas: list[Replica]) -> Replica:
    """The one that leads; waits until one does."""

    async def found() -> Replica | None:
        for replica in replicas:
            if await replica.leads():
                return replica
        return None

    leader = await until(found, 30, what="leader")
    assert leader is not None
    return leader


async def untidy(database: Database, number: int) -> None:
    """Leave to the next leader a day that is to be dropped and one that is to be made."""
    # A leader looks for either once a minute: one that began to lead just now does so at once.
    link = database.link()
    old = today() - timedelta(days=10 + number)
    await partitions.make(link, [old])
    await link.fetch(OLD, datetime(old.year, old.month, old.day, 12, tzinfo=UTC))
    await link.fetch(OLD_COUNT, old)
    await link.fetch(f"DROP TABLE IF EXISTS {name(today() + timedelta(days=DAYS_AHEAD))}")
    await link.close()


async def tidy(database: Database) -> None:
    """Wait until every day stands that should, and no other."""
    link = database.link()

    async def is_tidy() -> bool:
        first, last = today(), today() + timedelta(days=DAYS_AHEAD)
        wanted = {name(first + timedelta(days=ahead)) for ahead in range((last - first).days + 1)}
        standing = {row[0] for row in await link.fetch(LEAVES)} - {"jobs_done_default"}
        return standing == wanted

    await until(is_tidy, 30, what="partitions as they should be")
    await link.close()


async def reminded(trial: Trial) -> None:
    """Wait until every reminder is sent."""
    connection = await trial.connect()

    async def all_sent() -> bool:
        unsent = "SELECT count(*) FROM reminders WHERE status <> 'sent'"
        return not await connection.fetchval(unsent)

    await until(all_sent, 60, what="delivery of every reminder")
    await connection.close()


async def check_reminders(trial: Trial) -> None:
    """Each reminder has one job, and that succeeded."""
    connection = await trial.connect()
    reminders = await connection.fetchval("SELECT count(*) FROM reminders")
    jobs: Any = await connection.fetchrow(
        "SELECT count(*), count(DISTINCT payload ->> 'reminder_id'),"
        " count(*) FILTER (WHERE status = 'SUCCESS')"
        " FROM background_jobs WHERE job_type = 'send_reminder'"
    )
    await connection.close()
    trial.figures["reminders"] = reminders
    assert tuple(jobs) == (reminders, reminders, reminders)


async def check_counts(trial: Trial, database: Database) -> None:
    """The kept counts say what the table holds, and nothing fell into the default partition."""
    async with database.sessions() as session:
        stats = await get_job_stats(session)
    connection = await trial.connect()
    rows = await connection.fetch("SELECT status, count(*) FROM background_jobs GROUP BY 1")
    strays = await connection.fetchval("SELECT count(*) FROM jobs_done_default")
    await connection.close()
    counted = dict.fromkeys(JobStatus, 0) | {JobStatus(row[0]): row[1] for row in rows}
    assert (dict(stats.by_status), stats.total_exact, strays) == (counted, True, 0)


def today() -> date:
    return datetime.now(UTC).date()


def name(day: date) -> str:
    return f"{PREFIX}{day:%Y%m%d}"
