"""Limits on running jobs hold while processes die and stall: never one over, and no permit is lost."""

import os
import signal
import time
from collections import Counter
from typing import Final

import pytest

from service.db.engine import Database
from service.jobs import configure_queue
from service.jobs.notify.publisher import publisher_for
from service.settings import Settings
from tests.chaos.concurrency import ENDS, KEY_LIMIT, concurrency
from tests.chaos.ledger import Event
from tests.chaos.trial import Trial
from tests.processes.fleet import Replica, until

KEYS: Final = 50
QUEUE: Final = "limited"
QUEUE_LIMIT: Final = 40
LONG: Final = 60
"""The first jobs, each key's turn by turn, take long enough to reach the limit of the queue together."""
LONG_SECONDS: Final = 3.0
SECONDS: Final = 0.02, 0.08
"""How long the others take: whenever a process is stopped some of its handlers run."""
BURST: Final = 40
"""Every second burst of so many jobs has one key, the others have any."""
TRANSACTION_JOBS: Final = 1000
END_SECONDS: Final = 600.0
TAKE_OVER_SECONDS: Final = 60.0
"""How long after its lease a job may be without a worker, on a busy machine."""

JOBS: Final = [
    pytest.param(1_000, 4, id="short", marks=pytest.mark.timeout(300)),
    pytest.param(20_000, 5, id="long", marks=[pytest.mark.chaos, pytest.mark.timeout(900)]),
]

WRONG_COUNTS = """
SELECT p.key, p.running, p.max_running, COALESCE(a.jobs, 0) FROM job_permits p
FULL JOIN (SELECT key, count(*) AS jobs FROM jobs_live, unnest(permits) key GROUP BY 1) a USING (key)
WHERE p.running IS DISTINCT FROM COALESCE(a.jobs, 0) OR p.running > p.max_running
"""
"""Both sides of one snapshot."""


@pytest.mark.parametrize(("jobs", "lease_seconds"), JOBS)
async def test_no_limit_is_exceeded_while_processes_die_and_stall(
    trial: Trial, settings: Settings, jobs: int, lease_seconds: int
) -> None:
    await limit_queue(trial, settings)
    leases = {"LEASE_SECONDS": lease_seconds, "HEARTBEAT_SECONDS": lease_seconds / 4}
    dying, stalling, _ = await trial.workers(3, **leases)
    await enqueue(trial, jobs)
    await ended(trial, jobs // 4)
    await kill(trial, dying)
    await ended(trial, jobs // 2)
    await stall(trial, stalling, seconds=lease_seconds + TAKE_OVER_SECONDS)
    await all_counts_right_until_the_end(trial)

    await check_runs(trial)
    await trial.verdict()
    assert Counter(row.status for row in await trial.rows()) == {"SUCCESS": jobs}
    # A repair that the dead process made would be in its log.
    assert await trial.fleet.total("finmind_permits_repaired_total") == 0
    assert not any("permits_repaired" in replica.said() for replica in trial.fleet.replicas)


async def limit_queue(trial: Trial, settings: Settings) -> None:
    """The handler limits each key, an operator the queue."""
    database = Database(trial.dsn, settings)
    async with database.sessions.begin() as session:
        await configure_queue(session, QUEUE, max_running=QUEUE_LIMIT)
    await publisher_for(database.engine).close()
    await database.close()


async def enqueue(trial: Trial, jobs: int) -> None:
    """Jobs of which every fifth fails once; behind the first every second burst of them has one key."""
    for first in range(0, jobs, TRANSACTION_JOBS):
        numbers = range(first, min(first + TRANSACTION_JOBS, jobs))
        payloads = [
            {"seconds": seconds_of(trial, number), "fails": number % 5 == 0} for number in numbers
        ]
        keys = [key_of(trial, number) for number in numbers]
        named = [f"customer:{key}" for key in keys]
        await trial.enqueue("chaos.keyed", payloads, keys=named, queue=QUEUE)


def seconds_of(trial: Trial, number: int) -> float:
    """How long this job takes."""
    return LONG_SECONDS if number < LONG else round(trial.random.uniform(*SECONDS), 3)


def key_of(trial: Trial, number: int) -> int:
    """Which key this job has."""
    if number < LONG:
        return number % KEYS
    return number // BURST // 2 % KEYS if number // BURST % 2 else trial.random.randrange(KEYS)


async def ended(trial: Trial, count: int) -> None:
    """Wait until so many jobs have come to their end."""
    await trial.fleet.noted(Event.END, count, seconds=END_SECONDS)


async def stop(trial: Trial, victim: Replica) -> dict[int, int]:
    """Stop the process in the middle of jobs: these, with their lease tokens."""
    stopped: dict[int, int] = {}

    async def holds_jobs() -> bool:
        os.kill(victim.pid, signal.SIGSTOP)
        stopped.update(going_on(trial, victim))
        if not stopped:
            os.kill(victim.pid, signal.SIGCONT)
        return bool(stopped)

    await until(holds_jobs, 60, what="job under way in the process to be stopped")
    return stopped


async def kill(trial: Trial, victim: Replica) -> None:
    """kill -9 in the middle of jobs."""
    await stop(trial, victim)
    trial.kill(victim)


async def stall(trial: Trial, victim: Replica, *, seconds: float) -> None:
    """Stop the process in the middle of jobs until others have claimed all of them, for so long at most."""
    stopped: dict[int, int] = {}

    async def taken_over() -> bool:
        newer = {
            note.job_id
            for note in trial.ledger.of(Event.CLAIMED)
            if note.lease_token > stopped.get(note.job_id, note.lease_token)
        }
        return newer >= stopped.keys()

    began = time.monotonic()
    with trial.fault("stopped", victim.pid):
        stopped |= await stop(trial, victim)
        try:
            what = f"claim of {len(stopped)} jobs of a stopped process"
            await until(taken_over, seconds, what=what)
        finally:
            os.kill(victim.pid, signal.SIGCONT)
            trial.figures["stopped_seconds"] = round(time.monotonic() - began, 1)


def going_on(trial: Trial, process: Replica) -> dict[int, int]:
    """The jobs whose handlers run in the process, with their lease tokens."""
    begun: dict[int, int] = {}
    for note in trial.ledger.notes():
        if note.pid == process.pid and note.event == Event.START:
            begun[note.job_id] = note.lease_token
        elif note.pid == process.pid and note.event in ENDS:
            begun.pop(note.job_id, None)
    return begun


async def all_counts_right_until_the_end(trial: Trial) -> None:
    """Wait for the end of every job; meanwhile each look finds the kept counts as the jobs are."""
    connection = await trial.connect()
    looks = 0

    async def none_live() -> bool:
        nonlocal looks
        looks += 1
        assert await connection.fetch(WRONG_COUNTS) == []
        return not await connection.fetchval("SELECT EXISTS (SELECT FROM jobs_live)")

    await until(none_live, END_SECONDS, what="end of every job")
    permits = await connection.fetch("SELECT running FROM job_permits")
    await connection.close()
    assert {row[0] for row in permits} == {0}
    assert len(permits) == KEYS + 1
    trial.figures["looks_at_permits"] = looks


async def check_runs(trial: Trial) -> None:
    """No more runs at once than limits allow, as the ledger has it, and the limits were reached."""
    connection = await trial.connect()
    rows = await connection.fetch("SELECT id, concurrency_key FROM background_jobs")
    held = await trial.fleet.total("finmind_job_events_total", event="held")
    await connection.close()
    groups = {row[0]: (row[1], QUEUE) for row in rows}
    limits = {row[1]: KEY_LIMIT for row in rows} | {QUEUE: QUEUE_LIMIT}
    found = concurrency(trial.ledger.notes(), groups, limits)
    peaks = [found.peaks[name] for name in limits if name != QUEUE]
    trial.figures |= {
        "over_a_limit": len(found.over), "taken_over": found.taken_over, "killed": found.killed,
        "held": held, "peak_of_queue": found.peaks[QUEUE], "keys_at_their_limit": peaks.count(KEY_LIMIT),
    }  # fmt: skip
    assert found.over == []
    assert max(peaks) == KEY_LIMIT
    assert found.peaks[QUEUE] == QUEUE_LIMIT
    assert found.taken_over > 0
    assert found.killed > 0
    assert held > 0
