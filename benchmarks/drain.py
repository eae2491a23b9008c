"""Drain: how fast one worker process empties a full queue of jobs, history kept."""

import asyncio
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from benchmarks.scenario import PAYLOAD, Report, Scale, fresh_database, interleaved, settings
from service.db.engine import Database
from service.jobs import Backoff, JobContext, NewJob, Registry, Worker, enqueue_many, store
from service.jobs.core.claimed_job import ClaimedJob
from service.jobs.core.lane import LANE_START, Lane, LaneRequest, Position
from service.jobs.core.outcomes import SUCCEEDED_EMPTY
from service.jobs.maintenance import partitions
from service.jobs.worker.outbox import MAX_STATEMENT_BATCHES
from service.jobs.worker.settler import Settler
from service.settings import Settings

OURS = "drain, one worker process"
DEFAULT = "drain, the default configuration"
FLOOR = "drain, the same SQL from bare asyncpg"
BATCH = settings().claim_batch_size
SETTLE_MOST = BATCH * MAX_STATEMENT_BATCHES
MOST_WAITING = BATCH * Settler.MAX_BACKLOG_BATCHES
"""Of jobs that the floor has claimed and not begun to settle."""
AT_ONCE = Backoff(base_seconds=0.001, factor=1.0, jitter=0.0)
FILL_SECONDS = 600.0
"""Bound on one statement while a queue is filled or looked at."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What the jobs are, and how many of them may run at once."""

    payload: dict[str, Any] = field(default_factory=lambda: PAYLOAD)
    queues: tuple[str, ...] = ("default",)
    handler_seconds: float = 0.0
    fail_once_percent: int = 0
    """Of the jobs: those whose first attempt fails."""
    slots: int = 600
    keys: int = 0
    """Concurrency keys that the jobs have in turn; 0: they have none."""

    def jobs(self, count: int) -> Iterator[NewJob]:
        """The jobs, one at a time: a million of them need no more memory than one."""
        for number in range(count):
            yield NewJob(
                "fails_once" if self.fails(number) else "noop",
                self.payload,
                queue=self.queues[number % len(self.queues)],
                concurrency_key=f"customer:{number % self.keys}" if self.keys else None,
            )

    def fails(self, number: int) -> bool:
        """Whether the first attempt of the job of this number fails; spread evenly."""
        return number * 37 % 100 < self.fail_once_percent

    def settings(self) -> Settings:
        """The defaults of the service, but for the slots."""
        return settings(worker_concurrency=self.slots)


PLAIN = Load()
UNTUNED = Load(slots=settings().worker_concurrency)
"""The same for a worker whose operator has set nothing, as `make run` starts it."""


class Handlers(Registry):
    """What runs the jobs of a load, and counts."""

    def __init__(self, load: Load, jobs: int) -> None:
        super().__init__()
        self.succeeded = 0
        self.failed = 0
        self.first_after_seconds = 0.0
        """How long after this was made the first job ran."""
        self._made_at = time.perf_counter()
        self.done = asyncio.Event()
        """Set when as many runs as there are jobs have succeeded."""
        self._jobs = jobs
        self._seconds = load.handler_seconds
        self.handler("noop")(self._sleep if self._seconds else self._noop)
        self.handler("fails_once", backoff=AT_ONCE)(self._fail_once)

    async def _noop(self, _payload: object) -> None:
        self.succeeded += 1
        if self.succeeded == 1:
            self.first_after_seconds = time.perf_counter() - self._made_at
        if self.succeeded == self._jobs:
            self.done.set()

    async def _sleep(self, payload: object) -> None:
        await asyncio.sleep(self._seconds)
        await self._noop(payload)

    async def _fail_once(self, payload: object, context: JobContext) -> None:
        if context.attempt == 1:
            self.failed += 1
            raise RuntimeError("the first attempt fails")
        await self._noop(payload)


async def measure(dsn: str, report: Report, scale: Scale) -> None:
    """Ours tuned, ours by default and the floor in turn, and their ratios."""
    jobs = scale.jobs

    async def ours() -> None:
        report.figure(OURS, "jobs/s").runs.append(jobs / await drain(dsn, jobs))

    async def default() -> None:
        report.figure(DEFAULT, "jobs/s").runs.append(jobs / await drain(dsn, jobs, UNTUNED))

    async def floor() -> None:
        report.figure(FLOOR, "jobs/s").runs.append(jobs / await drain_bare(dsn, jobs))

    await interleaved(scale.runs, ours, default, floor)
    report.ratio("drain: ours / floor", OURS, FLOOR)
    report.ratio("drain: default configuration / ours", DEFAULT, OURS)


async def fill(database: Database, jobs: int, load: Load = PLAIN) -> None:
    """Enqueue the jobs, and let the server come to rest."""
    async with database.sessions.begin() as session:
        await enqueue_many(session, load.jobs(jobs))
    link = database.link()
    # Made once a day by whoever leads; in a new database it would fall into the measurement.
    await partitions.make_ahead(link, days=7)
    connection = await link.connection()
    await connection.execute("ANALYZE finmind_jobs.jobs_live", timeout=FILL_SECONDS)
    await connection.execute("CHECKPOINT", timeout=FILL_SECONDS)
    await link.close()


async def drain(dsn: str, jobs: int, load: Load = PLAIN) -> float:
    """Seconds from the start of one worker until every outcome is recorded.

    Raises:
        RuntimeError: some job did not run just as often as it should.
    """
    async with fresh_database(dsn, load.settings()) as database:
        await fill(database, jobs, load)
        seconds, handlers = await drain_filled(database, jobs, load)
        await check(database, jobs, load, succeeded=handlers.succeeded, failed=handlers.failed)
        return seconds


async def drain_filled(database: Database, jobs: int, load: Load = PLAIN) -> tuple[float, Handlers]:
    """The same for jobs that stand in a database already; the seconds, and who counted the runs."""
    handlers = Handlers(load, jobs)
    worker = Worker(database, load.settings(), handlers=handlers)
    started = time.perf_counter()
    await worker.start()
    async with asyncio.timeout(bound_seconds(jobs)):
        await handlers.done.wait()
    await worker.stop()  # returns when every outcome is recorded
    return time.perf_counter() - started, handlers


def bound_seconds(jobs: int) -> float:
    """A drain that takes longer hangs."""
    return 60 + jobs / 100


async def check(database: Database, jobs: int, load: Load, *, succeeded: int, failed: int) -> None:
    """Every job succeeded, on record too, and those that should failed once before; no other run.

    Raises:
        RuntimeError: it is not so.
    """
    fail = sum(load.fails(number) for number in range(jobs))
    wanted = [jobs, fail, jobs, fail, 0]
    connection = await database.connect()
    counts = await connection.fetchrow(
        "SELECT count(*) FILTER (WHERE status = 'SUCCESS'),"
        " count(*) FILTER (WHERE status = 'SUCCESS' AND attempts = 2),"
        " count(*) FILTER (WHERE status <> 'SUCCESS' OR attempts NOT IN (1, 2))"
        " FROM finmind_jobs.background_jobs",
        timeout=FILL_SECONDS,
    )
    await connection.close()
    found = [succeeded, failed, *(counts or ())]
    if found != wanted:
        raise RuntimeError(
            f"runs that succeeded, that failed; jobs recorded as succeeded, as retried, as "
            f"anything else: {found} instead of {wanted}"
        )


async def drain_bare(dsn: str, jobs: int, load: Load = PLAIN) -> float:
    """Claim and finish on two connections, as the worker does, and nothing else.

    The floor of loads that differ from the plain one in their payload alone.
    """
    async with fresh_database(dsn, settings()) as database:
        await fill(database, jobs, load)
        return await drain_filled_bare(database, jobs)


async def drain_filled_bare(database: Database, jobs: int, *, floors: bool = True) -> float:
    """The same for jobs that stand in a database already; without floors from the lane's start."""
    bare = _Bare(database, jobs, floors=floors)
    started = time.perf_counter()
    async with asyncio.timeout(bound_seconds(jobs)), asyncio.TaskGroup() as both:
        both.create_task(bare.claim())
        both.create_task(bare.settle())
    return time.perf_counter() - started


class _Bare:
    """Claims on one connection, settles on another, neither waiting for the other's answer.

    A settle waits until there is as much for it as one of the engine's takes at the most: the fewest
    statements and commits that the engine's batches allow.
    """

    def __init__(self, database: Database, jobs: int, *, floors: bool) -> None:
        self._claims, self._settles = database.link(), database.link()
        self._jobs = jobs
        self._floors = floors
        self._claimed: list[ClaimedJob] = []
        self._some, self._room = asyncio.Event(), asyncio.Event()

    async def claim(self) -> None:
        """Claim all the jobs."""
        floor, taken = LANE_START, 0
        while taken < self._jobs:
            claimed = await store.claim.take(
                self._claims,
                [LaneRequest(Lane("default", 2), floor, BATCH)],
                ["noop"],
                limit=BATCH,
                lease_seconds=30.0,
                worker_id=1,
                max_errors=20,
            )
            taken += len(claimed)
            if claimed and self._floors:
                floor = min(Position(job.due_at, job.id) for job in claimed)
            self._claimed += claimed
            self._some.set()
            while len(self._claimed) >= MOST_WAITING:
                self._room.clear()
                await self._room.wait()
        await self._claims.close()

    async def settle(self) -> None:
        """Finish them as they come."""
        settled = 0
        while settled < self._jobs:
            if len(self._claimed) < min(SETTLE_MOST, self._jobs - settled):
                self._some.clear()
                await self._some.wait()
                continue
            batch, self._claimed = self._claimed[:SETTLE_MOST], self._claimed[SETTLE_MOST:]
            self._room.set()
            await store.settle.finish(
                self._settles, [(job, SUCCEEDED_EMPTY) for job in batch], max_errors=20
            )
            settled += len(batch)
        await self._settles.close()
