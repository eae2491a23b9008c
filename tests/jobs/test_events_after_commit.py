"""What is counted was committed."""

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession

from service.db.engine import Database
from service.jobs import NewJob, cancel_job, enqueue, enqueue_batch, retry_dead_letter_job
from service.jobs.core.job import JobId
from tests.jobs.conftest import Events
from tests.jobs.rows import add

Opened = AsyncSession | AsyncConnection


@pytest.fixture(params=["session", "connection"])
def opened(database: Database, request: pytest.FixtureRequest) -> Any:
    kinds: dict[str, Callable[[], Any]] = {
        "session": database.sessions,
        "connection": database.engine.connect,
    }
    return kinds[request.param]()


async def test_enqueued_jobs_are_counted_by_the_commit(opened: Any, events: Events) -> None:
    async with opened as transaction:
        await enqueue(transaction, "counts.kept")
        await enqueue_batch(transaction, [NewJob("counts.kept"), NewJob("counts.kept")])
        assert events("enqueued", "counts.kept") == 0
        await transaction.commit()
    assert events("enqueued", "counts.kept") == 3


async def test_enqueued_jobs_that_are_rolled_back_are_not_counted(
    opened: Any, events: Events
) -> None:
    async with opened as transaction:
        await enqueue(transaction, "counts.undone")
        await transaction.rollback()
        await enqueue(transaction, "counts.kept")
        savepoint = await transaction.begin_nested()
        await enqueue(transaction, "counts.undone")
        await savepoint.rollback()
        await transaction.commit()
    assert events("enqueued", "counts.undone") == 0
    assert events("enqueued", "counts.kept") == 1


Action = Callable[[AsyncSession, JobId], Awaitable[Any]]


@pytest.mark.parametrize(
    ("event", "action", "status"),
    [("cancelled", cancel_job, "PENDING"), ("manual_retry", retry_dead_letter_job, "DEAD_LETTER")],
)
async def test_what_operators_do_is_counted_by_the_commit(
    session: AsyncSession, events: Events, event: str, action: Action, status: str
) -> None:
    async with session.begin():
        job_id = await add(session, job_type="counts.operated", status=status)
    await action(session, job_id)
    await session.rollback()
    assert events(event, "counts.operated") == 0
    await action(session, job_id)
    assert events(event, "counts.operated") == 0
    await session.commit()
    assert events(event, "counts.operated") == 1
