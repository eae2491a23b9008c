"""How runs ended: noted in the ledger, counted, and what follows from failures in a row."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from sqlalchemy.ext.asyncio import AsyncSession

from service.audit import Actor
from service.db.after_commit import after_commit
from service.jobs.core.job import DEAD, JobStatus
from service.jobs.notify.publisher import announce_after_commit
from service.observability.logging import get_logger
from service.observability.metrics import schedule_runs
from service.schedules import ledger, repository
from service.schedules.ledger import Ended
from service.schedules.managing import record
from service.schedules.model import FAILING, PAUSED_BY_FAILURES, Schedule, ScheduleId, TickOutcome

ACTOR: Final = Actor("schedules")
"""Who pauses a schedule that fails, in the audit log."""

_log = get_logger(__name__)


@dataclass(slots=True)
class Streak:
    """What the runs that ended do to the failures in a row of a schedule."""

    failures: int = 0
    succeeded: bool = False
    """Whether the count begins anew with the first of them."""


async def note_endings(session: AsyncSession, *, limit: int) -> int:
    """Note how up to `limit` runs ended, in the caller's transaction; how many.

    None while another process does it.
    """
    ended = await ledger.end_runs(session, limit)
    if not ended:
        return 0
    await _count(session, streaks(ended))
    await announce_after_commit(session)
    await after_commit(session, lambda: _measure(ended))
    return len(ended)


def streaks(ended: Sequence[Ended]) -> dict[ScheduleId, Streak]:
    """Failures in a row, in the order in which the runs ended. Cancelled ones and backfills do not count."""
    found: defaultdict[ScheduleId, Streak] = defaultdict(Streak)
    for one in sorted(
        ended, key=lambda run: (run.finished_at is not None, run.finished_at, run.job_id)
    ):
        if one.outcome is not TickOutcome.FIRED:
            continue
        if one.run_status == JobStatus.SUCCESS:
            found[one.schedule_id] = Streak(0, succeeded=True)
        elif one.run_status in DEAD:
            found[one.schedule_id].failures += 1
    return dict(found)


async def _count(session: AsyncSession, found: dict[ScheduleId, Streak]) -> None:
    for schedule in await repository.lock_ids(session, list(found)):
        streak = found[schedule.id]
        before = 0 if streak.succeeded else schedule.failures
        after = before + streak.failures
        if after == schedule.failures:
            continue
        counted = replace(schedule, failures=after)
        if before < FAILING <= after:
            _log.warning("schedule_failing", schedule=schedule.name, failures=after)
        limit = schedule.definition.pause_after_failures
        if limit is not None and after >= limit and not schedule.is_paused:
            await _pause(session, counted)
        else:
            await repository.set_failures(session, schedule.id, after)


async def _pause(session: AsyncSession, schedule: Schedule) -> None:
    words = f"{schedule.failures} runs failed in a row"
    paused = replace(
        schedule,
        paused_at=await repository.now(session),
        paused_by=PAUSED_BY_FAILURES,
        pause_reason=words,
        next_tick_at=None,
        due_at=None,
    )
    await repository.save(session, paused)
    await record(session, ACTOR, "schedule.pause", schedule, reason=words)
    _log.warning("schedule_paused", schedule=schedule.name, reason=words)


def _measure(ended: Sequence[Ended]) -> None:
    for one in ended:
        schedule_runs(one.run_status.lower(), 1)
