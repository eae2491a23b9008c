"""Records of `logging` inside a handler, kept as lines of its job."""

import asyncio
import logging
from typing import Any

import pytest
import structlog
from sqlalchemy.ext.asyncio import AsyncSession

from service.jobs import JobContext, JobId, Registry
from service.jobs.read.logs import LoggedLine, read_log
from tests.jobs.conftest import Put, StartWorker
from tests.jobs.waiting import until_ended

log = logging.getLogger("shop.import")


async def lines_of(session: AsyncSession, job_id: JobId) -> list[LoggedLine]:
    async with session.begin():
        return await read_log(session, job_id)


async def test_records_of_logging_are_lines_of_the_job_that_made_them(
    handlers: Registry, put: Put, sql: Any, session: AsyncSession, start_worker: StartWorker
) -> None:
    met = asyncio.Barrier(2)

    @handlers.handler("async", capture_logging=True)
    async def in_a_task(payload: dict[str, Any]) -> None:
        await met.wait()
        log.info("row %d of %s", payload["n"], "a.csv", extra={"part": payload["n"]})
        await asyncio.create_task(in_another_task(payload["n"]))

    async def in_another_task(n: int) -> None:
        structlog.get_logger("shop.mail").warning("sent", n=n, password="hidden")

    @handlers.handler("sync", capture_logging=True)
    def in_a_thread(_: Any, ctx: JobContext) -> None:
        ctx.log("mine")
        log.debug("below the level of the root logger")
        try:
            dict[str, int]()["row"]
        except KeyError:
            log.exception("failed")

    ids = [await put("async", {"n": 1}), await put("async", {"n": 2}), await put("sync")]
    worker = await start_worker()
    for job_id in ids:
        await until_ended(sql, job_id)
    await worker.stop()
    log.info("of no job")
    for n, job_id in enumerate(ids[:2], 1):
        row, sent = await lines_of(session, job_id)
        assert (row.level, row.message) == ("info", f"row {n} of a.csv")
        assert row.fields == {"logger": "shop.import", "part": n}
        assert (sent.level, sent.message) == ("warning", "sent")
        assert sent.fields is not None
        assert (sent.fields["n"], sent.fields["password"]) == (n, "[redacted]")
    mine, failed = await lines_of(session, ids[2])
    assert (mine.message, failed.level, failed.message) == ("mine", "error", "failed")
    assert failed.fields is not None
    assert "KeyError: 'row'" in failed.fields["exception"]


@pytest.mark.parametrize(
    ("service", "own", "kept"), [(True, None, 1), (True, False, 0), (False, None, 0)]
)
async def test_a_type_that_does_not_ask_keeps_nothing(
    handlers: Registry,
    put: Put,
    sql: Any,
    session: AsyncSession,
    start_worker: StartWorker,
    service: bool,
    own: bool | None,
    kept: int,
) -> None:
    @handlers.handler("mail", capture_logging=own)
    async def handle(_: Any) -> None:
        log.info("sent")

    job_id = await put("mail")
    worker = await start_worker(job_log_capture=service)
    await until_ended(sql, job_id)
    await worker.stop()
    assert len(await lines_of(session, job_id)) == kept
