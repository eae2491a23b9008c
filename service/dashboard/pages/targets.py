"""The targets of HTTP requests: which fail, since when, what waits for them, and trying one at once."""

from dataclasses import dataclass
from typing import Annotated, Final, Literal

from fastapi import Depends, Query, Request
from starlette.datastructures import FormData
from starlette.responses import Response

from service.api.actor import acting
from service.api.cursors import decode_position, encode_position
from service.api.session import Session
from service.dashboard.access import Operator, Viewer
from service.dashboard.links import jobs_href
from service.dashboard.pages.job_actions import reason_of
from service.dashboard.rendering import flash, render, see
from service.dashboard.route import form, page_router
from service.errors import Conflict, NotFound
from service.jobs.core.holds import BREAKER
from service.targets import repository
from service.targets.breaker import target_key
from service.targets.repository import MAX_HELD_COUNTED, Target
from service.targets.reset import reset_target
from service.targets.routes import MAX_CURSOR_CHARS

router = page_router()

PATH: Final = "/dashboard/targets"
PAGE_ROWS: Final = 50
STATES: Final = {"closed": "success", "half_open": "paused", "open": "failed"}
"""The colours of the states of breakers."""


@dataclass(frozen=True, slots=True)
class Shown:
    """A target, in the words of the page."""

    target: Target

    @property
    def state(self) -> str:
        """The state of its breaker."""
        return self.target.state.replace("_", " ")

    @property
    def state_class(self) -> str:
        """Of the colour of its state."""
        return STATES[self.target.state]

    @property
    def held_href(self) -> str:
        """The jobs that are held for it."""
        return jobs_href(held=f"{BREAKER}{self.target.name}")

    @property
    def jobs_href(self) -> str:
        """Its jobs."""
        return jobs_href(concurrency=target_key(self.target.name))

    @property
    def held_exact(self) -> bool:
        """Whether all that are held were counted."""
        return self.target.held < MAX_HELD_COUNTED


@dataclass(frozen=True, slots=True)
class Targets:
    """What `targets.html` shows."""

    targets: list[Shown]
    next_cursor: str | None
    is_first_page: bool
    only_open: bool


@router.get("/targets")
async def show_targets(
    request: Request,
    _: Viewer,
    session: Session,
    state: Annotated[Literal["", "open"], Query()] = "",
    cursor: Annotated[str, Query(max_length=MAX_CURSOR_CHARS)] = "",
) -> Response:
    """Targets by name, all or those that fail."""
    of = {"targets": "page", "state": state}
    after = decode_position(cursor, of)[1] if cursor else ""
    found = await repository.page(
        session, after=after, limit=PAGE_ROWS + 1, only_open=state == "open"
    )
    shown = found[:PAGE_ROWS]
    page = Targets(
        targets=list(map(Shown, shown)),
        next_cursor=encode_position((0, shown[-1].name), of) if len(found) > PAGE_ROWS else None,
        is_first_page=not cursor,
        only_open=state == "open",
    )
    return render(request, "targets.html", page=page)


@router.post("/targets/reset")
async def reset(
    request: Request,
    operator: Operator,
    session: Session,
    sent: Annotated[FormData, Depends(form)],
) -> Response:
    """Close a breaker."""
    name = str(sent.get("name", ""))
    answer = see(request, PATH)
    try:
        await reset_target(session, name, actor=acting(request, operator), reason=reason_of(sent))
    except (Conflict, NotFound) as error:
        return flash(answer, error.detail, kind="failed")
    return flash(answer, f"{name} is tried again: its jobs go within seconds")
