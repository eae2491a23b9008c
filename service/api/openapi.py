"""The OpenAPI document: FastAPI's, with our error shapes in place of its own."""

import json
from collections.abc import Iterator, Mapping
from typing import Any, Final

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from fastapi.routing import APIRoute, iter_route_contexts
from pydantic import BaseModel

from service.api.links import LINKS
from service.api.problems import Problem, problem_responses
from service.auth.dependencies import RequirePermission
from service.auth.principal import Permission
from service.jobs.core.job import MAX_ID

TAGS: Final = [
    {"name": "Jobs", "description": "For clients: enqueue jobs and follow them."},
    {"name": "Batches", "description": "For clients: jobs that are counted together."},
    {"name": "Schedules", "description": "Rules that enqueue a job at each tick."},
    {
        "name": "Workers",
        "description": "For workers in any language: claim jobs, keep them, report what became of them.",
    },
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
_BOUNDS: Final = frozenset({"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"})


def use_problem_schemas(app: FastAPI, *, root_path: str) -> None:
    """Make the application's OpenAPI document describe problems on every operation."""

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
            _complete(app, document)
            app.openapi_schema = document
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]  # FastAPI's documented way to extend it


def _complete(app: FastAPI, document: dict[str, Any]) -> None:
    schemas = document.setdefault("components", {}).setdefault("schemas", {})
    problem = Problem.model_json_schema(ref_template=_REFERENCES)
    schemas.update(problem.pop("$defs", {}))
    schemas["Problem"] = problem
    for name in ("HTTPValidationError", "ValidationError"):
        schemas.pop(name, None)
    for model in _models(BaseModel):
        extra = model.model_config.get("json_schema_extra")
        if model.__name__ in schemas and isinstance(extra, dict) and "examples" in extra:
            # FastAPI leaves out what is null, and members that must be there with it.
            schemas[model.__name__]["examples"] = extra["examples"]
    for schema in schemas.values():
        _move_defaults(schema)
    permissions, answers = _permissions(app), _answers(app)
    for operations in document.get("paths", {}).values():
        for operation in operations.values():
            _complete_operation(operation, permissions.get(operation["operationId"]))
            _restore_nulls(operation, answers.get(operation["operationId"], {}))
    _restore_integers(document)


def _answers(app: FastAPI) -> dict[str, dict[int | str, dict[str, Any]]]:
    """The answers of each operation as its route declares them."""
    return {
        route.operation_id: route.responses
        for context in iter_route_contexts(app.routes)
        if isinstance(route := context.route, APIRoute) and route.operation_id
    }


def _restore_nulls(
    operation: dict[str, Any], answers: Mapping[int | str, Mapping[str, Any]]
) -> None:
    """Give examples back their members that are null: FastAPI leaves them out."""
    for status, answer in answers.items():
        for media, content in answer.get("content", {}).items():
            if "examples" in content:
                shown = operation["responses"][str(status)]["content"][media]
                shown["examples"] = content["examples"]


def _models(base: type[BaseModel]) -> Iterator[type[BaseModel]]:
    for model in base.__subclasses__():
        if model.__module__.startswith("service."):
            yield model
        yield from _models(model)


def _move_defaults(schema: dict[str, Any]) -> None:
    """Describe defaults in words: client generators make a member with a default a required one."""
    for name, member in schema.get("properties", {}).items():
        if "default" in member:
            value = member.pop("default")
            if name not in schema.get("required", ()):
                words = member.get("description", "")
                member["description"] = f"{words} Default: {json.dumps(value)}.".strip()


def _permissions(app: FastAPI) -> dict[str, Permission]:
    return {
        context.operation_id: dependency.call.permission
        for context in iter_route_contexts(app.routes)
        for dependency in getattr(getattr(context, "dependant", None), "dependencies", ())
        if isinstance(dependency.call, RequirePermission)
    }


def _complete_operation(operation: dict[str, Any], permission: Permission | None) -> None:
    responses = operation.setdefault("responses", {})
    wanted = [400, 500]
    if permission is None:
        operation["security"] = []
    else:
        wanted += [401, 429]
        words = operation.get("description", "")
        operation["description"] = f"{words}\n\nNeeds the permission `{permission}`.".strip()
        detail = f"This needs the permission {permission}"
        responses["403"] = problem_responses(403, detail=detail)[403]
    if "requestBody" in operation:
        wanted += [408, 413, 415]
    if "application/json" in responses.get("422", {}).get("content", {}):
        # FastAPI's own, with a shape that we never send.
        del responses["422"]
        wanted.append(422)
    for status, response in problem_responses(*wanted).items():
        responses.setdefault(str(status), response)
    for status, links in LINKS.get(operation["operationId"], {}).items():
        responses[status]["links"] = links


def _restore_integers(part: Any) -> None:
    """FastAPI writes the bounds of integers as floats, and the largest of them as another number."""
    if isinstance(part, list):
        for item in part:
            _restore_integers(item)
    elif isinstance(part, dict):
        for name in _BOUNDS & part.keys() if part.get("type") == "integer" else ():
            # 2^63 is what a float makes of the largest id.
            part[name] = min(int(part[name]), MAX_ID)
        for item in part.values():
            _restore_integers(item)
