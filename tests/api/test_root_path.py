"""Behind a proxy that serves the API under a path of its own, whether it takes that off or not."""

from collections.abc import Callable
from typing import Any

import httpx
import pytest
from pydantic import SecretStr, ValidationError

from service.settings import Settings
from tests.api.conftest import Auth

pytestmark = pytest.mark.whole

ROOT = "/jobs-service"
FORWARDED = pytest.mark.parametrize("prefix", ["", ROOT], ids=["taken-off", "left"])


@pytest.fixture
def api_settings(make_settings: Callable[..., Settings], pg_dsn: str) -> Settings:
    return make_settings(database_url=SecretStr(pg_dsn), root_path=f"{ROOT}/")


@FORWARDED
async def test_a_location_leads_through_the_proxy(
    client: httpx.AsyncClient, auth: Auth, prefix: str
) -> None:
    made = await client.post(f"{prefix}/jobs", json={"job_type": "m"}, headers=auth("admin"))
    once = auth("admin") | {"idempotency-key": "a"}
    again = await client.post(f"{prefix}/jobs", json={"job_type": "m"}, headers=once)
    for answer in (made, again):
        assert answer.status_code == 201
        assert answer.headers["location"] == f"{ROOT}/jobs/{answer.json()['id']}"
        read = await client.get(
            f"{prefix}{answer.headers['location'].removeprefix(ROOT)}", headers=auth("admin")
        )
        assert read.status_code == 200
    reminder = {
        "message": "m",
        "send_at": "2030-01-01T00:00:00Z",
        "channel": "log",
        "recipient": "a",
    }
    made = await client.post(f"{prefix}/reminders", json=reminder, headers=auth("user"))
    assert made.headers["location"] == f"{ROOT}/reminders/{made.json()['id']}"


@FORWARDED
async def test_the_documentation_calls_through_the_proxy(
    client: httpx.AsyncClient, prefix: str
) -> None:
    front = await client.get(f"{prefix}/")
    assert front.headers["location"] == f"{ROOT}/docs"
    page = (await client.get(f"{prefix}/docs")).text
    assert f"'{ROOT}/openapi.json'" in page
    assert f'"{ROOT}/docs/assets/swagger-ui-bundle.js"' in page
    assets = await client.get(f"{prefix}/docs/assets/swagger-ui-bundle.js")
    assert assets.status_code == 200
    document = (await client.get(f"{prefix}/openapi.json")).json()
    assert document["servers"] == [{"url": ROOT}]


@FORWARDED
async def test_errors_pages_and_metrics_are_as_without_a_proxy(
    client: httpx.AsyncClient, auth: Auth, prefix: str
) -> None:
    for number in range(3):
        body = {"job_type": "m", "payload": {"n": number}}
        await client.post(f"{prefix}/jobs", json=body, headers=auth("admin"))
    seen: list[Any] = []
    cursor: dict[str, str] = {}
    while True:
        page = await client.get(
            f"{prefix}/admin/jobs", params={"limit": "2"} | cursor, headers=auth("admin")
        )
        seen += page.json()["jobs"]
        if page.json()["next_cursor"] is None:
            break
        cursor = {"cursor": page.json()["next_cursor"]}
    assert len(seen) == 3
    wrong = await client.put(f"{prefix}/jobs/batch")
    assert (wrong.status_code, wrong.headers["allow"]) == (405, "POST")
    assert (await client.get(f"{prefix}/nowhere")).status_code == 404
    text = (await client.get(f"{prefix}/metrics")).text
    assert 'handler="/jobs"' in text
    assert ROOT not in text


@pytest.mark.parametrize("path", ["jobs-service", "/a b", "/a?b", "//a", "/jobs", "/admin/x"])
def test_a_root_path_that_the_api_uses_is_refused(
    make_settings: Callable[..., Settings], path: str
) -> None:
    with pytest.raises(ValidationError, match=r"expected a path|choose another"):
        make_settings(root_path=path)
