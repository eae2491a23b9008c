"""A canary: the fate of the first jobs decides whether the others follow."""

from typing import Any

import pytest

from service.db.engine import Database
from service.jobs import PermanentError, Registry
from service.jobs.core.bulk_action import Verb
from service.jobs.core.filters import JobFilters
from service.operations import starting
from service.operations.model import Canary
from tests.operations.conftest import ADA, Fill, Start, Until

MAIL = JobFilters(job_type="mail")


@pytest.fixture
def fails(handlers: Registry) -> set[int]:
    """The `n` of the payloads that fail again, to be filled by the test."""
    failing: set[int] = set()

    @handlers.handler("mail", max_retries=0)
    async def handle(payload: Any) -> None:
        if payload["n"] in failing:
            raise PermanentError("still broken")

    return failing


async def retried(sql: Any) -> int:
    count: int = await sql.fetchval("SELECT count(*) FROM background_jobs WHERE errors IS NOT NULL")
    return count


async def test_others_follow_when_the_first_succeed(
    fails: set[int], operator: None, fill: Fill, start: Start, until: Until, sql: Any
) -> None:
    await fill(60)
    operation = await start(Verb.RETRY, MAIL, canary=Canary(10, 0, 30))
    done = await until(operation, "done")
    assert (done.changed, done.canary_state, len(done.canary_ids)) == (60, "passed", 10)


async def test_no_other_follows_when_too_many_fail_again(
    fails: set[int], operator: None, fill: Fill, start: Start, until: Until, sql: Any
) -> None:
    fails.update({58, 59, 60})
    await fill(60)
    operation = await start(Verb.RETRY, MAIL, canary=Canary(10, 20, 30))
    stopped = await until(operation, "stopped")
    assert stopped.note == "3 of the first 10 jobs failed again"
    assert (stopped.changed, await retried(sql)) == (10, 10)


async def test_others_follow_when_no_more_fail_than_may(
    fails: set[int], operator: None, fill: Fill, start: Start, until: Until
) -> None:
    fails.update({59, 60})
    await fill(60)
    done = await until(await start(Verb.RETRY, MAIL, canary=Canary(10, 20, 30)), "done")
    assert done.changed == 60


async def test_it_stops_when_the_first_have_not_ended_in_time(
    operator: None, fill: Fill, start: Start, until: Until, sql: Any
) -> None:
    await fill(20)  # nobody runs them
    stopped = await until(await start(Verb.RETRY, MAIL, canary=Canary(5, 50, 0.1)), "stopped")
    assert stopped.note == "5 of the first 5 jobs had not ended after 0.1 s"
    assert await retried(sql) == 5


async def test_who_resumes_what_a_canary_stopped_lets_the_others_follow(
    operator: None, fill: Fill, start: Start, until: Until, database: Database
) -> None:
    await fill(20)
    stopped = await until(await start(Verb.RETRY, MAIL, canary=Canary(5, 50, 0.1)), "stopped")
    async with database.sessions.begin() as session:
        await starting.resume(session, stopped.id, actor=ADA)
    assert (await until(stopped, "done")).changed == 20
