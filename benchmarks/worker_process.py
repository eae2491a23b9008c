"""A worker in a process of its own that tells when it started each job.

Both sides read `time.monotonic()`: on Linux that is one clock for all processes of a machine. A
job's payload holds the moment from which its wait counts; the worker's process sends pairs of
doubles (that moment, the start of the handler) through a pipe while it runs.
"""

import asyncio
import json
import os
import sys
import time
from array import array
from bisect import bisect_left
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from operator import itemgetter

import uvloop

from benchmarks.drain import BATCH, SETTLE_MOST
from benchmarks.scenario import settings
from service.db.engine import Database
from service.heap import tune_garbage_collection
from service.jobs import Registry, Worker, store
from service.jobs.core.claimed_job import ClaimedJob
from service.jobs.core.lane import LANE_START, Lane, LaneRequest, Position
from service.jobs.core.outcomes import SUCCEEDED_EMPTY
from service.observability.logging import configure_logging
from service.settings import Settings

JOB_TYPE = "stamp"
SINCE = "since"
"""The payload's key for the moment from which the wait counts."""
SEND_SECONDS = 0.02
READY = (-1.0, -1.0)
PAIR_BYTES = 16
START_SECONDS = 30.0
BARE_SWEEP_SECONDS = 0.1
BARE_REST_SECONDS = 0.002
"""A bare worker's pause after a claim that was not full."""


class Starts(asyncio.Protocol):
    """What the worker's process has told so far."""

    def __init__(self) -> None:
        self.pairs = array("d")
        """Since when a job waited and when it was started, in turn."""
        self.ready = asyncio.Event()
        self._rest = b""
        self._news = asyncio.Event()
        self._by_since: list[tuple[float, float]] = []
        self._by_start: list[float] = []

    def data_received(self, data: bytes) -> None:
        data = self._rest + data
        whole = len(data) - len(data) % PAIR_BYTES
        self._rest = data[whole:]
        self.pairs.frombytes(data[:whole])
        if not self.ready.is_set() and tuple(self.pairs[:2]) == READY:
            del self.pairs[:2]
            self.ready.set()
        self._news.set()

    @property
    def count(self) -> int:
        """Jobs started."""
        return len(self.pairs) // 2

    async def reach(self, jobs: int, *, seconds: float) -> None:
        """Wait until that many jobs were started.

        Raises:
            TimeoutError: they were not within `seconds`.
        """
        async with asyncio.timeout(seconds):
            while self.count < jobs:
                self._news.clear()
                await self._news.wait()

    def waits(self, begin: float, end: float) -> list[float]:
        """The waits, in seconds, of the jobs whose wait began in that time."""
        self._sort()
        low, high = (bisect_left(self._by_since, at, key=itemgetter(0)) for at in (begin, end))
        return [started - since for since, started in self._by_since[low:high]]

    def started_between(self, begin: float, end: float) -> int:
        """How many jobs were started in that time."""
        self._sort()
        return bisect_left(self._by_start, end) - bisect_left(self._by_start, begin)

    def _sort(self) -> None:
        """Once, for all looks at what has come: each would else pass all the others' jobs."""
        if len(self._by_start) < self.count:
            self._by_start = sorted(self.pairs[1::2])
            self._by_since = sorted(zip(self.pairs[::2], self.pairs[1::2], strict=True))


@asynccontextmanager
async def worker_process(
    dsn: str, *, concurrency: int | None = None, bare: bool = False
) -> AsyncIterator[Starts]:
    """One running worker, stopped in good order at the end.

    Args:
        dsn: its database.
        concurrency: its slots, as many as the service's default where None.
        bare: claim and finish with the engine's SQL, and nothing else of the engine.
    """
    told, tell = os.pipe()
    task = Task(dsn, concurrency, bare, tell)
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "benchmarks.worker_process",
        json.dumps(asdict(task)),
        stdin=asyncio.subprocess.PIPE,
        pass_fds=(tell,),
    )
    os.close(tell)
    transport, starts = await asyncio.get_running_loop().connect_read_pipe(
        Starts, os.fdopen(told, "rb", buffering=0)
    )
    try:
        async with asyncio.timeout(START_SECONDS):
            await starts.ready.wait()
        yield starts
    finally:
        assert process.stdin is not None
        process.stdin.close()  # it ends when nobody is there to listen
        try:
            async with asyncio.timeout(START_SECONDS):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()
        transport.close()


@dataclass(frozen=True, slots=True)
class Task:
    """What the worker's process is told on its command line."""

    dsn: str
    concurrency: int | None
    bare: bool
    tell: int
    """The pipe's descriptor."""


async def _main(task: Task) -> None:
    slots = {} if task.concurrency is None else {"worker_concurrency": task.concurrency}
    options = settings(log_level="WARNING", **slots)  # on stderr: a stall shall have its reason
    configure_logging(options)
    database, pairs, over = Database(task.dsn, options), array("d", READY), asyncio.Event()
    # Nothing is sent: what there is to read is the end.
    asyncio.get_running_loop().add_reader(sys.stdin.fileno(), over.set)

    async def send() -> None:
        with os.fdopen(task.tell, "wb", buffering=0) as pipe:
            while True:
                if pairs:
                    pipe.write(pairs.tobytes())
                    del pairs[:]
                await asyncio.sleep(SEND_SECONDS)

    tune_garbage_collection()  # as a worker does before it takes work
    work = _work_bare(database, pairs, over) if task.bare else _work(database, options, pairs, over)
    async with asyncio.TaskGroup() as tasks:
        sending = tasks.create_task(send())
        await work
        sending.cancel()
    await database.close()


async def _work(
    database: Database, options: Settings, pairs: "array[float]", over: asyncio.Event
) -> None:
    handlers = Registry()

    @handlers.handler(JOB_TYPE)
    async def stamp(payload: dict[str, float]) -> None:
        pairs.append(payload[SINCE])
        pairs.append(time.monotonic())

    worker = Worker(database, options, handlers=handlers)
    await worker.start()
    await over.wait()
    await worker.stop()


async def _work_bare(database: Database, pairs: "array[float]", over: asyncio.Event) -> None:
    """Claim on one connection, finish on another, neither waiting for the other's answer."""
    waiting: list[ClaimedJob] = []
    async with asyncio.TaskGroup() as both:
        both.create_task(_claim_bare(database, pairs, waiting, over))
        both.create_task(_settle_bare(database, waiting, over))


async def _claim_bare(
    database: Database, pairs: "array[float]", waiting: list[ClaimedJob], over: asyncio.Event
) -> None:
    link = database.link()
    floor, next_sweep = LANE_START, 0.0
    while not over.is_set():
        if (now := time.monotonic()) >= next_sweep:  # what was committed late is below the floor
            floor, next_sweep = LANE_START, now + BARE_SWEEP_SECONDS
        claimed = await store.claim.take(
            link,
            [LaneRequest(Lane("default", 2), floor, BATCH)],
            [JOB_TYPE],
            limit=BATCH,
            lease_seconds=30.0,
            worker_id=1,
            max_errors=20,
        )
        for job in claimed:
            pairs.append(json.loads(job.payload)[SINCE])
            pairs.append(time.monotonic())
        if claimed:
            floor = min(Position(job.due_at, job.id) for job in claimed)
            waiting += claimed
        if len(claimed) < BATCH:
            await asyncio.sleep(BARE_REST_SECONDS)
    await link.close()


async def _settle_bare(database: Database, waiting: list[ClaimedJob], over: asyncio.Event) -> None:
    link = database.link()
    while waiting or not over.is_set():
        batch = waiting[:SETTLE_MOST]
        del waiting[:SETTLE_MOST]
        if batch:
            await store.settle.finish(
                link, [(job, SUCCEEDED_EMPTY) for job in batch], max_errors=20
            )
        else:
            await asyncio.sleep(BARE_REST_SECONDS)
    await link.close()


if __name__ == "__main__":
    uvloop.run(_main(Task(**json.loads(sys.argv[1]))))
