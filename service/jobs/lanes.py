"""Which lanes to claim from, in which order, and from which floor."""

import random
import time
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from service.jobs.model import JobId
from service.jobs.slots import Slots
from service.jobs.store import NO_FLOOR, ClaimedJob, Floor, Lane, LaneHead, LaneRequest
from service.jobs.sweep import WHOLE, Sweep

FLOOR_WINDOW_SECONDS: Final = 0.1
"""A floor is the lowest place claimed within this time: jobs committed a little late are still
above it. Later ones wait for the next sweep."""

MAX_LANES: Final = 1000
"""Lanes listed at once. Where there are more, one listing goes on behind the last."""


@dataclass(slots=True)
class _LaneState:
    recent: deque[tuple[float, Floor]] = field(default_factory=deque)
    """When (monotonic) and where the last claims began; the floor is the lowest of them."""
    fresh: bool = False
    """Whether a wake-up named the lane, or a claim found jobs in it, since lanes were last listed:
    where a listing does not reach it, it stays until the next."""


class Lanes:
    """The lanes that this worker knows to hold jobs. Refreshed from the table; wake-ups add to it."""

    def __init__(self, queues: tuple[str, ...], slots: Slots) -> None:
        self._served = {entry.partition(":")[0] for entry in queues}
        self._slots = slots
        self._states: dict[Lane, _LaneState] = {}
        self._sweep = Sweep()

    @property
    def served(self) -> list[str] | None:
        """The queues that this worker is bound to; None for all."""
        return None if "*" in self._served else sorted(self._served)

    def known(self) -> list[Lane]:
        """The lanes that claims ask for."""
        return list(self._states)

    def serves(self, queue: str) -> bool:
        """Whether this worker takes jobs of the queue."""
        return "*" in self._served or queue in self._served

    def add(self, lanes: Iterable[Lane]) -> None:
        """A wake-up named these."""
        for lane in lanes:
            # Beside those that are listed, which are as many at the most.
            if self.serves(lane.queue) and len(self._states) < 2 * MAX_LANES:
                self._states.setdefault(lane, _LaneState()).fresh = True

    def replace(self, heads: Iterable[LaneHead]) -> bool:
        """Take over what the table lists; whether a lane is due that was not known before."""
        listed = [head for head in heads if self.serves(head.lane.queue)]
        found = any(head.due_in_seconds <= 0 and head.lane not in self._states for head in listed)
        standing = {lane: state for lane, state in self._states.items() if state.fresh}
        for state in standing.values():
            state.fresh = False
        self._states = standing | {
            head.lane: self._states.get(head.lane) or _LaneState() for head in listed
        }
        return found

    def requests(self, *, most: int, from_floor: bool) -> list[LaneRequest]:
        """What to ask of each lane: the most urgent priority first.

        Queues of one priority come in a random order, so that none starves.
        """
        low, due_before = (0.0, WHOLE) if from_floor else self._sweep.slice
        order = sorted(self._states, key=lambda lane: (lane.priority, random.random()))  # noqa: S311
        requests = []
        for lane in order:
            free = min(most, self._slots.free_for(lane.queue))
            if free > 0:
                floor = self._floor(lane) if from_floor else Floor(low, 0)
                requests.append(LaneRequest(lane, floor, free, due_before))
        return requests

    def claimed(self, jobs: Iterable[ClaimedJob], *, from_floor: bool, full: bool) -> None:
        """Note where a claim began in each lane.

        A sweep that found a few stragglers leaves the floors where they are; one that came back
        full says that there is more down there, and takes the floors down with it.
        """
        lowest: dict[tuple[str, int], tuple[float, JobId]] = {}
        for job in jobs:
            lane, place = (job.queue, job.priority), (job.due_at, job.id)
            if lane not in lowest or place < lowest[lane]:
                lowest[lane] = place
        now = time.monotonic()
        for lane, place in lowest.items():
            state = self._states.get(Lane(*lane))
            if state is None:
                continue
            state.fresh = True
            self._sweep.saw(place[0])
            if from_floor or full or not state.recent:
                if full and not from_floor:
                    state.recent.clear()
                state.recent.append((now, Floor(*place)))

    @property
    def sweeps_whole(self) -> bool:
        """Whether the next sweep takes all that is due, above the floors as below them."""
        return self._sweep.slice == (-WHOLE, WHOLE)

    def swept(self, took_seconds: float, *, full: bool) -> None:
        """A claim below the floors was made: the next sweeps what comes after it."""
        self._sweep.stepped(took_seconds, full=full)

    def _floor(self, lane: Lane) -> Floor:
        recent = self._states[lane].recent
        if not recent:
            return NO_FLOOR
        limit = time.monotonic() - FLOOR_WINDOW_SECONDS
        while len(recent) > 1 and recent[0][0] < limit:
            recent.popleft()
        return min(place for _, place in recent)
