"""What operators do to whole queues, in the caller's transaction: pause, resume, set limits."""

from dataclasses import replace
from typing import Any, Final, Unpack

from sqlalchemy.ext.asyncio import AsyncSession

from service import audit
from service.audit import Actor
from service.errors import Conflict, InvalidInput
from service.jobs import store
from service.jobs.core.queue_limits import NO_LIMITS, LimitChange, QueueLimits
from service.jobs.notify.publisher import publish_policies_after_commit
from service.jobs.store.queues import MAX_SET, Pause

MAX_NAME_BYTES: Final = 100
MAX_REASON_CHARS: Final = 500


async def pause_queue(
    session: AsyncSession, name: str, *, actor: Actor | None = None, reason: str | None = None
) -> Pause:
    """Start no more jobs of a queue, in any process, from a second after the commit on.

    Running jobs go on, and jobs can still be enqueued. Pausing a paused queue changes who and why.

    Args:
        session: holds the caller's transaction.
        name: the queue; it need not hold jobs.
        actor: who asks, for the audit log and for whoever looks next.
        reason: why, for the same.

    Raises:
        InvalidInput: no queue can have that name, or the reason is too long.
        Conflict: something is set for `MAX_SET` queues.
    """
    _check(name, reason)
    before = await store.queues.pause_of(session, name)
    by = None if actor is None else actor.subject
    pause = await store.queues.pause(session, name, by=by, reason=reason)
    if pause is None:
        raise _too_many()
    await _record(
        session, actor, "queue.pause", name, reason=reason,
        before=before and before._asdict(), after=pause._asdict(),
    )  # fmt: skip
    await publish_policies_after_commit(session)
    return pause


async def resume_queue(
    session: AsyncSession, name: str, *, actor: Actor | None = None, reason: str | None = None
) -> Pause | None:
    """Start jobs of the queue again; the pause that ended, if there was one.

    `actor` and `reason` are for the audit log.

    Raises:
        InvalidInput: no queue can have that name, or the reason is too long.
    """
    _check(name, reason)
    ended = await store.queues.resume(session, name)
    if ended is not None:
        await _record(
            session, actor, "queue.resume", name, reason=reason, before=ended._asdict(), after=None
        )
        await publish_policies_after_commit(session)
    return ended


async def configure_queue(
    session: AsyncSession,
    name: str,
    *,
    actor: Actor | None = None,
    reason: str | None = None,
    **changes: Unpack[LimitChange],
) -> QueueLimits:
    """Set limits of a queue, in force in every process within 2 seconds of the commit.

    Args:
        session: holds the caller's transaction.
        name: the queue; it need not hold jobs.
        actor: who asks, for the audit log and for whoever looks next.
        reason: why, for the audit log.
        changes: the limits to change, those of `QueueLimits`; None lifts one, the others stay.

    Returns:
        All limits of the queue.

    Raises:
        InvalidInput: no queue can have that name or such a limit, or the reason is too long.
        Conflict: something is set for `MAX_SET` other queues.
    """
    _check(name, reason)
    replace(NO_LIMITS, **changes).check()
    before = await store.queues.lock(session, name)
    if before is None:
        raise _too_many()
    after = replace(before, **changes)
    by = None if actor is None else actor.subject
    await store.queues.set_limits(session, name, after, by=by)
    if after != before:
        await _record(
            session, actor, "queue.configure", name, reason=reason,
            before=before.shown(), after=after.shown(),
        )  # fmt: skip
        await publish_policies_after_commit(session)
    return after


async def _record(
    session: AsyncSession,
    actor: Actor | None,
    action: str,
    name: str,
    *,
    before: dict[str, Any] | None,
    after: dict[str, Any] | None,
    reason: str | None,
) -> None:
    await audit.record(
        session, actor, action, subject_type="queue", subject_id=name, reason=reason,
        before=before, after=after,
    )  # fmt: skip


def _too_many() -> Conflict:
    return Conflict(
        f"Something is set for {MAX_SET} queues, and for no more can it be: resume one, or lift its"
        " limits"
    )


def _check(name: str, reason: str | None) -> None:
    # Names by plain SQL may hold other characters than those that enqueue takes.
    if not 1 <= len(name.encode()) <= MAX_NAME_BYTES or "\0" in name:
        raise InvalidInput(
            f"queue is {name[:120]!r}: expected 1 to {MAX_NAME_BYTES} bytes without NUL",
            field="queue",
        )
    if reason is not None and (len(reason) > MAX_REASON_CHARS or "\0" in reason):
        raise InvalidInput(
            f"reason has {len(reason)} characters: at most {MAX_REASON_CHARS}, without NUL",
            field="reason",
        )
