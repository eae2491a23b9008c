"""`/reminders` over HTTP: parse, call, commit."""

import base64
import binascii
from typing import Annotated, Final

from fastapi import APIRouter, Path, Query, Request, Response, Security, status

from service.api.problems import problem_responses
from service.auth.dependencies import RequirePermission, require
from service.auth.principal import Permission, Principal
from service.db.engine import Database
from service.errors import Forbidden, InvalidInput, NotFound
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
from service.settings import Settings

MAX_ID: Final = 2**63 - 1
MAX_USER_ID_CHARS: Final = 255
DEFAULT_PAGE_SIZE: Final = 50
MAX_CURSOR_CHARS: Final = 100


class RequireEither(RequirePermission):
    """Lets those pass who hold the permission, or `reminders:all`."""

    async def authorise(self, request: Request) -> Principal:
        """The caller, if they hold one of the two.

        Raises:
            Unauthenticated: no credential, or one that does not hold.
            Forbidden: it holds, without either permission.
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
Id = Annotated[int, Path(ge=1, le=MAX_ID, description="Id of a reminder.")]

router = APIRouter(prefix="/reminders", tags=["Reminders"])


@router.post("", status_code=status.HTTP_201_CREATED, summary="Create a reminder")
async def create_reminder(
    body: ReminderIn, request: Request, response: Response, user: User
) -> ReminderOut:
    """Schedule a message. It is sent at `send_at`, or up to `REMINDER_SCAN_SECONDS` later."""
    values = body.model_dump() | {"user_id": _user_id(user)}
    async with _database(request).sessions.begin() as session:
        reminder = await repository.insert(session, values)
    reminder_event("created", body.channel)
    response.headers["Location"] = f"/reminders/{reminder.id}"
    return ReminderOut.model_validate(reminder)


@router.get("", summary="List reminders")
async def list_reminders(
    request: Request,
    user: User,
    limit: Annotated[int, Query(ge=1, description="Reminders on the page.")] = DEFAULT_PAGE_SIZE,
    cursor: Annotated[
        str | None, Query(max_length=MAX_CURSOR_CHARS, description="`next_cursor` of a page.")
    ] = None,
    status: Annotated[ReminderStatus | None, Query(description="Only these.")] = None,
    user_id: Annotated[
        str | None,
        Query(
            min_length=1,
            max_length=MAX_USER_ID_CHARS,
            pattern=r"^[^\x00]*$",
            description="Only this user's; others' need `reminders:all`.",
        ),
    ] = None,
) -> ReminderPage:
    """Newest first, a page at a time: your own, or everybody's with `reminders:all`."""
    largest = _settings(request).max_page_size
    if limit > largest:
        raise InvalidInput(f"limit is {limit}: expected 1 to {largest}", field="limit")
    owner = _scope(user)
    if user_id is not None:
        if owner is not None and user_id != owner:
            raise Forbidden("Reminders of other users need the permission reminders:all.")
        owner = user_id
    async with _database(request).sessions.begin() as session:
        found = await repository.page(
            session,
            limit=limit + 1,
            before=_read_cursor(cursor) if cursor is not None else None,
            user_id=owner,
            status=status,
        )
    more = len(found) > limit
    return ReminderPage(
        reminders=[ReminderOut.model_validate(reminder) for reminder in found[:limit]],
        next_cursor=_make_cursor(found[limit - 1].id) if more else None,
    )


@router.post("/run", summary="Enqueue due reminders now")
async def run_reminders(request: Request, _operator: Operator) -> RunOut:
    """Enqueue one job for each due unsent reminder.

    Safe to call at any time, by many at once: a reminder never gets two jobs. The service does
    the same by itself every `REMINDER_SCAN_SECONDS`.
    """
    scan = await scheduling.enqueue_all_due(_database(request), _settings(request))
    return RunOut(enqueued=scan.enqueued, already_queued=scan.already_queued)


@router.get("/{reminder_id}", summary="Read a reminder", responses=problem_responses(404))
async def read_reminder(reminder_id: Id, request: Request, user: User) -> ReminderOut:
    """One reminder, with its delivery state and last error."""
    async with _database(request).sessions.begin() as session:
        reminder = await repository.find(session, ReminderId(reminder_id), user_id=_scope(user))
    if reminder is None:
        raise NotFound(f"No reminder {reminder_id}")
    return ReminderOut.model_validate(reminder)


@router.patch("/{reminder_id}", summary="Change a reminder", responses=problem_responses(404, 409))
async def change_reminder(
    reminder_id: Id, body: ReminderChange, request: Request, user: User
) -> ReminderOut:
    """Change an unsent reminder.

    Its waiting job is cancelled and it is scheduled again; one that had failed is thereby sent
    again.
    """
    async with _database(request).sessions.begin() as session:
        reminder = await scheduling.change_reminder(
            session,
            ReminderId(reminder_id),
            body.model_dump(exclude_unset=True),
            user_id=_scope(user),
        )
    return ReminderOut.model_validate(reminder)


@router.delete(
    "/{reminder_id}",
    status_code=status.HTTP_204_NO_CONTENT,
    summary="Delete a reminder",
    responses=problem_responses(404, 409),
)
async def delete_reminder(reminder_id: Id, request: Request, user: User) -> None:
    """Delete a reminder and cancel its waiting job."""
    async with _database(request).sessions.begin() as session:
        await scheduling.delete_reminder(session, ReminderId(reminder_id), user_id=_scope(user))


def _database(request: Request) -> Database:
    database: Database = request.app.state.service.database
    return database


def _settings(request: Request) -> Settings:
    settings: Settings = request.app.state.service.settings
    return settings


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


def _make_cursor(last_id: int) -> str:
    return base64.urlsafe_b64encode(f"reminders:{last_id}".encode()).decode().rstrip("=")


def _read_cursor(cursor: str) -> ReminderId:
    try:
        padded = cursor + "=" * (-len(cursor) % 4)
        name, _, number = base64.b64decode(padded, altchars=b"-_", validate=True).partition(b":")
        last_id = int(number)
    except (ValueError, binascii.Error):
        name, last_id = b"", 0
    if name != b"reminders" or not 1 <= last_id <= MAX_ID:
        raise InvalidInput("cursor: expected the `next_cursor` of a page", field="cursor")
    return ReminderId(last_id)
