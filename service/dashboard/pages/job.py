"""One job: how it stands, all that happened to it, what it was given and gave back."""

import asyncio
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Annotated, Final

from fastapi import Depends, Request
from sqlalchemy.ext.asyncio import AsyncSession
from starlette.datastructures import FormData
from starlette.responses import PlainTextResponse, Response

from service import audit
from service.api.actor import acting
from service.api.admin import Change
from service.api.cancel_schema import CancelOut, cancel_out
from service.api.job_schemas import effective_limits
from service.api.jobs import Id
from service.api.session import AppSettings, Session
from service.audit.repository import newest
from service.dashboard import job_code
from service.dashboard.access import Operator, Viewer
from service.dashboard.explained import Explained, explained
from service.dashboard.job_changes import MAX_CHANGES, changes_of
from service.dashboard.job_rows import attempts_words
from service.dashboard.job_values import (
    MAX_TREE_CHARS,
    MAX_WHOLE_CHARS,
    Progress,
    Revealed,
    Value,
    progress_of,
    value_of,
    whole_text,
    written,
)
from service.dashboard.rendering import HEADERS, Problem, render
from service.dashboard.route import form, page_router
from service.dashboard.timeline import Event, history_of, timeline
from service.errors import NotFound
from service.jobs.core.job import DEAD, LIVE, BackgroundJob, JobId, JobStatus
from service.jobs.core.redaction import redacted_fields
from service.jobs.core.search import Search
from service.jobs.core.steps import StepKind
from service.jobs.read.dependencies import children_of, parents_of
from service.jobs.read.detail import JobDetail, get_detail, neighbours
from service.jobs.read.get import worker_name
from service.jobs.read.logs import LoggedLine, read_log_end
from service.jobs.read.steps import read_steps
from service.jobs.store.relatives import Relative
from service.settings import Settings

router = page_router()

PATH: Final = "/dashboard/jobs"
MAX_LOG_LINES: Final = 200
MAX_STEP_CHARS: Final = 2_000
"""A longer result of a step is not shown."""
MAX_RELATIVES: Final = 20
"""Parents, and children, that the page names."""
TEXT_COLUMNS: Final = {"payload": "payload", "result": "result"}


@dataclass(frozen=True, slots=True)
class JobPage:
    """What `job.html` shows."""

    job: BackgroundJob
    attempts: str
    timeout_seconds: float | None
    explained: Explained
    worker: str | None
    events: list[Event]
    history_is_cut: bool
    older_entries: int
    """Entries of its history that are not shown."""
    values: list[Value]
    progress: Progress | None
    log: list[tuple[LoggedLine, str]]
    """The last lines that its handler logged, each with its fields as text."""
    curl: str | None
    python: str | None
    parents: list[Relative]
    """The first jobs that it comes after."""
    children: list[Relative]
    """The first jobs that come after it."""
    older: JobId | None
    newer: JobId | None
    can: frozenset[str]
    """What its status allows."""
    cancel: CancelOut | None
    """Who asked for its cancel, and what came of it."""
    masked_names: tuple[str, ...]
    is_revealed: bool
    """Whether it shows what a live page would hide again."""

    @property
    def callback(self) -> str | None:
        """Whom its end is told; plain SQL may have written anything."""
        callback = self.job.callback
        url = callback.get("url") if isinstance(callback, dict) else callback
        return None if url is None else str(url)

    @property
    def awaited_event(self) -> str:
        """The name of the event that it waits for; empty where it waits for none."""
        step = self.explained.why.step
        return step.name if step is not None and step.kind == StepKind.EVENT else ""

    @property
    def type_search(self) -> str:
        """The search for the jobs of its type."""
        return str(Search().also("type", self.job.job_type))

    @property
    def relatives(self) -> list[tuple[str, str, list[Relative], bool]]:
        """What it comes after, and what comes after it: a title, the API's word, the jobs, whether more."""
        kinds = (("Comes after", "parents", self.parents), ("Before", "children", self.children))
        return [
            (title, word, found[:MAX_RELATIVES], len(found) > MAX_RELATIVES)
            for title, word, found in kinds
            if found
        ]

    @property
    def log_is_cut(self) -> bool:
        """Whether there may be more lines than the page shows."""
        return len(self.log) == MAX_LOG_LINES

    @property
    def latest_failure(self) -> Event | None:
        """What is read first."""
        return next((event for event in self.events if event.traceback is not None), None)

    @property
    def masked(self) -> int:
        """How many values of the page are masked."""
        return sum(value.masked for value in self.values)

    @property
    def is_hidden(self) -> bool:
        """Whether a setting hides its values."""
        return any(value.hidden for value in self.values)


@router.get("/jobs/{job_id}")
async def show_job(
    request: Request, _: Viewer, job_id: Id, session: Session, settings: AppSettings
) -> Response:
    """The page of one job; for one that is not there, what may have become of it."""
    return await _show(request, session, JobId(job_id), settings=settings)


@router.get("/jobs/{job_id}/{column}.txt")
async def show_text(
    _: Viewer, job_id: Id, column: str, session: Session, settings: AppSettings
) -> Response:
    """The whole payload or result as text, without the masked fields."""
    if column not in TEXT_COLUMNS:
        raise NotFound(
            f"A job has no {column} to show as text: there is payload.txt and result.txt"
        )
    detail = await get_detail(session, JobId(job_id), max_chars=MAX_WHOLE_CHARS)
    source = detail.texts.get(column)
    if source is None or (column == "result" and detail.job.result_dropped):
        raise NotFound(f"Job {job_id} has no {column}")
    redacted = redacted_fields(detail.job.job_type)
    text = await asyncio.to_thread(whole_text, source, settings, name=column, redacted=redacted)
    return PlainTextResponse(text, headers=dict(HEADERS))


@router.post("/jobs/{job_id}/reveal")
async def reveal(
    request: Request,
    operator: Operator,
    job_id: Id,
    session: Change,
    settings: AppSettings,
    sent: Annotated[FormData, Depends(form)],
) -> Response:
    """The page once more with what is hidden or masked; the audit log says who asked."""
    revealed = Revealed.EVERYTHING if sent.get("what") == "masked" else Revealed.PAYLOADS
    response = await _show(request, session, JobId(job_id), settings=settings, revealed=revealed)
    if response.status_code == 200:
        await audit.record(
            session,
            acting(request, operator),
            "payload.reveal",
            subject_type="job",
            subject_id=str(job_id),
            after={"revealed": revealed.name.lower()},
            reason=str(sent.get("reason", "")) or None,
        )
    return response


async def _show(
    request: Request,
    session: AsyncSession,
    job_id: JobId,
    *,
    settings: Settings,
    revealed: Revealed = Revealed.NOTHING,
) -> Response:
    try:
        detail = await get_detail(session, job_id, max_chars=MAX_TREE_CHARS)
    except NotFound:
        return await _missing(request, session, job_id, settings=settings)
    page = await _page(request, session, detail, settings=settings, revealed=revealed)
    return render(request, "job.html", page=page)


async def _page(
    request: Request,
    session: AsyncSession,
    detail: JobDetail,
    *,
    settings: Settings,
    revealed: Revealed,
) -> JobPage:
    job, texts, now = detail.job, detail.texts, datetime.now(UTC)
    job_id = JobId(job.id)
    why = await explained(session, job, now=now, settings=settings)
    worker = await worker_name(session, job.worker_id)
    entries = await newest(session, changes_of(job_id), limit=MAX_CHANGES)
    history, older_entries = await history_of(session, job_id)
    older, newer = await neighbours(session, job)
    redacted = redacted_fields(job.job_type)
    values = [
        value_of(
            name,
            title,
            source=texts.get(name),
            settings=settings,
            revealed=revealed,
            redacted=redacted,
        )
        for name, title in (("payload", "Payload"), ("result", "Result"))
        if name != "result" or not job.result_dropped
    ]
    shown = [value for value in values if value is not None]
    payload = next((value.text for value in shown if value.name == "payload"), None)
    write = partial(written, settings=settings, revealed=revealed, redacted=redacted)
    steps = await read_steps(session, job_id, max_chars=MAX_STEP_CHARS)
    lines = await read_log_end(session, job_id, limit=MAX_LOG_LINES)
    base_url = str(request.base_url).rstrip("/")
    return JobPage(
        job=job,
        attempts=attempts_words(
            job.attempts, job.job_type, retries=job.max_retries, settings=settings
        ),
        timeout_seconds=effective_limits(job, settings)["effective_timeout_seconds"],
        explained=why,
        worker=worker,
        events=timeline(
            job,
            history=history,
            now=now,
            worker=worker,
            entries=entries,
            steps=steps,
            write=write,
        ),
        history_is_cut=len(history) + older_entries >= settings.max_error_entries,
        older_entries=older_entries,
        values=shown,
        progress=progress_of(texts.get("progress"), settings),
        log=[(line, write(line.fields) if line.fields else "") for line in lines],
        curl=None if payload is None else job_code.curl(job, payload, base_url=base_url),
        python=None if payload is None else job_code.python(job, payload),
        parents=await parents_of(session, job_id, limit=MAX_RELATIVES),
        children=await children_of(session, job_id, limit=MAX_RELATIVES),
        older=older,
        newer=newer,
        can=_possible(job, has_steps=bool(steps)),
        cancel=cancel_out(job.cancel),
        masked_names=settings.dashboard_masked_fields,
        is_revealed=revealed > Revealed.NOTHING,
    )


def _possible(job: BackgroundJob, *, has_steps: bool) -> frozenset[str]:
    can, status = {"clone"}, JobStatus(job.status)
    if has_steps and status in LIVE:
        can.add("send-event")
    if status == JobStatus.RUNNING and job.cancel is None:
        can.add("cancel")
    if status != JobStatus.RUNNING:
        can.add("delete")
    if status in DEAD:
        can |= {"retry", "edit"}
    if status == JobStatus.PENDING:
        can |= {"run-now", "edit", "reschedule", "cancel"}
    return frozenset(can)


async def _missing(
    request: Request, session: AsyncSession, job_id: JobId, *, settings: Settings
) -> Response:
    """There is no such job: who deleted it, or what else may have become of it."""
    deleted = await newest(session, changes_of(job_id, action="job.delete"), limit=1)
    if deleted:
        at = deleted[0].at.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
        words = f"{deleted[0].actor} deleted it at {at}."
        if deleted[0].reason:
            words += f" Reason: {deleted[0].reason}"
    else:
        words = (
            f"Its time may be over: jobs that ended are kept {settings.retention_days} days "
            f"(RETENTION_DAYS), dead ones {settings.dead_retention_days} (DEAD_RETENTION_DAYS). Or it "
            "was deleted with others or by SQL, its transaction was rolled back, or the number is wrong."
        )
    problem = Problem(404, f"There is no job {job_id}", words, None)
    return render(request, "problem.html", page=problem, status=404)
