"""What PENDING jobs wait for: one answer for a page of jobs and for one."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Final, Protocol, Self

from sqlalchemy.ext.asyncio import AsyncSession

from service.jobs import store
from service.jobs.core.dependencies import AFTER
from service.jobs.core.holds import BREAKER, KEY, QUEUE, UNIQUE
from service.jobs.core.job import LIVE, BackgroundJob, JobStatus
from service.jobs.store.queues import Pause
from service.jobs.store.steps import AwaitedStep


class Waiting(StrEnum):
    """What a PENDING job waits for; a job that waits for a free slot alone waits for none of it."""

    TIME = "time"
    """It is not due yet."""
    WORKER = "worker"
    """It is due, and no worker that was seen lately serves both its type and its queue."""
    QUEUE_PAUSED = "queue_paused"
    """It is due, and an operator paused its queue."""
    CONCURRENCY = "concurrency"
    """It is due, and as many jobs as may run at once are running: of its concurrency key, of its queue, or
    of its unique key under `keep_latest`, which is one."""
    RATE_LIMIT = "rate_limit"
    """It is due, and its turn under a rate has not come."""
    BREAKER = "breaker"
    """Its target kept failing, and is left alone for a while."""
    DEPENDENCIES = "dependencies"
    """Jobs that it comes after have not ended."""
    SLEEP = "sleep"
    """It is not due: a step of its handler sleeps."""
    EVENT = "event"
    """It is not due: a step of its handler waits for an event."""


_HOLDS: Final = {
    KEY.rstrip(":"): Waiting.CONCURRENCY,
    QUEUE.rstrip(":"): Waiting.CONCURRENCY,
    UNIQUE: Waiting.CONCURRENCY,
    "rate": Waiting.RATE_LIMIT,
    BREAKER.rstrip(":"): Waiting.BREAKER,
    AFTER: Waiting.DEPENDENCIES,
}
"""By the first word of `held_for`."""


def reason_of_hold(held_for: str) -> Waiting:
    """What a job that is held for this waits for."""
    return _HOLDS.get(held_for.partition(":")[0], Waiting.CONCURRENCY)


class Pending(Protocol):
    """What is read of a job."""

    @property
    def id(self) -> int: ...  # noqa: D102
    @property
    def status(self) -> str: ...  # noqa: D102
    @property
    def job_type(self) -> str: ...  # noqa: D102
    @property
    def queue(self) -> str: ...  # noqa: D102
    @property
    def next_run_at(self) -> datetime: ...  # noqa: D102
    @property
    def held_for(self) -> str | None: ...  # noqa: D102


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What can keep jobs from starting, apart from what stands in their rows."""

    pauses: Mapping[str, Pause]
    full: frozenset[str]
    """Queues in which as many jobs run as may: no worker asks for their due jobs, which are not held."""
    out_of_turns: frozenset[str]
    """Queues whose rate lets no job start now: no worker asks for theirs either."""
    unserved: Mapping[tuple[str, str], bool]
    """Pairs of type and queue that no live worker serves; true: some worker serves the type."""
    steps: Mapping[int, AwaitedStep] = field(default_factory=dict)
    """What jobs that are not due wait at, if it is a step, by their ids."""

    @classmethod
    async def read(
        cls,
        session: AsyncSession,
        pairs: Iterable[tuple[str, str]],
        *,
        alive_seconds: float,
        early: Collection[int] = (),
    ) -> Self:
        """Read what concerns these pairs of type and queue, and what these jobs wait at; nothing for none."""
        steps = await store.steps.awaited(session, early)
        if not (wanted := set(pairs)):
            return cls({}, frozenset(), frozenset(), {}, steps)
        unserved = await store.workers.unserved(session, wanted, alive_seconds=alive_seconds)
        rows = await store.queues.rows(session)
        pauses = {name: row.pause for name, row in rows.items() if row.pause is not None}
        return cls(
            pauses,
            frozenset(name for name, row in rows.items() if row.is_full),
            frozenset(name for name, row in rows.items() if row.no_turn_is_free),
            unserved,
            steps,
        )

    def reasons(
        self, job: Pending, *, startable_at: datetime | None, now: datetime
    ) -> tuple[Waiting, ...]:
        """All that keeps the job from starting, in the order in which it must go; () for a slot alone.

        Args:
            job: PENDING, or RUNNING without a worker.
            startable_at: from when on a worker could take it.
            now: the time that this is compared with.
        """
        is_early = startable_at is not None and startable_at > now
        # A job whose worker was lost has its permits.
        is_asked_for = job.held_for is None and not is_early and job.status == JobStatus.PENDING
        step = self.steps.get(job.id)
        around = {
            Waiting.TIME if step is None else Waiting(step.kind): is_early,
            Waiting.QUEUE_PAUSED: job.queue in self.pauses,
            Waiting.WORKER: (job.job_type, job.queue) in self.unserved,
            Waiting.CONCURRENCY: is_asked_for and job.queue in self.full,
            Waiting.RATE_LIMIT: is_asked_for and job.queue in self.out_of_turns,
        }
        found = [reason for reason, holds in around.items() if holds]
        return (*found,) if job.held_for is None else (reason_of_hold(job.held_for), *found)


async def waiting_for(
    session: AsyncSession, jobs: Iterable[Pending], *, now: datetime, alive_seconds: float
) -> dict[int, Waiting | None]:
    """What each of the PENDING jobs waits for; None: for a free slot alone.

    Args:
        session: read in its transaction, by three statements whatever the number of jobs.
        jobs: the jobs; those that are not PENDING are not in the answer.
        now: the time that due times are compared with.
        alive_seconds: how long ago a worker may have been seen last to count.
    """
    pending = [job for job in jobs if job.status == JobStatus.PENDING]
    due = [job for job in pending if job.held_for is None and job.next_run_at <= now]
    early = [job.id for job in pending if job.held_for is None and job.next_run_at > now]
    around = await Surroundings.read(
        session,
        ((job.job_type, job.queue) for job in due),
        alive_seconds=alive_seconds,
        early=early,
    )

    def first(job: Pending) -> Waiting | None:
        return next(iter(around.reasons(job, startable_at=job.next_run_at, now=now)), None)

    return {job.id: first(job) for job in pending}


@dataclass(frozen=True, slots=True)
class Hold:
    """What keeps one job from starting."""

    reason: Waiting | None
    """None: a free slot alone, or it runs or has ended."""
    pause: Pause | None = None
    """Of its queue, if that is the reason."""


async def what_holds(
    session: AsyncSession, job: BackgroundJob, *, now: datetime, alive_seconds: float
) -> Hold:
    """What one job waits for, as `waiting_for` says it of many, and who paused its queue.

    A RUNNING job whose lease has ended waits as a PENDING one does.
    """
    startable_at = startable(job, now=now)
    if startable_at is None:
        return Hold(None)
    around = await Surroundings.read(
        session,
        [(job.job_type, job.queue)],
        alive_seconds=alive_seconds,
        early=[job.id] if startable_at > now else [],
    )
    reason = next(iter(around.reasons(job, startable_at=startable_at, now=now)), None)
    return Hold(reason, around.pauses[job.queue] if reason is Waiting.QUEUE_PAUSED else None)


def startable(job: BackgroundJob, *, now: datetime) -> datetime | None:
    """From when on a worker could take the job; None: one has it, or it has ended."""
    if job.status not in LIVE:
        return None
    if job.status == JobStatus.PENDING:
        return job.due_at
    return None if job.lease_until is None or job.lease_until > now else job.lease_until
