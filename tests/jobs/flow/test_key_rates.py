"""Rates of concurrency keys: how many jobs of each start within a time, over all processes."""

import time
from collections import defaultdict
from typing import Any

import pytest

from service.db.engine import Database
from service.jobs import NewJob, Registry, enqueue_batch, store
from service.jobs.core.claimed_job import ClaimedJob
from service.jobs.core.holds import key_of_rate, rate_of
from service.jobs.core.job import JobId, LeaseToken
from service.jobs.maintenance import permits
from tests.jobs.conftest import StartWorker
from tests.jobs.flow.test_admission import until_all_succeeded
from tests.jobs.flow.test_rates import LATER, SET_RATE, RatedClaims, most_over
from tests.jobs.waiting import until

SET_KEY_RATE = """
INSERT INTO queues (name, key_rate_limit, key_rate_seconds, key_rate_burst) VALUES ('default', $1, $2, $3)
ON CONFLICT (name) DO UPDATE SET key_rate_limit = $1, key_rate_seconds = $2, key_rate_burst = $3"""
HELD = "SELECT id, held_for FROM jobs_live WHERE held_for IS NOT NULL ORDER BY id"
RATES = "SELECT count(*) FROM rate_limits"


@pytest.fixture
def claims(database: Database) -> RatedClaims:
    return RatedClaims(database.link())


@pytest.fixture
def starts(handlers: Registry) -> dict[str, list[float]]:
    """When jobs of the type `mail` started (monotonic), by their customer."""
    seen = defaultdict[str, list[float]](list)

    @handlers.handler("mail")
    async def mail(payload: Any) -> None:
        seen[payload["customer"]].append(time.monotonic())

    return seen


def mails(*keys: str | None, each: int = 1) -> list[NewJob]:
    return [
        NewJob("mail", {"customer": str(key)}, concurrency_key=key)
        for _ in range(each)
        for key in keys
    ]


@pytest.mark.whole
async def test_two_workers_together_keep_the_rate_of_each_key(
    starts: dict[str, list[float]], sql: Any, start_worker: StartWorker
) -> None:
    await sql.execute(SET_KEY_RATE, 10, 1.0, 3)
    begin = time.monotonic()
    await enqueue_batch(sql, mails("a", "b", "c", each=40))
    for _ in range(2):
        await start_worker(worker_concurrency=20)
    await until_all_succeeded(sql, 120)
    for key, when in starts.items():
        assert most_over(when, begin, burst=3, per_second=10) <= 0, key
        assert when[-1] - begin < 1.5 * (37 / 10), "no more is lost than a busy machine loses"


async def test_each_key_has_a_rate_of_its_own_and_jobs_without_a_key_have_none(
    claims: RatedClaims, sql: Any
) -> None:
    await sql.execute(SET_KEY_RATE, 1, 60.0, 2)
    await enqueue_batch(sql, mails("a", "b", None, each=3))
    admitted = await claims.admit(await claims.take(), limit=9)
    keys = [job.concurrency_key for job in admitted]
    assert keys == ["a", "b", None, "a", "b", None, None]
    assert {job.permits and job.permits[-1] for job in admitted} == {
        "rate:default/a", "rate:default/b", None,
    }  # fmt: skip
    assert [row["held_for"] for row in await sql.fetch(HELD)] == [
        "rate:default/a",
        "rate:default/b",
    ]


async def test_a_held_job_is_handed_over_when_the_turn_of_its_key_comes(
    claims: RatedClaims, sql: Any
) -> None:
    await sql.execute(SET_KEY_RATE, 1, 60.0, 1)
    await enqueue_batch(sql, mails("a", "b", each=3))
    await claims.admit(await claims.take())
    holds = ["rate:default/a", "rate:default/b"]
    turns = await store.rate_limits.turns(claims.link, holds)
    assert [turns[held_for].free for held_for in holds] == [0, 0]
    assert turns[holds[0]].next_in_seconds == pytest.approx(60, abs=5)
    assert await claims.held(holds) == []
    await sql.execute(f"{LATER} WHERE key = 'rate:default/b'", 61.0)
    (handed,) = await claims.held(holds)
    assert (handed.concurrency_key, await claims.admit([handed])) == ("b", [handed])


async def test_what_the_rate_of_a_key_holds_uses_no_turn_of_its_queue(
    claims: RatedClaims, sql: Any
) -> None:
    await sql.execute(SET_RATE, 1, 60.0, 3)
    await sql.execute(SET_KEY_RATE, 1, 60.0, 1)
    await enqueue_batch(sql, [*mails("a", each=5), *mails("b", "c", "d")])
    admitted = await claims.admit(await claims.take(), limit=9)
    assert [job.concurrency_key for job in admitted] == ["a", "b", "c"]
    assert admitted[0].permits == ["key:a", "rate:default/a", "rate:default"]
    held = [row["held_for"] for row in await sql.fetch(HELD)]
    assert held == ["rate:default/a"] * 4 + ["rate:default"]
    turn = await store.rate_limits.turns(claims.link, ["rate:default/a"])
    assert turn["rate:default/a"].next_in_seconds == pytest.approx(60, abs=5), "one turn, not five"


async def test_what_the_rate_of_its_queue_holds_uses_no_turn_of_its_key(
    claims: RatedClaims, sql: Any
) -> None:
    await sql.execute(SET_RATE, 1, 60.0, 1)
    await sql.execute(SET_KEY_RATE, 1, 60.0, 1)
    await enqueue_batch(sql, mails("a", "b"))
    assert len(await claims.admit(await claims.take())) == 1
    await sql.execute("UPDATE queues SET rate_limit = NULL")
    (handed,) = await claims.held(["rate:default"])
    assert await claims.admit([handed]) == [handed]


async def test_admission_sent_twice_uses_no_turn_of_a_key_twice(
    claims: RatedClaims, sql: Any
) -> None:
    await sql.execute(SET_KEY_RATE, 1, 60.0, 2)
    await enqueue_batch(sql, mails("a"))
    jobs = await claims.take()
    assert await claims.admit(jobs) == await claims.admit(jobs) == jobs
    await enqueue_batch(sql, mails("a", each=2))
    assert len(await claims.admit(await claims.take())) == 1


async def test_a_rate_of_keys_that_is_lifted_lets_held_jobs_run_within_two_seconds(
    starts: dict[str, list[float]], sql: Any, start_worker: StartWorker
) -> None:
    await sql.execute(SET_KEY_RATE, 1, 3600.0, 1)
    await enqueue_batch(sql, mails("a", "b", each=3))
    await start_worker()

    async def all_held() -> bool:
        return len(await sql.fetch(HELD)) == 4

    await until(all_held)
    assert {key: len(when) for key, when in starts.items()} == {"a": 1, "b": 1}
    began = time.monotonic()
    await sql.execute("DELETE FROM queues")
    await until_all_succeeded(sql, 6)
    assert time.monotonic() - began < 6, "two, and what a busy machine takes"


async def test_a_job_that_runs_when_no_worker_knows_the_rate_yet_is_admitted_after_its_row_is_made(
    handlers: Registry, sql: Any, start_worker: StartWorker
) -> None:
    ran: list[str] = []

    @handlers.handler("mail")
    async def mail(payload: Any) -> None:
        ran.append(payload["customer"])

    await sql.execute(SET_KEY_RATE, 1, 3600.0, 1)
    await start_worker()
    await enqueue_batch(sql, mails("k" * 255))
    await until_all_succeeded(sql, 1)
    assert ran == ["k" * 255]
    assert await sql.fetchval("SELECT key FROM rate_limits") == "rate:default/" + "k" * 255


async def test_names_of_rates_tell_queues_and_keys_apart(claims: RatedClaims, sql: Any) -> None:
    """Whatever names queues have by plain SQL: `a/b` and its rate, and the key `b` of the queue `a`."""
    queues = ["a", "a/b", "a~1b", "a:b", "key:a", "~", "/"]
    await sql.executemany(
        "INSERT INTO queues (name, rate_limit, rate_seconds, key_rate_limit, key_rate_seconds)"
        " VALUES ($1, 1, 60, 1, 60)",
        [(queue,) for queue in queues],
    )
    keys = ["b", "/b", "~1b", ""]
    jobs = [
        ClaimedJob(
            id=JobId(1), lease_token=LeaseToken(1), queue=queue, job_type="mail", priority=2, attempt=1, max_retries=None,
            timeout_seconds=None, lost_leases=0, due_at=0, late_seconds=0, payload="null", backoff=None,
            concurrency_key=key,
        )
        for queue in queues for key in keys
    ]  # fmt: skip
    await store.rate_limits.make_rates(claims.link, jobs)
    named = {rate_of(queue, key): queue for queue in queues for key in (None, *keys)}
    assert len(named) == len(queues) * (1 + len(keys))
    assert dict(await sql.fetch("SELECT key, queue FROM rate_limits")) == named
    assert {key_of_rate(rate_of("a/b", key)) for key in (None, *keys)} == {None, *keys}


async def test_rows_of_keys_go_when_they_say_no_more_than_none(
    claims: RatedClaims, sql: Any
) -> None:
    await sql.execute(SET_RATE, 2, 1.0, 2)
    await sql.execute(SET_KEY_RATE, 1, 60.0, 2)
    await enqueue_batch(sql, mails("a", each=2))
    await claims.admit(await claims.take())
    await sql.execute(LATER, 60.0)
    await store.rate_limits.drop_idle(claims.link, idle_seconds=0, limit=9)
    assert await sql.fetchval("SELECT key FROM rate_limits") == "rate:default/a", "not made up for"
    await sql.execute(LATER, 61.0)
    await store.rate_limits.drop_idle(claims.link, idle_seconds=0, limit=9)
    assert await sql.fetchval(RATES) == 0


async def test_in_one_round_the_rows_of_many_keys_go(claims: RatedClaims, sql: Any) -> None:
    await sql.execute(
        "INSERT INTO rate_limits SELECT 'rate:default/' || n, 'default', now() - interval '2 h'"
        " FROM generate_series(1, 2500) n;"
        "INSERT INTO job_permits (key, used_at) SELECT 'key:' || n, now() - interval '2 h'"
        " FROM generate_series(1, 2500) n"
    )
    await permits.drop_idle(claims.link)
    assert await sql.fetchval(RATES) == await sql.fetchval("SELECT count(*) FROM job_permits") == 0


async def test_rows_of_keys_go_with_the_rate(claims: RatedClaims, sql: Any) -> None:
    await sql.execute(SET_KEY_RATE, 1, 60.0, 2)
    await enqueue_batch(sql, mails("a", "b"))
    await claims.admit(await claims.take())
    await sql.execute("DELETE FROM queues")
    await sql.execute(LATER, 1.0)
    await sql.execute(LATER, 120.0)
    await store.rate_limits.drop_idle(claims.link, idle_seconds=0, limit=1)
    assert await sql.fetchval(RATES) == 1
    await store.rate_limits.drop_idle(claims.link, idle_seconds=0, limit=9)
    assert await sql.fetchval(RATES) == 0
