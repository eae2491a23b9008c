"""What the buttons of a job's page do: the functions of the API, and back to the page."""

from collections.abc import Awaitable
from datetime import UTC, datetime
from typing import Annotated, Final

from fastapi import Depends, Request
from starlette.datastructures import FormData
from starlette.responses import Response

from service.api.actor import acting
from service.api.admin import Change
from service.api.jobs import Id
from service.api.session import AppSettings
from service.dashboard.access import Deleter, Operator
from service.dashboard.payload_edit import read_json
from service.dashboard.rendering import flash, see
from service.dashboard.route import form, page_router
from service.errors import Conflict, InvalidInput, NotFound
from service.jobs.actions import (
    cancel_job,
    clone_job,
    delete_job,
    reschedule_job,
    retry_dead_letter_job,
    run_job_now,
    send_event,
)
from service.jobs.core.job import JobId, JobStatus
from service.jobs.core.search_times import read_moment

router = page_router()

PATH: Final = "/dashboard/jobs"
MAX_REASON: Final = 500

Sent = Annotated[FormData, Depends(form)]


@router.post("/jobs/{job_id}/retry")
async def retry(
    request: Request,
    operator: Operator,
    job_id: Id,
    session: Change,
    settings: AppSettings,
    sent: Sent,
) -> Response:
    """Put a dead job back."""
    retried = retry_dead_letter_job(
        session,
        JobId(job_id),
        by=operator.subject,
        max_errors=settings.max_error_entries,
        actor=acting(request, operator),
        reason=reason_of(sent),
    )
    return await _done(request, job_id, retried, words=f"Job {job_id} is PENDING again, due now")


@router.post("/jobs/{job_id}/cancel")
async def cancel(
    request: Request, operator: Operator, job_id: Id, session: Change, sent: Sent
) -> Response:
    """Cancel a job that waits or runs."""
    try:
        job = await cancel_job(
            session, JobId(job_id), actor=acting(request, operator), reason=reason_of(sent)
        )
    except (Conflict, NotFound) as error:
        return flash(see(request, f"{PATH}/{job_id}"), error.detail, kind="failed")
    words = f"Job {job_id} is cancelled"
    if job.status == JobStatus.RUNNING:
        words = f"Job {job_id} is being cancelled: its handler is told to stop"
    return flash(see(request, f"{PATH}/{job_id}"), words)


@router.post("/jobs/{job_id}/run-now")
async def run_now(
    request: Request, operator: Operator, job_id: Id, session: Change, sent: Sent
) -> Response:
    """Make a pending job due at once."""
    hastened = run_job_now(
        session, JobId(job_id), actor=acting(request, operator), reason=reason_of(sent)
    )
    return await _done(request, job_id, hastened, words=f"Job {job_id} is due now")


@router.post("/jobs/{job_id}/clone")
async def clone(
    request: Request,
    operator: Operator,
    job_id: Id,
    session: Change,
    settings: AppSettings,
    sent: Sent,
) -> Response:
    """Enqueue a copy, and lead to it."""
    try:
        made = await clone_job(
            session,
            JobId(job_id),
            by=operator.subject,
            max_payload_bytes=settings.max_payload_bytes,
            actor=acting(request, operator),
            reason=reason_of(sent),
        )
    except (InvalidInput, NotFound) as error:
        return flash(see(request, f"{PATH}/{job_id}"), error.detail, kind="failed")
    words = f"Job {made.id} is a copy of job {job_id}, due now"
    return flash(see(request, f"{PATH}/{made.id}"), words)


@router.post("/jobs/{job_id}/reschedule")
async def reschedule(
    request: Request, operator: Operator, job_id: Id, session: Change, sent: Sent
) -> Response:
    """Move a pending job to another time."""
    text = str(sent.get("run_at", "")).strip()
    moment = read_moment(text, now=datetime.now(UTC))
    if moment is None:
        words = (
            f"Not moved: {text[:100]!r} is not a time. Write 10m, 2h or 3d from now, or a time such as "
            "2026-01-31T09:00Z"
        )
        return flash(see(request, f"{PATH}/{job_id}"), words, kind="failed")
    moved = reschedule_job(
        session, JobId(job_id), moment, actor=acting(request, operator), reason=reason_of(sent)
    )
    at = moment.strftime("%Y-%m-%d %H:%M:%S UTC")
    return await _done(request, job_id, moved, words=f"Job {job_id} is now due at {at}")


@router.post("/jobs/{job_id}/send-event")
async def send_event_to_job(
    request: Request,
    operator: Operator,
    job_id: Id,
    session: Change,
    settings: AppSettings,
    sent: Sent,
) -> Response:
    """Send what a step of the job waits for, or will."""
    page, text = f"{PATH}/{job_id}", str(sent.get("data", "")).strip()
    try:
        event = await send_event(
            session,
            JobId(job_id),
            str(sent.get("name", "")).strip(),
            read_json(text, what="data") if text else None,
            max_bytes=settings.job_event_bytes,
            max_events=settings.job_events,
            actor=acting(request, operator),
            reason=reason_of(sent),
        )
    except (Conflict, InvalidInput, NotFound) as error:
        return flash(see(request, page), error.detail, kind="failed")
    return flash(see(request, page), event.summary)


@router.post("/jobs/{job_id}/delete")
async def delete(
    request: Request, operator: Deleter, job_id: Id, session: Change, sent: Sent
) -> Response:
    """Delete a job with its history."""
    deleted = delete_job(
        session, JobId(job_id), actor=acting(request, operator), reason=reason_of(sent)
    )
    return await _done(request, job_id, deleted, words=f"Job {job_id} was deleted", path=PATH)


async def _done(
    request: Request, job_id: int, action: Awaitable[object], *, words: str, path: str | None = None
) -> Response:
    """Back to the page, with what was done or why it was not."""
    page = f"{PATH}/{job_id}"
    try:
        await action
    except (Conflict, InvalidInput, NotFound) as error:
        return flash(see(request, page), error.detail, kind="failed")
    return flash(see(request, path or page), words)


def reason_of(sent: FormData) -> str | None:
    """The reason in a form; None where none is given."""
    # PostgreSQL's text holds no NUL: the audit log shows the same in its place.
    return str(sent.get("reason", "")).replace("\0", "\ufffd").strip()[:MAX_REASON] or None
