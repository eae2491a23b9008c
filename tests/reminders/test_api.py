import asyncio
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
from pydantic import SecretStr
from sqlalchemy import text

from service.app import create_app
from service.settings import Settings
from tests.api.conftest import Auth

BODY: dict[str, Any] = {
    "message": "Pay the bill",
    "send_at": "2030-01-31T09:00:00+01:00",
    "channel": "email",
    "recipient": "ada@example.org",
}


async def create(
    client: httpx.AsyncClient, headers: dict[str, str], **values: Any
) -> dict[str, Any]:
    answer = await client.post("/reminders", json=BODY | values, headers=headers)
    assert answer.status_code == 201, answer.text
    created: dict[str, Any] = answer.json()
    return created


def due() -> str:
    return (datetime.now(UTC) - timedelta(minutes=1)).isoformat()


async def test_a_reminder_is_created_read_changed_and_deleted(
    client: httpx.AsyncClient, auth: Auth
) -> None:
    ada = auth("user", "ada")
    answer = await client.post("/reminders", json=BODY, headers=ada)
    assert answer.status_code == 201
    created = answer.json()
    where = answer.headers["location"]
    assert where == f"/reminders/{created['id']}"
    assert created == BODY | {
        "id": created["id"],
        "user_id": "ada",
        "send_at": "2030-01-31T08:00:00Z",
        "status": "scheduled",
        "sent": False,
        "sent_at": None,
        "attempts": 0,
        "last_error": None,
        "job_id": None,
        "created_at": created["created_at"],
        "updated_at": created["updated_at"],
    }
    assert (await client.get(where, headers=ada)).json() == created

    changed = await client.patch(where, json={"message": "Paid?"}, headers=ada)
    assert changed.status_code == 200
    assert changed.json()["message"] == "Paid?"
    assert changed.json()["updated_at"] > created["updated_at"]

    assert (await client.delete(where, headers=ada)).status_code == 204
    assert (await client.get(where, headers=ada)).status_code == 404
    assert (await client.delete(where, headers=ada)).status_code == 404


async def test_each_user_sees_its_own_and_an_admin_all(
    client: httpx.AsyncClient, auth: Auth
) -> None:
    ada, eve, admin = auth("user", "ada"), auth("user", "eve"), auth("admin", "root")
    mine, hers = await create(client, ada), await create(client, eve)
    where = f"/reminders/{hers['id']}"
    for answer in (
        await client.get(where, headers=ada),
        await client.patch(where, json={"message": "x"}, headers=ada),
        await client.delete(where, headers=ada),
    ):
        assert answer.status_code == 404
        assert "eve" not in answer.text
    listed = (await client.get("/reminders", headers=ada)).json()["reminders"]
    assert [reminder["id"] for reminder in listed] == [mine["id"]]
    forbidden = await client.get("/reminders", params={"user_id": "eve"}, headers=ada)
    assert forbidden.status_code == 403
    listed = (await client.get("/reminders", headers=admin)).json()["reminders"]
    assert [reminder["id"] for reminder in listed] == [hers["id"], mine["id"]]
    only_eve = await client.get("/reminders", params={"user_id": "eve"}, headers=admin)
    assert [reminder["id"] for reminder in only_eve.json()["reminders"]] == [hers["id"]]
    assert (await client.patch(where, json={"message": "x"}, headers=admin)).status_code == 200
    assert (await client.delete(where, headers=admin)).status_code == 204


async def test_pages_go_from_newest_to_oldest_and_miss_or_repeat_nothing(
    client: httpx.AsyncClient, auth: Auth
) -> None:
    ada = auth("user", "ada")
    ids = [(await create(client, ada))["id"] for _ in range(5)]
    seen: list[int] = []
    cursor: str | None = None
    for _ in range(3):
        params: dict[str, Any] = {"limit": 2} | ({"cursor": cursor} if cursor else {})
        page = (await client.get("/reminders", params=params, headers=ada)).json()
        seen += [reminder["id"] for reminder in page["reminders"]]
        cursor = page["next_cursor"]
        await create(client, ada)  # a newcomer must not shift the next page
    assert seen == ids[::-1]
    assert cursor is None


async def test_a_list_can_be_narrowed_to_a_status(client: httpx.AsyncClient, auth: Auth) -> None:
    ada = auth("user", "ada")
    reminder = await create(client, ada)
    for status, found in (("scheduled", [reminder["id"]]), ("sent", []), ("failed", [])):
        page = (await client.get("/reminders", params={"status": status}, headers=ada)).json()
        assert [one["id"] for one in page["reminders"]] == found


@pytest.mark.parametrize(
    "params",
    [
        {"limit": 0},
        {"limit": 201},
        {"limit": "x"},
        {"cursor": ""},
        {"cursor": "nonsense"},
        {"cursor": "am9iczo1"},
        {"cursor": "cmVtaW5kZXJzOi0x"},
        {"cursor": "x" * 200},
        {"cursor": "ä"},
        {"status": "lost"},
        {"user_id": ""},
        {"user_id": "a\x00b"},
    ],
)
async def test_a_bad_filter_is_refused_and_named(
    client: httpx.AsyncClient, auth: Auth, params: dict[str, Any]
) -> None:
    answer = await client.get("/reminders", params=params, headers=auth("admin"))
    assert answer.status_code == 422
    assert answer.headers["content-type"] == "application/problem+json"
    assert next(iter(params)) in answer.text


@pytest.mark.parametrize(
    "change",
    [
        {"recipient": "ada@example.org\r\nBcc: eve@example.org"},
        {"send_at": "2030-01-31T09:00:00"},
        {"message": "x" * 501},
        {"message": "a\x00b"},
        {"channel": "whatsapp"},
        {"colour": "red"},
    ],
)
async def test_a_bad_value_is_refused(
    client: httpx.AsyncClient, auth: Auth, change: dict[str, Any]
) -> None:
    ada = auth("user", "ada")
    assert (await client.post("/reminders", json=BODY | change, headers=ada)).status_code == 422
    reminder = await create(client, ada)
    where = f"/reminders/{reminder['id']}"
    assert (await client.patch(where, json=change, headers=ada)).status_code == 422
    assert (await client.patch(where, json={}, headers=ada)).status_code == 422
    assert (await client.get(where, headers=ada)).json() == reminder


@pytest.mark.parametrize("reminder_id", ["0", "-1", "x", str(2**63), "1e3"])
async def test_an_id_that_cannot_be_one_is_refused(
    client: httpx.AsyncClient, auth: Auth, reminder_id: str
) -> None:
    answer = await client.get(f"/reminders/{reminder_id}", headers=auth("user"))
    assert answer.status_code == 422


@pytest.mark.parametrize(
    ("role", "own", "run"),
    [
        ("admin", 200, 200),
        ("operator", 403, 200),
        ("viewer", 403, 403),
        ("service", 403, 403),
        ("user", 200, 403),
        (None, 401, 401),
    ],
)
async def test_who_may_do_what(
    client: httpx.AsyncClient, auth: Auth, role: str | None, own: int, run: int
) -> None:
    headers = auth(role) if role else {}
    assert (await client.get("/reminders", headers=headers)).status_code == own
    assert (await client.post("/reminders/run", headers=headers)).status_code == run


async def test_run_enqueues_once_and_a_change_cancels_the_job(
    client: httpx.AsyncClient, auth: Auth
) -> None:
    ada, admin = auth("user", "ada"), auth("admin")
    await create(client, ada)
    reminder = await create(client, ada, send_at=due())
    first = await client.post("/reminders/run", headers=admin)
    assert (first.status_code, first.json()) == (200, {"enqueued": 1, "already_queued": 0})
    second = await client.post("/reminders/run", headers=admin)
    assert second.json() == {"enqueued": 0, "already_queued": 1}

    where = f"/reminders/{reminder['id']}"
    queued = (await client.get(where, headers=ada)).json()
    assert (queued["status"], queued["sent"]) == ("queued", False)
    job = f"/jobs/{queued['job_id']}"
    assert (await client.get(job, headers=admin)).json()["status"] == "PENDING"
    await client.patch(where, json={"send_at": BODY["send_at"]}, headers=ada)
    assert (await client.get(job, headers=admin)).json()["status"] == "CANCELLED"
    assert (await client.get(where, headers=ada)).json()["status"] == "scheduled"


async def test_a_cursor_holds_for_the_list_that_gave_it_alone(
    client: httpx.AsyncClient, auth: Auth
) -> None:
    ada, admin = auth("user", "ada"), auth("admin")
    for _ in range(2):
        await create(client, ada)
        await client.post("/jobs", json={"job_type": "mail"}, headers=admin)
    mine = (await client.get("/reminders", params={"limit": 1}, headers=ada)).json()["next_cursor"]
    jobs = (await client.get("/admin/jobs", params={"limit": 1}, headers=admin)).json()
    for params, headers in (
        ({"cursor": jobs["next_cursor"]}, admin),
        ({"cursor": mine}, admin),
        ({"cursor": mine, "status": "sent"}, ada),
    ):
        answer = await client.get("/reminders", params=params, headers=headers)
        assert answer.status_code == 422
        assert answer.json()["errors"][0]["field"] == "query.cursor"
    assert (await client.get("/reminders", params={"cursor": mine}, headers=ada)).is_success


async def test_a_slow_statement_is_ended_and_reported(
    make_settings: Callable[..., Settings], pg_dsn: str, auth: Auth
) -> None:
    settings = make_settings(database_url=SecretStr(pg_dsn), query_timeout_seconds=0.05)
    app = create_app(settings, run_worker=False)
    transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
    admin = auth("admin")
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://service.test") as client,
        app.state.service.database.sessions() as holder,
        asyncio.timeout(settings.database_command_timeout_seconds / 2),
    ):
        await holder.execute(text("LOCK TABLE reminders"))
        for method, path, body in (
            ("GET", "/reminders", None),
            ("POST", "/reminders", BODY),
            ("POST", "/reminders/run", None),
            ("GET", "/reminders/1", None),
            ("PATCH", "/reminders/1", {"message": "x"}),
            ("DELETE", "/reminders/1", None),
        ):
            answer = await client.request(method, path, json=body, headers=admin)
            assert answer.status_code == 503, (method, path)
            assert "retry-after" in answer.headers


@pytest.mark.parametrize("role", ["service", "admin"])
async def test_no_client_enqueues_a_job_type_of_the_service(
    client: httpx.AsyncClient, auth: Auth, role: str
) -> None:
    job = {"job_type": "send_reminder", "payload": {"reminder_id": 1, "delivery_id": "x"}}
    good = {"job_type": "send_reminders"}
    for path, body in (("/jobs", job), ("/jobs/batch", {"jobs": [good, job]})):
        for headers in (auth(role), auth(role) | {"Idempotency-Key": "k"}):
            answer = await client.post(path, json=body, headers=headers)
            assert answer.status_code == 403
            assert "send_reminder" in answer.json()["detail"]
