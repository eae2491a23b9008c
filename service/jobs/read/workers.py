"""The workers as operators see them: which live, which were lost, and what each runs."""

from collections import Counter
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Final

from sqlalchemy.ext.asyncio import AsyncSession

from service.db.session import schema_of
from service.jobs import store
from service.jobs.core.lane import MAX_LANES
from service.jobs.read.queues import MAX_COUNTED, MIN_COUNTED
from service.jobs.store.worker_list import RunningRow, WorkerRow

MAX_WORKERS: Final = 500
"""Workers that one list shows."""

MAX_RUNNING: Final = 20_000
"""Running jobs that one list counts."""

MAX_SHOWN: Final = 20
"""Running jobs shown of each worker: those that have run longest."""


class WorkerStatus(StrEnum):
    """How a worker stands."""

    LIVE = "live"
    """It was seen lately."""
    LOST = "lost"
    """It was not, and did not say that it stops."""
    STOPPED = "stopped"
    """It stopped in good order."""


@dataclass(frozen=True, slots=True)
class WorkerState:
    """One worker at one moment. They are forgotten a day after they were seen last."""

    id: int
    name: str
    host: str
    pid: int | None
    version: str | None
    """None: of a version that did not tell."""
    status: WorkerStatus
    queues: list[str]
    job_types: list[str]
    slots: int
    used: int
    """Jobs that it runs."""
    started_at: datetime
    seen_at: datetime
    stopped_at: datetime | None
    up_seconds: float
    seen_seconds: float
    owner: str | None
    """Who claims over HTTP under this name; None: a process of the service."""
    drain_asked_at: datetime | None
    """When somebody asked it to claim no more."""
    jobs: list[RunningRow]
    """Up to `MAX_SHOWN` of them, the longest first."""


@dataclass(frozen=True, slots=True)
class WorkerList:
    """The workers of the last day, live ones first; not `complete` where there are more."""

    workers: list[WorkerState]
    complete: bool


async def list_workers(session: AsyncSession, *, alive_seconds: float) -> WorkerList:
    """The workers that were seen within the last day, and what they run.

    Args:
        session: read in its transaction, the rest of which is planned by the order of indexes.
        alive_seconds: a worker seen within this time counts as alive.
    """
    await schema_of(session)
    await store.listing.plan_by_index(session)
    rows = await store.worker_list.workers(
        session, alive_seconds=alive_seconds, limit=MAX_WORKERS + 1
    )
    heads = await store.queue_counts.heads(session, limit=MAX_LANES)
    cap = max(MAX_COUNTED // max(1, len(heads)), MIN_COUNTED)
    running = await store.worker_list.running(session, heads, cap=cap, limit=MAX_RUNNING)
    used = Counter(job.worker_id for job in running)
    shown: dict[int, list[RunningRow]] = {}
    for job in running:
        if len(jobs := shown.setdefault(job.worker_id, [])) < MAX_SHOWN:
            jobs.append(job)
    states = [_state(row, used[row.id], shown.get(row.id, [])) for row in rows[:MAX_WORKERS]]
    return WorkerList(states, complete=len(rows) <= MAX_WORKERS)


def _state(row: WorkerRow, used: int, jobs: list[RunningRow]) -> WorkerState:
    host, _, rest = row.name.partition(":")
    pid = rest.partition(":")[0]
    status = WorkerStatus.LIVE if row.is_live else WorkerStatus.LOST
    return WorkerState(
        id=row.id,
        name=row.name,
        host=host,
        pid=int(pid) if pid.isdecimal() and len(pid) < 10 else None,
        version=row.version,
        status=WorkerStatus.STOPPED if row.stopped_at is not None else status,
        queues=list(row.queues),
        job_types=list(row.job_types),
        slots=row.concurrency,
        used=used,
        started_at=row.started_at,
        seen_at=row.seen_at,
        stopped_at=row.stopped_at,
        up_seconds=max(0.0, row.up_seconds),
        seen_seconds=max(0.0, row.seen_seconds),
        owner=row.owner,
        drain_asked_at=row.drain_asked_at,
        jobs=jobs,
    )
