"""The list of jobs: search, tabs by status, columns, selection, pages."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Final
from urllib.parse import urlencode

from fastapi import Request
from pydantic import Field
from sqlalchemy.ext.asyncio import AsyncSession
from starlette.responses import Response

from service.api.cursors import decode_cursor, encode_cursor
from service.api.job_query import JobQuery, parameters
from service.api.job_stats import job_stats
from service.api.session import AppSettings, Session
from service.dashboard.access import Viewer
from service.dashboard.job_rows import COLUMNS, Row, chosen, rows_of
from service.dashboard.links import read_link
from service.dashboard.operation_words import verbs_for
from service.dashboard.rendering import render
from service.dashboard.route import page_router
from service.errors import InvalidInput
from service.jobs.core.bulk_action import Verb
from service.jobs.core.filters import JobFilters
from service.jobs.core.job import MAX_ID, JobId, JobStatus
from service.jobs.core.search import FIELD_NAMES, Search, search_for
from service.jobs.maintenance.unserved import alive_seconds
from service.jobs.read.list import JobPage, JobSummary, count_by_status, count_newer, list_jobs
from service.jobs.read.statistics import JobStats
from service.jobs.read.waiting import waiting_for
from service.settings import Settings

router = page_router()

PATH: Final = "/dashboard/jobs"
COLUMNS_COOKIE: Final = "finmind_columns"
PAGE_ROWS: Final = 50
DEEP_SCAN_SECONDS: Final = 2.0
"""How long a search goes on that a reader asked to continue; never over half of the time of a query."""
MAX_NEW: Final = 1_000
"""Jobs that came since which are looked at."""
LISTS: Final = frozenset({"status", "ids", "payload", "columns"})
"""Parameters that may be given several times."""


class JobsQuery(JobQuery):
    """The query of the page: that of the API's list, and how it is shown."""

    columns: list[str] = Field(default_factory=list, max_length=len(COLUMNS))
    deep: bool = False
    """Whether to search on for longer."""
    top: int | None = Field(None, ge=0, le=MAX_ID)
    """The newest job when the page was opened: later ones are counted, and not shown."""
    shown: str | None = Field(None, max_length=5_000, pattern=r"^\d{1,19}(\.\d{1,19})*$")
    """The rows that stand on the page: a live page shows how they stand now, and no others."""


@dataclass(frozen=True, slots=True)
class Tab:
    """One status, or all, with its count."""

    label: str
    href: str
    is_current: bool
    count: int | None
    exact: bool


@dataclass(frozen=True, slots=True)
class Found:
    """What a search found."""

    rows: list[Row]
    total: int
    total_exact: bool
    looked: int
    complete: bool
    seconds: float
    next_href: str | None
    live_href: str
    newer: int
    newer_exact: bool
    parameters: list[tuple[str, str]]
    """The filters as the bulk actions take them."""


@dataclass(frozen=True, slots=True)
class Jobs:
    """What `jobs.html` shows."""

    search: str
    refused: str | None
    tabs: list[Tab]
    columns: dict[str, str]
    all_columns: dict[str, str]
    suggestions: list[str]
    found: Found | None
    first_href: str
    is_first_page: bool
    is_filtered: bool
    actions: Sequence[tuple[Verb, str]] = ()
    """What can be done to the jobs that are selected, or to all that match."""
    help: tuple[str, ...] = FIELD_NAMES

    def only(self, field: str, value: str) -> str:
        """The search with this value of a field and no other of it."""
        return str(Search.parse(self.search).without(field).also(field, value))


@router.get("/jobs")
async def show_jobs(
    request: Request, _: Viewer, session: Session, settings: AppSettings
) -> Response:
    """The jobs that the search finds, newest first."""
    now = datetime.now(UTC)
    stats = await job_stats(request)
    columns = chosen(
        request.query_params.getlist("columns"), request.cookies.get(COLUMNS_COOKIE, "")
    )
    asked = str(request.query_params.get("q", ""))
    try:
        query = _query_of(request)
        search = _search_of(query, now)
        filters = search.filters(now)
        before_id = _before(query)
    except InvalidInput as error:
        page = _page(Search(), columns=columns, stats=stats, counts=None)
        return render(
            request, "jobs.html", page=replace(page, search=asked, refused=error.detail), status=422
        )
    found = await _find(session, query, filters, before_id=before_id, settings=settings, now=now)
    counts = await count_by_status(session, filters, cap=settings.count_cap)
    page = replace(
        _page(search, columns=columns, stats=stats, counts=counts),
        found=found,
        is_first_page=before_id is None or query.top is not None,
        is_filtered=bool(search.terms),
        actions=verbs_for(filters),
    )
    response = render(request, "jobs.html", page=page)
    if query.columns:
        response.set_cookie(
            COLUMNS_COOKIE, ".".join(columns), max_age=31_536_000, samesite="lax", httponly=True
        )
    return response


def _query_of(request: Request) -> JobsQuery:
    given = request.query_params
    values: dict[str, Any] = {
        name: given.getlist(name) if name in LISTS else given[name] for name in given
    }
    return read_link(JobsQuery, values, otherwise="search anew")


def _search_of(query: JobsQuery, now: datetime) -> Search:
    """The search box: what it held, and what the link names beside it."""
    typed = Search.parse(query.q or "")
    query.filters(now)  # refuses what is given twice
    linked = search_for(query.model_copy(update={"q": None}).filters(now))
    return Search((*typed.terms, *linked.terms))


def _before(query: JobsQuery) -> JobId | None:
    if query.cursor is not None:
        return JobId(decode_cursor(query.cursor, _named(query)))
    return None if query.top is None else JobId(min(query.top + 1, MAX_ID))


def _named(query: JobsQuery) -> dict[str, Any]:
    shown = {"columns", "deep", "top", "shown"}
    return {name: value for name, value in query.named().items() if name not in shown}


async def _find(
    session: AsyncSession,
    query: JobsQuery,
    filters: JobFilters,
    *,
    before_id: JobId | None,
    settings: Settings,
    now: datetime,
) -> Found:
    began = time.monotonic()
    page = await _list(session, query, filters, before_id=before_id, settings=settings)
    seconds = time.monotonic() - began
    alive = alive_seconds(settings)
    waiting = await waiting_for(session, page.jobs, now=now, alive_seconds=alive)
    top = query.top if query.top is not None else max((job.id for job in page.jobs), default=0)
    newer, newer_exact = 0, True
    if query.top is not None:
        newer, newer_exact = await count_newer(session, filters, JobId(top), cap=MAX_NEW)
    following = page.next_before_id
    named = _named(query)
    return Found(
        rows=rows_of(page.jobs, waiting, now=now, settings=settings),
        total=page.total,
        total_exact=page.total_exact,
        looked=page.looked,
        complete=page.complete,
        seconds=seconds,
        next_href=None
        if following is None
        else _href(named, cursor=encode_cursor(following, named), deep=not page.complete),
        live_href=_live_href(named, page.jobs, top=top, is_first=query.cursor is None),
        newer=newer,
        newer_exact=newer_exact,
        parameters=parameters(filters),
    )


async def _list(
    session: AsyncSession,
    query: JobsQuery,
    filters: JobFilters,
    *,
    before_id: JobId | None,
    settings: Settings,
) -> JobPage:
    if query.shown is not None:
        ids = {int(part) for part in query.shown.split(".")}
        filters, before_id = JobFilters(ids={one for one in ids if one <= MAX_ID}), None
    deep_seconds = min(DEEP_SCAN_SECONDS, settings.query_timeout_seconds / 2)
    return await list_jobs(
        session,
        filters,
        limit=min(settings.max_page_size, PAGE_ROWS),
        before_id=before_id,
        cap=settings.count_cap,
        scan_seconds=deep_seconds if query.deep else settings.dashboard_scan_seconds,
    )


def _page(
    search: Search,
    *,
    columns: Sequence[str],
    stats: JobStats,
    counts: dict[JobStatus, tuple[int, bool]] | None,
) -> Jobs:
    return Jobs(
        search=str(search),
        refused=None,
        tabs=_tabs(search, counts),
        columns={name: COLUMNS[name] for name in columns},
        all_columns=COLUMNS,
        suggestions=_suggestions(stats),
        found=None,
        first_href=_href({"q": str(search)}),
        is_first_page=True,
        is_filtered=True,
    )


def _tabs(search: Search, counts: dict[JobStatus, tuple[int, bool]] | None) -> list[Tab]:
    rest = search.without("status")
    wanted = [term.value.upper() for term in search.terms if term.field == "status"]
    everything = None if counts is None else sum(count for count, _ in counts.values())
    exact = counts is None or all(each for _, each in counts.values())
    tabs = [Tab("All", _href({"q": str(rest)}), not wanted, everything, exact)]
    for status in JobStatus:
        count, is_exact = (None, True) if counts is None else counts[status]
        href = _href({"q": str(rest.also("status", status.value))})
        tabs.append(Tab(status.value, href, wanted == [status.value], count, is_exact))
    return tabs


def _suggestions(stats: JobStats) -> list[str]:
    """Terms to offer: every field, every status, the types and queues that have jobs."""
    search = Search()
    names = [("status", status.value) for status in JobStatus]
    names += [("type", name) for name in stats.by_type]
    names += [("queue", name) for name in stats.by_queue]
    terms = [str(search.also(field, value)) for field, value in names]
    return [*terms, *(f"{name}:<1h" for name in ("created", "due", "finished")), "error:", "cause:", "key:",
            "id:", "idempotency:", "concurrency:", "held:*", "priority:", "worker:", "payload."]  # fmt: skip


def _live_href(
    named: dict[str, Any], jobs: Sequence[JobSummary], *, top: int, is_first: bool
) -> str:
    """Where a live page asks how its rows stand now: for those rows, and no others.

    Without rows it asks for what came since alone: a search that took long is not made again.
    """
    more: dict[str, Any] = {"shown": ".".join(str(job.id) for job in jobs)} if jobs else {}
    if is_first or not jobs:
        more["top"] = top
    return _href(named, **more)


def _href(named: dict[str, Any], **more: Any) -> str:
    given = {
        name: value for name, value in (named | more).items() if value != "" and value is not False
    }
    return f"{PATH}?{urlencode(given, doseq=True)}" if given else PATH
