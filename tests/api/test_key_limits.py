"""What an API key may enqueue, read, and hand on."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from service.auth.api_keys import ApiKeyStore
from service.auth.principal import KeyLimits, Permission
from service.db.engine import Database
from service.errors import Unauthenticated
from tests import databases
from tests.api.conftest import Auth
from tests.api.shapes import assert_problem, jobs_in

WRITE_AND_READ = ["jobs:write", "jobs:read"]


async def make(client: httpx.AsyncClient, maker: dict[str, str], **body: Any) -> httpx.Response:
    values: dict[str, Any] = {"name": "k", "scopes": WRITE_AND_READ}
    return await client.post("/admin/api-keys", json=values | body, headers=maker)


async def headers_of(
    client: httpx.AsyncClient, maker: dict[str, str], **body: Any
) -> dict[str, str]:
    made = await make(client, maker, **body)
    assert made.status_code == 201, made.text
    return {"X-API-Key": made.json()["key"]}


ALLOWED = {"job_type": "mail", "queue": "letters", "priority": 5}


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"queue": "billing"}, "letters"),
        ({"queue": None}, "letters"),
        ({"job_type": "sms"}, "mail"),
        ({"priority": 0}, "5, 6"),
        ({"priority": 2}, "5, 6"),
    ],
)
async def test_a_key_bound_to_queues_types_and_priorities_enqueues_no_others(
    client: httpx.AsyncClient, auth: Auth, app: FastAPI, change: dict[str, Any], word: str
) -> None:
    bound = await headers_of(
        client, auth("admin"), queues=["letters"], job_types=["mail"], priorities=[6, 5]
    )
    good = await client.post("/jobs", json=ALLOWED, headers=bound)
    assert good.status_code == 201
    bad = ALLOWED | change
    once = bound | {"Idempotency-Key": "k"}
    for answer in (
        await client.post("/jobs", json=bad, headers=bound),
        await client.post("/jobs", json=bad, headers=once),
        await client.post("/jobs/batch", json={"jobs": [ALLOWED, bad]}, headers=bound),
    ):
        detail = assert_problem(answer, 403)["detail"]
        assert word in detail
        assert next(iter(change)) in detail
    assert "Job 1: " in detail
    assert await jobs_in(app) == [good.json()["id"]]


async def test_a_bound_key_reads_no_job_of_another_queue_or_type(
    client: httpx.AsyncClient, auth: Auth
) -> None:
    bound = await headers_of(client, auth("admin"), queues=["letters"], job_types=["mail"])
    for job, status in (
        (ALLOWED, 200),
        (ALLOWED | {"queue": "billing"}, 404),
        (ALLOWED | {"job_type": "sms"}, 404),
    ):
        made = await client.post("/jobs", json=job | {"unique_key": "k"}, headers=auth("service"))
        path = f"/jobs/{made.json()['id']}"
        assert (await client.get(path, headers=bound)).status_code == status
        found = await client.get("/jobs", params={"unique_key": "k"}, headers=bound)
        assert bool(found.json()["jobs"]) is (status == 200)
        await client.delete(f"/admin{path}", headers=auth("admin"))


async def test_limits_are_shown_and_come_with_the_scopes_that_they_bind_alone(
    client: httpx.AsyncClient, auth: Auth
) -> None:
    limits = {"queues": ["letters"], "job_types": None, "priorities": [3]}
    made = (await make(client, auth("admin"), queues=["letters"], priorities=[3])).json()
    assert made.items() >= limits.items()
    [listed] = (await client.get("/admin/api-keys", headers=auth("admin"))).json()["api_keys"]
    assert listed.items() >= limits.items()
    refused = await make(client, auth("admin"), queues=["a"], scopes=["jobs:write", "keys:manage"])
    assert "keys:manage" in assert_problem(refused, 422)["detail"]
    worse: list[dict[str, Any]] = [
        {"queues": []},
        {"queues": ["a b"]},
        {"priorities": [10]},
        {"job_types": [""]},
    ]
    for bad in worse:
        assert_problem(await make(client, auth("admin"), **bad), 422)


async def test_a_key_makes_none_that_outlives_it(client: httpx.AsyncClient, auth: Auth) -> None:
    scopes = ["keys:manage", "jobs:read"]
    end = (datetime.now(UTC) + timedelta(days=1)).replace(microsecond=0)
    maker = await headers_of(client, auth("admin"), scopes=scopes, expires_at=end.isoformat())
    for expires_at, status in (
        (None, 403),
        (end + timedelta(seconds=1), 403),
        (end, 201),
        (end - timedelta(hours=1), 201),
    ):
        asked = {} if expires_at is None else {"expires_at": expires_at.isoformat()}
        answer = await make(client, maker, scopes=scopes, **asked)
        assert answer.status_code == status
        if status == 403:
            assert end.isoformat() in assert_problem(answer, 403)["detail"]
    lasting = await headers_of(client, auth("admin"), scopes=scopes)
    assert (await make(client, lasting, scopes=scopes)).status_code == 201


async def test_with_a_key_go_the_keys_that_it_made(client: httpx.AsyncClient, auth: Auth) -> None:
    scopes = ["keys:manage", "jobs:read"]
    chain = [auth("admin")]
    for _ in range(3):
        chain.append(await headers_of(client, chain[-1], scopes=scopes))
    _, first, second, third = chain
    other = await headers_of(client, auth("admin"), scopes=scopes)
    prefix = second["X-API-Key"].removeprefix("fmj_").partition(".")[0]
    gone = await client.delete(f"/admin/api-keys/{prefix}", headers=auth("admin"))
    assert gone.status_code == 204
    statuses = [
        (await client.get("/jobs/1", headers=headers)).status_code
        for headers in (first, second, third, other)
    ]
    assert statuses == [404, 401, 401, 404]


async def test_a_key_that_is_being_revoked_leaves_none_behind(
    database: Database, pg_dsn: str
) -> None:
    stores = [ApiKeyStore(database) for _ in range(5)]
    try:
        for _ in range(10):
            maker = await stores[0].create("m", [Permission.KEYS_MANAGE], created_by="ann")
            subject = f"api-key:{maker.record.prefix}"
            answers = await asyncio.gather(
                *(
                    store.create("child", [Permission.KEYS_MANAGE], created_by=subject)
                    for store in stores[1:]
                ),
                stores[0].revoke(maker.record.prefix, by="ann"),
                return_exceptions=True,
            )
            assert all(
                not isinstance(answer, BaseException) or isinstance(answer, Unauthenticated)
                for answer in answers
            )
        connection = await databases.connect(pg_dsn)
        left = "SELECT count(*) FROM finmind_jobs.api_keys WHERE revoked_at IS NULL"
        assert await connection.fetchval(left) == 0
        await connection.close()
    finally:
        for store in stores:
            await store.close()


async def test_a_key_speaks_with_its_limits(database: Database) -> None:
    store = ApiKeyStore(database)
    limits = KeyLimits.of(["a", "b"], None, [0])
    made = await store.create("k", [Permission.JOBS_WRITE], created_by="ann", limits=limits)
    assert (await store.verify(made.key)).limits == limits
    await store.close()
