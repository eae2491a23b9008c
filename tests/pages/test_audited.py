"""What each form of the dashboard leaves in the audit log, compared with the log."""

import httpx
import pytest
from fastapi import FastAPI

from service.auth.principal import Permission, Role
from service.targets import repository
from tests.api.conftest import Auth
from tests.pages.parsed import parsed
from tests.pages.signing_in import browser
from tests.pages.test_jobs import Put, put
from tests.pages.test_policies import AUDITED
from tests.schedules.code import declare_one

__all__ = ["put"]

pytestmark = pytest.mark.whole

TARGET = "crm.example.com:443"
KEY = {"name": "billing", "scopes": Permission.JOBS_READ.value, "days": "30"}
SENT: dict[str, dict[str, str]] = {
    "/dashboard/jobs/{job_id}/reschedule": {"run_at": "2100-01-01T00:00"},
    "/dashboard/jobs/{job_id}/send-event": {"name": "paid", "data": '{"amount": 5}'},
    "/dashboard/operations": {"action": "cancel", "queue": "nowhere"},
    "/dashboard/schedules/new": {"name": "made", "cron": "@daily", "job_type": "t"},
    "/dashboard/schedules/edit": {"cron": "@hourly", "job_type": "coded"},
    "/dashboard/schedules/backfill": {
        "name": "coded",
        "from": "2026-03-01T00:00Z",
        "until": "2026-03-01T09:00Z",
    },
    "/dashboard/schedules/delete": {"name": "coded"},
    "/dashboard/schedules/pause": {"ids": "coded"},
    "/dashboard/schedules/resume": {"ids": "coded"},
    "/dashboard/schedules/run": {"name": "coded"},
    "/dashboard/schedules/release": {"name": "coded"},
    "/dashboard/queues/queue": {"max_running": "5"},
    "/dashboard/queues/pause": {"name": "mail"},
    "/dashboard/queues/resume": {"name": "mail"},
    "/dashboard/targets/reset": {"name": TARGET},
    "/dashboard/enqueue": {"type": "mail", "payload": "{}", "key": "a"},
    "/dashboard/api-keys": KEY,
    "/dashboard/sign-out": {"everywhere": "1"},
}
"""What the forms are sent with, where that is anything."""
QUERY = {
    "/dashboard/queues/queue": {"name": "mail"},
    "/dashboard/schedules/edit": {"name": "coded"},
}


async def test_every_form_leaves_the_entry_that_it_promises(
    app: FastAPI, client: httpx.AsyncClient, auth: Auth, put: Put
) -> None:
    async def actions() -> list[str]:
        reader = auth("viewer", "eve")
        log = await client.get("/admin/audit?limit=100&actor=tester", headers=reader)
        return [entry["action"] for entry in log.json()["entries"]]

    made = await client.post("/batches", json={"name": "letters"}, headers=auth("admin"))
    batch_id, found = made.json()["id"], {}
    async with app.state.service.database.sessions.begin() as session:
        await repository.open_breaker(session, TARGET, error="broke off", pause=60, longest=60)
    await declare_one(app.state.service.database, "coded")
    await client.patch("/schedules/coded", json={"priority": 3}, headers=auth("admin"))
    for template in AUDITED:
        async with await browser(app, Role.ADMIN) as sender:
            path, more = await prepared(template, sender, put, batch_id)
            if template == "/dashboard/sign-in":
                more = {"credential": auth("admin")["authorization"].removeprefix("Bearer ")}
            before = await actions()
            answer = await sender.post(
                path, data=SENT.get(template, {}) | more, params=QUERY.get(template)
            )
            assert answer.status_code in {200, 201, 303}, (template, answer.text)
        after = await actions()
        found[template] = after[: len(after) - len(before)]
    assert found == {template: [action] for template, action in AUDITED.items()}


async def prepared(
    template: str, sender: httpx.AsyncClient, put: Put, batch_id: int
) -> tuple[str, dict[str, str]]:
    """Something for this form to change: the form's path, and more that it is sent with."""
    given: dict[str, str] = {}
    more: dict[str, str] = {}
    if "{job_id}" in template:
        status = "FAILED" if template.endswith("retry") else "PENDING"
        given["job_id"] = str(await put(status=status))
    elif "{fingerprint}" in template:
        await put(status="DEAD_LETTER", fingerprint="a")
        given["fingerprint"] = "a"
    elif "{operation_id}" in template:
        made = await sender.post("/dashboard/operations", data=SENT["/dashboard/operations"])
        given["operation_id"] = made.headers["location"].rpartition("/")[2]
        if template.endswith("resume"):
            await sender.post(f"{made.headers['location']}/pause")
    elif "{batch_id}" in template:
        given["batch_id"] = str(batch_id)
    elif "{prefix}" in template:
        made = await sender.post("/dashboard/api-keys", data=KEY)
        key = parsed(made.text).one("pre", id="key").text
        given["prefix"] = key.partition(".")[0].removeprefix("fmj_")
    path = template.format(**given)
    if template.endswith("/edit"):
        page = parsed((await sender.get(path, params=QUERY.get(template))).text)
        mark = "mark" if "/schedules/" in path else "original"
        original = page.one("input", name=mark).attributes["value"]
        more = {mark: original or "", "payload": '{"n": 2}', "step": "send"}
    return path, more
