"""The job types as operators see them: what ended, what is to come, who serves them."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from sqlalchemy.ext.asyncio import AsyncSession

from service.jobs import store
from service.jobs.core.job import JobId
from service.jobs.read.attention import find_workers
from service.jobs.read.rates import REST, Rates, total, totals

LATEST: Final = 1000
"""Jobs of a type among which the slowest are found."""

MAX_SLOWEST: Final = 10


@dataclass(frozen=True, slots=True)
class TypeState:
    """One job type: what ended since some time, and how it stands."""

    name: str
    rates: Rates
    running: int
    pending: int
    retrying: int
    """Pending jobs that have failed before: retries to come."""
    workers: int
    """Live workers that serve it."""


@dataclass(frozen=True, slots=True)
class TypeList:
    """Job types in the order asked for; live jobs were counted up to a cap unless `exact`."""

    types: list[TypeState]
    exact: bool
    rest: Rates
    """Of types that were counted without their name."""


@dataclass(frozen=True, slots=True)
class SlowJob:
    """A job that took long."""

    id: JobId
    finished_at: datetime
    seconds: float


async def list_types(
    session: AsyncSession,
    *,
    since: datetime,
    cap: int,
    alive_seconds: float,
    rank: Callable[[str, Rates], Any],
    named: str = "",
) -> TypeList:
    """Every type that ended jobs since, holds live ones, or is served.

    Args:
        session: read in its transaction.
        since: from when on what ended is counted.
        cap: limit on the live jobs counted.
        alive_seconds: a worker seen within this time counts as alive.
        rank: types are sorted by it; durations are read of the first `rates.MAX_TIMED_NAMES`.
        named: only types whose name holds this, in any case.
    """
    standing = await _standing(session, cap=cap, alive_seconds=alive_seconds)

    def wanted(name: str) -> bool:
        return named.lower() in name.lower()

    rates = await totals(session, since=since, by="job_type", rank=rank, wanted=wanted)
    rest = rates.pop(REST, Rates())
    idle = sorted(name for name in standing.names - rates.keys() if wanted(name))
    types = [standing.state(name, rates.get(name, Rates())) for name in (*rates, *idle)]
    return TypeList(types, standing.exact, rest)


async def get_type(
    session: AsyncSession, name: str, *, since: datetime, cap: int, alive_seconds: float
) -> tuple[TypeState, bool]:
    """One type, known or not, and whether all live jobs were counted; as `list_types` has it."""
    standing = await _standing(session, cap=cap, alive_seconds=alive_seconds)
    return standing.state(name, await total(session, since=since, job_type=name)), standing.exact


async def find_slowest(session: AsyncSession, job_type: str) -> list[SlowJob]:
    """The slowest of the latest `LATEST` jobs of a type that succeeded."""
    rows = await store.type_states.slowest(session, job_type, latest=LATEST, limit=MAX_SLOWEST)
    return [SlowJob(JobId(row.id), row.finished_at, max(0.0, row.seconds)) for row in rows]


@dataclass(frozen=True, slots=True)
class _Standing:
    """What lives now, by type."""

    live: dict[str, Any]
    served: dict[str, int]

    @property
    def names(self) -> set[str]:
        return {*self.live, *self.served}

    @property
    def exact(self) -> bool:
        return all(row.is_exact for row in self.live.values())

    def state(self, name: str, rates: Rates) -> TypeState:
        row = self.live.get(name)
        return TypeState(
            name=name,
            rates=rates,
            running=row.running if row else 0,
            pending=row.pending if row else 0,
            retrying=row.retrying if row else 0,
            workers=self.served.get(name, 0),
        )


async def _standing(session: AsyncSession, *, cap: int, alive_seconds: float) -> _Standing:
    workers = await find_workers(session, alive_seconds=alive_seconds)
    live = await store.type_states.live(session, cap=cap)
    return _Standing({row.job_type: row for row in live}, workers.served)
