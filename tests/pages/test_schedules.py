"""The pages of schedules: what is due, how runs fared, and pausing, resuming and running them."""

import base64
import json
from collections.abc import AsyncIterator

import httpx
import pytest
from fastapi import FastAPI
from sqlalchemy import text

from service.auth.principal import Role
from service.schedules import managing
from service.schedules.model import Definition
from service.schedules.timing import Timing
from tests.pages.parsed import Element, parsed
from tests.pages.signing_in import browser

PATH = "/dashboard/schedules"


@pytest.fixture
async def operator(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    async with await browser(app, Role.OPERATOR) as client:
        yield client


async def page_at(client: httpx.AsyncClient, path: str) -> Element:
    answer = await client.get(path)
    assert answer.status_code == 200, answer.text
    return parsed(answer.text)


def said(answer: httpx.Response) -> str:
    """What the next page will say."""
    return str(json.loads(base64.urlsafe_b64decode(answer.cookies["__Host-finmind_flash"]))[1])


async def make(app: FastAPI, name: str, **values: object) -> None:
    timing = Timing("30 2 * * *", zone="Europe/Berlin")
    given: dict[str, object] = {"job_type": "t", "payload": {"token": "s"}, "queue": "q"} | values
    async with app.state.service.database.sessions.begin() as session:
        definition = Definition(timing=timing, **given)  # type: ignore[arg-type]
        await managing.create(session, name, definition, max_schedules=1000)


async def test_schedules_are_listed_paused_many_at_once_resumed_and_run(
    app: FastAPI, operator: httpx.AsyncClient
) -> None:
    assert "No schedules yet" in (await page_at(operator, PATH)).text
    for name in ("a", "b", "c"):
        await make(app, name)
    answer = await operator.post(f"{PATH}/pause", data={"ids": ["a", "b"], "reason": "<b>no</b>"})
    assert (answer.status_code, said(answer)) == (303, "2 schedules are paused")
    page = await page_at(operator, PATH)
    rows = [row.text for row in page.one("tbody").all("tr")]
    assert [("PAUSED" in row, "<b>no</b>" in row) for row in rows] == [(True, True)] * 2 + [
        (False,) * 2
    ]
    await operator.post(f"{PATH}/resume", data={"ids": "a", "name": "a"})
    answer = await operator.post(f"{PATH}/run", data={"name": "a", "reason": "a test"})
    assert said(answer).endswith("runs a now")
    page = await page_at(operator, answer.headers["location"])
    assert "run by hand by tester: a test" in page.one("section", id="ticks").text
    assert len(page.one("section", id="ahead").all("ol")[0].all("li")) == 5
    assert "When the clock changes" in page.text
    answer = await operator.post(f"{PATH}/pause", data={"ids": ["a", "nobody"]})
    assert said(answer) == "There is no schedule nobody"
    answer = await operator.post(f"{PATH}/pause", data={})
    assert said(answer) == "No schedule is selected: select some first"
    assert (await operator.get(f"{PATH}/schedule?name=nobody")).status_code == 404
    async with await browser(app, Role.VIEWER) as viewer:
        assert not (await page_at(viewer, f"{PATH}/schedule?name=a")).all(
            "form", action=f"{PATH}/run"
        )


async def test_a_schedule_that_fails_ten_times_in_a_row_is_what_the_first_page_begins_with(
    app: FastAPI, operator: httpx.AsyncClient
) -> None:
    for name, failures, paused_by in (
        ("fine", 9, None),
        ("broken", 10, None),
        ("off", 3, "failures"),
    ):
        await make(app, name)
        async with app.state.service.database.sessions.begin() as session:
            await session.execute(
                text(
                    "UPDATE schedules SET failures = :failures, paused_by = :by WHERE name = :name"
                ),
                {"failures": failures, "by": paused_by, "name": name},
            )
    page = await page_at(operator, "/dashboard")
    assert "Schedule broken failed 10 times in a row" in page.text
    assert "Schedule off failed 3 times in a row" in page.text
    assert "Schedule fine" not in page.text
