"""From a tick to its job: what the run is told, what it waits for, and what stands in the ledger."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncSession

from service.audit import Actor
from service.errors import Conflict, FinMindError, NotFound
from service.jobs import JobId, NewJob, cancel_job
from service.jobs.core.schedule_tick import ScheduleTick
from service.jobs.enqueue.enqueue import enqueue_for
from service.observability.logging import get_logger
from service.schedules import ledger
from service.schedules.ledger import Note
from service.schedules.model import Definition, Overlap, Schedule, ScheduleId, TickOutcome
from service.schedules.overlap import Skip, Start, beside

_log = get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """A job that is to be enqueued for a tick."""

    schedule: Schedule
    planned_at: datetime
    overlap: Overlap
    outcome: TickOutcome = TickOutcome.FIRED
    reason: str | None = None


def new_job(
    name: str,
    definition: Definition,
    *,
    planned_at: datetime,
    backfill: bool = False,
    after: Sequence[JobId] = (),
) -> NewJob:
    """The job of one run."""
    payload: dict[str, Any] = definition.payload
    if definition.tick_member is not None:
        # Not in every payload: a strict model of a type that existed before would refuse it.
        tick = ScheduleTick(name, planned_at.astimezone(UTC), backfill)
        # By hand: `asdict` copies the time at a cost of 100 µs.
        told = {"name": tick.name, "planned_at": tick.planned_at, "backfill": tick.backfill}
        payload = {**payload, definition.tick_member: told}
    return NewJob(
        definition.job_type,
        payload,
        queue=definition.queue,
        priority=definition.priority,
        max_retries=definition.max_retries,
        timeout_seconds=definition.timeout_seconds,
        concurrency_key=definition.concurrency_key,
        after=list(after) or None,
        on_parent_failure="run" if after else None,
    )


async def enqueue_runs(session: AsyncSession, runs: Sequence[Run]) -> list[Note]:
    """Enqueue runs of locked schedules, those of one schedule in the order given.

    A run that its overlap policy or the engine refuses is skipped, and keeps no other from its job.

    Returns:
        What became of each, for the ledger.
    """
    asking = {run.schedule.id for run in runs if run.overlap is not Overlap.ALLOW}
    live = await ledger.live_runs(session, asking)
    notes: list[Note] = []
    for wave in _waves(runs):
        starts: list[tuple[Run, NewJob]] = []
        for run in wave:
            match beside(run.overlap, live.get(run.schedule.id, ())):
                case Skip(reason):
                    notes.append(_note(run, TickOutcome.SKIPPED, reason))
                case Start(after, cancel):
                    await _cancel(session, run.schedule, cancel)
                    starts.append((run, _job_of(run, after)))
        for run, made in await _enqueue(session, starts):
            if isinstance(made, Exception):
                notes.append(_note(run, TickOutcome.SKIPPED, _refused(run, made)))
                continue
            notes.append(_note(run, run.outcome, run.reason, made))
            if run.schedule.id in live:
                live[run.schedule.id].append(made)
    return notes


def _waves(runs: Sequence[Run]) -> Iterator[list[Run]]:
    """The first run of every schedule, then the second of each that has two, and so on."""
    waves: defaultdict[int, list[Run]] = defaultdict(list)
    seen: defaultdict[ScheduleId, int] = defaultdict(int)
    for run in runs:
        waves[seen[run.schedule.id]].append(run)
        seen[run.schedule.id] += 1
    yield from waves.values()


async def _enqueue(
    session: AsyncSession, starts: Sequence[tuple[Run, NewJob]]
) -> list[tuple[Run, JobId | Exception]]:
    """Enqueue with a statement for each caller; what is refused is narrowed to its run."""
    by_caller: defaultdict[str | None, list[tuple[Run, NewJob]]] = defaultdict(list)
    for start in starts:
        by_caller[start[0].schedule.created_by].append(start)
    made: list[tuple[Run, JobId | Exception]] = []
    for caller, own in by_caller.items():
        made += await _enqueue_of(session, own, caller)
    return made


async def _enqueue_of(
    session: AsyncSession, starts: Sequence[tuple[Run, NewJob]], caller: str | None
) -> list[tuple[Run, JobId | Exception]]:
    try:
        async with session.begin_nested():
            jobs = await enqueue_for(session, [job for _, job in starts], caller=caller)
    except (FinMindError, DBAPIError) as error:
        if isinstance(error, DBAPIError) and error.connection_invalidated:
            raise
        if len(starts) == 1:
            return [(starts[0][0], error)]
    else:
        return [(run, job.id) for (run, _), job in zip(starts, jobs, strict=True)]
    half = len(starts) // 2
    return [
        *await _enqueue_of(session, starts[:half], caller),
        *await _enqueue_of(session, starts[half:], caller),
    ]


async def _cancel(session: AsyncSession, schedule: Schedule, jobs: Sequence[JobId]) -> None:
    for job_id in jobs:
        try:
            await cancel_job(
                session,
                job_id,
                actor=Actor(f"schedule:{schedule.name}"),
                reason="the next tick came, and overlap is cancel_other",
            )
        except (Conflict, NotFound):
            continue  # it has ended meanwhile


def _job_of(run: Run, after: Sequence[JobId]) -> NewJob:
    return new_job(
        run.schedule.name,
        run.schedule.definition,
        planned_at=run.planned_at,
        backfill=run.outcome is TickOutcome.BACKFILLED,
        after=after,
    )


def _note(run: Run, outcome: TickOutcome, reason: str | None, job_id: JobId | None = None) -> Note:
    return Note(run.schedule, run.planned_at, outcome, reason, job_id)


def _refused(run: Run, error: Exception) -> str:
    words = error.detail if isinstance(error, FinMindError) else str(error)[:300]
    _log.error("schedule_run_refused", schedule=run.schedule.name, error=words)
    return f"no job could be made: {words}"
