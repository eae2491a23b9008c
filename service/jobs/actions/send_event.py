"""Send an event to a job, for a step that waits for it, or will."""

import re
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from sqlalchemy.ext.asyncio import AsyncSession

from service.audit import PYTHON, Actor
from service.errors import Conflict, InvalidInput
from service.jobs import store
from service.jobs.actions.acted_on import record, status_of
from service.jobs.core.encoding import dump_json, load_json
from service.jobs.core.job import DEAD, LIVE, NAME_PATTERN, NAME_RULE, JobId, JobStatus
from service.jobs.core.lane import Lane
from service.jobs.notify.publisher import publish_after_commit
from service.jobs.store.step_events import NOT_SENT, Sent

MAX_EVENT_BYTES: Final = 16_384
MAX_EVENTS: Final = 100
"""Limits of one event and of one job, unless the caller's settings say otherwise."""


@dataclass(frozen=True, slots=True)
class SentEvent:
    """An event as the job has it."""

    name: str
    data: Any
    sent_at: datetime
    sent_by: str | None
    is_new: bool
    """False: it had been sent before, with the same data."""
    was_awaited: bool
    """Whether a step of the job waited for it."""

    @property
    def summary(self) -> str:
        """What came of it, in words."""
        if not self.is_new:
            return (
                f"The job has had the event {self.name} before, with the same data: nothing changes"
            )
        if self.was_awaited:
            return f"The job has the event {self.name}, and goes on"
        return f"The job has the event {self.name}: nothing waits for it yet, a wait will find it"


async def send_event(
    session: AsyncSession,
    job_id: JobId,
    name: str,
    data: Any = None,
    *,
    max_bytes: int = MAX_EVENT_BYTES,
    max_events: int = MAX_EVENTS,
    actor: Actor | None = None,
    reason: str | None = None,
) -> SentEvent:
    """Send a PENDING or RUNNING job an event: `ctx.wait_for_event(name)` returns its data.

    A job that waits for it is due once the caller's transaction has committed. Of several under one name the
    first counts; to send the same again changes nothing, also once the job has ended. `actor` and `reason` are for the audit log.

    Args:
        session: holds the caller's transaction.
        job_id: the job.
        name: of the event.
        data: JSON.
        max_bytes: limit on the data.
        max_events: limit on the events of one job.
        actor: who sends it.
        reason: why.

    Raises:
        InvalidInput: the name breaks a rule; as PayloadError, the data.
        NotFound: no such job.
        Conflict: it has ended, has had other data under this name, or has as many events as it may.
    """
    if not re.fullmatch(NAME_PATTERN, name):
        raise InvalidInput(
            f"{name!r:.100} is not a name of an event: expected {NAME_RULE}", field="path.name"
        )
    text = None if data is None else dump_json(data, what="data", max_bytes=max_bytes)
    was = await store.actions.hold(session, job_id)
    if was is None or was["status"] not in LIVE:
        status = JobStatus(was["status"]) if was else await status_of(session, job_id)
        if await store.step_events.is_same(session, job_id, name, text):
            return await _kept(session, job_id, name)  # asked once more, since the answer was lost
        retry = " Retry it, and send the event then." if status in DEAD else ""
        raise Conflict(f"Job {job_id} is {status}: a job that has ended takes no events.{retry}")
    if await store.step_events.others(session, job_id, name) >= max_events:
        raise Conflict(
            f"Job {job_id} has {max_events} events, and takes no more (JOB_EVENTS): put several things"
            " into one event"
        )
    by = (actor or Actor(PYTHON)).subject
    sent = await store.step_events.send(session, job_id, name, text, sent_by=by)
    kept = await _kept(session, job_id, name, sent)
    if not sent.is_new and not await store.step_events.is_same(session, job_id, name, text):
        raise Conflict(
            f"Job {job_id} has had an event {name!r} with other data, at {kept.sent_at.isoformat()}: the"
            " first counts. Give what follows it another name."
        )
    if sent.due:
        await publish_after_commit(session, [Lane(was["queue"], was["priority"])])
    if sent.is_new:
        await record(
            session, actor, "job.event", job_id, reason=reason,
            before=None, after={"event": name, "was_awaited": sent.met},
        )  # fmt: skip
    return kept


async def _kept(
    session: AsyncSession, job_id: JobId, name: str, sent: Sent = NOT_SENT
) -> SentEvent:
    kept = await store.step_events.read(session, job_id, name)
    value = None if kept.data is None else load_json(kept.data)
    return SentEvent(name, value, kept.sent_at, kept.sent_by, sent.is_new, sent.met)
