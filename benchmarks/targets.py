"""HTTP targets: deliveries of one process to local servers, alone and beside a host that never answers.

Goal: 1,000 deliveries/s a process, and a dead host slows no other. The worker has the default settings; the
servers are a process of their own. Half of the jobs beside the dead host are for it.
"""

import asyncio
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

from benchmarks.scenario import Report, Scale, fresh_database, settings
from service.db.engine import Database
from service.jobs import NewJob, Registry, Worker, enqueue_batch
from service.jobs.core.job_types import policies
from service.settings import Settings
from service.targets.handler import JOB_TYPE, bind
from service.targets.tending import Tending

DELIVERIES: Final = 5_000
TARGETS: Final = 10
BATCH: Final = 500
LIMIT_SECONDS: Final = 120.0


async def measure(dsn: str, report: Report, scale: Scale) -> None:
    """To one target, to several, and to several beside a dead one."""
    names = ("to 1 target", f"to {TARGETS} targets", f"to {TARGETS} beside a dead one")
    async with _server() as ports:
        *live, dead = [f"http://127.0.0.1:{port}/hook" for port in ports]
        for _ in range(scale.runs):
            for name, urls, others in zip(
                names, (live[:1], live, live), ((), (), (dead,)), strict=True
            ):
                rate, busy = await _one_run(dsn, urls, others)
                report.figure(f"deliveries {name}", "jobs/s").runs.append(rate)
                title = f"processor time of a delivery {name}"
                report.figure(title, "ms", better="lower").runs.append(1000 * busy)
    report.ratio(
        "deliveries beside a dead target, over without",
        *(f"deliveries {one}" for one in names[:0:-1]),
    )


async def _one_run(dsn: str, urls: list[str], others: tuple[str, ...]) -> tuple[float, float]:
    """Deliveries to `urls` in a second, and what one took of the process; as many jobs for `others` are between them."""
    options = settings(target_allowed=("127.0.0.1",), target_ports=("1-65535",))
    async with fresh_database(dsn, options) as database:
        async with _process(database, options):
            await _put(database, urls[:1], TARGETS)  # connections, statements, caches
            await _until_done(database, TARGETS)
        async with _process(database, options):
            await _put(database, urls, DELIVERIES, others)
            began = time.process_time()
            seconds = await _until_done(database, TARGETS + DELIVERIES)
            return DELIVERIES / seconds, (time.process_time() - began) / DELIVERIES


@asynccontextmanager
async def _process(database: Database, options: Settings) -> AsyncIterator[None]:
    handlers = Registry(policies)
    sender = bind(database, options, to=handlers)
    tending = Tending(database, sender.breakers, sender.connections)
    worker = Worker(database, options, handlers=handlers)
    await worker.start()
    await tending.start()
    try:
        yield
    finally:
        await tending.stop()
        await worker.stop()
        await sender.close()


async def _put(
    database: Database, urls: list[str], jobs: int, others: tuple[str, ...] = ()
) -> None:
    """Enqueue them in one transaction: they are there at one moment."""
    wanted = [url for number in range(jobs) for url in (urls[number % len(urls)], *others)]
    async with database.sessions.begin() as session:
        for first in range(0, len(wanted), BATCH):
            part = wanted[first : first + BATCH]
            await enqueue_batch(session, [NewJob(JOB_TYPE, _payload(url)) for url in part])


def _payload(url: str) -> dict[str, Any]:
    return {"url": url, "json": {"event": "invoice.paid", "invoice": 4711, "amount": "12.50"}}


async def _until_done(database: Database, jobs: int) -> float:
    """Seconds until so many jobs have succeeded."""
    began = time.perf_counter()
    connection = await database.connect()
    try:
        async with asyncio.timeout(LIMIT_SECONDS):
            while (  # noqa: ASYNC110 - what it looks at is in the database
                await connection.fetchval("SELECT count(*) FROM finmind_jobs.jobs_done") < jobs
            ):
                await asyncio.sleep(0.02)
    finally:
        await connection.close()
    return time.perf_counter() - began


@asynccontextmanager
async def _server() -> AsyncIterator[list[int]]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "benchmarks.target_server", str(TARGETS),
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        yield [int(port) for port in (await process.stdout.readline()).split()]
    finally:
        process.kill()
        await process.wait()
