"""GET /admin/jobs/{job_id}/logs."""

import httpx
import pytest
from fastapi import FastAPI
from sqlalchemy import text

from tests.api.conftest import Auth
from tests.jobs.rows import add

pytestmark = pytest.mark.whole

LINES = text("""
INSERT INTO job_logs
SELECT :id, 9, n, 1, '2026-03-01T09:00:00Z', 'info', 'line ' || n, '{"n": 1}'
FROM generate_series(1, 5) n""")


@pytest.fixture
async def logged(app: FastAPI) -> int:
    """A job with five lines."""
    async with app.state.service.database.sessions.begin() as session:
        job_id = await add(session)
        await session.execute(LINES, {"id": job_id})
    return job_id


async def test_lines_are_read_page_by_page_and_then_as_they_come(
    client: httpx.AsyncClient, auth: Auth, logged: int
) -> None:
    seen: list[str] = []
    after = None
    for _ in range(4):
        params = {"limit": "2"} | ({} if after is None else {"after": after})
        answer = await client.get(
            f"/admin/jobs/{logged}/logs", params=params, headers=auth("viewer")
        )
        assert answer.status_code == 200
        seen += [line["message"] for line in answer.json()["lines"]]
        after = answer.json()["next_after"]
    assert seen == [f"line {n}" for n in range(1, 6)]
    assert after == "9.5"
    first = await client.get(f"/admin/jobs/{logged}/logs?limit=1", headers=auth("viewer"))
    assert first.json()["lines"] == [
        {
            "position": "9.1", "attempt": 1, "at": "2026-03-01T09:00:00Z", "level": "info",
            "message": "line 1", "fields": {"n": 1},
        }
    ]  # fmt: skip


async def test_a_job_that_logged_nothing_has_no_lines_and_one_that_is_not_there_is_not_found(
    client: httpx.AsyncClient, auth: Auth, app: FastAPI
) -> None:
    async with app.state.service.database.sessions.begin() as session:
        job_id = await add(session)
    quiet = await client.get(f"/admin/jobs/{job_id}/logs", headers=auth("viewer"))
    assert quiet.json() == {"lines": [], "next_after": None}
    missing = await client.get(f"/admin/jobs/{job_id + 1}/logs", headers=auth("viewer"))
    assert missing.status_code == 404


@pytest.mark.parametrize("query", ["after=x", "after=1", "limit=0", "limit=1001", "more=1"])
async def test_what_cannot_be_meant_is_refused(
    client: httpx.AsyncClient, auth: Auth, logged: int, query: str
) -> None:
    answer = await client.get(f"/admin/jobs/{logged}/logs?{query}", headers=auth("viewer"))
    assert answer.status_code == 422
