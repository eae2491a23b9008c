"""What the tests of the API look at again and again."""

from typing import Any

import httpx
from fastapi import FastAPI
from sqlalchemy import text

TITLES = {
    400: "Bad request",
    401: "Not authenticated",
    403: "Not allowed",
    404: "Not found",
    409: ("Conflict", "Unique key held"),
    412: "Outdated",
    413: "Body too large",
    415: "Unsupported media type",
    422: ("Invalid input", "Payload not storable"),
    429: "Quota exceeded",
    503: "Unavailable",
}


def assert_problem(answer: httpx.Response, status: int) -> dict[str, Any]:
    """The problem that `answer` carries, which must have the status and every member."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    problem: dict[str, Any] = answer.json()
    assert problem["status"] == status
    assert problem["title"] in TITLES[status]
    assert problem["type"].startswith("urn:")
    assert problem["detail"]
    assert problem["request_id"] == answer.headers["x-request-id"]
    if status == 422:
        assert all(error["field"] and error["message"] for error in problem["errors"])
        assert problem["errors"]
    return problem


async def jobs_in(app: FastAPI) -> list[int]:
    """The ids of every job, in order."""
    async with app.state.service.database.engine.connect() as connection:
        found = await connection.scalars(text("SELECT id FROM background_jobs ORDER BY id"))
        return list(found)
