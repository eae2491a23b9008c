"""Liveness, readiness, metrics and the documentation page over HTTP."""

import base64
import hashlib
import re
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from prometheus_client.parser import text_string_to_metric_families
from pydantic import SecretStr
from sqlalchemy import text

from service.app import Service, create_app
from service.settings import Settings
from tests.api.conftest import Auth


def serving(settings: Settings) -> httpx.AsyncClient:
    app = create_app(settings, run_worker=False)
    transport = httpx.ASGITransport(app=app)
    return httpx.AsyncClient(transport=transport, base_url="http://service.test")


async def test_a_live_process_says_so(client: httpx.AsyncClient) -> None:
    response = await client.get("/health/live")
    assert (response.status_code, response.json()) == (200, {"status": "ok"})


async def test_a_ready_process_lists_its_checks(client: httpx.AsyncClient) -> None:
    response = await client.get("/health/ready")
    assert response.status_code == 200
    assert response.json()["ready"] is True
    names = [check["name"] for check in response.json()["checks"]]
    assert names == ["database", "migrations", "worker", "event_loop", "running"]


async def test_an_unready_process_is_503_and_says_why(
    client: httpx.AsyncClient, app: FastAPI
) -> None:
    service: Service = app.state.service
    async with service.database.sessions.begin() as session:
        await session.execute(text("UPDATE alembic_version SET version_num = '0000'"))
    service.stop_claiming()
    response = await client.get("/health/ready")
    assert response.status_code == 503
    reasons = {c["name"]: c["detail"] for c in response.json()["checks"] if not c["ok"]}
    assert set(reasons) == {"migrations", "running"}
    assert "shutting down" in reasons["running"]


async def test_a_service_with_a_worker_is_ready_and_ends_unready(
    make_settings: Callable[..., Settings], pg_dsn: str
) -> None:
    async with Service(make_settings(), dsn=pg_dsn) as service:
        readiness = await service.health.readiness()
        assert readiness.ready, readiness
        assert service.worker is not None
        service.stop_claiming()
        assert not (await service.health.readiness()).ready


async def test_a_service_that_cannot_start_leaves_nothing_running(
    make_settings: Callable[..., Settings],
) -> None:
    service = Service(make_settings(), dsn="postgresql://u@127.0.0.1:1/x")
    with pytest.raises(OSError, match=r"(?i)connect"):
        await service.start()
    assert service.monitor._task is None
    assert service.reminder_loop is not None
    assert not service.reminder_loop._loop.alive


def families(response: httpx.Response) -> dict[str, Any]:
    assert response.status_code == 200
    return {family.name: family for family in text_string_to_metric_families(response.text)}


async def test_metrics_hold_those_of_http_and_of_jobs(client: httpx.AsyncClient) -> None:
    await client.get("/health/live")
    found = families(await client.get("/metrics"))
    assert {"http_requests", "finmind_job_events", "finmind_job_run_seconds"} <= set(found)


async def test_labels_of_http_metrics_are_bounded_whatever_is_asked_for(
    client: httpx.AsyncClient, auth: Auth
) -> None:
    for number in range(20):
        await client.get(f"/made-up-{number}")
        await client.get(f"/admin/jobs/{number + 1}/", headers=auth("admin"))
        await client.get(f"/admin/jobs/{number + 1}", headers=auth("admin"))
        await client.request(f"VERB{number}", "/health/live")
    requests = families(await client.get("/metrics"))["http_requests"].samples
    handlers = {sample.labels["handler"] for sample in requests if "handler" in sample.labels}
    methods = {sample.labels["method"] for sample in requests if "method" in sample.labels}
    assert handlers == {"none", "/admin/jobs/{job_id}"}
    assert methods == {"GET"}


async def test_metrics_can_be_closed(
    make_settings: Callable[..., Settings], pg_dsn: str, auth: Auth
) -> None:
    settings = make_settings(database_url=SecretStr(pg_dsn), metrics_public=False)
    async with serving(settings) as client:
        assert (await client.get("/metrics")).status_code == 401
        assert (await client.get("/metrics", headers=auth("user"))).status_code == 403
        assert (await client.get("/metrics", headers=auth("viewer"))).status_code == 200


async def test_docs_can_be_turned_off(make_settings: Callable[..., Settings], pg_dsn: str) -> None:
    settings = make_settings(database_url=SecretStr(pg_dsn), docs_enabled=False)
    async with serving(settings) as client:
        for path in ("/", "/docs", "/openapi.json", "/docs/assets/swagger-ui.css", "/redoc"):
            assert (await client.get(path)).status_code == 404


async def test_the_bare_address_leads_to_the_docs(client: httpx.AsyncClient) -> None:
    answer = await client.get("/")
    assert answer.is_redirect
    assert "swagger-ui" in (await client.get(answer.headers["location"])).text


async def test_the_docs_page_needs_no_other_host(client: httpx.AsyncClient) -> None:
    page = await client.get("/docs")
    addresses = re.findall(r'(?:src|href)="([^"]*)"', page.text)
    assert len(addresses) == 3
    for address in addresses:
        assert address.startswith("/docs/assets/")
        assert (await client.get(address)).status_code == 200
    assert '"persistAuthorization": true' in page.text


async def test_the_policy_of_the_docs_page_allows_its_own_script_and_no_other(
    client: httpx.AsyncClient,
) -> None:
    page = await client.get("/docs")
    policy = page.headers["content-security-policy"]
    (script,) = re.findall(r"<script>(.*?)</script>", page.text, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    (allowed,) = re.findall(r"script-src ([^;]*)", policy)
    assert allowed == f"'self' 'sha256-{digest}'"


async def test_authorize_offers_the_token_and_the_key(client: httpx.AsyncClient) -> None:
    document = (await client.get("/openapi.json")).json()
    schemes = document["components"]["securitySchemes"]
    assert schemes["BearerToken"]["scheme"] == "bearer"
    assert schemes["ApiKey"]["name"] == "X-API-Key"
    operation = document["paths"]["/admin/api-keys"]["get"]
    assert sorted(next(iter(choice)) for choice in operation["security"]) == [
        "ApiKey",
        "BearerToken",
    ]
    assert document["paths"]["/health/live"]["get"]["security"] == []


async def test_metrics_show_each_counter_once(client: httpx.AsyncClient) -> None:
    await client.get("/health/live")
    text = (await client.get("/metrics")).text
    assert "finmind_job_events_total" in text
    assert re.findall(r"^\w+_created[ {].*", text, re.MULTILINE) == []


@pytest.mark.parametrize(
    "path", ["/health/live", "/health/ready", "/metrics", "/docs", "/openapi.json"]
)
async def test_a_monitor_may_ask_by_head(client: httpx.AsyncClient, path: str) -> None:
    asked, got = await client.head(path), await client.get(path)
    assert asked.status_code == got.status_code
    assert asked.headers["content-type"] == got.headers["content-type"]
