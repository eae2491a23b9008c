"""Acts on due schedules: each tick gets its job, and its line in the ledger, in one transaction.

Any number of processes do this at once, without a leader. A schedule is locked while one of them acts
on it, and moved past its tick only if that is still the last one: a tick has one job, whoever is killed
when.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from service.db.after_commit import after_commit
from service.errors import Conflict
from service.jobs.notify.publisher import announce_after_commit
from service.observability.logging import get_logger
from service.observability.metrics import observe_schedule_delay, schedule_ticks
from service.schedules import ledger, repository
from service.schedules.deciding import Decided, decide
from service.schedules.ledger import Note
from service.schedules.model import Schedule, TickOutcome
from service.schedules.repository import Advance
from service.schedules.runs import Run, enqueue_runs

IDLE_SECONDS: Final = 10
"""A process that stands still with its transaction open loses it, and its locks, after so long."""

NAMED_IN_LOG: Final = 5

_log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Acted:
    """What one transaction did."""

    schedules: int = 0
    jobs: int = 0


async def act_on_due(session: AsyncSession, *, limit: int) -> Acted:
    """Act on up to `limit` due schedules that no other process acts on, in the caller's transaction."""
    await session.execute(
        text("SELECT set_config('idle_in_transaction_session_timeout', :milliseconds, true)"),
        {"milliseconds": str(IDLE_SECONDS * 1000)},
    )
    due, now = await repository.lock_due(session, limit)
    if now is None:
        return Acted()
    decided = [(schedule, await _decided(session, schedule, now)) for schedule in due]
    sound = [(schedule, one) for schedule, one in decided if one is not None]
    runs = [
        Run(
            schedule=schedule,
            planned_at=fire.planned_at,
            overlap=schedule.definition.overlap,
            reason=fire.reason,
        )
        for schedule, one in sound
        for fire in one.fires
    ]
    enqueued = await enqueue_runs(session, runs)
    missed = [
        Note(
            schedule, one.planned_at, TickOutcome.MISSED, one.reason, None,
            one.until if one.ticks > 1 else None, one.ticks,
        )
        for schedule, decision in sound
        for one in decision.missed
    ]  # fmt: skip
    await _advance(session, sound)
    await ledger.note(session, [*missed, *enqueued])
    await announce_after_commit(session)
    await after_commit(session, lambda: _count(sound, [*missed, *enqueued], now))
    return Acted(len(due), sum(note.job_id is not None for note in enqueued))


async def _decided(session: AsyncSession, schedule: Schedule, now: datetime) -> Decided | None:
    """What becomes of its ticks; None: its row holds what no code expects, and it is paused."""
    try:
        return decide(schedule, now)
    except Exception as error:  # written by hand: it must not keep the others from their ticks
        words = f"its rule cannot be followed: {type(error).__name__}: {error}"[:500]
        _log.exception("schedule_broken", schedule=schedule.name)
        broken = replace(
            schedule, paused_at=now, paused_by="service", pause_reason=words,
            next_tick_at=None, due_at=None,
        )  # fmt: skip
        await repository.save(session, broken)
        return None


async def _advance(session: AsyncSession, decided: Sequence[tuple[Schedule, Decided]]) -> None:
    steps = [
        Advance(
            schedule.id, schedule.last_tick_at, one.last_tick_at or schedule.last_tick_at,
            one.next_tick_at, one.due_at,
        )
        for schedule, one in decided
    ]  # fmt: skip
    if steps and len(moved := await repository.advance(session, steps)) < len(steps):
        others = [schedule.name for schedule, _ in decided if schedule.id not in moved]
        raise Conflict(f"Schedules {others[:NAMED_IN_LOG]} were moved by somebody else")


def _count(
    decided: Sequence[tuple[Schedule, Decided]], notes: Sequence[Note], now: datetime
) -> None:
    ticks: Counter[TickOutcome] = Counter()
    for note in notes:
        ticks[note.outcome] += note.ticks
    for outcome, number in ticks.items():
        schedule_ticks(outcome.value, number)
    for schedule, one in decided:
        for fire in one.fires:
            late = (now - fire.due_at).total_seconds()
            observe_schedule_delay(schedule.definition.job_type, late)
    if ticks[TickOutcome.MISSED]:
        late_ones = [schedule.name for schedule, one in decided if one.missed]
        _log.warning(
            "schedule_ticks_missed",
            ticks=ticks[TickOutcome.MISSED],
            schedules=late_ones[:NAMED_IN_LOG],
            others=max(0, len(late_ones) - NAMED_IN_LOG),
        )
    _log.debug("schedules_acted", **{one.value: number for one, number in ticks.items()})
