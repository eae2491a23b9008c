"""Start an operation: what it would act on, how, how fast, and the button that names the count."""

import hashlib
import json
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Annotated, Any, Final

from fastapi import Depends, Request
from pydantic import ValidationError
from starlette.datastructures import FormData, QueryParams
from starlette.responses import Response

from service.api.actor import acting
from service.api.job_query import parameters
from service.api.session import AppSettings, Session
from service.dashboard.access import Operator
from service.dashboard.operation_words import VERBS, selection_words
from service.dashboard.rendering import flash, render, see
from service.dashboard.route import form, page_router
from service.errors import Conflict, InvalidInput
from service.jobs.core.bulk_action import ACTS_ON, Verb
from service.jobs.core.filters import JobFilters
from service.jobs.core.search_times import read_moment
from service.operations import starting
from service.operations.routes import check_may
from service.operations.schemas import SelectionIn
from service.operations.selection import Selection
from service.operations.starting import OperationRequest, Preview

router = page_router()

PATH: Final = "/dashboard/operations"
FIELDS: Final = (
    "all", "run_at", "queue_to", "priority_to", "payload_merge", "max_retries", "rate", "canary_jobs",
    "canary_percent", "canary_seconds", "reason", "key",
)  # fmt: skip
"""Of the form; all else names jobs."""

LINKED: Final = frozenset({"action", "canary", "edit"})
"""What links of other pages fill the form with: the jobs of a canary, and whether to edit."""

_LISTS: Final = frozenset({"ids", "status", "payload"})


@dataclass(frozen=True, slots=True)
class NewOperation:
    """What `operation_new.html` shows."""

    verb: Verb
    title: str
    acts_on: str
    given: dict[str, str]
    """What the form holds."""
    parameters: list[tuple[str, str]]
    """The filters, as the form and links carry them."""
    selection: str
    is_everything: bool
    edits: bool = False
    """Whether the part of the form that edits is open."""
    preview: Preview | None = None
    refused: str | None = None


@router.get("/operations/new")
async def show_new(
    request: Request, operator: Operator, session: Session, settings: AppSettings
) -> Response:
    """What an operation on these jobs would do."""
    verb = _verb(request.query_params.get("action", ""))
    check_may(operator, verb)
    filters = _filters(request.query_params)
    given = dict.fromkeys(FIELDS, "") | {"canary_jobs": request.query_params.get("canary", "")}
    page = replace(_page(verb, filters, given), edits="edit" in request.query_params)
    return await _show(request, session, page, filters, settings)


@router.post("/operations")
async def start(
    request: Request,
    operator: Operator,
    session: Session,
    settings: AppSettings,
    sent: Annotated[FormData, Depends(form)],
) -> Response:
    """Start it, and lead to its page."""
    verb = _verb(str(sent.get("action", "")))
    check_may(operator, verb)
    filters = _filters(sent)
    given = {name: str(sent.get(name, "")).strip() for name in FIELDS}
    try:
        asked = replace(_request(verb, given), filters=filters)
        started = await starting.start(
            session, asked, settings, actor=acting(request, operator), key=_key(sent)
        )
    except (InvalidInput, Conflict) as error:
        page = replace(_page(verb, filters, given | {"key": ""}), refused=error.detail)
        return await _show(request, session, page, filters, settings, status=error.status)
    words = f"Operation {started.id} has begun"
    return flash(see(request, f"{PATH}/{started.id}"), words)


async def _show(
    request: Request,
    session: Session,
    page: NewOperation,
    filters: JobFilters,
    settings: AppSettings,
    *,
    status: int = 200,
) -> Response:
    try:
        found = await starting.preview(session, page.verb, filters, settings)
        page = replace(page, preview=found)
    except InvalidInput as error:
        page, status = replace(page, refused=page.refused or error.detail), 422
    return render(request, "operation_new.html", page=page, status=status)


def _page(verb: Verb, filters: JobFilters, given: dict[str, str]) -> NewOperation:
    return NewOperation(
        verb=verb,
        title=VERBS[verb],
        acts_on=" or ".join(sorted(ACTS_ON[verb])),
        given=given | {"key": given["key"] or secrets.token_hex(16)},
        parameters=parameters(filters),
        selection=selection_words(filters),
        is_everything=not filters.active(),
    )


def _key(sent: FormData) -> tuple[str, bytes] | None:
    """What names this form, so that one sent twice starts one operation, and the hash of what it holds."""
    if not (key := str(sent.get("key", ""))[:64]):
        return None
    return f"form-{key}", hashlib.sha256(repr(sent.multi_items()).encode()).digest()


def _verb(text: str) -> Verb:
    if text not in set(Verb):
        raise InvalidInput(f"action is {text[:40]!r}: expected one of {', '.join(Verb)}")
    return Verb(text)


def _filters(given: QueryParams | FormData) -> JobFilters:
    """The jobs that the query, or the form, names."""
    values: dict[str, Any] = {
        name: given.getlist(name) if name in _LISTS else given[name]
        for name in given
        if name not in FIELDS and name not in LINKED
    }
    try:
        return Selection.model_validate(values).filters(datetime.now(UTC))
    except ValidationError as error:
        raise _refused(error, prefix="") from None


def _request(verb: Verb, given: Mapping[str, str]) -> OperationRequest:
    """What the form asks for; which jobs is added by the caller.

    Raises:
        InvalidInput: a field breaks a rule.
    """
    edit = {
        "payload_merge": _object(given["payload_merge"]),
        "max_retries": _number(given["max_retries"]),
    }
    body: dict[str, Any] = {
        "action": verb,
        "all": given["all"] == "1",
        "edit": None if edit == {"payload_merge": None, "max_retries": None} else edit,
        "run_at": _moment(given["run_at"]),
        "queue": given["queue_to"] or None,
        "priority": _number(given["priority_to"]),
        "rate": _number(given["rate"]),
        "canary": _canary(given),
        "reason": given["reason"] or None,
    }
    try:
        return SelectionIn.model_validate(body).request(datetime.now(UTC))
    except ValidationError as error:
        raise _refused(error, prefix="Not started: ") from None


def _canary(given: Mapping[str, str]) -> dict[str, Any] | None:
    if not given["canary_jobs"]:
        return None
    values = {
        "jobs": _number(given["canary_jobs"]),
        "max_failed_percent": _number(given["canary_percent"]),
        "wait_seconds": _number(given["canary_seconds"]),
    }
    return {name: value for name, value in values.items() if value is not None}


def _number(text: str) -> float | None:
    try:
        value = float(text) if text else None
    except ValueError:
        raise InvalidInput(f"Not started: {text[:40]!r} is not a number") from None
    return int(value) if value is not None and value.is_integer() else value


def _object(text: str) -> Any:
    try:
        return json.loads(text) if text else None
    except (ValueError, RecursionError) as error:
        raise InvalidInput(f"Not started: the change of the payload is not JSON: {error}") from None


def _moment(text: str) -> datetime | None:
    if not text:
        return None
    moment = read_moment(text, now=datetime.now(UTC))
    if moment is None:
        raise InvalidInput(
            f"Not started: {text[:40]!r} is not a time: write 10m, 2h or 3d from now, or a time such as "
            "2026-01-31T09:00Z"
        )
    return moment


def _refused(error: ValidationError, *, prefix: str) -> InvalidInput:
    first = error.errors(include_url=False, include_context=False)[0]
    where = ".".join(str(part) for part in first["loc"])
    return InvalidInput(f"{prefix}{where}: {first['msg']}")
