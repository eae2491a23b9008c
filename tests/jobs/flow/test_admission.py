"""Limits on running jobs: exact over all processes, and free permits are handed to held jobs."""

import asyncio
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import pytest

from service.db.connection import Link
from service.db.engine import Database
from service.jobs import NewJob, Registry, RetryAfter, enqueue_batch, store
from service.jobs.core.claimed_job import ClaimedJob
from service.jobs.core.lane import LANE_START, Lane, LaneRequest
from service.jobs.core.outcomes import SUCCEEDED_EMPTY, Released
from service.jobs.flow import admission
from tests.jobs.conftest import Put, StartWorker
from tests.jobs.waiting import until, until_true

ENDED = "SELECT count(*) FROM background_jobs WHERE status = 'SUCCESS'"
PERMITS = "SELECT key, running FROM job_permits ORDER BY key"
LIVE = """
SELECT id, status, attempts, held_for, held_since IS NOT NULL AS held, permits, isfinite(next_run_at) AS due
FROM jobs_live ORDER BY id
"""
LANE = LaneRequest(Lane("default", 2), LANE_START, 100)


class Concurrency:
    """How many run at once, and how many did at most."""

    def __init__(self) -> None:
        self.now: Counter[str] = Counter()
        self.most: Counter[str] = Counter()
        self.ran = 0

    async def run(self, *names: str, seconds: float = 0.01) -> None:
        for name in names:
            self.now[name] += 1
            self.most[name] = max(self.most[name], self.now[name])
        await asyncio.sleep(seconds)
        for name in names:
            self.now[name] -= 1
        self.ran += 1


@pytest.fixture
def seen() -> Concurrency:
    return Concurrency()


@pytest.fixture
def by_customer(handlers: Registry, seen: Concurrency) -> Registry:
    """Jobs of the type `mail`, of which two of a customer may run at once."""

    @handlers.handler("mail", max_running_per_key=2)
    async def mail(payload: Any) -> None:
        await seen.run(payload["customer"], "all")

    return handlers


def mails(customers: int, each: int, **values: Any) -> list[NewJob]:
    return [
        NewJob("mail", {"customer": f"c{n}"}, concurrency_key=f"customer:c{n}", **values)
        for _ in range(each)
        for n in range(customers)
    ]


async def until_all_succeeded(sql: Any, jobs: int) -> None:
    async def done() -> bool:
        return bool(await sql.fetchval(ENDED) == jobs)

    await until(done)


@pytest.mark.usefixtures("by_customer")
async def test_jobs_with_one_key_run_as_many_at_once_as_their_type_allows(
    seen: Concurrency, sql: Any, start_worker: StartWorker
) -> None:
    await enqueue_batch(sql, mails(customers=3, each=10))
    await start_worker(worker_concurrency=20)
    await start_worker(worker_concurrency=20)
    await until_all_succeeded(sql, 30)
    assert [seen.most[f"c{n}"] for n in range(3)] == [2, 2, 2]
    assert {row["running"] for row in await sql.fetch(PERMITS)} == {0}


@pytest.mark.usefixtures("by_customer")
async def test_a_queue_runs_as_many_jobs_over_all_processes_as_it_allows(
    seen: Concurrency, sql: Any, start_worker: StartWorker
) -> None:
    await sql.execute("INSERT INTO queues (name, max_running) VALUES ('default', 5)")
    await enqueue_batch(sql, mails(customers=10, each=4))
    await start_worker(worker_concurrency=20)
    await start_worker(worker_concurrency=20)
    await until_all_succeeded(sql, 40)
    assert seen.most["all"] == 5
    assert max(seen.most[f"c{n}"] for n in range(10)) <= 2
    assert {row["running"] for row in await sql.fetch(PERMITS)} == {0}


@pytest.mark.whole
async def test_jobs_without_limits_start_while_admission_fails(
    handlers: Registry,
    seen: Concurrency,
    sql: Any,
    start_worker: StartWorker,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(admission, "RETRY_SECONDS", 600.0)

    @handlers.handler("plain")
    async def plain(_: Any) -> None:
        await seen.run("plain")

    @handlers.handler("mail", max_running_per_key=2)
    async def mail(_: Any) -> None:
        await seen.run("mail")

    await enqueue_batch(sql, [*mails(customers=1, each=1), NewJob("plain")])
    blocking = sql.transaction()
    await blocking.start()
    await sql.execute("LOCK TABLE job_permits IN ACCESS EXCLUSIVE MODE")
    await start_worker(worker_concurrency=20, database_command_timeout_seconds=0.5)
    await until_true(lambda: seen.ran == 1, seconds=30)
    assert seen.most["plain"] == 1
    await blocking.rollback()
    await until_all_succeeded(sql, 2)


HOLD = """
UPDATE jobs_live SET held_for = 'queue:limited', held_since = now(), held_due_at = next_run_at,
  next_run_at = 'infinity' WHERE queue = 'limited'
"""
ORPHAN = """
UPDATE jobs_live SET status = 'RUNNING', attempts = 1, lease_token = 1, worker_id = 1,
  lease_until = now() - interval '1 s', started_at = now() WHERE id = $1
"""


@pytest.mark.parametrize("orphan", [False, True], ids=["due", "orphan"])
async def test_held_jobs_with_permits_leave_slots_to_what_is_due(
    handlers: Registry, sql: Any, start_worker: StartWorker, orphan: bool
) -> None:
    ran: list[str] = []

    @handlers.handler("note")
    async def note(payload: Any) -> None:
        ran.append(payload["name"])
        await asyncio.sleep(0.002)

    await sql.execute("INSERT INTO queues (name, max_running) VALUES ('limited', 50)")
    await enqueue_batch(sql, [NewJob("note", {"name": "held"}, queue="limited")] * 200)
    await sql.execute(HOLD)
    [other] = await enqueue_batch(sql, [NewJob("note", {"name": "other"}, queue="plain")])
    if orphan:
        await sql.execute(ORPHAN, other.id)
    await start_worker(worker_concurrency=4)
    await until_all_succeeded(sql, 201)
    assert ran.index("other") < 50


async def test_no_process_runs_more_held_jobs_of_a_queue_than_its_own_limit(
    handlers: Registry, seen: Concurrency, sql: Any, start_worker: StartWorker
) -> None:
    @handlers.handler("note")
    async def note(payload: Any) -> None:
        await seen.run(payload["queue"])

    await sql.execute("INSERT INTO queues (name, max_running) VALUES ('limited', 50)")
    jobs = [
        NewJob("note", {"queue": queue}, queue=queue) for queue in ["limited"] * 40 + ["plain"] * 10
    ]
    await enqueue_batch(sql, jobs)
    await sql.execute(HOLD)
    await start_worker(worker_queues="limited:2,*", worker_concurrency=20)
    await until_all_succeeded(sql, 50)
    assert seen.most["limited"] == 2
    attempts = await sql.fetchval("SELECT array_agg(DISTINCT attempts) FROM background_jobs")
    assert attempts == [1]


@pytest.mark.usefixtures("by_customer")
async def test_a_permit_is_free_while_a_retry_waits(
    handlers: Registry, seen: Concurrency, sql: Any, start_worker: StartWorker
) -> None:
    @handlers.handler("once", max_running_per_key=1)
    async def once(payload: Any) -> None:
        if payload["fails"] and seen.now["failed"] == 0:
            seen.now["failed"] += 1
            raise RetryAfter(30)
        await seen.run("all")

    jobs = [NewJob("once", {"fails": n == 0}, concurrency_key="k") for n in range(5)]
    await enqueue_batch(sql, jobs)
    await start_worker()
    await until_all_succeeded(sql, 4)
    (left,) = await sql.fetch(LIVE)
    assert (left["status"], left["held_for"], left["permits"]) == ("PENDING", None, None)
    assert {row["running"] for row in await sql.fetch(PERMITS)} == {0}


async def test_a_limit_that_is_raised_lets_held_jobs_run_within_two_seconds(
    handlers: Registry, sql: Any, start_worker: StartWorker
) -> None:
    go_on = asyncio.Event()
    running = 0

    @handlers.handler("long")
    async def long(_: Any) -> None:
        nonlocal running
        running += 1
        await go_on.wait()

    await sql.execute("INSERT INTO queues (name, max_running) VALUES ('default', 1)")
    await enqueue_batch(sql, [NewJob("long")] * 6)
    await start_worker()

    async def runs(jobs: int) -> None:
        async def enough() -> bool:
            return running >= jobs

        await until(enough, seconds=4)

    await runs(1)
    await sql.execute("UPDATE queues SET max_running = 4")
    await runs(4)
    assert running == 4
    await sql.execute("DELETE FROM queues")
    await runs(6)
    go_on.set()
    await until_all_succeeded(sql, 6)


class Claims:
    """Claims, admits and settles by the statements themselves."""

    def __init__(self, link: Link) -> None:
        self.link = link

    async def take(self, jobs: int = 100, *, lease_seconds: float = 30) -> list[ClaimedJob]:
        request = LANE._replace(limit=jobs)
        claimed = await store.claim.take(
            self.link, [request], ["mail"], limit=jobs, lease_seconds=lease_seconds, worker_id=1,
            max_errors=9,
        )  # fmt: skip
        return sorted(claimed, key=lambda job: job.id)

    async def admit(self, jobs: list[ClaimedJob], limit: int = 2) -> list[ClaimedJob]:
        limits = [limit] * len(jobs)
        await store.admission.make_permits(self.link, jobs)
        answers = await store.admission.admit(self.link, jobs, key_limits=limits)
        for job in jobs:
            if job.lease in answers:
                job.permits = answers[job.lease].permits
        return [job for job in jobs if job.lease in answers and answers[job.lease].admitted]

    async def held(
        self,
        holds: list[str],
        limit: int = 100,
        *,
        left_out: Sequence[str] = (),
        type_limit: int = 2,
    ) -> list[ClaimedJob]:
        return await store.admission.claim_held(
            self.link, holds, ["mail"], queues=None, left_out=list(left_out),
            type_limits={"mail": type_limit}, limit=limit, lease_seconds=30, worker_id=1,
        )  # fmt: skip


@pytest.fixture
def claims(database: Database) -> Claims:
    return Claims(database.link())


async def test_over_the_limit_a_job_is_held_and_its_attempt_given_back(
    claims: Claims, sql: Any
) -> None:
    await enqueue_batch(sql, mails(customers=1, each=3))
    admitted = await claims.admit(await claims.take())
    assert [job.permits for job in admitted] == [["key:customer:c0"]] * 2
    rows = await sql.fetch(LIVE)
    assert [tuple(row)[1:] for row in rows] == [
        ("RUNNING", 1, None, False, ["key:customer:c0"], True),
        ("RUNNING", 1, None, False, ["key:customer:c0"], True),
        ("PENDING", 0, "key:customer:c0", True, None, False),
    ]
    assert await claims.take() == [], "what is held is out of reach of claims"


async def test_admission_sent_twice_grants_nothing_twice(claims: Claims, sql: Any) -> None:
    await enqueue_batch(sql, mails(customers=1, each=3))
    jobs = await claims.take()
    first = await claims.admit(jobs)
    assert await claims.admit(jobs) == first
    assert [tuple(row) for row in await sql.fetch(PERMITS)] == [
        ("key:customer:c0", 2),
        ("queue:default", 0),
    ]


async def test_a_held_job_that_plain_sql_made_due_later_is_handed_no_permit_before(
    claims: Claims, sql: Any
) -> None:
    await enqueue_batch(sql, mails(customers=1, each=4))
    for job in await claims.admit(await claims.take()):
        await store.settle.finish(claims.link, [(job, SUCCEEDED_EMPTY)], max_errors=9)
    held = await sql.fetch("SELECT id FROM jobs_live WHERE held_for IS NOT NULL ORDER BY id")
    await sql.execute(
        "UPDATE jobs_live SET next_run_at = now() + interval '1 h' WHERE id = $1", held[0]["id"]
    )
    assert [job.id for job in await claims.held(["key:customer:c0"])] == [held[1]["id"]]


async def test_a_rescued_job_keeps_its_permit_and_its_first_claim_frees_none(
    claims: Claims, sql: Any
) -> None:
    await enqueue_batch(sql, mails(customers=1, each=1))
    lost = await claims.admit(await claims.take(lease_seconds=0.001))
    await asyncio.sleep(0.01)
    rescued = await claims.take()
    assert [job.permits for job in rescued] == [["key:customer:c0"]]
    settled = await store.settle.finish(claims.link, [(lost[0], SUCCEEDED_EMPTY)], max_errors=9)
    assert settled == {lost[0].lease}
    assert await sql.fetchval("SELECT sum(running) FROM job_permits") == 1
    await store.settle.finish(claims.link, [(rescued[0], SUCCEEDED_EMPTY)], max_errors=9)
    assert await sql.fetchval("SELECT sum(running) FROM job_permits") == 0


Ends = Callable[[Claims, list[ClaimedJob]], Awaitable[Any]]
WAYS: dict[str, Ends] = {
    "finish": lambda claims, jobs: store.settle.finish(
        claims.link, [(job, SUCCEEDED_EMPTY) for job in jobs], max_errors=9
    ),
    "requeue": lambda claims, jobs: store.settle.requeue(
        claims.link, [(job, Released()) for job in jobs], max_errors=9
    ),
    "lost claim": lambda claims, jobs: store.lost_claims.release(
        claims.link, [job.lease for job in jobs]
    ),
}


@pytest.mark.parametrize("way", WAYS)
async def test_whatever_ends_a_run_frees_its_permits(claims: Claims, sql: Any, way: str) -> None:
    await sql.execute("INSERT INTO queues (name, max_running) VALUES ('default', 9)")
    await enqueue_batch(sql, mails(customers=3, each=2))
    jobs = await claims.admit(await claims.take())
    assert sum(row["running"] for row in await sql.fetch(PERMITS)) == 12
    await WAYS[way](claims, jobs)
    assert {row["running"] for row in await sql.fetch(PERMITS)} == {0}
    assert {row["permits"] for row in await sql.fetch(LIVE)} <= {None}


async def test_a_job_that_ends_for_a_refused_row_frees_its_permits(
    claims: Claims, sql: Any
) -> None:
    await enqueue_batch(sql, mails(customers=1, each=1))
    (job,) = await claims.admit(await claims.take(lease_seconds=0.001))
    await asyncio.sleep(0.01)
    assert await store.claim.fail_refused(claims.link, job.id, "why", max_errors=9)
    assert await sql.fetchval("SELECT sum(running) FROM job_permits") == 0


async def test_held_jobs_are_handed_permits_in_order_of_priority_and_due_time(
    claims: Claims, sql: Any, put: Put
) -> None:
    await enqueue_batch(sql, mails(customers=1, each=2))
    running = await claims.admit(await claims.take())
    later = await put("mail", concurrency_key="customer:c0", priority=2)
    urgent = await put("mail", concurrency_key="customer:c0", priority=1)
    request = [LANE, LANE._replace(lane=Lane("default", 1))]
    more = await store.claim.take(
        claims.link, request, ["mail"], limit=9, lease_seconds=9, worker_id=1, max_errors=9
    )
    assert await claims.admit(more) == []
    assert await claims.held(["key:customer:c0"]) == [], "no permit is free"
    await WAYS["finish"](claims, running[:1])
    handed = await claims.held(["key:customer:c0"])
    assert [job.id for job in handed] == [urgent]
    assert [job.id for job in await claims.admit(handed)] == [urgent]
    await WAYS["finish"](claims, [*running[1:], *handed])
    assert [job.id for job in await claims.held(["key:customer:c0"])] == [later]


async def test_a_held_job_that_no_one_may_run_keeps_no_free_permit_from_those_behind_it(
    claims: Claims, sql: Any, put: Put
) -> None:
    await sql.execute(
        "INSERT INTO queues (name, max_running_per_key, paused_at)"
        " VALUES ('tight', 1, now()), ('default', 2, NULL)"
    )
    await enqueue_batch(sql, mails(customers=1, each=2))
    await claims.admit(await claims.take())
    for queue in ("tight", "default"):
        await put("mail", concurrency_key="customer:c0", queue=queue, priority=1)
    lanes = [LANE._replace(lane=Lane(queue, 1)) for queue in ("tight", "default")]
    due = await store.claim.take(
        claims.link, lanes, ["mail"], limit=9, lease_seconds=9, worker_id=1, max_errors=9
    )
    assert await claims.admit(due) == []
    await sql.execute("UPDATE queues SET max_running_per_key = 3 WHERE name = 'default'")
    handed = await claims.held(["key:customer:c0"], left_out=["tight"], type_limit=9)
    assert [job.queue for job in handed] == ["default"]


async def test_a_count_that_is_wrong_is_set_right_and_told(claims: Claims, sql: Any) -> None:
    await enqueue_batch(sql, mails(customers=2, each=2))
    await claims.admit(await claims.take())
    assert await store.admission.repair(claims.link) == {}
    await sql.execute("UPDATE job_permits SET running = running + 3 WHERE key = 'key:customer:c0'")
    assert await store.admission.repair(claims.link) == {"key:customer:c0": -3}
    assert [row["running"] for row in await sql.fetch(PERMITS)] == [2, 2, 0]


@pytest.mark.whole
async def test_admissions_and_settles_at_once_keep_limits_and_counts(
    database: Database, sql: Any
) -> None:
    """Eight workers by the statements alone: no deadlock, never over the limit, all permits back."""
    await sql.execute("INSERT INTO queues (name, max_running) VALUES ('default', 7)")
    await enqueue_batch(sql, mails(customers=5, each=60))
    over: defaultdict[str, int] = defaultdict(int)

    async def work() -> None:
        claims = Claims(database.link())
        names = [f"key:customer:c{n}" for n in range(5)] + ["queue:default"]
        while await sql_left(claims.link):
            jobs = [*await claims.held(names, 10), *await claims.take(10)]
            admitted = await claims.admit(jobs) if jobs else []
            for key, running in await claims.link.fetch(
                PERMITS.replace("job_", "finmind_jobs.job_")
            ):
                over[key] = max(over[key], running)
            if admitted:
                await WAYS["finish"](claims, admitted)
        await claims.link.close()

    async def sql_left(link: Link) -> bool:
        rows = await link.fetch("SELECT count(*) FROM finmind_jobs.jobs_live")
        return bool(rows[0][0])

    async with asyncio.timeout(50):
        await asyncio.gather(*(work() for _ in range(8)))
    assert await sql.fetchval(ENDED) == 300
    assert max(over.values()) == over["queue:default"] == 7
    assert max(most for key, most in over.items() if key.startswith("key:")) == 2
    assert {row["running"] for row in await sql.fetch(PERMITS)} == {0}


async def test_a_job_that_is_cancelled_before_its_admission_takes_no_permit_and_does_not_run(
    claims: Claims, sql: Any
) -> None:
    await enqueue_batch(sql, mails(customers=1, each=1))
    (job,) = await claims.take()
    await sql.execute("UPDATE jobs_live SET cancel = '{}'")
    await store.admission.make_permits(claims.link, [job])
    answers = await store.admission.admit(claims.link, [job], key_limits=[1])
    assert answers[job.lease] == (True, None, None, True)
    assert await sql.fetchval("SELECT sum(running) FROM job_permits") == 0
