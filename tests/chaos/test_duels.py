"""Fifty clients want the same thing at once: one has it, the others are told so."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from typing import Final

import pytest

from service.db.engine import Database
from service.jobs import NewJob, enqueue_batch
from service.settings import Settings
from tests.chaos.reports import report
from tests.chaos.serving import Serving, serving

CLIENTS: Final = 50
LETTERS: Final = [
    pytest.param(5),
    pytest.param(200, marks=[pytest.mark.chaos, pytest.mark.timeout(600)]),
]
KEYS: Final = [
    pytest.param(10),
    pytest.param(500, marks=[pytest.mark.chaos, pytest.mark.timeout(600)]),
]
LAY_TO_REST: Final = """
WITH gone AS (DELETE FROM jobs_live RETURNING *)
INSERT INTO background_jobs (id, job_type, queue, status, attempts, finished_at, last_error)
SELECT id, job_type, queue, 'DEAD_LETTER', 4, now(), 'ValueError: bad' FROM gone"""


@pytest.fixture
async def doors(
    make_settings: Callable[..., Settings], pg_dsn: str
) -> AsyncIterator[tuple[Serving, Serving]]:
    """Two services on one database: what one of them does alone is no proof."""
    # As many connections as PostgreSQL's default lets two services and the tests have.
    settings = make_settings(database_pool_size=25)
    async with AsyncExitStack() as stack:
        first = await stack.enter_async_context(serving(settings, pg_dsn))
        yield first, await stack.enter_async_context(serving(settings, pg_dsn))


@pytest.mark.parametrize("letters", LETTERS)
async def test_fifty_retries_of_one_dead_letter_give_one_200(
    doors: tuple[Serving, Serving], database: Database, letters: int
) -> None:
    sql = await database.connect()
    await enqueue_batch(sql, [NewJob("mail") for _ in range(letters)])
    await sql.execute(LAY_TO_REST)
    ids = [row[0] for row in await sql.fetch("SELECT id FROM background_jobs ORDER BY id")]
    answers_by_job: dict[int, Counter[int]] = {}
    for job_id in ids:
        path = f"/admin/jobs/{job_id}/retry"
        answers = await asyncio.gather(
            *(doors[number % 2].client.post(path) for number in range(CLIENTS))
        )
        answers_by_job[job_id] = Counter(answer.status_code for answer in answers)
    standing = await sql.fetch(
        "SELECT status, attempts, jsonb_array_length(errors), count(*) FROM background_jobs"
        " GROUP BY 1, 2, 3"
    )
    dead = await sql.fetchval("SELECT sum(jobs) FROM job_stats WHERE status = 'DEAD_LETTER'")
    await sql.close()
    report(
        f"duels-retries-{letters}",
        letters=letters,
        clients=CLIENTS,
        answers=sum(answers_by_job.values(), Counter[int]()),
    )
    for job_id, told in answers_by_job.items():
        assert told == {200: 1, 409: CLIENTS - 1}, job_id
    assert [tuple(row) for row in standing] == [("PENDING", 0, 1, letters)]
    assert dead == -letters  # each left the dead letters once; the rows came in uncounted


@pytest.mark.parametrize("keys", KEYS)
async def test_fifty_enqueues_of_one_key_make_one_job(
    doors: tuple[Serving, Serving], database: Database, keys: int
) -> None:
    async def by_hand(key: str) -> tuple[int, int]:
        async with database.sessions.begin() as session:
            (made,) = await enqueue_batch(session, [NewJob("mail", unique_key=key)])
        return 201 if made.created else 200, made.id

    async def over_http(door: Serving, key: str) -> tuple[int, int]:
        answer = await door.post_job("mail", unique_key=key)
        return answer.status_code, answer.json().get("id", 0)

    told_by_key: dict[str, list[tuple[int, int]]] = {}
    for number in range(keys):
        key = f"key-{number}"
        told_by_key[key] = await asyncio.gather(
            *(
                by_hand(key) if place % 10 == 0 else over_http(doors[place % 2], key)
                for place in range(CLIENTS)
            )
        )
    async with database.engine.connect() as connection:
        rows = await connection.exec_driver_sql(
            "SELECT count(*), count(DISTINCT unique_key) FROM background_jobs"
        )
        stored, distinct = tuple(rows.one())
    report(
        f"duels-enqueues-{keys}",
        keys=keys,
        clients=CLIENTS,
        answers=Counter(status for told in told_by_key.values() for status, _ in told),
        jobs=stored,
    )
    for key, told in told_by_key.items():
        assert Counter(status for status, _ in told) == {201: 1, 200: CLIENTS - 1}, key
        assert len({job_id for _, job_id in told}) == 1, key
    assert (stored, distinct) == (keys, keys)
