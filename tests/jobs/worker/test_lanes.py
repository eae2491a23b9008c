"""Every lane is found: beside a backlog, beyond the first thousand, without being told of."""

import asyncio
import time
from collections.abc import Iterator
from typing import Any

import pytest

from service.db.engine import Database
from service.jobs import NewJob, Registry, enqueue_batch, process_due_jobs, store
from service.jobs.core.claimed_job import ClaimedJob
from service.jobs.core.job import JobId, LeaseToken
from service.jobs.core.lane import MAX_LANES, Lane, LaneHead
from service.jobs.flow.queues import QueuePolicies
from service.jobs.maintenance.maintainer import Maintainer
from service.jobs.worker.pipeline import Pipeline
from service.jobs.worker.plan.lane_watcher import SLOW_LISTING_SECONDS
from service.jobs.worker.plan.lanes import HEAD_WINDOW_SECONDS, Lanes
from service.jobs.worker.plan.sweep import Sweep
from service.jobs.worker.plan.watermark import WINDOW_JOBS
from service.observability import metrics
from service.observability.labels import LabelBound
from service.observability.queue_gauges import clear_queue_gauges
from tests.jobs.claims import claim
from tests.jobs.conftest import Put, Quick, StartWorker
from tests.jobs.waiting import occurs, until_ended, until_true

DAY = 86_400
NOON = 1_800_000_000.0


@pytest.fixture(autouse=True)
def _names_of_this_test(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The metrics of a process know so many queues; a crowd of ours would leave the others none."""
    monkeypatch.setattr(metrics, "known_queue", LabelBound(10))
    yield
    clear_queue_gauges()


def claimed_job(job_id: int, *, due_at: float, queue: str = "default") -> ClaimedJob:
    """As a claim brings it."""
    return ClaimedJob(
        id=JobId(job_id), lease_token=LeaseToken(job_id), queue=queue, job_type="mail", priority=2, attempt=1,
        max_retries=None, timeout_seconds=None, lost_leases=0, due_at=due_at, late_seconds=0.0,
        payload="null", backoff=None,
    )  # fmt: skip


async def crowd(sql: Any) -> None:
    """More lanes than one listing takes, none of them due; they sort before `z`."""
    jobs = [NewJob("mail", queue=f"q{n:04}", delay_seconds=DAY) for n in range(MAX_LANES + 100)]
    await enqueue_batch(sql, jobs)


# -- beside a backlog -----------------------------------------------------------------------------


@pytest.mark.whole
@pytest.mark.parametrize("listen", [True, False], ids=["listening", "polling"])
async def test_a_worker_with_a_backlog_finds_what_came_into_other_queues(
    handlers: Registry, put: Put, sql: Any, start_worker: StartWorker, listen: bool
) -> None:
    begun, urgent, delayed = asyncio.Event(), asyncio.Event(), asyncio.Event()
    events = {"backlog": begun, "urgent": urgent, "delayed": delayed}

    @handlers.handler("mail")
    async def handle(payload: Any) -> None:
        events[payload].set()
        await asyncio.sleep(0.01)  # work that makes the backlog last

    await enqueue_batch(sql, [NewJob("mail", "backlog") for _ in range(8_000)])
    await start_worker(
        worker_concurrency=4, database_listen=listen, poll_max_seconds=1.0, sweep_seconds=5
    )
    await occurs(begun)
    # By a driver's connection: nobody is told of them.
    await put("mail", "delayed", queue="third", delay_seconds=0.3)
    await put("mail", "urgent", queue="other", priority=0)
    await occurs(urgent, seconds=10)
    await occurs(delayed, seconds=10)
    assert await sql.fetchval("SELECT count(*) FROM jobs_live WHERE queue = 'default'") > 1_000


# -- beyond the first thousand --------------------------------------------------------------------


@pytest.mark.whole
@pytest.mark.parametrize("queues", ["*", "z"])
async def test_a_due_job_behind_a_thousand_lanes_is_run(
    handlers: Registry, put: Put, sql: Any, start_worker: StartWorker, queues: str
) -> None:
    handlers.handler("mail")(lambda _: None)
    await crowd(sql)
    job_id = await put("mail", queue="z")
    await start_worker(worker_queues=queues)
    assert (await until_ended(sql, job_id))["status"] == "SUCCESS"


async def test_a_worker_bound_to_a_queue_lists_that_alone(
    database: Database, handlers: Registry, put: Put, sql: Any, quick: Quick
) -> None:
    await crowd(sql)
    await put("mail", queue="z", priority=7)
    await put("mail", queue="z", delay_seconds=DAY)
    engine = Pipeline(database, quick(worker_queues="y,z:3"), handlers=handlers)
    await engine.start()
    try:
        assert await engine.claimer.plan._watcher.once()
        assert engine.claimer.plan._watcher.complete
        assert set(engine.claimer.plan._lanes.known()) == {Lane("z", 7), Lane("z", 2)}
    finally:
        await engine.stop(grace_seconds=0)


@pytest.mark.parametrize("queues", ["*", "z"])
async def test_a_pass_comes_to_every_lane(
    database: Database, handlers: Registry, put: Put, sql: Any, quick: Quick, queues: str
) -> None:
    handlers.handler("mail")(lambda _: None)
    await crowd(sql)
    first, last = await put("mail", queue="a"), await put("mail", queue="z")
    nobodys = await put("nobodys", queue="z")
    summary = await process_due_jobs(
        database, settings=quick(worker_queues=queues), handlers=handlers
    )
    ended = await sql.fetch("SELECT id, status FROM background_jobs WHERE finished_at IS NOT NULL")
    expected = {last: "SUCCESS", nobodys: "FAILED"} | ({first: "SUCCESS"} if queues == "*" else {})
    assert dict(ended) == expected
    assert (summary.processed, summary.failed) == (len(expected), 1)


async def test_unserved_types_behind_a_thousand_lanes_fail(
    database: Database, handlers: Registry, put: Put, sql: Any, quick: Quick
) -> None:
    await crowd(sql)
    job_id = await put("nobodys", queue="z")
    leader = Maintainer(database, quick(unknown_type_grace_seconds=0), handlers=handlers)
    assert await leader.leader.lead()
    await leader.do_duties()
    leader._next_walk = 0.0  # so many lanes are walked at most so often
    await leader.do_duties()
    await leader.close()
    assert (await until_ended(sql, job_id))["status"] == "FAILED"


async def test_a_lane_with_a_backlog_is_kept_while_a_listing_goes_on_behind_it(
    database: Database, sql: Any
) -> None:
    lanes = Lanes(QueuePolicies.parse(("*",)))
    busy, behind = Lane("default", 2), Lane("z", 2)
    await enqueue_batch(sql, [NewJob("mail") for _ in range(20)])
    lanes.replace([LaneHead(busy, NOON - 1, NOON)])
    for _ in range(3):
        jobs = await claim(database, ["mail"], limit=5)
        lanes.swept(jobs, began=time.monotonic(), full=False)
        lanes.replace([LaneHead(behind, NOON - 1, NOON)])
        assert set(lanes.known()) == {busy, behind}
    # It brought nothing since: gone, unless it is listed.
    lanes.replace([LaneHead(behind, NOON + 9, NOON)])
    assert lanes.known() == [behind]


def test_an_unclaimed_lane_begins_at_its_first_job() -> None:
    lanes, lane = Lanes(QueuePolicies.parse(("*",))), Lane("default", 2)
    lanes.replace([LaneHead(lane, NOON - 60, NOON)])
    (request,) = lanes.requests(10)
    assert NOON - 61 < request.start.due_at < NOON - 60


def test_a_watermark_of_a_scheduled_job_hides_none_due_now() -> None:
    lanes, lane = Lanes(QueuePolicies.parse(("*",))), Lane("default", 2)
    lanes.replace([LaneHead(lane, NOON + DAY, NOON)])
    (request,) = lanes.requests(10)
    assert request.start.due_at < NOON - 1  # its commit may have taken a while


def test_an_empty_lane_keeps_its_watermark() -> None:
    lanes, lane = Lanes(QueuePolicies.parse(("*",))), Lane("default", 2)
    lanes.replace([LaneHead(lane, NOON, NOON)])
    lanes.replace([])
    assert lanes.known() == []
    lanes.add([lane])
    (request,) = lanes.requests(10)
    assert request.start.due_at > NOON - HEAD_WINDOW_SECONDS - 1


def test_a_lane_that_only_a_wake_up_named_begins_at_what_came_lately() -> None:
    lanes, lane = Lanes(QueuePolicies.parse(("*",))), Lane("default", 2)
    lanes.saw_time(NOON)
    lanes.add([lane])
    (request,) = lanes.requests(10)
    assert request.start.due_at == NOON - HEAD_WINDOW_SECONDS
    # What was there before is found by the listing, and by the sweep.
    lanes.replace([LaneHead(lane, NOON - DAY, NOON)])
    (request,) = lanes.requests(10)
    assert request.start.due_at < NOON - DAY


def test_a_slice_ends_where_the_claims_from_the_watermark_begin() -> None:
    lanes = Lanes(QueuePolicies.parse(("*",)))
    behind, ahead = Lane("behind", 2), Lane("ahead", 2)
    lanes.replace([LaneHead(behind, NOON - DAY, NOON), LaneHead(ahead, NOON, NOON)])
    sweep = Sweep(lanes)
    assert sweep.requests(10) == []  # the first slice is above all watermarks
    sweep.skip_slice()
    (request,) = sweep.requests(10)
    assert request.lane == ahead
    assert request.due_before == pytest.approx(NOON - HEAD_WINDOW_SECONDS, abs=1)


def test_a_lane_begins_where_it_is_first_listed() -> None:
    lanes, lane = Lanes(QueuePolicies.parse(("*",))), Lane("default", 2)
    lanes.saw_time(NOON)
    lanes.add([lane])
    job = claimed_job(1, due_at=NOON - 1)
    before = time.monotonic()
    lanes.claimed([job], began=before)
    for floor in (NOON - DAY, NOON - 1, NOON - 1):
        lanes.replace([LaneHead(lane, NOON - DAY, NOON)])
        # What had been sent before is answered meanwhile; a sweep finds something that came recently.
        lanes.claimed([job], began=before)
        lanes.swept([job], began=before, full=True)
        lanes.swept([job], began=time.monotonic(), full=False)
        (request,) = lanes.requests(10)
        assert request.start.due_at == pytest.approx(floor, abs=0.1)
        lanes.claimed([job], began=time.monotonic())


def test_a_lane_whose_first_job_runs_for_hours_is_not_walked_again() -> None:
    lanes, lane, full = Lanes(QueuePolicies.parse(("*",))), Lane("default", 2), Lane("full", 2)
    lanes.replace([LaneHead(each, NOON - DAY, NOON) for each in (lane, full)])
    asked = lanes.requests(2)
    assert {request.start.due_at < NOON - DAY for request in asked} == {True}
    jobs = [claimed_job(n, due_at=NOON - DAY, queue="full") for n in range(2)]
    lanes.exhausted(asked, jobs, began=time.monotonic())
    floors = {each.lane: each.start for each in lanes.requests(2)}
    assert floors[lane].due_at == NOON - HEAD_WINDOW_SECONDS
    assert floors[full].due_at < NOON - DAY
    # Not by a claim that was sent before the lane was listed.
    late = Lane("late", 2)
    lanes.replace([LaneHead(late, NOON - DAY, NOON)])
    lanes.exhausted(lanes.requests(2), [], began=0.0)
    (request,) = (each for each in lanes.requests(2) if each.lane == late)
    assert request.start.due_at < NOON - DAY


def test_a_watermark_lies_a_little_below_the_newest_claim() -> None:
    lanes, lane = Lanes(QueuePolicies.parse(("*",))), Lane("default", 2)
    lanes.replace([LaneHead(lane, NOON - DAY, NOON)])
    batch = WINDOW_JOBS // 4
    for turn in range(8):
        jobs = [claimed_job(turn * batch + n, due_at=NOON + turn) for n in range(batch)]
        lanes.claimed(jobs, began=time.monotonic())
    (request,) = lanes.requests(10)
    assert request.start == (NOON + 4, 4 * batch)


# -- where a new process begins -------------------------------------------------------------------


@pytest.mark.whole
async def test_while_the_first_listing_is_slow_recent_lanes_are_claimed(
    handlers: Registry,
    put: Put,
    sql: Any,
    start_worker: StartWorker,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    handlers.handler("mail")(lambda _: None)
    worker = await start_worker()
    await until_ended(sql, await put("mail", queue="busy", priority=7))
    await worker.stop()
    job_id, _ = await put("mail", queue="busy", priority=3), await put("mail", queue="new")

    async def never(*_: object, **__: object) -> list[LaneHead]:
        await asyncio.sleep(60)
        return []

    monkeypatch.setattr(store.lanes, "listed", never)
    await start_worker()
    assert (await until_ended(sql, job_id))["status"] == "SUCCESS"
    # Of a queue in which no job ever ended, only the listing tells.
    assert await sql.fetchval("SELECT queue FROM jobs_live") == "new"


@pytest.mark.whole
async def test_after_a_listing_that_took_long_comes_a_rest_whoever_asks(
    database: Database, handlers: Registry, quick: Quick, monkeypatch: pytest.MonkeyPatch
) -> None:
    listings = 0

    async def slow(*_: object, **__: object) -> list[LaneHead]:
        nonlocal listings
        listings += 1
        await asyncio.sleep(2 * SLOW_LISTING_SECONDS)
        return []

    monkeypatch.setattr(store.lanes, "listed", slow)
    claimer = Pipeline(database, quick(sweep_seconds=60), handlers=handlers).claimer
    watching = asyncio.create_task(claimer.plan.watch_lanes())
    for _ in range(100):
        claimer.wake([])  # something came somewhere
        await asyncio.sleep(0.01)
    watching.cancel()
    assert listings == 1


@pytest.mark.whole
async def test_a_worker_forgets_lanes_that_are_empty(
    handlers: Registry, put: Put, sql: Any, start_worker: StartWorker
) -> None:
    handlers.handler("mail")(lambda _: None)
    worker = await start_worker()
    for n in range(20):
        await until_ended(sql, await put("mail", queue=f"q{n}"))
    await until_true(lambda: worker._pipeline.claimer.plan._lanes.known() == [])
