"""Enqueue a copy of a job."""

from sqlalchemy.ext.asyncio import AsyncSession

from service.audit import Actor
from service.jobs import store
from service.jobs.actions.acted_on import record
from service.jobs.core.backoff import Backoff
from service.jobs.core.change import JobChange
from service.jobs.core.encryption import plain_part
from service.jobs.core.job import JobId
from service.jobs.core.new_job import DEFAULT_MAX_PAYLOAD_BYTES, EnqueuedJob, NewJob
from service.jobs.enqueue.enqueue import enqueue_for
from service.jobs.read.get import get_job


async def clone_job(
    session: AsyncSession,
    job_id: JobId,
    *,
    by: str | None = None,
    max_payload_bytes: int = DEFAULT_MAX_PAYLOAD_BYTES,
    actor: Actor | None = None,
    reason: str | None = None,
) -> EnqueuedJob:
    """Enqueue a new job like this one, due now: all that it was given but its `unique_key`.

    The new job belongs to `by`; `actor` and `reason` are for the audit log.

    Raises:
        NotFound: no such job.
        InvalidInput: the job holds what no new job may hold.
    """
    job = await get_job(session, job_id)
    copy = NewJob(
        job.job_type,
        plain_part(job.payload),
        queue=job.queue,
        priority=job.priority,
        max_retries=job.max_retries,
        timeout_seconds=job.timeout_seconds,
        backoff=None if job.backoff is None else Backoff.from_json(job.backoff),
        concurrency_key=job.concurrency_key,
        callback=job.callback,
        result_ttl_seconds=job.result_ttl_seconds,
    )
    made = (await enqueue_for(session, [copy], caller=by, max_payload_bytes=max_payload_bytes))[0]
    exact = (await store.actions.payloads_of(session, [job_id])).get(job_id)
    # What Python read of it may have lost digits; and what is encrypted stays as it is.
    await store.actions.change(session, [made.id], **JobChange().encoded() | {"payload": exact})
    await record(
        session, actor, "job.clone", made.id, reason=reason,
        before={"clone_of": job_id}, after={"job_type": job.job_type, "queue": job.queue},
    )  # fmt: skip
    return made
