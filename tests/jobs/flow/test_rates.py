"""Rates of queues: how many jobs start within a time, over all processes."""

import asyncio
import time
from typing import Any

import pytest

from service.db.engine import Database
from service.jobs import NewJob, Registry, RetryAfter, enqueue_batch, store
from service.jobs.core.outcomes import SUCCEEDED_EMPTY
from tests.jobs.conftest import StartWorker
from tests.jobs.flow.test_admission import LIVE, Claims, until_all_succeeded
from tests.jobs.waiting import until

STARTED = "SELECT count(*) FROM jobs_live WHERE status = 'RUNNING'"
SET_RATE = """
INSERT INTO queues (name, rate_limit, rate_seconds, rate_burst) VALUES ('default', $1, $2, $3)
ON CONFLICT (name) DO UPDATE SET rate_limit = $1, rate_seconds = $2, rate_burst = $3"""
LATER = "UPDATE rate_limits SET next_at = next_at - make_interval(secs => $1)"
HOLD = "rate:default"


@pytest.fixture
def starts(handlers: Registry) -> list[float]:
    """When jobs of the type `mail` started (monotonic)."""
    seen: list[float] = []

    @handlers.handler("mail")
    async def mail(_: Any) -> None:
        seen.append(time.monotonic())

    return seen


@pytest.fixture
def claims(database: Database) -> Claims:
    return RatedClaims(database.link())


class RatedClaims(Claims):
    """Makes the rows of rates as well."""

    async def admit(self, jobs: list[Any], limit: int = 2) -> list[Any]:
        await store.rate_limits.make_rates(self.link, jobs)
        return await super().admit(jobs, limit)


def most_over(starts: list[float], begin: float, *, burst: int, per_second: float) -> float:
    """By how many jobs the starts were ahead of what a rate allows since `begin`, at most."""
    return max(
        number - burst - (at - begin) * per_second for number, at in enumerate(sorted(starts), 1)
    )


@pytest.mark.whole
async def test_three_workers_together_keep_a_rate(
    starts: list[float], sql: Any, start_worker: StartWorker
) -> None:
    await sql.execute(SET_RATE, 40, 1.0, 5)
    begin = time.monotonic()
    await enqueue_batch(sql, [NewJob("mail") for _ in range(200)])
    for _ in range(3):
        await start_worker(worker_concurrency=20)
    await until_all_succeeded(sql, 200)
    assert most_over(starts, begin, burst=5, per_second=40) <= 0
    assert starts[-1] - begin < 1.5 * (195 / 40), "no more is lost than a busy machine loses"


async def test_over_its_rate_a_job_is_held_and_its_attempt_given_back(
    claims: Claims, sql: Any
) -> None:
    await sql.execute(SET_RATE, 1, 60.0, 2)
    await enqueue_batch(sql, [NewJob("mail") for _ in range(3)])
    admitted = await claims.admit(await claims.take())
    assert [job.permits for job in admitted] == [[HOLD]] * 2
    assert [tuple(row)[1:] for row in await sql.fetch(LIVE)] == [
        ("RUNNING", 1, None, False, [HOLD], True),
        ("RUNNING", 1, None, False, [HOLD], True),
        ("PENDING", 0, HOLD, True, None, False),
    ]
    assert await claims.take() == [], "what is held is out of reach of claims"


async def test_a_held_job_is_handed_over_when_its_turn_comes_and_not_before(
    claims: Claims, sql: Any
) -> None:
    await sql.execute(SET_RATE, 1, 60.0, 1)
    await enqueue_batch(sql, [NewJob("mail") for _ in range(3)])
    await claims.admit(await claims.take())
    turn = (await store.rate_limits.turns(claims.link, [HOLD]))[HOLD]
    assert turn.free == 0
    assert turn.next_in_seconds == pytest.approx(60, abs=5)
    assert await claims.held([HOLD]) == []
    await sql.execute(LATER, 61.0)
    handed = await claims.held([HOLD])
    assert len(handed) == 1, "as many as may start"
    assert await claims.admit(handed) == handed


async def test_a_turn_that_nobody_takes_is_kept_up_to_the_burst(claims: Claims, sql: Any) -> None:
    await sql.execute(SET_RATE, 1, 60.0, 3)
    await enqueue_batch(sql, [NewJob("mail") for _ in range(9)])
    assert len(await claims.admit(await claims.take())) == 3
    await sql.execute(LATER, 3600.0)
    assert len(await claims.admit(await claims.held([HOLD]))) == 3


async def test_a_rate_that_is_changed_counts_at_once(claims: Claims, sql: Any) -> None:
    await sql.execute(SET_RATE, 1, 60.0, 1)
    await enqueue_batch(sql, [NewJob("mail") for _ in range(9)])
    assert len(await claims.admit(await claims.take())) == 1
    await sql.execute(LATER, 30.0)
    assert await claims.held([HOLD]) == []
    await sql.execute("DELETE FROM queues")
    assert len(await claims.admit(await claims.held([HOLD]))) == 8


async def test_a_job_that_a_rate_holds_takes_no_permit(claims: Claims, sql: Any) -> None:
    await sql.execute(SET_RATE, 1, 60.0, 1)
    await sql.execute("UPDATE queues SET max_running = 9")
    await enqueue_batch(sql, [NewJob("mail", concurrency_key="k") for _ in range(2)])
    (admitted,) = await claims.admit(await claims.take())
    assert admitted.permits == ["key:k", "queue:default", HOLD]
    counts = "SELECT sum(running) FROM job_permits"
    assert await sql.fetchval(counts) == 2
    await store.settle.finish(claims.link, [(admitted, SUCCEEDED_EMPTY)], max_errors=9)
    assert await sql.fetchval(counts) == 0


async def test_a_job_that_a_limit_holds_uses_no_turn(claims: Claims, sql: Any) -> None:
    await sql.execute(SET_RATE, 1, 60.0, 2)
    await enqueue_batch(sql, [NewJob("mail", concurrency_key="k") for _ in range(2)])
    await enqueue_batch(sql, [NewJob("mail")])
    assert len(await claims.admit(await claims.take(), limit=1)) == 2
    assert await sql.fetchval("SELECT array_agg(held_for) FROM jobs_live WHERE held_for > ''") == [
        "key:k"
    ]


async def test_admission_sent_twice_uses_no_turn_twice(claims: Claims, sql: Any) -> None:
    await sql.execute(SET_RATE, 1, 60.0, 3)
    await enqueue_batch(sql, [NewJob("mail") for _ in range(2)])
    jobs = await claims.take()
    assert await claims.admit(jobs) == await claims.admit(jobs) == jobs
    await enqueue_batch(sql, [NewJob("mail") for _ in range(2)])
    assert len(await claims.admit(await claims.take())) == 1


async def test_a_retry_counts_as_a_start(
    handlers: Registry, sql: Any, start_worker: StartWorker
) -> None:
    ran = 0

    @handlers.handler("mail")
    async def mail(_: Any) -> None:
        nonlocal ran
        ran += 1
        raise RetryAfter(0)

    await sql.execute(SET_RATE, 1, 3600.0, 2)
    await enqueue_batch(sql, [NewJob("mail")])
    await start_worker()

    async def held() -> bool:
        return bool(await sql.fetchval("SELECT count(*) FROM jobs_live WHERE held_for = $1", HOLD))

    await until(held)
    assert ran == 2
    assert await sql.fetchval("SELECT attempts FROM jobs_live") == 2


@pytest.mark.whole
async def test_a_queue_with_many_due_jobs_has_few_of_them_held(
    starts: list[float], sql: Any, start_worker: StartWorker
) -> None:
    await sql.execute(SET_RATE, 2, 1.0, 2)
    await enqueue_batch(sql, [NewJob("mail") for _ in range(500)])
    await start_worker(sweep_seconds=30.0, poll_max_seconds=1.0)
    await start_worker(sweep_seconds=30.0, poll_max_seconds=1.0)

    async def enough() -> bool:
        return len(starts) >= 20

    await until(enough, seconds=20)
    held = await sql.fetchval("SELECT count(*) FROM jobs_live WHERE held_for IS NOT NULL")
    assert held <= 20, "sweeps, ten a second, hold one each second"


@pytest.mark.whole
async def test_at_a_fast_rate_three_workers_leave_the_backlog_where_it_is(
    starts: list[float], sql: Any, start_worker: StartWorker
) -> None:
    await sql.execute(SET_RATE, 60, 1.0, None)
    await enqueue_batch(sql, [NewJob("mail") for _ in range(2000)])
    for _ in range(3):
        await start_worker(worker_concurrency=50)

    async def enough() -> bool:
        return len(starts) >= 400

    await until(enough, seconds=30)
    held = await sql.fetchval("SELECT count(*) FROM jobs_live WHERE held_for IS NOT NULL")
    assert held <= 60, "what starts in a second; job by job it was most of what had started"


async def test_a_rate_that_is_lifted_lets_held_jobs_run_within_two_seconds(
    starts: list[float], sql: Any, start_worker: StartWorker
) -> None:
    await sql.execute(SET_RATE, 1, 3600.0, 1)
    await enqueue_batch(sql, [NewJob("mail") for _ in range(5)])
    await start_worker()

    async def one() -> bool:
        return len(starts) == 1

    await until(one)
    await sql.execute("DELETE FROM queues")
    async with asyncio.timeout(4):
        await until_all_succeeded(sql, 5)


@pytest.mark.parametrize("seconds", ["1e-300", "1e300", "'infinity'", "'nan'", "0.1"])
async def test_a_rate_by_plain_sql_that_no_rule_allows_stops_no_job_of_others(
    handlers: Registry, sql: Any, start_worker: StartWorker, seconds: str
) -> None:
    ran: set[str] = set()

    @handlers.handler("mail")
    async def mail(payload: Any) -> None:
        ran.add(payload)

    most = 2**31 - 1
    for queue, limit in (("bad", most), ("odd", 1)):
        await sql.execute(
            f"INSERT INTO queues (name, rate_limit, rate_seconds, rate_burst, key_rate_limit, key_rate_seconds)"
            f" VALUES ('{queue}', {limit}, {seconds}, {most}, {limit}, {seconds})"
        )
    await sql.execute(SET_RATE, 9, 1.0, None)
    queues = ["bad", "odd", "default"]
    await enqueue_batch(sql, [NewJob("mail", q, queue=q, concurrency_key="k") for q in queues])
    await start_worker()
    await until_all_succeeded(sql, 3)
    assert ran == set(queues)


async def test_rows_of_rates_go_when_they_say_no_more_than_none(claims: Claims, sql: Any) -> None:
    await sql.execute(SET_RATE, 1, 60.0, 3)
    await enqueue_batch(sql, [NewJob("mail") for _ in range(2)])
    await claims.admit(await claims.take())
    rows = "SELECT count(*) FROM rate_limits"
    await sql.execute(LATER, 60.0)
    await store.rate_limits.drop_idle(claims.link, idle_seconds=0, limit=9)
    assert await sql.fetchval(rows) == 1, "a start is not made up for yet"
    await sql.execute(LATER, 120.0)
    await store.rate_limits.drop_idle(claims.link, idle_seconds=0, limit=9)
    assert await sql.fetchval(rows) == 0
