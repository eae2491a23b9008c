"""GET /jobs/{job_id}/events: what happens to a job, as it happens."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from typing import Any, NamedTuple

import httpx
import pytest
from fastapi import FastAPI

from service.db.engine import Database
from service.jobs import JobContext, JobId, Registry, Worker
from service.settings import Settings
from tests.api.conftest import Auth
from tests.api.shell import real_server
from tests.api.test_wait import until_followed
from tests.jobs.rows import add

pytestmark = pytest.mark.whole


class Event(NamedTuple):
    id: str
    name: str
    data: Any


@pytest.fixture
def go_on() -> asyncio.Queue[None]:
    """An item for each step that the handler `steps` may take."""
    return asyncio.Queue()


@pytest.fixture
async def worker(
    pg_dsn: str, make_settings: Callable[..., Settings], go_on: asyncio.Queue[None]
) -> AsyncIterator[Worker]:
    """A worker with a database of its own, as if in another process."""
    handlers = Registry()

    @handlers.handler("steps")
    async def steps(_: Any, ctx: JobContext) -> str:
        ctx.log("begins", step=1)
        await go_on.get()
        await ctx.progress(0.5, "half")
        await go_on.get()
        ctx.log("ends", level="warning")
        return "done"

    settings = make_settings(shutdown_grace_seconds=1)
    database = Database(pg_dsn, settings)
    worker = Worker(database, settings, handlers=handlers)
    await worker.start()
    yield worker
    await worker.stop()
    await database.close()


@pytest.fixture
async def served(app: FastAPI, auth: Auth) -> AsyncIterator[httpx.AsyncClient]:
    """A client over real HTTP: answers come piece by piece."""
    async with (
        real_server(app) as url,
        httpx.AsyncClient(base_url=url, headers=auth("service", "ann"), timeout=20) as client,
    ):
        yield client


async def put(app: FastAPI) -> JobId:
    async with app.state.service.database.sessions.begin() as session:
        return JobId(await add(session, job_type="steps", enqueued_by="ann"))


async def events(answer: httpx.Response) -> AsyncIterator[Event]:
    fields: dict[str, str] = {}
    async for line in answer.aiter_lines():
        if line:
            name, _, value = line.partition(": ")
            fields[name] = value
        elif "event" in fields:
            yield Event(fields["id"], fields["event"], json.loads(fields["data"]))
            fields = {}


async def next_of(stream: AsyncIterator[Event], name: str) -> Event:
    async with asyncio.timeout(15):
        async for event in stream:
            if event.name == name:
                return event
    raise AssertionError(f"the stream ended without {name}")


async def test_a_client_sees_a_job_run_in_another_process_and_goes_on_where_it_was_cut_off(
    app: FastAPI, served: httpx.AsyncClient, worker: Worker, go_on: asyncio.Queue[None]
) -> None:
    job_id = await put(app)
    path = f"/jobs/{job_id}/events"
    async with served.stream("GET", path) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        assert answer.headers["cache-control"] == "no-store"
        stream = events(answer)
        first = await next_of(stream, "log")
        assert (first.data["message"], first.data["fields"]) == ("begins", {"step": 1})
        go_on.put_nowait(None)
        progress = await next_of(stream, "progress")
        assert progress.data == {"fraction": 0.5, "message": "half"}
    await until_followed(0)  # who hangs up gives its place back
    go_on.put_nowait(None)
    async with served.stream("GET", path, headers={"last-event-id": progress.id}) as answer:
        rest = [event async for event in events(answer)]
    names = [event.name for event in rest]
    assert names[-1] == "end"
    assert [event.data["message"] for event in rest if event.name == "log"] == ["ends"]
    assert [event.data["status"] for event in rest if event.name == "status"][-1] == "SUCCESS"
    assert rest[-1].data == {"status": "SUCCESS"}
    again = await served.get(path, headers={"last-event-id": rest[-1].id})
    assert again.status_code == 204  # a browser that is answered so does not connect again
    whole = await served.get(path)
    assert sorted([event.name async for event in events(whole)]) == [
        "end", "log", "log", "status",
    ]  # fmt: skip


async def test_a_job_is_followed_by_who_enqueued_it_and_by_operators(
    app: FastAPI, client: httpx.AsyncClient, auth: Auth
) -> None:
    job_id = await put(app)
    path = f"/jobs/{job_id}/events"
    other = await client.get(path, headers=auth("service", "bob"))
    assert other.status_code == 403
    assert "admin:read" in other.json()["detail"]
    assert (
        await client.get(f"/jobs/{job_id + 1}/events", headers=auth("viewer"))
    ).status_code == 404
    await client.post(f"/admin/jobs/{job_id}/cancel", headers=auth("operator"))
    for caller in (auth("service", "ann"), auth("viewer", "bob")):
        answer = await client.get(path, headers=caller)
        assert 'event: end\ndata: {"status": "CANCELLED"}' in answer.text


async def test_a_deleted_job_ends_its_streams(
    app: FastAPI, served: httpx.AsyncClient, client: httpx.AsyncClient, auth: Auth
) -> None:
    job_id = await put(app)
    async with served.stream("GET", f"/jobs/{job_id}/events") as answer:
        stream = events(answer)
        assert (await next_of(stream, "status")).data["status"] == "PENDING"
        deleted = await client.delete(f"/admin/jobs/{job_id}", headers=auth("admin"))
        assert deleted.status_code == 204
        assert (await next_of(stream, "end")).data == {"status": None}


@pytest.mark.parametrize("last", ["1", "1.1-xyz", "9999999999999999999.1-00000000", "٣.1-00000000"])
async def test_an_id_that_no_event_has_is_refused(
    app: FastAPI, client: httpx.AsyncClient, auth: Auth, last: str
) -> None:
    job_id = await put(app)
    headers = [(name.encode(), value.encode()) for name, value in auth("service", "ann").items()]
    headers.append((b"last-event-id", last.encode()))
    answer = await client.get(f"/jobs/{job_id}/events", headers=headers)
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["field"].lower() == "header.last-event-id"
    await until_followed(0)


async def test_a_service_that_stops_ends_its_streams(
    app: FastAPI, served: httpx.AsyncClient
) -> None:
    job_id = await put(app)
    async with served.stream("GET", f"/jobs/{job_id}/events") as answer:
        stream = events(answer)
        await next_of(stream, "status")
        app.state.service.stop_claiming()
        async with asyncio.timeout(10):
            assert [event async for event in stream] == []
