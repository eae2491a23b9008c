"""Starts what was claimed: in free slots, and a turn later where handlers wait for nothing."""

import asyncio
import time
from collections import deque
from collections.abc import Sequence
from typing import Final

from service.jobs.core.claimed_job import ClaimedJob
from service.jobs.worker.executor import Executor
from service.jobs.worker.rescue import note_rescued
from service.jobs.worker.slots import Slots
from service.observability.metrics import observe_batch

AHEAD_SECONDS: Final = 0.02
"""Limit on the turns that jobs are claimed ahead for: handlers that wait for nothing may compute."""


class Starter:
    """Starts claimed jobs, as many as slots are free.

    A claim brings no more than that, with one exception. Where the jobs of a claim have all ended
    after one turn of the event loop, their handlers wait for nothing, and the next claim may bring
    as many jobs again as that one did beside those that slots are free for: they start a turn
    later. With 100 slots claims are of 200 then; a statement costs nearly as much for half of that.
    What finds no slot in its turn is given back at once, its attempt not counted, so that no job
    waits here behind a handler that waits.
    """

    def __init__(self, *, slots: Slots, executor: Executor) -> None:
        self._slots = slots
        self._executor = executor
        self._brought = 0
        """How many jobs the last claim brought."""
        self._used_before = 0
        """How many slots were taken before those."""

    async def ahead(self) -> int:
        """How many jobs more than slots are free the next claim may bring.

        Takes one turn of the event loop.
        """
        began = time.monotonic()
        await asyncio.sleep(0)
        ended = self._slots.used <= self._used_before
        return self._brought if ended and time.monotonic() - began < AHEAD_SECONDS else 0

    async def start(self, jobs: Sequence[ClaimedJob], *, lease_deadline: float) -> None:
        """Start the jobs, and give back those that no slot comes free for."""
        self._brought, self._used_before = len(jobs), self._slots.used
        if not jobs:
            return
        observe_batch("claim", len(jobs))
        note_rescued(jobs)
        if len(jobs) > self._slots.free:  # they come in no order, and not all of them start now
            jobs = sorted(jobs, key=lambda job: (job.priority, job.due_at, job.id))
        left = deque(jobs)
        until = time.monotonic() + AHEAD_SECONDS
        try:
            self._fill_slots(left, lease_deadline)
            while left and time.monotonic() < until:
                await asyncio.sleep(0)
                if not self._slots.free:
                    break
                self._fill_slots(left, lease_deadline)
        finally:
            for job in left:
                self._executor.give_back(job, lease_deadline=lease_deadline)

    def _fill_slots(self, left: deque[ClaimedJob], lease_deadline: float) -> None:
        while left and self._slots.free:
            job = left.popleft()
            self._slots.take(job.queue)
            self._executor.start(job, lease_deadline=lease_deadline)
