"""One run of a worker, on an event loop of its own: from its registration to its stop."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import httpx

from finmind_client.errors import ApiError, FinMindError
from finmind_client.worker import calls, clock
from finmind_client.worker.attempt import Runner
from finmind_client.worker.calls import Registered
from finmind_client.worker.claims import Claims
from finmind_client.worker.connection import Connection, asked_pause, is_refusal, log
from finmind_client.worker.coroutines import HandlerLoop
from finmind_client.worker.handlers import Handler
from finmind_client.worker.heartbeat import Heartbeat
from finmind_client.worker.jobs import Jobs
from finmind_client.worker.notes import Notes
from finmind_client.worker.processes import HandlerProcesses
from finmind_client.worker.reports import Reports
from finmind_client.worker.threads import HandlerThreads

STOP_SECONDS: Final = 3.0
"""How long handlers that were told to stop may take, once the grace is over."""
HURRY_SECONDS: Final = 0.5
"""The same when the worker was told to stop twice."""
AGAIN_SECONDS: Final = 1.0
"""How soon a loop that broke begins again."""
REPORT_SECONDS: Final = 5.0
"""How long a worker that stops tries to send its last reports."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What a worker is made of."""

    url: str
    token: str | None
    name: str
    handlers: Mapping[str, Handler]
    queues: Sequence[str] | None
    concurrency: int
    version: str | None
    grace_seconds: float
    timeout_seconds: float
    max_result_bytes: int
    transport: httpx.AsyncBaseTransport | None


class Engine:
    """Claims, keeps, runs and reports jobs until it is to stop."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self._loop = asyncio.get_running_loop()
        self._stopping = asyncio.Event()
        self._hurrying = asyncio.Event()
        self._told_at: float | None = None
        """When somebody other than the service asked for the stop: the grace begins then."""
        size = options.max_result_bytes
        self._threads = HandlerThreads(max_result_bytes=size)
        self._coroutines = HandlerLoop(max_result_bytes=size)
        self._processes = HandlerProcesses(self._threads, max_result_bytes=size)

    def stop(self) -> None:
        """Stop in good order; asked for a second time, without a grace. From any thread, or a signal."""
        self._loop.call_soon_threadsafe(self._told_to_stop)

    def _told_to_stop(self) -> None:
        if self._told_at is not None:
            self._hurrying.set()
        else:
            self._told_at = time.monotonic()
            log.info("Stopping: no more claims, jobs may take %g s", self._options.grace_seconds)
        self._stopping.set()

    async def run(self) -> None:
        """Work until told to stop.

        Raises:
            ApiError: the service refuses this worker.
        """
        options = self._options
        try:
            async with Connection(
                options.url,
                token=options.token,
                worker=options.name,
                timeout_seconds=options.timeout_seconds,
                transport=options.transport,
            ) as connection:
                known = await self._register(connection)
                if known is not None:
                    await self._work(connection, known)
        finally:
            for runner in (self._coroutines, self._processes, self._threads):
                runner.close()

    async def _register(self, connection: Connection) -> Registered | None:
        """Begin; None where the worker is to stop before the service has answered."""
        options = self._options
        members: dict[str, Any] = {
            "job_types": sorted(options.handlers),
            "concurrency": options.concurrency,
            "policies": {name: one.policy for name, one in options.handlers.items() if one.policy},
        }
        for name in ("queues", "version"):
            if (value := getattr(options, name)) is not None:
                members[name] = value
        pauses = clock.Pauses()
        while not self._stopping.is_set():
            try:
                known = await connection.send(calls.register(options.name, **members))
            except FinMindError as error:
                if is_refusal(error):
                    raise
                try:
                    async with asyncio.timeout(pauses.after_failure(asked_pause(error))):
                        await self._stopping.wait()
                except TimeoutError:
                    pass
            else:
                log.info("%s claims %s", options.name, ", ".join(sorted(options.handlers)))
                return known
        return None

    async def _work(self, connection: Connection, known: Registered) -> None:
        options = self._options
        notes = Notes(connection)
        reports = Reports(connection, notes)
        jobs = Jobs(
            options.handlers,
            {name: self._runner_of(one) for name, one in options.handlers.items()},
            reports=reports,
            notes=notes,
            concurrency=options.concurrency,
        )
        heartbeat = Heartbeat(
            connection,
            jobs,
            seconds=known.heartbeat_seconds,
            on_drain=self._drained,
            on_beat=self._coroutines.look,
        )
        claims = Claims(
            connection,
            jobs,
            job_types=sorted(options.handlers),
            queues=options.queues,
            # No longer than heartbeats are apart, so that a lease is fresh when its job arrives.
            wait_seconds=min(known.heartbeat_seconds, known.max_wait_seconds),
            stopping=self._stopping,
            hurrying=self._hurrying,
        )
        refusal: ApiError | None = None
        async with asyncio.TaskGroup() as group:
            loops = [
                group.create_task(_kept(one.run), name=f"worker.{type(one).__name__.lower()}")
                for one in (heartbeat, reports, notes)
            ]
            try:
                await _kept(claims.run)
            except ApiError as error:
                refusal = error
                self._told_to_stop()
            await self._finish(jobs, reports)
            # After the last heartbeat, which would call the worker back to life.
            async with heartbeat.beating:
                for loop in loops:
                    loop.cancel()
        try:
            await connection.send(calls.stop(connection.worker))
        except FinMindError as error:
            log.warning("The service was not told of the stop: %s", error)
        if refusal is not None:
            raise refusal

    def _runner_of(self, handler: Handler) -> Runner:
        if handler.path is not None:
            return self._processes
        return self._coroutines if handler.is_async else self._threads

    def _drained(self) -> None:
        if not self._stopping.is_set():
            log.info("An operator asked for the drain: no more claims, jobs go on to their ends")
            self._stopping.set()

    async def _finish(self, jobs: Jobs, reports: Reports) -> None:
        """Let jobs end, and give the rest back."""
        while jobs.running and not self._grace_over():
            await _changed(jobs, 0.1)
        if jobs.running:
            jobs.stop_all("shutdown")
            seconds = HURRY_SECONDS if self._hurrying.is_set() else STOP_SECONDS
            until = time.monotonic() + seconds
            while jobs.running and time.monotonic() < until:
                await _changed(jobs, 0.1)
            jobs.give_all_back()
        if not await reports.none_left(REPORT_SECONDS):
            log.error("%d jobs could not be reported, and will run again", len(reports.leases))

    def _grace_over(self) -> bool:
        if self._hurrying.is_set():
            return True
        if self._told_at is None:  # drained: jobs have their own timeouts
            return False
        return time.monotonic() >= self._told_at + self._options.grace_seconds


async def _kept(run: Callable[[], Awaitable[None]]) -> None:
    """Run a loop to its end, and again where it broke: by a fault of this kit that costs no job its lease.

    Raises:
        ApiError: the service refuses this worker.
    """
    while True:
        try:
            return await run()
        except ApiError:
            raise
        except Exception:
            log.exception("A loop of the worker broke, and begins again")
            await asyncio.sleep(AGAIN_SECONDS)


async def _changed(jobs: Jobs, seconds: float) -> None:
    jobs.changed.clear()
    try:
        async with asyncio.timeout(seconds):
            await jobs.changed.wait()
    except TimeoutError:
        pass
