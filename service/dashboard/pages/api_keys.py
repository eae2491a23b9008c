"""API keys: the list, a form that makes one and shows it once, and buttons that revoke."""

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Final

from fastapi import Depends, Request
from pydantic import ValidationError
from starlette.datastructures import FormData
from starlette.responses import Response

from service.api.actor import acting
from service.api.api_keys import ApiKeyIn, key_store, make_key
from service.auth.api_keys import ApiKey
from service.auth.principal import LIMITABLE, Permission
from service.dashboard.access import KeyManager
from service.dashboard.rendering import flash, render, see
from service.dashboard.route import form, page_router
from service.errors import Forbidden, InvalidInput, NotFound

router = page_router()

PATH: Final = "/dashboard/api-keys"
MAX_REASON: Final = 500
LASTING: Final = {"7": "a week", "30": "30 days", "90": "90 days", "365": "a year", "": "for ever"}
"""How long a new key may hold, by the days that the form sends."""
LISTS: Final = ("queues", "job_types", "priorities")
WORDS: Final[dict[Permission, str]] = {
    Permission.JOBS_WRITE: "enqueue jobs",
    Permission.JOBS_READ: "read jobs and their results",
    Permission.JOBS_WORK: "claim jobs over HTTP, as a worker",
    Permission.ADMIN_READ: "see all jobs, statistics and the audit log",
    Permission.ADMIN_OPERATE: "retry, cancel, edit and delete jobs",
    Permission.ADMIN_DELETE: "delete jobs, one or many at once",
    Permission.SCHEDULES_WRITE: "make schedules and act on its own",
    Permission.KEYS_MANAGE: "make and revoke API keys",
    Permission.METRICS_READ: "read metrics",
    Permission.REMINDERS_OWN: "make reminders of its own",
    Permission.REMINDERS_ALL: "see and change everybody's reminders",
}

Sent = Annotated[FormData, Depends(form)]


@dataclass(frozen=True, slots=True)
class Scope:
    """One thing that a new key may be allowed."""

    name: str
    words: str
    is_chosen: bool
    is_limitable: bool


@dataclass(frozen=True, slots=True)
class NewKeyForm:
    """The form, as it was sent or empty."""

    name: str
    scopes: list[Scope]
    days: str
    limits: dict[str, str]
    refused: str | None = None
    lasting: dict[str, str] = field(default_factory=lambda: LASTING)


@dataclass(frozen=True, slots=True)
class Keys:
    """What `api_keys.html` shows."""

    active: list[ApiKey]
    over: list[ApiKey]
    """Revoked and expired."""
    form: NewKeyForm


@router.get("/api-keys")
async def show_keys(request: Request, manager: KeyManager) -> Response:
    """Every key, and the form for another."""
    empty = NewKeyForm("", _scopes(manager.permissions, set()), "90", dict.fromkeys(LISTS, ""))
    return await _page(request, empty)


@router.post("/api-keys")
async def create(request: Request, manager: KeyManager, sent: Sent) -> Response:
    """Make a key, and show it this once; what is refused is shown with what was typed."""
    try:
        made = await make_key(request, manager, _read(sent))
    except (Forbidden, InvalidInput) as error:
        typed = NewKeyForm(
            name=str(sent.get("name", "")),
            scopes=_scopes(manager.permissions, {str(one) for one in sent.getlist("scopes")}),
            days=str(sent.get("days", "")),
            limits={name: str(sent.get(name, "")) for name in LISTS},
            refused=error.detail,
        )
        return await _page(request, typed, status=error.status)
    # Shown here and not on a page that is led to: the key would have to be kept until then.
    return render(request, "api_key_made.html", page=made, status=201)


@router.post("/api-keys/{prefix}/revoke")
async def revoke(request: Request, manager: KeyManager, prefix: str, sent: Sent) -> Response:
    """Revoke a key at once, and those that it made."""
    try:
        key = await key_store(request).revoke(
            prefix,
            by=manager.subject,
            actor=acting(request, manager),
            reason=str(sent.get("reason", "")).strip()[:MAX_REASON] or None,
        )
    except NotFound as error:
        return flash(see(request, PATH), error.detail, kind="failed")
    return flash(see(request, PATH), f"The key {key.name} ({key.prefix}) works no more")


async def _page(request: Request, shown: NewKeyForm, *, status: int = 200) -> Response:
    now = datetime.now(UTC)
    keys = await key_store(request).list()
    active = [key for key in keys if _works(key, now)]
    over = [key for key in keys if not _works(key, now)]
    return render(request, "api_keys.html", page=Keys(active, over, shown), status=status)


def _works(key: ApiKey, now: datetime) -> bool:
    return key.revoked_at is None and (key.expires_at is None or key.expires_at > now)


def _scopes(granted: frozenset[Permission], chosen: set[str]) -> list[Scope]:
    return [
        Scope(one.value, WORDS[one], one.value in chosen, one in LIMITABLE)
        for one in Permission
        if one in granted
    ]


def _read(sent: FormData) -> ApiKeyIn:
    """The key that the form asks for.

    Raises:
        InvalidInput: a value breaks a rule.
    """
    days = str(sent.get("days", ""))
    if days not in LASTING:
        raise InvalidInput(f"It cannot hold for {days[:20]!r} days: choose one of the list")
    values: dict[str, Any] = {"name": str(sent.get("name", "")), "scopes": sent.getlist("scopes")}
    if days:
        values["expires_at"] = datetime.now(UTC) + timedelta(days=int(days))
    for name in LISTS:
        parts = [part.strip() for part in str(sent.get(name, "")).split(",") if part.strip()]
        if parts:
            values[name] = [_number(part) for part in parts] if name == "priorities" else parts
    try:
        return ApiKeyIn.model_validate(values)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        name = str(first["loc"][0]).replace("_", " ")
        if name == "scopes" and not values["scopes"]:
            raise InvalidInput("Choose at least one thing that the key may do") from None
        message = first["msg"].removeprefix("Value error, ")
        raise InvalidInput(f"{name}: {message}, got {str(first['input'])[:100]!r}") from None


def _number(text: str) -> int | str:
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 10 else text
