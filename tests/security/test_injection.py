"""Every filter, path, cursor and text of the API with what attackers put there."""

import base64
import json
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from sqlalchemy import text

from service.api.cursors import encode_cursor
from service.auth.failures import FailedSignIns
from tests.api.conftest import Auth
from tests.api.shapes import jobs_in
from tests.jobs.rows import add
from tests.security.corpora import TEXTS

pytestmark = [pytest.mark.security, pytest.mark.timeout(180)]

QUICK_SECONDS = 5.0
"""Less than what any `pg_sleep` of the corpus asks for."""

JOB_FILTERS = (
    "status", "job_type", "queue", "priority", "unique_key", "created_after", "created_before",
    "due_after", "due_before", "error", "limit", "cursor", "sort", "order_by", "fields",
)  # fmt: skip
REMINDER_FILTERS = ("status", "user_id", "limit", "cursor", "sort")


@pytest.fixture
async def three(app: FastAPI) -> list[int]:
    """Three jobs, which must be there afterwards, and nowhere else."""
    async with app.state.service.database.sessions.begin() as session:
        for number in (1, 2, 3):
            await add(session, id=number, status="DEAD_LETTER")
    return await jobs_in(app)


async def schema(app: FastAPI) -> list[str]:
    async with app.state.service.database.engine.connect() as connection:
        found = await connection.scalars(
            text("SELECT relname FROM pg_class WHERE relnamespace = 'finmind_jobs'::regnamespace")
        )
        return sorted(found)


def sendable(value: str) -> str:
    """As a client may write it in a header: visible ASCII, the rest percent-encoded."""
    return "".join(c if " " <= c <= "~" else f"%{ord(c):04x}" for c in value)[:2000]


async def test_no_filter_is_more_than_a_value(
    client: httpx.AsyncClient, app: FastAPI, auth: Auth, three: list[int]
) -> None:
    before = await schema(app)
    headers = auth("admin")
    surprises: list[tuple[str, str, int]] = []
    for path, filters in (("/admin/jobs", JOB_FILTERS), ("/reminders", REMINDER_FILTERS)):
        for name in filters:
            for value in TEXTS:
                began = time.monotonic()
                answer = await client.get(path, params={name: value}, headers=headers)
                slow = time.monotonic() - began > QUICK_SECONDS
                listed = answer.status_code == 200 and any(
                    answer.json().get(kind) for kind in ("jobs", "reminders")
                )
                # An unknown parameter of /reminders is passed over; it must not matter.
                ignored = path == "/reminders"
                if answer.status_code not in (200, 422) or slow or (listed and not ignored):
                    surprises.append((name, value[:60], answer.status_code))
    assert surprises == []
    assert await jobs_in(app) == three
    assert await schema(app) == before


async def test_no_path_or_header_is_more_than_a_value(
    client: httpx.AsyncClient, app: FastAPI, auth: Auth, three: list[int]
) -> None:
    headers = auth("admin")
    surprises: list[tuple[str, str, int]] = []
    app.state.authenticator._failures = FailedSignIns(0)
    for value in TEXTS:
        quoted = httpx.QueryParams({"v": value})
        segment = str(quoted)[2:].replace("+", "%20")[:2000]
        for method, path in (
            ("GET", "/jobs/{}"),
            ("GET", "/admin/jobs/{}"),
            ("POST", "/admin/jobs/{}/retry"),
            ("POST", "/admin/jobs/{}/cancel"),
            ("DELETE", "/admin/jobs/{}"),
            ("GET", "/reminders/{}"),
            ("DELETE", "/reminders/{}"),
            ("DELETE", "/admin/api-keys/{}"),
            ("GET", "/docs/assets/{}"),
            ("GET", "/{}"),
        ):
            answer = await client.request(method, path.format(segment), headers=headers)
            if answer.status_code not in (404, 405, 422):
                surprises.append((f"{method} {path}", value[:60], answer.status_code))
        for name in (
            "Idempotency-Key",
            "X-Request-ID",
            "X-API-Key",
            "Authorization",
            "Host",
            "Cookie",
        ):
            sent = {"Authorization": headers["authorization"], name: sendable(value)}
            answer = await client.post(
                "/jobs", json={"job_type": "mail", "priority": 99}, headers=sent
            )
            if answer.status_code not in (401, 422):
                surprises.append((name, value[:60], answer.status_code))
    assert surprises == []
    assert await jobs_in(app) == three


async def test_texts_of_bodies_are_stored_and_found_as_they_are_or_refused(
    client: httpx.AsyncClient, app: FastAPI, auth: Auth
) -> None:
    headers = auth("admin")
    before = await schema(app)
    for value in TEXTS:
        named = await client.post("/jobs", json={"job_type": value}, headers=headers)
        assert named.status_code == 422, value
        queued = await client.post("/jobs", json={"job_type": "m", "queue": value}, headers=headers)
        assert queued.status_code in (201, 422), value  # "0" and "x" are names
        body = {"job_type": "mail", "payload": {"text": value, value[:50]: [value]}}
        made = await client.post("/jobs", json=body, headers=headers)
        if "\x00" in value:
            assert made.status_code == 422
            continue
        assert made.status_code == 201
        assert made.json()["payload"] == body["payload"]
        found = await client.get(f"/admin/jobs/{made.json()['id']}", headers=headers)
        assert found.json()["payload"] == body["payload"]
        keyed = await client.post(
            "/jobs", json={"job_type": "m", "unique_key": value}, headers=headers
        )
        if keyed.status_code == 201:
            listed = await client.get("/admin/jobs", params={"unique_key": value}, headers=headers)
            assert [job["id"] for job in listed.json()["jobs"]] == [keyed.json()["id"]]
        else:
            assert keyed.status_code == 422
    assert await schema(app) == before


def forged_cursors() -> Iterator[str]:
    def cursor(document: Any) -> str:
        raw = document if isinstance(document, bytes) else json.dumps(document).encode()
        return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()

    own = json.loads(base64.urlsafe_b64decode(encode_cursor(2, {}) + "=="))
    for before in (
        "1",
        "1 OR 1=1",
        -1,
        2**63,
        10**40,
        1.5,
        True,
        None,
        [1],
        {"id": 1},
        float("nan"),
    ):
        yield cursor(own | {"before": before})
    for version in (0, 2, "1", None, [1], {"v": 1}, "x" * 5000):
        yield cursor(own | {"v": version})
    for of in ("", "0" * 16, None, 0, own["list"].upper()):
        yield cursor(own | {"list": of})
    yield from (cursor([]), cursor(1), cursor("x"), cursor(None), cursor({}), cursor(b"\xff\xfe"))
    yield from (cursor(b"[" * 140), cursor(b"{" * 140), "=", "====", "a", "é", "A" * 200, "A" * 201)
    yield encode_cursor(2, {}) + "="
    yield encode_cursor(2, {"queue": "other"})


async def test_a_forged_cursor_is_refused_and_lists_nothing(
    client: httpx.AsyncClient, auth: Auth, three: list[int]
) -> None:
    for cursor in forged_cursors():
        answer = await client.get("/admin/jobs", params={"cursor": cursor}, headers=auth("admin"))
        if cursor == encode_cursor(2, {}) + "=":
            continue  # padding that is not needed may pass: it means the same
        assert answer.status_code == 422, (cursor, answer.text)
    good = encode_cursor(3, {})
    answer = await client.get("/admin/jobs", params={"cursor": good}, headers=auth("admin"))
    assert [job["id"] for job in answer.json()["jobs"]] == [2, 1]


async def test_a_cursor_is_no_way_to_the_reminders_of_others(
    client: httpx.AsyncClient, auth: Auth
) -> None:
    reminder = {
        "message": "secret of ann", "send_at": "2100-01-01T00:00:00Z", "channel": "log", "recipient": "a",
    }  # fmt: skip
    made = [
        (await client.post("/reminders", json=reminder, headers=auth("user", "ann"))).json()["id"]
        for _ in range(3)
    ]
    page = await client.get("/reminders", params={"limit": 1}, headers=auth("user", "ann"))
    cursor = page.json()["next_cursor"]
    stolen = await client.get("/reminders", params={"cursor": cursor}, headers=auth("user", "eve"))
    assert stolen.status_code == 422
    for number in made:
        for method in ("GET", "PATCH", "DELETE"):
            body = {"message": "mine"} if method == "PATCH" else None
            answer = await client.request(
                method, f"/reminders/{number}", json=body, headers=auth("user", "eve")
            )
            missing = await client.request(
                method, "/reminders/999999", json=body, headers=auth("user", "eve")
            )
            assert answer.status_code == missing.status_code == 404
    other = await client.get("/reminders", params={"user_id": "ann"}, headers=auth("user", "eve"))
    assert other.status_code == 403
