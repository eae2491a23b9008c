"""How many operations run at once, requests that are sent twice, and those that nobody resumes."""

import asyncio
from typing import Any

import httpx
import pytest

from service.db.engine import Database
from service.errors import Conflict
from service.jobs import store
from service.jobs.core.bulk_action import Verb
from service.operations import starting
from tests.api.conftest import Auth
from tests.operations.conftest import ADA, Start

PATH = "/admin/operations"


async def test_requests_with_one_key_at_the_same_time_start_one_operation(
    client: httpx.AsyncClient, auth: Auth
) -> None:
    headers = auth("operator") | {"idempotency-key": "once"}
    body = {"action": "cancel", "filter": {"queue": "a"}}
    answers = await asyncio.gather(
        *(client.post(PATH, json=body, headers=headers) for _ in range(6))
    )
    assert [answer.status_code for answer in answers] == [202] * 6
    assert len({answer.json()["id"] for answer in answers}) == 1


async def test_operations_whose_job_is_dead_do_not_keep_others_from_starting(
    start: Start, sql: Any, database: Database
) -> None:
    first = [await start(Verb.CANCEL) for _ in range(starting.MAX_RUNNING)]
    with pytest.raises(Conflict, match="20 operations are running"):
        await start(Verb.CANCEL)
    await sql.execute("DELETE FROM jobs_live")
    for _ in range(starting.MAX_RUNNING):
        await start(Verb.CANCEL)
    with pytest.raises(Conflict, match="20 operations are running"):
        async with database.sessions.begin() as session:
            await starting.resume(session, first[0].id, actor=ADA)


async def test_operations_that_ended_or_that_nobody_resumed_are_dropped_after_their_retention(
    start: Start, sql: Any, database: Database
) -> None:
    ended, paused, dead, running = [await start(Verb.CANCEL) for _ in range(4)]
    young = await start(Verb.CANCEL)
    async with database.sessions.begin() as session:
        await starting.pause(session, paused.id, actor=ADA)
        await starting.cancel(session, ended.id, actor=ADA)
        await starting.pause(session, young.id, actor=ADA)
    await sql.execute("DELETE FROM jobs_live WHERE id = $1", dead.job_id)
    await sql.execute(
        "UPDATE operations SET started_at = now() - interval '9 days',"
        " finished_at = finished_at - interval '9 days' WHERE id <> $1",
        young.id,
    )
    link = database.link(timeout_seconds=5)
    assert await store.retention.drop(link, store.retention.DROP_OPERATIONS, age=8, limit=10) == 3
    await link.close()
    left = [row["id"] for row in await sql.fetch("SELECT id FROM operations ORDER BY id")]
    assert left == [running.id, young.id]
