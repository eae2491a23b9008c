"""What becomes of jobs that find their limit reached, as their queue has it."""

import asyncio
from typing import Any

import pytest

from service.db.engine import Database
from service.jobs import JobContext, Registry, store
from service.jobs.core.lane import LANE_START, Lane, LaneRequest
from service.jobs.flow.admission import Admission
from service.jobs.flow.queues import ALL, QueuePolicies
from tests.jobs.conftest import Put, StartWorker
from tests.jobs.waiting import until, until_ended

SET = "INSERT INTO queues (name, max_running, at_limit) VALUES ('default', 1, $1)"


class Long:
    """Jobs that run until they are let go or stopped, and what became of them."""

    def __init__(self, handlers: Registry) -> None:
        self.go_on = asyncio.Event()
        self.started: list[int] = []
        handlers.handler("long")(self.run)

    async def run(self, payload: Any, _: JobContext) -> None:
        self.started.append(payload["n"])
        await self.go_on.wait()

    async def until_started(self, n: int) -> None:
        async def has() -> bool:
            return n in self.started

        await until(has)


@pytest.fixture
def long(handlers: Registry) -> Long:
    return Long(handlers)


async def until_held(sql: Any, jobs: int) -> None:
    async def held() -> bool:
        count = "SELECT count(*) FROM jobs_live WHERE held_for = 'queue:default'"
        return bool(await sql.fetchval(count) == jobs)

    await until(held)


async def test_a_job_is_dropped_where_its_queue_drops_new_ones(
    long: Long, sql: Any, put: Put, start_worker: StartWorker
) -> None:
    await sql.execute(SET, "drop_new")
    first = await put("long", {"n": 1})
    await start_worker()
    await long.until_started(1)
    second = await until_ended(sql, await put("long", {"n": 2}))
    assert second["status"] == "CANCELLED"
    assert second["errors"][-1]["message"] == "dropped: the limit was reached"
    long.go_on.set()
    assert (await until_ended(sql, first))["status"] == "SUCCESS"
    assert long.started == [1]


async def test_only_the_newest_waits_where_its_queue_keeps_the_latest(
    long: Long, sql: Any, put: Put, start_worker: StartWorker
) -> None:
    await sql.execute(SET, "keep_latest")
    await put("long", {"n": 1})
    await start_worker()
    await long.until_started(1)
    older = await put("long", {"n": 2})
    await until_held(sql, 1)
    newest = await put("long", {"n": 3})
    assert (await until_ended(sql, older))["status"] == "CANCELLED"
    long.go_on.set()
    assert (await until_ended(sql, newest))["status"] == "SUCCESS"
    assert long.started == [1, 3]


async def test_the_running_job_makes_way_where_its_queue_cancels_it(
    long: Long, sql: Any, put: Put, start_worker: StartWorker
) -> None:
    await sql.execute(SET, "cancel_running")
    first = await put("long", {"n": 1})
    await start_worker()
    await long.until_started(1)
    await put("long", {"n": 2})
    ended = await until_ended(sql, first)
    assert (ended["status"], ended["cancel"]["by"]) == ("CANCELLED", "limit")
    await long.until_started(2)
    assert await sql.fetchval("SELECT running FROM job_permits WHERE key = 'queue:default'") == 1
    long.go_on.set()


async def test_one_that_is_held_again_stops_nothing(
    long: Long, handlers: Registry, sql: Any, put: Put, database: Database
) -> None:
    """Of two held jobs that two workers claim at once for one permit the second is held again."""
    await sql.execute(SET, "cancel_running")
    for n in range(3):
        await put("long", {"n": n})
    link, queues = database.link(), QueuePolicies.parse((ALL,))
    await queues.settings.renew(link)
    admission = Admission(
        link, queues=queues, registry=handlers, on_held=lambda _: None, max_errors=9
    )
    lane = LaneRequest(Lane("default", 2), LANE_START, 3)
    claimed = await store.claim.take(
        link, [lane], ["long"], limit=3, lease_seconds=30, worker_id=1, max_errors=9
    )
    first, second, third = sorted(claimed, key=lambda job: job.id)
    cancelled = "SELECT cancel IS NOT NULL FROM jobs_live WHERE id = $1"
    assert (await admission.admit([first], handed_over=True)).admitted == [first]
    assert (await admission.admit([second], handed_over=True)).admitted == []
    assert not await sql.fetchval(cancelled, first.id)
    assert (await admission.admit([third])).admitted == []
    assert await sql.fetchval(cancelled, first.id)
    await link.close()
