"""Named sets of jobs, on a real worker."""

import asyncio
from typing import Any

import pytest
from sqlalchemy.ext.asyncio import AsyncSession

from service.db.engine import Database
from service.errors import Conflict, InvalidInput, NotFound
from service.jobs import (
    NewJob,
    PermanentError,
    Registry,
    cancel_batch,
    close_batch,
    create_batch,
    delete_job,
    enqueue,
    enqueue_batch,
    enqueue_many,
    retry_dead_letter_job,
    store,
)
from service.jobs.core.batch import Batch, BatchState
from service.jobs.read.batches import get_batch, list_batches
from tests.jobs.conftest import StartWorker
from tests.jobs.waiting import occurs, until, until_ended

FAR: Any = {"delay_seconds": 3600}
UNTOLD = """
WITH gone AS (
  DELETE FROM jobs_live WHERE id = ANY (ARRAY(
    SELECT id FROM jobs_live WHERE job_type = 'member' ORDER BY id LIMIT $1)) RETURNING *)
INSERT INTO background_jobs (id, job_type, queue, payload, status, finished_at)
SELECT id, job_type, queue, payload, 'SUCCESS', now() FROM gone
"""


@pytest.fixture
def told(handlers: Registry) -> list[tuple[str, dict[str, Any]]]:
    """What the jobs of batches were given: their type, and the counts."""
    given: list[tuple[str, dict[str, Any]]] = []

    @handlers.handler("member", max_retries=0)
    async def member(payload: Any) -> None:
        if payload.get("fails"):
            raise PermanentError("as told")

    def note(job_type: str) -> None:
        @handlers.handler(job_type)
        async def noted(payload: Any) -> None:
            given.append((job_type, payload))

    note("complete")
    note("failure")
    return given


async def new_batch(session: AsyncSession, *members: NewJob, **options: Any) -> int:
    async with session.begin():
        batch_id = await create_batch(
            session, "letters", on_complete=NewJob("complete", {"of": 1}),
            on_failure=NewJob("failure"), **options,
        )  # fmt: skip
        for job in members:
            job.batch_id = batch_id
        if members:
            await enqueue_batch(session, members)
    return batch_id


async def close(session: AsyncSession, batch_id: int) -> None:
    async with session.begin():
        assert await close_batch(session, batch_id)


async def batch_of(session: AsyncSession, batch_id: int) -> Batch:
    async with session.begin():
        return await get_batch(session, batch_id)


async def until_complete(session: AsyncSession, batch_id: int) -> Batch:
    async def look() -> Batch | None:
        batch = await batch_of(session, batch_id)
        return batch if batch.completed_at is not None else None

    found = await until(look)
    assert found is not None
    return found


async def ended(sql: Any, job_id: int | None) -> None:
    assert job_id is not None
    await until_ended(sql, job_id)


async def test_a_batch_is_complete_once_it_is_closed_and_all_its_jobs_have_ended(
    told: list[Any], sql: Any, session: AsyncSession, start_worker: StartWorker
) -> None:
    batch_id = await new_batch(session, *[NewJob("member") for _ in range(5)])
    await start_worker()

    async def all_ended() -> bool:
        return (await batch_of(session, batch_id)).counts.succeeded == 5

    await until(all_ended)
    assert (await batch_of(session, batch_id)).state is BatchState.OPEN
    async with session.begin():
        await enqueue(session, "member", batch_id=batch_id)
    await close(session, batch_id)
    batch = await until_complete(session, batch_id)
    assert batch.state is BatchState.COMPLETE
    assert (batch.counts.jobs, batch.counts.succeeded) == (6, 6)
    await ended(sql, batch.complete_job_id)
    assert batch.failure_job_id is None
    counts = {
        "jobs": 6, "succeeded": 6, "failed": 0, "dead_lettered": 0, "cancelled": 0, "deleted": 0,
    }  # fmt: skip
    assert told == [("complete", {"of": 1, "batch": {"id": batch_id, "name": "letters"} | counts})]


async def test_the_first_failure_enqueues_one_job_and_the_end_another(
    told: list[Any], sql: Any, session: AsyncSession, start_worker: StartWorker
) -> None:
    members = [NewJob("member", {"fails": True}) for _ in range(3)]
    batch_id = await new_batch(session, *members, NewJob("member"))
    await start_worker()

    async def failed() -> bool:
        return (await batch_of(session, batch_id)).failure_job_id is not None

    await until(failed)
    await close(session, batch_id)
    batch = await until_complete(session, batch_id)
    await ended(sql, batch.complete_job_id)
    await ended(sql, batch.failure_job_id)
    assert sorted(job_type for job_type, _ in told) == ["complete", "failure"]
    assert (batch.counts.failed, batch.counts.succeeded) == (3, 1)


async def test_a_member_that_is_retried_after_the_end_completes_nothing_again(
    told: list[Any], sql: Any, session: AsyncSession, start_worker: StartWorker
) -> None:
    batch_id = await new_batch(session, NewJob("member", {"fails": True}))
    await close(session, batch_id)
    await start_worker()
    batch = await until_complete(session, batch_id)
    await ended(sql, batch.complete_job_id)
    member = await sql.fetchval("SELECT id FROM jobs_dead WHERE batch_id = $1", batch_id)
    await sql.execute("UPDATE jobs_dead SET payload = '{}'")
    async with session.begin():
        await retry_dead_letter_job(session, member)
    assert (await batch_of(session, batch_id)).counts.failed == 0
    await until_ended(sql, member)

    async def counted() -> bool:
        return await sql.fetchval("SELECT count(*) = 0 FROM job_endings") is True

    await until(counted)
    batch = await batch_of(session, batch_id)
    assert (batch.counts.succeeded, batch.counts.failed) == (1, 0)
    assert [job_type for job_type, _ in told].count("complete") == 1


async def test_counts_are_exact_at_every_moment_whether_or_not_they_have_been_folded(
    told: list[Any], sql: Any, session: AsyncSession
) -> None:
    batch_id = await new_batch(session, *[NewJob("member", **FAR) for _ in range(3)])
    first = await sql.fetchval("SELECT min(id) FROM jobs_live")
    async with session.begin():
        await delete_job(session, first)
    assert await sql.fetchval("SELECT jobs FROM batches") == 0, "not folded"
    counts = (await batch_of(session, batch_id)).counts
    assert (counts.jobs, counts.deleted, counts.pending, counts.running) == (3, 1, 2, 0)


async def test_a_cancelled_batch_cancels_what_waits_and_what_runs_and_is_complete(
    told: list[Any], handlers: Registry, sql: Any, session: AsyncSession, start_worker: StartWorker
) -> None:
    begun, never = asyncio.Event(), asyncio.Event()

    @handlers.handler("slow")
    async def slow(payload: Any) -> None:
        begun.set()
        await never.wait()

    batch_id = await new_batch(
        session, NewJob("slow"), *[NewJob("member", **FAR) for _ in range(4)]
    )
    await start_worker()
    await occurs(begun)
    async with session.begin():
        batch = await cancel_batch(session, batch_id, reason="a mistake")
    assert batch.state is BatchState.CANCELLED

    async def cancelled() -> bool:
        return (await batch_of(session, batch_id)).counts.cancelled == 5

    await until(cancelled)
    batch = await until_complete(session, batch_id)
    assert (batch.counts.jobs, batch.counts.cancelled, batch.counts.succeeded) == (5, 5, 0)
    await ended(sql, batch.complete_job_id)
    with pytest.raises(Conflict, match="complete"):
        async with session.begin():
            await cancel_batch(session, batch_id)


async def test_members_that_ended_and_told_nobody_are_not_waited_for(
    told: list[Any], sql: Any, session: AsyncSession, database: Database, start_worker: StartWorker
) -> None:
    """The version before moves a job without its batch, and notes no end."""
    far = [NewJob("member", **FAR) for _ in range(3)]
    batch_id = await new_batch(session, NewJob("member"), *far)
    await close(session, batch_id)
    await start_worker()

    async def one_is_left() -> bool:
        return (await batch_of(session, batch_id)).counts.succeeded == 1

    await until(one_is_left)
    link = database.link()
    await sql.execute(UNTOLD, 2)
    await store.dependency_sweeps.find_lost_members(link, limit=10)
    assert (await batch_of(session, batch_id)).counts.pending == 3, "one is live"
    await sql.execute(UNTOLD, 1)
    await store.dependency_sweeps.find_lost_members(link, limit=10)
    batch = await until_complete(session, batch_id)
    assert (batch.counts.jobs, batch.counts.succeeded, batch.counts.deleted) == (4, 1, 3)
    await ended(sql, batch.complete_job_id)
    await link.close()


async def test_an_empty_batch_is_complete_when_it_is_closed(
    told: list[Any], session: AsyncSession, start_worker: StartWorker
) -> None:
    batch_id = await new_batch(session)
    await start_worker()
    await close(session, batch_id)
    assert (await until_complete(session, batch_id)).counts.jobs == 0


async def test_a_closed_batch_takes_no_jobs_and_an_unknown_one_neither(
    sql: Any, session: AsyncSession
) -> None:
    batch_id = await new_batch(session)
    await close(session, batch_id)
    with pytest.raises(Conflict, match=f"Batch {batch_id} is closed"):
        await enqueue_batch(sql, [NewJob("member", batch_id=batch_id)])
    with pytest.raises(InvalidInput, match="batch_id is 99"):
        await enqueue_batch(sql, [NewJob("member", batch_id=99)])
    with pytest.raises(NotFound):
        await batch_of(session, 99)
    assert await sql.fetchval("SELECT count(*) FROM background_jobs") == 0


async def test_a_close_waits_for_jobs_that_are_being_added(
    told: list[Any], database: Any, session: AsyncSession, start_worker: StartWorker
) -> None:
    batch_id = await new_batch(session)
    async with database.sessions() as other, other.begin():
        await enqueue(other, "member", batch_id=batch_id)
        closing = asyncio.create_task(close(session, batch_id))
        await start_worker()
        assert not closing.done()
    await closing
    assert (await until_complete(session, batch_id)).counts.succeeded == 1


async def test_many_jobs_may_join_in_a_stream(session: AsyncSession) -> None:
    batch_id = await new_batch(session)
    async with session.begin():
        made = await enqueue_many(
            session, (NewJob("member", batch_id=batch_id) for _ in range(2_500))
        )
    assert made == (await batch_of(session, batch_id)).counts.jobs == 2_500
    async with session.begin():
        [one] = await list_batches(session, limit=5, unfinished=True)
    assert one.counts.pending == 2_500


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"on_complete": NewJob("x", [1])}, "on_complete.payload"),
        ({"on_failure": NewJob("x", delay_seconds=5)}, "on_failure.delay_seconds"),
        ({"on_complete": NewJob("no such name")}, "on_complete.job_type"),
        ({"name": ""}, "name"),
    ],
)
async def test_what_breaks_a_rule_is_refused_by_name(
    session: AsyncSession, options: dict[str, Any], field: str
) -> None:
    with pytest.raises(InvalidInput) as error:
        async with session.begin():
            await create_batch(session, options.pop("name", "b"), **options)
    assert error.value.field == field
