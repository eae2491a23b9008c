"""API keys over HTTP: made once, shown once, used in either header, revoked at once."""

from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest

from tests.api.conftest import Auth


async def make(client: httpx.AsyncClient, auth: Auth, **body: Any) -> httpx.Response:
    values: dict[str, Any] = {"name": "billing", "scopes": ["admin:read"]}
    return await client.post("/admin/api-keys", json=values | body, headers=auth("admin", "ann"))


async def test_a_key_is_made_shown_once_used_and_revoked(
    client: httpx.AsyncClient, auth: Auth
) -> None:
    made = await make(client, auth)
    assert made.status_code == 201
    key, prefix = made.json()["key"], made.json()["prefix"]
    assert key.startswith(f"fmj_{prefix}.")
    assert made.json()["created_by"] == "ann"

    for headers in ({"x-api-key": key}, {"authorization": f"Bearer {key}"}):
        used = await client.get("/admin/jobs/stats", headers=headers)
        assert used.status_code == 200

    listed = await client.get("/admin/api-keys", headers=auth("admin"))
    assert key.partition(".")[2] not in listed.text
    (entry,) = listed.json()["api_keys"]
    assert entry["prefix"] == prefix
    assert entry["last_used_at"] is not None

    where = f"/admin/api-keys/{prefix}"
    assert (await client.delete(where, headers=auth("admin"))).status_code == 204
    assert (await client.delete(where, headers=auth("admin"))).status_code == 204
    refused = await client.get("/admin/jobs/stats", headers={"x-api-key": key})
    assert refused.status_code == 401
    assert 'error="invalid_token"' in refused.headers["www-authenticate"]


async def test_a_key_cannot_make_one_that_may_do_more(
    client: httpx.AsyncClient, auth: Auth
) -> None:
    key = (await make(client, auth, scopes=["keys:manage", "jobs:read"])).json()["key"]
    for scopes, status in ((["jobs:read"], 201), (["jobs:read", "admin:operate"], 403)):
        response = await client.post(
            "/admin/api-keys",
            json={"name": "child", "scopes": scopes},
            headers={"x-api-key": key},
        )
        assert response.status_code == status


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"name": ""}, "body.name"),
        ({"name": "x" * 101}, "body.name"),
        ({"name": "a\nb"}, "body.name"),
        ({"scopes": []}, "body.scopes"),
        ({"scopes": ["everything"]}, "body.scopes.0"),
        ({"expires_at": "2001-01-01T00:00:00Z"}, "body.expires_at"),
        ({"expires_at": "2090-01-01T00:00:00"}, "body.expires_at"),
        ({"role": "admin"}, "body.role"),
    ],
)
async def test_a_bad_value_is_named(
    client: httpx.AsyncClient, auth: Auth, changes: dict[str, Any], field: str
) -> None:
    response = await make(client, auth, **changes)
    assert response.status_code == 422
    assert [error["field"] for error in response.json()["errors"]] == [field]


async def test_an_expiry_is_kept(client: httpx.AsyncClient, auth: Auth) -> None:
    tomorrow = (datetime.now(UTC) + timedelta(days=1)).replace(microsecond=0)
    made = await make(client, auth, expires_at=tomorrow.isoformat())
    assert datetime.fromisoformat(made.json()["expires_at"]) == tomorrow


@pytest.mark.parametrize("prefix", ["0000000000", "no-such", "a%00b", "%C3%A4"])
async def test_revoking_an_unknown_key_is_404(
    client: httpx.AsyncClient, auth: Auth, prefix: str
) -> None:
    response = await client.delete(f"/admin/api-keys/{prefix}", headers=auth("admin"))
    assert response.status_code == 404


@pytest.mark.parametrize(
    "headers",
    [
        [("authorization", "Basic YTpi")],
        [("authorization", "Bearer")],
        [("authorization", "Bearer  ")],
        [("authorization", "")],
        [("authorization", "Bearer " + "x" * 9000)],
        [("x-api-key", "")],
        [("x-api-key", "fmj_" + "x" * 5000)],
        [("x-api-key", "fmj_0000000000." + "a" * 43)],
    ],
)
async def test_what_is_no_credential_is_401(
    client: httpx.AsyncClient, headers: list[tuple[str, str]]
) -> None:
    response = await client.get("/admin/api-keys", headers=headers)
    assert response.status_code == 401
    assert response.headers["www-authenticate"].startswith("Bearer")


async def test_two_credentials_are_refused_even_if_each_holds(
    client: httpx.AsyncClient, auth: Auth
) -> None:
    key = (await make(client, auth)).json()["key"]
    token = auth("admin")["authorization"]
    for headers in (
        [("authorization", token), ("x-api-key", key)],
        [("authorization", token), ("authorization", token)],
    ):
        assert (await client.get("/admin/jobs", headers=headers)).status_code == 401
