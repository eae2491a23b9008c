"""Jobs that ended with their worker twice already begin one at a time, apart from all others."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import Any

import pytest

from service.db.engine import Database
from service.jobs import (
    JobContext,
    NewJob,
    Registry,
    enqueue_batch,
    last_chance,
    process,
    process_due_jobs,
    store,
)
from service.jobs.model import JobId
from tests.jobs.conftest import Events, Put, Quick, StartWorker
from tests.jobs.waiting import until, until_true

JOBS = 6
HOUR = 3600
LOST_TWICE = """
UPDATE jobs_live SET status = 'RUNNING', attempts = 2, lost_leases = 1, lease_token = -id,
  started_at = now(), lease_until = now() - interval '1 second'"""


async def lose_two(sql: Any, *job_ids: JobId) -> None:
    """These are due now, and lost their second lease just now."""
    await sql.execute(f"{LOST_TWICE}, next_run_at = now() WHERE id = ANY ($1)", list(job_ids))


@pytest.fixture
def soon_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """Company is waited for, and kept out, for a fifth of a second only."""
    monkeypatch.setattr(last_chance, "APART_SECONDS", 0.2)


def nothing_live(sql: Any) -> Callable[[], Awaitable[bool]]:
    """Whether every job has ended."""

    async def look() -> bool:
        return not await sql.fetchval("SELECT count(*) FROM jobs_live")

    return look


class Ward:
    """Counts how many of the suspects run at once."""

    def __init__(self, handlers: Registry) -> None:
        self.suspects: set[JobId] = set()
        self.under_way: set[JobId] = set()
        self.begun: Counter[JobId] = Counter()
        self.most_at_once = 0
        self.beside: set[JobId] = set()
        """What ran beside a suspect, or as it began."""
        self.others: set[JobId] = set()
        self.others_go_on = asyncio.Event()
        self.others_go_on.set()
        self.go_on = asyncio.Event()
        handlers.handler("mail", max_retries=9)(self._run)

    async def _run(self, _: Any, context: JobContext) -> None:
        self.begun[context.job_id] += 1
        if context.job_id not in self.suspects:
            self.others.add(context.job_id)
            self.beside |= self.others if self.under_way else set()
            await self.others_go_on.wait()
            self.others.discard(context.job_id)
            return
        self.beside |= self.others
        self.under_way.add(context.job_id)
        self.most_at_once = max(self.most_at_once, len(self.under_way))
        await self.go_on.wait()
        self.under_way.discard(context.job_id)


async def test_of_jobs_on_their_last_chance_one_at_a_time_begins_in_a_worker(
    handlers: Registry, put: Put, sql: Any, start_worker: StartWorker, events: Events
) -> None:
    ward = Ward(handlers)
    ward.suspects = {await put("mail") for _ in range(JOBS)}
    await sql.execute(LOST_TWICE)
    others = [await put("mail") for _ in range(JOBS)]
    await start_worker(max_lost_leases=3)
    await until_true(lambda: len(ward.under_way) == 1)
    await asyncio.sleep(0.3)
    assert not any(ward.begun[other] for other in others)
    left_alone = await sql.fetch("SELECT attempts, lost_leases FROM jobs_live WHERE attempts = 2")
    assert [tuple(row) for row in left_alone] == [(2, 1)] * (JOBS - 1)
    ward.go_on.set()
    await until(nothing_live(sql), seconds=30)
    rows = await sql.fetch("SELECT status, count(*) FROM background_jobs GROUP BY 1")
    assert [tuple(row) for row in rows] == [("SUCCESS", 2 * JOBS)]
    assert ward.most_at_once == 1
    assert ward.beside == set()
    assert set(ward.begun.values()) == {1}
    assert events("rescued", "mail") == JOBS


async def test_a_worker_lets_its_handlers_end_before_a_last_chance(
    handlers: Registry, put: Put, sql: Any, start_worker: StartWorker
) -> None:
    ward = Ward(handlers)
    ward.others_go_on.clear()
    ward.go_on.set()
    for _ in range(JOBS):
        await put("mail")
    await start_worker(max_lost_leases=3)
    await until_true(lambda: len(ward.others) == JOBS)
    ward.suspects = {await put("mail", delay_seconds=HOUR)}
    await lose_two(sql, *ward.suspects)
    await asyncio.sleep(0.3)
    assert not ward.suspects & ward.begun.keys()
    ward.others_go_on.set()
    await until(nothing_live(sql), seconds=30)
    assert ward.beside == set()
    assert set(ward.begun.values()) == {1}


@pytest.mark.usefixtures("soon_over")
async def test_a_last_chance_that_takes_long_holds_the_others_up_for_a_while_only(
    handlers: Registry, put: Put, sql: Any, start_worker: StartWorker
) -> None:
    ward = Ward(handlers)
    ward.others_go_on.clear()
    await put("mail")  # and one that does not end before it
    await start_worker(max_lost_leases=3)
    await until_true(lambda: len(ward.others) == 1)
    ward.suspects = {await put("mail", delay_seconds=HOUR) for _ in range(2)}
    await lose_two(sql, *ward.suspects)
    await until_true(lambda: len(ward.under_way) == 1)
    others = [await put("mail") for _ in range(JOBS)]
    await until_true(lambda: all(ward.begun[other] for other in others))
    assert len(ward.under_way) == ward.most_at_once == 1
    ward.others_go_on.set()
    ward.go_on.set()
    await until(nothing_live(sql), seconds=30)
    assert ward.most_at_once == 1


async def test_a_pass_comes_to_the_end_of_jobs_on_their_last_chance(
    database: Database, handlers: Registry, put: Put, sql: Any, quick: Quick
) -> None:
    ward = Ward(handlers)
    ward.go_on.set()
    ward.suspects = {await put("mail") for _ in range(JOBS)}
    await sql.execute(LOST_TWICE)
    for _ in range(JOBS):
        await put("mail")
    settings = quick(max_lost_leases=3)
    summary = await process_due_jobs(database, settings=settings, handlers=handlers)
    assert summary.succeeded == 2 * JOBS
    assert ward.most_at_once == 1
    assert set(ward.begun.values()) == {1}


async def test_a_pass_in_the_process_of_a_worker_gives_its_last_chance_no_company(
    database: Database,
    handlers: Registry,
    put: Put,
    sql: Any,
    quick: Quick,
    start_worker: StartWorker,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(process, "SLOT_WAIT_SECONDS", 0.5)
    ward = Ward(handlers)
    ward.suspects = {await put("mail")}
    await sql.execute(LOST_TWICE)
    worker = await start_worker(max_lost_leases=3)
    await until_true(lambda: len(ward.under_way) == 1)
    other = await put("mail")
    settings = quick(max_lost_leases=3)
    summary = await process_due_jobs(
        database, settings=settings, handlers=handlers, slots=worker.slots
    )
    assert (summary.processed, ward.begun[other]) == (0, 0)
    ward.go_on.set()
    await until(nothing_live(sql), seconds=30)
    assert ward.beside == set()


async def test_a_limited_queue_with_a_backlog_takes_its_jobs_on_their_last_chance_too(
    handlers: Registry, put: Put, sql: Any, start_worker: StartWorker
) -> None:
    ward = Ward(handlers)
    ward.suspects = {await put("mail", queue="narrow") for _ in range(2)}
    await sql.execute(LOST_TWICE)

    @handlers.handler("slow")
    async def slow(_: Any) -> None:
        await asyncio.sleep(0.3)

    await enqueue_batch(sql, [NewJob("slow", queue="narrow", priority=0) for _ in range(60)])
    await start_worker(max_lost_leases=3, worker_queues="narrow:1,another")
    await until_true(lambda: len(ward.under_way) == 1)
    assert await sql.fetchval("SELECT count(*) FROM jobs_live WHERE job_type = 'slow'") > 30
    ward.go_on.set()


async def test_a_worker_whose_last_chance_another_took_goes_on(
    handlers: Registry, put: Put, sql: Any, start_worker: StartWorker
) -> None:
    ward = Ward(handlers)
    ward.others_go_on.clear()
    await put("mail")
    await start_worker(max_lost_leases=3, worker_concurrency=10)
    await until_true(lambda: len(ward.others) == 1)
    lost = await put("mail", delay_seconds=HOUR)
    await lose_two(sql, lost)
    held_back = await put("mail", queue="another", delay_seconds=1)
    await asyncio.sleep(1.5)
    assert not ward.begun[held_back]
    await sql.execute("DELETE FROM jobs_live WHERE id = $1", lost)  # as if it had succeeded there
    await until_true(lambda: bool(ward.begun[held_back]))
    assert not ward.begun[lost]
    ward.others_go_on.set()


@pytest.mark.usefixtures("soon_over")
async def test_a_full_queue_keeps_no_last_chance_of_another_waiting(
    handlers: Registry, put: Put, sql: Any, start_worker: StartWorker
) -> None:
    ward = Ward(handlers)
    ward.others_go_on.clear()
    await put("mail", queue="narrow")
    await start_worker(max_lost_leases=3, worker_queues="narrow:1,another")
    await until_true(lambda: len(ward.others) == 1)
    narrow = await put("mail", queue="narrow", delay_seconds=HOUR)
    other = await put("mail", queue="another", delay_seconds=HOUR)
    ward.suspects = {narrow, other}
    await lose_two(sql, narrow, other)
    await until_true(lambda: ward.under_way == {other}, seconds=10)
    ward.others_go_on.set()
    ward.go_on.set()
    await until(nothing_live(sql), seconds=30)


async def test_a_pass_takes_every_last_chance_however_many_looks_that_needs(
    database: Database, handlers: Registry, put: Put, sql: Any, quick: Quick
) -> None:
    ran: list[Any] = []

    @handlers.handler("mail")
    async def handle(payload: Any) -> None:
        await asyncio.sleep(0.12)  # each look is a step of the sweep too, which ends its round
        ran.append(payload)

    for number in range(20):
        await put("mail", number)
    await sql.execute(LOST_TWICE)
    summary = await process_due_jobs(database, settings=quick(max_lost_leases=3), handlers=handlers)
    assert (summary.succeeded, len(ran)) == (20, 20)


def attempt(lost_leases: int) -> Any:
    """As far as it is looked at."""
    return SimpleNamespace(job=SimpleNamespace(lost_leases=lost_leases))


def test_a_job_whose_outcome_is_not_recorded_is_company() -> None:
    under_way = [attempt(2)]
    chance = last_chance.LastChance(3)
    chance.join(lambda: under_way)
    chance.some_lost = True
    assert not chance.is_due()
    under_way[:] = [attempt(0)]
    assert chance.is_due()
    assert not chance.may_begin(1, "mail")
    assert chance.holds_back()
    under_way.clear()
    assert not chance.holds_back()
    assert chance.is_due()
    assert chance.may_begin(1, "mail")
    assert chance.holds_back()  # while it is being claimed
    chance.answered()
    assert not chance.holds_back()


@pytest.mark.parametrize("most", [1, 2])
def test_with_so_few_losses_allowed_there_is_no_suspicion(most: int) -> None:
    chance = last_chance.LastChance(most)
    chance.some_lost = True
    assert not chance.is_due()


async def test_a_claim_of_a_last_chance_takes_it_from_the_lane_that_it_names(
    database: Database, put: Put, sql: Any
) -> None:
    """Where its answer is lost, it is looked for there."""
    first = await put("mail", queue="a")
    second = await put("mail", queue="b")
    await sql.execute(LOST_TWICE)
    link = database.link()
    which: dict[str, Any] = {"lost_leases": 2}
    found = await store.first_on_last_chance(link, ["mail"], queues=None, **which)
    assert found is not None
    assert found.id == first
    common = which | {"lease_seconds": 30, "worker_id": 1, "max_errors": 9}
    for taken in ([first], []):
        jobs = await store.claim_on_last_chance(link, found.request, ["mail"], **common)
        assert [job.id for job in jobs] == taken
    found = await store.first_on_last_chance(link, ["mail"], queues=["a"], **which)
    assert found is None
    assert await sql.fetchval("SELECT lost_leases FROM jobs_live WHERE id = $1", second) == 1
    await link.close()


async def test_one_that_another_worker_serves_keeps_nobody_from_claiming(
    handlers: Registry, put: Put, sql: Any, start_worker: StartWorker
) -> None:
    ward = Ward(handlers)
    await put("nobodys")
    await put("mail", queue="elsewhere")
    await sql.execute(LOST_TWICE)
    ward.others_go_on.clear()
    await start_worker(max_lost_leases=3, worker_queues="default")
    for number in range(JOBS):
        await put("mail")
        await until_true(lambda: len(ward.others) == number + 1)  # noqa: B023 - used at once
        await asyncio.sleep(0.3)
    ward.others_go_on.set()


async def test_those_that_lost_one_lease_begin_together(
    handlers: Registry, put: Put, sql: Any, start_worker: StartWorker
) -> None:
    ward = Ward(handlers)
    ward.suspects = {await put("mail") for _ in range(JOBS)}
    await sql.execute(LOST_TWICE)
    await start_worker(max_lost_leases=4)
    await until_true(lambda: len(ward.under_way) == JOBS)
    ward.go_on.set()
    await until_true(lambda: not ward.under_way)
