"""Jobs that are handed to their handler in groups: how a chunk fills, runs and ends.

Each job of a chunk keeps a task, a slot, a lease and a timeout of its own, as if it ran alone. Its task
waits here until the handler, which is called once for all of them, has settled the job.
"""

import asyncio
from collections.abc import Callable
from typing import Any

import structlog

from service.jobs.core.attempt import TooLate
from service.jobs.core.chunk import MAX_CHUNK_BYTES, ChunkRule
from service.jobs.handlers.chunk_job import ChunkJob
from service.jobs.handlers.registry import HandlerSpec
from service.jobs.handlers.stepping import loop_here
from service.jobs.worker.handler_threads import HandlerThreads
from service.jobs.worker.run import Run
from service.jobs.worker.slots import Slots
from service.observability.logging import JOB_FIELDS, get_logger
from service.observability.metrics import observe_chunk

_log = get_logger(__name__)


class Chunk:
    """Jobs of one type and queue that are handed to their handler together."""

    def __init__(self, handler: HandlerSpec, queue: str) -> None:
        self.handler = handler
        self.queue = queue
        self.members: dict[Run, ChunkJob[Any]] = {}
        self.bytes = 0
        self.timer: asyncio.TimerHandle | None = None
        self.task: asyncio.Task[None] | None = None
        self.begun = False
        """Whether the handler was called."""
        self.cancelled = False
        """Whether the handler was cancelled because none of its jobs was left."""

    def add(self, run: Run, job: ChunkJob[Any]) -> None:
        """Add one job."""
        self.members[run] = job
        self.bytes += len(run.job.payload)

    def leave(self, run: Run) -> None:
        """Remove a job before the handler gets it."""
        del self.members[run]
        self.bytes -= len(run.job.payload)

    def cancel(self) -> None:
        """Cancel the handler, once."""
        if not self.cancelled and self.task is not None:
            self.cancelled = True
            self.task.cancel()

    def end(self, error: BaseException | None) -> None:
        """Settle the jobs that the handler has not settled."""
        for job in self.members.values():
            job.end(error)


class Chunks:
    """Puts jobs together, and calls their handlers.

    A chunk starts when it is full, when its first job has waited long enough, or when no more can come:
    no slot is free, somebody waits for one, or the queue is paused or at its limit. Two kinds of jobs run
    alone: those that lost a lease, since one of them may have killed its process, and those on the last of
    several attempts, so that no job becomes a dead letter by the error of another.
    """

    def __init__(
        self, threads: HandlerThreads, *, slots: Slots, begin: Callable[[Run], None]
    ) -> None:
        self._threads = threads
        self._slots = slots
        self._begin = begin
        self._filling: dict[tuple[str, str], Chunk] = {}
        self._chunk_of: dict[Run, Chunk] = {}
        self._closed = False
        slots.on_wanted.add(self.hurry)

    async def join(self, run: Run, job: ChunkJob[Any]) -> Any:
        """Put one job into a chunk, and return its result or raise its error once it is settled.

        A job that is stopped while the handler runs is waited for, like a thread, until the handler settles
        it or ends.

        Raises:
            TooLate: it was stopped before the handler was called.
        """
        chunk = self._chunk_of[run] = self._put(run, job)
        try:
            return await job.outcome
        except asyncio.CancelledError:
            if run.stop is None:
                raise  # by the handler; or the process ends
        job.wait_again()
        if not chunk.begun:
            del self._chunk_of[run]
            chunk.leave(run)
            raise TooLate
        if all(one.stop is not None or one_job.settled for one, one_job in chunk.members.items()):
            chunk.cancel()
        return await job.outcome

    async def ended(self, run: Run) -> None:
        """Wait until the handler of its chunk has ended: a job keeps its slot for so long."""
        chunk = self._chunk_of.get(run)
        if chunk is None or chunk.task is None:
            return
        try:
            if not chunk.task.done():
                await asyncio.wait({chunk.task})
        finally:
            del self._chunk_of[run]

    def stopped(self, run: Run) -> None:
        """Cancel the handler where every job of its chunk was told to stop; this one is settled already."""
        chunk = self._chunk_of.get(run)
        if chunk is not None and all(one.stop is not None for one in chunk.members):
            chunk.cancel()

    def go_on_without(self, run: Run) -> bool:
        """Whether the handler of a job that was told to stop goes on for other jobs."""
        chunk = self._chunk_of.get(run)
        return chunk is not None and not chunk.cancelled

    def hurry(self) -> None:
        """Start the chunks that fill, once the jobs that were claimed with theirs have joined."""
        asyncio.get_running_loop().call_soon(self._start_all)

    def close(self) -> None:
        """Start the chunks that fill, and have no job wait for others any more."""
        self._closed = True
        self._slots.on_wanted.discard(self.hurry)
        self.hurry()

    def _put(self, run: Run, job: ChunkJob[Any]) -> Chunk:
        rule, key = run.handler.chunk, (run.job.job_type, run.job.queue)
        assert rule is not None, "only jobs of handlers with chunks come here"
        if run.job.lost_leases > 0 or (job.is_last_attempt and job.attempt > 1):
            chunk = Chunk(run.handler, run.job.queue)
            chunk.add(run, job)
            self._start(chunk)
            return chunk
        chunk = self._filling.get(key) or self._open(key, run, rule)
        if chunk.members and chunk.bytes + len(run.job.payload) > MAX_CHUNK_BYTES:
            self._start(chunk)
            chunk = self._open(key, run, rule)
        chunk.add(run, job)
        if len(chunk.members) >= rule.jobs:
            self._start(chunk)
        elif self._closed or not self._room(chunk.queue):
            # Jobs that were claimed with it join in this turn of the loop.
            asyncio.get_running_loop().call_soon(self._start, chunk)
        return chunk

    def _room(self, queue: str) -> bool:
        """Whether more jobs of the queue may come now."""
        return self._slots.free > 0 and self._slots.queues.allows(queue, 1) > 0

    def _open(self, key: tuple[str, str], run: Run, rule: ChunkRule) -> Chunk:
        chunk = self._filling[key] = Chunk(run.handler, run.job.queue)
        loop = asyncio.get_running_loop()
        chunk.timer = loop.call_later(rule.seconds, self._start, chunk)
        return chunk

    def _start_all(self) -> None:
        for chunk in list(self._filling.values()):
            self._start(chunk)

    def _start(self, chunk: Chunk) -> None:
        key = (chunk.handler.job_type, chunk.queue)
        if self._filling.get(key) is chunk:
            del self._filling[key]
        if chunk.timer is not None:
            chunk.timer.cancel()
        if not chunk.members or chunk.task is not None:
            return
        chunk.task = asyncio.create_task(self._run(chunk), name=f"chunk-{chunk.handler.job_type}")

    # -- one call of a handler ----------------------------------------------------------------

    async def _run(self, chunk: Chunk) -> None:
        JOB_FIELDS.set(None)  # it inherits those of the job that started the chunk
        structlog.contextvars.bind_contextvars(job_type=chunk.handler.job_type)
        error: BaseException | None = None
        try:
            await self._call(chunk)
        except (TooLate, asyncio.CancelledError) as stopped:
            error = stopped
        except BaseException as raised:
            if isinstance(raised, GeneratorExit) and loop_here() is None:
                raise  # not by the handler: the process ends
            error = raised
            _log.warning(
                "chunk_failed",
                queue=chunk.queue,
                not_settled=sum(not job.settled for job in chunk.members.values()),
                error=type(raised).__name__,
            )
        chunk.end(error)

    async def _call(self, chunk: Chunk) -> None:
        jobs: list[ChunkJob[Any]] = []
        function = chunk.handler.function
        if chunk.handler.is_async:
            self._call_begins(chunk, jobs)
            value = await function(jobs)
        else:
            value = await self._threads.call(
                function, (jobs,), begin=lambda: self._call_begins(chunk, jobs)
            )
        if value is not None and hasattr(value, "__await__"):
            value = await value  # of a plain decorator around a coroutine function
        if value is not None:
            _log.warning("chunk_value_ignored", queue=chunk.queue, returned=type(value).__name__)

    def _call_begins(self, chunk: Chunk, jobs: list[ChunkJob[Any]]) -> None:
        """Fill `jobs` with those that may begin now.

        Raises:
            TooLate: none of them may.
        """
        chunk.begun = True
        begun: list[Run] = []
        for run, job in sorted(chunk.members.items(), key=_position):
            try:
                self._begin(run)
            except TooLate as error:
                chunk.leave(run)
                del self._chunk_of[run]
                job.end(error)
            else:
                begun.append(run)
                jobs.append(job)
        if not jobs:
            raise TooLate
        for run in begun:
            run.chunk = len(jobs)
        structlog.contextvars.bind_contextvars(chunk_jobs=len(jobs))
        observe_chunk(chunk.handler.job_type, len(jobs))


def _position(member: tuple[Run, ChunkJob[Any]]) -> tuple[int, float, int]:
    """The position of a job in its queue: claims return jobs in no order."""
    job = member[0].job
    return job.priority, job.due_at, job.id
