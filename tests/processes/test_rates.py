"""A rate holds over processes: together they start as many jobs as it allows, whoever dies meanwhile."""

import time
from collections.abc import Iterable, Iterator
from typing import Final

import asyncpg
import pytest

from service.db.engine import Database
from service.jobs import NewJob, Rate, configure_queue
from tests.chaos.ledger import Note
from tests.processes.fleet import Fleet
from tests.processes.workload import all_succeed, enqueue_all

KEYS: Final = ("a", "b", "c", "d")

LATE_SECONDS: Final = 5.0
"""How late a busy machine may be."""


@pytest.mark.timeout(150)
async def test_three_processes_keep_the_rates_of_a_queue_and_its_keys_and_a_restart_loses_none(
    fleet: Fleet, database: Database, pg_dsn: str
) -> None:
    rate, per_key, jobs = Rate(30, 1.0, 15), Rate(10, 1.0, 5), 240
    async with database.sessions.begin() as session:
        await configure_queue(session, "q", rate=rate, rate_per_key=per_key)
    await enqueue_all(pg_dsn, keyed_jobs(jobs))
    _, victim, stopped = await fleet.start(3, pg_dsn, WORKER_CONCURRENCY=20)
    await fleet.noted("end", jobs // 4)
    victim.kill()
    await stopped.terminate()
    await fleet.start(2, pg_dsn, WORKER_CONCURRENCY=20)
    connection = await database.connect()
    await all_succeed(connection, jobs, 60)
    begin = await first_claim(connection)
    notes = fleet.ledger.of("start")
    rows = await connection.fetch("SELECT id, concurrency_key FROM background_jobs")
    keys = {row[0]: row[1] for row in rows}
    await connection.close()
    # What ran in the victim runs again: a run that is taken over is no start.
    starts = {note.job_id: note for note in reversed(notes)}
    assert ahead(starts.values(), begin, rate) <= 0
    for key in KEYS:
        of_key = [note for job_id, note in starts.items() if keys[job_id] == key]
        assert len(of_key) == jobs // len(KEYS)
        assert ahead(of_key, begin, per_key) <= 0, key
    took = max(note.at for note in starts.values()) - begin
    assert took < (jobs - 15) / 30 + LATE_SECONDS


@pytest.mark.slow
@pytest.mark.timeout(200)
async def test_two_processes_keep_a_rate_within_two_percent_over_a_minute(
    fleet: Fleet, database: Database, pg_dsn: str
) -> None:
    rate, jobs = Rate(3000, 60.0), 3600
    async with database.sessions.begin() as session:
        await configure_queue(session, "q", rate=rate)
    await enqueue_all(pg_dsn, keyed_jobs(jobs))
    await fleet.start(2, pg_dsn, WORKER_CONCURRENCY=50)
    await fleet.noted("end", jobs, seconds=120)
    connection = await database.connect()
    begin = await first_claim(connection)
    await connection.close()
    starts = sorted(note.at for note in fleet.ledger.of("start"))
    assert ahead(fleet.ledger.of("start"), begin, rate) <= 0
    in_a_minute = sum(1 for at in starts if at <= begin + 60)
    assert 0.98 * 3000 <= in_a_minute <= 3000 + rate.at_once


async def first_claim(connection: "asyncpg.Connection[asyncpg.Record]") -> float:
    """When the first job was claimed (monotonic): starts are admitted after that, and begin later still."""
    at = await connection.fetchval("SELECT min(started_at) FROM background_jobs")
    return float(at.timestamp()) - time.time() + time.monotonic()


def keyed_jobs(count: int) -> Iterator[NewJob]:
    """Jobs that return at once, of each key in turn."""
    for number in range(count):
        payload = {"number": number, "fails": False, "seconds": 0}
        yield NewJob("test.flaky", payload, queue="q", concurrency_key=KEYS[number % len(KEYS)])


def ahead(notes: Iterable[Note], begin: float, rate: Rate) -> float:
    """By how many starts these were ahead of what the rate allows since `begin`, at most."""
    return max(
        number - rate.at_once - (at - begin) * rate.limit / rate.per_seconds
        for number, at in enumerate(sorted(note.at for note in notes), 1)
    )
