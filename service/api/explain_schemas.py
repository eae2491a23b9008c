"""Why a job is not running, field by field."""

from typing import Self

from pydantic import BaseModel, ConfigDict, Field

from service.api.admin_schemas import WAITING_FOR, PauseOut
from service.api.explain_examples import EXAMPLES
from service.api.field_types import UtcTime
from service.api.queue_schemas import RateOut
from service.auth.principal import Permission, Principal
from service.jobs.core.job import JobId, JobStatus
from service.jobs.read.advice import advice, summary
from service.jobs.read.explanation import Explanation
from service.jobs.read.waiting import Waiting


class HolderOut(BaseModel):
    """A running job that holds a permit."""

    model_config = ConfigDict(from_attributes=True)

    id: JobId = Field(description="Its number.")
    job_type: str = Field(description="Its type.")
    queue: str = Field(description="Its queue.")
    since: UtcTime | None = Field(description="When its attempt began.")
    worker: str | None = Field(description="The worker that runs it; for operators and viewers.")


class LimitOut(BaseModel):
    """A limit on running jobs that is reached."""

    model_config = ConfigDict(from_attributes=True)

    key: str = Field(
        description="`key:` and the concurrency key, or `queue:` and the queue, that it limits; `unique`: "
        "one job with its unique key may run."
    )
    max_running: int | None = Field(
        description="Jobs that may run at once. null: nobody has asked for a permit yet."
    )
    running: int = Field(description="Jobs that hold a permit.")
    holders: list[HolderOut] = Field(
        description="Who holds the permits: up to 20 running jobs, as far as the caller may read them."
    )


class BreakerOut(BaseModel):
    """The breaker of a target."""

    model_config = ConfigDict(from_attributes=True)

    name: str = Field(description="The target: host and port.")
    opened_at: UtcTime | None = Field(
        description="Since when it fails. null: it answers again, and the job is let go within seconds."
    )
    retry_at: UtcTime | None = Field(description="When the next request tries it.")
    last_error: str | None = Field(description="What it failed of.")


class ParentOut(BaseModel):
    """A job that this one comes after."""

    model_config = ConfigDict(from_attributes=True)

    id: JobId = Field(description="Its number.")
    job_type: str | None = Field(description="Its type. null: it is gone.")
    queue: str | None = Field(description="Its queue. null: it is gone.")
    status: JobStatus | None = Field(description="Its status. null: it is gone.")
    on_parent_failure: str = Field(description="What becomes of this job if that one fails.")


class ParentsOut(BaseModel):
    """The jobs that it comes after and that have not ended as it needs."""

    model_config = ConfigDict(from_attributes=True)

    unmet: int = Field(description="How many there are.")
    exact: bool = Field(description="False: there are at least so many.")
    named: list[ParentOut] = Field(
        description="Up to 20 of them, first those that failed for good, as far as the caller may read "
        "them."
    )


class ServingWorkerOut(BaseModel):
    """A live worker, and whether it serves the job."""

    model_config = ConfigDict(from_attributes=True)

    name: str = Field(description="Host, process id and a random part.")
    queues: list[str] = Field(description="Its `WORKER_QUEUES`.")
    job_types: list[str] = Field(description="The first 20 job types that it has handlers for.")
    serves_type: bool = Field(description="Whether the job's type is one of all of them.")
    serves_queue: bool = Field(description="Whether it serves the job's queue.")


class LastWorkerOut(BaseModel):
    """The worker that served the job's type and queue last."""

    model_config = ConfigDict(from_attributes=True)

    name: str = Field(description="Its name.")
    seen_at: UtcTime = Field(description="When it was seen last.")
    stopped: bool = Field(description="Whether it stopped in good order; else it was lost.")


class WorkersOut(BaseModel):
    """Who could run the job."""

    live: int = Field(description="Workers that were seen lately.")
    serving: int = Field(description="Those of them that serve its type and its queue.")
    slots: int = Field(description="Jobs that those can run at once.")
    named: list[ServingWorkerOut] = Field(
        description="Up to 20 live workers, those first that serve it; for operators and viewers."
    )
    last: LastWorkerOut | None = Field(
        description="The one that served it last, within a day, where none does; for operators and "
        "viewers."
    )


class BehindOut(BaseModel):
    """How many jobs go first."""

    model_config = ConfigDict(from_attributes=True)

    jobs: int = Field(
        description="Jobs before it: due ones of its queue, or those held for the same."
    )
    exact: bool = Field(description="False: at least so many; more were not counted.")


class CurrentRunOut(BaseModel):
    """The attempt that runs."""

    worker: str | None = Field(description="Who runs it; for operators and viewers.")
    since: UtcTime | None = Field(description="When it began.")
    timeout_seconds: float | None = Field(
        description="Its timeout. null: its handler determines it, and this process does not know it."
    )
    lease_until: UtcTime | None = Field(
        description="When others may take it over unless its worker extends its lease."
    )


class AwaitedStepOut(BaseModel):
    """A step of its handler that waits."""

    model_config = ConfigDict(from_attributes=True)

    kind: str = Field(description="`sleep` or `event`.")
    name: str = Field(description="Its name; of an event, that of the event.")
    since: UtcTime = Field(description="When it began to wait.")
    until: UtcTime = Field(description="When it goes on; with an event, at the latest.")


class DetailOut(BaseModel):
    """What is known of the reason; null: it does not apply."""

    due_at: UtcTime = Field(description="When it is, or was, due.")
    held_for: str | None = Field(description="The name of the limit or hold, as in lists.")
    also: list[Waiting] = Field(description="What would keep it from starting after that.")
    step: AwaitedStepOut | None = Field(description="The step of its handler that it waits at.")
    pause: PauseOut | None = Field(description="Who paused its queue, why and since when.")
    limit: LimitOut | None = Field(description="The limit that is reached, and who is under it.")
    rate: RateOut | None = Field(
        description="The rate that is reached: of its queue, or of its key there."
    )
    breaker: BreakerOut | None = Field(description="The breaker of its target.")
    parents: ParentsOut | None = Field(description="The jobs that it comes after.")
    workers: WorkersOut | None = Field(description="Who could run it, while it waits.")
    behind: BehindOut | None = Field(description="How many jobs go first, once it is due.")
    run: CurrentRunOut | None = Field(description="Who runs it, while it runs.")
    last_chance: bool = Field(
        description="Whether it is dead-lettered if one more worker is lost while it runs."
    )


class EstimateOut(BaseModel):
    """When it starts, and when its queue is empty; null: nobody can know."""

    model_config = ConfigDict(from_attributes=True)

    start_at: UtcTime | None = Field(description="When it starts, about.")
    drain_seconds: float | None = Field(
        description="How long until no job of its queue is due, if no more come."
    )
    exact: bool = Field(
        description="False: more jobs wait than were counted; it takes at least so long."
    )
    based_on: str = Field(description="What it was made of.")


class ExplanationOut(BaseModel):
    """Why a job is not running."""

    model_config = ConfigDict(json_schema_extra={"examples": [EXAMPLES["concurrency"]["value"]]})

    id: JobId = Field(description="Its number.")
    status: JobStatus = Field(description="Its status.")
    waiting_for: Waiting | None = WAITING_FOR
    since: UtcTime | None = Field(
        description="Since when it waits for that, runs, or has ended. null: not known."
    )
    summary: str = Field(description="How it stands, in a sentence.")
    detail: DetailOut
    estimate: EstimateOut | None = Field(description="null: nobody can know.")
    advice: list[str] = Field(
        description="What to do: a sentence or two for each thing in its way, the first thing first."
    )

    @classmethod
    def of(cls, why: Explanation, principal: Principal, *, timeout_seconds: float | None) -> Self:
        """The explanation as far as this caller may see it.

        Hosts are for those who may read workers; jobs that hold permits, for those who may read them.
        """
        sees_workers = principal.may(Permission.ADMIN_READ)
        return cls(
            id=why.id,
            status=why.status,
            waiting_for=why.waiting_for,
            since=why.since,
            summary=summary(why),
            detail=_detail(
                why, principal, sees_workers=sees_workers, timeout_seconds=timeout_seconds
            ),
            estimate=None if why.estimate is None else EstimateOut.model_validate(why.estimate),
            advice=advice(why),
        )


def _detail(
    why: Explanation, principal: Principal, *, sees_workers: bool, timeout_seconds: float | None
) -> DetailOut:
    return DetailOut(
        due_at=why.due_at,
        held_for=why.held_for,
        also=list(why.also),
        step=None if why.step is None else AwaitedStepOut.model_validate(why.step),
        pause=None if why.pause is None else PauseOut.model_validate(why.pause),
        limit=_limit(why, principal, sees_workers=sees_workers),
        rate=None if why.rate is None else RateOut(**why.rate._asdict()),
        breaker=None if why.breaker is None else BreakerOut.model_validate(why.breaker),
        parents=_parents(why, principal),
        workers=_workers(why, sees_workers=sees_workers),
        behind=None if why.before is None else BehindOut.model_validate(why.before),
        run=None
        if why.run is None
        else CurrentRunOut(
            worker=why.run.worker if sees_workers else None,
            since=why.run.since,
            timeout_seconds=timeout_seconds,
            lease_until=why.run.lease_until,
        ),
        last_chance=why.last_chance,
    )


def _limit(why: Explanation, principal: Principal, *, sees_workers: bool) -> LimitOut | None:
    if why.limit is None:
        return None
    shown = LimitOut.model_validate(why.limit)
    shown.holders = [
        one if sees_workers else one.model_copy(update={"worker": None})
        for one in shown.holders
        if _covers(principal, one.job_type, one.queue)
    ]
    return shown


def _parents(why: Explanation, principal: Principal) -> ParentsOut | None:
    if why.parents is None:
        return None
    shown = ParentsOut.model_validate(why.parents)
    shown.named = [one for one in shown.named if _covers(principal, one.job_type, one.queue)]
    return shown


def _covers(principal: Principal, job_type: str | None, queue: str | None) -> bool:
    """Whether a caller who may read jobs may read these; what is gone only one without limits."""
    limits = principal.limits
    return limits is None or limits.covers(job_type=job_type or "", queue=queue or "")


def _workers(why: Explanation, *, sees_workers: bool) -> WorkersOut | None:
    if why.workers is None:
        return None
    named = why.workers.workers if sees_workers else []
    last = why.last_worker if sees_workers else None
    return WorkersOut(
        live=why.workers.live,
        serving=why.workers.serving,
        slots=why.workers.slots,
        named=[ServingWorkerOut.model_validate(one) for one in named],
        last=None if last is None else LastWorkerOut.model_validate(last),
    )
