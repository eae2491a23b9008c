"""What is claimed, in which order, by whom, and at what cost."""

import asyncio
import time
from datetime import UTC, datetime
from typing import Any

import pytest
from prometheus_client import REGISTRY

from service.db.engine import Database
from service.jobs import NewJob, Registry, enqueue_batch, store
from service.jobs.core.claimed_job import ClaimedJob
from service.jobs.core.lane import LANE_START, KeysWalk, Lane, LaneHead, LaneRequest, Position
from service.jobs.flow.queues import QueuePolicies
from service.jobs.worker.plan import claim_plan
from service.jobs.worker.plan.claim_plan import Look, Step
from service.jobs.worker.plan.lanes import Lanes
from tests.jobs.claims import claim
from tests.jobs.conftest import Put, StartWorker
from tests.jobs.waiting import occurs, until, until_ended, until_true


def recorder(handlers: Registry, *names: str) -> list[Any]:
    seen: list[Any] = []
    for name in names:

        @handlers.handler(name)
        async def handle(payload: Any, seen: list[Any] = seen) -> None:
            seen.append(payload["n"])

    return seen


async def test_the_most_urgent_priority_comes_first(
    handlers: Registry, sql: Any, start_worker: StartWorker
) -> None:
    seen = recorder(handlers, "mail")
    jobs = [NewJob("mail", {"n": n % 10}, priority=n % 10) for n in (5, 0, 9, 2, 7, 0, 9, 1)]
    await enqueue_batch(sql, jobs)
    await start_worker(worker_concurrency=1)
    await until_true(lambda: len(seen) == 8)
    assert seen == [0, 0, 1, 2, 5, 7, 9, 9]


async def test_jobs_of_one_priority_run_in_the_order_in_which_they_are_due(
    handlers: Registry, sql: Any, start_worker: StartWorker
) -> None:
    seen = recorder(handlers, "mail")
    times = [datetime(2020, 1, 1 + n, tzinfo=UTC) for n in (3, 0, 4, 1, 2)]
    await enqueue_batch(sql, [NewJob("mail", {"n": t.day}, run_at=t) for t in times])
    await start_worker(worker_concurrency=1)
    await until_true(lambda: len(seen) == 5)
    assert seen == [1, 2, 3, 4, 5]


async def test_a_busy_queue_does_not_starve_another_of_its_priority(
    handlers: Registry, sql: Any, start_worker: StartWorker
) -> None:
    seen = recorder(handlers, "mail")
    crowd = [NewJob("mail", {"n": "crowd"}, queue="crowd") for _ in range(500)]
    few = [NewJob("mail", {"n": "few"}, queue="few") for _ in range(5)]
    await enqueue_batch(sql, [*crowd, *few])
    await start_worker(worker_concurrency=5, claim_batch_size=5)
    await until_true(lambda: len(seen) == 505)
    # One queue after the other would have the last of them at place 505 (or 5, never among others).
    assert max(place for place, name in enumerate(seen) if name == "few") < 250


async def test_a_queue_with_a_limit_never_runs_more_at_once(
    handlers: Registry, sql: Any, start_worker: StartWorker
) -> None:
    running = {"emails": 0, "other": 0}
    most = dict(running)
    together = asyncio.Event()

    @handlers.handler("mail")
    async def handle(payload: Any) -> None:
        queue = payload["queue"]
        running[queue] += 1
        most[queue] = max(most[queue], running[queue])
        if most["other"] >= 4:
            together.set()
        await occurs(together)
        running[queue] -= 1

    # In several lanes: the limit is the queue's, not the lane's.
    jobs = [
        NewJob("mail", {"queue": queue}, queue=queue, priority=n % 4)
        for queue in ("emails", "other")
        for n in range(12)
    ]
    made = await enqueue_batch(sql, jobs)
    await start_worker(worker_queues="emails:2,*")
    for job in made:
        assert (await until_ended(sql, job.id))["status"] == "SUCCESS"
    assert most["emails"] == 2
    assert most["other"] >= 4


async def test_never_more_jobs_run_at_once_than_there_are_slots(
    handlers: Registry, sql: Any, start_worker: StartWorker
) -> None:
    running, most = 0, 0

    @handlers.handler("mail")
    async def handle(payload: Any) -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        for _ in range(5):
            await asyncio.sleep(0)
        running -= 1

    made = await enqueue_batch(sql, [NewJob("mail") for _ in range(60)])
    await start_worker(worker_concurrency=7)
    for job in made:
        await until_ended(sql, job.id)
    assert most == 7


@pytest.mark.parametrize("queues", ["*", "forever"], ids=["all", "named"])
async def test_a_job_due_at_infinity_or_since_ever_keeps_no_other_from_being_run(
    database: Database, handlers: Registry, put: Put, sql: Any, start_worker: StartWorker,
    queues: str,
) -> None:  # fmt: skip
    seen = recorder(handlers, "mail")
    # From before the table checked it.
    await sql.execute("SET session_replication_role = replica")
    never, since_ever = await sql.fetch(
        "INSERT INTO background_jobs (job_type, queue, payload, next_run_at) SELECT 'mail',"
        """ 'forever', '{"n": 0}', t FROM unnest('{infinity,-infinity}'::timestamptz[]) AS t"""
        " RETURNING id"
    )
    link = database.link()
    head = LaneHead(Lane("forever", 2), float("-inf"), 0.0)
    [(_, due, _, age)] = await store.gauges.of_queues(link, [head], cap=10)
    assert (due, age) == (1, float("inf"))
    await link.close()
    await start_worker(worker_queues=queues)
    other = await put("mail", {"n": 1}, queue="forever")
    for job_id in (since_ever["id"], other):
        assert (await until_ended(sql, job_id))["status"] == "SUCCESS"
    later = await put("mail", {"n": 2}, queue="forever")
    assert (await until_ended(sql, later))["status"] == "SUCCESS"
    assert seen == [0, 1, 2]
    status = "SELECT status FROM jobs_live WHERE id = $1"
    assert await sql.fetchval(status, never["id"]) == "PENDING"
    delays = REGISTRY.get_sample_value("finmind_job_start_delay_seconds_sum", {"queue": "forever"})
    assert delays is not None
    assert delays < 1000


async def test_a_worker_leaves_the_queues_that_it_does_not_serve(
    handlers: Registry, put: Put, sql: Any, start_worker: StartWorker
) -> None:
    seen = recorder(handlers, "mail")
    other = await put("mail", {"n": 1}, queue="other")
    ours = await put("mail", {"n": 2}, queue="ours")
    await start_worker(worker_queues="ours")
    await until_ended(sql, ours)
    assert seen == [2]
    assert await sql.fetchval("SELECT attempts FROM jobs_live WHERE id = $1", other) == 0


async def test_a_worker_leaves_the_types_that_it_has_no_handler_for(
    handlers: Registry, put: Put, sql: Any, start_worker: StartWorker
) -> None:
    recorder(handlers, "ours")
    other = await put("other", {"n": 1})
    ours = await put("ours", {"n": 2})
    await start_worker()
    await until_ended(sql, ours)
    assert await sql.fetchval("SELECT attempts FROM jobs_live WHERE id = $1", other) == 0


async def test_a_row_inserted_by_plain_sql_is_run(
    handlers: Registry, sql: Any, start_worker: StartWorker
) -> None:
    seen = recorder(handlers, "mail")
    await start_worker()
    insert = "INSERT INTO background_jobs (job_type, payload) VALUES ('mail', $1) RETURNING id"
    job_id = await sql.fetchval(insert, {"n": 7})
    assert (await until_ended(sql, job_id))["status"] == "SUCCESS"
    assert seen == [7]


async def test_a_scheduled_job_does_not_start_early(
    handlers: Registry, put: Put, sql: Any, start_worker: StartWorker
) -> None:
    recorder(handlers, "mail")
    await start_worker()
    job_id = await put("mail", {"n": 1}, delay_seconds=0.6)
    job = await until_ended(sql, job_id)
    assert job["started_at"] >= job["next_run_at"]
    assert (job["next_run_at"] - job["created_at"]).total_seconds() >= 0.59


async def test_two_workers_never_run_one_job_twice(
    database: Database, handlers: Registry, sql: Any, start_worker: StartWorker
) -> None:
    seen = recorder(handlers, "mail")
    await enqueue_batch(sql, [NewJob("mail", {"n": n}) for n in range(2_000)])
    await start_worker(worker_concurrency=20, claim_batch_size=20)
    await start_worker(worker_concurrency=20, claim_batch_size=20)
    await until(lambda: sql.fetchval("SELECT count(*) = 0 FROM jobs_live"), seconds=30)
    assert sorted(seen) == list(range(2_000))
    workers = "SELECT count(DISTINCT worker_id) FROM background_jobs"
    assert await sql.fetchval(workers) == 2


# -- floors ---------------------------------------------------------------------------------------


async def test_a_claim_reads_nothing_below_its_watermark(database: Database, sql: Any) -> None:
    made = await enqueue_batch(sql, [NewJob("mail") for _ in range(10)])
    link = database.link()
    floor = Position(made[6].next_run_at.timestamp(), made[6].id)
    request = LaneRequest(Lane("default", 2), floor, 100)
    common: dict[str, Any] = {"limit": 100, "lease_seconds": 9, "worker_id": 1, "max_errors": 9}
    jobs = await store.claim.take(link, [request], ["mail"], **common)
    assert [job.id for job in jobs] == [job.id for job in made[6:]]
    jobs = await store.claim.take(link, [request._replace(start=LANE_START)], ["mail"], **common)
    assert [job.id for job in jobs] == [job.id for job in made[:6]]
    await link.close()


async def test_under_a_backlog_claims_go_on_from_the_watermark(
    database: Database, sql: Any
) -> None:
    await enqueue_batch(sql, [NewJob("mail") for _ in range(50)])
    lanes = Lanes(QueuePolicies.parse(("*",)))
    lanes.add([Lane("default", 2)])
    (sweep,) = lanes.requests(10)
    assert sweep.start == LANE_START
    jobs = await claim(database, ["mail"], limit=10)
    lanes.swept(jobs, began=time.monotonic(), full=True)
    (request,) = lanes.requests(10)
    assert request.start == Position(jobs[0].due_at, jobs[0].id)


@pytest.mark.whole
async def test_a_worker_with_a_backlog_seldom_sweeps(
    handlers: Registry, sql: Any, start_worker: StartWorker
) -> None:
    seen = recorder(handlers, "mail")
    await enqueue_batch(sql, [NewJob("mail", {"n": n}) for n in range(1_000)])
    worker = await start_worker(worker_concurrency=10, sweep_seconds=60)
    sweeps = []
    plan = worker._pipeline.claimer.plan
    returned = plan.returned

    def spy(
        step: Step, jobs: list[ClaimedJob], *, full: bool, walk: KeysWalk | None = None
    ) -> None:
        sweeps.append(step.look is Look.SWEEP)
        returned(step, jobs, full=full, walk=walk)

    plan.returned = spy  # type: ignore[method-assign]
    await until_true(lambda: len(seen) == 1_000)
    assert sweeps.count(True) < len(sweeps) / 3


@pytest.mark.whole
async def test_a_job_below_the_watermark_is_found_despite_a_backlog(
    handlers: Registry, sql: Any, start_worker: StartWorker
) -> None:
    order: list[Any] = []
    begun = asyncio.Event()

    @handlers.handler("mail")
    async def handle(payload: Any) -> None:
        order.append(payload["n"])
        if len(order) == 200:
            begun.set()
        await asyncio.sleep(0.002)

    await enqueue_batch(sql, [NewJob("mail", {"n": n}) for n in range(6_000)])
    await start_worker(worker_concurrency=8)
    await occurs(begun)
    late = "INSERT INTO jobs_live (job_type, payload, next_run_at) VALUES ('mail', $1, $2)"
    await sql.execute(late, {"n": "late"}, datetime(2020, 1, 1, tzinfo=UTC))
    await until_true(lambda: "late" in order, seconds=20)
    assert len(order) < 6_000


# -- cost -----------------------------------------------------------------------------------------


async def test_every_claim_is_a_hot_update_that_writes_no_index_entry(
    database: Database, sql: Any
) -> None:
    jobs = 3_000
    for _ in range(3):
        await enqueue_batch(sql, [NewJob("mail", {"n": n}) for n in range(jobs // 3)])
    sizes = "SELECT sum(pg_relation_size(indexrelid)) FROM pg_index WHERE indrelid = 'jobs_live'::regclass"
    before = await sql.fetchval(sizes)
    link = database.link()
    request = LaneRequest(Lane("default", 2), LANE_START, 200)
    common: dict[str, Any] = {"limit": 200, "lease_seconds": 99, "worker_id": 1, "max_errors": 9}
    while await store.claim.take(link, [request], ["mail"], **common):
        pass
    await link.fetch("SELECT pg_stat_force_next_flush()")
    await link.close()
    counters = (
        "SELECT n_tup_upd, n_tup_hot_upd FROM pg_stat_user_tables WHERE relname = 'jobs_live'"
    )

    async def counted() -> Any:
        row = await sql.fetchrow(counters)
        return row if row["n_tup_upd"] >= jobs else None

    row = await until(counted)
    assert (row["n_tup_upd"], row["n_tup_hot_upd"]) == (jobs, jobs)
    assert await sql.fetchval(sizes) == before


async def test_two_slow_claims_that_find_nothing_are_followed_by_a_rest(
    handlers: Registry, put: Put, sql: Any, start_worker: StartWorker,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    recorder(handlers, "ours")
    worker = await start_worker(poll_min_seconds=10, poll_max_seconds=60)
    claimer = worker._pipeline.claimer
    worker.stop_claiming()
    await worker._claims.join(timeout_seconds=5)
    await put("foreign", {"n": 1})
    await claimer.plan._watcher.once()
    claimer.plan._fastest_claim = 0.0  # as if the way to the database took nothing
    claimer.plan._next_sweep = float("inf")
    monkeypatch.setattr(claim_plan, "SLOW_CLAIM_SECONDS", 10**9)
    assert await claimer.claim_once(10) == (0, 10)
    assert claimer.plan.rest_seconds == 0
    monkeypatch.setattr(claim_plan, "SLOW_CLAIM_SECONDS", 0)
    monkeypatch.setattr(claim_plan, "EMPTY_CLAIM_SHARE", 10**-9)
    assert await claimer.claim_once(10) == (0, 10)
    assert claimer.plan.rest_seconds == 0.1  # SWEEP_SECONDS of these tests: no longer than that
    monkeypatch.setattr(claim_plan, "EMPTY_CLAIM_SHARE", 1)
    assert await claimer.claim_once(10) == (0, 10)
    assert 0 < claimer.plan.rest_seconds <= 0.1
    await put("ours", {"n": 2})
    assert await claimer.claim_once(10) == (1, 10)
    assert claimer.plan.rest_seconds == 0
    assert await claimer.claim_once(10) == (0, 10)
    assert claimer.plan.rest_seconds == 0  # a single one says nothing


async def test_a_worker_that_rests_stops_at_once(
    handlers: Registry, put: Put, sql: Any, start_worker: StartWorker,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(claim_plan, "SLOW_CLAIM_SECONDS", 0)
    monkeypatch.setattr(claim_plan, "EMPTY_CLAIM_SHARE", 10**-9)
    monkeypatch.setattr(claim_plan.ClaimPlan, "_walked", lambda _, took: took)
    recorder(handlers, "ours")
    await put("foreign", {"n": 1})
    worker = await start_worker(sweep_seconds=60)
    await until_true(lambda: worker._pipeline.claimer.plan.rest_seconds > 0)
    async with asyncio.timeout(5):
        await worker.stop()
