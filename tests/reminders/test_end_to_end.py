"""The reason for the project: a reminder whose mail server is down is neither lost nor lied about."""

import asyncio
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from pydantic import SecretStr

from service.app import create_app
from service.settings import Settings
from tests.api.conftest import Auth

from .conftest import eventually
from .servers import Mailbox


@pytest.fixture
async def mailbox() -> AsyncIterator[Mailbox]:
    """A mail server that has a port but is down."""
    mailbox = Mailbox()
    await mailbox.start()
    await mailbox.stop()
    yield mailbox
    await mailbox.stop()


@pytest.fixture
async def app(
    make_settings: Callable[..., Settings], pg_dsn: str, mailbox: Mailbox
) -> AsyncIterator[FastAPI]:
    """The whole service with its worker and its reminder loop, and a short patience."""
    settings = make_settings(
        database_url=SecretStr(pg_dsn),
        smtp_url=SecretStr(mailbox.url()),
        email_from="jobs@finmind.example",
        reminder_scan_seconds=0.05,
        backoff_base_seconds=0.2,
        backoff_factor=1,
        default_max_retries=100,
    )
    application = create_app(settings, run_worker=True)
    async with application.router.lifespan_context(application):
        yield application


@pytest.mark.whole
async def test_a_reminder_is_delivered_once_after_the_mail_server_was_down(
    client: httpx.AsyncClient, auth: Auth, mailbox: Mailbox
) -> None:
    ada, admin = auth("user", "ada"), auth("admin")
    body = {
        "message": "Pay the electricity bill",
        "send_at": datetime.now(UTC).isoformat(),
        "channel": "email",
        "recipient": "ada@example.org",
    }
    created = await client.post("/reminders", json=body, headers=ada)
    assert created.status_code == 201
    where = created.headers["location"]
    states: list[dict[str, Any]] = []

    async def look() -> dict[str, Any]:
        states.append((await client.get(where, headers=ada)).json())
        return states[-1]

    async def tried_twice() -> bool:
        return bool((await look())["attempts"] >= 2)

    await eventually(tried_twice)
    assert states[-1]["status"] == "retrying"
    assert "could not be reached" in states[-1]["last_error"]

    await mailbox.start()
    await asyncio.wait_for(mailbox.arrived.wait(), 10)

    async def sent() -> bool:
        return bool((await look())["status"] == "sent")

    await eventually(sent)
    assert states[-1]["sent"] is True
    assert states[-1]["sent_at"] is not None
    assert states[-1]["last_error"] is None
    assert not any(
        state["sent"] or state["sent_at"] for state in states if state["status"] != "sent"
    )

    # An operator sees how it went, and running again sends nothing.
    job_id = states[-1]["job_id"]

    async def job_ended() -> bool:
        job = (await client.get(f"/admin/jobs/{job_id}", headers=admin)).json()
        return bool(job["status"] == "SUCCESS" and len(job["errors"]) >= 2)

    await eventually(job_ended)
    again = await client.post("/reminders/run", headers=admin)
    assert again.json() == {"enqueued": 0, "already_queued": 0}
    (mail,) = mailbox.mails
    assert mail["Message-ID"].startswith(f"<reminder-{states[-1]['id']}-")
    assert mail["To"] == "ada@example.org"
    metrics = (await client.get("/metrics")).text
    assert 'finmind_reminder_events_total{channel="email",event="sent",status="ok"}' in metrics
