"""The first page: what needs attention, what ended lately, what there is."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Annotated, Final

from fastapi import Query, Request
from starlette.responses import Response

from service.api.job_stats import job_stats
from service.api.session import AppSettings, Session
from service.dashboard.access import Viewer
from service.dashboard.attention import (
    MAX_OF_A_KIND,
    Attention,
    in_order,
    of_causes,
    of_checks,
    of_operations,
    of_queues,
    of_schedules,
    of_unnamed,
    of_unserved,
    of_workers,
)
from service.dashboard.links import FAILED, jobs_href, queue_href
from service.dashboard.rate_charts import WORDS, Choice, RateCharts, windows
from service.dashboard.rendering import render
from service.dashboard.route import page_router
from service.jobs.core.job import MAX_ID, JobStatus
from service.jobs.maintenance.unserved import alive_seconds
from service.jobs.read.attention import (
    Workers,
    find_unserved,
    find_workers,
    unnamed_since,
    unresolved_causes,
)
from service.jobs.read.queues import QueueState, list_queues
from service.jobs.read.rates import Rates, Window, series, total, totals
from service.jobs.read.statistics import JobStats
from service.observability.health import HealthChecks
from service.operations import repository as operations
from service.schedules import repository as schedules
from service.schedules.model import FAILING

router = page_router()

MAX_QUEUES: Final = 10
"""Queues that the page shows: those that wait longest and hold most."""

MAX_OPERATIONS: Final = 20
"""Unfinished operations that are looked at, the newest."""

MAX_SCHEDULES: Final = 100
"""Failing schedules that are counted."""

LATELY: Final = timedelta(hours=1)
"""A cause that killed a job since is broken now; an older one is a warning until somebody deals with it."""


@dataclass(frozen=True, slots=True)
class QueueRow:
    """One queue: how it stands, and what ended in the window."""

    state: QueueState
    rates: Rates
    href: str
    due_href: str
    dead_href: str


@dataclass(frozen=True, slots=True)
class Overview:
    """What `overview.html` shows."""

    attention: list[Attention]
    stats: JobStats
    held_href: str
    statuses: list[tuple[str, int, bool, str]]
    """Each status, its jobs, whether that is all of them, and where they are listed."""
    workers: Workers
    queues: list[QueueRow]
    more_queues: int
    windows: list[Choice]
    window_words: str
    total: Rates
    per_minute: float
    charts: RateCharts


@router.get("")
async def show_overview(
    request: Request,
    _: Viewer,
    session: Session,
    settings: AppSettings,
    window: Annotated[Window, Query()] = Window.HOUR,
) -> Response:
    """All that one wants to know at once."""
    now = datetime.now(UTC)
    stats = await job_stats(request)
    alive = alive_seconds(settings)
    workers = await find_workers(session, alive_seconds=alive)
    queues = await list_queues(session, cap=settings.count_cap, alive_seconds=alive)
    since = window.since(now)
    points = await series(session, since=since, until=now, step_seconds=window.step_seconds)
    found = await total(session, since=since)
    minutes = max((now - since).total_seconds() / 60, 1)
    fresh, stale = await unresolved_causes(session, now - LATELY, limit=MAX_OF_A_KIND)
    health: HealthChecks = request.app.state.health
    readiness = await health.readiness()
    attention = (
        *of_checks(readiness.checks),
        *of_causes(fresh, stale, now=now),
        *of_unnamed(await unnamed_since(session, now - LATELY)),
        *of_unserved(await find_unserved(session, workers.served)),
        *of_queues(queues.queues, wait_seconds=settings.dashboard_wait_seconds),
        *of_operations(
            await operations.page(session, limit=MAX_OPERATIONS, before=MAX_ID, unfinished=True)
        ),
        *of_schedules(await schedules.failing(session, least=FAILING, limit=MAX_SCHEDULES)),
        *of_workers(workers, due=stats.due_now),
    )
    page = Overview(
        attention=in_order(attention),
        stats=stats,
        held_href=jobs_href(held="*"),
        statuses=_statuses(stats),
        workers=workers,
        queues=_rows(queues.queues, await totals(session, since=since, by="queue")),
        more_queues=max(0, len(queues.queues) - MAX_QUEUES),
        windows=windows("/dashboard", window),
        window_words=WORDS[window],
        total=found,
        per_minute=found.counts.attempts / minutes,
        charts=RateCharts.of(points, window),
    )
    return render(request, "overview.html", page=page)


def _rows(queues: Sequence[QueueState], rates: dict[str, Rates]) -> list[QueueRow]:
    def rank(one: QueueState) -> tuple[float, int, int, str]:
        attempts = rates[one.name].counts.attempts if one.name in rates else 0
        return -(one.oldest_due_seconds or 0), -(one.due + one.running), -attempts, one.name

    return [
        QueueRow(
            one,
            rates.get(one.name, Rates()),
            queue_href(one.name),
            jobs_href(queue=one.name, status="PENDING", due="<-1s"),
            jobs_href(queue=one.name, status=FAILED),
        )
        for one in sorted(queues, key=rank)[:MAX_QUEUES]
    ]


def _statuses(stats: JobStats) -> list[tuple[str, int, bool, str]]:
    live = {JobStatus.PENDING, JobStatus.RUNNING}
    return [
        (
            status.value,
            stats.by_status[status],
            status not in live or stats.total_exact,
            jobs_href(status=status.value),
        )
        for status in JobStatus
    ]
