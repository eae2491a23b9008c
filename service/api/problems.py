"""Errors as `application/problem+json` (RFC 9457): the one place that maps them to HTTP."""

from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any, Final

import asyncpg
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response

from service.auth.dependencies import RequirePermission
from service.db.engine import DATABASE_ERRORS
from service.errors import (
    FinMindError,
    Forbidden,
    InvalidInput,
    Unauthenticated,
    Unavailable,
)
from service.observability.logging import get_logger
from service.observability.metrics import record_database_error

MEDIA_TYPE: Final = "application/problem+json"
TYPE_PREFIX: Final = "urn:finmind-jobs:problem:"
REALM: Final = "finmind-jobs"
MAX_ERRORS: Final = 50
MAX_TEXT: Final = 500
RETRY_AFTER_SECONDS: Final = 2

# SQLSTATE classes and codes that pass by themselves: connection, resources, operator, conflict of
# transactions, a standby, a role or database that is just being set up. The rest are our mistakes.
_PASSING_CLASSES: Final = frozenset({"08", "53", "57", "58", "40", "28"})
_PASSING_CODES: Final = frozenset({"55P03", "25006", "3D000"})
_QUERY_CANCELED: Final = "57014"

_TOO_SLOW: Final = (
    "The database did not answer in time. Narrow the filter (a status, a job type, a shorter "
    "period), or try again when it is less busy."
)
_DOWN: Final = "The database cannot answer just now. Try again shortly."

_log = get_logger(__name__)


class FieldError(BaseModel):
    """One value that was refused."""

    field: str = Field(description="Path of the value: `body.jobs.3.priority`.")
    message: str = Field(description="What was expected.")
    type: str = Field(description="A stable word for the kind of error.")


class Problem(BaseModel):
    """An error, as RFC 9457 shapes it."""

    model_config = ConfigDict(
        json_schema_extra={
            "example": {
                "type": f"{TYPE_PREFIX}not-found",
                "title": "Not found",
                "status": 404,
                "detail": "There is no job 42.",
                "request_id": "5f0c1d2e3b4a5968",
            }
        }
    )

    type: str = Field(description="Stable identifier of the kind of problem.")
    title: str = Field(description="The kind of problem in words.")
    status: int = Field(description="The HTTP status.")
    detail: str = Field(description="What is wrong with this request and what to do.")
    request_id: str | None = Field(
        None, description="Names this request in the logs; also in the header X-Request-ID."
    )
    errors: list[FieldError] | None = Field(None, description="Every refused value, for 422.")


_SLUGS: Final[dict[int, tuple[str, str]]] = {
    400: ("bad-request", "Bad request"),
    401: ("not-authenticated", "Not authenticated"),
    403: ("not-allowed", "Not allowed"),
    404: ("not-found", "Not found"),
    405: ("method-not-allowed", "Method not allowed"),
    408: ("request-timeout", "Request time-out"),
    409: ("conflict", "Conflict"),
    413: ("body-too-large", "Body too large"),
    415: ("unsupported-media-type", "Unsupported media type"),
    422: ("invalid-input", "Invalid input"),
    500: ("internal-error", "Internal error"),
    501: ("not-implemented", "Not implemented"),
    503: ("unavailable", "Unavailable"),
}
_EXAMPLES: Final[dict[int, str]] = {
    401: "The token has expired.",
    403: "This needs the permission admin:operate.",
    404: "There is no job 42.",
    409: "Job 42 is RUNNING: only a DEAD_LETTER or FAILED job can be retried.",
    413: "The body is over 1048576 bytes.",
    422: "One value was refused.",
    503: _DOWN,
}


def problem_body(
    status: int,
    detail: str,
    *,
    request_id: str | None,
    title: str | None = None,
    slug: str | None = None,
    errors: Sequence[Mapping[str, str]] | None = None,
) -> dict[str, Any]:
    """The document of one problem."""
    known = _SLUGS.get(status)
    body: dict[str, Any] = {
        "type": TYPE_PREFIX + (slug or (known[0] if known else f"http-{status}")),
        "title": title or (known[1] if known else HTTPStatus(status).phrase),
        "status": status,
        "detail": detail,
        "request_id": request_id,
    }
    if errors is not None:
        body["errors"] = list(errors)
    return body


def problem_response(
    status: int, detail: str, *, headers: Mapping[str, str] | None = None, **members: Any
) -> Response:
    """The answer that carries one problem."""
    body = problem_body(status, detail, **members)
    return JSONResponse(
        body, status_code=status, headers=dict(headers or {}), media_type=MEDIA_TYPE
    )


def problem_responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """`responses=` of a route: the problems that it may answer with, for OpenAPI."""
    responses: dict[int | str, dict[str, Any]] = {}
    for status in statuses:
        slug, title = _SLUGS[status]
        example = problem_body(
            status, _EXAMPLES.get(status, title), request_id="5f0c1d2e3b4a5968", slug=slug
        )
        if status == HTTPStatus.UNPROCESSABLE_ENTITY:
            example["errors"] = [
                {"field": "body.priority", "message": "expected 0 to 9", "type": "less_than_equal"}
            ]
        responses[status] = {
            "description": title,
            "content": {
                MEDIA_TYPE: {
                    "schema": {"$ref": "#/components/schemas/Problem"},
                    "example": example,
                }
            },
        }
    return responses


def request_id_of(request: Request) -> str | None:
    """The id that the middleware gave the request."""
    request_id: str | None = request.scope.get("request_id")
    return request_id


def www_authenticate(error: FinMindError) -> str | None:
    """The challenge of RFC 6750 §3 for a refused credential."""
    if isinstance(error, Unauthenticated):
        challenge = f'Bearer realm="{REALM}"'
        return challenge + ', error="invalid_token"' if error.credential_given else challenge
    if isinstance(error, Forbidden):
        challenge = f'Bearer realm="{REALM}", error="insufficient_scope"'
        return f'{challenge}, scope="{error.scope}"' if error.scope else challenge
    return None


def register_problem_handlers(app: FastAPI) -> None:
    """Answer every error of this application as a problem."""
    app.add_exception_handler(FinMindError, _on_finmind_error)
    app.add_exception_handler(HTTPException, _on_http_exception)
    app.add_exception_handler(RequestValidationError, _on_invalid_request)
    app.add_exception_handler(SQLAlchemyError, _on_database_error)
    for kind in DATABASE_ERRORS:
        app.add_exception_handler(kind, _on_database_error)


async def _on_finmind_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, FinMindError)
    if error.status >= HTTPStatus.INTERNAL_SERVER_ERROR and not isinstance(error, Unavailable):
        raise error
    headers: dict[str, str] = {}
    challenge = www_authenticate(error)
    if challenge is not None:
        headers["WWW-Authenticate"] = challenge
    if isinstance(error, Unavailable):
        headers["Retry-After"] = str(error.retry_after_seconds)
    errors = None
    if isinstance(error, InvalidInput):
        field = {"field": error.field or "body", "message": error.detail, "type": error.slug}
        errors = [field]
    return problem_response(
        error.status,
        error.detail,
        headers=headers,
        request_id=request_id_of(request),
        title=error.title,
        slug=error.slug,
        errors=errors,
    )


async def _refusal_of_policy(request: Request) -> Response | None:
    """The 401 or 403 that comes before any word about the body.

    FastAPI parses JSON before it asks for credentials; who may not send a body is not told what is
    wrong with it.
    """
    dependant = getattr(request.scope.get("route"), "dependant", None)
    for dependency in getattr(dependant, "dependencies", ()):
        if isinstance(dependency.call, RequirePermission):
            try:
                await dependency.call.authorise(request)
            except FinMindError as refused:
                return await _on_finmind_error(request, refused)
    return None


async def _on_http_exception(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    if error.status_code == HTTPStatus.BAD_REQUEST:
        # FastAPI says so of a body that it could not parse.
        refusal = await _refusal_of_policy(request)
        if refusal is not None:
            return refusal
    return problem_response(
        error.status_code,
        _http_detail(request, error),
        headers=error.headers,
        request_id=request_id_of(request),
    )


def _http_detail(request: Request, error: HTTPException) -> str:
    path = request.url.path[:MAX_TEXT]
    if error.status_code == HTTPStatus.NOT_FOUND and error.detail == HTTPStatus.NOT_FOUND.phrase:
        return f"There is nothing at {path}."
    if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
        return f"{path} does not take {request.method}."
    return str(error.detail)


async def _on_invalid_request(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    refusal = await _refusal_of_policy(request)
    if refusal is not None:
        return refusal
    found = error.errors()
    errors = [
        {
            "field": ".".join(str(part) for part in item["loc"])[:MAX_TEXT],
            "message": _message(item)[:MAX_TEXT],
            "type": str(item["type"]),
        }
        for item in found[:MAX_ERRORS]
    ]
    count = "One value was" if len(found) == 1 else f"{len(found)} values were"
    first = errors[0]
    return problem_response(
        422,
        f"{count} refused; the first: {first['field']}: {first['message']}",
        request_id=request_id_of(request),
        errors=errors,
    )


def _message(item: Mapping[str, Any]) -> str:
    if item["type"] == "json_invalid":
        return f"The body is not JSON: {item.get('ctx', {}).get('error', 'malformed')}"
    return str(item["msg"]).removeprefix("Value error, ")


def sqlstate_of(error: BaseException) -> str | None:
    """The SQLSTATE of a database error, through SQLAlchemy's wrapping."""
    cause: BaseException | None = error
    for _ in range(4):
        if isinstance(cause, DBAPIError):
            cause = cause.orig
        code = getattr(cause, "sqlstate", None)
        if isinstance(code, str):
            return code
        cause = getattr(cause, "__cause__", None)
    return None


def database_problem(error: BaseException) -> Unavailable | None:
    """What to answer when the database failed; None where the fault is ours."""
    if isinstance(error, PoolTimeoutError):
        return Unavailable(
            "Every database connection of this process is busy. Try again shortly.",
            retry_after_seconds=RETRY_AFTER_SECONDS,
        )
    code = sqlstate_of(error)
    root = error.orig if isinstance(error, DBAPIError) else error
    if code == _QUERY_CANCELED or isinstance(root, TimeoutError):
        return Unavailable(_TOO_SLOW, retry_after_seconds=RETRY_AFTER_SECONDS)
    passing = (
        isinstance(root, OSError)
        or (isinstance(error, DBAPIError) and error.connection_invalidated)
        or (code is not None and (code[:2] in _PASSING_CLASSES or code in _PASSING_CODES))
        or _is_closed_connection(root)
    )
    return Unavailable(_DOWN, retry_after_seconds=RETRY_AFTER_SECONDS) if passing else None


def _is_closed_connection(root: BaseException | None) -> bool:
    # asyncpg says "connection is closed" with the class that it uses for wrong calls too; those
    # of the arguments (DataError) are ValueErrors.
    cause = root
    for _ in range(3):
        if isinstance(cause, asyncpg.InterfaceError) and not isinstance(cause, ValueError):
            return "clos" in str(cause)
        cause = getattr(cause, "__cause__", None)
    return False


async def _on_database_error(request: Request, error: Exception) -> Response:
    problem = database_problem(error)
    if problem is None:
        raise error
    record_database_error("request")
    _log.warning(
        "database_unavailable",
        path=request.url.path,
        error_type=type(error).__name__,
        sqlstate=sqlstate_of(error),
    )
    return await _on_finmind_error(request, problem)
