"""What handlers log is kept with the job, in order and within bounds, and fails no attempt."""

import asyncio
import json
import threading
from datetime import UTC, datetime
from typing import Any

import pytest
from sqlalchemy.ext.asyncio import AsyncSession

from service.db.engine import Database
from service.errors import InvalidInput, NotFound
from service.jobs import JobContext, JobId, PermanentError, Registry, delete_job, store
from service.jobs.core.log_line import LogLine
from service.jobs.read.logs import LoggedLine, read_log, read_log_end
from service.jobs.worker import log_lines
from tests.jobs.conftest import Put, StartWorker
from tests.jobs.proxy import Proxy
from tests.jobs.waiting import until, until_ended

AT = datetime(2026, 3, 1, tzinfo=UTC)
COUNT = "SELECT count(*) FROM job_logs"


async def lines_of(session: AsyncSession, job_id: JobId, **options: Any) -> list[LoggedLine]:
    async with session.begin():
        return await read_log(session, job_id, **options)


async def test_lines_are_kept_in_order_with_their_level_and_fields(
    handlers: Registry, put: Put, sql: Any, session: AsyncSession, start_worker: StartWorker
) -> None:
    @handlers.handler("mail")
    async def handle(payload: Any, ctx: JobContext) -> None:
        ctx.log("began")
        ctx.log("sent", level="warning", recipients=3, to=["a", "b"])

    job_id = await put("mail")
    await start_worker()
    await until(lambda: sql.fetchval(COUNT))
    first, second = await lines_of(session, job_id)
    assert (first.attempt, first.level, first.message, first.fields) == (1, "info", "began", None)
    assert (second.level, second.message) == ("warning", "sent")
    assert second.fields == {"recipients": 3, "to": ["a", "b"]}
    assert first.at <= second.at
    assert await lines_of(session, job_id, after=first.position) == [second]
    assert await lines_of(session, job_id, after=second.position) == []
    async with session.begin():
        assert await read_log_end(session, job_id, limit=1) == [second]


async def test_a_plain_function_logs_from_its_threads(
    handlers: Registry, put: Put, sql: Any, session: AsyncSession, start_worker: StartWorker
) -> None:
    @handlers.handler("mail")
    def handle(payload: Any, ctx: JobContext) -> None:
        threads = [threading.Thread(target=ctx.log, args=(str(n),)) for n in range(20)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    job_id = await put("mail")
    worker = await start_worker()
    await until_ended(sql, job_id)
    await worker.stop()
    lines = await lines_of(session, job_id)
    assert sorted(int(line.message) for line in lines) == list(range(20))
    assert [line.position.partition(".")[2] for line in lines] == [str(n) for n in range(1, 21)]


async def test_what_was_logged_last_is_written_before_the_worker_has_stopped(
    handlers: Registry, put: Put, sql: Any, session: AsyncSession, start_worker: StartWorker
) -> None:
    @handlers.handler("mail")
    async def handle(payload: Any, ctx: JobContext) -> None:
        try:
            await asyncio.sleep(60)
        finally:
            ctx.log("stopped")

    job_id = await put("mail")
    worker = await start_worker(shutdown_grace_seconds=0)
    await until(lambda: sql.fetchval("SELECT count(*) FROM jobs_live WHERE status = 'RUNNING'"))
    await worker.stop()
    assert [line.message for line in await lines_of(session, job_id)] == ["stopped"]


async def test_an_attempt_keeps_so_many_lines_and_says_where_they_end(
    handlers: Registry, put: Put, sql: Any, session: AsyncSession, start_worker: StartWorker
) -> None:
    @handlers.handler("many")
    async def many(payload: Any, ctx: JobContext) -> None:
        for n in range(10):
            ctx.log(str(n))

    @handlers.handler("large")
    async def large(payload: Any, ctx: JobContext) -> None:
        for _ in range(10):
            ctx.log("x" * 10_000)

    jobs = [await put("many"), await put("large")]
    worker = await start_worker(job_log_lines=5, job_log_bytes=10_000)
    for job_id in jobs:
        assert (await until_ended(sql, job_id))["status"] == "SUCCESS"
    await worker.stop()
    kept = [line.message for line in await lines_of(session, jobs[0])]
    assert kept[:5] == ["0", "1", "2", "3", "4"]
    assert "is not kept" in kept.pop()
    assert len(kept) == 5
    *texts, end = await lines_of(session, jobs[1])
    assert sum(len(line.message) for line in texts) <= 10_000
    assert texts
    assert {line.message for line in texts} == {"x" * 4000 + "…"}
    assert "JOB_LOG_BYTES" in end.message


async def test_with_a_limit_of_none_nothing_is_kept(
    handlers: Registry, put: Put, sql: Any, start_worker: StartWorker
) -> None:
    @handlers.handler("mail")
    async def handle(payload: Any, ctx: JobContext) -> None:
        ctx.log("no")

    worker = await start_worker(job_log_lines=0)
    await until_ended(sql, await put("mail"))
    await worker.stop()
    assert await sql.fetchval(COUNT) == 0


class Unprintable:
    def __str__(self) -> str:
        raise RuntimeError("no words")


@pytest.mark.parametrize(
    ("message", "fields", "kept"),
    [
        ("nul \0 here", {}, "nul \ufffd here"),
        ("half \ud800 here", {}, "half ? here"),
        ("", {"\0": "\0", "\ud800": "\ud800"}, ""),
        ("big", {"number": 10**400, "float": float("nan"), "deep": [[[[[]]]]]}, "big"),
        ("odd", {"object": object(), "bytes": b"\0", "set": {1}}, "odd"),
        ("sly", {"value": Unprintable(), "kept": 1}, "sly"),
        ("'; DROP TABLE job_logs; --", {"a": "<script>"}, "'; DROP TABLE job_logs; --"),
        ("long", {"text": "x" * 100_000}, "long"),
    ],
)  # fmt: skip
async def test_no_text_and_no_value_is_refused(
    handlers: Registry, put: Put, sql: Any, session: AsyncSession, start_worker: StartWorker,
    message: str, fields: dict[str, Any], kept: str,
) -> None:  # fmt: skip
    @handlers.handler("mail")
    async def handle(payload: Any, ctx: JobContext) -> None:
        ctx.log(message, **fields)
        ctx.log("after")

    job_id = await put("mail")
    worker = await start_worker()
    assert (await until_ended(sql, job_id))["status"] == "SUCCESS"
    await worker.stop()
    lines = await lines_of(session, job_id)
    assert [line.message for line in lines] == [kept, "after"]
    assert len(json.dumps(lines[0].fields)) < 40_000
    if "kept" in fields:
        assert lines[0].fields == {"value": "not shown: RuntimeError", "kept": 1}


async def test_a_line_that_is_refused_takes_no_other_with_it(
    database: Database, session: AsyncSession, put: Put
) -> None:
    job_id = await put("mail")
    link = database.link()
    writer = log_lines.LogLines(link, None, None)  # type: ignore[arg-type]  # it only writes
    lines = [
        LogLine(job_id, 1, n, 1, AT, "info", str(n), "{" if n == 3 else None)  # type: ignore[arg-type]
        for n in range(1, 6)
    ]
    await writer._write(lines)
    await writer._write(lines)  # the answer was lost: they are sent again
    await link.close()
    assert [line.message for line in await lines_of(session, job_id)] == ["1", "2", "4", "5"]


async def test_a_job_keeps_the_lines_of_its_newest_attempts_that_logged(
    handlers: Registry, put: Put, sql: Any, session: AsyncSession, start_worker: StartWorker
) -> None:
    @handlers.handler("mail", max_retries=4)
    async def handle(payload: Any, ctx: JobContext) -> None:
        ctx.log(f"attempt {ctx.attempt}")
        raise RuntimeError("again")

    job_id = await put("mail")
    worker = await start_worker(backoff_base_seconds=0.3, backoff_factor=1)
    await until_ended(sql, job_id)
    await worker.stop()
    attempts = [line.attempt for line in await lines_of(session, job_id)]
    assert attempts[-1] == 5
    assert store.job_logs.KEPT_ATTEMPTS <= len(attempts) <= store.job_logs.KEPT_ATTEMPTS + 1


async def test_a_database_that_is_away_is_waited_for(
    proxy: Proxy, proxied: Database, handlers: Registry, put: Put, sql: Any, session: AsyncSession,
    start_worker: StartWorker,
) -> None:  # fmt: skip
    @handlers.handler("mail", max_retries=0)
    async def handle(payload: Any, ctx: JobContext) -> None:
        await proxy.cut()
        ctx.log("in the dark")
        await asyncio.sleep(2 * log_lines.GATHER_SECONDS)
        await proxy.start()
        raise PermanentError("over")

    job_id = await put("mail")
    await start_worker(database=proxied)
    assert (await until_ended(sql, job_id))["status"] == "FAILED"
    await until(lambda: sql.fetchval(COUNT))
    assert [line.message for line in await lines_of(session, job_id)] == ["in the dark"]


async def test_an_unknown_level_is_an_error_of_the_handler(
    handlers: Registry, put: Put, sql: Any, start_worker: StartWorker
) -> None:
    @handlers.handler("mail", max_retries=0)
    async def handle(payload: Any, ctx: JobContext) -> None:
        ctx.log("loud", level="fatal")  # type: ignore[arg-type]

    await start_worker()
    job = await until_ended(sql, await put("mail"))
    assert "expected one of debug, info, warning, error" in job["last_error"]


async def test_a_job_takes_its_lines_along_when_it_is_deleted(
    sql: Any, session: AsyncSession, put: Put
) -> None:
    job_id = await put("mail")
    for one in (job_id, job_id + 1):
        await sql.execute(
            "INSERT INTO job_logs VALUES ($1, 1, 1, 1, now(), 'info', 'x', NULL)", one
        )
    async with session.begin():
        await delete_job(session, job_id)
    assert await sql.fetchval("SELECT array_agg(job_id) FROM job_logs") == [job_id + 1]


async def test_lines_of_no_job_are_not_found_and_a_made_up_position_is_refused(
    session: AsyncSession,
) -> None:
    with pytest.raises(NotFound):
        await lines_of(session, JobId(4711))
    for position in ("", "1", "x.1", f"{2**63}.1", "1.1.1", "-1.1", "1.2 "):
        with pytest.raises(InvalidInput, match="position"):
            await lines_of(session, JobId(4711), after=position)
