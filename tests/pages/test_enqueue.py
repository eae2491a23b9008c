"""The page that enqueues: a form of the payload's schema, errors beside their boxes, once."""

import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from enum import Enum
from typing import Any, Literal

import httpx
import pytest
from fastapi import FastAPI
from pydantic import BaseModel, Field

from service.auth.principal import Role
from service.jobs import Registry
from service.jobs.core.job_types import JobTypePolicy, policies
from service.jobs.handlers.published import MAX_SCHEMA_BYTES, publish_types, schema_text
from tests import databases
from tests.pages.parsed import Element, parsed
from tests.pages.signing_in import browser
from tests.pages.test_queues import told

PATH = "/dashboard/enqueue"


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


class Invoice(BaseModel):
    number: int = Field(ge=1, description="of the invoice")
    to: str
    colour: Colour = Colour.RED
    share: float | None = None
    urgent: bool = False
    currency: Literal["EUR", "USD"] = "EUR"
    lines: list[int] = Field(default_factory=list)


@pytest.fixture
async def operator(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    async with await browser(app, Role.OPERATOR) as client:
        yield client


@pytest.fixture
def known(monkeypatch: pytest.MonkeyPatch) -> None:
    """This process has the handler."""
    monkeypatch.setitem(policies, "invoice", JobTypePolicy(payload_model=Invoice, queue="money"))


async def form_of(client: httpx.AsyncClient, job_type: str = "invoice", **query: Any) -> Element:
    answer = await client.get(PATH, params={"type": job_type} | query)
    assert answer.status_code == 200, answer.text
    return parsed(answer.text)


def key_of(page: Element) -> str:
    return page.one("input", name="key").attributes["value"] or ""


async def jobs(pg_dsn: str) -> list[Any]:
    connection = await databases.connect(pg_dsn)
    try:
        return list(await connection.fetch("SELECT * FROM background_jobs ORDER BY id"))
    finally:
        await connection.close()


SENT = {"type": "invoice", "key": "k", "payload.number": "7", "payload.to": "Ä", "priority": "1"}


async def test_the_schema_of_a_payload_is_a_form(known: None, operator: httpx.AsyncClient) -> None:
    page = await form_of(operator)
    boxes = {
        one.attributes["name"]: one.tag
        for one in [*page.all("input"), *page.all("select"), *page.all("textarea")]
        if (one.attributes.get("name") or "").startswith("payload")
    }
    assert boxes == {
        "payload.number": "input", "payload.to": "input", "payload.colour": "select",
        "payload.share": "input", "payload.urgent": "select", "payload.currency": "select",
        "payload.lines": "textarea",
    }  # fmt: skip
    assert "of the invoice; at least 1" in page.text
    as_json = await form_of(operator, as_json=True)
    assert len(as_json.all("textarea", name="payload")) == 1


async def test_a_sent_form_enqueues_its_job_and_leads_to_it(
    known: None, operator: httpx.AsyncClient, pg_dsn: str
) -> None:
    more = {"payload.urgent": "true", "payload.share": "0.5", "payload.colour": '"blue"',
            "payload.lines": "[1, 2]", "due": "10m", "unique_key": "u", "max_retries": "0"}  # fmt: skip
    answer = await operator.post(PATH, data=SENT | more)
    (job,) = await jobs(pg_dsn)
    assert answer.headers["location"] == f"/dashboard/jobs/{job['id']}"
    assert told(answer) == f"done: Job {job['id']} is enqueued"
    assert json.loads(job["payload"]) == {
        "number": 7, "to": "Ä", "urgent": True, "share": 0.5, "colour": "blue", "lines": [1, 2],
    }  # fmt: skip
    assert (job["queue"], job["priority"], job["max_retries"]) == ("money", 1, 0)
    assert (job["unique_key"], job["enqueued_by"]) == ("u", "tester")
    later = job["next_run_at"] - datetime.now(UTC)
    assert timedelta(minutes=9) < later <= timedelta(minutes=10)


async def test_what_is_wrong_stands_beside_its_box_and_the_rest_stays(
    known: None, operator: httpx.AsyncClient, pg_dsn: str
) -> None:
    wrong = {"payload.number": "many", "payload.lines": "[1", "due": "soon", "queue": "no spaces"}
    answer = await operator.post(PATH, data=SENT | wrong)
    page = parsed(answer.text)
    assert answer.status_code == 422
    assert "'many' is not a whole number" in page.one("span", id="error-payload.number").text
    assert "line 1" in page.one("span", id="error-payload.lines").text
    assert "is not a time" in page.one("span", id="error-due").text
    assert page.one("span", id="error-queue").text
    assert page.one("input", name="payload.to").attributes["value"] == "Ä"
    assert await jobs(pg_dsn) == []


async def test_what_the_model_refuses_stands_beside_its_box(
    known: None, operator: httpx.AsyncClient, pg_dsn: str
) -> None:
    answer = await operator.post(
        PATH, data=SENT | {"payload.number": "0", "payload.lines": '["x"]'}
    )
    page = parsed(answer.text)
    assert "greater than or equal to 1" in page.one("span", id="error-payload.number").text
    assert page.one("span", id="error-payload.lines").text.startswith("0: ")
    missing = parsed((await operator.post(PATH, data=SENT | {"payload.number": ""})).text)
    assert missing.one("span", id="error-payload.number").text == "Give a value"
    assert await jobs(pg_dsn) == []


async def test_a_form_sent_twice_enqueues_once(
    known: None, operator: httpx.AsyncClient, pg_dsn: str
) -> None:
    sent = SENT | {"key": key_of(await form_of(operator))}
    first, second = await operator.post(PATH, data=sent), await operator.post(PATH, data=sent)
    assert first.headers["location"] == second.headers["location"]
    assert told(second).endswith("was there already: nothing new")
    changed = await operator.post(PATH, data=sent | {"payload.number": "8"})
    page = parsed(changed.text)
    assert changed.status_code == 409
    assert "This form was sent before" in page.text
    assert len(await jobs(pg_dsn)) == 1
    await operator.post(PATH, data=sent | {"payload.number": "8", "key": key_of(page)})
    assert len(await jobs(pg_dsn)) == 2


async def test_a_refused_form_can_be_sent_again_as_it_is(
    known: None, operator: httpx.AsyncClient, pg_dsn: str
) -> None:
    await operator.post(PATH, data=SENT | {"unique_key": "u"})
    sent = SENT | {"unique_key": "u", "payload.number": "9", "key": "other"}
    assert (await operator.post(PATH, data=sent)).status_code == 409
    await databases.execute(pg_dsn, "DELETE FROM background_jobs")
    assert (await operator.post(PATH, data=sent)).status_code == 303


async def test_a_type_without_a_schema_is_given_json(
    operator: httpx.AsyncClient, pg_dsn: str
) -> None:
    page = await form_of(operator, "other")
    assert "No worker serves other" in page.text
    sent = {"type": "other", "key": "k", "payload": '{"a": 12345678901234567890}'}
    await operator.post(PATH, data=sent)
    (job,) = await jobs(pg_dsn)
    assert json.loads(job["payload"]) == {"a": 12345678901234567890}
    refused = parsed((await operator.post(PATH, data=sent | {"payload": "[1]"})).text)
    assert refused.one("span", id="error-payload").text


async def test_a_type_of_the_service_itself_is_refused(
    operator: httpx.AsyncClient, pg_dsn: str
) -> None:
    answer = await operator.post(PATH, data={"type": "send_reminder", "key": "k", "payload": "{}"})
    assert answer.status_code == 403
    assert "belongs to the service" in answer.text
    assert await jobs(pg_dsn) == []


async def test_a_process_without_the_handler_has_the_form_that_a_worker_published(
    app: FastAPI, operator: httpx.AsyncClient
) -> None:
    handlers = Registry()
    handlers.handler("elsewhere", payload_model=Invoice)(lambda _: None)
    link = app.state.service.database.link()
    await publish_types(link, handlers)
    page = await form_of(operator, "elsewhere")
    assert len(page.all("input", name="payload.number")) == 1
    assert "elsewhere" in parsed((await operator.get(PATH)).text).links
    plain = Registry()
    plain.handler("elsewhere")(lambda _: None)
    await publish_types(link, plain)
    await link.close()
    page = await form_of(operator, "elsewhere")
    assert len(page.all("textarea", name="payload")) == 1


def test_a_schema_that_is_too_large_is_not_published() -> None:
    class Large(BaseModel):
        number: int = Field(description="x" * MAX_SCHEMA_BYTES)

    assert schema_text(Large) is None
    assert schema_text(None) is None
    assert schema_text(Invoice)


async def test_who_enqueued_is_in_the_audit_log(
    known: None, operator: httpx.AsyncClient, pg_dsn: str
) -> None:
    answer = await operator.post(PATH, data=SENT | {"reason": "lost in the outage"})
    connection = await databases.connect(pg_dsn)
    entry = await connection.fetchrow(
        "SELECT action, actor, reason FROM audit_log ORDER BY id DESC LIMIT 1"
    )
    await connection.close()
    assert tuple(entry) == ("job.enqueue", "tester", "lost in the outage")
    job = await operator.get(answer.headers["location"])
    assert "Enqueued by hand" in job.text


async def test_the_form_says_what_becomes_of_the_job_that_has_the_key(
    known: None, operator: httpx.AsyncClient, pg_dsn: str
) -> None:
    first = {"unique_key": "k", "on_conflict": "replace", "due": "2h"}
    await operator.post(PATH, data=SENT | first)
    answer = await operator.post(PATH, data=SENT | first | {"key": "again", "priority": "7"})
    (job,) = await jobs(pg_dsn)
    assert job["priority"] == 7
    assert told(answer) == f"done: Job {job['id']} was waiting: it has these values now"
    refused = {"key": "third", "on_conflict": "reject"}
    answer = await operator.post(PATH, data=SENT | first | refused)
    assert answer.status_code == 409
    assert "which is PENDING" in answer.text
