"""Claims jobs while there is room for them."""

import asyncio
from collections.abc import Sequence
from typing import Final
from uuid import uuid4

from finmind_client.errors import ApiError, FinMindError
from finmind_client.worker import calls, clock
from finmind_client.worker.calls import Brought
from finmind_client.worker.connection import Connection, asked_pause, is_refusal, log
from finmind_client.worker.jobs import Jobs

REFUSED_SECONDS: Final = 60.0
"""How long a claim is tried that the service refuses: a key that was revoked, or is being replaced."""


class Claims:
    """One claim at a time, which waits at the service until a job is due."""

    def __init__(
        self,
        connection: Connection,
        jobs: Jobs,
        *,
        job_types: Sequence[str],
        queues: Sequence[str] | None,
        wait_seconds: float,
        stopping: asyncio.Event,
        hurrying: asyncio.Event,
    ) -> None:
        self._connection = connection
        self._jobs = jobs
        self._job_types = job_types
        self._queues = queues
        self._wait_seconds = wait_seconds
        self._stopping = stopping
        self._hurrying = hurrying
        self._refused_at: float | None = None

    async def run(self) -> None:
        """Claim until the worker stops.

        Raises:
            ApiError: the service has refused every claim for a minute.
        """
        pauses = clock.Pauses()
        request_id = uuid4().hex
        while not self._stopping.is_set():
            room = self._jobs.room
            if room <= 0:
                await self._some_room()
                continue
            try:
                # From before the claim: this view of a lease ends before the service's.
                asked_at = clock.now()
                brought = await self._claim(room, request_id)
            except FinMindError as error:
                self._check_refused(error)
                # The same request again: what it brought, and was not heard of, is brought again.
                await self._pause(pauses.after_failure(asked_pause(error)))
                continue
            if brought is None:
                return
            pauses.begin_anew()
            self._refused_at = None
            request_id = uuid4().hex
            for job in brought.jobs:
                if self._stopping.is_set():
                    self._jobs.give_back(job)
                else:
                    self._jobs.begin(job, asked_at=asked_at)
            if brought.drain:
                self._stopping.set()

    async def _claim(self, room: int, request_id: str) -> Brought | None:
        """What a claim brings; None where the worker is in a hurry to stop.

        When the worker stops, the service is asked to answer the claim. To hang up would leave a job behind
        that was just on its way.
        """
        call = calls.claim(
            self._connection.worker,
            job_types=self._job_types,
            queues=self._queues,
            limit=room,
            wait_seconds=self._wait_seconds,
            request_id=request_id,
        )
        claim = asyncio.create_task(self._connection.send(call), name="worker.claim")
        try:
            await self._first(claim, self._stopping)
            if not claim.done():
                try:
                    await self._connection.send(calls.stop(self._connection.worker))
                except FinMindError as error:
                    log.debug("The waiting claim is not called off: %s", error)
                await self._first(claim, self._hurrying)
            return await claim if claim.done() else None
        finally:
            claim.cancel()

    async def _first(self, claim: "asyncio.Task[Brought]", event: asyncio.Event) -> None:
        waiting = asyncio.create_task(event.wait(), name="worker.claim_event")
        try:
            await asyncio.wait({claim, waiting}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            waiting.cancel()

    async def _some_room(self) -> None:
        self._jobs.changed.clear()
        stopping = asyncio.create_task(self._stopping.wait(), name="worker.room_stop")
        changed = asyncio.create_task(self._jobs.changed.wait(), name="worker.room")
        try:
            # Reports that were taken make room as well, and tell nobody.
            await asyncio.wait(
                {stopping, changed}, timeout=0.1, return_when=asyncio.FIRST_COMPLETED
            )
        finally:
            stopping.cancel()
            changed.cancel()

    async def _pause(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._stopping.wait()
        except TimeoutError:
            pass

    def _check_refused(self, error: FinMindError) -> None:
        if not is_refusal(error):
            self._refused_at = None
            return
        assert isinstance(error, ApiError)
        now = clock.now()
        if self._refused_at is None:
            self._refused_at = now
            log.error("A claim was refused, and is tried for %.0f s: %s", REFUSED_SECONDS, error)
        elif now - self._refused_at >= REFUSED_SECONDS:
            raise error
