"""Dead letters by their cause: a line each, with counts, trend and state."""

from dataclasses import dataclass, replace
from typing import Any, Final
from urllib.parse import urlencode

from fastapi import Request
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import Response

from service.api.cursors import MAX_CURSOR_CHARS, decode_position, encode_position
from service.api.job_query import Text
from service.api.session import Session
from service.dashboard.access import Viewer
from service.dashboard.links import read_link
from service.dashboard.rendering import render
from service.dashboard.route import page_router
from service.dashboard.sparkline import Sparkline
from service.errors import InvalidInput
from service.jobs.core.causes import CauseFilters, CauseGroup, CauseSort, CauseState
from service.jobs.read.causes import count_causes, list_causes

router = page_router()

PATH: Final = "/dashboard/dead-letters"
PAGE_ROWS: Final = 50
ALL: Final = "all"
SORTS: Final = {CauseSort.COUNT: "Most jobs", CauseSort.LAST_SEEN: "Failed last"}


class GroupsQuery(BaseModel):
    """The query of the page; without a state it shows what nobody has dealt with."""

    model_config = ConfigDict(extra="forbid")

    state: str = Field(CauseState.UNRESOLVED.value, pattern=f"^({'|'.join(CauseState)}|{ALL})$")
    job_type: Text = Field("", max_length=100)
    text: Text = Field("", max_length=200)
    sort: CauseSort = CauseSort.COUNT
    cursor: Text | None = Field(None, max_length=MAX_CURSOR_CHARS)

    def filters(self) -> CauseFilters:
        """The same for the engine."""
        return CauseFilters(
            states=None if self.state == ALL else frozenset({CauseState(self.state)}),
            job_type=self.job_type or None,
            text=self.text or None,
        )

    def href(self, **changed: Any) -> str:
        """The page with other parameters, from its first row on."""
        given = self.model_dump(mode="json", exclude={"cursor"}, exclude_defaults=True) | changed
        query = urlencode({name: value for name, value in given.items() if value})
        return f"{PATH}?{query}" if query else PATH

    def named(self) -> dict[str, Any]:
        """What a cursor belongs to."""
        return self.model_dump(mode="json", exclude={"cursor"})


@dataclass(frozen=True, slots=True)
class Tab:
    """One state, or all, with its count."""

    label: str
    href: str
    is_current: bool
    count: int


@dataclass(frozen=True, slots=True)
class Line:
    """One cause."""

    group: CauseGroup
    trend: Sparkline


@dataclass(frozen=True, slots=True)
class Groups:
    """What `dead_letters.html` shows."""

    query: GroupsQuery
    refused: str | None
    tabs: list[Tab]
    lines: list[Line]
    next_href: str | None
    sorts: dict[CauseSort, str]

    @property
    def is_filtered(self) -> bool:
        """Whether other filters than the state leave causes out."""
        return bool(self.query.job_type or self.query.text)

    @property
    def total(self) -> int:
        """Causes of all states."""
        return self.tabs[-1].count


@router.get("/dead-letters")
async def show_groups(request: Request, _: Viewer, session: Session) -> Response:
    """The causes that match, those with the most jobs first."""
    counts = await count_causes(session)
    try:
        query = _query_of(request)
        after = None if query.cursor is None else decode_position(query.cursor, query.named())
    except InvalidInput as error:
        page = replace(_page(GroupsQuery(), counts), refused=error.detail)
        return render(request, "dead_letters.html", page=page, status=422)
    found = await list_causes(
        session, query.filters(), sort=query.sort, limit=PAGE_ROWS, after=after
    )
    following = found.next_after
    page = replace(
        _page(query, counts),
        lines=[Line(group, Sparkline.of_hours(group.trend, what="Died")) for group in found.groups],
        next_href=None
        if following is None
        else query.href(cursor=encode_position(following, query.named())),
    )
    return render(request, "dead_letters.html", page=page)


def _page(query: GroupsQuery, counts: dict[CauseState, int]) -> Groups:
    tabs = [
        Tab(state.value.capitalize(), query.href(state=state.value), query.state == state, count)
        for state, count in counts.items()
    ]
    everything = Tab("All", query.href(state=ALL), query.state == ALL, sum(counts.values()))
    return Groups(query, None, [*tabs, everything], [], None, SORTS)


def _query_of(request: Request) -> GroupsQuery:
    # Forms send `job_type=` for fields left empty.
    given = {name: value for name, value in request.query_params.items() if value}
    return read_link(GroupsQuery, given, otherwise="start from all causes")
