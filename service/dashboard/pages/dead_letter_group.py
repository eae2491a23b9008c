"""One cause of dead letters: what it is, since when, whom it hits, and what to do about it."""

from collections.abc import Awaitable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Annotated, Final
from urllib.parse import urlencode

from fastapi import Depends, Path, Request
from sqlalchemy.ext.asyncio import AsyncSession
from starlette.datastructures import FormData
from starlette.responses import Response

from service.api.actor import acting
from service.api.admin import Change
from service.api.patterns import NO_NUL
from service.api.session import AppSettings, Session
from service.dashboard.access import Operator, Viewer
from service.dashboard.charts import Chart, Series, stacked
from service.dashboard.job_rows import Row, rows_of
from service.dashboard.job_values import MAX_TREE_CHARS
from service.dashboard.links import group_href
from service.dashboard.pages.job_actions import reason_of
from service.dashboard.rendering import flash, render, see
from service.dashboard.route import form, page_router
from service.dashboard.timeline import history_of
from service.errors import InvalidInput, NotFound
from service.jobs.actions.causes import ignore_cause, reopen_cause, resolve_cause
from service.jobs.core.causes import TREND_HOURS, CauseGroup
from service.jobs.core.filters import JobFilters
from service.jobs.core.job import JobId
from service.jobs.core.search import Search
from service.jobs.core.search_times import read_moment
from service.jobs.read.causes import get_cause
from service.jobs.read.detail import get_detail
from service.jobs.read.list import list_jobs

router = page_router()

NEWEST_JOBS: Final = 10
CANARY_JOBS: Final = 20
"""Jobs that are retried first where the rest shall wait for their fate."""
OPERATIONS: Final = "/dashboard/operations"
MAX_DEATHS: Final = 10**12

Fingerprint = Annotated[str, Path(max_length=100, pattern=NO_NUL)]
Sent = Annotated[FormData, Depends(form)]


@dataclass(frozen=True, slots=True)
class Sample:
    """Why the newest of its jobs failed."""

    job_id: JobId
    error: str | None
    traceback: str | None
    worker: str | None


@dataclass(frozen=True, slots=True)
class Group:
    """What `dead_letter_group.html` shows."""

    group: CauseGroup
    sample: Sample | None
    rows: list[Row]
    charts: tuple[Chart, Chart]

    @property
    def jobs_search(self) -> str:
        """The search for its jobs."""
        return str(Search().also("fingerprint", self.group.fingerprint))

    def operation(self, action: str, **more: str | int) -> str:
        """Where this is done to all of its jobs, after a preview."""
        given = {"action": action, "fingerprint": self.group.fingerprint} | more
        return f"{OPERATIONS}/new?{urlencode(given)}"

    @property
    def canary_jobs(self) -> int:
        """How many are tried first."""
        return CANARY_JOBS


@router.get("/dead-letters/{fingerprint}")
async def show_group(
    request: Request, _: Viewer, fingerprint: Fingerprint, session: Session, settings: AppSettings
) -> Response:
    """One cause, with the newest jobs that died of it."""
    group = await get_cause(session, fingerprint)
    sample = None if group.sample_id is None else await _sample(session, group.sample_id)
    newest = await list_jobs(
        session, JobFilters(fingerprint=fingerprint), limit=NEWEST_JOBS, cap=NEWEST_JOBS
    )
    now = datetime.now(UTC)
    page = Group(
        group=group,
        sample=sample,
        rows=rows_of(newest.jobs, {}, now=now, settings=settings),
        charts=(_chart(group, now, TREND_HOURS), _chart(group, now, len(group.trend))),
    )
    return render(request, "dead_letter_group.html", page=page)


@router.post("/dead-letters/{fingerprint}/resolve")
async def resolve(
    request: Request, operator: Operator, fingerprint: Fingerprint, session: Change, sent: Sent
) -> Response:
    """It should not happen again."""
    done = resolve_cause(
        session, fingerprint, actor=acting(request, operator), reason=reason_of(sent)
    )
    words = "Resolved: when a job dies of it again, it is back here as regressed"
    return await _done(request, fingerprint, done, words=words)


@router.post("/dead-letters/{fingerprint}/ignore")
async def ignore(
    request: Request, operator: Operator, fingerprint: Fingerprint, session: Change, sent: Sent
) -> Response:
    """It may happen: until a time, for a number of jobs, or for good."""
    try:
        until, deaths = _until(str(sent.get("until", ""))), _deaths(str(sent.get("count", "")))
    except InvalidInput as error:
        return flash(see(request, group_href(fingerprint)), error.detail, kind="failed")
    done = ignore_cause(
        session,
        fingerprint,
        until=until,
        deaths=deaths,
        actor=acting(request, operator),
        reason=reason_of(sent),
    )
    return await _done(request, fingerprint, done, words="Ignored")


@router.post("/dead-letters/{fingerprint}/reopen")
async def reopen(
    request: Request, operator: Operator, fingerprint: Fingerprint, session: Change, sent: Sent
) -> Response:
    """It needs attention again."""
    done = reopen_cause(
        session, fingerprint, actor=acting(request, operator), reason=reason_of(sent)
    )
    return await _done(request, fingerprint, done, words="Unresolved again")


async def _done(
    request: Request, fingerprint: str, action: Awaitable[object], *, words: str
) -> Response:
    try:
        await action
    except (InvalidInput, NotFound) as error:
        return flash(see(request, group_href(fingerprint)), error.detail, kind="failed")
    return flash(see(request, group_href(fingerprint)), words)


def _until(text: str) -> datetime | None:
    if not text.strip():
        return None
    moment = read_moment(text.strip(), now=datetime.now(UTC))
    if moment is None:
        raise InvalidInput(
            f"Not ignored: {text[:100]!r} is not a time. Write 8h or 7d from now, or a time such as "
            "2026-01-31T09:00Z."
        )
    return moment


def _deaths(text: str) -> int | None:
    if not text.strip():
        return None
    if not (text.strip().isdecimal() and 0 < len(text.strip()) <= 12):
        raise InvalidInput(f"Not ignored: {text[:100]!r} is not a number of jobs from 1 on")
    return max(1, int(text))


async def _sample(session: AsyncSession, job_id: JobId) -> Sample | None:
    try:
        detail = await get_detail(session, job_id, max_chars=MAX_TREE_CHARS)
    except NotFound:
        return None  # retried or deleted a moment ago
    history, _ = await history_of(session, job_id)
    last = next((entry for entry in reversed(history) if entry.message), None)
    return Sample(
        job_id,
        detail.job.last_error,
        None if last is None else last.traceback,
        None if last is None else last.worker,
    )


def _chart(group: CauseGroup, now: datetime, hours: int) -> Chart:
    current = now.replace(minute=0, second=0, microsecond=0)
    begins = [current - timedelta(hours=back) for back in range(hours - 1, -1, -1)]
    span = f"{hours} hours" if hours <= 48 else f"{hours // 24} days"
    return stacked(
        f"died-{hours}",
        f"Died in the last {span}, each hour",
        begins,
        3600,
        [Series("died", list(group.trend[-hours:]), 2)],
    )
