"""What an error looks like over HTTP: `application/problem+json` (RFC 9457)."""

from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any, Final

from fastapi import Request
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import JSONResponse, Response

MEDIA_TYPE: Final = "application/problem+json"
TYPE_PREFIX: Final = "urn:finmind-jobs:problem:"


class FieldError(BaseModel):
    """One value that was refused."""

    field: str = Field(description="Path of the value: `body.jobs.3.priority`.")
    message: str = Field(description="What was expected.")
    type: str = Field(description="A stable word for the kind of error.")


class Problem(BaseModel):
    """An error in the shape of RFC 9457."""

    model_config = ConfigDict(
        json_schema_extra={
            "example": {
                "type": f"{TYPE_PREFIX}not-found",
                "title": "Not found",
                "status": 404,
                "detail": "There is no job 42",
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
    408: ("request-timeout", "Request timeout"),
    409: ("conflict", "Conflict"),
    412: ("outdated", "Outdated"),
    413: ("body-too-large", "Body too large"),
    415: ("unsupported-media-type", "Unsupported media type"),
    422: ("invalid-input", "Invalid input"),
    429: ("quota-exceeded", "Quota exceeded"),
    500: ("internal-error", "Internal error"),
    501: ("not-implemented", "Not implemented"),
    503: ("unavailable", "Unavailable"),
}
EXAMPLES: Final[dict[int, str]] = {
    400: "The header Idempotency-Key was sent twice: send it once",
    401: "The token has expired",
    404: "There is no job 42",
    409: "Job 42 is RUNNING: only DEAD_LETTER and FAILED jobs can be retried by hand",
    408: "The body did not arrive within 30 s",
    412: 'Job 42 has changed: it is PENDING now, in version "81524", and If-Match names "81519". Read it '
    "again, and send the change with the ETag that you get, or without If-Match",
    413: "The body is over 1048576 bytes",
    422: "Invalid value: body.priority: expected 0 to 9",
    415: "Send the body as JSON, with the header Content-Type: application/json",
    429: "You may use 300 requests each minute (USER_REQUESTS_PER_MINUTE), and this would be more: "
    "wait 12 s",
    503: "The database cannot answer just now. Try again shortly.",
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


def problem_responses(*statuses: int, detail: str | None = None) -> dict[int | str, dict[str, Any]]:
    """`responses=` of a route: the problems that it may answer with, for OpenAPI.

    `detail` is an example of what the problem says.
    """
    responses: dict[int | str, dict[str, Any]] = {}
    for status in statuses:
        slug, title = _SLUGS[status]
        example = problem_body(
            status,
            detail or EXAMPLES.get(status, title),
            request_id="5f0c1d2e3b4a5968",
            slug=slug,
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
