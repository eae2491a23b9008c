"""The pages of operations: a preview that names the count, the start, progress, and what was skipped."""

from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from sqlalchemy import text

from service.auth.principal import Role
from tests.jobs.rows import add
from tests.pages.parsed import Element, parsed
from tests.pages.signing_in import browser

PATH = "/dashboard/operations"
HOSTILE = '<b onclick="x">&amp;/ ä'


@pytest.fixture
async def operator(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    async with await browser(app, Role.OPERATOR) as client:
        yield client


async def put(app: FastAPI, count: int = 1, **values: Any) -> list[int]:
    row = {"status": "DEAD_LETTER", "last_error": "ValueError: no"} | values
    async with app.state.service.database.sessions.begin() as session:
        return [await add(session, **row) for _ in range(count)]


async def page_at(client: httpx.AsyncClient, path: str, status: int = 200, **query: Any) -> Element:
    answer = await client.get(path, params=query)
    assert answer.status_code == status, answer.text
    return parsed(answer.text)


async def start(client: httpx.AsyncClient, **fields: Any) -> str:
    answer = await client.post(PATH, data=fields)
    assert answer.status_code == 303, answer.text
    return answer.headers["location"]


async def operation(app: FastAPI) -> Any:
    async with app.state.service.database.sessions() as session:
        rows = await session.execute(text("SELECT * FROM operations ORDER BY id DESC LIMIT 1"))
        return rows.one()


async def test_a_preview_names_the_count_shows_five_and_changes_nothing(
    app: FastAPI, operator: httpx.AsyncClient
) -> None:
    await put(app, 7)
    await put(app, 2, job_type="other")
    page = await page_at(operator, f"{PATH}/new", action="retry", job_type="mail")
    assert page.one("h1").text == "Retry: 7 jobs"
    assert len(page.one("tbody").all("tr")) == 5
    assert "Retry: 7 jobs" in [button.text.strip() for button in page.all("button")]
    assert "No operations yet" in (await page_at(operator, PATH)).text


async def test_what_the_form_sends_is_what_the_operation_does(
    app: FastAPI, operator: httpx.AsyncClient
) -> None:
    await put(app, 3)
    where = await start(
        operator, action="retry", job_type="mail", payload_merge='{"fixed": true}', rate="5",
        canary_jobs="2", canary_percent="50", canary_seconds="60", reason="it is mended",
    )  # fmt: skip
    made = await operation(app)
    assert where == f"{PATH}/{made.id}"
    assert made.parameters == {"payload_merge": {"fixed": True}}
    assert made.filter == {"status": ["DEAD_LETTER", "FAILED"], "job_type": "mail"}
    assert (made.rate, made.canary["jobs"], made.reason) == (5.0, 2, "it is mended")
    page = await page_at(operator, where)
    assert "Edit and retry" in page.one("h1").text
    assert "no worker runs" in page.text
    assert "0 of 3" in (await page_at(operator, PATH)).text


async def test_a_form_that_is_sent_twice_starts_one_operation(
    app: FastAPI, operator: httpx.AsyncClient
) -> None:
    await put(app, 3)
    page = await page_at(operator, f"{PATH}/new", action="retry", job_type="mail")
    key = page.one("input", name="key").attributes["value"]
    form = {"action": "retry", "job_type": "mail", "key": key}
    assert await start(operator, **form) == await start(operator, **form)
    changed = await operator.post(PATH, data=form | {"rate": "5"})
    assert changed.status_code == 409
    again = parsed(changed.text).one("input", name="key").attributes["value"]
    assert await start(operator, **form | {"key": again}) == f"{PATH}/2"


async def test_jobs_that_were_selected_are_named_one_by_one(
    app: FastAPI, operator: httpx.AsyncClient
) -> None:
    ids = await put(app, 3)
    page = await page_at(operator, f"{PATH}/new", action="retry", ids=ids[:2])
    assert page.one("h1").text == "Retry: 2 jobs"
    await start(operator, action="retry", ids=[str(one) for one in ids[:2]])
    assert (await operation(app)).filter == {"ids": ids[:2]}


async def test_links_of_other_pages_fill_the_form(
    app: FastAPI, operator: httpx.AsyncClient
) -> None:
    await put(app, 3, fingerprint="a1")
    page = await page_at(
        operator, f"{PATH}/new", action="retry", fingerprint="a1", canary=10, edit=1
    )
    assert page.one("h1").text == "Retry: 3 jobs"
    assert page.one("input", name="canary_jobs").attributes["value"] == "10"
    assert all(
        "open" in one.attributes for one in page.one("form", class_="card edit").all("details")
    )


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"action": "retry"}, "The filter is empty"),
        ({"action": "retry", "job_type": "mail", "rate": "fast"}, "is not a number"),
        ({"action": "retry", "job_type": "mail", "payload_merge": "{"}, "is not JSON"),
        ({"action": "retry", "job_type": "mail", "payload_merge": "[1]"}, "payload_merge"),
        ({"action": "retry", "job_type": "mail", "canary_jobs": "0"}, "canary.jobs"),
    ],
    ids=str,
)
async def test_what_cannot_be_started_is_said_on_the_page_which_keeps_what_was_typed(
    app: FastAPI, operator: httpx.AsyncClient, fields: dict[str, str], words: str
) -> None:
    await put(app, 2)
    answer = await operator.post(PATH, data=fields | {"reason": "mine"})
    assert answer.status_code == 422
    page = parsed(answer.text)
    assert words in page.one("p", role="alert").text
    assert page.one("input", name="reason").attributes["value"] == "mine"


async def test_an_operation_is_paused_resumed_and_cancelled_by_buttons(
    app: FastAPI, operator: httpx.AsyncClient
) -> None:
    await put(app, 1)
    where = await start(operator, action="retry", job_type="mail")
    for verb, state in (("pause", "paused"), ("resume", "running"), ("cancel", "cancelled")):
        answer = await operator.post(f"{where}/{verb}", data={"reason": "why"})
        assert answer.status_code == 303
        assert (await operation(app)).state == state
    page = await page_at(operator, where)
    assert not page.all("form", action=f"{where}/pause")


async def test_an_operator_is_not_shown_how_to_delete_many_jobs(
    app: FastAPI, operator: httpx.AsyncClient
) -> None:
    await page_at(operator, f"{PATH}/new", status=403, action="delete", job_type="mail")
    async with await browser(app, Role.ADMIN) as admin:
        page = await page_at(admin, f"{PATH}/new", action="delete", job_type="mail")
        assert "No job matches" in page.text


async def test_a_viewer_sees_operations_and_no_buttons(
    app: FastAPI, operator: httpx.AsyncClient
) -> None:
    where = await start(operator, action="cancel", job_type="mail")
    async with await browser(app, Role.VIEWER) as viewer:
        page = await page_at(viewer, where)
        assert not page.all("form", action=f"{where}/pause")
        await page_at(viewer, f"{PATH}/new", status=403, action="retry")


async def test_hostile_text_shows_as_text(app: FastAPI, operator: httpx.AsyncClient) -> None:
    await put(app, 1, last_error=HOSTILE, unique_key=HOSTILE)
    page = await page_at(operator, f"{PATH}/new", action="retry", error=HOSTILE)
    assert HOSTILE in page.text
    where = await start(operator, action="retry", error=HOSTILE, reason=HOSTILE)
    assert (await page_at(operator, where)).text.count(HOSTILE) >= 1
    listed = await page_at(operator, PATH)
    assert "<b onclick" in listed.text  # its quotes are escaped, as a search has them
    assert not listed.all("b")
