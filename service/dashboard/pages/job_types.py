"""The job types: how many jobs of each ended and how, how long they ran, who serves them."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any, Final
from urllib.parse import urlencode

from fastapi import Query, Request
from sqlalchemy.ext.asyncio import AsyncSession
from starlette.responses import Response

from service.api.patterns import NO_NUL
from service.api.session import AppSettings, Session
from service.dashboard.access import Viewer
from service.dashboard.charts import Chart, histogram
from service.dashboard.links import jobs_href
from service.dashboard.rate_charts import WORDS, Choice, RateCharts, windows
from service.dashboard.rendering import render
from service.dashboard.route import page_router
from service.jobs.core.histogram import BOUNDS
from service.jobs.maintenance.unserved import alive_seconds
from service.jobs.read.rates import MAX_TIMED_NAMES, Durations, Rates, Window, series
from service.jobs.read.type_states import SlowJob, TypeState, find_slowest, get_type, list_types
from service.settings import Settings

router = page_router()

PATH: Final = "/dashboard/job-types"
MAX_TYPES: Final = 100
"""Types that one page shows; others are found by a part of their name."""

BARS_BUCKETS: Final = 5
"""Buckets that one bar of a distribution holds: two bars for each factor of ten."""

Rank = Callable[[str, Rates], Any]

SORTS: Final[dict[str, tuple[str, Rank]]] = {
    "attempts": ("Attempts", lambda name, found: (-found.counts.attempts, name)),
    "failures": ("Failures", lambda name, found: (-found.counts.failures, name)),
    "share": ("Failure share", lambda name, found: (-(found.counts.failure_share or 0), name)),
    "dead": (
        "Failed for good",
        lambda name, found: (-found.counts.dead_lettered - found.counts.failed, name),
    ),
    "name": ("Type", lambda name, _: name),
}
"""What rows may be sorted by."""

Name = Annotated[str, Query(max_length=100, pattern=NO_NUL)]


@dataclass(frozen=True, slots=True)
class Sort:
    """A way to sort the rows."""

    name: str
    title: str
    href: str
    is_current: bool


@dataclass(frozen=True, slots=True)
class Types:
    """What `job_types.html` shows."""

    types: list[TypeState]
    exact: bool
    more: int
    rest: Rates
    per_minute: dict[str, float]
    named: str
    sort: str
    sorts: dict[str, Sort]
    window: Window
    window_words: str
    windows: list[Choice]
    timed: int = MAX_TIMED_NAMES

    def href(self, one: TypeState) -> str:
        """The page of one type."""
        return href_of(one.name, self.window)

    def jobs(self, one: TypeState, *statuses: str) -> str:
        """Its jobs with these statuses."""
        return jobs_href(type=one.name, status=statuses)


@dataclass(frozen=True, slots=True)
class OneType:
    """What `job_type.html` shows."""

    state: TypeState
    exact: bool
    per_minute: float
    window_words: str
    windows: list[Choice]
    charts: RateCharts
    distribution: Chart
    slowest: list[SlowJob]

    def jobs(self, *statuses: str) -> str:
        """Its jobs with these statuses; all of them without one."""
        return jobs_href(type=self.state.name, status=statuses)


def href_of(name: str, window: Window = Window.HOUR) -> str:
    """The page of a type; in the query, since a name by plain SQL may hold anything."""
    return _href(type=name, window="" if window is Window.HOUR else window.value)


@router.get("/job-types")
async def show_types(
    request: Request,
    _: Viewer,
    session: Session,
    settings: AppSettings,
    name: Annotated[Name, Query(alias="type")] = "",
    window: Annotated[Window, Query()] = Window.HOUR,
    sort: Annotated[str, Query(max_length=20)] = "attempts",
    named: Name = "",
) -> Response:
    """Every type, or with `type` one of them."""
    if name:
        one = await _one(session, settings, name, window)
        return render(request, "job_type.html", page=one)
    now = datetime.now(UTC)
    since = window.since(now)
    chosen = sort if sort in SORTS else "attempts"
    found = await list_types(
        session,
        since=since,
        cap=settings.count_cap,
        alive_seconds=alive_seconds(settings),
        rank=SORTS[chosen][1],
        named=named,
    )
    shown = found.types[:MAX_TYPES]
    given = {"window": "" if window is Window.HOUR else window.value, "named": named}
    page = Types(
        types=shown,
        exact=found.exact,
        more=len(found.types) - len(shown),
        rest=found.rest,
        per_minute={one.name: _per_minute(one.rates, since, now) for one in shown},
        named=named,
        sort=chosen,
        sorts={
            key: Sort(
                key, title, _href(**given, sort="" if key == "attempts" else key), key == chosen
            )
            for key, (title, _) in SORTS.items()
        },
        window=window,
        window_words=WORDS[window],
        windows=windows(_href(named=named, sort="" if chosen == "attempts" else chosen), window),
    )
    return render(request, "job_types.html", page=page)


async def _one(session: AsyncSession, settings: Settings, name: str, window: Window) -> OneType:
    now = datetime.now(UTC)
    since = window.since(now)
    state, exact = await get_type(
        session,
        name,
        since=since,
        cap=settings.count_cap,
        alive_seconds=alive_seconds(settings),
    )
    points = await series(
        session, since=since, until=now, step_seconds=window.step_seconds, job_type=name
    )
    return OneType(
        state=state,
        exact=exact,
        per_minute=_per_minute(state.rates, since, now),
        window_words=WORDS[window],
        windows=windows(href_of(name), window),
        charts=RateCharts.of(points, window),
        distribution=distribution(state.rates.run_time),
        slowest=await find_slowest(session, name),
    )


def distribution(found: Durations | None) -> Chart:
    """How long attempts ran: bars that each hold half of a factor of ten."""
    counts: dict[int, int] = {}
    for bucket, count in (found.buckets if found else {}).items():
        bar = -(-bucket // BARS_BUCKETS)
        counts[bar] = counts.get(bar, 0) + count
    places = range(min(counts), max(counts) + 1) if counts else range(0)
    bars = [
        (BOUNDS[min(place * BARS_BUCKETS, len(BOUNDS) - 1)], counts.get(place, 0))
        for place in places
    ]
    return histogram("distribution", "Run times, up to", bars)


def _per_minute(found: Rates, since: datetime, now: datetime) -> float:
    return found.counts.attempts / max((now - since).total_seconds() / 60, 1.0)


def _href(**terms: str) -> str:
    given = {key: value for key, value in terms.items() if value}
    return f"{PATH}?{urlencode(given)}" if given else PATH
