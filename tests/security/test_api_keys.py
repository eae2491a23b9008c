"""API keys: what a thief of the database holds, and how fast a key stops working."""

import asyncio
import base64
import hmac
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from sqlalchemy import text

from service.app import create_app
from service.settings import Settings
from tests.api.conftest import Auth
from tests.conftest import TEST_SECRET

TABLES = """
SELECT c.oid::regclass::text FROM pg_class c
WHERE relnamespace = 'finmind_jobs'::regnamespace AND relkind = 'r'"""


async def made(client: httpx.AsyncClient, auth: Auth) -> str:
    answer = await client.post(
        "/admin/api-keys",
        json={"name": "n", "scopes": ["jobs:write", "jobs:read"]},
        headers=auth("admin"),
    )
    key: str = answer.json()["key"]
    return key


async def dump(app: FastAPI) -> str:
    """Every row of every table, as text, and what PostgreSQL remembers of statements."""
    async with app.state.service.database.engine.connect() as connection:
        tables = list(await connection.scalars(text(TABLES)))
        rows: list[str] = []
        for table in tables:
            rows += await connection.scalars(text(f"SELECT t::text FROM {table} t"))
        rows += await connection.scalars(text("SELECT query FROM pg_stat_activity"))
        return "\n".join(rows)


async def test_a_dump_of_the_database_holds_nothing_that_lets_anybody_in(
    client: httpx.AsyncClient, app: FastAPI, auth: Auth
) -> None:
    key = await made(client, auth)
    prefix, _, secret = key.removeprefix("fmj_").partition(".")
    token = auth("service")["authorization"].removeprefix("Bearer ")
    for headers in ({"X-API-Key": key}, {"authorization": f"Bearer {token}"}):
        answer = await client.post(
            "/jobs",
            json={"job_type": "mail", "unique_key": headers.get("X-API-Key", "token")[:7]},
            headers=headers | {"Idempotency-Key": "once"},
        )
        assert answer.status_code in (200, 201)
    stolen = await dump(app)
    assert prefix in stolen  # it is the dump that we think it is
    for canary in (secret, token, token.split(".")[2], TEST_SECRET):
        forms = (canary, base64.b64encode(canary.encode()).decode(), canary.encode().hex())
        assert [form for form in forms if form in stolen] == []
    # What is there, the hash, is no key in any spelling.
    async with app.state.service.database.engine.connect() as connection:
        digest: bytes = (await connection.scalars(text("SELECT secret_hash FROM api_keys"))).one()
    for spelling in (
        base64.urlsafe_b64encode(digest).rstrip(b"=").decode(),
        digest.hex(),
        digest.hex()[:43],
        "\\x" + digest.hex(),
    ):
        answer = await client.get("/jobs/1", headers={"X-API-Key": f"fmj_{prefix}.{spelling}"})
        assert answer.status_code == 401


async def test_after_the_answer_to_a_revocation_no_process_takes_the_key(
    client: httpx.AsyncClient, api_settings: Settings, auth: Auth
) -> None:
    elsewhere = create_app(api_settings, run_worker=False)
    transport = httpx.ASGITransport(app=elsewhere, raise_app_exceptions=False)
    async with (
        elsewhere.router.lifespan_context(elsewhere),
        httpx.AsyncClient(transport=transport, base_url="http://service.test") as other,
    ):
        for _ in range(5):
            key = await made(client, auth)
            headers = {"X-API-Key": key}
            before = await asyncio.gather(
                *(other.get("/jobs/1", headers=headers) for _ in range(5))
            )
            assert {answer.status_code for answer in before} == {404}
            prefix = key.removeprefix("fmj_").partition(".")[0]
            gone = await client.delete(f"/admin/api-keys/{prefix}", headers=auth("admin"))
            assert gone.status_code == 204
            after = await asyncio.gather(
                *(
                    side.get("/jobs/1", headers=headers)
                    for side in (client, other)
                    for _ in range(5)
                )
            )
            assert {answer.status_code for answer in after} == {401}


async def test_known_and_unknown_keys_are_compared_in_the_same_constant_time(
    client: httpx.AsyncClient, auth: Auth, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = await made(client, auth)
    compared: list[tuple[int, int]] = []
    compare = hmac.compare_digest

    def noted(one: Any, other: Any) -> bool:
        compared.append((len(one), len(other)))
        return compare(one, other)

    monkeypatch.setattr(hmac, "compare_digest", noted)
    wrong = key[:-1] + ("A" if key[-1] != "A" else "B")
    for tried in (key, wrong, "fmj_0000000000." + key.partition(".")[2]):
        await client.get("/jobs/1", headers={"X-API-Key": tried})
    # Hashes of one length, once for each: neither the time nor the answer tells which prefixes are.
    assert compared == [(32, 32)] * 3
