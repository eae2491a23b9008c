"""Jobs with one key, one after the other: `until_started`, `keep_latest`, and windows of time."""

import asyncio
from typing import Any

import pytest

from service.errors import KeyHeld
from service.jobs import NewJob, Registry, RetryAfter, enqueue, enqueue_batch
from service.jobs.core.job import JobId
from service.jobs.flow import unique_turns
from tests.jobs.conftest import Put, StartWorker
from tests.jobs.waiting import occurs, until

ROW = """
SELECT id, status, unique_key, unique_until_start, held_for, held_due_at, payload, errors
FROM background_jobs WHERE id = $1"""


class Gate:
    """A handler that tells what started, and runs until it is let through."""

    def __init__(self, handlers: Registry) -> None:
        self.started: list[int] = []
        self.running = 0
        self.most_running = 0
        self.fails = 0
        self._open = asyncio.Event()
        self._changed = asyncio.Event()
        handlers.handler("sync")(self._run)

    async def _run(self, payload: Any) -> None:
        self.started.append(payload["n"])
        self.running += 1
        self.most_running = max(self.most_running, self.running)
        self._changed.set()
        try:
            await self._open.wait()
            self._open.clear()
            if self.fails:
                self.fails -= 1
                raise RetryAfter(1000)
        finally:
            self.running -= 1

    async def starts(self, count: int) -> None:
        """Wait until so many attempts have started."""
        while len(self.started) < count:
            self._changed.clear()
            await occurs(self._changed)

    def let_through(self) -> None:
        """End the attempt that runs."""
        self._open.set()


@pytest.fixture
def gate(handlers: Registry) -> Gate:
    return Gate(handlers)


async def put(sql: Any, n: int, **options: Any) -> Any:
    return await enqueue(sql, "sync", {"n": n}, **{"unique_key": "k"} | options)


async def row(sql: Any, job_id: int) -> Any:
    return await sql.fetchrow(ROW, job_id)


async def ended(sql: Any, job_id: int, status: str = "SUCCESS") -> None:
    async def has_ended() -> bool:
        return bool((await row(sql, job_id))["status"] == status)

    await until(has_ended)


# -- until_started ----------------------------------------------------------------------------------


async def test_a_key_held_until_the_start_is_free_while_its_job_runs(
    sql: Any, gate: Gate, start_worker: StartWorker
) -> None:
    first = await put(sql, 1, unique_scope="until_started")
    assert not (await put(sql, 2, unique_scope="until_started")).created
    await start_worker()
    await gate.starts(1)
    second = await put(sql, 3, unique_scope="until_started", delay_seconds=1000)
    assert second.created
    replaced = await put(sql, 4, unique_scope="until_started", on_conflict="replace", run_at=None)
    assert replaced.id == second.id
    gate.let_through()
    await ended(sql, first.id)
    assert (await row(sql, first.id))["unique_key"] == "k", "for those who look for it"
    await gate.starts(2)
    assert gate.started == [1, 4]
    gate.let_through()


async def test_a_retry_does_not_take_its_key_back(
    sql: Any, gate: Gate, start_worker: StartWorker
) -> None:
    gate.fails = 1
    first = await put(sql, 1, unique_scope="until_started")
    await start_worker()
    await gate.starts(1)
    gate.let_through()
    await ended(sql, first.id, "PENDING")
    second = await put(sql, 2, unique_scope="until_started", delay_seconds=1000)
    assert second.created
    await sql.execute("UPDATE jobs_live SET next_run_at = now() WHERE id = $1", first.id)
    await gate.starts(2)
    assert gate.started == [1, 1]
    gate.let_through()
    await ended(sql, first.id)


# -- keep_latest ------------------------------------------------------------------------------------


async def test_while_one_runs_the_newest_waits_for_its_end(
    sql: Any, gate: Gate, start_worker: StartWorker
) -> None:
    first = await put(sql, 1, on_conflict="keep_latest")
    assert first.created
    await start_worker()
    await gate.starts(1)
    made = [await put(sql, n, on_conflict="keep_latest") for n in (2, 3, 4)]
    assert [job.created for job in made] == [True, False, False]
    assert {job.id for job in made} == {made[0].id}
    waiting = await row(sql, made[0].id)
    assert (waiting["status"], waiting["held_for"]) == ("PENDING", "unique")
    assert waiting["held_due_at"] == made[2].next_run_at
    gate.let_through()
    await gate.starts(2)
    assert gate.started == [1, 4]
    gate.let_through()
    await ended(sql, made[0].id)
    assert gate.most_running == 1


async def test_what_waits_is_replaced_before_anything_runs(sql: Any) -> None:
    made = [await put(sql, n, on_conflict="keep_latest") for n in (1, 2)]
    assert [job.created for job in made] == [True, False]
    stored = await row(sql, made[0].id)
    assert (stored["payload"], stored["held_for"]) == ({"n": 2}, None)


async def test_a_failed_attempt_makes_place_for_a_newer_job(
    sql: Any, gate: Gate, start_worker: StartWorker
) -> None:
    gate.fails = 1
    first = await put(sql, 1, on_conflict="keep_latest")
    await start_worker()
    await gate.starts(1)
    second = await put(sql, 2, on_conflict="keep_latest")
    gate.let_through()
    await gate.starts(2)
    assert gate.started == [1, 2]
    await ended(sql, first.id, "CANCELLED")
    entry = (await row(sql, first.id))["errors"][-1]
    assert (entry["event"], str(second.id) in entry["message"]) == ("superseded", True)
    gate.let_through()
    await ended(sql, second.id)


async def test_a_job_that_waits_for_its_next_attempt_gets_the_newest_payload(
    sql: Any, gate: Gate, start_worker: StartWorker
) -> None:
    gate.fails = 1
    first = await put(sql, 1, on_conflict="keep_latest")
    await start_worker()
    await gate.starts(1)
    gate.let_through()
    await ended(sql, first.id, "PENDING")
    second = await put(sql, 2, on_conflict="keep_latest")
    assert (second.id, second.created) == (first.id, False)
    await gate.starts(2)
    assert gate.started == [1, 2]
    gate.let_through()
    await ended(sql, first.id)


async def test_one_that_commits_after_the_end_of_the_other_starts_all_the_same(
    sql: Any, gate: Gate, start_worker: StartWorker, database: Any, put: Put
) -> None:
    first = await enqueue(sql, "sync", {"n": 1}, unique_key="k", on_conflict="keep_latest")
    await start_worker()
    await gate.starts(1)
    async with database.sessions.begin() as session:
        job = NewJob("sync", {"n": 2}, unique_key="k", on_conflict="keep_latest")
        (second,) = await enqueue_batch(session, [job])
        assert second.created
        gate.let_through()
        await ended(sql, first.id)
    await gate.starts(2)
    gate.let_through()
    await ended(sql, second.id)


async def test_the_leader_starts_what_was_left_waiting(sql: Any, database: Any) -> None:
    job = await put(sql, 1, on_conflict="keep_latest")
    await sql.execute(
        "UPDATE jobs_live SET held_for = 'unique', held_due_at = next_run_at, next_run_at = 'infinity'"
    )
    link = database.link()
    assert await unique_turns.look(link, max_errors=5)
    await link.close()
    assert (await row(sql, job.id))["held_for"] is None


async def test_a_job_with_a_key_of_its_own_while_it_runs_lets_nothing_wait(
    sql: Any, gate: Gate, start_worker: StartWorker
) -> None:
    first = await put(sql, 1)
    await start_worker()
    await gate.starts(1)
    with pytest.raises(KeyHeld, match=f"job {first.id}, which is RUNNING") as refused:
        await put(sql, 2, on_conflict="keep_latest")
    assert "with 'keep_latest'" in refused.value.detail
    gate.let_through()
    await ended(sql, first.id)


async def test_a_dead_letter_of_a_key_is_retried_by_hand_unless_another_has_it(
    sql: Any, database: Any, put: Put
) -> None:
    from service.errors import Conflict
    from service.jobs import retry_dead_letter_job

    job = await enqueue(sql, "sync", {"n": 1}, unique_key="k", on_conflict="keep_latest")
    await sql.execute(
        "WITH gone AS (DELETE FROM jobs_live RETURNING *) INSERT INTO background_jobs"
        " (id, job_type, unique_key, unique_until_start, status, finished_at)"
        " SELECT id, job_type, 'k', 'k', 'DEAD_LETTER', now() FROM gone"
    )
    async with database.sessions.begin() as session:
        await retry_dead_letter_job(session, JobId(job.id))
    assert (await row(sql, job.id))["unique_key"] == "k"
    await sql.execute("UPDATE jobs_live SET unique_key = NULL")
    other = await enqueue(sql, "sync", {"n": 2}, unique_key="k", on_conflict="return")
    assert other.created
    await sql.execute(
        "WITH gone AS (DELETE FROM jobs_live WHERE id = $1 RETURNING *) INSERT INTO background_jobs"
        " (id, job_type, unique_key, unique_until_start, status, finished_at)"
        " SELECT id, job_type, 'k', 'k', 'DEAD_LETTER', now() FROM gone",
        job.id,
    )
    with pytest.raises(Conflict, match="unique_key"):
        async with database.sessions.begin() as session:
            await retry_dead_letter_job(session, JobId(job.id))
