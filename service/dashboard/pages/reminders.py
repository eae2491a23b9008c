"""The reminders, what became of sending them, and enqueueing those that are due.

Everybody who sees the dashboard sees how they stand. Messages, recipients and what channels answered
are personal: they are shown to those who may see all reminders over the API as well.
"""

from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Annotated, Any, Final
from urllib.parse import urlencode

from fastapi import Query, Request
from starlette.responses import Response

from service.api.actor import acting
from service.api.cursors import MAX_CURSOR_CHARS, decode_cursor, encode_cursor
from service.api.patterns import NO_NUL
from service.api.session import AppSettings, Session, transaction
from service.auth.principal import Permission
from service.dashboard.access import Operator, Viewer
from service.dashboard.rendering import flash, render, see
from service.dashboard.route import page_router
from service.reminders import repository, scheduling
from service.reminders.model import Reminder, ReminderId, ReminderStatus

router = page_router()

PATH: Final = "/dashboard/reminders"
PAGE_ROWS: Final = 50

Cursor = Annotated[str, Query(max_length=MAX_CURSOR_CHARS)]
Status = Annotated[str, Query(max_length=20)]
User = Annotated[str, Query(max_length=255, pattern=NO_NUL)]


@dataclass(frozen=True, slots=True)
class Row:
    """One reminder."""

    reminder: Reminder
    past: bool
    """Whether its time has come."""

    @property
    def late(self) -> bool:
        """Whether no job was enqueued for it yet, although its time has come."""
        return self.past and self.reminder.status == ReminderStatus.SCHEDULED


@dataclass(frozen=True, slots=True)
class Tab:
    """One status, or all."""

    label: str
    href: str
    is_current: bool


@dataclass(frozen=True, slots=True)
class Reminders:
    """What `reminders.html` shows."""

    rows: list[Row]
    tabs: list[Tab]
    user: str
    status: str
    is_first_page: bool
    next_href: str | None
    shows_messages: bool
    """Whether the reader may see messages, recipients and errors."""
    awaiting: int
    awaiting_exact: bool

    @property
    def is_filtered(self) -> bool:
        """Whether there may be others."""
        return bool(self.user or self.status)


@router.get("/reminders")
async def show_reminders(
    request: Request,
    viewer: Viewer,
    session: Session,
    settings: AppSettings,
    status: Status = "",
    user: User = "",
    cursor: Cursor = "",
) -> Response:
    """Reminders, newest first, by status and by user."""
    wanted = ReminderStatus(status) if status in set(ReminderStatus) else None
    named = {"user": user, "status": "" if wanted is None else wanted.value}
    found = await repository.page(
        session,
        limit=PAGE_ROWS + 1,
        before=ReminderId(decode_cursor(cursor, named)) if cursor else None,
        user_id=user or None,
        status=wanted,
    )
    awaiting = await repository.count_awaiting_delivery(session, settings.count_cap + 1)
    now = datetime.now(UTC)
    more = len(found) > PAGE_ROWS
    shown = found[:PAGE_ROWS]
    page = Reminders(
        rows=[Row(reminder, past=reminder.send_at <= now) for reminder in shown],
        tabs=_tabs(wanted, user),
        user=user,
        status=named["status"],
        is_first_page=not cursor,
        next_href=_href(named, cursor=encode_cursor(shown[-1].id, named)) if more else None,
        shows_messages=viewer.may(Permission.REMINDERS_ALL),
        awaiting=min(awaiting, settings.count_cap),
        awaiting_exact=awaiting <= settings.count_cap,
    )
    return render(request, "reminders.html", page=page)


@router.post("/reminders/run")
async def run(request: Request, operator: Operator, settings: AppSettings) -> Response:
    """Enqueue a job for each reminder that is due."""
    each = partial(transaction, request, own_deadline=True)
    scan = await scheduling.enqueue_all_due(each, settings, actor=acting(request, operator))
    words = "reminder got its job" if scan.enqueued == 1 else "reminders got their jobs"
    return flash(see(request, PATH), f"{scan.enqueued} due {words}")


def _tabs(wanted: ReminderStatus | None, user: str) -> list[Tab]:
    tabs = [Tab("All", _href({"user": user}), wanted is None)]
    for status in ReminderStatus:
        href = _href({"user": user, "status": status.value})
        tabs.append(Tab(status.value, href, wanted is status))
    return tabs


def _href(named: dict[str, str], **more: Any) -> str:
    given = {name: value for name, value in (named | more).items() if value}
    return f"{PATH}?{urlencode(given)}" if given else PATH
