"""Secrets in the headers of a request are seen by the worker, and by nobody else."""

import base64

import httpx
import pytest
from fastapi import FastAPI

from service.auth.principal import Role
from service.db.engine import Database
from service.jobs import JobId, get_job
from service.targets.answer import MAX_BODY_BYTES, Answer, Kept
from service.targets.url import parse_url
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


@pytest.mark.parametrize("before", [0, 990, MAX_BODY_BYTES - 10, MAX_BODY_BYTES - 100])
def test_an_answer_that_is_cut_in_the_middle_of_a_secret_shows_no_part_of_it(before: int) -> None:
    told = "." * before + SECRET * 3
    headers = {"x-echo": told[-5000:]}
    url = parse_url("https://example.com/")
    kept = Kept(frozenset(), (SECRET,), 1_000_000)
    for body in (told.encode(), b"\xff" + told.encode()):
        whole = len(body) <= MAX_BODY_BYTES
        answer = Answer(url, 0, 200, headers, body[:MAX_BODY_BYTES], whole)
        result = kept.result(answer)
        seen = str(result["headers"]) + result.get("body", "") + kept.excerpt(answer)
        seen += base64.b64decode(result.get("body_base64", "")).decode("latin-1")
        assert "Bearer" not in seen
