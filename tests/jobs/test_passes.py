"""Passes asked for in a process that may have a worker: the limits hold for all together."""

import asyncio
import threading
from typing import Any

import pytest

from service.db.engine import Database
from service.errors import Unavailable
from service.jobs import NewJob, Registry, enqueue_batch, process_due_jobs, run_once
from service.jobs.handlers.registry import registry
from service.jobs.run_once import Passes
from service.jobs.worker import executor
from service.jobs.worker.slots import Slots
from tests.jobs.conftest import Put, Quick, StartWorker
from tests.jobs.waiting import occurs, until, until_ended


class Counter:
    """How many run at once, and the most that ever did."""

    def __init__(self) -> None:
        self.running = self.most = 0

    async def work(self, _: Any) -> None:
        self.running += 1
        self.most = max(self.most, self.running)
        await asyncio.sleep(0.005)  # work that another could meet
        self.running -= 1


@pytest.fixture
def served(handlers: Registry, monkeypatch: pytest.MonkeyPatch) -> Registry:
    """This test's handlers, as those of the process: `Passes` runs what is registered there."""
    monkeypatch.setattr(registry, "_specs", handlers._specs)
    return handlers


async def test_ten_passes_at_once_hold_the_limit_of_a_queue(
    database: Database, served: Registry, sql: Any, quick: Quick
) -> None:
    counter = Counter()
    served.handler("mail")(counter.work)
    await enqueue_batch(sql, [NewJob("mail", queue="q", priority=n % 3) for n in range(40)])
    passes = Passes(database, quick(worker_queues="q:1"), slots=None)
    succeeded = 0
    while succeeded < 40:  # one that finds the queue at its limit leaves it to the others
        summaries = await asyncio.gather(*(passes.run(5) for _ in range(10)))
        succeeded += sum(summary.succeeded for summary in summaries)
    assert succeeded == 40
    assert counter.most == 1


async def test_a_pass_beside_a_busy_worker_shares_its_slots(
    database: Database, handlers: Registry, sql: Any, quick: Quick, start_worker: StartWorker
) -> None:
    counter = Counter()
    handlers.handler("mail")(counter.work)
    worker = await start_worker(worker_concurrency=4, worker_queues="q:2,*")
    settings = quick(worker_concurrency=4, worker_queues="q:2,*")
    made = await enqueue_batch(sql, [NewJob("mail", queue="rq"[n % 2]) for n in range(200)])
    await asyncio.gather(
        *(
            process_due_jobs(database, 50, settings=settings, handlers=handlers, slots=worker.slots)
            for _ in range(3)
        )
    )
    for job in made:
        await until_ended(sql, job.id)
    assert counter.most <= 4
    assert worker.slots.used == 0


async def test_a_pass_leaves_no_worker_behind(
    database: Database, handlers: Registry, put: Put, sql: Any, quick: Quick
) -> None:
    running = asyncio.Event()

    @handlers.handler("mail")
    async def handle(payload: Any) -> None:
        assert await sql.fetchval("SELECT count(*) FROM job_workers") == 1
        running.set()

    await put("mail")
    await process_due_jobs(database, settings=quick(), handlers=handlers)
    assert running.is_set()
    assert await sql.fetchval("SELECT count(*) FROM job_workers") == 0


async def test_a_pass_that_gets_no_slot_ends(
    database: Database, handlers: Registry, put: Put, sql: Any, quick: Quick,
    start_worker: StartWorker, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(run_once, "SLOT_WAIT_SECONDS", 0.1)
    running, go_on = asyncio.Event(), asyncio.Event()

    @handlers.handler("mail")
    async def handle(payload: Any) -> None:
        running.set()
        await go_on.wait()

    first = await put("mail")
    worker = await start_worker(worker_concurrency=1)
    await occurs(running)
    left = await put("mail")
    async with asyncio.timeout(10):
        summary = await process_due_jobs(
            database, settings=quick(), handlers=handlers, slots=worker.slots
        )
    assert summary.processed == 0
    go_on.set()
    for job_id in (first, left):
        assert (await until_ended(sql, job_id))["attempts"] == 1


async def test_a_pass_that_finds_each_free_slot_taken_ends_as_well(
    database: Database, handlers: Registry, put: Put, quick: Quick,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(run_once, "SLOT_WAIT_SECONDS", 0.2)
    handlers.handler("mail")(lambda _: None)
    await put("mail")
    settings = quick(worker_concurrency=1)
    slots = Slots(1)
    slots.take("default")
    released = 0

    async def hand_over() -> None:
        """A worker whose jobs end all the time, and that claims before anybody else does."""
        nonlocal released
        while True:
            async with slots.claiming:
                slots.release("default")
                await asyncio.sleep(0)
                slots.take("default")
                released += 1
            await asyncio.sleep(0.001)

    busy = asyncio.create_task(hand_over())
    async with asyncio.timeout(10):
        summary = await process_due_jobs(
            database, settings=settings, handlers=handlers, slots=slots
        )
    busy.cancel()
    await asyncio.gather(busy, return_exceptions=True)
    assert (summary.processed, released > 1) == (0, True)


async def test_a_pass_does_not_wait_for_a_handler_that_does_not_stop(
    database: Database, served: Registry, put: Put, sql: Any, quick: Quick,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(executor, "STUCK_AFTER_SECONDS", 0.1)
    go_on = threading.Event()

    @served.handler("stuck", timeout=0.05, max_retries=0)
    def stuck(payload: Any) -> None:
        go_on.wait(40)

    @served.handler("mail")
    async def handle(payload: Any) -> None: ...

    job_id = await put("stuck")
    passes = Passes(database, quick(), slots=None)
    try:
        async with asyncio.timeout(20):
            assert (await passes.run(5)).dead_lettered == 1
            await put("mail")
            assert (await passes.run(5)).succeeded == 1
        assert (await until_ended(sql, job_id))["last_error"].startswith("HandlerTimeout")
    finally:
        go_on.set()


async def test_passes_run_side_by_side_up_to_a_limit_then_503(
    database: Database, served: Registry, put: Put, sql: Any, quick: Quick,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(run_once, "SLOT_WAIT_SECONDS", 0.05)
    running, go_on = asyncio.Semaphore(0), asyncio.Event()

    @served.handler("slow")
    async def slow(payload: Any) -> None:
        running.release()
        await go_on.wait()

    @served.handler("mail")
    async def handle(payload: Any) -> None: ...

    passes = Passes(database, quick(), slots=None)
    long = []
    async with asyncio.timeout(20):
        for _ in range(run_once.MAX_PASSES):
            await put("mail")
            assert (await passes.run(5)).succeeded == 1
            await put("slow")
            long.append(asyncio.create_task(passes.run(5)))
            await running.acquire()
    with pytest.raises(Unavailable) as refused:
        await passes.run(5)
    assert refused.value.retry_after_seconds > 0
    go_on.set()
    assert [summary.succeeded for summary in await asyncio.gather(*long)] == [1] * len(long)
    await put("mail")
    assert (await passes.run(5)).succeeded == 1


async def test_a_pass_that_was_cancelled_gives_its_turn_and_its_slots_back(
    database: Database, served: Registry, put: Put, sql: Any, quick: Quick
) -> None:
    running, go_on = asyncio.Event(), asyncio.Event()

    @served.handler("mail")
    async def handle(payload: Any) -> None:
        running.set()
        await go_on.wait()

    await put("mail")
    slots = Slots(3)
    passes = Passes(database, quick(), slots=slots)
    task = asyncio.create_task(passes.run(5))
    await occurs(running)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await until(lambda: sql.fetchval("SELECT attempts = 0 FROM jobs_live"))
    assert slots.used == 0
    go_on.set()
    assert (await passes.run(5)).succeeded == 1


async def test_a_pass_on_the_slots_of_another_serves_the_queues_of_its_own_settings(
    database: Database, handlers: Registry, sql: Any, quick: Quick
) -> None:
    handlers.handler("mail")(lambda _: None)
    await enqueue_batch(sql, [NewJob("mail", queue="ours"), NewJob("mail", queue="others")])
    summary = await process_due_jobs(
        database, settings=quick(worker_queues="ours"), handlers=handlers, slots=Slots(5)
    )
    assert summary.succeeded == 1
    left = await sql.fetch("SELECT queue FROM background_jobs WHERE status = 'PENDING'")
    assert [row["queue"] for row in left] == ["others"]
