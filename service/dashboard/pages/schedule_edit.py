"""Make a schedule, change or delete one, and run the ticks of a time that has passed."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Final

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from sqlalchemy.ext.asyncio import AsyncSession
from starlette.datastructures import FormData
from starlette.responses import Response

from service.api.actor import acting
from service.api.session import AppSettings, Session
from service.auth.principal import Principal
from service.dashboard import schedule_form
from service.dashboard.access import Operator
from service.dashboard.links import schedule_href
from service.dashboard.pages.job_actions import reason_of
from service.dashboard.pages.schedules import NEXT_TICKS, PATH, ScheduleName, Sent
from service.dashboard.rendering import flash, render, see
from service.dashboard.route import page_router
from service.dashboard.schedule_form import CATCH_UPS, OVERLAPS, Refused
from service.errors import Conflict, FinMindError, Forbidden, InvalidInput, QuotaExceeded
from service.jobs.core.job import HIGHEST_PRIORITY, LOWEST_PRIORITY
from service.jobs.core.job_types import DEFAULTS, policies
from service.jobs.core.search_times import read_moment
from service.jobs.read.job_types import served_types
from service.schedules import managing, repository
from service.schedules.by_hand import backfill
from service.schedules.model import Definition, Overlap, Schedule
from service.schedules.preview import Preview, preview
from service.schedules.routes import check_may_run
from service.schedules.rules import check
from service.settings import Settings

router = page_router()

NEW: Final = f"{PATH}/new"
EDIT: Final = f"{PATH}/edit"
_TIME_RULE: Final = "expected a time such as 2026-03-01T09:00Z, UTC unless it has an offset"


@dataclass(frozen=True, slots=True)
class ScheduleEdit:
    """What `schedule_edit.html` shows."""

    schedule: Schedule | None
    """The one that is changed; None: a new one is made."""
    given: Mapping[str, str]
    types: list[str]
    keeps_payload: bool = False
    """Whether the payload has hidden values: an empty box leaves it as it is."""
    errors: Mapping[str, str] = field(default_factory=dict)
    """What is wrong, by the name of the box; under an empty name what belongs to none."""
    preview: Preview | None = None
    """Its next ticks; None: they were not asked for."""
    overlaps: Mapping[str, str] = field(default_factory=lambda: OVERLAPS)
    catch_ups: Mapping[str, str] = field(default_factory=lambda: CATCH_UPS)
    priorities: range = range(HIGHEST_PRIORITY, LOWEST_PRIORITY + 1)

    @property
    def mark(self) -> str:
        """Of what the form was made: a schedule that changed meanwhile is not overwritten."""
        return "" if self.schedule is None else _mark(self.schedule)

    def held(self, box: str) -> str:
        """What a box holds."""
        return self.given.get(box, "")

    def error(self, box: str) -> str | None:
        """What is wrong with a box."""
        return self.errors.get(box)

    def local(self, moment: datetime) -> str:
        """As the page writes a time by the clock of its zone."""
        return moment.strftime("%a %Y-%m-%d %H:%M:%S %z")


@router.get("/schedules/new")
async def show_new(request: Request, _: Operator, session: Session, job_type: str = "") -> Response:
    """The form of a new schedule."""
    given = schedule_form.FIRST | {"job_type": job_type[:100]}
    return render(request, "schedule_edit.html", page=await _new(session, given))


@router.post("/schedules/new")
async def make(
    request: Request, operator: Operator, session: Session, settings: AppSettings, sent: Sent
) -> Response:
    """Show the next ticks of the rule, or make the schedule."""
    page = await _new(session, _given(sent))
    try:
        wanted = schedule_form.read(page.given)
        definition = wanted.definition()
        await _check(request, operator, wanted.name, definition, settings)
        if sent.get("step") == "preview":
            return _previewed(request, page, definition)
        made = await managing.create(
            session,
            wanted.name,
            definition,
            max_schedules=settings.max_schedules,
            actor=acting(request, operator),
            created_by=operator.subject,
        )
    except (Refused, Conflict, InvalidInput) as error:
        return _refused(request, page, error)
    return flash(see(request, schedule_href(made.name)), f"{made.name} ticks from now on")


@router.get("/schedules/edit")
async def show_edit(
    request: Request, _: Operator, name: ScheduleName, session: Session, settings: AppSettings
) -> Response:
    """The form of one that there is."""
    schedule = await managing.read(session, name)
    return render(request, "schedule_edit.html", page=await _of(session, schedule, settings))


@router.post("/schedules/edit")
async def change(
    request: Request,
    operator: Operator,
    name: ScheduleName,
    session: Session,
    settings: AppSettings,
    sent: Sent,
) -> Response:
    """Show the next ticks of the changed rule, or change the schedule."""
    (schedule,) = await managing.lock(session, [name])
    page = replace(await _of(session, schedule, settings), given=_given(sent) | {"name": name})
    if sent.get("mark") != page.mark:
        words = "The schedule was changed meanwhile: open it and edit it anew"
        return _refused(request, page, Conflict(words))
    kept = schedule.definition.payload if page.keeps_payload else None
    try:
        definition = schedule_form.read(page.given, unless_written=kept).definition()
        await _check(request, operator, name, definition, settings)
        if sent.get("step") == "preview":
            return _previewed(request, page, definition)
        await managing.change(
            session, schedule, definition, actor=acting(request, operator), reason=reason_of(sent)
        )
    except (Refused, Conflict, InvalidInput) as error:
        return _refused(request, page, error)
    words = f"{name} is as you wrote it"
    return flash(see(request, schedule_href(name)), words)


@router.post("/schedules/delete")
async def delete(request: Request, operator: Operator, session: Session, sent: Sent) -> Response:
    """Delete a schedule; its jobs stay."""
    name = str(sent.get("name", ""))
    try:
        (schedule,) = await managing.lock(session, [name])
        await managing.delete(
            session, schedule, actor=acting(request, operator), reason=reason_of(sent)
        )
    except FinMindError as error:
        return flash(see(request, PATH), error.detail, kind="failed")
    return flash(see(request, PATH), f"{name} is deleted; its jobs stay")


@router.post("/schedules/backfill")
async def run_past_ticks(
    request: Request, operator: Operator, session: Session, sent: Sent
) -> Response:
    """Run the ticks of a time that has passed."""
    name = str(sent.get("name", ""))
    back = see(request, schedule_href(name))
    try:
        (schedule,) = await managing.lock(session, [name])
        begin, until = _moment(sent, "from"), await repository.now(session)
        if str(sent.get("until", "")).strip():
            until = _moment(sent, "until")
        done = await backfill(
            session, schedule, begin, until, overlap=_overlap(sent),
            actor=acting(request, operator), reason=reason_of(sent),
        )  # fmt: skip
    except FinMindError as error:
        return flash(back, error.detail, kind="failed")
    skipped = f", {done.skipped} skipped" if done.skipped else ""
    return flash(back, f"{done.enqueued} of {done.ticks} ticks run again{skipped}")


async def _new(session: AsyncSession, given: Mapping[str, str]) -> ScheduleEdit:
    return ScheduleEdit(None, given, await _types(session))


async def _of(session: AsyncSession, schedule: Schedule, settings: Settings) -> ScheduleEdit:
    given = schedule_form.written(schedule.definition, settings) | {"name": schedule.name}
    types = await _types(session)
    return ScheduleEdit(schedule, given, types, keeps_payload="payload" not in given)


async def _types(session: AsyncSession) -> list[str]:
    """Job types to choose from, those of the service left out."""
    names = {one.job_type for one in await served_types(session)} | policies.keys()
    return sorted(name for name in names if not policies.get(name, DEFAULTS).internal)


def _given(sent: FormData) -> dict[str, str]:
    return {name: str(sent.get(name, "")).replace("\r\n", "\n") for name in schedule_form.BOXES}


async def _check(
    request: Request, operator: Principal, name: str, definition: Definition, settings: Settings
) -> None:
    """Refuse what the API refuses: a rule without ticks, a job that its type refuses."""
    try:
        check(name, definition)
        await check_may_run(request, operator, name, definition, settings)
    except RequestValidationError as error:
        raise Refused(schedule_form.by_box(error.errors(), skip=1)) from None
    except (Forbidden, QuotaExceeded) as error:
        raise Refused({"": error.detail}, status=error.status) from None


def _previewed(request: Request, page: ScheduleEdit, definition: Definition) -> Response:
    found = preview(definition.timing, after=datetime.now(UTC), count=NEXT_TICKS)
    return render(request, "schedule_edit.html", page=replace(page, preview=found))


def _refused(
    request: Request, page: ScheduleEdit, error: Refused | Conflict | InvalidInput
) -> Response:
    if isinstance(error, Refused):
        errors = error.errors
    else:
        errors = {schedule_form.box_of(error): error.detail}
    return render(
        request, "schedule_edit.html", page=replace(page, errors=errors), status=error.status
    )


def _moment(sent: FormData, box: str) -> datetime:
    text = str(sent.get(box, "")).strip()
    moment = read_moment(text, now=datetime.now(UTC))
    if moment is None:
        raise InvalidInput(f"{box} is {text[:60]!r}: {_TIME_RULE}", field=box)
    return moment


def _overlap(sent: FormData) -> Overlap:
    text = str(sent.get("overlap", "")) or Overlap.QUEUE_ALL
    try:
        return Overlap(text)
    except ValueError:
        raise InvalidInput(
            f"overlap is {text[:60]!r}: expected one of {', '.join(Overlap)}", field="overlap"
        ) from None


def _mark(schedule: Schedule) -> str:
    return schedule.changed_at.isoformat()
