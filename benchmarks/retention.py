"""Retention: a day of finished jobs dropped while requests and a worker go on."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Final

from benchmarks.client import Client
from benchmarks.history import Contents, fill
from benchmarks.http import SECRET, serving
from benchmarks.scenario import PAYLOAD, Report, Scale, fresh_database, settings
from service.auth.principal import Role
from service.auth.tokens import make_token
from service.db.engine import Database
from service.jobs import Intake, NewJob, Registry, Worker, store
from service.jobs.maintenance import partitions

MAX_JOBS: Final = 1_000_000
RATE_PER_SECOND: Final = 200
KEPT_DAYS: Final = 7


@dataclass(slots=True)
class Waits:
    """How long calls of one kind took, with the moment that each began."""

    began: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)

    def add(self, began: float, ended: float) -> None:
        """One more."""
        self.began.append(began)
        self.seconds.append(ended - began)

    def longest(self, start: float, end: float) -> float:
        """The longest that was under way between two moments, in seconds."""
        return max(
            (
                took
                for began, took in zip(self.began, self.seconds, strict=True)
                if began <= end and began + took >= start
            ),
            default=0.0,
        )


async def measure(dsn: str, report: Report, scale: Scale) -> None:
    """Drop a day by the leader's own code, and see who waits; then the same with nothing dropped."""
    jobs = min(scale.history, MAX_JOBS)
    contents = Contents(finished=jobs, days=1, ended_days_ago=KEPT_DAYS + 1)
    for _ in range(scale.runs):
        # Its own maintenance must leave the old day to us.
        options = settings(retention_days=3650)
        async with fresh_database(dsn, options) as database:
            await fill(database, contents)
            await _measure_drop(database, report, seconds=scale.seconds)


async def _measure_drop(database: Database, report: Report, *, seconds: float) -> None:
    token = make_token(SECRET, role=Role.ADMIN, subject="bench", hours=8)
    headers = {"Authorization": f"Bearer {token}"}
    link = database.link()
    today = await store.partitions.today(link)
    command = ("-m", "service", "serve", "--no-worker", "--port", "0")
    waits = {name: Waits() for name in ("GET /admin/jobs", "POST /jobs", "enqueue to start")}
    stop = asyncio.Event()
    async with serving(database.dsn, *command) as port, asyncio.TaskGroup() as load:
        reader, writer = [await Client.connect(port, headers) for _ in range(2)]
        body = {"job_type": "elsewhere", "payload": PAYLOAD}
        load.create_task(_call(lambda: reader.get("/admin/jobs"), waits["GET /admin/jobs"], stop))
        load.create_task(_call(lambda: writer.post("/jobs", body), waits["POST /jobs"], stop))
        load.create_task(_work(database, waits["enqueue to start"], stop))
        await asyncio.sleep(2.0)  # connections, statements, caches
        quiet = time.perf_counter()
        await asyncio.sleep(seconds)
        began = time.perf_counter()
        await partitions.drop_before(link, today - timedelta(days=KEPT_DAYS))
        ended = time.perf_counter()
        await asyncio.sleep(1.0)  # files go, plans are made anew
        stop.set()
    await link.close()
    reader.close()
    writer.close()
    report.figure("retention, dropping a day", "ms", better="lower").runs.append(
        1000 * (ended - began)
    )
    for name, kind in waits.items():
        for when, start, end in (("dropping", began, ended + 1.0), ("before", quiet, began)):
            figure = report.figure(f"retention, longest {name}, {when}", "ms", better="lower")
            figure.runs.append(1000 * kind.longest(start, end))


async def _call(
    request: Callable[[], Awaitable[object]], waits: Waits, stop: asyncio.Event
) -> None:
    """One request after another, at the most one a hundredth of a second."""
    while not stop.is_set():
        began = time.perf_counter()
        await request()
        waits.add(began, time.perf_counter())
        await asyncio.sleep(max(0.0, 0.01 - (time.perf_counter() - began)))


async def _work(database: Database, waits: Waits, stop: asyncio.Event) -> None:
    """A worker of this process, given `RATE_PER_SECOND` jobs a second, each timed to its start."""
    handlers = Registry()
    called: dict[int, float] = {}

    @handlers.handler("stamp")
    async def stamp(payload: dict[str, int]) -> None:
        waits.add(called.pop(payload["n"]), time.perf_counter())

    options = settings(retention_days=3650)
    worker, intake = Worker(database, options, handlers=handlers), Intake(database, options)
    await worker.start()
    begin, number = time.perf_counter(), 0
    async with asyncio.TaskGroup() as calls:
        while not stop.is_set():
            when = begin + number / RATE_PER_SECOND
            await asyncio.sleep(max(0.0, when - time.perf_counter()))
            called[number] = when
            calls.create_task(intake.submit(NewJob("stamp", {"n": number})))
            number += 1
    await worker.stop()
    await intake.stop()
