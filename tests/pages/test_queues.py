"""The pages of queues: what they show, and what their forms do."""

import base64
import json
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
from fastapi import FastAPI
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from service.auth.principal import Role
from service.dashboard.pages import queues
from service.dashboard.rendering import FLASH_COOKIE
from service.jobs import NewJob, enqueue_batch
from tests.pages.parsed import Element, parsed
from tests.pages.signing_in import browser

LIST = "/dashboard/queues"
HOSTILE = '<b onclick="x">&amp;/ ä'


@pytest.fixture
async def operator(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    async with await browser(app, Role.OPERATOR) as client:
        yield client


async def enqueue(app: FastAPI, *queues: str) -> None:
    async with app.state.service.database.sessions.begin() as session:
        await enqueue_batch(session, [NewJob("x", queue=queue) for queue in queues])


async def page_at(client: httpx.AsyncClient, path: str = LIST, **query: Any) -> Element:
    answer = await client.get(path, params=query)
    assert answer.status_code == 200, answer.text
    return parsed(answer.text)


def told(answer: httpx.Response) -> str:
    """The message that the next page shows."""
    kind, words = json.loads(base64.urlsafe_b64decode(answer.cookies[FLASH_COOKIE]))
    return f"{kind}: {words}"


def names(page: Element) -> list[str]:
    return [row.all("td")[0].text for row in page.one("tbody", id="rows").all("tr")]


async def test_a_list_without_queues_says_so_in_words(operator: httpx.AsyncClient) -> None:
    assert "No queues yet" in (await page_at(operator)).text


async def test_each_row_shows_a_queue_and_leads_to_its_jobs(
    app: FastAPI, operator: httpx.AsyncClient
) -> None:
    await enqueue(app, "mail", "mail", "sms")
    page = await page_at(operator)
    assert names(page) == ["mail", "sms"]
    row = page.one("tr", id="queue-mail")
    assert [cell.text for cell in row.all("td")][1:3] == ["2", "0"]
    query = parse_qs(urlsplit(row.links["2"]).query)
    assert query == {"q": ["queue:mail status:PENDING"]}
    jobs = await page_at(operator, row.links["2"].partition("?")[0], q=query["q"][0])
    assert "2 jobs match" in jobs.text


async def test_rows_are_found_by_name_and_sorted_by_a_figure(
    app: FastAPI, operator: httpx.AsyncClient
) -> None:
    await enqueue(app, "mail", "sms", "sms", "email")
    assert names(await page_at(operator, named="MAIL")) == ["email", "mail"]
    assert names(await page_at(operator, sort="due"))[0] == "sms"
    assert "No queue has such a name" in (await page_at(operator, named="none")).text


async def test_of_many_queues_a_page_shows_some_and_counts_the_others(
    app: FastAPI, operator: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queues, "PAGE_ROWS", 2)
    await enqueue(app, "a", "b", "c", "c")
    page = await page_at(operator, sort="due")
    assert (names(page), "1 more queue is not shown" in page.text) == (["c", "a"], True)


async def test_a_queue_is_paused_with_a_reason_and_resumed(
    app: FastAPI, operator: httpx.AsyncClient
) -> None:
    await enqueue(app, "mail")
    sent = {"name": "mail", "reason": "the provider is down", "from": "list"}
    answer = await operator.post(f"{LIST}/pause", data=sent)
    assert (answer.status_code, answer.headers["location"]) == (303, LIST)
    assert told(answer) == "done: mail is paused: what runs goes on, and nothing new starts"
    page = await page_at(operator)
    assert "1 queue is paused" in page.text
    row = page.one("tr", id="queue-mail").text
    assert "PAUSED" in row
    assert "by tester: the provider is down" in row
    answer = await operator.post(f"{LIST}/resume", data={"name": "mail", "from": "queue"})
    assert answer.headers["location"] == f"{LIST}/queue?name=mail"
    assert "PAUSED" not in (await page_at(operator)).one("tr", id="queue-mail").text


async def test_limits_are_set_by_the_form_that_shows_them_and_lifted_by_empty_boxes(
    operator: httpx.AsyncClient, session: AsyncSession
) -> None:
    sent = {"max_running": "40", "rate_limit": "100", "rate_seconds": "1.5"}
    sent |= {"key_rate_limit": "5", "key_rate_seconds": "1", "at_limit": "drop_new"}
    sent["key_fairness"] = "on"
    answer = await operator.post(f"{LIST}/queue?name=mail", data=sent)
    assert answer.headers["location"] == f"{LIST}/queue?name=mail"
    assert told(answer).startswith("done: The limits of mail are set")
    words = (
        "0 of 40 permits in use · 100 starts per 1.5 s · 5 starts per 1 s for each key"
        " · keys take turns · at the limit a job is cancelled"
    )
    assert words in (await page_at(operator)).one("tr", id="queue-mail").text
    page = await page_at(operator, f"{LIST}/queue", name="mail")
    assert words in page.one("section", id="standing").text
    form = page.one("details", id="limits")
    boxes = {box.attributes["name"]: box.attributes.get("value") for box in form.all("input")}
    assert (boxes["rate_seconds"], boxes["key_rate_limit"]) == ("1.5", "5")
    chosen = [one.attributes for one in form.all("option") if "selected" in one.attributes]
    assert [one["value"] for one in chosen] == ["on", "drop_new"]
    await operator.post(f"{LIST}/queue?name=mail", data={})
    assert (await session.execute(text("SELECT count(*) FROM finmind_jobs.queues"))).scalar() == 0


@pytest.mark.parametrize(
    ("sent", "words"),
    [
        ({"max_running": "many"}, "max_running is 'many': expected a whole number, or nothing"),
        ({"max_running": "0"}, "max_running is 0: expected a whole number from 1"),
        ({"rate_limit": "5"}, "The rate is half given"),
        ({"key_rate_seconds": "5"}, "The rate for each key is half given"),
        ({"rate_limit": "5", "rate_seconds": "soon"}, "rate_seconds is 'soon': expected a number"),
        ({"rate_limit": "5", "rate_seconds": "nan"}, "per_seconds of rate is nan: expected 0.1 to"),
        ({"at_limit": "guess"}, "at_limit is 'guess': expected wait"),
    ],
)
async def test_a_limit_that_cannot_be_is_said_above_what_was_written(
    operator: httpx.AsyncClient, sent: dict[str, str], words: str
) -> None:
    answer = await operator.post(f"{LIST}/queue?name=mail", data={"weight": "7"} | sent)
    assert answer.status_code == 422
    form = parsed(answer.text).one("details", id="limits")
    assert words in form.text
    boxes = {box.attributes["name"]: box.attributes.get("value") for box in form.all("input")}
    assert boxes["weight"] == "7"


async def test_what_cannot_be_paused_says_why(operator: httpx.AsyncClient) -> None:
    answer = await operator.post(f"{LIST}/pause", data={"name": "ä" * 60})
    assert told(answer).startswith("failed: queue is")


async def test_one_queue_shows_its_types(app: FastAPI, operator: httpx.AsyncClient) -> None:
    await enqueue(app, "mail", "mail")
    page = await page_at(operator, f"{LIST}/queue", name="mail")
    assert [cell.text for cell in page.one("tr", id="type-x").all("td")] == [
        "x", "2", "0", "0", "0",
    ]  # fmt: skip
    assert page.links["Its jobs"].endswith("?q=queue%3Amail")
    assert "No jobs in it" in (await page_at(operator, f"{LIST}/queue", name="nothing")).text


async def test_a_viewer_sees_no_button(app: FastAPI) -> None:
    await enqueue(app, "mail")
    async with await browser(app, Role.VIEWER) as viewer:
        for path, query in ((LIST, {}), (f"{LIST}/queue", {"name": "mail"})):
            page = await page_at(viewer, path, **query)
            assert [one.text for one in page.one("main").all("button") if one.text != "Show"] == []


async def test_a_hostile_name_is_text_everywhere(
    operator: httpx.AsyncClient,
) -> None:
    await operator.post(f"{LIST}/pause", data={"name": HOSTILE, "reason": HOSTILE})
    page = await page_at(operator)
    assert names(page) == [HOSTILE]
    answer = await operator.get(page.one("tbody", id="rows").links[HOSTILE])
    one = parsed(answer.text)
    assert (page.all("b"), one.all("b")) == ([], [])
    assert one.one("h1").text == f"Queue {HOSTILE}"
    await operator.post(f"{LIST}/resume", data={"name": HOSTILE})
    assert "No queues yet" in (await page_at(operator)).text
