"""Both clients against a real service over HTTP, which runs jobs."""

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import fields
from datetime import datetime

import pytest
from pydantic import SecretStr

from finmind_client import (
    ApiError,
    AsyncClient,
    Backoff,
    Client,
    Conflict,
    InvalidInput,
    JobNotEnded,
    JobOptions,
    NewJob,
    NotAllowed,
    NotAuthenticated,
    NotFound,
)
from service.api.new_job_schemas import JobIn
from service.settings import Settings
from tests.client.unasync import MODULES, render, target_of
from tests.dashboard.served import Served, serving

pytestmark = pytest.mark.whole


@pytest.fixture
async def served(make_settings: Callable[..., Settings], pg_dsn: str) -> AsyncIterator[Served]:
    settings = make_settings(
        database_url=SecretStr(pg_dsn), handler_modules=("service.demo",), default_max_retries=0
    )
    async with serving(settings, worker=True) as served:
        yield served


@pytest.fixture
async def client(served: Served) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(served.url, token=served.token("admin")) as client:
        yield client


@pytest.mark.parametrize("module", MODULES)
def test_the_client_without_asyncio_is_made_of_the_other_one(module: str) -> None:
    made = target_of(module).read_text(encoding="utf-8")
    assert made == render(module), "run `make docs`"


def test_a_new_job_has_every_option_of_the_api() -> None:
    names = {field.name for field in fields(NewJob)}
    assert names == set(JobIn.model_fields)
    assert names == {"job_type", "payload", *JobOptions.__annotations__}


async def test_a_job_is_enqueued_runs_and_is_waited_for(client: AsyncClient) -> None:
    job = await client.enqueue("demo.ok", {"number": 1}, queue="billing", backoff=Backoff(factor=2))
    assert (job.is_new, job.queue, job.payload) == (True, "billing", {"number": 1})
    ended = await client.wait(job.id, timeout_seconds=30)
    assert ended.status == "SUCCESS"
    assert ended.ended
    assert ended.finished_at is not None
    assert [found.id async for found in client.admin.jobs(status="SUCCESS", page_size=1)] == [
        job.id
    ]


async def test_a_dead_job_is_retried_by_hand_and_deleted(client: AsyncClient) -> None:
    job = await client.enqueue("demo.permanent", {"number": 1})
    assert (await client.wait(job.id, timeout_seconds=30)).status == "FAILED"
    assert (await client.admin.retry(job.id)).status == "PENDING"
    assert (await client.wait(job.id, timeout_seconds=30)).status == "FAILED"
    assert (await client.admin.retry(job.id, reason="mended")).status == "PENDING"
    await client.wait(job.id, timeout_seconds=30)
    await client.admin.delete(job.id, reason="of no use")
    with pytest.raises(NotFound):
        await client.get(job.id)


def use_everything(url: str, token: str) -> list[object]:
    with Client(url, token=token) as client:
        made = client.enqueue_batch([NewJob("demo.ok", {"number": n}) for n in range(3)])
        ended = [client.wait(job_id, timeout_seconds=30).status for job_id in made.ids]
        later = client.enqueue("demo.ok", delay_seconds=1000, unique_key="later")
        again = client.enqueue("demo.ok", unique_key="later")
        changed = client.change(
            later.id, priority=1, if_match=later.etag or client.get(later.id).etag
        )
        client.admin.change_queue("default", paused=True, reason="a test")
        paused = [queue["paused"] for queue in client.admin.queues() if queue["name"] == "default"]
        client.run_now(later.id)
        cancelled = client.cancel(later.id, reason="not needed")
        stats = client.admin.stats()
        return [
            made.created, ended, again.id == later.id, again.is_new, changed.priority, paused,
            cancelled.status, stats["by_status"]["CANCELLED"],
            len(list(client.admin.jobs(page_size=2))), len(client.with_key("later")),
        ]  # fmt: skip


async def test_without_asyncio_it_is_the_same(served: Served) -> None:
    got = await asyncio.to_thread(use_everything, served.url, served.token("admin"))
    assert got == [3, ["SUCCESS"] * 3, True, False, 1, [True], "CANCELLED", 1, 4, 1]


async def test_a_refusal_carries_the_problem_document(served: Served, client: AsyncClient) -> None:
    with pytest.raises(InvalidInput, match="priority") as refused:
        await client.enqueue("demo.ok", priority=11)
    assert refused.value.status == 422
    assert refused.value.errors[0].field == "body.priority"
    assert refused.value.request_id
    with pytest.raises(NotFound, match="There is no job 4711"):
        await client.get(4711)
    job = await client.enqueue("demo.ok", delay_seconds=1000, unique_key="held")
    with pytest.raises(Conflict, match="unique_key 'held'"):
        await client.enqueue("demo.ok", {"number": 2}, unique_key="held")
    with pytest.raises(JobNotEnded, match=f"Job {job.id} is PENDING after 0.2 s"):
        await client.wait(job.id, timeout_seconds=0.2)
    async with AsyncClient(served.url) as stranger:
        with pytest.raises(NotAuthenticated):
            await stranger.get(job.id)
    async with AsyncClient(served.url, token=served.token("viewer")) as viewer:
        with pytest.raises(NotAllowed):
            await viewer.enqueue("demo.ok")
    assert issubclass(NotAllowed, ApiError)


def test_a_time_without_a_zone_is_refused_before_it_is_sent() -> None:
    with pytest.raises(
        ValueError, match=r"run_at is datetime.*: expected a datetime with a time zone"
    ):
        NewJob("mail", run_at=datetime(2030, 1, 1)).body()  # noqa: DTZ001 - that is what is tested
    with pytest.raises(ValueError, match="run_at is '2030-01-01T00:00:00Z': expected a datetime"):
        NewJob("mail", run_at="2030-01-01T00:00:00Z").body()  # type: ignore[arg-type]
