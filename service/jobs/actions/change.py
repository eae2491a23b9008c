"""Change a job that waits: what it is given, when it is due, where it waits."""

from collections.abc import Collection
from datetime import datetime
from typing import Any

from sqlalchemy.ext.asyncio import AsyncSession

from service.audit import PYTHON, Actor
from service.errors import Conflict, Outdated
from service.jobs import store
from service.jobs.actions.acted_on import MAX_ERRORS, record, status_of
from service.jobs.core.change import JobChange
from service.jobs.core.concurrency_key import key_after_edit
from service.jobs.core.job import BackgroundJob, JobId
from service.jobs.core.new_job import DEFAULT_MAX_PAYLOAD_BYTES
from service.jobs.core.redaction import redact_for
from service.jobs.notify.publisher import publish_after_commit
from service.jobs.read.get import get_job

_COLUMNS = {"run_at": "next_run_at"}
"""Members of a change whose column has another name."""


async def change_job(
    session: AsyncSession,
    job_id: JobId,
    change: JobChange,
    *,
    max_payload_bytes: int = DEFAULT_MAX_PAYLOAD_BYTES,
    max_errors: int = MAX_ERRORS,
    versions: Collection[str] | None = None,
    actor: Actor | None = None,
    reason: str | None = None,
) -> BackgroundJob:
    """Change a PENDING job: its payload, due time, queue, priority or retries.

    A due job that is moved to another queue or priority goes to the end of those that are due there.
    `actor` and `reason` are for the audit log, which keeps the values before and after. A payload that
    is replaced stays in the job's history, of which `max_errors` entries are kept; a concurrency key that
    the rule of the job's type made of it is made anew. With `versions` it is
    changed only in one of them (`job.version`, as `get_job` reads it).

    Raises:
        InvalidInput: a value breaks a rule, or there is nothing to change.
        NotFound: no such job.
        Outdated: it has changed since.
        Conflict: it is not PENDING.
    """
    columns = [_COLUMNS.get(name, name) for name in change.names()]
    values = change.encoded(max_payload_bytes=max_payload_bytes)
    if change.payload is not None:  # its history keeps the one before, which the audit log may cut
        values |= {
            "by": (actor or Actor(PYTHON)).subject,
            "max_errors": max_errors,
            "message": "edited",
        }
    job = await _held(session, job_id, versions)
    if change.payload is not None:
        change = change.sealed_for(job.job_type, before=job.payload)
        values["payload"] = change.encoded(max_payload_bytes=max_payload_bytes)["payload"]
        values["concurrency_key"] = key = key_after_edit(
            job.job_type, job.concurrency_key, before=job.payload, after=change.payload
        )
        columns += [] if key is None else ["concurrency_key"]
    before = _values(job, columns)
    job = await _change(session, job_id, "changed", **values)
    await record(
        session, actor, "job.edit", job_id, reason=reason,
        before=before, after=_values(job, columns),
    )  # fmt: skip
    return job


async def run_job_now(
    session: AsyncSession,
    job_id: JobId,
    *,
    actor: Actor | None = None,
    reason: str | None = None,
) -> BackgroundJob:
    """Make a PENDING job due at once, whatever it waits for: its time, or its next retry.

    Raises:
        NotFound: no such job.
        Conflict: it is not PENDING.
    """
    before = _values(await _held(session, job_id), ["next_run_at"])
    job = await _change(session, job_id, "run now", run_now=True, **JobChange().encoded())
    await record(
        session, actor, "job.run_now", job_id, reason=reason,
        before=before, after={"next_run_at": job.due_at},
    )  # fmt: skip
    return job


async def reschedule_job(
    session: AsyncSession,
    job_id: JobId,
    run_at: datetime,
    *,
    actor: Actor | None = None,
    reason: str | None = None,
) -> None:
    """Move a PENDING job to another time; `actor` and `reason` are for the audit log.

    Raises:
        InvalidInput: `run_at` has no time zone, or does not lie between the years 2000 and 2200.
        NotFound: no such job.
        Conflict: it is not PENDING.
    """
    values = JobChange(run_at=run_at).encoded()
    before = _values(await _held(session, job_id), ["next_run_at"])
    job = await _change(session, job_id, "moved", **values)
    await record(
        session, actor, "job.reschedule", job_id, reason=reason,
        before=before, after={"next_run_at": job.due_at},
    )  # fmt: skip


async def _held(
    session: AsyncSession, job_id: JobId, versions: Collection[str] | None = None
) -> BackgroundJob:
    """What the job is before the change; nobody else changes it from here on.

    Raises:
        NotFound: no such job.
        Outdated: it is in none of the `versions`.
    """
    await store.actions.hold(session, job_id)
    job = await get_job(session, job_id)
    if versions is not None and job.version not in versions:
        named = ", ".join(f'"{version}"' for version in sorted(versions))
        raise Outdated(
            f'Job {job_id} has changed: it is {job.status} now, in version "{job.version}", and If-Match '
            f"names {named}. Read it again, and send the change with the ETag that you get, or without "
            "If-Match."
        )
    return job


def _values(job: BackgroundJob, columns: list[str]) -> dict[str, Any]:
    values = {name: job.due_at if name == "next_run_at" else getattr(job, name) for name in columns}
    if "payload" in values:
        values["payload"] = redact_for(job.job_type, values["payload"])
    return values


async def _change(session: AsyncSession, job_id: JobId, done: str, **values: Any) -> BackgroundJob:
    changed = await store.actions.change(session, [job_id], **values)
    if not changed:
        status = await status_of(session, job_id)
        raise Conflict(f"Job {job_id} is {status}: only PENDING jobs can be {done}")
    await publish_after_commit(session, [changed[0].lane])
    return await get_job(session, job_id)
