"""One worker's clock is wrong, or jumps: nothing runs early, nothing is rescued that lives."""

import asyncio
import contextlib
import itertools
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any, Final

import httpx
import pytest

from service.jobs import NewJob, enqueue_batch
from tests.chaos.checker import check
from tests.chaos.clockwork import OFFSET_VARIABLE
from tests.chaos.ledger import Event
from tests.chaos.trial import PROBE, Trial
from tests.processes.fleet import Replica, until

LEASE_SECONDS: Final = 2.0
LONG_JOBS: Final = 10
"""Which take longer than a lease, so that those must be extended, and be seen to be."""
JUMPS: Final = ("+3600", "+0", "-3600", "-86400", "+86400", "-1", "+1", "+0")
JUMP_SECONDS: Final = 0.4
LIBRARIES: Final = (
    *Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"),
    *Path("/usr/lib").glob("faketime/libfaketimeMT.so.1"),
)
REMIND: Final = """
INSERT INTO reminders (send_at, user_id, message, channel, recipient)
SELECT now() + make_interval(secs => CASE n % 4 WHEN 0 THEN 1800 ELSE n % 4 END),
  'user-' || n, 'pay the bill', 'log', 'user-' || n
FROM generate_series(1, $1) n"""
"""Due within three seconds, but for every fourth, which is due in half an hour."""


@dataclass(frozen=True)
class Form:
    """What the clock says, and how much is done meanwhile."""

    clock: tuple[str, ...]
    jobs: int
    longest_delay_seconds: float


LONG: Final = [pytest.mark.chaos, pytest.mark.timeout(300)]
FORMS: Final = [
    pytest.param(Form(JUMPS, 500, 2.0), id="short", marks=pytest.mark.timeout(90)),
    pytest.param(Form(("-3600",), 5000, 20.0), id="an-hour-behind", marks=LONG),
    pytest.param(Form(("+3600",), 5000, 20.0), id="an-hour-ahead", marks=LONG),
    pytest.param(Form(JUMPS, 5000, 20.0), id="jumps", marks=LONG),
]


@pytest.mark.parametrize("form", FORMS)
async def test_a_wrong_clock_starts_nothing_early_and_rescues_nobody(
    trial: Trial, form: Form, tmp_path: Path
) -> None:
    clock = tmp_path / "clock"
    clock.write_text(form.clock[0])
    common = {"LEASE_SECONDS": LEASE_SECONDS, "HEARTBEAT_SECONDS": 0.5}
    common |= {"REMINDER_SCAN_SECONDS": 0.2, "SWEEP_SECONDS": 0.5, "MAINTENANCE_SECONDS": 0.5}
    wrong = deceived(trial, clock, **common)
    await wrong.ready()
    await until(wrong.leads, 20, what="leader whose clock is wrong")
    right = (await trial.workers(1, **common))[0]
    sql = await trial.connect()
    try:
        async with jumping(clock, form.clock):
            await sql.execute(REMIND, form.jobs // 5)
            delays, began = await enqueue_delayed(trial, form)
            await tells_a_wrong_time(wrong)
            await all_ended(sql, form.jobs // 5 * 3 // 4 + len(delays))
            assert await wrong.leads()
        reminded = await sql.fetch(
            "SELECT count(*), count(DISTINCT payload ->> 'reminder_id') FROM background_jobs"
            " WHERE job_type = 'send_reminder'"
        )
        early = await sql.fetchval(
            "SELECT count(*) FROM reminders WHERE status <> 'scheduled' AND send_at > now()"
        )
        rescued = await sql.fetchval(
            "SELECT count(*) FROM background_jobs"
            " WHERE attempts <> 1 OR lost_leases <> 0 OR errors IS NOT NULL"
        )
        days_off = await sql.fetchval("SELECT count(*) FROM jobs_done_default")
    finally:
        await sql.close()
    numbers = {n.job_id: int(n.detail) for n in trial.ledger.of(Event.ACKNOWLEDGED)}
    starts = [note for note in trial.ledger.of(Event.START) if note.job_id in numbers]
    waited = {numbers[note.job_id]: note.at - began for note in starts}
    too_early = [number for number, delay in delays.items() if waited[number] < delay]
    trial.figures |= {
        "deceived_by": "libfaketime" if LIBRARIES else "a driver in Python",
        "early": len(too_early) + early,
        "rescued": rescued,
        "reminders": reminded[0][0],
        "started_by_the_deceived": sum(note.pid == wrong.pid for note in starts),
    }
    verdict = check(trial.ledger.notes(), [row for row in await trial.rows() if row.number])
    trial.report(verdict)
    assert verdict.flaws == []
    due = sum(n % 4 != 0 for n in range(1, form.jobs // 5 + 1))
    assert (too_early, early, rescued, days_off) == ([], 0, 0, 0)
    assert tuple(reminded[0]) == (due, due)
    assert verdict.duplicated == 0
    assert {note.pid for note in starts} == {wrong.pid, right.pid}
    assert [await one.terminate() for one in (wrong, right)] == [0, 0], trial.fleet.said()


def deceived(trial: Trial, clock: Path, **settings: object) -> Replica:
    """A worker whose clock the file sets."""
    deceit: dict[str, object] = {OFFSET_VARIABLE: clock}
    if LIBRARIES:
        deceit |= {"LD_PRELOAD": LIBRARIES[0], "FAKETIME_NO_CACHE": 1}
        deceit |= {"FAKETIME_DONT_FAKE_MONOTONIC": 1, "DONT_FAKE_MONOTONIC": 1}
    module = PROBE if LIBRARIES else "tests.chaos.clockwork"
    return trial.spawn(module=module, **settings, **deceit)


@contextlib.asynccontextmanager
async def jumping(clock: Path, times: tuple[str, ...]) -> AsyncIterator[None]:
    """Set the clock again and again until the block ends."""

    async def jump() -> None:
        for offset in itertools.cycle(times):
            # Replaced as a whole: a reader must not find it empty.
            new = clock.with_suffix(".new")
            new.write_text(offset)
            new.rename(clock)
            await asyncio.sleep(JUMP_SECONDS)

    task = asyncio.create_task(jump())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait({task})
    assert task.cancelled(), task.exception()


async def enqueue_delayed(trial: Trial, form: Form) -> tuple[dict[int, float], float]:
    """Jobs due now and later, some of them long: the delay of each number, and from when it counts."""
    delays: dict[int, float] = {}
    jobs = []
    for number in range(1, form.jobs + 1):
        delay = max(
            0.0, trial.random.uniform(-form.longest_delay_seconds, form.longest_delay_seconds)
        )
        seconds = LEASE_SECONDS * 1.5 if number <= LONG_JOBS else 0.01
        delays[number] = 0.0 if number <= LONG_JOBS else delay
        payload = {"number": number, "seconds": seconds}
        jobs.append(NewJob("chaos.steady", payload, delay_seconds=delays[number]))
    trial.pen.write(trial.pen.made(Event.OFFERED, 0, 0, 0, detail=number) for number in delays)
    sql = await trial.connect()
    try:
        began = time.monotonic()
        async with sql.transaction():
            enqueued = await enqueue_batch(sql, jobs)
    finally:
        await sql.close()
    trial.pen.write(
        trial.pen.made(Event.ACKNOWLEDGED, job.id, 0, 0, detail=number)
        for number, job in enumerate(enqueued, 1)
    )
    return delays, began


async def all_ended(sql: Any, count: int) -> None:
    async def ended() -> bool:
        return bool(await sql.fetchval("SELECT count(*) FROM jobs_done") >= count)

    await until(ended, 90, what=f"end of {count} jobs")


async def tells_a_wrong_time(replica: Replica) -> None:
    """Wait until it dates an answer by another hour than ours: else nothing is proved."""

    async def is_wrong() -> bool:
        async with httpx.AsyncClient(timeout=10) as client:
            answer = await client.get(f"{replica.url}/health/live")
        said = parsedate_to_datetime(answer.headers["date"])
        return abs((said - datetime.now(UTC)).total_seconds()) > 1800

    await until(is_wrong, 20, what="wrong time in an answer")
