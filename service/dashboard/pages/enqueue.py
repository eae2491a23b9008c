"""Enqueue a job from a form: its type's own, where its payload has a schema, else JSON.

Who may operate may enqueue, as with a copy of a job; the audit log says who did.
"""

import json
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Annotated, Any, Final

from fastapi import Depends, Query, Request
from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError
from starlette.datastructures import FormData
from starlette.responses import Response

from service import audit
from service.api.actor import acting
from service.api.enqueue_policy import check_allowed, within_quotas
from service.api.new_job_schemas import JobIn
from service.api.patterns import NO_NUL
from service.api.payloads import check_payload
from service.api.request_key import request_key
from service.api.session import AppSettings, Session
from service.auth.principal import Principal
from service.dashboard.access import Operator
from service.dashboard.pages.job_actions import reason_of
from service.dashboard.payload_edit import read_payload
from service.dashboard.payload_form import PREFIX, Field, fields_of, read
from service.dashboard.rendering import flash, render, see
from service.dashboard.route import form, page_router
from service.errors import Conflict, FinMindError, Forbidden, InvalidInput, QuotaExceeded
from service.jobs.core.job import DEFAULT_PRIORITY, HIGHEST_PRIORITY, LOWEST_PRIORITY
from service.jobs.core.job_types import DEFAULTS, policies
from service.jobs.core.search_times import read_moment
from service.jobs.enqueue.idempotency import submit
from service.jobs.handlers.published import schema_text
from service.jobs.read.job_types import ServedType, served_types

router = page_router()

PATH: Final = "/dashboard/enqueue"
BOXES: Final = (
    "queue", "priority", "due", "unique_key", "on_conflict", "max_retries", "reason", "payload",
)  # fmt: skip
POLICIES: Final = {
    "return": "leave it as it is",
    "reject": "refuse this one",
    "replace": "give it these values while it waits",
    "extend": "put it off while it waits",
    "keep_latest": "give it these values while it waits; wait for its end while it runs",
}
"""In words what `on_conflict` does with the job that has the key."""

WHOLE: Final = "payload"
"""The box of a payload that is written as JSON."""

TypeName = Annotated[str, Query(alias="type", max_length=100, pattern=NO_NUL)]


@dataclass(frozen=True, slots=True)
class Enqueue:
    """What `enqueue.html` shows."""

    types: list[str]
    job_type: str
    fields: list[Field] | None
    """The boxes of its payload; None: it is written as JSON."""
    has_schema: bool
    is_served: bool
    as_json: bool
    given: Mapping[str, str]
    key: str
    """Names this form: sent twice, it enqueues once."""
    errors: Mapping[str, str] = field(default_factory=dict)
    """What is wrong, by the name of the box; under an empty name what belongs to none."""
    priorities: range = range(HIGHEST_PRIORITY, LOWEST_PRIORITY + 1)
    default_priority: int = DEFAULT_PRIORITY
    policies: Mapping[str, str] = field(default_factory=lambda: POLICIES)

    def held(self, box: str, default: str = "") -> str:
        """What a box held when the form was sent."""
        return self.given.get(box, default)

    def error(self, box: str) -> str | None:
        """What is wrong with a box."""
        return self.errors.get(box)


class _Refused(Exception):
    """What the form holds cannot be enqueued."""

    def __init__(self, errors: dict[str, str], *, status: int = 422) -> None:
        super().__init__(str(errors))
        self.errors = errors
        self.status = status


_DONE: Final = {
    "replace": "was waiting: it has these values now",
    "extend": "was waiting: it is put off",
    "keep_latest": "was waiting: it has these values now",
}
"""What became of the job that had the key, where that is not just the answer."""


@router.get("/enqueue")
async def show_enqueue(
    request: Request,
    _: Operator,
    session: Session,
    job_type: TypeName = "",
    as_json: Annotated[str, Query(max_length=10)] = "",
) -> Response:
    """The choice of a type, then the form of that type."""
    page = _page(await served_types(session), job_type, {}, as_json=bool(as_json))
    return render(request, "enqueue.html", page=page)


@router.post("/enqueue")
async def enqueue(
    request: Request,
    operator: Operator,
    session: Session,
    settings: AppSettings,
    sent: Annotated[FormData, Depends(form)],
) -> Response:
    """Enqueue the job, or show the form again with what is wrong."""
    given = {name: str(value) for name, value in sent.items()}
    page = _page(await served_types(session), given.get("type", ""), given, as_json=WHOLE in given)
    try:
        job_id, made = await _enqueue(request, session, page, operator, settings, sent)
    except _Refused as refused:
        shown = _page_with(page, refused.errors)
        return render(request, "enqueue.html", page=shown, status=refused.status)
    done = _DONE.get(given.get("on_conflict", ""), "was there already: nothing new")
    words = f"Job {job_id} is enqueued" if made else f"Job {job_id} {done}"
    return flash(see(request, f"/dashboard/jobs/{job_id}"), words)


async def _enqueue(
    request: Request,
    session: Session,
    page: Enqueue,
    operator: Principal,
    settings: AppSettings,
    sent: FormData,
) -> tuple[int, bool]:
    """The job's id, and whether it is new.

    Raises:
        _Refused: it cannot be enqueued as it is.
    """
    body = _body(page)
    job = body.to_new_job()
    model = body.model_dump()
    # What the boxes hold is in the body as well, which hides what is to be encrypted.
    boxes = dict(page.given) if body.sealing() is None else model
    key = request_key(
        boxes, model=model, jobs=[body], kind=None, owner=operator.subject, key=f"form-{page.key}"
    )
    try:
        check_allowed(operator, [job])
        check_payload(body)
        # In a savepoint: what is refused leaves no trace of its key.
        async with await within_quotas(request, operator, [job]), session.begin_nested():
            made = await submit(session, [job], caller=operator.subject, settings=settings, key=key)
    except RequestValidationError as error:
        raise _Refused(_by_box(error.errors(), page, skip=1)) from None
    except (Conflict, Forbidden, InvalidInput, QuotaExceeded) as error:
        raise _Refused({_box_of(error, page): _words_of(error)}, status=error.status) from None
    if made.created:
        await audit.record(
            session, acting(request, operator), "job.enqueue", subject_type="job",
            subject_id=str(made.ids[0]), after={"job_type": job.job_type, "queue": job.queue},
            reason=reason_of(sent),
        )  # fmt: skip
    return made.ids[0], made.created > 0


def _body(page: Enqueue) -> JobIn:
    """The request that the form stands for.

    Raises:
        _Refused: a box holds what it may not.
    """
    given, errors = page.given, {}
    values: dict[str, Any] = {"job_type": page.job_type}
    if page.fields is None:
        text = given.get(WHOLE, "").strip()
        try:
            values["payload"] = read_payload(text, job_type="") if text else {}
        except InvalidInput as error:
            errors[WHOLE] = error.detail
    else:
        values["payload"], errors = read(page.fields, given)
    for name in ("queue", "unique_key", "on_conflict", "priority", "max_retries"):
        if text := given.get(name, "").strip():
            values[name] = int(text) if _is_number(name, text) else text
    if text := given.get("due", "").strip():
        moment = read_moment(text, now=datetime.now(UTC))
        if moment is None:
            errors["due"] = (
                f"{text[:60]!r} is not a time: write 10m, 2h or 3d, or 2026-01-31T09:00Z"
            )
        else:
            values["run_at"] = moment
    try:
        body = JobIn.model_validate(values)
    except ValidationError as error:
        errors = _by_box(error.errors(include_url=False, include_context=False), page) | errors
    if errors:
        raise _Refused(errors)
    return body


def _is_number(name: str, text: str) -> bool:
    return (
        name in {"priority", "max_retries"} and text.isascii() and text.isdigit() and len(text) < 9
    )


def _by_box(errors: Sequence[Any], page: Enqueue, *, skip: int = 0) -> dict[str, str]:
    """What is wrong, beside the box that it is about."""
    boxes = {one.box for one in page.fields or ()}
    found: dict[str, str] = {}
    for error in errors:
        path = [str(part) for part in error["loc"]][skip:]
        name = _BOXES.get(path[0], path[0]) if path else ""
        words = str(error["msg"]).removeprefix("Value error, ")
        if name == WHOLE and len(path) > 1 and PREFIX + path[1] in boxes:
            name, path = PREFIX + path[1], path[1:]
        if len(path) > 1:
            words = f"{'.'.join(path[1:])}: {words}"
        found.setdefault(name if name in boxes or name in BOXES else "", words)
    return found


_BOXES: Final = {"run_at": "due", "job_type": "type"}


def _box_of(error: FinMindError, page: Enqueue) -> str:
    name = (getattr(error, "field", None) or "").rpartition(".")[2]
    name = _BOXES.get(name, name)
    if name == WHOLE and page.fields is not None:
        return ""
    return name if name in BOXES else ""


def _words_of(error: FinMindError) -> str:
    if isinstance(error, Conflict) and "Idempotency-Key" in error.detail:
        return (
            "This form was sent before, with other values, and its job was enqueued. Send it again "
            "to enqueue this one as well"
        )
    return error.detail


def _page(
    types: list[ServedType], job_type: str, given: Mapping[str, str], *, as_json: bool
) -> Enqueue:
    job_type = job_type.strip()
    schemas = {one.job_type: one.schema for one in types}
    schemas |= {name: schema for name in policies if (schema := _own_schema(name)) is not None}
    offered = {one.job_type for one in types} | policies.keys()
    fields = fields_of(schemas.get(job_type))
    return Enqueue(
        types=sorted(name for name in offered if not policies.get(name, DEFAULTS).internal),
        job_type=job_type,
        fields=None if as_json else fields,
        has_schema=fields is not None,
        is_served=job_type in offered,
        as_json=as_json,
        given=given,
        key=given.get("key", "")[:64] or secrets.token_hex(16),
    )


def _own_schema(job_type: str) -> dict[str, Any] | None:
    text = schema_text(policies.get(job_type, DEFAULTS).payload_model)
    return None if text is None else json.loads(text)


def _page_with(page: Enqueue, errors: dict[str, str]) -> Enqueue:
    """The form with what is wrong; under another name, since this one may be taken."""
    return replace(page, errors=errors, key=secrets.token_hex(16))
