"""The operations: what was done to many jobs, and how far what is under way has come."""

from dataclasses import dataclass
from typing import Annotated, Final

from fastapi import Query, Request
from starlette.responses import Response

from service.api.cursors import MAX_CURSOR_CHARS, decode_cursor, encode_cursor
from service.api.session import Session
from service.dashboard.access import Viewer
from service.dashboard.operation_words import Shown
from service.dashboard.rendering import render
from service.dashboard.route import page_router
from service.jobs.core.job import MAX_ID
from service.operations import repository

router = page_router()

PAGE_ROWS: Final = 50
_LIST: Final = {"operations": "page"}
"""What a cursor belongs to."""


@dataclass(frozen=True, slots=True)
class Operations:
    """What `operations.html` shows."""

    operations: list[Shown]
    next_cursor: str | None
    is_first_page: bool


@router.get("/operations")
async def show_operations(
    request: Request,
    _: Viewer,
    session: Session,
    cursor: Annotated[str, Query(max_length=MAX_CURSOR_CHARS)] = "",
) -> Response:
    """Operations, newest first."""
    before = decode_cursor(cursor, _LIST) if cursor else MAX_ID
    found = await repository.page(session, limit=PAGE_ROWS + 1, before=before, unfinished=False)
    shown = found[:PAGE_ROWS]
    page = Operations(
        operations=[Shown(one) for one in shown],
        next_cursor=encode_cursor(shown[-1].id, _LIST) if len(found) > PAGE_ROWS else None,
        is_first_page=not cursor,
    )
    return render(request, "operations.html", page=page)
