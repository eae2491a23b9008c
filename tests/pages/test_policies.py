"""Who may see which page and send which form: every route of the dashboard, for every role.

The table is the promise. A route that is not in it, or that declares no policy, fails.
"""

import httpx
import pytest
from fastapi import FastAPI

from service.auth.principal import ROLE_PERMISSIONS, Permission, Role
from tests.api.conftest import Auth
from tests.api.test_policies import PUBLIC, a_path, declared, is_page
from tests.pages.signing_in import FROM_OUR_PAGE, browser, cookie_of

pytestmark = pytest.mark.whole

PAGES: dict[tuple[str, str], str] = {
    ("GET", "/dashboard"): Permission.ADMIN_READ,
    ("GET", "/dashboard/sign-in"): PUBLIC,
    ("POST", "/dashboard/sign-in"): PUBLIC,
    ("POST", "/dashboard/sign-out"): Permission.ADMIN_READ,
    ("POST", "/dashboard/theme"): PUBLIC,
    ("GET", "/dashboard/jobs"): Permission.ADMIN_READ,
    ("GET", "/dashboard/events"): Permission.ADMIN_READ,
    ("GET", "/dashboard/jobs/{job_id}"): Permission.ADMIN_READ,
    ("GET", "/dashboard/jobs/{job_id}/{column}.txt"): Permission.ADMIN_READ,
    ("POST", "/dashboard/jobs/{job_id}/reveal"): Permission.ADMIN_OPERATE,
    ("POST", "/dashboard/jobs/{job_id}/retry"): Permission.ADMIN_OPERATE,
    ("POST", "/dashboard/jobs/{job_id}/run-now"): Permission.ADMIN_OPERATE,
    ("POST", "/dashboard/jobs/{job_id}/clone"): Permission.ADMIN_OPERATE,
    ("GET", "/dashboard/jobs/{job_id}/edit"): Permission.ADMIN_OPERATE,
    ("POST", "/dashboard/jobs/{job_id}/edit"): Permission.ADMIN_OPERATE,
    ("POST", "/dashboard/jobs/{job_id}/cancel"): Permission.ADMIN_OPERATE,
    ("POST", "/dashboard/jobs/{job_id}/reschedule"): Permission.ADMIN_OPERATE,
    ("POST", "/dashboard/jobs/{job_id}/send-event"): Permission.ADMIN_OPERATE,
    ("POST", "/dashboard/jobs/{job_id}/delete"): Permission.ADMIN_DELETE,
    ("GET", "/dashboard/operations"): Permission.ADMIN_READ,
    ("GET", "/dashboard/operations/new"): Permission.ADMIN_OPERATE,
    ("POST", "/dashboard/operations"): Permission.ADMIN_OPERATE,
    ("GET", "/dashboard/operations/{operation_id}"): Permission.ADMIN_READ,
    ("POST", "/dashboard/operations/{operation_id}/pause"): Permission.ADMIN_OPERATE,
    ("POST", "/dashboard/operations/{operation_id}/resume"): Permission.ADMIN_OPERATE,
    ("POST", "/dashboard/operations/{operation_id}/cancel"): Permission.ADMIN_OPERATE,
    ("GET", "/dashboard/batches"): Permission.ADMIN_READ,
    ("GET", "/dashboard/batches/{batch_id}"): Permission.ADMIN_READ,
    ("POST", "/dashboard/batches/{batch_id}/cancel"): Permission.ADMIN_OPERATE,
    ("GET", "/dashboard/schedules"): Permission.ADMIN_READ,
    ("GET", "/dashboard/schedules/schedule"): Permission.ADMIN_READ,
    ("GET", "/dashboard/schedules/new"): Permission.ADMIN_OPERATE,
    ("POST", "/dashboard/schedules/new"): Permission.ADMIN_OPERATE,
    ("GET", "/dashboard/schedules/edit"): Permission.ADMIN_OPERATE,
    ("POST", "/dashboard/schedules/edit"): Permission.ADMIN_OPERATE,
    ("POST", "/dashboard/schedules/backfill"): Permission.ADMIN_OPERATE,
    ("POST", "/dashboard/schedules/delete"): Permission.ADMIN_OPERATE,
    ("POST", "/dashboard/schedules/pause"): Permission.ADMIN_OPERATE,
    ("POST", "/dashboard/schedules/resume"): Permission.ADMIN_OPERATE,
    ("POST", "/dashboard/schedules/run"): Permission.ADMIN_OPERATE,
    ("POST", "/dashboard/schedules/release"): Permission.ADMIN_OPERATE,
    ("GET", "/dashboard/queues"): Permission.ADMIN_READ,
    ("GET", "/dashboard/queues/queue"): Permission.ADMIN_READ,
    ("POST", "/dashboard/queues/queue"): Permission.ADMIN_OPERATE,
    ("POST", "/dashboard/queues/pause"): Permission.ADMIN_OPERATE,
    ("POST", "/dashboard/queues/resume"): Permission.ADMIN_OPERATE,
    ("GET", "/dashboard/job-types"): Permission.ADMIN_READ,
    ("GET", "/dashboard/workers"): Permission.ADMIN_READ,
    ("GET", "/dashboard/targets"): Permission.ADMIN_READ,
    ("POST", "/dashboard/targets/reset"): Permission.ADMIN_OPERATE,
    ("GET", "/dashboard/audit"): Permission.ADMIN_READ,
    ("GET", "/dashboard/audit/{entry_id}"): Permission.ADMIN_READ,
    ("GET", "/dashboard/audit/export"): Permission.ADMIN_OPERATE,
    ("GET", "/dashboard/api-keys"): Permission.KEYS_MANAGE,
    ("POST", "/dashboard/api-keys"): Permission.KEYS_MANAGE,
    ("POST", "/dashboard/api-keys/{prefix}/revoke"): Permission.KEYS_MANAGE,
    ("GET", "/dashboard/dead-letters"): Permission.ADMIN_READ,
    ("GET", "/dashboard/dead-letters/{fingerprint}"): Permission.ADMIN_READ,
    ("POST", "/dashboard/dead-letters/{fingerprint}/resolve"): Permission.ADMIN_OPERATE,
    ("POST", "/dashboard/dead-letters/{fingerprint}/ignore"): Permission.ADMIN_OPERATE,
    ("POST", "/dashboard/dead-letters/{fingerprint}/reopen"): Permission.ADMIN_OPERATE,
    ("GET", "/dashboard/reminders"): Permission.ADMIN_READ,
    ("POST", "/dashboard/reminders/run"): Permission.ADMIN_OPERATE,
    ("GET", "/dashboard/enqueue"): Permission.ADMIN_OPERATE,
    ("POST", "/dashboard/enqueue"): Permission.ADMIN_OPERATE,
    ("GET", "/dashboard/{path:path}"): PUBLIC,
}
GUARDED = {route: policy for route, policy in PAGES.items() if policy != PUBLIC}
ENDLESS = "/dashboard/events"
"""A stream: tests/dashboard/test_streams.py reads it."""
FORMS = {route: policy for route, policy in PAGES.items() if route[0] == "POST"}

AUDITED = {
    "/dashboard/sign-in": "session.create",
    "/dashboard/sign-out": "session.end_all",
    "/dashboard/jobs/{job_id}/reveal": "payload.reveal",
    "/dashboard/jobs/{job_id}/retry": "job.retry",
    "/dashboard/jobs/{job_id}/cancel": "job.cancel",
    "/dashboard/jobs/{job_id}/edit": "job.edit",
    "/dashboard/jobs/{job_id}/run-now": "job.run_now",
    "/dashboard/jobs/{job_id}/clone": "job.clone",
    "/dashboard/jobs/{job_id}/reschedule": "job.reschedule",
    "/dashboard/jobs/{job_id}/send-event": "job.event",
    "/dashboard/jobs/{job_id}/delete": "job.delete",
    "/dashboard/operations": "operation.start",
    "/dashboard/operations/{operation_id}/pause": "operation.pause",
    "/dashboard/operations/{operation_id}/resume": "operation.resume",
    "/dashboard/operations/{operation_id}/cancel": "operation.cancel",
    "/dashboard/batches/{batch_id}/cancel": "batch.cancel",
    "/dashboard/schedules/new": "schedule.create",
    "/dashboard/schedules/edit": "schedule.edit",
    "/dashboard/schedules/backfill": "schedule.backfill",
    "/dashboard/schedules/pause": "schedule.pause",
    "/dashboard/schedules/resume": "schedule.resume",
    "/dashboard/schedules/run": "schedule.run",
    "/dashboard/schedules/release": "schedule.release",
    "/dashboard/schedules/delete": "schedule.delete",
    "/dashboard/queues/queue": "queue.configure",
    "/dashboard/queues/pause": "queue.pause",
    "/dashboard/queues/resume": "queue.resume",
    "/dashboard/dead-letters/{fingerprint}/resolve": "cause.resolve",
    "/dashboard/dead-letters/{fingerprint}/ignore": "cause.ignore",
    "/dashboard/dead-letters/{fingerprint}/reopen": "cause.reopen",
    "/dashboard/targets/reset": "target.reset",
    "/dashboard/enqueue": "job.enqueue",
    "/dashboard/reminders/run": "reminder.run",
    "/dashboard/api-keys": "api_key.create",
    "/dashboard/api-keys/{prefix}/revoke": "api_key.revoke",
}
"""What each form leaves in the audit log when it is carried out."""
NOT_AUDITED = {"/dashboard/theme": "changes a cookie of the reader alone"}
"""Forms that leave nothing there, and why."""

FOREIGN: tuple[dict[str, str], ...] = (
    {},
    {"sec-fetch-site": "cross-site"},
    {"sec-fetch-site": "same-site"},
    {"sec-fetch-site": "none"},
    {"sec-fetch-site": "same-origin", "origin": "https://evil.test"},
    {"sec-fetch-site": "cross-site", "origin": "https://service.test"},
    {"origin": "https://evil.test"},
    {"origin": "null"},
    {"origin": "https://service.test.evil.test"},
    {"origin": "https://service.test:8443"},
    {"origin": "service.test"},
    {"referer": "https://service.test/dashboard"},
)


def test_every_page_declares_one_policy_and_it_is_the_promised_one(app: FastAPI) -> None:
    found = {route: kept for route, kept in declared(app).items() if is_page(route[1])}
    assert found == {route: [policy] for route, policy in PAGES.items()}


def test_every_form_says_what_it_leaves_in_the_audit_log_or_why_nothing() -> None:
    assert {path for _, path in FORMS} == AUDITED.keys() | NOT_AUDITED.keys()
    assert not AUDITED.keys() & NOT_AUDITED.keys()


@pytest.mark.parametrize("role", list(Role), ids=str)
async def test_every_role_meets_the_promised_answer_on_every_page(app: FastAPI, role: Role) -> None:
    for (method, template), policy in GUARDED.items():
        if template == ENDLESS and policy in ROLE_PERMISSIONS[role]:
            continue
        async with await browser(app, role) as client:
            answer = await client.request(method, a_path(template))
        granted = policy in ROLE_PERMISSIONS[role]
        assert (answer.status_code != 403) is granted, (method, template)
        assert answer.status_code < 500, (method, template)


async def test_who_is_not_signed_in_is_led_to_the_sign_in_and_back(
    client: httpx.AsyncClient, auth: Auth
) -> None:
    for method, template in GUARDED:
        # A token in a header is no session: the pages are for who is signed in alone.
        for headers in ({}, auth("admin"), {"cookie": "__Host-finmind_session=x"}):
            answer = await client.request(
                method, a_path(template), headers=headers | {"sec-fetch-site": "same-origin"}
            )
            assert answer.status_code == 303, (method, template)
            assert answer.headers["location"].startswith("/dashboard/sign-in")


async def test_a_form_from_anywhere_else_is_refused(app: FastAPI) -> None:
    cookie = await cookie_of(app, Role.ADMIN)
    transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="https://service.test") as client:
        for method, template in FORMS:
            for headers in FOREIGN:
                answer = await client.request(method, a_path(template), headers=cookie | headers)
                assert answer.status_code == 403, (method, template, headers)
                assert "was not sent from a page" in answer.text
            answer = await client.request(
                method, a_path(template), headers=cookie | FROM_OUR_PAGE, data={"a": "b"}
            )
            assert "was not sent from a page" not in answer.text


async def test_a_form_from_another_site_stands_in_the_audit_log_of_who_is_signed_in(
    app: FastAPI, client: httpx.AsyncClient, auth: Auth
) -> None:
    path = "/dashboard/jobs/7/delete"
    elsewhere = {"sec-fetch-site": "cross-site", "origin": "https://evil.test"}
    stranger = await client.post(path, headers=elsewhere)
    signed_in = await client.post(path, headers=elsewhere | await cookie_of(app, Role.ADMIN, "ann"))
    assert (stranger.status_code, signed_in.status_code) == (403, 403)
    log = await client.get("/admin/audit?action=access.refused", headers=auth("admin"))
    (entry,) = log.json()["entries"]
    assert (entry["actor"], entry["outcome"]) == ("ann", "refused")
    assert entry["subject_id"] == "POST /dashboard/jobs/{job_id}/delete"
    assert "was not sent from a page" in entry["after"]["detail"]


async def test_an_origin_of_the_settings_may_send_forms_behind_a_proxy(app: FastAPI) -> None:
    app.state.service.settings = app.state.service.settings.model_copy(
        update={"dashboard_origins": ("https://jobs.example.com",)}
    )
    async with await browser(app, Role.VIEWER) as client:
        client.headers["origin"] = "https://jobs.example.com"
        answer = await client.post("/dashboard/theme", data={"theme": "dark"})
    assert answer.status_code == 303
