"""At the start of a process: the schedules that its code defines are made or brought up to date.

A schedule belongs to the application whose code defined it first (`SCHEDULE_OWNER`). What people changed
by hand stays so until they release it, a pause until they resume it; what others own is left alone.
"""

from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any, Final

from sqlalchemy.ext.asyncio import AsyncSession

from service.audit import Actor
from service.errors import ConfigurationError, Conflict
from service.observability.logging import get_logger
from service.schedules import repository
from service.schedules.managing import first_tick, record, restarted, shown, ticks_differ
from service.schedules.model import (
    PAUSED_BY_CODE,
    CatchUp,
    Definition,
    Overlap,
    Schedule,
)
from service.schedules.timing import Timing
from service.settings import Settings

DEFAULT_OWNER: Final = "application"

_log = get_logger(__name__)


async def declare(
    session: AsyncSession, definitions: Mapping[str, Definition], settings: Settings
) -> None:
    """Make, change or pause the schedules of this application's code, in the caller's transaction.

    Raises:
        ConfigurationError: there would be more than `MAX_SCHEDULES`.
    """
    if not definitions and settings.schedule_owner is None:
        return
    owner = settings.schedule_owner or DEFAULT_OWNER
    actor = Actor(f"code:{owner}")
    found = await repository.lock_of_owner(session, owner, list(definitions))
    new = definitions.keys() - found.keys()
    if new and await repository.count(session) + len(new) > settings.max_schedules:
        raise ConfigurationError(
            f"The code defines {len(new)} new schedules, and there may be {settings.max_schedules} in all: "
            "raise MAX_SCHEDULES, or delete some"
        )
    for name, definition in sorted(definitions.items()):
        if name in found:
            await _update(session, found[name], definition, owner=owner, actor=actor)
        else:
            await _make(session, name, definition, owner=owner, actor=actor)
    if settings.schedule_owner is not None:
        for name in sorted(found.keys() - definitions.keys()):
            await _pause(session, found[name], actor=actor)


async def release(
    session: AsyncSession,
    schedule: Schedule,
    *,
    actor: Actor | None = None,
    reason: str | None = None,
) -> Schedule:
    """Give a locked schedule back to its code: what was changed by hand is undone at once.

    Raises:
        Conflict: no code defines it.
    """
    if schedule.declared is None:
        raise Conflict(f"The schedule {schedule.name} was made by hand: no code defines it")
    if schedule.pinned_by is None:
        return schedule
    saved = await _apply(session, schedule, _definition(schedule.declared))
    await record(
        session, actor, "schedule.release", schedule, reason=reason,
        before=shown(schedule.definition), after=shown(saved.definition),
    )  # fmt: skip
    return saved


async def _make(
    session: AsyncSession, name: str, definition: Definition, *, owner: str, actor: Actor
) -> None:
    tick, due = first_tick(name, definition, await repository.now(session))
    made = await repository.insert(
        session, name, definition, owner=owner, declared=_declared(definition),
        next_tick_at=tick, due_at=due,
    )  # fmt: skip
    if made is not None:
        await record(session, actor, "schedule.create", made, after=shown(definition))


async def _update(
    session: AsyncSession, schedule: Schedule, definition: Definition, *, owner: str, actor: Actor
) -> None:
    if schedule.owner != owner:
        whose = "made by hand" if schedule.owner is None else f"of {schedule.owner}"
        _log.error(
            "schedule_name_taken",
            schedule=schedule.name,
            whose=whose,
            hint="it is left as it is: give the one in your code another name",
        )
        return
    returns = schedule.paused_by == PAUSED_BY_CODE
    if schedule.declared == _declared(definition) and not returns:
        return
    changed = replace(schedule, declared=_declared(definition))
    if returns:
        changed = replace(changed, paused_at=None, paused_by=None, pause_reason=None)
    if schedule.pinned_by is not None:
        _log.warning("schedule_pinned", schedule=schedule.name, by=schedule.pinned_by)
        kept = restarted(changed, await repository.now(session)) if returns else changed
        await repository.save(session, kept)
        return
    saved = await _apply(session, changed, definition, anew=returns)
    before, after = shown(schedule.definition), shown(saved.definition)
    different = sorted(name for name in after if before[name] != after[name])
    await record(
        session, actor, "schedule.edit", saved,
        before={name: before[name] for name in different},
        after={name: after[name] for name in different},
    )  # fmt: skip


async def _apply(
    session: AsyncSession, schedule: Schedule, definition: Definition, *, anew: bool = False
) -> Schedule:
    changed = replace(schedule, definition=definition, pinned_by=None)
    if not changed.is_paused and (anew or ticks_differ(definition, schedule.definition)):
        changed = restarted(changed, await repository.now(session))
    return await repository.save(session, changed)


async def _pause(session: AsyncSession, schedule: Schedule, *, actor: Actor) -> None:
    if schedule.is_paused:
        return
    words = "its decorator is gone from the code"
    paused = replace(
        schedule,
        paused_at=await repository.now(session),
        paused_by=PAUSED_BY_CODE,
        pause_reason=words,
        next_tick_at=None,
        due_at=None,
    )
    await repository.save(session, paused)
    await record(session, actor, "schedule.pause", schedule, reason=words)
    _log.warning("schedule_paused", schedule=schedule.name, reason=words)


def _declared(definition: Definition) -> dict[str, Any]:
    values = asdict(definition)
    timing: dict[str, Any] = values.pop("timing")
    return timing | values


def _definition(declared: Mapping[str, Any]) -> Definition:
    """What `_declared` made it of; members that this version does not know are left out."""
    known = {name: declared[name] for name in Definition.__slots__ if name in declared}
    return Definition(
        timing=Timing(declared["cron"], declared["every_seconds"], declared["zone"]),
        **known
        | {"overlap": Overlap(declared["overlap"]), "catch_up": CatchUp(declared["catch_up"])},
    )
