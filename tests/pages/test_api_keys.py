"""The API keys in the dashboard."""

import re
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from service.auth.principal import API_KEY_SUBJECT_PREFIX, Permission, Principal, Role
from service.dashboard.access import COOKIE
from service.dashboard.pages.api_keys import WORDS
from tests.pages.parsed import Element, parsed
from tests.pages.signing_in import FROM_OUR_PAGE, browser

KEYS = "/dashboard/api-keys"


@pytest.fixture
async def admin(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    async with await browser(app, Role.ADMIN) as client:
        yield client


async def make(client: httpx.AsyncClient, **values: Any) -> httpx.Response:
    given = {"name": "billing", "scopes": ["jobs:write", "jobs:read"], "days": "30"} | values
    return await client.post(KEYS, data=given)


def keys_on(page: Element) -> list[str]:
    return page.rows


async def test_a_new_key_is_shown_once_and_works(
    admin: httpx.AsyncClient, client: httpx.AsyncClient
) -> None:
    answer = await make(admin)
    assert answer.status_code == 201
    assert answer.headers["cache-control"] == "no-store"
    key = parsed(answer.text).one("pre", id="key").text
    job = await client.post("/jobs", json={"job_type": "t"}, headers={"x-api-key": key})
    assert job.status_code == 201
    page = await admin.get(KEYS)
    assert key not in page.text
    assert "billing" in page.text
    assert key.partition(".")[2] not in str(answer.headers)


async def test_a_key_is_bound_as_the_form_says(
    admin: httpx.AsyncClient, client: httpx.AsyncClient
) -> None:
    answer = await make(admin, queues="mail, billing,", job_types="t", priorities="3,4")
    key = parsed(answer.text).one("pre", id="key").text
    headers = {"x-api-key": key}
    job = {"job_type": "t", "queue": "mail", "priority": 3}
    assert (await client.post("/jobs", json=job, headers=headers)).status_code == 201
    elsewhere = job | {"queue": "other"}
    assert (await client.post("/jobs", json=elsewhere, headers=headers)).status_code == 403
    (row,) = keys_on(parsed((await admin.get(KEYS)).text))
    assert "only queues billing, mail only job types t only priorities 3, 4" in row
    assert "in 29 d" in row


async def test_a_key_is_revoked_with_a_reason(
    admin: httpx.AsyncClient, client: httpx.AsyncClient
) -> None:
    key = parsed((await make(admin)).text).one("pre", id="key").text
    prefix = key[len("fmj_") :].partition(".")[0]
    answer = await admin.post(f"{KEYS}/{prefix}/revoke", data={"reason": "left in a log"})
    assert answer.status_code == 303
    refused = await client.get("/jobs/1", headers={"x-api-key": key})
    assert refused.status_code == 401
    page = parsed((await admin.get(KEYS)).text)
    assert "No key works" in page.text
    assert "1 revoked or expired" in page.text
    log = await admin.get(f"/dashboard/audit?subject_type=api_key&subject_id={prefix}")
    assert "left in a log" in log.text


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"name": " "}, "printable characters"),
        ({"name": ""}, "at least 1 character"),
        ({"name": "x" * 101}, "at most 100 characters"),
        ({"scopes": []}, "Choose at least one thing"),
        ({"scopes": ["everything"]}, "'everything'"),
        ({"days": "12"}, "choose one of the list"),
        ({"days": "x" * 99}, "choose one of the list"),
        ({"priorities": "urgent"}, "'urgent'"),
        ({"priorities": "10"}, "priorities"),
        ({"queues": "a b"}, "queues"),
        ({"queues": "mail", "scopes": ["admin:read"]}, "would not be bound by queues"),
    ],
)
async def test_what_is_refused_keeps_what_was_typed(
    admin: httpx.AsyncClient, values: dict[str, Any], words: str
) -> None:
    answer = await make(admin, **{"name": "typed", "job_types": "send_invoice"} | values)
    assert answer.status_code == 422
    page = parsed(answer.text)
    assert "No key was made." in page.text
    assert words in page.text
    assert page.one("input", name="job_types").attributes["value"] == "send_invoice"
    assert "No key works" in page.text


async def test_nobody_gives_more_than_they_have(app: FastAPI) -> None:
    """As a key that manages keys, and ends tomorrow."""
    store = app.state.service.authenticator.api_keys
    tomorrow = datetime.now(UTC) + timedelta(days=1)
    made = await store.create(
        "m", [Permission.KEYS_MANAGE, Permission.ADMIN_READ], created_by="ann", expires_at=tomorrow
    )
    subject = API_KEY_SUBJECT_PREFIX + made.record.prefix
    rights = frozenset({Permission.KEYS_MANAGE, Permission.ADMIN_READ})
    principal = Principal(subject, None, rights, "api_key", expires_at=tomorrow)
    session = await app.state.sessions.create(principal)
    transport = httpx.ASGITransport(app=app)
    headers = FROM_OUR_PAGE | {"cookie": f"{COOKIE}={session.secret}"}
    async with httpx.AsyncClient(
        transport=transport, base_url="https://service.test", headers=headers
    ) as client:
        page = parsed((await client.get(KEYS)).text)
        offered = {box.attributes["value"] for box in page.all("input", name="scopes")}
        assert offered == {"keys:manage", "admin:read"}
        more = await make(client, scopes=["jobs:write"])
        longer = await make(client, scopes=["admin:read"], days="7")
    assert (more.status_code, longer.status_code) == (403, 403)
    assert "cannot give what you do not have" in more.text
    assert "would outlive your own" in longer.text


async def test_only_who_manages_keys_sees_them(app: FastAPI) -> None:
    for role, sees in ((Role.VIEWER, False), (Role.OPERATOR, False), (Role.ADMIN, True)):
        async with await browser(app, role) as client:
            page = await client.get("/dashboard")
            assert ("API keys" in parsed(page.text).links) is sees
            assert (await client.get(KEYS)).status_code == (200 if sees else 403)


async def test_whatever_a_key_is_called_is_text(admin: httpx.AsyncClient) -> None:
    script = "<script>alert(1)</script>"
    shown = await make(admin, name=script)
    for answer in (shown, await admin.get(KEYS)):
        assert script not in answer.text
        assert re.search(r"&lt;script&gt;alert\(1\)", answer.text)


def test_every_permission_is_described() -> None:
    assert WORDS.keys() == set(Permission)
