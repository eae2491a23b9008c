"""The audit log over REST: what each change leaves in it, its pages and its export."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from sqlalchemy import text

from service import audit
from service.api import audit as routes
from service.audit import Actor
from service.db.engine import Database
from service.targets import repository
from tests.api.conftest import Auth
from tests.api.test_policies import a_path
from tests.schedules.code import declare_one

WORKER_CALLS = (
    "register", "claim", "heartbeat", "progress", "log", "complete", "fail", "snooze", "release", "stop"
)  # fmt: skip
NOT_AUDITED = {
    **{
        ("POST", f"/worker/{call}"): "a worker's daily work: the job's history names the worker"
        for call in WORKER_CALLS
    },
    ("POST", "/schedules/preview"): "it changes nothing",
    ("POST", "/admin/operations/preview"): "it changes nothing",
    ("POST", "/jobs"): "a client's daily work: the job itself says who enqueued it and when",
    ("POST", "/jobs/batch"): "the same",
    ("POST", "/jobs/chain"): "the same",
    ("POST", "/batches"): "the same, of the batch",
    ("POST", "/batches/{batch_id}/jobs"): "the same",
    ("POST", "/batches/{batch_id}/close"): "the same",
    (
        "POST",
        "/reminders",
    ): "a user's own: the reminder itself says whose it is and when it was made",
}
"""Routes that change something and leave no entry, and why."""


async def fill(client: httpx.AsyncClient, auth: Auth, database: Database) -> dict[str, str]:
    """One thing for each route to change; the path of each."""
    jobs = [
        (await client.post("/jobs", json={"job_type": "t"}, headers=auth("service"))).json()["id"]
        for _ in range(3)
    ]
    async with database.sessions.begin() as session:
        await session.execute(
            text("WITH gone AS (DELETE FROM jobs_live WHERE id = :id RETURNING *)"
                 " INSERT INTO jobs_dead (id, job_type, queue, status, attempts, finished_at,"
                 " fingerprint)"
                 " SELECT id, job_type, queue, 'FAILED', 3, now(), 'a' FROM gone"),
            {"id": jobs[0]},
        )  # fmt: skip
        await repository.open_breaker(
            session, "crm.example.com:443", error="broke off", pause=60, longest=60
        )
    operations = [
        (
            await client.post(
                "/admin/operations",
                json={"action": "cancel", "filter": {"job_type": "none"}},
                headers=auth("admin", "setup"),
            )
        ).json()["id"]
        for _ in range(2)
    ]
    await client.post(f"/admin/operations/{operations[1]}/pause", headers=auth("admin", "setup"))
    body = {"name": "old", "scopes": ["jobs:read"]}
    serves = {"worker": "mailer-1:831", "job_types": ["mail"]}
    worker = await client.post("/worker/register", json=serves, headers=auth("admin", "setup"))
    batch = await client.post("/batches", json={"name": "b"}, headers=auth("admin", "setup"))
    made = await client.post("/admin/api-keys", json=body, headers=auth("admin", "setup"))
    for name in ("mine", "paused"):
        schedule = {"name": name, "cron": "@yearly", "job_type": "t"}
        await client.post("/schedules", json=schedule, headers=auth("admin", "setup"))
    await client.post("/schedules/paused/pause", headers=auth("admin", "setup"))
    await declare_one(database, "coded")
    change = {"priority": 3}
    await client.patch("/schedules/coded", json=change, headers=auth("admin", "setup"))
    reminder = await client.post("/reminders", json=REMINDER, headers=auth("user", "ada"))
    return {
        "/admin/jobs/{job_id}/retry": f"/admin/jobs/{jobs[0]}/retry",
        "/jobs/{job_id}": f"/jobs/{jobs[2]}",
        "/jobs/{job_id}/run-now": f"/jobs/{jobs[1]}/run-now",
        "/jobs/{job_id}/cancel": f"/jobs/{jobs[1]}/cancel",
        "/jobs/{job_id}/events/{name}": f"/jobs/{jobs[1]}/events/paid",
        "/admin/jobs/{job_id}/cancel": f"/admin/jobs/{jobs[1]}/cancel",
        "/admin/jobs/{job_id}": f"/admin/jobs/{jobs[2]}",
        "/admin/jobs/{job_id}/run-now": f"/admin/jobs/{jobs[1]}/run-now",
        "/admin/jobs/{job_id}/clone": f"/admin/jobs/{jobs[0]}/clone",
        **{
            f"/admin/dead-letters/groups/{{fingerprint}}/{verb}": f"/admin/dead-letters/groups/a/{verb}"
            for verb in ("resolve", "ignore", "reopen")
        },
        "/queues/{name}": "/queues/mail",
        "/admin/workers/{worker_id}/drain": f"/admin/workers/{worker.json()['worker_id']}/drain",
        "/targets/{name}/reset": "/targets/crm.example.com:443/reset",
        "/schedules/{name}": "/schedules/mine",
        "/schedules/{name}/pause": "/schedules/mine/pause",
        "/schedules/{name}/release": "/schedules/coded/release",
        "/schedules/{name}/run": "/schedules/mine/run",
        "/schedules/{name}/backfill": "/schedules/mine/backfill",
        "/schedules/{name}/resume": "/schedules/paused/resume",
        "/batches/{batch_id}/cancel": f"/batches/{batch.json()['id']}/cancel",
        "/reminders/{reminder_id}": f"/reminders/{reminder.json()['id']}",
        "/admin/operations/{operation_id}/pause": f"/admin/operations/{operations[0]}/pause",
        "/admin/operations/{operation_id}/resume": f"/admin/operations/{operations[1]}/resume",
        "/admin/operations/{operation_id}/cancel": f"/admin/operations/{operations[0]}/cancel",
        "/admin/api-keys/{prefix}": f"/admin/api-keys/{made.json()['prefix']}",
    }


REMINDER = {
    "message": "secret words", "send_at": "2100-01-01T00:00:00Z", "channel": "log", "recipient": "a",
}  # fmt: skip
BODIES: dict[tuple[str, str], Any] = {
    ("PATCH", "/reminders/{reminder_id}"): {"message": "other secret words"},
    ("POST", "/admin/operations"): {"action": "delete", "filter": {"queue": "old"}},
    ("POST", "/admin/api-keys"): {"name": "new", "scopes": ["jobs:read"]},
    ("PATCH", "/queues/{name}"): {"paused": True},
    ("POST", "/schedules"): {"name": "new", "every_seconds": 86400, "job_type": "t"},
    ("PATCH", "/schedules/{name}"): {"cron": "@daily"},
    ("POST", "/schedules/{name}/backfill"): {
        "from": "2026-01-01T00:00:00Z",
        "until": "2026-01-02T00:00:00Z",
    },
    ("POST", "/schedules/pause"): {"names": ["mine"]},
    ("POST", "/schedules/resume"): {"names": ["paused"]},
    ("PATCH", "/admin/jobs/{job_id}"): {"queue": "slow", "payload": {"n": 2}},
    ("PATCH", "/jobs/{job_id}"): {"queue": "slow", "payload": {"n": 2}},
    ("POST", "/jobs/{job_id}/events/{name}"): {"data": {"amount": 12}},
}
EXPECTED: dict[tuple[str, str], tuple[str, Any, Any]] = {
    ("POST", "/admin/jobs/process"): (
        "job.process", None, {"limit": 50, "processed": 4, "failed": 2},
    ),
    ("POST", "/admin/jobs/{job_id}/retry"): (
        "job.retry", {"status": "FAILED", "attempts": 3}, {"status": "PENDING", "attempts": 0},
    ),
    ("POST", "/admin/jobs/{job_id}/cancel"): (
        "job.cancel", {"status": "PENDING"}, {"status": "CANCELLED"},
    ),
    ("POST", "/jobs/{job_id}/cancel"): (
        "job.cancel", {"status": "PENDING"}, {"status": "CANCELLED"},
    ),
    ("DELETE", "/admin/jobs/{job_id}"): (
        "job.delete", {"status": "PENDING", "job_type": "t", "queue": "default"}, None,
    ),
    ("PATCH", "/admin/jobs/{job_id}"): (
        "job.edit", {"queue": "default", "payload": {}}, {"queue": "slow", "payload": {"n": 2}},
    ),
    ("POST", "/admin/jobs/{job_id}/run-now"): ("job.run_now", {}, {}),
    ("POST", "/jobs/{job_id}/run-now"): ("job.run_now", {}, {}),
    ("POST", "/jobs/{job_id}/events/{name}"): (
        "job.event", None, {"event": "paid", "was_awaited": False},
    ),
    ("PATCH", "/jobs/{job_id}"): (
        "job.edit", {"queue": "default", "payload": {}}, {"queue": "slow", "payload": {"n": 2}},
    ),
    ("POST", "/admin/jobs/{job_id}/clone"): ("job.clone", {}, {"job_type": "t"}),
    ("PATCH", "/queues/{name}"): ("queue.pause", None, {}),
    ("POST", "/admin/workers/{worker_id}/drain"): (
        "worker.drain", {"name": "mailer-1:831", "owner": "setup"}, {},
    ),
    ("POST", "/targets/{name}/reset"): (
        "target.reset", {"state": "open"}, {"state": "closed"},
    ),
    ("POST", "/schedules"): ("schedule.create", None, {"every_seconds": 86400.0, "job_type": "t"}),
    ("POST", "/schedules/pause"): ("schedule.pause", None, None),
    ("POST", "/schedules/resume"): ("schedule.resume", {"paused_by": "setup"}, None),
    ("POST", "/schedules/{name}/pause"): ("schedule.pause", None, None),
    ("POST", "/schedules/{name}/resume"): ("schedule.resume", {"paused_by": "setup"}, None),
    ("PATCH", "/schedules/{name}"): (
        "schedule.edit", {"cron": "@yearly"}, {"cron": "@daily"},
    ),
    ("POST", "/schedules/{name}/release"): ("schedule.release", {"priority": 3}, {"priority": None}),
    ("POST", "/schedules/{name}/run"): ("schedule.run", None, {}),
    ("POST", "/schedules/{name}/backfill"): (
        "schedule.backfill", None, {"enqueued": 1, "skipped": 0},
    ),
    ("DELETE", "/schedules/{name}"): ("schedule.delete", {"cron": "@yearly"}, None),
    ("POST", "/batches/{batch_id}/cancel"): (
        "batch.cancel", {"state": "open"}, {"state": "cancelled"},
    ),
    ("POST", "/admin/dead-letters/groups/{fingerprint}/resolve"): (
        "cause.resolve", {"state": "unresolved"}, {"state": "resolved"},
    ),
    ("POST", "/admin/dead-letters/groups/{fingerprint}/ignore"): (
        "cause.ignore", {"state": "unresolved"}, {"state": "ignored"},
    ),
    ("POST", "/admin/dead-letters/groups/{fingerprint}/reopen"): (
        "cause.reopen", {"state": "unresolved"}, {"state": "unresolved"},
    ),
    ("POST", "/admin/operations"): ("operation.start", None, {"action": "delete", "expected": 0}),
    ("POST", "/admin/operations/{operation_id}/pause"): ("operation.pause", None, None),
    ("POST", "/admin/operations/{operation_id}/resume"): (
        "operation.resume", {"state": "paused"}, None,
    ),
    ("POST", "/admin/operations/{operation_id}/cancel"): (
        "operation.cancel", {"state": "running"}, {"changed": 0},
    ),
    ("POST", "/admin/api-keys"): (
        "api_key.create", None, {"name": "new", "scopes": ["jobs:read"]},
    ),
    ("DELETE", "/admin/api-keys/{prefix}"): (
        "api_key.revoke", {"name": "old", "revoked_at": None}, {"with_keys": []},
    ),
    ("POST", "/reminders/run"): (
        "reminder.run", None, {"enqueued": 0, "already_queued": 0},
    ),
    ("PATCH", "/reminders/{reminder_id}"): (
        "reminder.edit", {"user_id": "ada", "channel": "log"}, {"changed": ["message"]},
    ),
    ("DELETE", "/reminders/{reminder_id}"): ("reminder.delete", {"user_id": "ada"}, None),
}  # fmt: skip
"""What each route that changes something leaves in the log: action, and of before and after these."""


@pytest.mark.parametrize("route", EXPECTED, ids=" ".join)
async def test_a_change_leaves_exactly_one_entry(
    client: httpx.AsyncClient, auth: Auth, app: FastAPI, route: tuple[str, str]
) -> None:
    method, template = route
    paths = await fill(client, auth, app.state.service.database)
    last = (await listed(client, auth))["entries"][0]["id"]
    headers = auth("admin", "ann") | {"x-request-id": "request-7"}
    answer = await client.request(
        method, paths.get(template, template), headers=headers, json=BODIES.get(route)
    )
    assert answer.is_success, answer.text
    entries = [entry for entry in (await listed(client, auth))["entries"] if entry["id"] > last]
    # A pass over due jobs carries out the operations that wait.
    (entry,) = [entry for entry in entries if entry["actor"] == "ann"]
    action, before, after = EXPECTED[route]
    assert (entry["actor"], entry["action"], entry["outcome"]) == ("ann", action, "done")
    assert (entry["request_id"], entry["address"]) == ("request-7", "127.0.0.1")
    for name, promised in (("before", before), ("after", after)):
        got = entry[name]
        assert (got is None) == (promised is None)
        assert promised is None or promised.items() <= got.items()


REASONED: dict[tuple[str, str], Any] = {
    ("POST", "/admin/jobs/{job_id}/retry"): {},
    ("PATCH", "/admin/jobs/{job_id}"): {"priority": 1},
    ("POST", "/admin/jobs/{job_id}/cancel"): None,
    ("POST", "/jobs/{job_id}/cancel"): None,
    ("POST", "/jobs/{job_id}/run-now"): None,
    ("POST", "/jobs/{job_id}/events/{name}"): {},
    ("PATCH", "/jobs/{job_id}"): {"priority": 1},
    ("DELETE", "/admin/jobs/{job_id}"): None,
    ("POST", "/admin/jobs/{job_id}/run-now"): None,
    ("POST", "/admin/jobs/{job_id}/clone"): None,
    ("DELETE", "/admin/api-keys/{prefix}"): None,
}
"""Routes that take a reason, and a body that they need besides; None: they have no body."""


@pytest.mark.parametrize("route", REASONED, ids=" ".join)
async def test_who_changes_something_may_say_why(
    client: httpx.AsyncClient, auth: Auth, app: FastAPI, route: tuple[str, str]
) -> None:
    method, template = route
    path = (await fill(client, auth, app.state.service.database))[template]
    body = REASONED[route]
    for reason, status in (("x" * 501, 422), ("customer asked", 200)):
        given = {"reason": reason}
        more = {"params": given} if body is None else {"json": body | given}
        answer = await client.request(method, path, headers=auth("admin", "ann"), **more)
        assert (answer.status_code == 422) is (status == 422), answer.text
    assert answer.is_success
    entries = (await listed(client, auth))["entries"]
    assert [entry["reason"] for entry in entries if entry["actor"] == "ann"] == ["customer asked"]


async def test_a_users_own_reminder_leaves_no_entry_and_anothers_not_its_words(
    client: httpx.AsyncClient, auth: Auth, app: FastAPI
) -> None:
    path = (await fill(client, auth, app.state.service.database))["/reminders/{reminder_id}"]
    for headers, count in ((auth("user", "ada"), 0), (auth("admin", "ann"), 1)):
        before = (await listed(client, auth))["entries"]
        answer = await client.patch(path, json={"message": "secret words"}, headers=headers)
        assert answer.status_code == 200
        after = (await listed(client, auth))["entries"]
        assert len(after) - len(before) == count
        assert "secret words" not in json.dumps(after)


async def test_what_changes_nothing_leaves_no_entry(
    client: httpx.AsyncClient, auth: Auth, app: FastAPI
) -> None:
    paths = await fill(client, auth, app.state.service.database)
    key = paths["/admin/api-keys/{prefix}"]
    await client.delete(key, headers=auth("admin"))
    before = await listed(client, auth)
    await client.delete(key, headers=auth("admin"))  # again
    for method, template in EXPECTED:
        if "{" in template and "/queues/" not in template:  # there is nothing of that name
            body = BODIES.get((method, template))
            answer = await client.request(
                method, a_path(template), headers=auth("admin"), json=body
            )
            assert answer.status_code == 404
    cancelled = paths["/admin/jobs/{job_id}/retry"].replace("retry", "cancel")
    assert (await client.post(cancelled, headers=auth("admin"))).status_code == 409
    assert await listed(client, auth) == before


async def test_no_secret_of_a_key_is_in_its_entry(client: httpx.AsyncClient, auth: Auth) -> None:
    body = {"name": "new", "scopes": ["jobs:read"]}
    made = await client.post("/admin/api-keys", json=body, headers=auth("admin"))
    assert made.json()["key"].partition(".")[2] not in json.dumps(await listed(client, auth))


async def test_a_refused_attempt_is_noted_with_what_was_missing(
    client: httpx.AsyncClient, auth: Auth
) -> None:
    for job_id in range(1, 6):
        answer = await client.post(f"/admin/jobs/{job_id}/retry", headers=auth("viewer", "eve"))
        assert answer.status_code == 403
    assert (await client.get("/admin/jobs", headers=auth("nobody", "eve"))).status_code == 401
    (entry,) = (await listed(client, auth))["entries"]
    assert (entry["actor"], entry["action"], entry["outcome"]) == (
        "eve",
        "access.refused",
        "refused",
    )
    assert (entry["subject_type"], entry["subject_id"]) == (
        "route",
        "POST /admin/jobs/{job_id}/retry",
    )
    assert entry["after"]["permission"] == "admin:operate"
    assert entry["after"]["path"] == "/admin/jobs/1/retry"


async def listed(client: httpx.AsyncClient, auth: Auth, **query: Any) -> Any:
    answer = await client.get("/admin/audit", params=query, headers=auth("viewer"))
    assert answer.status_code == 200, answer.text
    return answer.json()


async def write(database: Database, count: int, **entry: Any) -> None:
    async with database.sessions.begin() as session:
        for number in range(count):
            given = {
                "action": "job.retry",
                "subject_type": "job",
                "subject_id": str(number),
            } | entry
            await audit.record(session, Actor(given.pop("actor", "ann")), **given)


async def test_pages_skip_no_entry_though_all_have_the_same_time(
    client: httpx.AsyncClient, auth: Auth, app: FastAPI
) -> None:
    async with app.state.service.database.sessions.begin() as session:
        await session.execute(
            text("INSERT INTO audit_log (at, actor, action, subject_type, subject_id, outcome)"
                 " SELECT now(), 'ann', 'x', 'job', n, 'done' FROM generate_series(1, 25) n")
        )  # fmt: skip
    seen: list[int] = []
    cursor: str | None = None
    while True:
        page = await listed(client, auth, limit=10, **({"cursor": cursor} if cursor else {}))
        seen += [entry["id"] for entry in page["entries"]]
        await write(app.state.service.database, 3)  # which no page moves
        if (cursor := page["next_cursor"]) is None:
            break
    assert seen == sorted(set(seen), reverse=True)
    assert len(seen) == 25


async def test_each_filter_leaves_what_it_says(
    client: httpx.AsyncClient, auth: Auth, app: FastAPI
) -> None:
    database = app.state.service.database
    await write(database, 2, actor="ben")
    await write(database, 1, action="job.cancel")
    await write(database, 1, subject_type="queue", subject_id="mail")
    await write(database, 1, outcome=audit.Outcome.REFUSED)
    soon = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
    for query, count in (
        ({"actor": "ben"}, 2),
        ({"action": "job.cancel"}, 1),
        ({"subject_type": "queue"}, 1),
        ({"subject_type": "queue", "subject_id": "mail"}, 1),
        ({"outcome": "refused"}, 1),
        ({"since": soon}, 0),
        ({"until": soon}, 5),
        ({"actor": "", "action": ""}, 5),
    ):
        assert len((await listed(client, auth, **query))["entries"]) == count, query
    for wrong in ({"cursor": "x"}, {"limit": 0}, {"outcome": "x"}, {"nothing": 1}):
        answer = await client.get("/admin/audit", params=wrong, headers=auth("viewer"))
        assert answer.status_code == 422


async def test_an_export_holds_every_entry_as_a_line_and_is_an_entry_itself(
    client: httpx.AsyncClient, auth: Auth, app: FastAPI, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(routes, "EXPORT_BATCH", 10)
    await write(app.state.service.database, 25, reason="two\nlines")
    await write(app.state.service.database, 5, actor="ben")
    answer = await client.get("/admin/audit/export", headers=auth("operator", "ann"))
    assert answer.headers["content-type"] == "application/x-ndjson"
    assert answer.headers["content-disposition"].startswith("attachment")
    lines = [json.loads(line) for line in answer.text.splitlines()]
    assert len(lines) == 31
    assert [line["id"] for line in lines] == sorted(line["id"] for line in lines)
    assert (lines[-1]["action"], lines[-1]["actor"]) == ("audit.export", "ann")
    newest = (await listed(client, auth, limit=200))["entries"]
    assert list(reversed(lines)) == newest
    some = await client.get("/admin/audit/export?actor=ben", headers=auth("operator", "ann"))
    assert len(some.text.splitlines()) == 5
    assert (await listed(client, auth, limit=1))["entries"][0]["filter"] == {"actor": "ben"}


async def test_a_viewer_reads_and_does_not_export(client: httpx.AsyncClient, auth: Auth) -> None:
    await listed(client, auth)
    answer = await client.get("/admin/audit/export", headers=auth("viewer"))
    assert answer.status_code == 403
