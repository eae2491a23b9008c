"""Starts what was claimed: in free slots, and a turn later where handlers wait for nothing."""

import asyncio
import time
from collections import Counter, deque
from collections.abc import Iterable, Sequence
from typing import Final

from service.jobs.core.attempt import Attempt
from service.jobs.core.claimed_job import ClaimedJob
from service.jobs.core.encoding import MAX_STATEMENT_BYTES
from service.jobs.worker.rescue import note_rescued
from service.jobs.worker.runner import Runner
from service.jobs.worker.slots import Slots
from service.observability.metrics import observe_batch

AHEAD_SECONDS: Final = 0.02
"""Limit on the turns that jobs are claimed ahead for: handlers that wait for nothing may compute."""


class Starter:
    """Starts claimed jobs, as many as slots are free.

    A claim brings no more than that, with one exception. Where the jobs of a claim have all ended
    after one turn of the event loop, their handlers are instant: they wait for nothing. Then the
    next claim may bring as many jobs again as that one did beside those that slots are free for:
    they start a turn later. With 100 slots claims are of 200 then; a statement costs nearly as much
    for half of that. Nor does that claim wait until the last of the jobs have had their turn. What
    finds no slot in its turn is given back at once, its attempt not counted, so that no job waits
    here behind a handler that waits.
    """

    def __init__(self, *, slots: Slots, executor: Runner) -> None:
        self._slots = slots
        self._executor = executor
        self._next_ahead = 0
        """How many jobs the next claim may bring ahead; 0 where some of these were given back."""
        self._used_before = 0
        """How many slots were taken before those."""
        self.given_back: set[Attempt] = set()
        """Which of those were given back."""
        self._instant = False
        """Whether those were instant, but for the last of them, which have their turn yet."""

    async def ahead(self) -> int:
        """How many jobs more than slots are free the next claim may bring.

        Takes a turn of the event loop where the last start took none.
        """
        instant = self._instant or await self._take_turn()
        self._instant = False
        return self._next_ahead if instant else 0

    async def start(self, jobs: Sequence[ClaimedJob], *, lease_deadline: float) -> None:
        """Start the jobs, and give back those that no slot comes free for."""
        self._next_ahead, self._used_before = self._again(jobs), self._slots.used
        self._instant = False
        if not jobs:
            return
        observe_batch("claim", len(jobs))
        note_rescued(jobs)
        if len(jobs) > self._slots.free:  # they come in no order, and not all of them start now
            jobs = _in_order(jobs)
        left = deque(jobs)
        until = time.monotonic() + AHEAD_SECONDS
        try:
            self._fill_slots(left, lease_deadline)
            instant = bool(left)
            while left:
                instant = await self._take_turn() and instant
                if not self._slots.free or time.monotonic() >= until:
                    break
                self._fill_slots(left, lease_deadline)
            self._instant = instant and not left
        finally:
            if left:  # a claim of as many again would bring these, only to give them back
                self._next_ahead = 0
            self.given_back = {
                self._executor.give_back(job, lease_deadline=lease_deadline) for job in left
            }

    def give_back(self, jobs: Iterable[ClaimedJob], *, lease_deadline: float) -> None:
        """Give back jobs that cannot start here."""
        self.given_back |= {
            self._executor.give_back(job, lease_deadline=lease_deadline) for job in jobs
        }

    def _again(self, jobs: Sequence[ClaimedJob]) -> int:
        """How many jobs the next claim may bring ahead, if these are instant.

        As many as these, up to twice the slots: a crash costs each of them an attempt. None where
        payloads are large: they wait in memory.
        """
        if sum(len(job.payload) for job in jobs) > MAX_STATEMENT_BYTES:
            return 0
        return min(len(jobs), 2 * self._slots.total)

    async def _take_turn(self) -> bool:
        """Let the event loop come round once; whether all that was started ended, and soon."""
        began = time.monotonic()
        await asyncio.sleep(0)
        return self._slots.used <= self._used_before and time.monotonic() - began < AHEAD_SECONDS

    def _fill_slots(self, left: deque[ClaimedJob], lease_deadline: float) -> None:
        take, start = self._slots.take, self._executor.start
        for _ in range(min(len(left), self._slots.free)):
            job = left.popleft()
            take(job.queue)
            start(job, lease_deadline=lease_deadline)


def _in_order(jobs: Sequence[ClaimedJob]) -> list[ClaimedJob]:
    """Those of each queue in order, and queues in turn: what comes last may find no slot."""
    order = sorted(jobs, key=lambda job: (job.priority, job.due_at, job.id))
    if len({job.queue for job in order}) == 1:
        return order
    before = Counter[str]()
    turns: list[tuple[int, int]] = []
    for place, job in enumerate(order):
        turns.append((before[job.queue], place))
        before[job.queue] += 1
    return [order[place] for _, place in sorted(turns)]
