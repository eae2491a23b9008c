"""How claims of queues whose concurrency keys take turns go round those keys."""

import random
import time
from collections import Counter, deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Final

from service.jobs.core.claimed_job import ClaimedJob
from service.jobs.core.lane import MAX_LANES, KeysRequest, KeysWalk, Lane, LaneRequest

KEY_CHARS: Final = 255
"""Of a key so many are compared."""

SLOW_SECONDS: Final = 0.05
VAIN_SHARE: Final = 0.1
"""A lane whose keys were looked at in vain for longer than that is left alone until this share of the time
went into it."""

Part = list[LaneRequest] | KeysRequest
"""One claim: of lanes, or of the keys of one."""


@dataclass(slots=True)
class _Turn:
    """Where the claims of one lane have come to."""

    last_key: str = ""
    keys: int = 1
    """How many have due jobs, as far as is known; at first nobody knows."""
    counted: int = 0
    """How many of them this time round."""
    vain_from: str | None = None
    """Where looks that found nothing began, while they go on over several claims."""
    vain_seconds: float = 0.0
    """How long they have taken."""
    rests_until: float = 0.0
    """Monotonic."""

    def count(self, keys: int, *, walk_ends: bool) -> None:
        """A claim found jobs of so many keys; `walk_ends`: it came to the end of the keys."""
        self.counted += keys
        if walk_ends:
            self.keys, self.counted = self.counted, 0
        else:
            self.keys = max(self.keys, self.counted)


class KeyTurns:
    """Keeps, for each lane of such a queue, the key behind which its next claim begins.

    A claim takes as many jobs of each key, the first that are due. Where it comes to all keys of the
    lane, the next one begins a key further on, so that what does not divide evenly goes to each in turn.
    Jobs without a key count as one key more: a claim of their own takes as many of them.
    """

    def __init__(self, *, longest_rest_seconds: float) -> None:
        self._longest_rest_seconds = longest_rest_seconds
        self._turns: dict[Lane, _Turn] = {}
        self._parts: deque[Part] = deque()
        """What is left to ask for in this round."""
        self._left: dict[str, int] = {}
        """How many more jobs it may bring of each queue whose keys take turns."""

    def start(self, requests: Sequence[LaneRequest], limit: int) -> None:
        """Begin a round of claims: what it asks of each lane, for up to `limit` jobs of all."""
        self._left = {request.lane.queue: request.limit for request in requests if request.unkeyed}
        self._parts = deque(self._divide(requests, limit))

    def next(self, limit: int) -> Part | None:
        """The next claim of the round, for up to `limit` jobs; None where there is none."""
        while self._parts:
            part = self._parts.popleft()
            if isinstance(part, KeysRequest):
                jobs = min(self._left[part.lane.queue], part.limit, limit)
                if jobs > 0:
                    return part._replace(limit=jobs)
                continue
            lanes = [request for request in map(self._within, part) if request.limit > 0]
            if lanes:
                return lanes
        return None

    def _within(self, request: LaneRequest) -> LaneRequest:
        left = self._left.get(request.lane.queue, request.limit)
        return request._replace(limit=min(left, request.limit)) if request.unkeyed else request

    def took(self, jobs: Iterable[ClaimedJob]) -> None:
        """A claim of the round brought these."""
        if self._left:
            for job in jobs:
                if job.queue in self._left:
                    self._left[job.queue] -= 1

    def _divide(self, requests: Sequence[LaneRequest], limit: int) -> list[Part]:
        """Make parts of it: a claim for the keys of each lane where keys take turns, and of lanes around them."""
        if not any(request.unkeyed for request in requests):
            return [list(requests)] if requests else []
        parts: list[Part] = []
        lanes: list[LaneRequest] = []
        left = limit
        for _, of_queue in groupby(requests, key=lambda request: request.lane.queue):
            group = list(of_queue)
            if not group[0].unkeyed:
                lanes += group
                left -= group[0].limit
                continue
            lanes += self.of_those_without(group, left)
            if lanes:
                parts.append(lanes)
            parts += [self._request(request) for request in group if self._awake(request.lane)]
            left -= group[0].limit
            lanes = group  # what keys leave is for those without
        return [*parts, lanes] if lanes else parts

    def of_those_without(self, requests: Iterable[LaneRequest], limit: int) -> list[LaneRequest]:
        """The same requests, where keys take turns for no more jobs without one than their share is.

        Args:
            requests: of lanes, queue by queue as their turn is.
            limit: how many jobs the claim may bring.
        """
        shares, left = [], limit
        for _, of_queue in groupby(requests, key=lambda request: request.lane.queue):
            group = list(of_queue)
            asked = group[0].limit
            if group[0].unkeyed:
                keys = sum(self._turn(request.lane).keys for request in group)
                jobs = min(group[0].limit, max(left, 0))  # others may take theirs before
                # By chance what does not divide evenly: claims of a single job come to either.
                share = int(jobs / (keys + 1) + random.random())  # noqa: S311
                group = [request._replace(limit=share) for request in group if share]
            left -= asked
            shares += group
        return shares

    def _request(self, request: LaneRequest) -> KeysRequest:
        return KeysRequest(request.lane, self._turn(request.lane).last_key, request.limit)

    def _awake(self, lane: Lane) -> bool:
        return self._turn(lane).rests_until <= time.monotonic()

    def _turn(self, lane: Lane) -> _Turn:
        turn = self._turns.get(lane)
        if turn is None:
            while len(self._turns) >= 2 * MAX_LANES:
                del self._turns[next(iter(self._turns))]
            turn = self._turns[lane] = _Turn()
        return turn

    def returned(
        self,
        request: KeysRequest,
        jobs: Iterable[ClaimedJob],
        walk: KeysWalk | None,
        *,
        took_seconds: float,
    ) -> bool:
        """Take in what a claim by keys brought.

        Args:
            request: what it asked for.
            jobs: what came.
            walk: how far it went; None where it was refused.
            took_seconds: how long it took.

        Returns:
            Whether the lane may hold more.
        """
        turn = self._turn(request.lane)
        brought = Counter((job.concurrency_key or "")[:KEY_CHARS] for job in jobs)
        turn.count(len(brought), walk_ends=walk is None or walk.last_key <= request.after_key)
        if walk is None:
            return True
        if brought:
            turn.vain_from, turn.vain_seconds = None, 0.0
            # A claim that came to all begins with the second of them the next time.
            turn.last_key = (
                min(brought, key=lambda key: (key <= request.after_key, key))
                if walk.whole
                else walk.last_key
            )
            return True
        return self._found_none(turn, request.after_key, walk, took_seconds)

    def _found_none(self, turn: _Turn, after_key: str, walk: KeysWalk, took_seconds: float) -> bool:
        """None of the keys up to there has a free job; whether there are others to look at."""
        turn.vain_seconds += took_seconds
        turn.last_key = walk.last_key
        if turn.vain_from is None:
            turn.vain_from = after_key
            went_round = walk.whole
        else:
            went_round = walk.whole or _passes(after_key, walk.last_key, turn.vain_from)
        if went_round:
            if turn.vain_seconds > SLOW_SECONDS:
                rest = min(turn.vain_seconds / VAIN_SHARE, self._longest_rest_seconds)
                turn.rests_until = time.monotonic() + rest
            turn.vain_from, turn.vain_seconds = None, 0.0
        return not went_round


def _passes(start: str, end: str, key: str) -> bool:
    """Whether a way round from behind one key up to another comes to this one."""
    if start < end:
        return start < key <= end
    return key > start or key <= end
