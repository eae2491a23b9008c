"""The queues: what waits and runs in each, what failed, and pausing one."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Final
from urllib.parse import urlencode

from fastapi import Depends, Query, Request
from sqlalchemy.ext.asyncio import AsyncSession
from starlette.datastructures import FormData
from starlette.responses import Response

from service.api.actor import acting
from service.api.patterns import NO_NUL
from service.api.session import AppSettings, Session
from service.dashboard.access import Operator, Viewer
from service.dashboard.links import FAILED, jobs_href, queue_href
from service.dashboard.pages.job_actions import reason_of
from service.dashboard.queue_form import AT_LIMIT, in_words, written
from service.dashboard.rendering import flash, render, see
from service.dashboard.route import form, page_router
from service.errors import Conflict, InvalidInput
from service.jobs.maintenance.unserved import alive_seconds
from service.jobs.queues import pause_queue, resume_queue
from service.jobs.read.queues import (
    MAX_QUEUES,
    QueueState,
    get_queue,
    list_queues,
    types_of,
)
from service.jobs.store.queue_counts import TypeCounts
from service.settings import Settings

router = page_router()

PATH: Final = "/dashboard/queues"
PAGE_ROWS: Final = 100
"""Queues that one page shows: with more, the largest figures or a part of the name lead to one."""

SORTS: Final[dict[str, tuple[str, Callable[[QueueState], Any]]]] = {
    "name": ("Queue", lambda queue: queue.name),
    "due": ("Due", lambda queue: -queue.due),
    "held": ("Held", lambda queue: -queue.held),
    "running": ("Running", lambda queue: -queue.running),
    "oldest": ("Oldest due", lambda queue: -(queue.oldest_due_seconds or 0)),
    "dead": ("Failed", lambda queue: -queue.dead),
}
"""The columns that rows may be sorted by."""

QueueName = Annotated[str, Query(min_length=1, max_length=100, pattern=NO_NUL)]
Sent = Annotated[FormData, Depends(form)]


@dataclass(frozen=True, slots=True)
class Sort:
    """A column that sorts the rows."""

    name: str
    title: str
    href: str
    is_current: bool


@dataclass(frozen=True, slots=True)
class Queues:
    """What `queues.html` shows."""

    queues: list[QueueState]
    others: int
    """Queues that match and are not shown."""
    sorts: list[Sort]
    named: str
    """Only queues whose name holds this."""
    paused: list[QueueState]
    complete: bool
    limit: int = MAX_QUEUES

    def href(self, queue: QueueState) -> str:
        """The page of one queue."""
        return queue_href(queue.name)

    def jobs(self, queue: QueueState, status: str) -> str:
        """Its jobs with this status."""
        return jobs_href(queue=queue.name, status=status)

    def limits(self, queue: QueueState) -> str:
        """Its limits in a few words."""
        return in_words(queue)

    def failed(self, queue: QueueState) -> str:
        """Its jobs that are FAILED or dead letters."""
        return jobs_href(status=FAILED, queue=queue.name)


@dataclass(frozen=True, slots=True)
class OneQueue:
    """What `queue.html` shows."""

    queue: QueueState
    types: list[TypeCounts]
    given: dict[str, str]
    """What the form of its limits holds."""
    refused: str | None = None
    """Why they were not set."""
    ways: Mapping[str, str] = field(default_factory=lambda: AT_LIMIT)
    """What may become of a job that finds its limit reached."""

    @property
    def href(self) -> str:
        """This page."""
        return queue_href(self.queue.name)

    def limits(self, queue: QueueState) -> str:
        """Its limits in a few words."""
        return in_words(queue)

    def jobs(self, **terms: str) -> str:
        """Its jobs that match these terms of a search."""
        return jobs_href(queue=self.queue.name, **terms)

    def failed(self, **terms: str) -> str:
        """Those of them that are FAILED or dead letters."""
        return jobs_href(status=FAILED, queue=self.queue.name, **terms)


@router.get("/queues")
async def show_queues(
    request: Request,
    _: Viewer,
    session: Session,
    settings: AppSettings,
    sort: Annotated[str, Query(max_length=20)] = "name",
    named: Annotated[str, Query(max_length=100)] = "",
) -> Response:
    """Every queue, by name or with the largest figure first."""
    found = await list_queues(
        session, cap=settings.count_cap, alive_seconds=alive_seconds(settings)
    )
    chosen = sort if sort in SORTS else "name"
    shown = [queue for queue in found.queues if named.lower() in queue.name.lower()]
    page = Queues(
        queues=sorted(shown, key=SORTS[chosen][1])[:PAGE_ROWS],
        others=max(0, len(shown) - PAGE_ROWS),
        sorts=[
            Sort(name, title, _sorted_href(name, named), name == chosen)
            for name, (title, _) in SORTS.items()
        ],
        named=named,
        paused=[queue for queue in found.queues if queue.paused],
        complete=found.complete,
    )
    return render(request, "queues.html", page=page)


@router.get("/queues/queue")
async def show_queue(
    request: Request, _: Viewer, name: QueueName, session: Session, settings: AppSettings
) -> Response:
    """One queue, and the job types in it."""
    page = await one_queue(session, name, settings)
    return render(request, "queue.html", page=page)


async def one_queue(session: AsyncSession, name: str, settings: Settings) -> OneQueue:
    """What its page shows."""
    queue = await get_queue(
        session, name, cap=settings.count_cap, alive_seconds=alive_seconds(settings)
    )
    types = await types_of(session, name, cap=settings.count_cap)
    return OneQueue(queue, types, written(queue.limits))


@router.post("/queues/pause")
async def pause(request: Request, operator: Operator, session: Session, sent: Sent) -> Response:
    """Pause a queue."""
    name = str(sent.get("name", ""))
    try:
        await pause_queue(session, name, actor=acting(request, operator), reason=reason_of(sent))
    except (Conflict, InvalidInput) as error:
        return flash(_back(request, sent), error.detail, kind="failed")
    words = f"{name} is paused: what runs goes on, and nothing new starts"
    return flash(_back(request, sent), words)


@router.post("/queues/resume")
async def resume(request: Request, operator: Operator, session: Session, sent: Sent) -> Response:
    """Resume a queue."""
    name = str(sent.get("name", ""))
    try:
        ended = await resume_queue(
            session, name, actor=acting(request, operator), reason=reason_of(sent)
        )
    except InvalidInput as error:
        return flash(_back(request, sent), error.detail, kind="failed")
    words = f"{name} goes on" if ended else f"{name} was not paused"
    return flash(_back(request, sent), words)


def _back(request: Request, sent: FormData) -> Response:
    """The page that the form stood on."""
    to = queue_href(str(sent.get("name", ""))) if sent.get("from") == "queue" else PATH
    return see(request, to)


def _sorted_href(sort: str, named: str) -> str:
    given = {name: value for name, value in (("sort", sort), ("named", named)) if value}
    return f"{PATH}?{urlencode(given)}"
