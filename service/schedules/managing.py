"""What people do to schedules, in the caller's transaction: make, change, pause, resume, delete."""

from collections.abc import Sequence
from dataclasses import asdict, replace
from datetime import datetime
from typing import Any, Final

from sqlalchemy.ext.asyncio import AsyncSession

from service import audit
from service.audit import PYTHON, Actor
from service.errors import Conflict, InvalidInput, NotFound
from service.jobs.core.redaction import redact_for
from service.jobs.notify.publisher import publish_schedules_after_commit
from service.schedules import repository
from service.schedules.model import Definition, Schedule
from service.schedules.rules import check
from service.schedules.timing import jitter_of

MAX_NAMES: Final = 1000
"""Schedules that one call pauses or resumes."""


async def create(
    session: AsyncSession,
    name: str,
    definition: Definition,
    *,
    max_schedules: int,
    actor: Actor | None = None,
    created_by: str | None = None,
) -> Schedule:
    """Make a schedule, whose first tick is the next one after now, by the database's clock.

    Args:
        session: holds the caller's transaction.
        name: what it is called, unlike every other.
        definition: what is due, and when.
        max_schedules: how many there may be, with it.
        actor: who makes it, for the audit log.
        created_by: the caller of the API whose its jobs are; nobody's where None.

    Raises:
        InvalidInput: a value breaks a rule.
        Conflict: the name is taken, or there are too many schedules.
    """
    check(name, definition)
    if await repository.count(session) >= max_schedules:
        raise Conflict(
            f"There are {max_schedules} schedules, and no more may there be (MAX_SCHEDULES): delete one"
        )
    tick, due = first_tick(name, definition, await repository.now(session))
    made = await repository.insert(
        session, name, definition, created_by=created_by, next_tick_at=tick, due_at=due
    )
    if made is None:
        raise Conflict(
            f"There is a schedule {name!r} already: change that one, or choose another name"
        )
    await record(session, actor, "schedule.create", made, after=shown(made.definition))
    return made


async def read(session: AsyncSession, name: str) -> Schedule:
    """One schedule.

    Raises:
        NotFound: there is none of that name.
    """
    found = await repository.find(session, name)
    if found is None:
        raise _unknown([name])
    return found


async def change(
    session: AsyncSession,
    schedule: Schedule,
    definition: Definition,
    *,
    actor: Actor | None = None,
    reason: str | None = None,
) -> Schedule:
    """Give a locked schedule another definition. One that code defines is pinned: code changes it no more.

    Its next tick is looked for anew where its rule changes: the first after now.

    Raises:
        InvalidInput: a value breaks a rule.
    """
    check(schedule.name, definition)
    if definition == schedule.definition:
        return schedule
    changed = replace(schedule, definition=definition)
    if schedule.owner is not None:
        changed = replace(changed, pinned_by=(actor or Actor(PYTHON)).subject)
    if ticks_differ(definition, schedule.definition) and not schedule.is_paused:
        changed = restarted(changed, await repository.now(session))
    before, after = shown(schedule.definition), shown(definition)
    saved = await repository.save(session, changed)
    different = {name for name in after if before[name] != after[name]}
    await record(
        session, actor, "schedule.edit", saved, reason=reason,
        before={name: before[name] for name in sorted(different)},
        after={name: after[name] for name in sorted(different)},
    )  # fmt: skip
    return saved


async def pause(
    session: AsyncSession,
    names: Sequence[str],
    *,
    actor: Actor | None = None,
    reason: str | None = None,
) -> list[Schedule]:
    """Act on no tick of these schedules until they are resumed; those paused already stay as they are.

    Ticks of the time in between are not made up for. Jobs that they have enqueued go on.

    Raises:
        NotFound: there is no schedule of one of the names.
        InvalidInput: there are too many names.
    """
    paused, locked = [], await lock(session, names)
    now = await repository.now(session)
    for schedule in locked:
        if schedule.is_paused:
            paused.append(schedule)
            continue
        after = replace(
            schedule,
            paused_at=now,
            paused_by=(actor or Actor(PYTHON)).subject,
            pause_reason=reason,
            next_tick_at=None,
            due_at=None,
        )
        paused.append(await repository.save(session, after))
        await record(session, actor, "schedule.pause", schedule, reason=reason)
    return paused


async def resume(
    session: AsyncSession,
    names: Sequence[str],
    *,
    actor: Actor | None = None,
    reason: str | None = None,
) -> list[Schedule]:
    """Have these schedules tick again, from the next tick after now; count their failures anew.

    Raises: as `pause`.
    """
    resumed, locked = [], await lock(session, names)
    now = await repository.now(session)
    for schedule in locked:
        if not schedule.is_paused:
            resumed.append(schedule)
            continue
        after = replace(schedule, paused_at=None, paused_by=None, pause_reason=None, failures=0)
        resumed.append(await repository.save(session, restarted(after, now)))
        await record(
            session, actor, "schedule.resume", schedule, reason=reason,
            before={"paused_by": schedule.paused_by, "pause_reason": schedule.pause_reason},
        )  # fmt: skip
    return resumed


async def delete(
    session: AsyncSession,
    schedule: Schedule,
    *,
    actor: Actor | None = None,
    reason: str | None = None,
) -> None:
    """Remove a locked schedule with its ledger; jobs that it has enqueued stay."""
    await repository.delete(session, schedule.id)
    await record(
        session, actor, "schedule.delete", schedule, reason=reason, before=shown(schedule.definition)
    )  # fmt: skip


async def lock(session: AsyncSession, names: Sequence[str]) -> list[Schedule]:
    """The schedules of these names, locked to the end of the transaction, in the order of their ids.

    Raises:
        NotFound: there is no schedule of one of the names.
        InvalidInput: there are too many names.
    """
    if len(names) > MAX_NAMES:
        raise InvalidInput(
            f"names holds {len(names)}: at most {MAX_NAMES} are taken at once", field="body.names"
        )
    found = await repository.lock(session, [name for name in names if "\0" not in name])
    if missing := sorted(set(names) - {one.name for one in found}):
        raise _unknown(missing)
    return found


def restarted(schedule: Schedule, now: datetime) -> Schedule:
    """The schedule at its next tick: after now, and after every tick that was decided."""
    last = schedule.last_tick_at
    start = now if last is None else max(now, last)
    tick, due = first_tick(schedule.name, schedule.definition, start)
    return replace(schedule, next_tick_at=tick, due_at=due)


def first_tick(
    name: str, definition: Definition, after: datetime
) -> tuple[datetime | None, datetime | None]:
    """The first tick after a moment, and when it is due; None: there is none."""
    tick = definition.timing.next_after(after)
    due = None if tick is None else tick + jitter_of(name, tick, definition.jitter_seconds)
    return tick, due


def shown(definition: Definition) -> dict[str, Any]:
    """A definition, flat, by the names of its fields; what its type hides is left out."""
    values = asdict(definition)
    timing: dict[str, Any] = values.pop("timing")
    return timing | values | {"payload": redact_for(definition.job_type, definition.payload)}


async def record(
    session: AsyncSession, actor: Actor | None, action: str, schedule: Schedule, **entry: Any
) -> None:
    """Write an entry into the audit log, and tell tickers and open pages."""
    await audit.record(
        session, actor, action, subject_type="schedule", subject_id=schedule.name, **entry
    )
    await publish_schedules_after_commit(session)


def ticks_differ(one: Definition, other: Definition) -> bool:
    """Whether they are due at other times."""
    return (one.timing, one.jitter_seconds) != (other.timing, other.jitter_seconds)


def _unknown(names: Sequence[str]) -> NotFound:
    return NotFound(f"There is no schedule {', '.join(names[:20])}")
