"""The schedules: when each is due, how its runs fared, and the buttons that pause, resume and run one."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import islice
from typing import Annotated, Final
from urllib.parse import urlencode

from fastapi import Depends, Query, Request
from sqlalchemy.ext.asyncio import AsyncSession
from starlette.datastructures import FormData
from starlette.responses import Response

from service.api.actor import acting
from service.api.cursors import decode_cursor, encode_cursor
from service.api.patterns import NO_NUL
from service.api.session import AppSettings, Session
from service.dashboard.access import Operator, Viewer
from service.dashboard.audit_changes import tree_of
from service.dashboard.json_view import Shown
from service.dashboard.links import jobs_href, schedule_href
from service.dashboard.pages.job_actions import reason_of
from service.dashboard.rendering import flash, render, see
from service.dashboard.route import form, page_router
from service.errors import FinMindError, InvalidInput, NotFound
from service.jobs.core.job import MAX_ID
from service.jobs.core.redaction import redact_for
from service.schedules import ledger, managing, repository
from service.schedules.by_hand import MAX_BACKFILL, run_now
from service.schedules.declaring import release
from service.schedules.model import FAILING, Overlap, Schedule, Tick, TickOutcome
from service.schedules.preview import ClockChange, preview
from service.settings import Settings

router = page_router()

PATH: Final = "/dashboard/schedules"
PAGE_ROWS: Final = 100
NEXT_TICKS: Final = 5
LAST_RUNS: Final = 5
TICK_ROWS: Final = 50
"""Of one page of a ledger."""
BACKFILLS: Final[dict[str, str]] = {
    Overlap.QUEUE_ALL: "waits for its end: one after the other",
    Overlap.ALLOW: "starts beside it: all at once",
    Overlap.QUEUE_ONE: "waits for its end, as the only one that waits",
    Overlap.SKIP: "is skipped",
}
"""What becomes of the runs of a backfill beside those before them."""

ScheduleName = Annotated[str, Query(min_length=1, max_length=100, pattern=NO_NUL)]
Sent = Annotated[FormData, Depends(form)]


@dataclass(frozen=True, slots=True)
class Row:
    """A schedule, in the words of the pages."""

    schedule: Schedule
    last: Sequence[Tick] = ()
    """What became of its last ticks, newest first."""

    @property
    def href(self) -> str:
        """Its page."""
        return schedule_href(self.schedule.name)

    @property
    def jobs_href(self) -> str:
        """Jobs of its type."""
        return jobs_href(type=self.schedule.definition.job_type)

    @property
    def is_failing(self) -> bool:
        """Whether so many runs failed in a row that somebody should look."""
        return self.schedule.failures >= FAILING

    def words(self, tick: Tick) -> str:
        """What became of a tick, in one word."""
        return tick_words(tick)

    def state_class(self, tick: Tick) -> str:
        """Of the colour of it."""
        return tick_class(tick)


@dataclass(frozen=True, slots=True)
class Schedules:
    """What `schedules.html` shows."""

    rows: list[Row]
    named: str
    next_href: str | None
    is_first_page: bool


@dataclass(frozen=True, slots=True)
class OneSchedule:
    """What `schedule.html` shows."""

    row: Row
    next_ticks: list[datetime]
    change: ClockChange | None
    payload: Shown | None
    ticks: list[Tick]
    outcome: str
    older_href: str | None
    outcomes: tuple[str, ...] = tuple(TickOutcome)
    max_backfill: int = MAX_BACKFILL
    backfills: Mapping[str, str] = field(default_factory=lambda: BACKFILLS)

    @property
    def edit_href(self) -> str:
        """The form that changes it."""
        return f"{PATH}/edit?{urlencode({'name': self.schedule.name})}"

    @property
    def schedule(self) -> Schedule:
        """The schedule itself."""
        return self.row.schedule

    def local(self, moment: datetime) -> str:
        """By the clock of its zone."""
        return self.schedule.definition.timing.local(moment).strftime("%a %Y-%m-%d %H:%M:%S %z")


def tick_words(tick: Tick) -> str:
    """What became of a tick, or of its job, in one word."""
    if tick.job_id is None:
        return tick.outcome.value
    return (tick.run_status or "live").lower().replace("_", " ")


def tick_class(tick: Tick) -> str:
    """Of the colour of it."""
    if tick.job_id is None:
        return "cancelled" if tick.outcome is TickOutcome.SKIPPED else "failed"
    return (tick.run_status or "running").lower().replace("_", "-")


@router.get("/schedules")
async def show_schedules(
    request: Request,
    _: Viewer,
    session: Session,
    named: Annotated[str, Query(max_length=100, pattern=NO_NUL)] = "",
    after: Annotated[str, Query(max_length=100, pattern=NO_NUL)] = "",
) -> Response:
    """By name, with what became of their last ticks."""
    found = await repository.page(session, limit=PAGE_ROWS + 1, after=after, named=named or None)
    shown = found[:PAGE_ROWS]
    last = await ledger.last_of_each(session, [one.id for one in shown], limit=LAST_RUNS)
    more = {"named": named, "after": shown[-1].name} if len(found) > PAGE_ROWS else None
    page = Schedules(
        rows=[Row(one, last.get(one.id, ())) for one in shown],
        named=named,
        next_href=None if more is None else f"{PATH}?{urlencode(more)}",
        is_first_page=not after,
    )
    return render(request, "schedules.html", page=page)


@router.get("/schedules/schedule")
async def show_schedule(
    request: Request,
    _: Viewer,
    name: ScheduleName,
    session: Session,
    settings: AppSettings,
    outcome: Annotated[str, Query(max_length=20)] = "",
    cursor: Annotated[str, Query(max_length=200, pattern=NO_NUL)] = "",
) -> Response:
    """One schedule: its next five ticks, what the next change of the clock does, and its ledger."""
    schedule = await managing.read(session, name)
    chosen = TickOutcome(outcome) if outcome in set(TickOutcome) else None
    page = await _one(session, schedule, settings, chosen, cursor)
    return render(request, "schedule.html", page=page)


async def _one(
    session: AsyncSession,
    schedule: Schedule,
    settings: Settings,
    outcome: TickOutcome | None,
    cursor: str,
) -> OneSchedule:
    listed = {"ticks": schedule.id, "outcome": outcome}
    before = decode_cursor(cursor, listed) if cursor else MAX_ID
    found = await ledger.ticks(
        session, schedule.id, limit=TICK_ROWS + 1, before=before, outcome=outcome
    )
    ticks, change = _ahead(schedule)
    shown = found[:TICK_ROWS]
    older = None
    if len(found) > TICK_ROWS:
        given = {"outcome": outcome or "", "cursor": encode_cursor(shown[-1].id, listed)}
        older = f"{schedule_href(schedule.name)}&{urlencode(given)}"
    definition = schedule.definition
    return OneSchedule(
        row=Row(schedule),
        next_ticks=ticks,
        change=change,
        payload=tree_of({"payload": redact_for(definition.job_type, definition.payload)}, settings),
        ticks=shown,
        outcome=outcome or "",
        older_href=older,
    )


def _ahead(schedule: Schedule) -> tuple[list[datetime], ClockChange | None]:
    """Its next ticks, and the next change of its clock; nothing where its row cannot be followed."""
    timing = schedule.definition.timing
    try:
        timing.check()
    except InvalidInput:
        return [], None
    found = preview(timing, after=datetime.now(UTC), count=NEXT_TICKS)
    if schedule.is_paused or schedule.next_tick_at is None:
        return [], found.change
    first = schedule.next_tick_at
    return [first, *islice(timing.ticks_after(first), NEXT_TICKS - 1)], found.change


@router.post("/schedules/pause")
async def pause(request: Request, operator: Operator, session: Session, sent: Sent) -> Response:
    """Pause schedules."""
    try:
        names = _names(sent)
        await managing.pause(
            session, names, actor=acting(request, operator), reason=reason_of(sent)
        )
    except (NotFound, InvalidInput) as error:
        return flash(_back(request, sent), error.detail, kind="failed")
    words = f"{_list(names)} {'is' if len(names) == 1 else 'are'} paused"
    return flash(_back(request, sent), words)


@router.post("/schedules/resume")
async def resume(request: Request, operator: Operator, session: Session, sent: Sent) -> Response:
    """Have schedules tick again."""
    try:
        names = _names(sent)
        await managing.resume(
            session, names, actor=acting(request, operator), reason=reason_of(sent)
        )
    except (NotFound, InvalidInput) as error:
        return flash(_back(request, sent), error.detail, kind="failed")
    words = f"{_list(names)} {'goes' if len(names) == 1 else 'go'} on with the next tick"
    return flash(_back(request, sent), words)


@router.post("/schedules/run")
async def run(request: Request, operator: Operator, session: Session, sent: Sent) -> Response:
    """Enqueue a job of a schedule at once."""
    name = str(sent.get("name", ""))
    try:
        (schedule,) = await managing.lock(session, [name])
        note = await run_now(
            session, schedule, actor=acting(request, operator), reason=reason_of(sent)
        )
    except FinMindError as error:
        return flash(_back(request, sent), error.detail, kind="failed")
    return flash(_back(request, sent), f"Job {note.job_id} runs {name} now")


@router.post("/schedules/release")
async def give_back(request: Request, operator: Operator, session: Session, sent: Sent) -> Response:
    """Give a schedule back to its code."""
    name = str(sent.get("name", ""))
    try:
        (schedule,) = await managing.lock(session, [name])
        await release(session, schedule, actor=acting(request, operator), reason=reason_of(sent))
    except FinMindError as error:
        return flash(_back(request, sent), error.detail, kind="failed")
    return flash(_back(request, sent), f"{name} is as its code defines it")


def _names(sent: FormData) -> list[str]:
    names = [str(one) for one in sent.getlist("ids")]
    if not names:
        raise InvalidInput("No schedule is selected: select some first")
    return names


def _back(request: Request, sent: FormData) -> Response:
    """The page that the form stood on."""
    name = str(sent.get("name", ""))
    return see(request, schedule_href(name) if name else PATH)


def _list(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{len(names)} schedules"
