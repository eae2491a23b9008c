"""Pages that a browser renders, and requests that a browser can be made to send."""

import re

import httpx
import pytest
from fastapi import FastAPI

from service.app import create_app
from service.settings import Settings
from tests.api.conftest import Auth
from tests.api.shapes import jobs_in
from tests.api.test_policies import TABLE, a_path
from tests.security.corpora import HTML

HEADERS = (
    "Host",
    "X-Forwarded-Host",
    "X-Forwarded-Prefix",
    "X-Script-Name",
    "Referer",
    "User-Agent",
)


def directives(policy: str) -> dict[str, list[str]]:
    parts = [part.split() for part in policy.split(";")]
    return {name: values for name, *values in parts}


async def test_every_answer_forbids_framing_sniffing_and_foreign_scripts(
    client: httpx.AsyncClient, auth: Auth
) -> None:
    paths = {(method, a_path(path)) for method, path in TABLE} | {
        ("GET", "/docs/assets/swagger-ui-bundle.js"), ("GET", "/docs/assets/none"), ("GET", "/nowhere"),
        ("OPTIONS", "/jobs"), ("BREW", "/jobs"), ("GET", "/redoc"),
    }  # fmt: skip
    for method, path in paths:
        for headers in ({}, auth("admin")):
            answer = await client.request(method, path, headers=headers)
            policy = directives(answer.headers["content-security-policy"])
            assert policy["default-src"] == ["'none'"]
            assert policy["frame-ancestors"] == ["'none'"]
            assert "'unsafe-inline'" not in policy.get("script-src", [])
            assert "'unsafe-eval'" not in policy.get("script-src", [])
            assert not [
                value for value in policy.get("script-src", []) if "//" in value or value == "*"
            ]
            assert answer.headers["x-content-type-options"] == "nosniff"
            assert answer.headers["referrer-policy"] == "no-referrer"
            # No cookie, so no request carries a credential that its page did not put there; no
            # CORS, so no other site reads an answer.
            assert "set-cookie" not in answer.headers
            assert not [name for name in answer.headers if name.startswith("access-control-")]


async def test_the_page_runs_the_scripts_that_its_policy_names_and_no_other(
    client: httpx.AsyncClient,
) -> None:
    page = await client.get("/docs")
    policy = directives(page.headers["content-security-policy"])
    inline = re.findall(r"<script>", page.text)
    assert len(inline) == sum(value.startswith("'sha256-") for value in policy["script-src"]) == 1
    sources = re.findall(r"(?:src|href)=\"([^\"]+)\"", page.text)
    assert sources
    assert [source for source in sources if not source.startswith("/docs/assets/")] == []
    assert not re.search(r"\son\w+\s*=", page.text)


async def test_no_header_or_query_gets_into_a_page(client: httpx.AsyncClient) -> None:
    usual = (await client.get("/docs")).text
    for text in HTML:
        sent = "".join(c for c in text if " " <= c <= "~")
        for name in HEADERS:
            assert (await client.get("/docs", headers={name: sent})).text == usual
            front = await client.get("/", headers={name: sent})
            assert front.headers["location"] == "/docs"
        for parameter in ("url", "configUrl", "title", "q"):
            assert (await client.get("/docs", params={parameter: text})).text == usual


async def test_a_path_that_a_proxy_strips_cannot_break_out_of_the_page(
    api_settings: Settings,
) -> None:
    for text in HTML:
        app = create_app(api_settings, run_worker=False)
        transport = httpx.ASGITransport(app=app, root_path="/" + text)
        async with (
            app.router.lifespan_context(app),
            httpx.AsyncClient(transport=transport, base_url="http://service.test") as client,
        ):
            page = await client.get("/docs")
        # The operator's setting, and none of a caller's: still no second script runs.
        policy = directives(page.headers["content-security-policy"].replace(text, ""))
        assert "'unsafe-inline'" not in policy.get("script-src", [])


async def test_what_attackers_store_is_only_ever_sent_as_json(
    client: httpx.AsyncClient, auth: Auth
) -> None:
    for text in HTML:
        made = await client.post(
            "/jobs", json={"job_type": "mail", "payload": {text[:50]: text}}, headers=auth("admin")
        )
        key = await client.post(
            "/admin/api-keys", json={"name": text, "scopes": ["jobs:read"]}, headers=auth("admin")
        )
        assert key.status_code in (201, 422)
        for path in (
            f"/jobs/{made.json()['id']}", f"/admin/jobs/{made.json()['id']}", "/admin/api-keys",
            f"/admin/jobs?error={text}", f"/jobs/{text}", f"/{text}", "/metrics",
        ):  # fmt: skip
            answer = await client.get(path, headers=auth("admin"))
            kind = answer.headers["content-type"].partition(";")[0]
            assert kind in {"application/json", "application/problem+json", "text/plain"}, path
            assert answer.headers["x-content-type-options"] == "nosniff"


FORM_TYPES = (
    "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "text/plain",
    "text/plain; charset=utf-8", "text/plain;application/json", "",
)  # fmt: skip


@pytest.mark.parametrize("content_type", FORM_TYPES)
async def test_what_a_form_of_another_site_can_send_enqueues_nothing(
    client: httpx.AsyncClient, app: FastAPI, auth: Auth, content_type: str
) -> None:
    body = b'{"job_type": "mail", "payload": {"a": "="}}'
    sent: dict[str, str] = {"Origin": "https://evil.example", "Sec-Fetch-Site": "cross-site"}
    if content_type:
        sent["content-type"] = content_type
    # Without a credential, which no browser adds by itself; and even with one.
    for headers, status in ((sent, 401), (sent | auth("admin"), 415)):
        answer = await client.post("/jobs", content=body, headers=headers)
        assert answer.status_code == status
    assert await jobs_in(app) == []


async def test_no_get_changes_anything(client: httpx.AsyncClient, app: FastAPI, auth: Auth) -> None:
    made = await client.post("/jobs", json={"job_type": "mail"}, headers=auth("admin"))
    number = made.json()["id"]
    for action in ("retry", "cancel"):
        answer = await client.get(f"/admin/jobs/{number}/{action}", headers=auth("admin"))
        assert answer.status_code == 405
    for override in ("X-HTTP-Method-Override", "X-HTTP-Method", "X-Method-Override"):
        answer = await client.get(
            f"/admin/jobs/{number}", headers=auth("admin") | {override: "DELETE"}
        )
        assert answer.status_code == 200
        await client.get(f"/admin/jobs/{number}?_method=DELETE", headers=auth("admin"))
    assert await jobs_in(app) == [number]
