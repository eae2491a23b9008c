"""How statements fail: drawn from the seed, until `over` is set."""

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final

from service.jobs import store
from tests.jobs.statements import values_of

LATE_SECONDS: Final = 1.8
"""A statement whose client has gone may still be carried out so much later: the engine looks for
what became of a lost claim for 2 s."""

TROUBLE_SECONDS: Final = 0.1
"""A statement that takes longer counts as trouble: it can explain that a lease ran out."""


class End(Enum):
    """How one statement ends."""

    WELL = "well"
    CUT_BEFORE = "cut before it was carried out"
    CUT_AFTER = "answer lost"
    LATE = "cut, and carried out a while later"
    SILENT_BEFORE = "request swallowed"
    SILENT_AFTER = "answer swallowed"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class Fate:
    """The fate of one statement: how long each part takes, and how it ends."""

    request_seconds: float
    held_seconds: float
    answer_seconds: float
    end: End

    @property
    def seconds(self) -> float:
        """How long it takes, if it ends well."""
        return self.request_seconds + self.held_seconds + self.answer_seconds

    @property
    def trouble(self) -> bool:
        """Whether it took long, or failed."""
        return self.end is not End.WELL or self.seconds > TROUBLE_SECONDS

    @property
    def silent(self) -> bool:
        """Whether its client gets no answer."""
        return self.end is End.SILENT_BEFORE or self.end is End.SILENT_AFTER


BAD_ENDS: Final = tuple(end for end in End if end is not End.WELL)

FENCED: Final = (
    store.claim.CLAIM.sql,
    store.lost_claims.RELEASE_LOST.sql,
    store.settle.FINISH.sql,
    store.settle.REQUEUE.sql,
    store.leases.EXTEND.sql,
)
"""Statements of which some fail more often than others in every second seed."""

SLOW_BYTES_PER_SECOND: Final = 60_000.0
"""How many bytes of results the server of some seeds records in a second."""

CALM: Final = Fate(0.0005, 0.0, 0.0005, End.WELL)


class FaultModel:
    """The faults of one seed: which kinds there are, and how often each strikes."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self.over = False
        """Whether everything goes well from now on."""
        quiet = rng.random() < 0.1
        self._unlucky = (
            frozenset(rng.sample(FENCED, rng.randint(1, 3)))
            if rng.random() < 0.5 and not quiet
            else frozenset[str]()
        )
        self._rates: list[tuple[End, float]] = [
            (end, rng.choice((0.005, 0.02, 0.08, 0.2)))
            for end in BAD_ENDS
            if rng.random() < 0.45 and not quiet
        ]
        self._latency = rng.choice((0.0002, 0.002, 0.02))
        self._slow = 0.0 if quiet else rng.choice((0.0, 0.0, 0.01, 0.1))
        self._held = 0.0 if quiet else rng.choice((0.0, 0.0, 0.02))
        self.bytes_per_second = rng.choice((math.inf, math.inf, SLOW_BYTES_PER_SECOND))
        self._refuses_connections = 0.0 if quiet else rng.choice((0.0, 0.0, 0.1, 0.4))

    def fate(self, statement: str) -> Fate:
        """The fate of the next statement."""
        if self.over:
            return CALM
        rng = self._rng
        end = next((end for end, rate in self._rates if rng.random() < rate), End.WELL)
        if statement in self._unlucky and rng.random() < 0.3:
            end = rng.choice(BAD_ENDS)
        return Fate(self._delay(), self._hold(), self._delay(), end)

    def seconds_for(self, statement: str, args: Sequence[Any]) -> float:
        """How long a statement takes for the bytes of results that it records, beside any fault."""
        if statement != store.settle.FINISH.sql:
            return 0.0
        results = values_of(store.settle.FINISH, args)["results"]
        return sum(len(result or "") for result in results) / self.bytes_per_second

    def connects(self) -> bool:
        """Whether the next connection comes about."""
        return self.over or self._rng.random() >= self._refuses_connections

    def late_seconds(self) -> float:
        """How long after its client has gone a statement is carried out."""
        return self._rng.random() * LATE_SECONDS

    def survives(self) -> bool:
        """Whether a statement whose connection was cut is carried out all the same."""
        return self._rng.random() < 0.5

    def pick(self, choices: "tuple[type[BaseException], ...]") -> "type[BaseException]":
        """One of several errors that mean the same."""
        return self._rng.choice(choices)

    def _delay(self) -> float:
        delay = self._latency * self._rng.random()
        if self._slow and self._rng.random() < self._slow:
            delay += self._rng.choice((0.05, 0.5, 2.0, 6.0)) * self._rng.random()
        return delay

    def _hold(self) -> float:
        if self._held and self._rng.random() < self._held:
            return self._rng.choice((0.05, 1.0, 4.0)) * self._rng.random()
        return 0.0
