"""Every error of the application becomes a problem here, and nowhere else."""

from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import Final

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.routing import iter_route_contexts
from sqlalchemy.exc import SQLAlchemyError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.routing import Match

from service.api.body import BodyRefused
from service.api.head import METHODS
from service.api.outages import database_problem, sqlstate_of
from service.api.problems import problem_response, request_id_of
from service.api.refusals import MAX_ERRORS, body_is_no_json, field_path, refused_values
from service.api.refused_attempts import note_refused_attempt
from service.db.errors import DATABASE_ERRORS
from service.errors import (
    FinMindError,
    Forbidden,
    InvalidInput,
    QuotaExceeded,
    TooManyFailures,
    Unauthenticated,
    Unavailable,
)
from service.observability.logging import get_logger
from service.observability.metrics import record_database_error

REALM: Final = "finmind-jobs"
MAX_TEXT: Final = 500
_NUMBERS: Final = frozenset({"job_id", "reminder_id"})
"""Parameters of paths that are whole numbers."""

_log = get_logger(__name__)


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
    for kind, answer in _handlers().items():
        app.add_exception_handler(kind, answer)


async def problem_of(request: Request, error: Exception) -> Response:
    """The problem that an error is answered with, for pages that show it in another way.

    Raises:
        Exception: the error itself, where nobody expected it.
    """
    for kind, answer in _handlers().items():
        if isinstance(error, kind):
            return await answer(request, error)
    raise error


def _handlers() -> dict[type[Exception], Callable[[Request, Exception], Awaitable[Response]]]:
    return {
        FinMindError: _on_finmind_error,
        HTTPException: _on_http_exception,
        RequestValidationError: _on_invalid_request,
        ClientDisconnect: _on_disconnect,
        SQLAlchemyError: _on_database_error,
        **dict.fromkeys(DATABASE_ERRORS, _on_database_error),
    }


async def _on_finmind_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, FinMindError)
    if error.status >= HTTPStatus.INTERNAL_SERVER_ERROR and not isinstance(error, Unavailable):
        raise error
    if isinstance(error, Forbidden):
        await note_refused_attempt(request, request.scope.get("principal"), error)
    headers: dict[str, str] = {}
    challenge = www_authenticate(error)
    if challenge is not None:
        headers["WWW-Authenticate"] = challenge
    if isinstance(error, Unavailable | TooManyFailures | QuotaExceeded):
        headers["Retry-After"] = str(error.retry_after_seconds)
    errors = None
    if isinstance(error, InvalidInput):
        field = {"field": field_path(error.field), "message": error.detail, "type": error.slug}
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


async def _on_http_exception(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED and _names_nothing(request):
        error = HTTPException(404, "Not Found")
    headers = dict(error.headers or {})
    if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
        # RFC 9110 §10.2.1: what the resource takes; Starlette names what one of its routes takes.
        headers["Allow"] = ", ".join(_methods_of(request))
    return problem_response(
        error.status_code,
        _http_detail(request, error),
        headers=headers,
        request_id=request_id_of(request),
        errors=_whole_body(error),
    )


def _names_nothing(request: Request) -> bool:
    """Whether the path has a word instead of an id, such as `/admin/jobs/retry`."""
    return any(
        name in _NUMBERS and not value.isdecimal() for name, value in request.path_params.items()
    )


def _whole_body(error: HTTPException) -> list[dict[str, str]] | None:
    """As for every other 422: the list of what was refused, here the body as a whole."""
    if not isinstance(error, BodyRefused) or error.status_code != HTTPStatus.UNPROCESSABLE_ENTITY:
        return None
    return [{"field": "body", "message": error.detail, "type": "body_refused"}]


async def _on_disconnect(_request: Request, _error: Exception) -> Response:
    # Nobody reads it; the log and the metrics distinguish it from an error of ours.
    return Response(status_code=499)


def _methods_of(request: Request) -> list[str]:
    """The methods that the resource at the path of `request` takes."""
    routes = request.app.router.routes
    scope, path = request.scope, request.scope["path"].removeprefix(request.scope["root_path"])
    # `/jobs/batch` is one of its own, and not the job whose id is `batch`.
    exact = [context for context in iter_route_contexts(routes) if context.path == path]
    if exact:
        return sorted({method for context in exact for method in context.methods or ()})
    return [
        method
        for method in sorted(METHODS)
        if any(route.matches({**scope, "method": method})[0] is Match.FULL for route in routes)
    ]


def _http_detail(request: Request, error: HTTPException) -> str:
    path = request.url.path[:MAX_TEXT]
    if error.status_code == HTTPStatus.NOT_FOUND and error.detail == HTTPStatus.NOT_FOUND.phrase:
        if _names_nothing(request):
            return f"There is nothing at {path}: expected the number of one, such as 42, for an id"
        return f"There is nothing at {path}"
    if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
        return f"{path} does not take {request.method}"
    if error.status_code == HTTPStatus.BAD_REQUEST:
        # FastAPI gives no details of a body that it could not read.
        return "The body cannot be read: send JSON in UTF-8, with numbers of at most 4,300 digits"
    return str(error.detail)


async def _on_invalid_request(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    found = error.errors()
    if body_is_no_json(request, found):
        return problem_response(
            415,
            "Send the body as JSON, with the header Content-Type: application/json",
            request_id=request_id_of(request),
        )
    errors = refused_values(request, found)
    first = errors[0]
    count = f"More than {MAX_ERRORS}" if len(found) > MAX_ERRORS else str(len(found))
    words = "Invalid value" if len(found) == 1 else f"{count} values are invalid; the first"
    return problem_response(
        422,
        f"{words}: {first['field']}: {first['message']}",
        request_id=request_id_of(request),
        errors=errors,
    )


async def _on_database_error(request: Request, error: Exception) -> Response:
    problem = database_problem(error, request)
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
