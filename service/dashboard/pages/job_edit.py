"""Edit a job: change one that waits, or edit a dead one while it is retried."""

import hashlib
import sys
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Annotated, Any, Final

from fastapi import Depends, Request
from sqlalchemy.ext.asyncio import AsyncSession
from starlette.datastructures import FormData
from starlette.responses import Response

from service import audit
from service.api.actor import acting
from service.api.admin import Change
from service.api.jobs import Id
from service.api.session import AppSettings, Session
from service.auth.principal import Principal
from service.dashboard import json_view
from service.dashboard.access import Operator
from service.dashboard.job_values import MAX_TEXT_CHARS, Revealed, value_of, write_value
from service.dashboard.pages.job_actions import PATH, reason_of
from service.dashboard.payload_edit import Line, difference, read_payload
from service.dashboard.rendering import flash, render, see
from service.dashboard.route import form, page_router
from service.errors import Conflict, InvalidInput
from service.jobs.actions import change_job, retry_dead_letter_job
from service.jobs.core.change import JobChange
from service.jobs.core.encoding import edit_json
from service.jobs.core.encryption import may_be_sealed, without_ciphertext
from service.jobs.core.job import DEAD, BackgroundJob, JobId, JobStatus
from service.jobs.core.redaction import redacted_fields
from service.jobs.core.search_times import read_moment
from service.jobs.read.detail import JobDetail, JsonText, get_detail
from service.settings import Settings

router = page_router()

FIELDS: Final = ("payload", "run_at", "max_retries", "queue", "priority", "reason")


@dataclass(frozen=True, slots=True)
class JobEdit:
    """What `job_edit.html` shows."""

    job: BackgroundJob
    given: dict[str, str]
    """What the form holds."""
    original: str
    """Which payload it was made of: one that changed meanwhile is not overwritten."""
    locked: bool = False
    """Whether the payload has values that are hidden until the reader asks for them."""
    refused: str | None = None
    difference: list[Line] | None = None
    """What would change; None: not asked for yet."""

    @property
    def retries(self) -> bool:
        """Whether sending it retries the job."""
        return self.job.status in DEAD


@router.get("/jobs/{job_id}/edit")
async def show_edit(
    request: Request, _: Operator, job_id: Id, session: Session, settings: AppSettings
) -> Response:
    """The form, unless the payload holds hidden values."""
    detail = await _detail(session, job_id)
    return render(request, "job_edit.html", page=_closed(_page(detail), detail, settings))


@router.post("/jobs/{job_id}/edit")
async def edit(
    request: Request,
    operator: Operator,
    job_id: Id,
    session: Change,
    settings: AppSettings,
    sent: Annotated[FormData, Depends(form)],
) -> Response:
    """Open a payload with hidden values, show what would change, or send it."""
    detail = await _detail(session, job_id, to_change=True)
    page, step = _page(detail), sent.get("step")
    if step == "open":
        _check_shown(detail)
        await audit.record(
            session,
            acting(request, operator),
            "payload.reveal",
            subject_type="job",
            subject_id=str(job_id),
            after={"revealed": "everything"},
            reason=reason_of(sent),
        )
        return render(request, "job_edit.html", page=page)
    given = {name: str(sent.get(name, "")).replace("\r\n", "\n") for name in FIELDS}
    page, before = replace(page, given=given), page.given["payload"]
    if sent.get("original") != page.original:
        # It keeps the mark that it was sent with: sent once more it is refused once more.
        page = replace(_closed(page, detail, settings), original=str(sent.get("original", "")))
        words = "The payload was changed meanwhile: open the job and edit it anew"
        return render(request, "job_edit.html", page=replace(page, refused=words), status=409)
    try:
        change = _change(given, before, detail.job)
        if step == "send":
            return await _send(request, session, detail.job, change, operator, settings, given)
        change.encoded(max_payload_bytes=settings.max_payload_bytes)
    except (InvalidInput, Conflict) as error:
        return render(
            request, "job_edit.html", page=replace(page, refused=error.detail), status=error.status
        )
    after = before if change.payload is None else write_value(change.payload)
    shown = difference(before, after)
    return render(request, "job_edit.html", page=replace(page, difference=shown))


async def _send(
    request: Request,
    session: AsyncSession,
    job: BackgroundJob,
    change: JobChange,
    operator: Principal,
    settings: Settings,
    given: dict[str, str],
) -> Response:
    job_id, actor, reason = JobId(job.id), acting(request, operator), given["reason"] or None
    if job.status in DEAD:
        await retry_dead_letter_job(
            session,
            job_id,
            by=operator.subject,
            max_errors=settings.max_error_entries,
            edit=change,
            max_payload_bytes=settings.max_payload_bytes,
            actor=actor,
            reason=reason,
        )
        words = f"Job {job_id} is PENDING again, with what you changed"
    else:
        await change_job(
            session,
            job_id,
            change,
            max_payload_bytes=settings.max_payload_bytes,
            max_errors=settings.max_error_entries,
            actor=actor,
            reason=reason,
        )
        words = f"Job {job_id} was changed"
    return flash(see(request, f"{PATH}/{job_id}"), words)


async def _detail(session: AsyncSession, job_id: int, *, to_change: bool = False) -> JobDetail:
    """The job; with `to_change` nobody else changes it meanwhile.

    Raises:
        NotFound: there is no such job.
        Conflict: its status allows no change, or its payload is too long for a page.
    """
    detail = await get_detail(session, JobId(job_id), max_chars=MAX_TEXT_CHARS, to_change=to_change)
    status = detail.job.status
    if status not in DEAD and status != JobStatus.PENDING:
        raise Conflict(
            f"Job {job_id} is {status}: only PENDING, FAILED and DEAD_LETTER can be edited"
        )
    if not detail.texts["payload"].is_whole:
        raise Conflict(
            f"The payload of job {job_id} has more than {MAX_TEXT_CHARS} characters: edit it with the "
            "API, PATCH /admin/jobs/{id} or POST /admin/jobs/{id}/retry"
        )
    return detail


def _editable(detail: JobDetail) -> str:
    """The payload as it can be edited: without a ciphertext, which stays while `$encrypted` names it."""
    text = detail.texts["payload"].text
    if not may_be_sealed(text):
        return text
    return edit_json(text, without_ciphertext, what="payload", max_bytes=sys.maxsize)


def _page(detail: JobDetail) -> JobEdit:
    source = _editable(detail)
    given = dict.fromkeys(FIELDS, "") | {"payload": json_view.write(json_view.parse(source))}
    return JobEdit(detail.job, given, hashlib.sha256(source.encode()).hexdigest())


def _closed(page: JobEdit, detail: JobDetail, settings: Settings) -> JobEdit:
    """The page without its payload, and without the mark of it, where that has hidden values."""
    if not _is_locked(detail, settings):
        return page
    return replace(page, locked=True, given=page.given | {"payload": ""}, original="")


def _is_locked(detail: JobDetail, settings: Settings) -> bool:
    text = _editable(detail)
    value = value_of(
        "payload",
        "Payload",
        source=JsonText(text, len(text)),
        settings=settings,
        revealed=Revealed.NOTHING,
        redacted=redacted_fields(detail.job.job_type),
    )
    return value is not None and (value.hidden or value.masked > 0)


def _check_shown(detail: JobDetail) -> None:
    """Refuse to open a payload with values that nobody is shown.

    Raises:
        Conflict: it has some.
    """
    node = json_view.parse(_editable(detail), redacted_fields(detail.job.job_type))
    if json_view.masks_in(node):
        raise Conflict(
            f"The payload of job {detail.job.id} has values that are never shown: send it anew as a whole "
            "with the API, PATCH /admin/jobs/{id} or POST /admin/jobs/{id}/retry"
        )


def _change(given: dict[str, str], before: str, job: BackgroundJob) -> JobChange:
    """What differs from the job.

    Raises:
        InvalidInput: a value cannot be read, or nothing differs.
    """
    values: dict[str, Any] = {}
    if given["payload"].strip() != before.strip():
        values["payload"] = read_payload(given["payload"], job_type=job.job_type)
    if text := given["run_at"].strip():
        values["run_at"] = read_moment(text, now=datetime.now(UTC))
        if values["run_at"] is None:
            raise InvalidInput(
                f"Due {text[:60]!r} is not a time: write 10m, 2h or 3d from now, or 2026-01-31T09:00Z"
            )
    for name in ("max_retries", "priority"):
        if text := given[name].strip():
            if not (text.isascii() and text.isdigit()) or len(text) > 5:
                raise InvalidInput(f"{name} is {text[:60]!r}: expected a whole number")
            values[name] = int(text)
    if job.status == JobStatus.PENDING and (text := given["queue"].strip()):
        values["queue"] = text
    if job.status in DEAD:
        values.pop("priority", None)
    if not values:
        raise InvalidInput("Nothing differs from the job: change something first")
    return JobChange(**values)
