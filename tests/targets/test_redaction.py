"""Secrets in the headers of a request are seen by the worker, and by nobody else."""

import httpx
from fastapi import FastAPI

from service.auth.principal import Role
from service.db.engine import Database
from service.jobs import JobId, get_job
from tests.api.conftest import Auth
from tests.pages.signing_in import browser

SECRET = "Bearer sesame-of-a-target"
OTHER = "Bearer sesame-of-another"


async def test_nobody_is_shown_a_secret_header(
    app: FastAPI, client: httpx.AsyncClient, auth: Auth, database: Database
) -> None:
    """REST, the pages, what is revealed and edited there, the history and the audit log."""
    admin = auth("admin")
    payload = {
        "url": "https://example.com/",
        "headers": {"aUTHORIZATION": SECRET, "X-Plain": "seen"},
    }
    seen: list[str] = []

    async def call(method: str, path: str, **options: object) -> httpx.Response:
        answer = await client.request(method, path, headers=admin, **options)  # type: ignore[arg-type]
        seen.append(answer.text)
        return answer

    created = await call(
        "POST", "/jobs", json={"job_type": "http.request", "payload": payload, "delay_seconds": 60}
    )
    job_id = created.json()["id"]
    assert created.json()["payload"]["headers"] == {"aUTHORIZATION": "••••••", "X-Plain": "seen"}
    masked = await call("PATCH", f"/jobs/{job_id}", json={"payload": created.json()["payload"]})
    assert masked.status_code == 422, "what was shown is not sent back as if it were the secret"
    assert "send the secret itself" in masked.text
    changed = payload | {"headers": {"Authorization": OTHER}}
    assert (
        await call("PATCH", f"/admin/jobs/{job_id}", json={"payload": changed})
    ).status_code == 200
    for path in (
        f"/jobs/{job_id}",
        f"/admin/jobs/{job_id}",
        "/admin/audit",
        f"/jobs/{job_id}/explain",
    ):
        assert (await call("GET", path)).status_code == 200
    merge = {
        "action": "retry",
        "filter": {"job_type": "http.request"},
        "edit": {"payload_merge": {"headers": {"Cookie": SECRET}}},
    }
    started = await call("POST", "/admin/operations", json=merge)
    assert started.status_code == 202, started.text
    await call("GET", "/admin/audit")

    page = f"/dashboard/jobs/{job_id}"
    async with await browser(app, Role.ADMIN) as signed_in:
        paths = (page, f"{page}/payload.txt", f"{page}/edit", "/dashboard/audit")
        seen += [(await signed_in.get(path)).text for path in paths]
        revealed = await signed_in.post(f"{page}/reveal", data={"what": "masked"})
        assert revealed.status_code == 200
        opened = await signed_in.post(f"{page}/edit", data={"step": "open"})
        assert opened.status_code == 409
        seen += [revealed.text, opened.text]

    for text in seen:
        assert "sesame" not in text
    async with database.sessions() as session:
        job = await get_job(session, JobId(job_id))
    assert job.payload["headers"] == {"Authorization": OTHER}, "the worker has it"
