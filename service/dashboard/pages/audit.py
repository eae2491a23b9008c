"""The audit log: a list with filters, one entry, and the export."""

from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Annotated, Final, Self
from urllib.parse import quote, urlencode

from fastapi import Depends, Path, Query, Request
from starlette.responses import Response

from service.api.audit import export
from service.api.cursors import MAX_CURSOR_CHARS, decode_cursor, encode_cursor
from service.api.patterns import NO_NUL
from service.api.session import AppSettings, Session
from service.audit.model import AuditEntry, AuditFilters, Outcome
from service.audit.repository import find, lately, newest, oldest
from service.dashboard.access import Operator, Viewer
from service.dashboard.audit_changes import Change, changes_of, length_of, tree_of
from service.dashboard.json_view import Shown
from service.dashboard.rendering import render
from service.dashboard.route import page_router
from service.errors import InvalidInput, NotFound
from service.jobs.core.job import MAX_ID
from service.jobs.core.search_times import RANGE_RULE, read_range
from service.settings import Settings

router = page_router()

PATH: Final = "/dashboard/audit"
PAGE_ENTRIES: Final = 50
SHOWN_CHANGES: Final = 4
"""Changes of an entry that the list shows."""
MAX_NEW: Final = 100
"""Entries that came since which are counted."""
MAX_LISTED_CHARS: Final = 4_000
"""The longest entry whose changes the list shows: fifty of them are read for a page."""

SUBJECT_PATHS: Final = {
    "job": "/dashboard/jobs/",
    "queue": "/dashboard/queues/queue?name=",
    "cause": "/dashboard/dead-letters/",
    "operation": "/dashboard/operations/",
    "api_key": "/dashboard/api-keys#key-",
}
"""By the type of the subject, what comes before its id in the path of its page."""

Text = Annotated[str, Query(max_length=255, pattern=NO_NUL)]


@dataclass(frozen=True, slots=True)
class Asked:
    """The filters, as the form and the link hold them."""

    actor: str = ""
    action: str = ""
    subject_type: str = ""
    subject_id: str = ""
    outcome: str = ""
    when: str = ""

    def given(self) -> dict[str, str]:
        """Those that are set, by the names of the parameters."""
        named = ((name, getattr(self, name)) for name in self.__slots__)
        return {name: value for name, value in named if value}

    def href(self, **changed: str) -> str:
        """The list with these filters, and others in place of some of them."""
        query = urlencode(
            {name: value for name, value in (self.given() | changed).items() if value}
        )
        return f"{PATH}?{query}" if query else PATH

    def filters(self, now: datetime) -> AuditFilters:
        """The same for the repository.

        Raises:
            InvalidInput: `outcome` or `when` cannot be read.
        """
        if self.outcome and self.outcome not in {outcome.value for outcome in Outcome}:
            raise InvalidInput(f"The outcome {self.outcome!r} is neither done nor refused")
        span = read_range(self.when, now=now) if self.when else (None, None)
        if span is None:
            raise InvalidInput(f"When: {self.when!r} cannot be read: {RANGE_RULE}")
        return AuditFilters(
            actor=self.actor or None,
            action=self.action or None,
            subject_type=self.subject_type or None,
            subject_id=self.subject_id or None,
            outcome=Outcome(self.outcome) if self.outcome else None,
            since=span[0],
            until=span[1],
        )


@dataclass(frozen=True, slots=True)
class Row:
    """One entry in the list."""

    entry: AuditEntry
    subject_href: str | None
    changes: list[Change]
    more: int
    """Changes that the list does not show; -1: it shows none, since they are long."""

    @classmethod
    def of(cls, entry: AuditEntry, settings: Settings) -> Self:
        """The row of an entry, its changes within bounds."""
        href = subject_path(entry.subject_type, entry.subject_id)
        if length_of(entry) > MAX_LISTED_CHARS:
            return cls(entry, href, [], -1)
        changes = changes_of(entry, settings)
        return cls(entry, href, changes[:SHOWN_CHANGES], max(0, len(changes) - SHOWN_CHANGES))


@dataclass(frozen=True, slots=True)
class AuditLog:
    """What `audit.html` shows."""

    asked: Asked
    refused: str | None = None
    rows: tuple[Row, ...] = ()
    next_href: str | None = None
    live_href: str | None = None
    """Where a live page asks whether there are newer entries."""
    newer: int = 0
    max_new: int = MAX_NEW
    is_first_page: bool = True
    actions: tuple[str, ...] = ()
    subject_types: tuple[str, ...] = ()
    outcomes: tuple[str, ...] = tuple(outcome.value for outcome in Outcome)

    @property
    def export_href(self) -> str:
        """The export of what the filters find."""
        query = urlencode(self.asked.given())
        return f"{PATH}/export?{query}" if query else f"{PATH}/export"


@dataclass(frozen=True, slots=True)
class Entry:
    """What `audit_entry.html` shows."""

    entry: AuditEntry
    subject_href: str | None
    changes: list[Change]
    trees: list[tuple[str, Shown]]


def _asked(
    actor: Text = "",
    action: Text = "",
    subject_type: Text = "",
    subject_id: Text = "",
    outcome: Text = "",
    when: Text = "",
) -> Asked:
    given = (actor, action, subject_type, subject_id, outcome, when)
    return Asked(*(value.strip() for value in given))


Filters = Annotated[Asked, Depends(_asked)]


@router.get("/audit")
async def show_audit_log(
    request: Request,
    _: Viewer,
    asked: Filters,
    session: Session,
    settings: AppSettings,
    cursor: Annotated[str, Query(max_length=MAX_CURSOR_CHARS)] = "",
    top: Annotated[int | None, Query(ge=1, le=MAX_ID - 1)] = None,
) -> Response:
    """Who did what, newest first; with `top` up to that entry, and how many are newer."""
    offered = await lately(session)
    page = AuditLog(
        asked,
        actions=tuple(sorted({action for action, _ in offered})),
        subject_types=tuple(sorted({kind for _, kind in offered})),
    )
    try:
        filters = asked.filters(datetime.now(UTC))
        cursor_id = decode_cursor(cursor, asked.given()) if cursor else None
    except InvalidInput as error:
        return render(request, "audit.html", page=replace(page, refused=error.detail), status=422)
    before_id = cursor_id if top is None else top + 1
    found = await newest(session, filters, limit=PAGE_ENTRIES + 1, before_id=before_id)
    newer = [] if top is None else await oldest(session, filters, limit=MAX_NEW, after_id=top)
    return render(
        request,
        "audit.html",
        page=_listed(page, found, settings, is_first_page=cursor_id is None, newer=len(newer)),
    )


def _listed(
    page: AuditLog, found: list[AuditEntry], settings: Settings, *, is_first_page: bool, newer: int
) -> AuditLog:
    shown, asked = found[:PAGE_ENTRIES], page.asked
    more = len(found) > PAGE_ENTRIES
    cursor = encode_cursor(shown[-1].id, asked.given()) if more else ""
    return replace(
        page,
        rows=tuple(Row.of(entry, settings) for entry in shown),
        next_href=asked.href(cursor=cursor) if more else None,
        live_href=asked.href(top=str(shown[0].id)) if shown and is_first_page else None,
        newer=newer,
        is_first_page=is_first_page,
    )


@router.get("/audit/export")
async def export_audit_log(request: Request, operator: Operator, asked: Filters) -> Response:
    """What the filters find, as JSON lines."""
    filters = asked.filters(datetime.now(UTC))
    return await export(request, operator, filters, named=asked.given())


@router.get("/audit/{entry_id}")
async def show_entry(
    request: Request,
    _: Viewer,
    entry_id: Annotated[int, Path(ge=1, le=MAX_ID)],
    session: Session,
    settings: AppSettings,
) -> Response:
    """One entry, with all that it holds."""
    entry = await find(session, entry_id)
    if entry is None:
        raise NotFound(
            f"The audit log has no entry {entry_id}: it may have been dropped with its month "
            "(AUDIT_RETENTION_DAYS)"
        )
    page = Entry(
        entry,
        subject_path(entry.subject_type, entry.subject_id),
        changes_of(entry, settings),
        [
            (title, tree)
            for title, value in (("Before", entry.before), ("After", entry.after))
            if (tree := tree_of(value, settings)) is not None
        ],
    )
    return render(request, "audit_entry.html", page=page)


def subject_path(subject_type: str, subject_id: str | None) -> str | None:
    """The page of what an entry is about; None where there is none."""
    if subject_id is None or subject_type not in SUBJECT_PATHS:
        return None
    return SUBJECT_PATHS[subject_type] + quote(subject_id, safe="")
