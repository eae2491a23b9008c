"""Retry a dead job by hand, edited or as it is."""

from typing import Any

import asyncpg
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession

from service.audit import Actor
from service.db.after_commit import after_commit
from service.errors import Conflict
from service.jobs import store
from service.jobs.actions.acted_on import MAX_ERRORS, only, record, status_of
from service.jobs.core.change import JobChange
from service.jobs.core.concurrency_key import key_after_edit
from service.jobs.core.job import BackgroundJob, JobId
from service.jobs.core.new_job import DEFAULT_MAX_PAYLOAD_BYTES
from service.jobs.core.redaction import redact_for
from service.jobs.notify.publisher import publish_after_commit
from service.jobs.read.get import get_job
from service.observability.metrics import record_event


async def retry_dead_letter_job(
    session: AsyncSession,
    job_id: JobId,
    *,
    by: str | None = None,
    max_errors: int = MAX_ERRORS,
    edit: JobChange | None = None,
    max_payload_bytes: int = DEFAULT_MAX_PAYLOAD_BYTES,
    actor: Actor | None = None,
    reason: str | None = None,
) -> BackgroundJob:
    """Put a DEAD_LETTER or FAILED job back to PENDING: attempts 0, due now, its errors kept.

    Args:
        session: holds the caller's transaction.
        job_id: the job.
        by: who asked, for the job's history.
        max_errors: entries that its history keeps.
        edit: a new payload, due time or number of retries. The payload before stays in the history; a
            concurrency key that the rule of the job's type made of it is made anew.
        max_payload_bytes: limit on a new payload.
        actor: who asked, for the audit log.
        reason: why, for the audit log.

    Raises:
        InvalidInput: `edit` breaks a rule, or would change the job's queue or priority.
        NotFound: no such job.
        Conflict: its status does not allow it, another live job has its `unique_key`, or it holds
            what plain SQL put there and no job may hold.
    """
    edit = edit or JobChange()
    values = edit.retry_values(max_payload_bytes=max_payload_bytes)
    payload = values.pop("payload")
    was = await store.actions.hold(session, job_id)
    keys: dict[JobId, str] = {}
    if edit.payload is not None:
        dead = await get_job(session, job_id)
        key = key_after_edit(
            dead.job_type, dead.concurrency_key, before=dead.payload, after=edit.payload
        )
        keys = {} if key is None else {job_id: key}
        edit = edit.sealed_for(dead.job_type, before=dead.payload)
        payload = edit.encoded(max_payload_bytes=max_payload_bytes)["payload"]
    try:
        async with session.begin_nested():
            retried = await store.actions.retry_dead(
                session, {job_id: payload}, keys=keys, by=by, max_errors=max_errors, **values
            )
    except IntegrityError as error:
        raise Conflict(f"Job {job_id} cannot be retried: {_hindrance(error)}") from None
    if not retried:
        status = await status_of(session, job_id)
        raise Conflict(
            f"Job {job_id} is {status}: only DEAD_LETTER and FAILED jobs can be retried by hand"
        )
    ((_, job_type, lane),) = retried
    await store.steps.forget_timeouts(session, [job_id])
    await publish_after_commit(session, [lane])
    await after_commit(session, lambda: record_event("manual_retry", job_type))
    job = await get_job(session, job_id)
    await record(
        session, actor, "job.retry", job_id, reason=reason,
        before=(only(was, "status", "attempts", "finished_at") or {}) | _replaced(job, edit),
        after={"status": job.status, "attempts": job.attempts, "next_run_at": job.next_run_at}
        | redact_for(job_type, edit.given()),
    )  # fmt: skip
    return job


def _replaced(job: BackgroundJob, edit: JobChange) -> dict[str, Any]:
    """The payload before, which the retry has noted in the job's history."""
    if edit.payload is None or not job.errors:
        return {}
    return {"payload": redact_for(job.job_type, job.errors[-1].get("payload_before"))}


def _hindrance(error: IntegrityError) -> str:
    refused = getattr(error.orig, "__cause__", None)
    if isinstance(refused, asyncpg.CheckViolationError):
        return f"its row breaks a rule of the table ({refused.args[0]}). Enqueue a new job instead"
    return "another job with its unique_key is pending or running. Wait for that one, or cancel it"
