"""Who may do what: every route, for every role and method.

The table below is the promise. A route that is not in it, or that declares no policy, fails.
"""

from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from fastapi.dependencies.models import Dependant
from pydantic import SecretStr
from starlette.routing import Mount

from service.app import create_app
from service.auth.dependencies import RequirePermission, public
from service.auth.principal import ROLE_PERMISSIONS, Permission, Role
from service.settings import Settings
from tests.api.conftest import Auth

pytestmark = pytest.mark.whole

PUBLIC = "public"
TABLE: dict[tuple[str, str], str] = {
    ("POST", "/jobs"): Permission.JOBS_WRITE,
    ("POST", "/jobs/batch"): Permission.JOBS_WRITE,
    ("POST", "/jobs/chain"): Permission.JOBS_WRITE,
    ("GET", "/jobs/{job_id}/parents"): Permission.JOBS_READ,
    ("GET", "/jobs/{job_id}/children"): Permission.JOBS_READ,
    ("POST", "/batches"): Permission.JOBS_WRITE,
    ("GET", "/batches"): Permission.JOBS_READ,
    ("GET", "/batches/{batch_id}"): Permission.JOBS_READ,
    ("POST", "/batches/{batch_id}/jobs"): Permission.JOBS_WRITE,
    ("POST", "/batches/{batch_id}/close"): Permission.JOBS_WRITE,
    ("POST", "/batches/{batch_id}/cancel"): Permission.JOBS_WRITE,
    ("POST", "/schedules"): Permission.SCHEDULES_WRITE,
    ("GET", "/schedules"): Permission.JOBS_READ,
    ("POST", "/schedules/preview"): Permission.JOBS_READ,
    ("POST", "/schedules/pause"): Permission.SCHEDULES_WRITE,
    ("POST", "/schedules/resume"): Permission.SCHEDULES_WRITE,
    ("GET", "/schedules/{name}"): Permission.JOBS_READ,
    ("PATCH", "/schedules/{name}"): Permission.SCHEDULES_WRITE,
    ("DELETE", "/schedules/{name}"): Permission.SCHEDULES_WRITE,
    ("POST", "/schedules/{name}/release"): Permission.SCHEDULES_WRITE,
    ("POST", "/schedules/{name}/run"): Permission.SCHEDULES_WRITE,
    ("POST", "/schedules/{name}/backfill"): Permission.SCHEDULES_WRITE,
    ("POST", "/schedules/{name}/pause"): Permission.SCHEDULES_WRITE,
    ("POST", "/schedules/{name}/resume"): Permission.SCHEDULES_WRITE,
    ("GET", "/schedules/{name}/ticks"): Permission.JOBS_READ,
    ("GET", "/jobs"): Permission.JOBS_READ,
    ("GET", "/jobs/{job_id}"): Permission.JOBS_READ,
    ("GET", "/jobs/{job_id}/explain"): Permission.JOBS_READ,
    ("GET", "/jobs/{job_id}/events"): Permission.JOBS_READ,
    ("POST", "/jobs/{job_id}/cancel"): Permission.JOBS_WRITE,
    ("POST", "/jobs/{job_id}/run-now"): Permission.JOBS_WRITE,
    ("PATCH", "/jobs/{job_id}"): Permission.JOBS_WRITE,
    ("POST", "/worker/register"): Permission.JOBS_WORK,
    ("POST", "/worker/claim"): Permission.JOBS_WORK,
    ("POST", "/worker/heartbeat"): Permission.JOBS_WORK,
    ("POST", "/worker/complete"): Permission.JOBS_WORK,
    ("POST", "/worker/fail"): Permission.JOBS_WORK,
    ("POST", "/worker/snooze"): Permission.JOBS_WORK,
    ("POST", "/worker/release"): Permission.JOBS_WORK,
    ("POST", "/worker/progress"): Permission.JOBS_WORK,
    ("POST", "/worker/log"): Permission.JOBS_WORK,
    ("POST", "/worker/stop"): Permission.JOBS_WORK,
    ("POST", "/admin/workers/{worker_id}/drain"): Permission.ADMIN_OPERATE,
    ("POST", "/jobs/{job_id}/events/{name}"): Permission.JOBS_WRITE,
    ("GET", "/admin/jobs"): Permission.ADMIN_READ,
    ("GET", "/admin/jobs/stats"): Permission.ADMIN_READ,
    ("GET", "/admin/jobs/rates"): Permission.ADMIN_READ,
    ("GET", "/admin/jobs/{job_id}"): Permission.ADMIN_READ,
    ("GET", "/admin/jobs/{job_id}/logs"): Permission.ADMIN_READ,
    ("POST", "/admin/jobs/process"): Permission.ADMIN_OPERATE,
    ("POST", "/admin/jobs/{job_id}/retry"): Permission.ADMIN_OPERATE,
    ("POST", "/admin/jobs/{job_id}/cancel"): Permission.ADMIN_OPERATE,
    ("DELETE", "/admin/jobs/{job_id}"): Permission.ADMIN_DELETE,
    ("PATCH", "/admin/jobs/{job_id}"): Permission.ADMIN_OPERATE,
    ("POST", "/admin/jobs/{job_id}/run-now"): Permission.ADMIN_OPERATE,
    ("POST", "/admin/jobs/{job_id}/clone"): Permission.ADMIN_OPERATE,
    ("GET", "/admin/audit"): Permission.ADMIN_READ,
    ("GET", "/admin/audit/export"): Permission.ADMIN_OPERATE,
    ("GET", "/queues"): Permission.ADMIN_READ,
    ("GET", "/queues/{name}"): Permission.ADMIN_READ,
    ("PATCH", "/queues/{name}"): Permission.ADMIN_OPERATE,
    ("GET", "/targets"): Permission.ADMIN_READ,
    ("GET", "/targets/{name}"): Permission.ADMIN_READ,
    ("POST", "/targets/{name}/reset"): Permission.ADMIN_OPERATE,
    ("GET", "/admin/dead-letters/groups"): Permission.ADMIN_READ,
    ("GET", "/admin/dead-letters/groups/{fingerprint}"): Permission.ADMIN_READ,
    ("POST", "/admin/dead-letters/groups/{fingerprint}/resolve"): Permission.ADMIN_OPERATE,
    ("POST", "/admin/dead-letters/groups/{fingerprint}/ignore"): Permission.ADMIN_OPERATE,
    ("POST", "/admin/dead-letters/groups/{fingerprint}/reopen"): Permission.ADMIN_OPERATE,
    ("GET", "/admin/workers"): Permission.ADMIN_READ,
    ("POST", "/admin/operations/preview"): Permission.ADMIN_OPERATE,
    ("POST", "/admin/operations"): Permission.ADMIN_OPERATE,
    ("GET", "/admin/operations"): Permission.ADMIN_READ,
    ("GET", "/admin/operations/{operation_id}"): Permission.ADMIN_READ,
    ("POST", "/admin/operations/{operation_id}/pause"): Permission.ADMIN_OPERATE,
    ("POST", "/admin/operations/{operation_id}/resume"): Permission.ADMIN_OPERATE,
    ("POST", "/admin/operations/{operation_id}/cancel"): Permission.ADMIN_OPERATE,
    ("GET", "/admin/api-keys"): Permission.KEYS_MANAGE,
    ("POST", "/admin/api-keys"): Permission.KEYS_MANAGE,
    ("DELETE", "/admin/api-keys/{prefix}"): Permission.KEYS_MANAGE,
    ("POST", "/reminders"): Permission.REMINDERS_OWN,
    ("GET", "/reminders"): Permission.REMINDERS_OWN,
    ("GET", "/reminders/{reminder_id}"): Permission.REMINDERS_OWN,
    ("PATCH", "/reminders/{reminder_id}"): Permission.REMINDERS_OWN,
    ("DELETE", "/reminders/{reminder_id}"): Permission.REMINDERS_OWN,
    ("POST", "/reminders/run"): Permission.ADMIN_OPERATE,
    ("GET", "/health/live"): PUBLIC,
    ("GET", "/health/ready"): PUBLIC,
    ("GET", "/metrics"): PUBLIC,
    ("GET", "/"): PUBLIC,
    ("HEAD", "/health/live"): PUBLIC,
    ("HEAD", "/health/ready"): PUBLIC,
    ("HEAD", "/metrics"): PUBLIC,
    ("HEAD", "/docs"): PUBLIC,
    ("HEAD", "/openapi.json"): PUBLIC,
    ("HEAD", "/"): PUBLIC,
    ("GET", "/docs"): PUBLIC,
    ("GET", "/openapi.json"): PUBLIC,
}
ASSETS = {"/docs/assets", "/dashboard/static"}
"""Mounts: static files of the documentation and of the dashboard."""
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE")


def routes_of(app: FastAPI) -> Iterator[Any]:
    """Every route, those of included routers with their full path."""
    for route in app.routes:
        contexts = getattr(route, "effective_route_contexts", None)
        if contexts is not None:
            yield from contexts()
        else:
            yield route


def policies_of(dependant: Dependant) -> Iterator[str]:
    """Each policy that a route declares, however deep."""
    for dependency in dependant.dependencies:
        if dependency.call is public:
            yield PUBLIC
        elif isinstance(dependency.call, RequirePermission):
            yield dependency.call.permission
        else:
            yield from policies_of(dependency)


def declared(app: FastAPI) -> dict[tuple[str, str], list[str]]:
    found: dict[tuple[str, str], list[str]] = {}
    for route in routes_of(app):
        if isinstance(route, Mount):
            assert route.path in ASSETS, f"the mount {route.path} has no policy"
            continue
        for method in route.methods:
            found[(method, route.path)] = list(policies_of(route.dependant))
    return found


def test_every_route_declares_one_policy_and_it_is_the_promised_one(app: FastAPI) -> None:
    """Of the API; tests/pages/test_policies.py has the pages."""
    found = {route: kept for route, kept in declared(app).items() if not is_page(route[1])}
    assert found == {route: [policy] for route, policy in TABLE.items()}


def test_every_route_that_changes_something_is_audited_or_says_why_not() -> None:
    from tests.api.test_audit import EXPECTED, NOT_AUDITED  # which needs this module

    changing = {route for route in TABLE if route[0] not in {"GET", "HEAD"}}
    assert changing == EXPECTED.keys() | NOT_AUDITED.keys()
    assert not EXPECTED.keys() & NOT_AUDITED.keys()


def is_page(path: str) -> bool:
    return path == "/dashboard" or path.startswith("/dashboard/")


def test_a_route_without_a_policy_would_be_found(app: FastAPI) -> None:
    app.get("/forgotten")(lambda: None)
    assert declared(app)[("GET", "/forgotten")] == []


def a_path(template: str) -> str:
    """A path that exists for no one, so that the walk changes nothing."""
    return (
        template.replace("{job_id}", "999999999")
        .replace("{batch_id}", "999999999")
        .replace("{reminder_id}", "999999999")
        .replace("{operation_id}", "999999999")
        .replace("{worker_id}", "999999999")
        .replace("{prefix}", "0000000000")
        .replace("{name}", "nobody-uses-this")
        .replace("{fingerprint}", "0000000000000000")
    )


@pytest.mark.parametrize("role", [*Role, None], ids=str)
async def test_every_role_meets_the_promised_answer_on_every_route(
    client: httpx.AsyncClient, auth: Auth, role: Role | None
) -> None:
    headers = auth(role) if role is not None else {}
    surprises: list[tuple[str, str, int]] = []
    for (method, template), policy in TABLE.items():
        response = await client.request(method, a_path(template), headers=headers)
        refusal = expected_refusal(policy, role)
        fits = (
            response.status_code not in {401, 403}
            if refusal is None
            else response.status_code == refusal
        )
        # Whether it is ready is not the question: the event loop of a busy machine stands still.
        answers = response.status_code < 500 or template == "/health/ready"
        if not fits or not answers:
            surprises.append((method, template, response.status_code))
        if refusal is not None:
            assert response.headers["www-authenticate"].startswith("Bearer realm=")
    assert surprises == []


def expected_refusal(policy: str, role: Role | None) -> int | None:
    if policy == PUBLIC:
        return None
    if role is None:
        return 401
    granted = ROLE_PERMISSIONS[role]
    return None if policy in granted else 403


async def test_a_body_is_judged_only_after_the_credential(
    client: httpx.AsyncClient, auth: Auth
) -> None:
    headers = {"content-type": "application/json"}
    for (method, template), policy in TABLE.items():
        if method not in {"POST", "PATCH"}:
            continue
        for body in (b'{"a":', b"\xff", b"[]"):
            anonymous = await client.request(
                method, a_path(template), content=body, headers=headers
            )
            assert anonymous.status_code == 401, (method, template, body)
            if policy != Permission.REMINDERS_OWN:
                wrong = await client.request(
                    method, a_path(template), content=body, headers=headers | auth("user")
                )
                assert wrong.status_code == 403, (method, template, body)


async def test_every_other_method_is_404_or_405_and_public(client: httpx.AsyncClient) -> None:
    for template in {path for _, path in TABLE}:
        for method in METHODS:
            path = a_path(template)
            if any(m == method and matches(p, path) for m, p in TABLE):
                continue
            response = await client.request(method, path)
            assert response.status_code in {404, 405}, (method, path)


def matches(template: str, path: str) -> bool:
    wanted, given = template.split("/"), path.split("/")
    return len(wanted) == len(given) and all(
        w == g or w.startswith("{") for w, g in zip(wanted, given, strict=True)
    )


async def test_an_api_key_may_do_what_its_scopes_say_and_no_more(
    client: httpx.AsyncClient, auth: Auth
) -> None:
    for permission in Permission:
        made = await client.post(
            "/admin/api-keys",
            json={"name": permission, "scopes": [permission]},
            headers=auth("admin"),
        )
        headers = {"x-api-key": made.json()["key"]}
        for (method, template), policy in TABLE.items():
            if policy == PUBLIC:
                continue
            granted = {permission.value, policy} == {permission.value} or (
                # `reminders:all` includes what a user may do to their own.
                permission is Permission.REMINDERS_ALL and template.startswith("/reminders")
            )
            response = await client.request(method, a_path(template), headers=headers)
            expected = "passes" if granted else "is refused"
            got = "is refused" if response.status_code == 403 else "passes"
            assert got == expected, (permission, method, template, response.status_code)


async def test_who_has_no_credential_is_refused_without_asking_the_database(
    make_settings: Callable[..., Settings],
) -> None:
    nowhere = SecretStr("postgresql://u@127.0.0.1:1/x")
    app = create_app(make_settings(database_url=nowhere), run_worker=False)
    transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://service.test") as client:
        answers = {
            (method, path): (await client.request(method, a_path(path))).status_code
            for (method, path), policy in TABLE.items()
            if policy != PUBLIC
        }
    assert answers == dict.fromkeys(answers, 401)


@pytest.mark.parametrize("role", [None, Role.USER], ids=str)
async def test_no_body_is_read_before_the_credential_holds(
    app: FastAPI, auth: Auth, role: Role | None
) -> None:
    headers = auth(role) if role is not None else {}
    for (method, template), policy in TABLE.items():
        if (refusal := expected_refusal(policy, role)) is not None:
            status = await answer_before_the_body(app, method, a_path(template), headers)
            assert status == refusal, (method, template)


async def test_a_body_is_not_read_where_none_is_taken(app: FastAPI, auth: Auth) -> None:
    streams = {"GET /admin/audit/export"}  # which listens for the client to go away
    group = "POST /admin/dead-letters/groups/{fingerprint}"
    takes_one = streams | {
        "POST /jobs", "POST /jobs/batch", "POST /reminders", "POST /admin/api-keys",
        "POST /admin/jobs/{job_id}/retry", f"{group}/resolve", f"{group}/ignore", f"{group}/reopen",
    }  # fmt: skip
    for method, template in TABLE:
        if f"{method} {template}" in takes_one or method == "PATCH":
            continue
        await answer_before_the_body(app, method, a_path(template), auth("admin"))


async def answer_before_the_body(
    app: FastAPI, method: str, path: str, headers: dict[str, str]
) -> int:
    """The status of an answer that is there, and closes the connection, before a body is asked for."""
    started: list[Any] = []
    given = headers | {"host": "x", "content-type": "application/json", "content-length": "9"}

    async def receive() -> dict[str, Any]:
        assert started, f"{method} {path} asked for its body"
        return {"type": "http.request", "body": b'{"a": 1}]', "more_body": False}

    async def send(message: Any) -> None:
        if message["type"] == "http.response.start":
            started.append(message)

    scope = {
        "type": "http",
        "http_version": "1.1",
        "method": method,
        "path": path,
        "raw_path": path.encode(),
        "root_path": "",
        "query_string": b"",
        "scheme": "http",
        "server": ("x", 80),
        "client": ("127.0.0.1", 1),
        "headers": [(name.encode(), value.encode()) for name, value in given.items()],
    }
    await app(scope, receive, send)
    (start,) = started
    assert (b"connection", b"close") in start["headers"]
    status: int = start["status"]
    return status
