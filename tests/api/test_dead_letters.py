"""`/admin/dead-letters/groups`: every answer that an operator can get."""

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from sqlalchemy import text

from tests.api.conftest import Auth
from tests.api.shapes import assert_problem
from tests.jobs.rows import add

GROUPS = "/admin/dead-letters/groups"
Die = Callable[..., Awaitable[int]]


@pytest.fixture
def viewer(auth: Auth) -> dict[str, str]:
    return auth("viewer")


@pytest.fixture
def operator(auth: Auth) -> dict[str, str]:
    return auth("operator", "olga")


@pytest.fixture
def die(app: FastAPI) -> Die:
    """Puts a dead letter in: `await die("a", job_type="mail")`."""

    async def die(fingerprint: str, **values: Any) -> int:
        given = {"status": "DEAD_LETTER", "last_error": "ValueError: no 7"} | values
        async with app.state.service.database.sessions.begin() as session:
            return int(await add(session, fingerprint=fingerprint, **given))

    return die


async def test_no_dead_letters_are_an_empty_page(
    client: httpx.AsyncClient, viewer: dict[str, str]
) -> None:
    answer = await client.get(GROUPS, headers=viewer)
    assert answer.json() == {"groups": [], "next_cursor": None}


async def test_a_group_is_a_line_with_its_count_and_its_newest_job(
    client: httpx.AsyncClient, viewer: dict[str, str], die: Die
) -> None:
    await die("a", finished_at=datetime.now(UTC) - timedelta(hours=1))
    newest = await die("a")
    await die("b", job_type="fax", last_error=None)
    groups = (await client.get(GROUPS, headers=viewer)).json()["groups"]
    assert [group["fingerprint"] for group in groups] == ["a", "b"]
    shown = {
        name: groups[0][name]
        for name in ("title", "kind", "job_type", "count", "state", "sample_id")
    }
    assert shown == {
        "title": "no #", "kind": "ValueError", "job_type": "mail", "count": 2, "state": "unresolved",
        "sample_id": newest,
    }  # fmt: skip
    assert groups[0]["first_seen"] < groups[0]["last_seen"]
    one = await client.get(f"{GROUPS}/a", headers=viewer)
    assert len(one.json()["trend"]) == 168
    jobs = await client.get("/admin/jobs", params={"fingerprint": "a"}, headers=viewer)
    assert jobs.json()["jobs"][0]["id"] == newest


async def test_pages_and_filters(
    client: httpx.AsyncClient, viewer: dict[str, str], die: Die
) -> None:
    for name in "abcde":
        await die(name, job_type="fax" if name == "c" else "mail")

    async def found(**query: Any) -> list[str]:
        answer = await client.get(GROUPS, params=query, headers=viewer)
        assert answer.status_code == 200, answer.text
        return [group["fingerprint"] for group in answer.json()["groups"]]

    first = (await client.get(GROUPS, params={"limit": 3}, headers=viewer)).json()
    rest = await found(limit=3, cursor=first["next_cursor"])
    assert len(first["groups"]) == 3
    assert sorted([group["fingerprint"] for group in first["groups"]] + rest) == list("abcde")
    assert await found(job_type="fax") == ["c"]
    assert await found(state=["resolved", "ignored"]) == []
    assert len(await found(sort="last_seen")) == 5


@pytest.mark.parametrize(
    "query",
    ["state=open", "sort=name", "limit=0", "limit=201", "cursor=x", "text=%00", "color=red"],
)
async def test_a_query_that_cannot_be_read_is_refused(
    client: httpx.AsyncClient, viewer: dict[str, str], query: str
) -> None:
    assert_problem(await client.get(f"{GROUPS}?{query}", headers=viewer), 422)


async def test_a_cursor_of_another_list_is_refused(
    client: httpx.AsyncClient, viewer: dict[str, str], die: Die
) -> None:
    for name in "ab":
        await die(name)
    cursor = (await client.get(GROUPS, params={"limit": 1}, headers=viewer)).json()["next_cursor"]
    other = {"cursor": cursor, "sort": "last_seen"}
    assert_problem(await client.get(GROUPS, params=other, headers=viewer), 422)
    assert_problem(await client.get("/admin/jobs", params={"cursor": cursor}, headers=viewer), 422)


async def test_decisions_are_shown_and_audited(
    client: httpx.AsyncClient, operator: dict[str, str], die: Die, app: FastAPI
) -> None:
    await die("a")

    async def decide(verb: str, **body: Any) -> dict[str, Any]:
        answer = await client.post(f"{GROUPS}/a/{verb}", json=body or None, headers=operator)
        assert answer.status_code == 200, answer.text
        shown: dict[str, Any] = answer.json()
        return shown

    resolved = await decide("resolve", reason="fixed in 7")
    assert (resolved["state"], resolved["reason"], resolved["changed_by"]) == ("resolved", "fixed in 7", "olga")  # fmt: skip
    until = (datetime.now(UTC) + timedelta(days=1)).isoformat()
    ignored = await decide("ignore", until=until, count=3, reason="supplier")
    assert (ignored["state"], ignored["ignored_count_left"]) == ("ignored", 3)
    assert (await decide("reopen"))["state"] == "unresolved"
    async with app.state.service.database.sessions() as session:
        rows = await session.execute(
            text("SELECT action, actor, subject_id, reason, before ->> 'state', after ->> 'state'"
                 " FROM audit_log WHERE subject_type = 'cause' ORDER BY id")
        )  # fmt: skip
        assert [tuple(row) for row in rows] == [
            ("cause.resolve", "olga", "a", "fixed in 7", "unresolved", "resolved"),
            ("cause.ignore", "olga", "a", "supplier", "resolved", "ignored"),
            ("cause.reopen", "olga", "a", None, "ignored", "unresolved"),
        ]


async def test_what_cannot_be_decided_is_refused_with_the_reason(
    client: httpx.AsyncClient, operator: dict[str, str], die: Die
) -> None:
    await die("a")
    assert_problem(await client.post(f"{GROUPS}/b/resolve", headers=operator), 404)
    for body in (
        {"until": "2001-01-01T00:00:00Z"}, {"until": 7}, {"count": 0}, {"count": "7"}, {"why": "x"},
        {"reason": "x" * 501},
    ):  # fmt: skip
        answer = await client.post(f"{GROUPS}/a/ignore", json=body, headers=operator)
        assert_problem(answer, 422)
    assert_problem(await client.get(f"{GROUPS}/unknown", headers=operator), 404)
