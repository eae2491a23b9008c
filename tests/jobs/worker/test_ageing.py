"""No job of a queue waits for ever behind more urgent ones."""

import asyncio
from typing import Any

import pytest

from service.db.engine import Database
from service.jobs import NewJob, Registry, enqueue_batch, process_due_jobs
from service.jobs.core.claimed_job import ClaimedJob
from service.jobs.core.job import JobId, LeaseToken
from service.jobs.core.lane import Lane, LaneHead, LaneRequest, Position
from service.jobs.flow.queues import QueuePolicies
from service.jobs.worker.plan.ageing import CLAIMS_PER_TURN, Ageing
from service.jobs.worker.plan.lanes import Lanes
from tests.jobs.conftest import Quick, StartWorker
from tests.jobs.waiting import occurs

NOON = 1_800_000_000.0
URGENT, LOW, LOWEST = (Lane("default", priority) for priority in (0, 8, 9))
BACKLOG = 20_000


class Plan:
    """Known lanes whose first jobs became due at noon, and a clock that the test moves."""

    def __init__(self, *lanes: Lane, seconds: float = 300.0) -> None:
        self._heads = dict.fromkeys(lanes, NOON)
        self.lanes = Lanes(QueuePolicies.parse(("*",)))
        self.ageing = Ageing(self.lanes, seconds=seconds)
        self.list_at(NOON)

    def list_at(self, now: float) -> None:
        heads = [LaneHead(lane, due_at, now) for lane, due_at in self._heads.items()]
        self.ageing.listed(heads)
        self.lanes.replace(heads)

    def claim(self, limit: int = 10, *, found: int | None = None) -> list[LaneRequest]:
        """What one claim begins with; it brings as many jobs as asked for, or `found`."""
        requests = self.ageing.requests(limit)
        if requests:
            count = limit if found is None else found
            jobs = [claimed_job(number, requests[0].lane) for number in range(count)]
            self.ageing.returned(requests, jobs, full=count == limit)
        return requests

    def claims(self, count: int, *, found: int | None = None) -> list[LaneRequest]:
        return [request for _ in range(count) for request in self.claim(found=found)]


def claimed_job(job_id: int, lane: Lane) -> ClaimedJob:
    return ClaimedJob(
        id=JobId(job_id), lease_token=LeaseToken(job_id), queue=lane.queue, job_type="mail",
        priority=lane.priority, attempt=1, max_retries=None, timeout_seconds=None, lost_leases=0,
        due_at=NOON, late_seconds=0.0, payload="null", backoff=None,
    )  # fmt: skip


# -- the plan, with a clock that the test moves ---------------------------------------------------


def test_a_job_that_has_waited_too_long_comes_before_more_urgent_ones() -> None:
    plan = Plan(URGENT, LOWEST)
    plan.list_at(NOON + 300)
    assert plan.claims(2 * CLAIMS_PER_TURN) == []
    plan.list_at(NOON + 301)
    (request,) = plan.claim()  # its turn was kept
    assert (request.lane, request.limit, request.due_before) == (LOWEST, 10, NOON + 1)
    assert Position(NOON - 1, 0) < request.start <= Position(NOON, 0)


def test_one_claim_in_ten_begins_with_what_has_waited_too_long() -> None:
    plan = Plan(URGENT, LOWEST)
    plan.list_at(NOON + 301)
    assert len(plan.claims(100 * CLAIMS_PER_TURN)) in (100, 101)


def test_lanes_that_have_waited_too_long_take_turns() -> None:
    plan = Plan(URGENT, LOW, LOWEST)
    plan.list_at(NOON + 301)
    asked = [request.lane for request in plan.claims(10 * CLAIMS_PER_TURN)]
    assert abs(asked.count(LOW) - asked.count(LOWEST)) <= 1


def test_the_most_urgent_jobs_of_a_queue_are_passed_over_by_nobody() -> None:
    plan = Plan(LOWEST, Lane("other", 2))
    plan.list_at(NOON + 301)
    assert plan.claims(2 * CLAIMS_PER_TURN) == []


def test_without_an_ageing_time_no_job_ages() -> None:
    plan = Plan(URGENT, LOWEST, seconds=0)
    plan.list_at(NOON + 86_400)
    assert plan.claims(2 * CLAIMS_PER_TURN) == []


def test_a_lane_whose_first_job_runs_for_hours_is_seldom_looked_at(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    plan, clock = Plan(URGENT, LOWEST), [0.0]
    monkeypatch.setattr("time.monotonic", lambda: clock[0])
    looks = 0
    for second in range(3_600):  # one listing and ten claims a second
        clock[0] = float(second)
        plan.list_at(NOON + 301 + second)
        looks += len(plan.claims(10, found=0))
    assert 3_600 / 31 - 1 <= looks <= 3_600 / 30 + 1


def test_a_look_goes_on_behind_its_window() -> None:
    plan = Plan(URGENT, LOWEST)
    plan.list_at(NOON + 301)
    (request,) = plan.claims(CLAIMS_PER_TURN, found=10)[:1]
    window = request._replace(due_before=NOON + 0.5, continues=True)
    plan.ageing.returned([window], [], full=False)
    plan.list_at(NOON + 302)
    (request,) = plan.claims(CLAIMS_PER_TURN)
    assert request.start == window.end


# -- on PostgreSQL, under an endless load ---------------------------------------------------------


@pytest.fixture
def lowest_ran(handlers: Registry) -> asyncio.Event:
    """Set once the job of the lowest priority has run."""
    ran = asyncio.Event()

    @handlers.handler("mail")
    async def handle(payload: Any) -> None:
        if payload == "lowest":
            ran.set()
        await asyncio.sleep(0.005)

    return ran


@pytest.fixture
async def endless(sql: Any) -> None:
    """More due jobs of the highest priority than are run while these tests take."""
    await sql.execute(
        "INSERT INTO jobs_live (job_type, payload, priority)"
        " SELECT 'mail', '\"urgent\"', 0 FROM generate_series(1, $1)",
        BACKLOG,
    )


async def urgent_jobs_wait(sql: Any) -> bool:
    waiting = "SELECT EXISTS (SELECT FROM jobs_live WHERE priority = 0 AND status = 'PENDING')"
    return bool(await sql.fetchval(waiting))


@pytest.mark.whole
@pytest.mark.usefixtures("endless")
@pytest.mark.parametrize("slots", [1, 20])
async def test_a_job_of_the_lowest_priority_starts_under_an_endless_load_of_the_highest(
    sql: Any, start_worker: StartWorker, lowest_ran: asyncio.Event, slots: int
) -> None:
    await enqueue_batch(sql, [NewJob("mail", "lowest", priority=9)])
    await start_worker(worker_concurrency=slots, priority_ageing_seconds=1)
    await occurs(lowest_ran, seconds=5)
    assert await urgent_jobs_wait(sql)


@pytest.mark.usefixtures("endless")
async def test_a_job_that_was_committed_long_after_it_was_due_starts_under_that_load(
    sql: Any, start_worker: StartWorker, lowest_ran: asyncio.Event
) -> None:
    await enqueue_batch(sql, [NewJob("mail", "other", priority=9)])
    await start_worker(worker_concurrency=4)
    await sql.execute(
        "INSERT INTO jobs_live (job_type, payload, priority, next_run_at)"
        " VALUES ('mail', '\"lowest\"', 9, now() - interval '301 s')"
    )
    await occurs(lowest_ran, seconds=5)
    assert await urgent_jobs_wait(sql)


@pytest.mark.usefixtures("endless")
async def test_passes_of_one_claim_come_to_the_lowest_priority_as_well(
    database: Database, handlers: Registry, sql: Any, quick: Quick, lowest_ran: asyncio.Event
) -> None:
    await sql.execute(
        "INSERT INTO jobs_live (job_type, payload, priority, next_run_at)"
        " VALUES ('mail', '\"lowest\"', 9, now() - interval '301 s')"
    )
    for _ in range(200):  # by chance one in ten comes to it
        await process_due_jobs(database, 1, settings=quick(), handlers=handlers)
        if lowest_ran.is_set():
            break
    assert lowest_ran.is_set()
    assert await urgent_jobs_wait(sql)
