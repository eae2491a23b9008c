"""`/reminders` over HTTP: parse, call, commit."""

from functools import partial
from typing import Annotated, Final

from fastapi import APIRouter, Path, Query, Request, Response, Security, status

from service.api.actor import acting
from service.api.cursors import MAX_CURSOR_CHARS, decode_cursor, encode_cursor
from service.api.guarded import GuardedRoute
from service.api.patterns import NO_NUL, PLAIN_NUMBER
from service.api.problems import problem_responses
from service.api.refusals import FIRST_ERRORS
from service.api.session import AppSettings, Session, settings_of, transaction
from service.auth.dependencies import RequirePermission, require
from service.auth.principal import Permission, Principal
from service.auth.quotas import spend_reminder
from service.errors import Forbidden, InvalidInput, NotFound
from service.jobs.core.job import MAX_ID
from service.observability.metrics import reminder_event
from service.reminders import repository, scheduling
from service.reminders.model import ReminderId, ReminderStatus
from service.reminders.schemas import (
    ReminderChange,
    ReminderIn,
    ReminderOut,
    ReminderPage,
    RunOut,
)

MAX_USER_ID_CHARS: Final = 255
DEFAULT_PAGE_SIZE: Final = 50


class RequireEither(RequirePermission):
    """Admits callers with the permission, or with `reminders:all`."""

    async def authorise(self, request: Request) -> Principal:
        """The caller, if they hold one of the two.

        Raises:
            Unauthenticated: no credential, or one that is not valid.
            Forbidden: the credential is valid, but lacks both permissions.
        """
        try:
            return await super().authorise(request)
        except Forbidden as refusal:
            try:
                return await require(Permission.REMINDERS_ALL).authorise(request)
            except Forbidden:
                raise refusal from None


User = Annotated[Principal, Security(RequireEither(Permission.REMINDERS_OWN))]
Operator = Annotated[Principal, Security(RequireEither(Permission.ADMIN_OPERATE))]
Id = Annotated[
    int, Path(ge=1, le=MAX_ID, description="Id of a reminder.", examples=[42]), PLAIN_NUMBER
]

router = APIRouter(prefix="/reminders", tags=["Reminders"], route_class=GuardedRoute)


@router.post(
    "",
    operation_id="createReminder",
    summary="Create a reminder",
    response_description="The new reminder.",
    status_code=status.HTTP_201_CREATED,
    responses=problem_responses(400, 422, 503),
)
async def create_reminder(
    body: Annotated[ReminderIn, FIRST_ERRORS], request: Request, response: Response, user: User
) -> ReminderOut:
    """Schedule a message. It is sent at `send_at`, or up to `REMINDER_SCAN_SECONDS` later."""
    values = body.model_dump() | {"user_id": _user_id(user)}
    async with transaction(request) as session:
        await spend_reminder(session, user, settings_of(request))
        reminder = await repository.insert(session, values)
    reminder_event("created", body.channel)
    response.headers["Location"] = f"{settings_of(request).root_path}/reminders/{reminder.id}"
    return ReminderOut.model_validate(reminder)


@router.get(
    "",
    operation_id="listReminders",
    summary="List reminders",
    response_description="One page of reminders.",
    responses=problem_responses(422, 503),
)
async def list_reminders(
    user: User,
    session: Session,
    settings: AppSettings,
    limit: Annotated[
        int, Query(ge=1, description="Reminders on the page."), PLAIN_NUMBER
    ] = DEFAULT_PAGE_SIZE,
    cursor: Annotated[
        str | None, Query(max_length=MAX_CURSOR_CHARS, description="`next_cursor` of a page.")
    ] = None,
    status: Annotated[ReminderStatus | None, Query(description="Only these.")] = None,
    user_id: Annotated[
        str | None,
        Query(
            min_length=1,
            max_length=MAX_USER_ID_CHARS,
            pattern=NO_NUL,
            description="Only this user's; others' need `reminders:all`.",
        ),
    ] = None,
) -> ReminderPage:
    """Newest first, a page at a time: your own, or everybody's with `reminders:all`."""
    if limit > settings.max_page_size:
        raise InvalidInput(
            f"limit is {limit}: at most {settings.max_page_size} are allowed (MAX_PAGE_SIZE)",
            field="query.limit",
        )
    owner = _scope(user)
    if user_id is not None:
        if owner is not None and user_id != owner:
            raise Forbidden("Reminders of other users need the permission reminders:all")
        owner = user_id
    named = {"reminders_of": owner, "status": status}
    found = await repository.page(
        session,
        limit=limit + 1,
        before=None if cursor is None else ReminderId(decode_cursor(cursor, named)),
        user_id=owner,
        status=status,
    )
    more = len(found) > limit
    return ReminderPage(
        reminders=[ReminderOut.model_validate(reminder) for reminder in found[:limit]],
        next_cursor=encode_cursor(found[limit - 1].id, named) if more else None,
    )


@router.post(
    "/run",
    operation_id="runReminders",
    summary="Enqueue due reminders now",
    response_description="How many reminders were enqueued.",
    responses=problem_responses(503),
)
async def run_reminders(request: Request, settings: AppSettings, operator: Operator) -> RunOut:
    """Enqueue one job for each due unsent reminder.

    Safe to call at any time and concurrently: a reminder never gets two jobs. The service does the same
    by itself every `REMINDER_SCAN_SECONDS`.
    """
    each = partial(transaction, request, own_deadline=True)
    scan = await scheduling.enqueue_all_due(each, settings, actor=acting(request, operator))
    return RunOut(enqueued=scan.enqueued, already_queued=scan.already_queued)


@router.get(
    "/{reminder_id}",
    operation_id="getReminder",
    summary="Read a reminder",
    response_description="The reminder.",
    responses=problem_responses(404, 422, 503),
)
async def read_reminder(user: User, reminder_id: Id, session: Session) -> ReminderOut:
    """One reminder, with its delivery state and last error."""
    reminder = await repository.find(session, ReminderId(reminder_id), user_id=_scope(user))
    if reminder is None:
        raise NotFound(f"No reminder {reminder_id}")
    return ReminderOut.model_validate(reminder)


@router.patch(
    "/{reminder_id}",
    operation_id="changeReminder",
    summary="Change a reminder",
    response_description="The reminder as changed.",
    responses=problem_responses(400, 404, 409, 422, 503),
)
async def change_reminder(
    request: Request,
    user: User,
    reminder_id: Id,
    body: Annotated[ReminderChange, FIRST_ERRORS],
    session: Session,
    settings: AppSettings,
) -> ReminderOut:
    """Change an unsent reminder.

    Its waiting job is cancelled and it is scheduled again; one that had failed is thereby sent
    again, which counts as one more reminder of the day.
    """
    before = await repository.find(session, ReminderId(reminder_id), user_id=_scope(user))
    if before is not None and before.attempts and not before.sent:
        # Otherwise one reminder could try any number of addresses.
        await spend_reminder(session, user, settings)
    reminder = await scheduling.change_reminder(
        session,
        ReminderId(reminder_id),
        body.model_dump(exclude_unset=True),
        user_id=_scope(user),
        actor=acting(request, user),
    )
    return ReminderOut.model_validate(reminder)


@router.delete(
    "/{reminder_id}",
    operation_id="deleteReminder",
    status_code=status.HTTP_204_NO_CONTENT,
    summary="Delete a reminder",
    response_description="The reminder is gone.",
    responses=problem_responses(404, 409, 422, 503),
)
async def delete_reminder(request: Request, user: User, reminder_id: Id, session: Session) -> None:
    """Delete a reminder and cancel its waiting job."""
    actor = acting(request, user)
    await scheduling.delete_reminder(
        session, ReminderId(reminder_id), user_id=_scope(user), actor=actor
    )


def _scope(user: Principal) -> str | None:
    """Whose reminders this caller may see: its own, or everybody's (None)."""
    return None if user.may(Permission.REMINDERS_ALL) else user.subject


def _user_id(user: Principal) -> str:
    subject = user.subject
    if not 0 < len(subject) <= MAX_USER_ID_CHARS or "\x00" in subject:
        raise InvalidInput(
            f"The subject of your credential cannot own reminders: expected 1 to "
            f"{MAX_USER_ID_CHARS} characters without NUL"
        )
    return subject
