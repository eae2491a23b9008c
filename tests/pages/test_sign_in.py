"""Sessions: how they begin, what they hold, and when they end."""

import re
import time
from datetime import UTC, datetime, timedelta
from html import unescape

import httpx
import jwt
import pytest
from fastapi import FastAPI

from service.auth.principal import Permission, Role
from service.dashboard.access import COOKIE
from tests import databases
from tests.conftest import TEST_SECRET
from tests.pages.signing_in import FROM_OUR_PAGE, browser

pytestmark = pytest.mark.whole


def token(role: str, *, seconds: int = 600) -> str:
    claims = {"sub": "somebody", "role": role, "exp": int(time.time()) + seconds}
    return jwt.encode(claims, TEST_SECRET, algorithm="HS256")


@pytest.fixture
def visitor(app: FastAPI) -> httpx.AsyncClient:
    transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
    return httpx.AsyncClient(
        transport=transport, base_url="https://service.test", headers=FROM_OUR_PAGE
    )


LONG = 86_400
"""Seconds: what is made when the tests are collected is used when their turn comes."""


async def sign_in(visitor: httpx.AsyncClient, credential: str, to: str = "") -> httpx.Response:
    return await visitor.post("/dashboard/sign-in", data={"credential": credential, "next": to})


async def test_a_token_signs_in_and_its_cookie_is_for_this_host_and_no_script(
    visitor: httpx.AsyncClient,
) -> None:
    answer = await sign_in(visitor, token("viewer"))
    cookie = answer.headers["set-cookie"]
    assert cookie.startswith("__Host-finmind_session=")
    assert {"Path=/", "Secure", "HttpOnly", "SameSite=strict"} <= set(cookie.split("; "))
    assert "Domain" not in cookie
    assert (await visitor.get("/dashboard")).status_code == 200


@pytest.mark.parametrize(
    ("credential", "status", "words"),
    [
        ("", 401, "Paste a token"),
        ("nonsense", 401, "not a complete JWT"),
        ("fmj_0000000000." + "a" * 43, 401, "not known"),
        (token("service", seconds=LONG), 403, "admin:read"),
        (token("user", seconds=LONG), 403, "admin:read"),
        (token("viewer", seconds=-60), 401, "expired"),
    ],
)
async def test_what_is_refused_says_why_and_begins_no_session(
    visitor: httpx.AsyncClient, credential: str, status: int, words: str
) -> None:
    answer = await sign_in(visitor, credential)
    assert (answer.status_code, words in answer.text) == (status, True)
    assert "set-cookie" not in answer.headers


@pytest.mark.parametrize(
    "to",
    [
        "https://evil.test",
        "//evil.test",
        "/dashboard\\@evil.test",
        "/admin/jobs",
        "/dashboardx",
        "/\n",
    ],
)
async def test_signing_in_leads_to_our_own_pages_alone(visitor: httpx.AsyncClient, to: str) -> None:
    answer = await sign_in(visitor, token("viewer"), to)
    assert 'content="0; url=/dashboard"' in answer.text
    answer = await sign_in(visitor, token("viewer"), "/dashboard/jobs?a=1")
    assert 'content="0; url=/dashboard/jobs?a=1"' in answer.text


async def test_an_api_key_signs_in_until_it_is_revoked(
    app: FastAPI, visitor: httpx.AsyncClient
) -> None:
    keys = app.state.authenticator.api_keys
    made = await keys.create("ops", [Permission.ADMIN_READ], created_by="admin")
    await sign_in(visitor, made.key)
    assert (await visitor.get("/dashboard")).status_code == 200
    await keys.revoke(made.record.prefix, by="admin")
    assert (await visitor.get("/dashboard")).status_code == 303


async def test_a_session_ends_with_the_token_that_began_it(
    visitor: httpx.AsyncClient, pg_dsn: str
) -> None:
    await sign_in(visitor, token("viewer", seconds=600))
    connection = await databases.connect(pg_dsn)
    expires_at = await connection.fetchval("SELECT expires_at FROM dashboard_sessions")
    await connection.close()
    left = expires_at - datetime.now(UTC)
    assert timedelta(seconds=590) < left <= timedelta(seconds=600)


@pytest.mark.parametrize(
    "change",
    [
        "expires_at = now()",
        "seen_at = now() - interval '121 minutes'",
        "role = 'someone of a later version'",
    ],
)
async def test_a_session_ends_by_age_by_idleness_and_where_its_role_is_unknown(
    app: FastAPI, pg_dsn: str, change: str
) -> None:
    async with await browser(app, Role.VIEWER) as client:
        assert (await client.get("/dashboard")).status_code == 200
        await databases.execute(pg_dsn, f"UPDATE dashboard_sessions SET {change}")
        assert (await client.get("/dashboard")).status_code in {303, 403}


async def test_a_request_keeps_a_session_from_idling(app: FastAPI, pg_dsn: str) -> None:
    async with await browser(app, Role.VIEWER) as client:
        await databases.execute(
            pg_dsn, "UPDATE dashboard_sessions SET seen_at = now() - interval '110 minutes'"
        )
        await client.get("/dashboard")
    connection = await databases.connect(pg_dsn)
    idle = await connection.fetchval("SELECT now() - seen_at FROM dashboard_sessions")
    await connection.close()
    assert idle < timedelta(minutes=1)


async def test_signing_out_ends_one_session_and_everywhere_all_of_them(app: FastAPI) -> None:
    async with (
        await browser(app, Role.VIEWER) as one,
        await browser(app, Role.VIEWER) as two,
        await browser(app, Role.VIEWER) as three,
    ):
        left = await one.post("/dashboard/sign-out")
        assert left.status_code == 303
        assert f'{COOKIE}=""' in left.headers["set-cookie"]
        assert (await one.get("/dashboard")).status_code == 303
        assert (await two.get("/dashboard")).status_code == 200
        await two.post("/dashboard/sign-out", data={"everywhere": "1"})
        assert (await three.get("/dashboard")).status_code == 303


async def test_sessions_that_have_expired_are_forgotten_by_the_next_sign_in(
    app: FastAPI, visitor: httpx.AsyncClient, pg_dsn: str
) -> None:
    for _ in range(3):
        await browser(app, Role.VIEWER)
    await databases.execute(pg_dsn, "UPDATE dashboard_sessions SET expires_at = now()")
    await sign_in(visitor, token("viewer"))
    connection = await databases.connect(pg_dsn)
    assert await connection.fetchval("SELECT count(*) FROM dashboard_sessions") == 1
    await connection.close()


async def test_the_link_of_make_run_signs_in_once(app: FastAPI, visitor: httpx.AsyncClient) -> None:
    code = app.state.sign_in_link.renew()
    assert (await visitor.get("/dashboard/sign-in", params={"link": "x"})).cookies == {}
    await visitor.get("/dashboard/sign-in", params={"link": code})
    assert (await visitor.get("/dashboard")).status_code == 200
    visitor.cookies.clear()
    again = await visitor.get("/dashboard/sign-in", params={"link": code})
    assert "used before" in again.text
    assert (await visitor.get("/dashboard")).status_code == 303


async def test_the_database_holds_no_secret_of_a_session(
    app: FastAPI, visitor: httpx.AsyncClient, pg_dsn: str
) -> None:
    answer = await sign_in(visitor, token("viewer"))
    connection = await databases.connect(pg_dsn)
    row = await connection.fetchval("SELECT s::text FROM dashboard_sessions s")
    await connection.close()
    assert answer.cookies[COOKIE] not in row


async def test_signing_in_and_out_stands_in_the_audit_log(
    visitor: httpx.AsyncClient, pg_dsn: str
) -> None:
    await sign_in(visitor, token("viewer"))
    await visitor.post("/dashboard/sign-out")
    await sign_in(visitor, token("viewer"))
    await visitor.post("/dashboard/sign-out", data={"everywhere": "1"})
    connection = await databases.connect(pg_dsn)
    rows = await connection.fetch(
        "SELECT actor, action, request_id, address FROM audit_log ORDER BY id"
    )
    await connection.close()
    assert [row["action"] for row in rows] == [
        "session.create",
        "session.end",
        "session.create",
        "session.end_all",
    ]
    assert {row["actor"] for row in rows} == {"somebody"}
    assert all(row["request_id"] and row["address"] for row in rows)


async def test_errors_of_a_page_are_pages(app: FastAPI) -> None:
    async with await browser(app, Role.VIEWER) as client:
        answer = await client.get("/dashboard/nothing")
        assert answer.status_code == 404
        assert answer.headers["content-type"].startswith("text/html")
        assert "There is nothing at /dashboard/nothing" in answer.text


async def test_choosing_a_theme_shows_the_same_page_with_its_query(app: FastAPI) -> None:
    async with await browser(app, Role.VIEWER) as client:
        page = await client.get("/dashboard/jobs?status=FAILED&limit=5")
        (back,) = set(re.findall(r'name="next" value="([^"]*)"', page.text))
        assert unescape(back) == "/dashboard/jobs?status=FAILED&limit=5"
        answer = await client.post(
            "/dashboard/theme", data={"theme": "dark", "next": unescape(back)}
        )
    assert answer.headers["location"] == unescape(back)
    assert "finmind_theme=dark" in answer.headers["set-cookie"]
