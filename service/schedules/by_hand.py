"""Runs that people ask for, in the caller's transaction: one now, or those of a time that has passed."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import islice, takewhile
from typing import Final

from sqlalchemy.ext.asyncio import AsyncSession

from service.audit import PYTHON, Actor
from service.db.after_commit import after_commit
from service.errors import InvalidInput
from service.jobs.core.job import JobId
from service.jobs.core.new_job import EARLIEST
from service.jobs.enqueue.chain import chain_for
from service.observability.metrics import schedule_ticks
from service.schedules import ledger, repository
from service.schedules.ledger import Note
from service.schedules.managing import record
from service.schedules.model import Overlap, Schedule, TickOutcome
from service.schedules.overlap import MAX_WAITED_FOR
from service.schedules.runs import Run, enqueue_runs, new_job

MAX_BACKFILL: Final = 1000
"""Ticks that one backfill enqueues."""

_MICROSECOND: Final = timedelta(microseconds=1)


@dataclass(frozen=True, slots=True)
class Backfilled:
    """What a backfill did."""

    ticks: int
    enqueued: int
    skipped: int
    first_job_id: JobId | None
    last_job_id: JobId | None


async def run_now(
    session: AsyncSession,
    schedule: Schedule,
    *,
    actor: Actor | None = None,
    reason: str | None = None,
) -> Note:
    """Enqueue a job of a locked schedule at once, beside whatever runs, also while it is paused.

    Its ticks are left as they are.

    Raises:
        InvalidInput: the engine refuses its job; the ledger's words say why.
    """
    by = (actor or Actor(PYTHON)).subject
    run = Run(
        schedule=schedule,
        planned_at=await repository.now(session),
        overlap=Overlap.ALLOW,
        reason=f"run by hand by {by}" + (f": {reason}" if reason else ""),
    )
    (note,) = await enqueue_runs(session, [run])
    if note.job_id is None:
        raise InvalidInput(f"The schedule {schedule.name} could not be run: {note.reason}")
    await _keep(session, [note])
    await record(
        session, actor, "schedule.run", schedule, reason=reason, after={"job_id": note.job_id}
    )
    return note


async def backfill(
    session: AsyncSession,
    schedule: Schedule,
    begin: datetime,
    end: datetime,
    *,
    overlap: Overlap = Overlap.QUEUE_ALL,
    actor: Actor | None = None,
    reason: str | None = None,
) -> Backfilled:
    """Enqueue a job for each tick of a locked schedule from `begin` to before `end`, all at once.

    Whether such a tick was fired, skipped or missed makes no difference: it runs (again).

    Args:
        session: holds the caller's transaction.
        schedule: whose ticks.
        begin: the first moment.
        end: the moment after the last, not in the future.
        overlap: what becomes of each run beside those before it; `queue_all`: one after the other.
        actor: who asks, for the audit log.
        reason: why, for the same.

    Raises:
        InvalidInput: the range holds no tick, too many, or is not over; or the policy is cancel_other.
    """
    planned = await _planned(session, schedule, begin, end)
    if overlap is Overlap.CANCEL_OTHER:
        raise InvalidInput(
            "overlap is cancel_other, which would cancel every run but the last: choose queue_all, "
            "queue_one, skip or allow",
            field="overlap",
        )
    by = (actor or Actor(PYTHON)).subject
    runs = [
        Run(
            schedule=schedule,
            planned_at=one,
            overlap=overlap,
            outcome=TickOutcome.BACKFILLED,
            reason=f"backfill by {by}" + (f": {reason}" if reason else ""),
        )
        for one in planned
    ]
    if overlap is Overlap.QUEUE_ALL:
        notes = await _chain(session, schedule, runs)
    else:
        notes = await enqueue_runs(session, runs)
    await _keep(session, notes)
    jobs = [note.job_id for note in notes if note.job_id is not None]
    done = Backfilled(
        len(notes),
        len(jobs),
        len(notes) - len(jobs),
        jobs[0] if jobs else None,
        jobs[-1] if jobs else None,
    )
    await record(
        session, actor, "schedule.backfill", schedule, reason=reason,
        after={
            "from": begin, "until": end, "overlap": overlap,
            "enqueued": done.enqueued, "skipped": done.skipped,
        },
    )  # fmt: skip
    return done


async def _planned(
    session: AsyncSession, schedule: Schedule, begin: datetime, end: datetime
) -> list[datetime]:
    if begin < EARLIEST:
        raise InvalidInput(
            f"from is {begin.isoformat()}: expected a time from {EARLIEST.isoformat()} on",
            field="from",
        )
    if begin >= end:
        raise InvalidInput(
            f"until is {end.isoformat()}, which is not after from ({begin.isoformat()})",
            field="until",
        )
    if end > await repository.now(session):
        raise InvalidInput(
            f"until is {end.isoformat()}, which is in the future: ticks that are still to come run by "
            "themselves",
            field="until",
        )
    ticks = schedule.definition.timing.ticks_after(begin - _MICROSECOND)
    planned = list(islice(takewhile(lambda tick: tick < end, ticks), MAX_BACKFILL + 1))
    if not planned:
        raise InvalidInput(
            f"The schedule {schedule.name} has no tick from {begin.isoformat()} until {end.isoformat()}",
            field="from",
        )
    if len(planned) > MAX_BACKFILL:
        raise InvalidInput(
            f"The schedule {schedule.name} has over {MAX_BACKFILL} ticks from {begin.isoformat()} until "
            f"{end.isoformat()}: ask for a part, up to {planned[MAX_BACKFILL].isoformat()} first",
            field="until",
        )
    return planned


async def _chain(session: AsyncSession, schedule: Schedule, runs: list[Run]) -> list[Note]:
    """Enqueue runs of which each waits for the one before it, and the first for what is live."""
    live = (await ledger.live_runs(session, [schedule.id]))[schedule.id]
    jobs = [
        new_job(
            schedule.name,
            schedule.definition,
            planned_at=run.planned_at,
            backfill=True,
            after=live[-MAX_WAITED_FOR:] if position == 0 else (),
        )
        for position, run in enumerate(runs)
    ]
    for job in jobs[1:]:
        job.on_parent_failure = "run"
    made = await chain_for(session, jobs, caller=schedule.created_by)
    return [
        Note(schedule, run.planned_at, run.outcome, run.reason, job.id)
        for run, job in zip(runs, made, strict=True)
    ]


async def _keep(session: AsyncSession, notes: list[Note]) -> None:
    await ledger.note(session, notes)

    def count() -> None:
        for note in notes:
            schedule_ticks(note.outcome.value, 1)

    await after_commit(session, count)
