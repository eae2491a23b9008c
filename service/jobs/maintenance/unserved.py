"""Due jobs whose type no worker serves: FAILED where none ever did, else they wait for one."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from service.db.connection import Link
from service.jobs import store
from service.jobs.core.lane import MAX_LANES, Lane, LaneHead
from service.jobs.handlers.registry import Registry
from service.jobs.maintenance.unserved_log import UnservedLog
from service.observability.metrics import record_event
from service.observability.queue_gauges import set_waiting_gauges
from service.settings import Settings

BATCH: Final = 1000

MIN_ALIVE_SECONDS: Final = 30.0
"""Workers may have other leases than ours."""

WALK_ROWS: Final = 2000
"""Due jobs of a lane that one look for unserved types walks."""


def alive_seconds(settings: Settings) -> float:
    """A worker seen within so many seconds counts as alive.

    It is seen once a heartbeat, a third of the lease at most: one missed is no absence.
    """
    return max(settings.lease_seconds, MIN_ALIVE_SECONDS)


@dataclass(frozen=True, slots=True)
class Served:
    """Which job types have a worker."""

    now: frozenset[str]
    lately: frozenset[str]
    """Those that have none now, and had one within `SERVED_TYPE_MEMORY_DAYS`."""


class UnservedTypes:
    """Fails jobs that no worker will ever run, and counts those that wait for one to come back."""

    def __init__(self, link: Link, settings: Settings, handlers: Registry) -> None:
        self._link = link
        self._settings = settings
        self._handlers = handlers
        self._log = UnservedLog()
        self._looked_up_to: Lane | None = None
        """The last lane looked at, while there are more than one look takes."""

    async def look(
        self, heads: list[LaneHead], *, paused: frozenset[str], leads_since: float | None
    ) -> None:
        """Look at these lanes, or at the next ones where there are more.

        Args:
            heads: the first lanes.
            paused: queues of which no job is looked at: they wait for no worker.
            leads_since: when (monotonic) this process began to lead: until the grace is over a
                worker that serves the type may just be starting.
        """
        await store.served_types.remember(self._link)
        grace = self._settings.unknown_type_grace_seconds
        if leads_since is None or time.monotonic() - leads_since < grace:
            return
        if self._looked_up_to is not None:
            heads = await store.lanes.listed(self._link, limit=MAX_LANES, after=self._looked_up_to)
        self._looked_up_to = heads[-1].lane if len(heads) == MAX_LANES else None
        heads = [head for head in heads if head.lane.queue not in paused]
        served = await find_served(
            self._link, self._settings, own_types=self._handlers.job_types(), grace_seconds=grace
        )
        self._log.add(
            await fail_unserved(
                self._link,
                heads,
                served,
                grace_seconds=grace,
                max_errors=self._settings.max_error_entries,
            )
        )
        waiting = await count_waiting(self._link, heads, served, grace_seconds=grace)
        self._log.add_waiting(waiting)
        set_waiting_gauges(waiting)


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
    now = await store.served_types.served(
        link,
        alive_seconds=max(grace_seconds, alive_seconds(settings)),
        grace_seconds=grace_seconds,
    )
    now.update(own_types)
    lately = await store.served_types.remembered(link, days=settings.served_type_memory_days)
    return Served(frozenset(now), frozenset(lately - now))


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
        max_errors: limit on the entries that a job's history keeps.
        limit: limit on the jobs to fail.
    """
    due = _due(heads)
    if not due:
        return []
    failed = await store.served_types.fail_unserved(
        link,
        due,
        served.now | served.lately,
        due_seconds=grace_seconds,
        walk=WALK_ROWS,
        limit=limit,
        max_errors=max_errors,
    )
    for job_type in failed:
        record_event("failed", job_type, "no_handler")
    return failed


async def count_waiting(
    link: Link, heads: Sequence[LaneHead], served: Served, *, grace_seconds: float
) -> dict[str, int]:
    """How many jobs of each type have been due for the grace and wait for a worker of their type.

    Of each lane the first `WALK_ROWS` are counted.
    """
    due = _due(heads)
    if not due or not served.lately:
        return {}
    return await store.served_types.waiting(
        link, due, served.lately, due_seconds=grace_seconds, walk=WALK_ROWS
    )


def _due(heads: Sequence[LaneHead]) -> list[LaneHead]:
    return [head for head in heads if head.due_in_seconds <= 0]
