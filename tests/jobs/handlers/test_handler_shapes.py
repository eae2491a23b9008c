"""Handlers that are not plain functions: what they return is awaited where it can be."""

import asyncio
import threading
from collections.abc import Callable
from functools import partial, wraps
from typing import Any

import pytest

from service.jobs import JobContext, Registry
from tests.jobs.conftest import Put, StartWorker
from tests.jobs.waiting import until_ended


def logged(function: Callable[..., Any]) -> Callable[..., Any]:
    """A plain decorator, as many are."""

    @wraps(function)
    def wrapper(*args: Any) -> Any:
        return function(*args)

    return wrapper


async def work(payload: Any) -> str:
    await asyncio.sleep(0)
    return "done"


async def work_with_progress(payload: Any, ctx: JobContext) -> bool:
    return await ctx.progress(0.5)


async def prefixed(prefix: str, payload: Any) -> str:
    return prefix + await work(payload)


async def hand_out(payload: Any) -> Any:
    return work(payload)


class Handler:
    async def __call__(self, payload: Any) -> str:
        return await work(payload)


@pytest.mark.parametrize(
    ("function", "result"),
    [
        (logged(work), "done"),
        (logged(work_with_progress), True),
        (hand_out, "done"),
        (partial(prefixed, "is "), "is done"),
        (logged(partial(prefixed, "is ")), "is done"),
        (partial(Handler()), "done"),
    ],
    ids=["decorated", "with progress", "handed out", "partial", "both", "object"],
)
async def test_a_coroutine_that_comes_back_is_awaited(
    handlers: Registry, put: Put, sql: Any, start_worker: StartWorker, function: Any, result: Any
) -> None:
    handlers.handler("mail")(function)
    job_id = await put("mail")
    await start_worker()
    job = await until_ended(sql, job_id)
    assert (job["status"], job["result"], job["last_error"]) == ("SUCCESS", result, None)


async def test_the_timeout_holds_for_a_returned_coroutine(
    handlers: Registry, put: Put, sql: Any, start_worker: StartWorker
) -> None:
    @handlers.handler("mail", max_retries=0, timeout=0.05)
    @logged
    async def handle(payload: Any) -> None:
        await asyncio.Event().wait()

    job_id = await put("mail")
    await start_worker()
    job = await until_ended(sql, job_id)
    assert job["last_error"].startswith("HandlerTimeout")


async def test_a_coroutine_returned_after_the_timeout_is_not_started(
    handlers: Registry, put: Put, sql: Any, start_worker: StartWorker
) -> None:
    go_on = threading.Event()

    @handlers.handler("mail", max_retries=0, timeout=0.05)
    def handle(payload: Any, ctx: JobContext) -> Any:
        while not ctx.cancelled:
            go_on.wait(0.01)
        return work(payload)

    job_id = await put("mail")
    await start_worker()
    job = await until_ended(sql, job_id)
    assert job["last_error"].startswith("HandlerTimeout")


async def test_a_generator_that_comes_back_is_no_result(
    handlers: Registry, put: Put, sql: Any, start_worker: StartWorker
) -> None:
    @handlers.handler("mail")
    def handle(payload: Any) -> Any:
        return (n for n in range(3))

    job_id = await put("mail")
    await start_worker()
    job = await until_ended(sql, job_id)
    assert job["status"] == "FAILED"
    assert "a generator holds no values yet" in job["last_error"]
