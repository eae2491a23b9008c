"""Claimed jobs start in free slots; a moment ahead of them only where handlers wait for nothing."""

import asyncio
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import pytest

from service.db.engine import Database
from service.jobs import JobStatus, NewJob, Registry, enqueue_batch, store
from service.jobs.core.claimed_job import ClaimedJob
from service.jobs.core.job import JobId, LeaseToken
from service.jobs.core.lane import LANE_START, Lane, LaneRequest
from service.jobs.worker import lease_clock, starter
from service.jobs.worker.pipeline import Pipeline
from service.jobs.worker.plan.watermark import WINDOW_SECONDS
from service.jobs.worker.starter import Starter
from tests.jobs.claims import claim
from tests.jobs.conftest import Quick, StartWorker
from tests.jobs.waiting import occurs, until, until_ended, until_true

SLOTS = 2
NONE_RUNNING = "SELECT count(*) = 0 FROM jobs_live WHERE status = 'RUNNING'"


@pytest.fixture
async def pipeline(database: Database, handlers: Registry, quick: Quick) -> AsyncIterator[Pipeline]:
    """One that runs what it is given, and claims nothing by itself."""
    pipeline = Pipeline(database, quick(worker_concurrency=SLOTS), handlers=handlers)
    await pipeline.start()
    yield pipeline
    await pipeline.stop(grace_seconds=0)


async def start(pipeline: Pipeline, jobs: list[ClaimedJob]) -> Starter:
    """Have the jobs started, and say by whom."""
    starting = Starter(slots=pipeline.slots, executor=pipeline.executor)
    await starting.start(jobs, lease_deadline=lease_clock.now() + 30)
    return starting


def waiting(handlers: Registry, name: str = "mail") -> tuple[list[Any], asyncio.Event]:
    """A handler that waits until the event comes, and what it was given."""
    seen: list[Any] = []
    go_on = asyncio.Event()

    @handlers.handler(name)
    async def handle(payload: Any) -> None:
        seen.append(payload)
        await go_on.wait()

    return seen, go_on


async def put(sql: Any, count: int, name: str = "mail") -> list[Any]:
    return list(await enqueue_batch(sql, [NewJob(name, n) for n in range(count)]))


async def test_instant_handlers_are_claimed_ahead_within_the_slots(
    database: Database, handlers: Registry, sql: Any, pipeline: Pipeline
) -> None:
    seen: list[int] = []
    used: set[int] = set()

    @handlers.handler("mail")
    async def handle(payload: int) -> None:
        seen.append(payload)
        used.add(pipeline.slots.used)

    days = [datetime(2020, 1, 1 + n, tzinfo=UTC) for n in range(11)]
    made = await enqueue_batch(sql, [NewJob("mail", d.day, run_at=d) for d in reversed(days)])
    await start(pipeline, await claim(database, ["mail"], limit=11))
    for job in made:
        row = await until_ended(sql, job.id)
        assert (row["status"], row["attempts"]) == (JobStatus.SUCCESS, 1)
    assert seen == [day.day for day in days]  # in the order in which they are due
    assert max(used) == SLOTS


async def test_a_job_without_a_slot_is_given_back_uncounted(
    database: Database, handlers: Registry, sql: Any, pipeline: Pipeline
) -> None:
    seen, go_on = waiting(handlers)
    made = await put(sql, 6)
    await start(pipeline, await claim(database, ["mail"], limit=6))

    async def rows() -> list[Any]:
        given_back = "SELECT * FROM jobs_live WHERE status = 'PENDING' ORDER BY next_run_at, id"
        return found if len(found := await sql.fetch(given_back)) == 4 else []

    back = await until(rows)
    assert [(row["id"], row["next_run_at"]) for row in back] == [
        (job.id, job.next_run_at) for job in made[SLOTS:]
    ]
    assert {(row["attempts"], row["lost_leases"], row["lease_until"]) for row in back} == {
        (0, 0, None)
    }
    await until_true(lambda: len(seen) == SLOTS)
    go_on.set()


async def test_queues_start_in_turn_where_not_every_job_finds_a_slot(
    pipeline: Pipeline, handlers: Registry, sql: Any
) -> None:
    seen, go_on = waiting(handlers)
    await enqueue_batch(sql, [NewJob("mail", f"urgent {n}", priority=0) for n in range(4)])
    await enqueue_batch(sql, [NewJob("mail", "other", queue="other", priority=9)])
    lanes = [Lane("default", 0), Lane("other", 9)]
    jobs = await store.claim.take(
        pipeline.link, [LaneRequest(lane, LANE_START, 5) for lane in lanes], ["mail"],
        limit=5, lease_seconds=30, worker_id=pipeline.worker_id, max_errors=9,
    )  # fmt: skip
    await start(pipeline, jobs)
    await until_true(lambda: len(seen) == SLOTS)
    assert seen == ["urgent 0", "other"]
    go_on.set()


@pytest.mark.parametrize("waits", [False, True])
async def test_the_next_claim_does_not_wait_for_instant_handlers(
    database: Database, handlers: Registry, sql: Any, pipeline: Pipeline, *, waits: bool
) -> None:
    _, go_on = waiting(handlers)
    if not waits:
        go_on.set()
    allowed = []
    for _ in range(5):  # the machine may stand still in between
        await put(sql, 2 * SLOTS)
        starting = await start(pipeline, await claim(database, ["mail"], limit=2 * SLOTS))
        assert pipeline.slots.used == SLOTS
        allowed.append(await starting.ahead())
        if waits:
            break
        await until_true(lambda: pipeline.slots.used == 0)
    assert max(allowed) == (0 if waits else 2 * SLOTS)
    go_on.set()


@pytest.mark.parametrize(("jobs", "bytes_each", "ahead"), [(9, 1, 2 * SLOTS), (3, 2_000_000, 0)])
async def test_what_is_claimed_ahead_is_limited_in_jobs_and_in_bytes(
    handlers: Registry, pipeline: Pipeline, jobs: int, bytes_each: int, ahead: int
) -> None:
    handlers.handler("mail")(_nothing)
    allowed = []
    for _ in range(5):  # the machine may stand still in between
        starting = await start(
            pipeline, [_claimed(n, "x" * bytes_each) for n in range(1, jobs + 1)]
        )
        allowed.append(await starting.ahead())
        await until_true(lambda: pipeline.slots.used == 0)
    assert max(allowed) == ahead


async def _nothing(_: Any) -> None: ...


def _claimed(number: int, text: str) -> ClaimedJob:
    return ClaimedJob(
        JobId(number), LeaseToken(number), "default", "mail", 2, 1, None, None, 0, 0.0, 0.0,
        f'"{text}"', None,
    )  # fmt: skip


async def test_a_start_that_is_cancelled_leaves_no_job_behind(
    database: Database, handlers: Registry, sql: Any, pipeline: Pipeline
) -> None:
    @handlers.handler("mail")
    async def handle(_: Any) -> None: ...

    await put(sql, 6)
    starting = asyncio.create_task(start(pipeline, await claim(database, ["mail"], limit=6)))
    await asyncio.sleep(0)
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    assert await until(lambda: sql.fetchval(NONE_RUNNING))
    assert await sql.fetchval("SELECT count(*) FROM jobs_live WHERE attempts = 0") >= 1


async def test_a_job_that_lost_leases_with_others_is_postponed_without_a_slot(
    database: Database, handlers: Registry, sql: Any, pipeline: Pipeline
) -> None:
    _, go_on = waiting(handlers)
    await put(sql, SLOTS + 1)
    for _ in range(2):
        await claim(database, ["mail"], limit=SLOTS + 1, lease_seconds=0)
    jobs = await claim(database, ["mail"], limit=SLOTS + 1)
    assert {(job.rescued, job.lost_leases) for job in jobs} == {(True, 2)}
    for _ in range(SLOTS):
        pipeline.slots.take("default")
    await start(pipeline, jobs)
    later = "SELECT count(*) FROM jobs_live WHERE status = 'PENDING' AND next_run_at > now()"
    assert await until(lambda: sql.fetchval(later)) == SLOTS + 1
    assert await sql.fetchval("SELECT array_agg(DISTINCT lost_leases) FROM jobs_live") == [2]
    go_on.set()


@pytest.mark.parametrize(
    ("kind", "ahead"), [("quick", SLOTS), ("turns", 0), ("waits", 0), ("computes", 0)]
)
async def test_only_instant_handlers_let_a_claim_exceed_the_free_slots(
    database: Database, handlers: Registry, sql: Any, pipeline: Pipeline, kind: str, ahead: int
) -> None:
    _, go_on = waiting(handlers, "waits")

    @handlers.handler("quick")
    async def quick(_: Any) -> None: ...

    @handlers.handler("turns")
    async def turns(_: Any) -> None:
        await asyncio.sleep(0)

    @handlers.handler("computes")
    async def computes(_: Any) -> None:
        time.sleep(starter.AHEAD_SECONDS)  # noqa: ASYNC251 - the point

    allowed = []
    for _ in range(5):  # the machine may stand still for as long as a handler that computes
        await put(sql, SLOTS, kind)
        starting = await start(pipeline, await claim(database, [kind], limit=SLOTS))
        allowed.append(await starting.ahead())
        go_on.set()
        await until_true(lambda: pipeline.slots.used == 0)
        go_on.clear()
    assert max(allowed) == ahead


async def test_a_claim_that_gave_jobs_back_brings_nothing_ahead_of_the_next(
    database: Database, handlers: Registry, sql: Any, pipeline: Pipeline
) -> None:
    """Handlers that compute a little fill some of the turns of one claim, and not all of them."""

    @handlers.handler("mail")
    async def handle(_: Any) -> None:
        time.sleep(starter.AHEAD_SECONDS / 5)  # noqa: ASYNC251 - the point

    allowed = []
    for _ in range(5):  # a turn may take longer than jobs are claimed ahead for at all
        await put(sql, 10 * SLOTS)
        starting = await start(pipeline, await claim(database, ["mail"], limit=10 * SLOTS))
        allowed.append(await starting.ahead())
        await until_true(lambda: pipeline.slots.used == 0)
        assert await until(lambda: sql.fetchval(NONE_RUNNING))
    assert max(allowed) == 0


async def test_no_job_waits_behind_a_handler_while_another_worker_is_idle(
    handlers: Registry, sql: Any, start_worker: StartWorker
) -> None:
    """The first worker has learnt that handlers wait for nothing when it meets those that do."""
    done, all_run = asyncio.Event(), asyncio.Event()
    running = 0

    @handlers.handler("quick")
    async def quick(payload: int) -> None:
        if payload == 39:
            done.set()

    @handlers.handler("slow")
    async def slow(_: Any) -> None:
        nonlocal running
        running += 1
        if running == 8:
            all_run.set()
        await all_run.wait()

    # 4, 8, 12 and 16 of them in a claim; the next may bring 20.
    await put(sql, 40, "quick")
    made = await put(sql, 8, "slow")
    await start_worker(worker_concurrency=4)
    await occurs(done)
    await start_worker(worker_concurrency=4)
    await occurs(all_run)
    for job in made:
        row = await until_ended(sql, job.id)
        assert (row["status"], row["attempts"]) == (JobStatus.SUCCESS, 1)


async def test_what_was_given_back_is_found_again_however_long_that_took(
    handlers: Registry, sql: Any, start_worker: StartWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Claims that go on meanwhile would leave it to a sweep, which a new worker takes in slices."""
    requeue = store.settle.requeue

    async def requeue_late(*args: Any, **options: Any) -> Any:
        await asyncio.sleep(1.5 * WINDOW_SECONDS)
        return await requeue(*args, **options)

    monkeypatch.setattr(store.settle, "requeue", requeue_late)
    seen: list[int] = []

    @handlers.handler("quick")
    async def quick(payload: int) -> None:
        seen.append(payload)

    @handlers.handler("slow")
    async def slow(payload: int) -> None:
        seen.append(payload)
        await asyncio.sleep(WINDOW_SECONDS / 3)

    kinds = [*["quick"] * 60, *["slow"] * 4] * 2
    await enqueue_batch(sql, [NewJob(kind, n) for n, kind in enumerate(kinds)])
    await start_worker(worker_concurrency=4, poll_max_seconds=1.0, sweep_seconds=5.0)
    await until_true(lambda: len(seen) == len(kinds), seconds=5)


@pytest.mark.whole
async def test_an_idle_worker_that_came_further_starts_what_another_gave_back(
    sql: Any, start_worker: StartWorker
) -> None:
    """It looks below its watermark by sweeps alone, and its first ones take a slice at a time."""
    seen: list[int] = []
    go_on = asyncio.Event()
    kinds = [*["quick"] * 60, *["slow"] * 4, *["quick"] * 100]
    for _ in range(2):
        handlers = Registry()

        @handlers.handler("quick")
        async def quick(payload: int) -> None:
            seen.append(payload)

        @handlers.handler("slow")
        async def slow(payload: int) -> None:
            seen.append(payload)
            await go_on.wait()

        await start_worker(
            handlers=handlers, worker_concurrency=4, poll_max_seconds=1.0, sweep_seconds=5.0
        )
    await enqueue_batch(sql, [NewJob(kind, n) for n, kind in enumerate(kinds)])
    try:
        await until_true(lambda: len(seen) == len(kinds), seconds=8)
    finally:
        go_on.set()
