"""GET /jobs/{job_id}?wait=…: clients that wait for the end of a job."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from sqlalchemy import text

from service.app import create_app
from service.db.engine import Database
from service.jobs import JobId, NewJob, Registry, Worker, enqueue_batch
from service.jobs.following.followers import FIRST_LOOK_SECONDS, Followers
from service.jobs.notify.publisher import publisher_for
from service.settings import Settings
from tests.api.conftest import Auth
from tests.api.shell import real_server, sample
from tests.jobs.rows import add
from tests.jobs.waiting import until_true

pytestmark = pytest.mark.whole

LISTENING = text("""
SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'LISTEN%' AND datname = current_database()""")


@pytest.fixture
def gate() -> asyncio.Event:
    """Set it, and the handlers of `start_workers` return."""
    return asyncio.Event()


@pytest.fixture
async def start_workers(
    pg_dsn: str, make_settings: Callable[..., Settings], gate: asyncio.Event
) -> AsyncIterator[Callable[..., Any]]:
    """Start workers, each with a database of its own as if in a process of its own."""
    handlers = Registry()

    @handlers.handler("gated")
    async def gated(payload: Any) -> Any:
        await gate.wait()
        return payload

    async with AsyncExitStack() as stack:

        async def start(count: int, **settings: Any) -> list[Database]:
            databases = []
            for _ in range(count):
                chosen = make_settings(shutdown_grace_seconds=1, **settings)
                database = Database(pg_dsn, chosen)
                stack.push_async_callback(database.close)
                worker = Worker(database, chosen, handlers=handlers)
                stack.push_async_callback(worker.stop)
                await worker.start()
                databases.append(database)
            return databases

        yield start
        gate.set()


async def enqueued(app: FastAPI, count: int = 1) -> list[JobId]:
    async with app.state.service.database.sessions.begin() as session:
        jobs = await enqueue_batch(session, [NewJob("gated", {"n": n}) for n in range(count)])
    return [job.id for job in jobs]


async def until_followed(count: int) -> None:
    await until_true(lambda: sample("finmind_followers") == count, seconds=40)


@pytest.mark.parametrize("clients", [150, pytest.param(1000, marks=pytest.mark.slow)])
async def test_a_thousand_clients_wait_with_one_connection_that_listens_and_none_of_the_pool(
    app: FastAPI,
    client: httpx.AsyncClient,
    auth: Auth,
    start_workers: Callable[..., Any],
    gate: asyncio.Event,
    clients: int,
) -> None:
    ids = await enqueued(app, clients)
    database: Database = app.state.service.database
    headers = auth("service")
    async with asyncio.TaskGroup() as group:
        waiting = [
            group.create_task(client.get(f"/jobs/{job_id}?wait=60", headers=headers, timeout=90))
            for job_id in ids
        ]
        await until_followed(clients)
        await until_true(lambda: database.engine.pool.checkedout() == 0)  # type: ignore[attr-defined]
        async with database.sessions() as session:
            assert await session.scalar(LISTENING) == 1
        answer = await client.get(f"/jobs/{ids[0]}", headers=headers)
        assert answer.json()["status"] == "PENDING"
        await start_workers(1, worker_concurrency=200)
        gate.set()
    jobs = [task.result().json() for task in waiting]
    assert {task.result().status_code for task in waiting} == {200}
    assert {job["status"] for job in jobs} == {"SUCCESS"}
    assert [job["result"] for job in jobs] == [{"n": n} for n in range(clients)]
    assert sample("finmind_followers") == 0


@pytest.mark.parametrize("told", [True, False], ids=["told", "looks"])
async def test_who_waits_at_one_process_hears_of_a_job_that_ends_in_another(
    app: FastAPI,
    client: httpx.AsyncClient,
    auth: Auth,
    start_workers: Callable[..., Any],
    gate: asyncio.Event,
    pg_dsn: str,
    make_settings: Callable[..., Settings],
    told: bool,
) -> None:
    """By a notification alone; where the database passes none on, by the look at all jobs."""
    service, settings = app.state.service, make_settings(database_listen=told)
    await service.followers.stop()
    own = Followers(
        service.database,
        settings,
        listener=service.followers._listener,
        look_all_seconds=3600 if told else 1,
    )
    own.start()
    app.state.followers = own
    others = await start_workers(2, worker_concurrency=1, database_listen=told)
    ids = await enqueued(app, 2)
    # In less time than they would wait: who is not told is not found when its time is over either.
    async with asyncio.timeout(30), asyncio.TaskGroup() as group:
        asked = [
            group.create_task(
                client.get(f"/jobs/{job_id}?wait=60", headers=auth("service"), timeout=90)
            )
            for job_id in ids
        ]
        await until_followed(2)
        for other in others if told else ():
            followed = publisher_for(other.engine).changes.followed
            await until_true(partial(getattr, followed, "some"))
        await asyncio.sleep(FIRST_LOOK_SECONDS * 3)  # what comes later is not found by that look
        gate.set()
    await own.stop()
    assert [one.result().json()["status"] for one in asked] == ["SUCCESS", "SUCCESS"]


async def test_who_hangs_up_gives_its_place_back(
    app: FastAPI, client: httpx.AsyncClient, auth: Auth
) -> None:
    (job_id,) = await enqueued(app)
    async with real_server(app) as url, httpx.AsyncClient(base_url=url) as impatient:
        with pytest.raises(httpx.ReadTimeout):
            await impatient.get(f"/jobs/{job_id}?wait=60", headers=auth("service"), timeout=0.5)
        await until_followed(0)


@pytest.mark.parametrize(
    ("bounds", "named"),
    [({"max_followers": 1}, "MAX_FOLLOWERS)"), ({"max_followers_per_caller": 1}, "_PER_CALLER)")],
)
async def test_beyond_the_limits_a_client_is_asked_to_come_again(
    make_settings: Callable[..., Settings],
    pg_dsn: str,
    auth: Auth,
    bounds: dict[str, int],
    named: str,
) -> None:
    application = create_app(make_settings(database_url=pg_dsn, **bounds), run_worker=False)
    transport = httpx.ASGITransport(app=application)
    async with (
        application.router.lifespan_context(application),
        httpx.AsyncClient(transport=transport, base_url="http://service.test") as client,
    ):
        (job_id,) = await enqueued(application)
        path, headers = f"/jobs/{job_id}?wait=60", auth("service", "ann")
        first = asyncio.create_task(client.get(path, headers=headers))
        await until_followed(1)
        second = await client.get(path, headers=headers)
        assert second.status_code == 503
        assert named in second.json()["detail"]
        assert second.headers["retry-after"] == "5"
        assert (await client.get(f"/jobs/{job_id}", headers=headers)).status_code == 200
        application.state.service.stop_claiming()  # lets go whoever waits, with the job as it is
        assert (await first).json()["status"] == "PENDING"


async def test_an_answer_comes_at_once_where_there_is_nothing_to_wait_for(
    app: FastAPI, client: httpx.AsyncClient, auth: Auth
) -> None:
    (job_id,) = await enqueued(app)
    headers = auth("operator")
    late = await client.get(f"/jobs/{job_id}?wait=1", headers=headers)
    assert late.json()["status"] == "PENDING"
    await client.post(f"/admin/jobs/{job_id}/cancel", headers=headers)
    ended = await client.get(f"/jobs/{job_id}?wait=60", headers=headers)
    assert (ended.status_code, ended.json()["status"]) == (200, "CANCELLED")
    assert (await client.get(f"/jobs/{job_id + 1}?wait=60", headers=headers)).status_code == 404
    for wait in ("61", "-1", "1.5", "soon", ""):
        refused = await client.get(f"/jobs/{job_id}?wait={wait}", headers=headers)
        assert refused.status_code == 422
        assert refused.json()["errors"][0]["field"] == "query.wait"
    text = (await client.get("/metrics", headers=headers)).text
    assert 'http_request_duration_seconds_count{handler="/jobs/{job_id}"' in text


async def test_a_result_whose_time_is_over_is_not_shown(
    app: FastAPI, client: httpx.AsyncClient, auth: Auth
) -> None:
    body = {
        "job_type": "gated",
        "callback": {"url": "https://shop.example.com/jobs"},
        "result_ttl_seconds": 60,
    }
    made = (await client.post("/jobs", json=body, headers=auth("admin"))).json()
    assert made["callback"] == body["callback"]
    assert (made["result_ttl_seconds"], made["result_dropped"]) == (60, False)
    now = datetime.now(UTC)
    for seconds, dropped in ((30, False), (90, True)):
        async with app.state.service.database.sessions.begin() as session:
            job_id = await add(
                session, status="SUCCESS", finished_at=now - timedelta(seconds=seconds),
                result={"n": 1}, result_ttl_seconds=60,
            )  # fmt: skip
        for path in ("/jobs", "/admin/jobs"):
            job = (await client.get(f"{path}/{job_id}", headers=auth("admin"))).json()
            assert (job["result"], job["result_dropped"]) == (
                None if dropped else {"n": 1},
                dropped,
            )
    for field, value in (("callback", {"url": "ftp://a"}), ("result_ttl_seconds", 0)):
        answer = await client.post("/jobs", json=body | {field: value}, headers=auth("admin"))
        assert answer.status_code == 422
        assert answer.json()["errors"][0]["field"].startswith(f"body.{field}")
    limited = await client.post(
        "/admin/api-keys",
        json={"name": "shop", "scopes": ["jobs:write"], "job_types": ["gated"]},
        headers=auth("admin"),
    )
    refused = await client.post("/jobs", json=body, headers={"x-api-key": limited.json()["key"]})
    assert refused.status_code == 403
    assert "http.request" in refused.json()["detail"]
