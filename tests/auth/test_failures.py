"""Failed sign-ins: told to slow down beyond a bound, and never in the way of who may come in."""

import asyncio
import contextlib

import httpx
import pytest
from fastapi import FastAPI
from sqlalchemy import text

from service.auth.failures import MAX_SOURCES, FailedSignIns
from service.auth.principal import Permission
from service.db.engine import Database
from service.errors import TooManyFailures
from tests.api.conftest import Auth, api_settings, app, auth, client
from tests.api.shapes import assert_problem
from tests.api.shell import sample
from tests.jobs.waiting import until_true

__all__ = ["api_settings", "app", "auth", "client"]

MOST = 5
NEAR, FAR = "203.0.113.7", "203.0.113.8"
WRONG = {"authorization": "Bearer eyJh.eyJh.c2ln"}


@pytest.fixture
async def bounded(app: FastAPI) -> FastAPI:
    app.state.authenticator._failures = FailedSignIns(MOST)
    return app


def from_(app: FastAPI, address: str) -> httpx.AsyncClient:
    transport = httpx.ASGITransport(app=app, raise_app_exceptions=False, client=(address, 4711))
    return httpx.AsyncClient(transport=transport, base_url="http://service.test", timeout=20)


async def test_floods_of_wrong_credentials_are_429_and_good_ones_pass(
    bounded: FastAPI, auth: Auth
) -> None:
    before = sample("finmind_auth_failures_total", reason="limited")
    async with from_(bounded, NEAR) as near, from_(bounded, FAR) as far:
        made = await near.post(
            "/admin/api-keys", json={"name": "n", "scopes": ["admin:read"]}, headers=auth("admin")
        )
        key = {"X-API-Key": made.json()["key"]}
        for _ in range(MOST):
            assert_problem(await near.get("/admin/jobs", headers=WRONG), 401)
        for headers in (WRONG, {"X-API-Key": "fmj_0000000000." + "a" * 43}, {"X-API-Key": "x"}):
            answer = await near.get("/admin/jobs", headers=headers)
            assert answer.status_code == 429
            assert answer.json()["type"].endswith(":too-many-failures")
            assert 1 <= int(answer.headers["retry-after"]) <= 60
        # Nobody is locked out by what others at their address do, and nobody elsewhere notices.
        assert (await near.get("/admin/jobs", headers=key)).status_code == 200
        assert (await near.get("/admin/jobs", headers=auth("viewer"))).status_code == 200
        assert_problem(await near.get("/admin/jobs"), 401)
        assert_problem(await far.get("/admin/jobs", headers=WRONG), 401)
    assert sample("finmind_auth_failures_total", reason="limited") == before + 3


async def test_requests_without_a_credential_do_not_count(bounded: FastAPI) -> None:
    async with from_(bounded, NEAR) as client:
        for _ in range(3 * MOST):
            assert_problem(await client.get("/admin/jobs"), 401)


async def test_a_flood_of_wrong_keys_takes_one_turn_at_a_time(
    bounded: FastAPI, database: Database
) -> None:
    authenticator = bounded.state.authenticator
    made = await authenticator.api_keys.create("n", [Permission.JOBS_READ], created_by="ann")
    for _ in range(MOST + 1):
        authenticator._failures.note(NEAR)
    ended: list[str] = []

    async def sign_in(key: str, source: str) -> None:
        with contextlib.suppress(TooManyFailures):
            await authenticator.authenticate((), [key], source=source)
        ended.append(source)

    async with asyncio.TaskGroup() as group, database.sessions.begin() as session:
        # No look-up can go on until all have come.
        await session.execute(text("LOCK TABLE api_keys IN ACCESS EXCLUSIVE MODE"))
        for _ in range(30):
            group.create_task(sign_in("fmj_0000000000." + "a" * 43, NEAR))
        await until_true(lambda: len(authenticator._one_at_a_time._waiters or ()) == 29)
        group.create_task(sign_in(made.key, FAR))
        await until_true(lambda: bool(authenticator.api_keys._link._lock._waiters))
        await session.commit()
        await until_true(lambda: len(ended) == 31)
    assert ended.index(FAR) <= 2


def test_failures_are_forgiven_within_a_minute_however_many_there_were() -> None:
    now = [1000.0]
    failures = FailedSignIns(60, clock=lambda: now[0])
    for _ in range(60):
        failures.note("192.0.2.1")
    assert failures.wait_seconds("192.0.2.1") == 0
    for _ in range(100_000):
        failures.note("192.0.2.1")
    assert 0 < failures.wait_seconds("192.0.2.1") <= 1
    now[0] += 1.1
    assert failures.wait_seconds("192.0.2.1") == 0
    now[0] += 60
    for _ in range(60):
        failures.note("192.0.2.1")
    assert failures.wait_seconds("192.0.2.1") == 0


def test_the_memory_of_sources_is_bounded_and_keeps_those_that_go_on() -> None:
    failures = FailedSignIns(1, clock=lambda: 0.0)
    for number in range(2 * MAX_SOURCES):
        failures.note("persistent")
        failures.note(f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}")
    assert len(failures._buckets) == MAX_SOURCES
    assert failures.wait_seconds("persistent") > 0


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("2001:db8::1", "2001:db8::ffff:1", True),
        ("2001:db8::1", "2001:db8:0:1::1", False),
        ("::ffff:192.0.2.1", "192.0.2.1", True),
        ("192.0.2.1", "192.0.2.2", False),
        ("fe80::1%eth0", "fe80::2%eth1", True),
        ("a socket", "a socket", True),
    ],
)
def test_whoever_has_one_address_of_a_network_has_all_of_it(
    one: str, other: str, same: bool
) -> None:
    failures = FailedSignIns(1, clock=lambda: 0.0)
    failures.note(one)
    failures.note(one)
    assert (failures.wait_seconds(other) > 0) is same


async def test_it_can_be_turned_off(app: FastAPI) -> None:
    app.state.authenticator._failures = FailedSignIns(0)
    async with from_(app, NEAR) as client:
        for _ in range(100):
            assert_problem(await client.get("/admin/jobs", headers=WRONG), 401)
