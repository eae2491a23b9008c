"""What callers do with batches, in their own transactions: create, close, cancel.

Jobs join by `batch_id` of `NewJob`.
"""

import json
from functools import partial
from typing import Any, Final

from sqlalchemy.ext.asyncio import AsyncSession

from service import audit
from service.audit import Actor
from service.db.session import CallerSession, fetch
from service.errors import Conflict, InvalidInput
from service.jobs import store
from service.jobs.core.batch import Batch, checked_name
from service.jobs.core.encoded_jobs import encode_jobs
from service.jobs.core.new_job import DEFAULT_MAX_PAYLOAD_BYTES, NewJob
from service.jobs.notify.publisher import announce_after_commit, publish_endings_after_commit
from service.jobs.read.batches import get_batch

_KEPT: Final = ("job_type", "queue", "priority", "max_retries", "timeout_seconds")
_REFUSED: Final = (
    "run_at", "delay_seconds", "unique_key", "concurrency_key", "after", "on_parent_failure", "batch_id",
    "on_conflict", "debounce_max_seconds",
)  # fmt: skip
"""What a job of a batch's own cannot say: it is enqueued when the batch is complete."""


async def create_batch(
    session: CallerSession,
    name: str,
    *,
    on_complete: NewJob | None = None,
    on_failure: NewJob | None = None,
    created_by: str | None = None,
    max_payload_bytes: int = DEFAULT_MAX_PAYLOAD_BYTES,
) -> int:
    """Make an open batch, in the caller's transaction; its id.

    Args:
        session: holds the caller's transaction.
        name: for people.
        on_complete: enqueued once, when the batch is closed and all its jobs have ended, whatever
            became of them. Its payload, an object, gets a member `batch` with the counts.
        on_failure: enqueued once, when the first job ends FAILED or DEAD_LETTER.
        created_by: whose it is: that caller of the REST API alone may add jobs; nobody's where None.
        max_payload_bytes: limit on the payload of either.

    Raises:
        InvalidInput: the name or a job breaks a rule.
    """
    texts = {
        field: None if job is None else _encoded(field, job, max_payload_bytes)
        for field, job in (("on_complete", on_complete), ("on_failure", on_failure))
    }
    run = partial(fetch, session)
    return await store.batches.create(run, name=checked_name(name), created_by=created_by, **texts)


async def close_batch(session: CallerSession, batch_id: int) -> bool:
    """Let no more jobs join; False where it was closed before, or there is no such batch.

    Waits for transactions that are adding jobs. Commit soon: the counts of the batch wait.
    """
    closed = await store.batches.close(partial(fetch, session), batch_id)
    await publish_endings_after_commit(session)
    return closed


async def cancel_batch(
    session: AsyncSession, batch_id: int, *, actor: Actor | None = None, reason: str | None = None
) -> Batch:
    """Close a batch, and cancel its jobs; `actor` and `reason` are for the audit log.

    A moment after the commit those that wait are CANCELLED, and of those that run the cancel is asked for.
    Once all have ended the batch is complete, and its job is enqueued as of any other. To ask again changes
    nothing.

    Raises:
        NotFound: there is no such batch.
        Conflict: it is complete.
    """
    by = None if actor is None else actor.subject
    before = await get_batch(session, batch_id)
    if await store.batches.cancel(partial(fetch, session), batch_id, by=by):
        await audit.record(
            session, actor, "batch.cancel", subject_type="batch", subject_id=str(batch_id),
            before={"state": before.state}, after={"state": "cancelled"}, reason=reason,
        )  # fmt: skip
        await announce_after_commit(session)
        await publish_endings_after_commit(session)
    elif before.completed_at is not None:
        raise Conflict(f"Batch {batch_id} is complete: nothing of it waits")
    return await get_batch(session, batch_id)


def _encoded(field: str, job: NewJob, max_payload_bytes: int) -> str:
    """The job as JSON text, checked.

    Raises:
        InvalidInput: it breaks a rule.
    """
    for name in _REFUSED:
        if getattr(job, name) is not None:
            raise InvalidInput(
                f"{name} is given: {field} is enqueued at once, and once", field=f"{field}.{name}"
            )
    try:
        columns = encode_jobs([job], max_payload_bytes=max_payload_bytes).columns
    except InvalidInput as error:
        raise InvalidInput(error.detail, field=f"{field}.{error.field}") from None
    values: dict[str, Any] = {name: columns[name][0] for name in _KEPT}
    backoff, payload = columns["backoff"][0], json.loads(columns["payload"][0])
    if not isinstance(payload, dict):
        raise InvalidInput(
            f"The payload of {field} must be an object: it gets a member `batch`",
            field=f"{field}.payload",
        )
    values |= {"payload": payload, "backoff": None if backoff is None else json.loads(backoff)}
    return json.dumps(values)
