"""What operators should look at first, as far as jobs and workers tell it."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from sqlalchemy.ext.asyncio import AsyncSession

from service.db.session import schema_of
from service.jobs import store
from service.jobs.core.causes import CauseGroup
from service.jobs.read.causes import group_of

WALK: Final = 200
"""Jobs of each lane that are looked at for types that nobody serves."""

DUE_SECONDS: Final = 60.0
"""A job that nobody serves is told of once it has been due so long."""


@dataclass(frozen=True, slots=True)
class UnnamedDead:
    """Jobs of a type that became DEAD_LETTER or FAILED lately, and whose cause nobody has named yet."""

    job_type: str
    jobs: int
    exact: bool
    """False: there may be more."""
    first_at: datetime
    last_error: str | None


@dataclass(frozen=True, slots=True)
class UnresolvedCauses:
    """Causes with dead letters that nobody has resolved or ignored."""

    worst: list[CauseGroup]
    """Those that killed most jobs lately come first; without trends."""
    causes: int
    """How many there are."""
    jobs: int
    """Dead letters of all of them."""


@dataclass(frozen=True, slots=True)
class UnservedType:
    """A type that no worker serves, and whose jobs wait."""

    job_type: str
    jobs: int
    served_at: datetime
    """When some worker served it last, to the hour."""


@dataclass(frozen=True, slots=True)
class Workers:
    """The workers that have not stopped in good order."""

    alive: int
    slots: int
    """Jobs that those alive can run at once."""
    served: dict[str, int]
    """How many of those alive serve each job type."""
    lost: list[tuple[str, datetime]]
    """Name of each that was not seen lately, and when it was seen last."""


async def unnamed_since(session: AsyncSession, since: datetime) -> list[UnnamedDead]:
    """What became DEAD_LETTER or FAILED since and has no cause yet, by type, most first."""
    await schema_of(session)
    return [
        UnnamedDead(row.job_type, row.jobs, row.exact, row.first_at, row.last_error)
        for row in await store.attention.unnamed_since(session, since)
    ]


async def unresolved_causes(
    session: AsyncSession, since: datetime, *, limit: int
) -> tuple[UnresolvedCauses, UnresolvedCauses]:
    """Causes that were seen since, and those that were not; from kept counts, `limit` by name of each."""
    rows = await store.cause_listing.unresolved(session, since=since, limit=limit)
    fresh = [row for row in rows if row.is_fresh]
    stale = [row for row in rows if not row.is_fresh]
    return _causes(fresh), _causes(stale)


def _causes(rows: Sequence[Any]) -> UnresolvedCauses:
    worst = [group_of(row) for row in rows]
    if not worst:
        return UnresolvedCauses([], 0, 0)
    return UnresolvedCauses(worst, rows[0].causes, rows[0].all_jobs)


async def find_workers(session: AsyncSession, *, alive_seconds: float) -> Workers:
    """Who works, and who is missing; a worker seen within `alive_seconds` counts as alive."""
    await schema_of(session)
    rows = await store.attention.workers(session, alive_seconds=alive_seconds)
    served: dict[str, int] = {}
    for row in rows:
        if row.is_alive:
            for job_type in row.job_types:
                served[job_type] = served.get(job_type, 0) + 1
    alive = [row for row in rows if row.is_alive]
    return Workers(
        alive=len(alive),
        slots=sum(row.concurrency for row in alive),
        served=served,
        lost=[(row.name, row.seen_at) for row in rows if not row.is_alive],
    )


async def find_unserved(session: AsyncSession, served: dict[str, int]) -> list[UnservedType]:
    """Types outside of `served` whose due jobs wait for a worker, most first.

    Types that no worker ever served, or not for `SERVED_TYPE_MEMORY_DAYS`, are not among them: their jobs
    become FAILED.
    """
    await schema_of(session)
    known = await store.attention.served_at(session)
    away = known.keys() - served.keys()
    if not away:
        return []
    waiting = await store.attention.waiting(session, away, due_seconds=DUE_SECONDS, walk=WALK)
    found = [UnservedType(name, jobs, known[name]) for name, jobs in waiting.items()]
    return sorted(found, key=lambda one: (-one.jobs, one.job_type))
