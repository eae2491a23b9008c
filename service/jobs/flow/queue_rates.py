"""The rates of queues and of their keys, as one process knows them: how many may start, and when those held may.

It decides how many jobs a claim asks for and when held jobs are looked for. Whether a job starts is decided
by the database (`store/rate_limits.py`).
"""

import random
import time
from collections.abc import Iterable, Mapping
from typing import Final

from service.jobs.core.holds import rate_of
from service.jobs.core.queue_limits import Rate
from service.jobs.flow.look_times import LookTimes
from service.jobs.store.rate_limits import Turn

MAX_PAUSE_SECONDS: Final = 1.0
"""How long at most until the next look at a rate that holds jobs: it may have been changed."""

MAX_LOOKS: Final = 1000
"""Rates that one look asks for. Where more keys than these have jobs held, each is looked at more rarely."""

IN_USE_SECONDS: Final = 1.0
"""How long the turns of a queue are looked for after a job of it came, though none is held."""

GATHER_SECONDS: Final = 0.1
"""How long a look may be put off, so that it finds several turns, and one process at a time looks."""


class QueueRates:
    """How many jobs of each queue with a rate seem to be free to start, and the rates that hold jobs.

    A process that was told to wait by the rate of a queue looks at each turn from then on, and its claims ask
    for no more than the last look left; until a second has brought it no job of the queue. Before that it
    takes the whole rate for its own.
    """

    def __init__(self) -> None:
        self._free: dict[str, tuple[float, float]] = {}
        """How many seemed free of each queue, and when (monotonic)."""
        self._rates: Mapping[str, Rate] = {}
        """Those of queues."""
        self._queues: dict[str, str] = {}
        """The queues by the names of their rates."""
        self._known: object = None
        """All rates as they were read last."""
        self._looks = LookTimes()
        """When to look at each rate that holds jobs, as far as is known, or lately held some (monotonic)."""
        self._spare: dict[str, float] = {}
        """How many seconds later one may look at the rate of a queue without a loss."""
        self._came_at: dict[str, float] = {}
        """When the last job of each queue came, to start or to be held (monotonic)."""

    def read(
        self, free: Mapping[str, int], rates: Mapping[str, Rate], per_key: Mapping[str, Rate]
    ) -> None:
        """Take over what the database says, of queues and of their keys."""
        now = time.monotonic()
        if self._known != (rates, per_key):
            self._known = rates, per_key
            self.forget()
        known = {queue: one for queue, one in self._free.items() if rate_of(queue) in self._looks}
        self._free = {queue: (jobs, now) for queue, jobs in free.items() if queue in rates} | {
            queue: one for queue, one in known.items() if queue in rates
        }
        self._rates = rates
        self._queues = {rate_of(queue): queue for queue in self._free}

    def free(self, queue: str) -> int | None:
        """How many jobs of the queue a claim may ask for; None where it has no rate.

        Where none may start one is asked for, if its turns are not looked for yet: it is held, and so they are.
        """
        if queue not in self._free:
            return None
        return max(int(self._left(queue)), 0 if rate_of(queue) in self._looks else 1)

    def took(self, queue: str) -> None:
        """A job of the queue was admitted."""
        if queue in self._free:
            self._free[queue] = self._left(queue) - 1, time.monotonic()
            self._came_at[queue] = time.monotonic()

    def _left(self, queue: str) -> float:
        free, at = self._free[queue]
        if rate_of(queue) in self._looks:
            return free
        rate = self._rates[queue]
        return min(free + (time.monotonic() - at) * rate.limit / rate.per_seconds, rate.at_once)

    def held(self, held_for: str) -> None:
        """A job was held for this rate: none may start now."""
        if (queue := self._queues.get(held_for)) is not None:
            self._free[queue] = 0.0, time.monotonic()
            self._came_at[queue] = time.monotonic()
        self.holds_jobs(held_for)

    def holds_jobs(self, held_for: str) -> None:
        """Jobs are held for this rate."""
        if held_for not in self._looks:
            self._looks.set(held_for, 0.0)

    def forget(self) -> None:
        """Somebody changed a rate: look at all of them."""
        for held_for in self._looks:
            self._looks.set(held_for, 0.0)

    @property
    def next_look_at(self) -> float:
        """When one is to be looked at (monotonic); infinite while there is none."""
        return self._looks.next_at

    def to_look_at(self) -> list[str]:
        """Those that are to be looked at now, the longest due first."""
        return self._looks.due(time.monotonic(), limit=MAX_LOOKS)

    def looked(self, holds: Iterable[str], turns: Mapping[str, Turn]) -> list[str]:
        """Take over what a look at these found; those that hold jobs whose turn it is."""
        now = time.monotonic()
        for held_for in holds:
            turn, queue = turns.get(held_for), self._queues.get(held_for)
            if queue is not None and turn is not None and turn.free is not None:
                self._free[queue] = float(turn.free), now
                self._spare[held_for] = turn.spare_seconds
            if turn is None or not (turn.holds or self._is_in_use(queue, now)):
                self._looks.drop(held_for)
                self._spare.pop(held_for, None)
                continue
            # Half of what may be lost by it: the other half is for what is late for other reasons.
            put_off = random.random() * min(GATHER_SECONDS, turn.spare_seconds / 2)  # noqa: S311
            self._looks.set(held_for, now + min(turn.next_in_seconds + put_off, self._max_pause))
        return [
            name
            for name, turn in turns.items()
            if turn.holds and (turn.free is None or turn.free > 0)
        ]

    def _is_in_use(self, queue: str | None, now: float) -> bool:
        return queue is not None and now < self._came_at.get(queue, 0.0) + IN_USE_SECONDS

    def found_none(self, holds: Iterable[str]) -> None:
        """It was the turn of these, and this process could take no job: leave them to others for a while."""
        now = time.monotonic()
        for held_for in holds:
            if held_for in self._looks:
                pause = min(self._spare.get(held_for, float("inf")) / 2, self._max_pause)
                self._looks.set(held_for, max(now + pause, self._looks[held_for]))

    @property
    def _max_pause(self) -> float:
        return MAX_PAUSE_SECONDS * max(1.0, len(self._looks) / MAX_LOOKS)
