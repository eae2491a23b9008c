"""The OpenAPI document: FastAPI's, with our error shapes in place of its own."""

from typing import Any, Final

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from service.api.problems import Problem, problem_responses

TAGS: Final = [
    {"name": "Jobs", "description": "For clients: enqueue jobs and follow them."},
    {
        "name": "Admin",
        "description": "For operators: what is failing, since when, why, and how to repair it.",
    },
    {"name": "Reminders", "description": "Messages to be sent at a time, each user their own."},
    {"name": "Health", "description": "For the platform: liveness, readiness, metrics."},
]
DESCRIPTION: Final = """
Background jobs on PostgreSQL: enqueue over REST, Python or SQL; retries with backoff, dead letters,
an admin API and metrics.

**Authorize** with a bearer token (`python -m service token --role admin` prints one) or an API key.
Errors are `application/problem+json` (RFC 9457); times are ISO 8601 in UTC.
"""

_REFERENCES: Final = "#/components/schemas/{model}"


def use_problem_schemas(app: FastAPI, *, root_path: str) -> None:
    """Make the application's OpenAPI document tell of problems, on every operation."""

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            document = get_openapi(
                title=app.title,
                version=app.version,
                summary=app.summary,
                description=app.description,
                routes=app.routes,
                tags=app.openapi_tags,
                servers=[{"url": root_path or "/"}],
            )
            _complete(document)
            app.openapi_schema = document
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]  # FastAPI's documented way to extend it


def _complete(document: dict[str, Any]) -> None:
    schemas = document.setdefault("components", {}).setdefault("schemas", {})
    problem = Problem.model_json_schema(ref_template=_REFERENCES)
    schemas.update(problem.pop("$defs", {}))
    schemas["Problem"] = problem
    for operations in document.get("paths", {}).values():
        for operation in operations.values():
            _complete_operation(operation)
    for name in ("HTTPValidationError", "ValidationError"):
        schemas.pop(name, None)


def _complete_operation(operation: dict[str, Any]) -> None:
    responses = operation.setdefault("responses", {})
    wanted = [500]
    if "security" in operation:
        wanted += [401, 403, 429]
    if "requestBody" in operation:
        wanted += [400, 408, 413, 415]
    if "application/json" in responses.get("422", {}).get("content", {}):
        # FastAPI's own, with a shape that we never send.
        del responses["422"]
        wanted.append(422)
    for status, response in problem_responses(*wanted).items():
        responses.setdefault(str(status), response)
