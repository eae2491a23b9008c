"""Why one job is not running: what it waits for, since when, who is in its way, and when it starts."""

from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from typing import Final

from sqlalchemy.ext.asyncio import AsyncSession

from service.db.session import fetch, schema_of
from service.jobs import store
from service.jobs.core.holds import BREAKER, QUEUE, UNIQUE, key_of_rate, rate_of
from service.jobs.core.job import LIVE, BackgroundJob, JobId, JobStatus
from service.jobs.core.job_types import policies
from service.jobs.core.lane import MAX_LANES, Lane
from service.jobs.core.queue_limits import Rate
from service.jobs.read import estimate
from service.jobs.read.estimate import Before, Estimate
from service.jobs.read.explanation import Explanation, Limit, Parents, Run
from service.jobs.read.waiting import Surroundings, Waiting, startable
from service.jobs.store.breakers import OpenBreaker
from service.jobs.store.waiting import Holder

MAX_HOLDERS: Final = 20
"""Jobs that hold permits which are named."""

MAX_PARENTS: Final = 20
"""Jobs that it comes after which are named."""

MAX_PARENTS_LOOKED: Final = 1000
"""Of those the ones that are looked at; a job may have ten times as many."""

MAX_WORKERS: Final = 20
"""Live workers that are named."""

MAX_BEFORE: Final = 10_000
"""Jobs before it that are counted."""

MAX_LOOKED: Final = 20_000
"""Due jobs that are looked at for those that hold a permit, of all lanes together."""

MIN_LOOKED: Final = 100
"""At least so many of each lane."""


async def explain(
    session: AsyncSession,
    job: BackgroundJob,
    *,
    now: datetime,
    alive_seconds: float,
    max_lost_leases: int,
) -> Explanation:
    """Why the job does not run. Bounded: a few statements, each of some thousand rows at most.

    Args:
        session: read in its transaction, the rest of which is planned by the order of indexes.
        job: the job.
        now: the time that due times are compared with.
        alive_seconds: how long ago a worker may have been seen last to count as alive.
        max_lost_leases: the setting.
    """
    known = Explanation(
        id=JobId(job.id),
        job_type=job.job_type,
        queue=job.queue,
        status=JobStatus(job.status),
        due_at=job.due_at,
        held_for=job.held_for,
        attempts=job.attempts,
        last_error=job.last_error,
        lost_leases=job.lost_leases,
        cancel_asked_at=_asked_at(job.cancel) if job.status in LIVE else None,
        last_chance=job.status in LIVE and 0 < job.lost_leases >= max_lost_leases - 1,
    )
    if job.status not in LIVE:
        return replace(known, since=job.finished_at)
    startable_at = startable(job, now=now)
    if startable_at is None:
        worker = None
        if job.worker_id is not None:
            worker = await store.workers.name_of(session, job.worker_id)
        return replace(
            known, since=job.started_at, run=Run(worker, job.started_at, job.lease_until)
        )
    await schema_of(session)
    await store.listing.plan_by_index(session)
    if job.status == JobStatus.RUNNING:
        known = replace(known, lease_lost_at=startable_at)
    return await _waiting(session, job, known, now=now, alive_seconds=alive_seconds)


async def _waiting(
    session: AsyncSession,
    job: BackgroundJob,
    known: Explanation,
    *,
    now: datetime,
    alive_seconds: float,
) -> Explanation:
    pair, startable_at = (job.job_type, job.queue), known.lease_lost_at or job.due_at
    around = await Surroundings.read(
        session,
        [pair],
        alive_seconds=alive_seconds,
        early=[job.id] if startable_at > now else [],
    )
    reasons = around.reasons(job, startable_at=startable_at, now=now)
    first = reasons[0] if reasons else None
    workers = await store.waiting.workers(
        session, pair, alive_seconds=alive_seconds, limit=MAX_WORKERS
    )
    last_worker = None
    if not workers.serving:
        last_worker = await store.waiting.last_worker(session, pair, alive_seconds=alive_seconds)
    known = replace(
        known,
        waiting_for=first,
        also=reasons[1:],
        step=around.steps.get(job.id) if first in {Waiting.SLEEP, Waiting.EVENT} else None,
        pause=around.pauses.get(job.queue),
        workers=workers,
        last_worker=last_worker,
        limit=await _limit(session, job) if Waiting.CONCURRENCY in reasons else None,
        rate=await _rate(session, job) if first is Waiting.RATE_LIMIT else None,
        parents=await _parents(session, job) if first is Waiting.DEPENDENCIES else None,
        breaker=await _breaker(session, job) if first is Waiting.BREAKER else None,
        before=await _before(session, job, first) if known.lease_lost_at is None else None,
    )
    return replace(
        known,
        since=await _since(session, job, known, startable_at=startable_at),
        estimate=await _estimate(session, job, known, now=now),
    )


async def _limit(session: AsyncSession, job: BackgroundJob) -> Limit:
    if job.held_for == UNIQUE:
        holders = await store.waiting.running_before(
            session, job.unique_key or "", job_id=JobId(job.id), limit=MAX_HOLDERS
        )
        return Limit(UNIQUE, 1, len(holders), holders, set_by_queue=False)
    key = job.held_for or QUEUE + job.queue
    row = await store.waiting.limit_of(session, key, job.queue)
    of_queue = key == QUEUE + job.queue
    own = row.queue_max_running if of_queue else row.queue_max_running_per_key
    max_running = own if of_queue and own is not None else row.asked
    policy = None if of_queue else policies.get(job.job_type)
    if policy is not None:  # what was asked for last may have been another queue's or type's
        limits = [limit for limit in (own, policy.max_running_per_key) if limit is not None]
        max_running = min(limits, default=row.asked)
    return Limit(
        key=key,
        max_running=max_running,
        running=row.running or 0,
        holders=await _holders(session, key, job.queue if of_queue else None),
        set_by_queue=own is not None and (of_queue or max_running is None or own <= max_running),
    )


async def _holders(session: AsyncSession, key: str, queue: str | None) -> list[Holder]:
    if queue is None:
        heads = await store.queue_counts.heads(session, limit=MAX_LANES)
    else:
        heads = await store.queue_counts.heads_of(session, queue)
    cap = max(MAX_LOOKED // max(1, len(heads)), MIN_LOOKED)
    return await store.waiting.holders(session, key, heads, cap=cap, limit=MAX_HOLDERS)


async def _rate(session: AsyncSession, job: BackgroundJob) -> Rate | None:
    row = (await store.queues.rows(session, name=job.queue)).get(job.queue)
    if row is None:
        return None
    key = key_of_rate(job.held_for or "")
    return row.limits.rate if key is None else row.limits.rate_per_key


async def _parents(session: AsyncSession, job: BackgroundJob) -> Parents:
    named, unmet = await store.waiting.parents(
        session, JobId(job.id), cap=MAX_PARENTS_LOOKED, limit=MAX_PARENTS
    )
    return Parents(unmet, exact=unmet < MAX_PARENTS_LOOKED, named=named)


async def _breaker(session: AsyncSession, job: BackgroundJob) -> OpenBreaker | None:
    name = (job.held_for or "").removeprefix(BREAKER)
    return await store.breakers.read(partial(fetch, session), name)


async def _before(
    session: AsyncSession, job: BackgroundJob, reason: Waiting | None
) -> Before | None:
    not_due = {Waiting.TIME, Waiting.SLEEP, Waiting.EVENT}
    if reason in not_due | {Waiting.DEPENDENCIES} or job.held_for == UNIQUE:
        return None
    if job.held_for is not None:
        found = await store.waiting.held_before(
            session,
            job.held_for,
            priority=job.priority,
            due_at=job.due_at,
            job_id=JobId(job.id),
            cap=MAX_BEFORE,
        )
    else:
        lane = Lane(job.queue, job.priority)
        found = await store.waiting.behind(
            session, lane, due_at=job.next_run_at, job_id=JobId(job.id), cap=MAX_BEFORE
        )
        # They get the next permits, or turns.
        name = rate_of(job.queue) if reason is Waiting.RATE_LIMIT else QUEUE + job.queue
        held, all_held = await store.waiting.held_for(session, name, cap=MAX_BEFORE)
        found = (found[0] + held, found[1] and all_held)
    return Before(*found)


async def _since(
    session: AsyncSession, job: BackgroundJob, known: Explanation, *, startable_at: datetime
) -> datetime | None:
    match known.waiting_for:
        case Waiting.TIME if job.started_at is None:
            return job.created_at
        case Waiting.TIME:
            return _moment(await store.waiting.last_entry_at(session, JobId(job.id)))
        case Waiting.CONCURRENCY | Waiting.RATE_LIMIT | Waiting.BREAKER | Waiting.DEPENDENCIES:
            return job.held_since or startable_at
        case Waiting.QUEUE_PAUSED if known.pause is not None:
            return max(startable_at, known.pause.since)
        case Waiting.WORKER if known.last_worker is not None:
            return max(startable_at, known.last_worker.seen_at)
        case _:
            return startable_at if known.step is None else known.step.since


async def _estimate(
    session: AsyncSession, job: BackgroundJob, known: Explanation, *, now: datetime
) -> Estimate | None:
    if known.also or known.waiting_for in {Waiting.QUEUE_PAUSED, Waiting.WORKER}:
        return None  # nobody knows when a person does something about it
    before, limit = known.before, known.limit
    match known.waiting_for:
        case Waiting.TIME | Waiting.SLEEP:
            return estimate.at_its_time(known.due_at)
        case Waiting.RATE_LIMIT if known.rate is not None and before is not None:
            return await estimate.by_limit(
                session, job.queue, rate=known.rate, now=now, before=before
            )
        case Waiting.CONCURRENCY if limit and before and limit.key != QUEUE + job.queue:
            at_once = limit.max_running or 0
            return await estimate.by_turns(
                session, job.job_type, now=now, before=before, at_once=at_once
            )
        case Waiting.CONCURRENCY | None:
            return await estimate.by_rate(session, job.queue, now=now, before=before)
        case _:
            return None


def _asked_at(report: object) -> datetime | None:
    return _moment(str(report.get("requested_at"))) if isinstance(report, dict) else None


def _moment(text: str | None) -> datetime | None:
    """A time that JSON holds as text; None where plain SQL put something else there."""
    try:
        moment = datetime.fromisoformat(text or "")
        return moment.astimezone(UTC) if moment.tzinfo is not None else None
    except (ValueError, OverflowError):
        return None
