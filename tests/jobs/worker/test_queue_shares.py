"""Queues share the slots of a process by their weights, and none keeps another from starting."""

import asyncio
import time
from collections import Counter
from typing import Any

import pytest

from service.db.engine import Database
from service.jobs import NewJob, Registry, enqueue_batch, store
from service.jobs.core.claimed_job import ClaimedJob
from service.jobs.core.job import JobId, LeaseToken
from service.jobs.core.lane import LANE_START, Lane, LaneHead, LaneRequest
from service.jobs.flow.queues import QueuePolicies
from service.jobs.worker.plan.lanes import Lanes
from service.jobs.worker.plan.queue_shares import QueueShares
from tests.jobs.conftest import StartWorker
from tests.jobs.waiting import occurs, until_true

ENDLESS = 1_000_000_000


class Claims:
    """Claims of queues that hold so many due jobs, as PostgreSQL answers them."""

    def __init__(self, due: dict[str, int], weights: dict[str, int] | None = None) -> None:
        queues = QueuePolicies.parse(("*",))
        queues.settings.weights = weights or {}
        self.shares = QueueShares(queues)
        self.due = Counter(due)

    def claim(self, limit: int) -> Counter[str]:
        """What one claim brings of each queue."""
        left, brought = limit, Counter[str]()
        for queue, share in self.shares.of_claim(list(self.due), limit):
            brought[queue] = min(left, share, self.due[queue])
            left -= brought[queue]
        self.due.subtract(brought)
        jobs = [claimed_job(queue) for queue in brought.elements()]
        self.more = self.shares.took(jobs, full=left == 0)
        return +brought

    def claims(self, count: int, limit: int) -> Counter[str]:
        return sum((self.claim(limit) for _ in range(count)), Counter[str]())


def claimed_job(queue: str) -> ClaimedJob:
    return ClaimedJob(
        id=JobId(1), lease_token=LeaseToken(1), queue=queue, job_type="mail", priority=2, attempt=1,
        max_retries=None, timeout_seconds=None, lost_leases=0, due_at=0.0, late_seconds=0.0,
        payload="null", backoff=None,
    )  # fmt: skip


# -- the shares -----------------------------------------------------------------------------------


@pytest.mark.parametrize("limit", [1, 3, 200])
@pytest.mark.parametrize("weight", [1, 3, 100])
def test_queues_with_due_jobs_start_them_by_weight(limit: int, weight: int) -> None:
    claims = Claims({"heavy": ENDLESS, "light": ENDLESS}, {"heavy": weight})
    started = claims.claims(5_000 // limit, limit)
    assert started["heavy"] == pytest.approx(weight * started["light"], rel=0.1)


@pytest.mark.parametrize("queues", [2, 10, 300])
def test_queues_of_one_weight_start_as_many_jobs(queues: int) -> None:
    claims = Claims({f"q{n}": ENDLESS for n in range(queues)})
    started = claims.claims(10 * queues, 50)
    assert max(started.values()) - min(started.values()) <= 2 * 50


def test_a_queue_that_comes_up_is_served_by_the_next_claim() -> None:
    claims = Claims({"big": ENDLESS, "small": 0})
    claims.claims(1_000, 50)
    claims.due["small"] = 10
    assert claims.claim(50) == {"small": 10, "big": 40}
    assert claims.claim(50) == {"big": 50}


def test_a_queue_of_which_nothing_was_known_is_served_by_the_next_claim() -> None:
    claims = Claims({"big": ENDLESS})
    claims.claims(1_000, 50)
    claims.due["small"] = 10
    assert claims.claim(50)["small"] == 10


def test_a_queue_without_due_jobs_saves_nothing_up() -> None:
    claims = Claims({"busy": ENDLESS, "idle": 0})
    claims.claims(1_000, 50)
    claims.due["idle"] = ENDLESS
    started = claims.claims(20, 50)
    assert abs(started["busy"] - started["idle"]) <= 50


def test_what_a_queue_has_no_jobs_for_goes_to_others_in_the_same_claim() -> None:
    claims = Claims({"busy": ENDLESS} | {f"idle{n}": 0 for n in range(9)})
    claims.claim(50)
    assert claims.claims(100, 50) == {"busy": 100 * 50}


def test_a_claim_that_leaves_slots_though_a_queue_has_more_says_so() -> None:
    claims = Claims({"first": ENDLESS, "second": 0})
    started = claims.claim(50)  # by chance one of them comes last, and may take the rest
    assert started["first"] in (25, 50)
    assert claims.more == (started["first"] == 25)


def test_one_queue_is_asked_for_the_whole_claim() -> None:
    claims = Claims({"only": ENDLESS})
    assert claims.shares.of_claim(["only"], 50) == [("only", 50)]
    claims.claims(10, 50)
    assert claims.shares._tags == {}


def test_the_lanes_of_a_queue_come_together_the_most_urgent_first() -> None:
    lanes = Lanes(QueuePolicies.parse(("*",)))
    heads = [LaneHead(Lane(queue, n), 1.0, 9.0) for n in (7, 0, 3) for queue in ("a", "b")]
    lanes.replace(heads)
    asked = [request.lane for request in lanes.requests(10)]
    assert [lane.priority for lane in asked] == [0, 3, 7, 0, 3, 7]
    assert len({lane.queue for lane in asked[:3]}) == 1


# -- on PostgreSQL --------------------------------------------------------------------------------


async def test_a_claim_takes_no_more_of_a_queue_than_its_limit_over_all_its_lanes(
    database: Database, sql: Any
) -> None:
    some = [NewJob("mail", queue="a", priority=n) for n in (0, 0, 0, 1, 1, 1, 1, 1, 2, 2)]
    await enqueue_batch(sql, [*some, *[NewJob("mail", queue="b") for _ in range(10)]])
    link = database.link()
    lanes = [Lane("a", 0), Lane("a", 1), Lane("a", 2), Lane("b", 2)]
    requests = [LaneRequest(lane, LANE_START, 5 if lane.queue == "a" else 10) for lane in lanes]
    common: dict[str, Any] = {"lease_seconds": 9, "worker_id": 1, "max_errors": 9}
    jobs = await store.claim.take(link, requests, ["mail"], limit=10, **common)
    assert Counter((job.queue, job.priority) for job in jobs) == {
        ("a", 0): 3, ("a", 1): 2, ("b", 2): 5,
    }  # fmt: skip
    # What is left of the first was not even locked.
    jobs = await store.claim.take(link, requests[:3], ["mail"], limit=10, **common)
    assert Counter(job.priority for job in jobs) == {1: 3, 2: 2}
    await link.close()


async def backlog(sql: Any, queue: str, count: int) -> None:
    """Due jobs of the highest priority."""
    await sql.execute(
        "INSERT INTO jobs_live (job_type, payload, queue, priority)"
        " SELECT 'mail', to_jsonb($1::text), $1, 0 FROM generate_series(1, $2)",
        queue,
        count,
    )


@pytest.mark.whole
@pytest.mark.parametrize("slots", [1, 20])
async def test_a_queue_with_ten_jobs_starts_them_beside_one_with_a_hundred_thousand(
    handlers: Registry, sql: Any, start_worker: StartWorker, slots: int
) -> None:
    started: list[Any] = []

    @handlers.handler("mail")
    async def handle(payload: Any) -> None:
        started.append(payload)
        await asyncio.sleep(0.005)

    await backlog(sql, "big", 100_000)
    await start_worker(worker_concurrency=slots)
    await until_true(lambda: len(started) >= 10 * slots)
    before = len(started)
    await enqueue_batch(sql, [NewJob("mail", "small", queue="small", priority=9)] * 10)
    await until_true(lambda: started.count("small") == 10, seconds=10)
    last = max(place for place, queue in enumerate(started) if queue == "small")
    assert last - before < 1_000


async def test_a_backlog_does_not_take_every_slot_from_a_queue_with_few_jobs(
    handlers: Registry, sql: Any, start_worker: StartWorker
) -> None:
    started, all_begun = Counter[str](), asyncio.Event()

    @handlers.handler("mail")
    async def handle(payload: Any) -> None:
        started[payload] += 1
        if started.total() == 20:
            all_begun.set()
        await asyncio.Event().wait()  # the slots stay taken

    await backlog(sql, "big", 1_000)
    await enqueue_batch(sql, [NewJob("mail", "small", queue="small", priority=9)] * 10)
    await start_worker(worker_concurrency=20, shutdown_grace_seconds=0)
    await occurs(all_begun)
    assert started == {"big": 10, "small": 10}


@pytest.mark.whole
async def test_a_weight_that_an_operator_sets_holds_in_a_running_worker(
    handlers: Registry, sql: Any, start_worker: StartWorker
) -> None:
    started: list[Any] = []

    @handlers.handler("mail")
    async def handle(payload: Any) -> None:
        started.append(payload)
        await asyncio.sleep(0.005)

    for queue in ("heavy", "light"):
        await backlog(sql, queue, 20_000)
    await start_worker(worker_concurrency=8)
    await until_true(lambda: len(started) >= 200)
    assert Counter(started[:200])["heavy"] == pytest.approx(100, abs=20)
    await sql.execute("INSERT INTO queues (name, weight) VALUES ('heavy', 4)")
    until = time.monotonic() + 2  # in force in every process by then
    await until_true(lambda: time.monotonic() > until)
    begin = len(started)
    await until_true(lambda: len(started) >= begin + 500)
    assert Counter(started[begin : begin + 500])["heavy"] == pytest.approx(400, abs=20)


async def held_backlog(sql: Any, *, keys: int, jobs: int) -> None:
    """Held jobs of so many concurrency keys, of which one may run at once each."""
    await sql.execute("INSERT INTO queues (name, max_running_per_key) VALUES ('keyed', 1)")
    await sql.execute(
        "INSERT INTO jobs_live (job_type, payload, queue, concurrency_key)"
        " SELECT 'mail', to_jsonb(key), 'keyed', key"
        " FROM (SELECT 'key' || n % $1 AS key FROM generate_series(1, $2) n) n",
        keys,
        jobs,
    )
    await sql.execute(
        "UPDATE jobs_live SET held_for = 'key:' || concurrency_key, held_since = now(),"
        " held_due_at = next_run_at, next_run_at = 'infinity'"
    )


@pytest.mark.whole
@pytest.mark.parametrize("slots", [1, 4])
async def test_held_jobs_keep_neither_other_queues_nor_other_keys_from_starting(
    handlers: Registry, sql: Any, start_worker: StartWorker, slots: int
) -> None:
    started: list[Any] = []

    @handlers.handler("mail")
    async def handle(payload: Any) -> None:
        started.append(payload)
        await asyncio.sleep(0.005)

    await held_backlog(sql, keys=20, jobs=4_000)
    await start_worker(worker_concurrency=slots)
    await until_true(lambda: len(started) >= 20)
    before = len(started)
    await enqueue_batch(sql, [NewJob("mail", "small", queue="small", priority=9)] * 10)
    await until_true(lambda: started.count("small") == 10, seconds=10)
    assert max(place for place, name in enumerate(started) if name == "small") - before < 200
    await until_true(lambda: len(set(started)) == 21, seconds=10)
    assert len(started) < 1_000
