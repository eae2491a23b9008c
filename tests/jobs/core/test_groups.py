"""A handler whose tasks fail together: the causes are named, and the strictest decides."""

import asyncio
from typing import Any

import pytest

from service.jobs import PermanentError, Registry, RetryAfter, Snooze
from tests.jobs.conftest import Put, StartWorker
from tests.jobs.waiting import until, until_ended, until_failed_once, until_job


async def fail(error: BaseException) -> None:
    raise error


async def test_the_causes_of_a_failed_task_group_are_named(
    handlers: Registry, put: Put, sql: Any, start_worker: StartWorker
) -> None:
    @handlers.handler("mail", max_retries=1)
    async def handle(payload: Any) -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(fail(ValueError("no such mailbox")))
            tasks.create_task(fail(ExceptionGroup("inner", [KeyError("name"), OSError("cut")])))

    job_id = await put("mail")
    await start_worker()
    job = await until_failed_once(sql, job_id)
    causes = "ValueError: no such mailbox; KeyError: 'name'; OSError: cut"
    words = f"unhandled errors in a TaskGroup (2 sub-exceptions): {causes}"
    assert job["last_error"] == f"ExceptionGroup: {words}"
    assert job["errors"][0]["message"] == words


async def test_of_many_causes_the_first_are_named_and_the_others_counted(
    handlers: Registry, put: Put, sql: Any, start_worker: StartWorker
) -> None:
    @handlers.handler("mail", max_retries=0)
    async def handle(payload: Any) -> None:
        raise ExceptionGroup("many", [ValueError(n) for n in range(1_000)])

    job_id = await put("mail")
    await start_worker()
    job = await until_ended(sql, job_id)
    assert job["last_error"].endswith("ValueError: 8; ValueError: 9; and 990 more")


class NoSeconds(RetryAfter):
    def __init__(self) -> None:
        super().__init__(1.0)
        self.seconds = float("nan")


@pytest.mark.parametrize(
    ("errors", "status", "delay"),
    [
        ([RetryAfter(900), PermanentError("no use"), ValueError()], "FAILED", None),
        ([ExceptionGroup("inner", [PermanentError("no use")]), Snooze(5)], "FAILED", None),
        ([RetryAfter(60), ValueError(), RetryAfter(900), NoSeconds()], "PENDING", 900),
        ([Snooze(2000), RetryAfter(900)], "PENDING", 900),
        ([ValueError(), Snooze(900)], "PENDING", 30),
        ([NoSeconds(), ValueError()], "PENDING", 30),
    ],
    ids=["permanent", "permanent within", "longest", "snooze, retry", "snooze, error", "no number"],
)
async def test_the_strictest_error_of_a_group_decides(
    handlers: Registry,
    put: Put,
    sql: Any,
    start_worker: StartWorker,
    errors: list[Exception],
    status: str,
    delay: float | None,
) -> None:
    @handlers.handler("mail")
    async def handle(payload: Any) -> None:
        async with asyncio.TaskGroup() as tasks:
            for error in errors:
                tasks.create_task(fail(error))

    job_id = await put("mail")
    await start_worker()
    job = await until_job(sql, job_id, where="attempts = 1 AND status <> 'RUNNING'")
    assert job["status"] == status
    if delay is not None:
        due = "SELECT extract(epoch FROM next_run_at - now()) FROM jobs_live WHERE id = $1"
        assert delay - 20 < await sql.fetchval(due, job_id) <= delay


async def test_a_group_of_snoozes_alone_uses_no_attempt(
    handlers: Registry, put: Put, sql: Any, start_worker: StartWorker
) -> None:
    @handlers.handler("mail")
    async def handle(payload: Any) -> None:
        raise ExceptionGroup("not yet", [Snooze(60), ExceptionGroup("nor now", [Snooze(900)])])

    job_id = await put("mail")
    await start_worker()
    due = (
        "SELECT extract(epoch FROM next_run_at - now()) FROM jobs_live"
        " WHERE id = $1 AND status = 'PENDING' AND attempts = 0 AND next_run_at > now()"
    )
    assert 880 < await until(lambda: sql.fetchval(due, job_id)) <= 900
