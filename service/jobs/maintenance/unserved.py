"""Due jobs whose type no worker serves: FAILED where none ever did, else they wait for one."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from service.db.connection import Link
from service.jobs import store
from service.jobs.core.lane import LaneHead
from service.observability.metrics import record_event
from service.settings import Settings

BATCH: Final = 1000

MIN_ALIVE_SECONDS: Final = 30.0
"""Workers may have other leases than ours."""

WALK_ROWS: Final = 2000
"""Due jobs of a lane that one look for unserved types walks."""


@dataclass(frozen=True, slots=True)
class Served:
    """Which job types have a worker."""

    now: frozenset[str]
    lately: frozenset[str]
    """Those that have none now, and had one within `SERVED_TYPE_MEMORY_DAYS`."""


async def remember_served(link: Link) -> None:
    """Note what the workers serve that are entered."""
    await link.fetch(store.served_types.REMEMBER_SERVED_TYPES)


async def find_served(
    link: Link, settings: Settings, *, own_types: list[str], grace_seconds: float
) -> Served:
    """Which types are served, by this process or by others.

    Args:
        link: the connection to use.
        settings: how long a worker counts as alive, and how long its types are remembered.
        own_types: what the caller's process serves.
        grace_seconds: a type counts as served that long after its last worker stopped.
    """
    # A worker is seen once a heartbeat, a third of the lease at the most: one missed is no absence.
    alive_within = max(grace_seconds, settings.lease_seconds, MIN_ALIVE_SECONDS)
    rows = await link.fetch(store.served_types.SERVED_TYPES, alive_within, grace_seconds)
    now = {*own_types, *(row[0] for row in rows)}
    rows = await link.fetch(store.served_types.REMEMBERED_TYPES, settings.served_type_memory_days)
    return Served(frozenset(now), frozenset(row[0] for row in rows) - now)


async def fail_unserved(
    link: Link,
    heads: Sequence[LaneHead],
    served: Served,
    *,
    grace_seconds: float,
    max_errors: int,
    limit: int = BATCH,
) -> list[str]:
    """Make due jobs FAILED whose type nobody serves or did lately; the types, one for each job.

    Args:
        link: the connection to use.
        heads: the lanes to look at.
        served: which types are served.
        grace_seconds: a job must have been due that long.
        max_errors: entries that a job's history keeps.
        limit: jobs to fail at the most.
    """
    queues, priorities, firsts = _due(heads)
    if not queues:
        return []
    rows = await link.fetch(
        store.served_types.FAIL_UNSERVED,
        queues,
        priorities,
        sorted(served.now | served.lately),
        grace_seconds,
        WALK_ROWS,
        limit,
        max_errors,
        firsts,
    )
    for _, job_type in rows:
        record_event("failed", job_type, "no_handler")
    return [job_type for _, job_type in rows]


async def count_waiting(
    link: Link, heads: Sequence[LaneHead], served: Served, *, grace_seconds: float
) -> dict[str, int]:
    """How many jobs of each type have been due for the grace and wait for a worker of their type.

    Of each lane the first `WALK_ROWS` are counted.
    """
    queues, priorities, firsts = _due(heads)
    if not queues or not served.lately:
        return {}
    rows = await link.fetch(
        store.served_types.WAITING_FOR_WORKER,
        queues,
        priorities,
        sorted(served.lately),
        grace_seconds,
        WALK_ROWS,
        firsts,
    )
    return {row[0]: row[1] for row in rows}


def _due(heads: Sequence[LaneHead]) -> tuple[list[str], list[int], list[float]]:
    due = [head for head in heads if head.due_in_seconds <= 0]
    return (
        [head.lane.queue for head in due],
        [head.lane.priority for head in due],
        [head.first_at for head in due],
    )
