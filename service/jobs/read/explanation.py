"""Why one job is not running, as it is told: see `explain.py`."""

from dataclasses import dataclass
from datetime import datetime

from service.jobs.core.job import JobId, JobStatus
from service.jobs.core.queue_limits import Rate
from service.jobs.read.estimate import Before, Estimate
from service.jobs.read.waiting import Waiting
from service.jobs.store.breakers import OpenBreaker
from service.jobs.store.queues import Pause
from service.jobs.store.steps import AwaitedStep
from service.jobs.store.waiting import Holder, LastWorker, LiveWorkers, UnmetParent


@dataclass(frozen=True, slots=True)
class Limit:
    """A limit on running jobs that a job is held for."""

    key: str
    """`key:` and a concurrency key, `queue:` and a queue; or `unique`: its unique key, of which one may run."""
    max_running: int | None
    """None: nobody has asked for a permit of it yet."""
    running: int
    holders: list[Holder]
    """Up to 20 of them: those found among the first due jobs of each queue."""
    set_by_queue: bool
    """Whether the job's queue sets it; else the handler of its type does."""


@dataclass(frozen=True, slots=True)
class Parents:
    """The jobs that a job waits for; not `exact`: there are more of them than `unmet`."""

    unmet: int
    exact: bool
    named: list[UnmetParent]
    """Up to 20: first those that are dead."""


@dataclass(frozen=True, slots=True)
class Run:
    """Who runs a job."""

    worker: str | None
    """None: the worker is forgotten."""
    since: datetime | None
    lease_until: datetime | None


@dataclass(frozen=True, slots=True)
class Explanation:
    """Why a job does not run; or that it runs, or has ended."""

    id: JobId
    job_type: str
    queue: str
    status: JobStatus
    due_at: datetime
    held_for: str | None = None
    waiting_for: Waiting | None = None
    """None: for nothing but a free slot, or it runs or has ended."""
    since: datetime | None = None
    """Since when it waits for that, runs, or has ended; None: not known."""
    also: tuple[Waiting, ...] = ()
    """What would keep it from starting after that."""
    attempts: int = 0
    last_error: str | None = None
    lost_leases: int = 0
    last_chance: bool = False
    """Whether it is dead-lettered as poison if one more worker is lost while it runs."""
    cancel_asked_at: datetime | None = None
    """When somebody asked for its cancel, while it runs."""
    run: Run | None = None
    lease_lost_at: datetime | None = None
    """When the worker that ran it was lost, if nobody has taken it over."""
    step: AwaitedStep | None = None
    """What its handler waits at, if that is the reason."""
    pause: Pause | None = None
    limit: Limit | None = None
    rate: Rate | None = None
    """Of its queue, or of its key there, if it waits for its turn under that."""
    parents: Parents | None = None
    breaker: OpenBreaker | None = None
    """Of its target, if it waits for that."""
    workers: LiveWorkers | None = None
    """Who could run it, while it waits."""
    last_worker: LastWorker | None = None
    before: Before | None = None
    estimate: Estimate | None = None
