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


FORM = {
    "name": "digest",
    "cron": "30 2 * * *",
    "zone": "Europe/Berlin",
    "job_type": "t",
    "overlap": "allow",
}


async def test_a_schedule_is_made_and_changed_by_a_form_that_shows_its_next_ticks(
    app: FastAPI, operator: httpx.AsyncClient
) -> None:
    new, edit = f"{PATH}/new", f"{PATH}/edit?name=digest"
    assert "New schedule" in (await page_at(operator, f"{new}?job_type=t")).text
    wrong = FORM | {"zone": "Berlin", "max_retries": "many"}
    answer = await operator.post(new, data=wrong)
    assert answer.status_code == 422
    assert "valid integer" in parsed(answer.text).one("span", id="error-max_retries").text
    answer = await operator.post(new, data=FORM | {"zone": "Berlin"})
    assert "did you mean Europe/Berlin?" in parsed(answer.text).one("span", id="error-zone").text
    shown = parsed((await operator.post(new, data=FORM | {"step": "preview"})).text)
    assert len(shown.all("ol")[0].all("li")) == 5
    assert (await operator.get(edit)).status_code == 404
    secret = FORM | {"payload": '{"n": 1, "token": "s"}', "step": "send"}
    answer = await operator.post(new, data=secret)
    assert (answer.status_code, said(answer)) == (303, "digest ticks from now on")
    answer = await operator.post(new, data=secret)
    assert (answer.status_code, "There is a schedule" in answer.text) == (
        409,
        True,
    )

    page = await page_at(operator, edit)
    assert "hidden values" in page.text
    mark = str(page.one("input", name="mark").attributes["value"])
    held = {
        str(one.attributes["name"]): str(one.attributes.get("value") or "")
        for one in page.all("input")
    }
    every = held | {
        "cron": "",
        "every_seconds": "1000000.5",
        "overlap": "skip",
        "catch_up": "all",
        "payload": "",
    }
    answer = await operator.post(edit, data=every | {"reason": "a test"})
    assert (answer.status_code, said(answer)) == (303, "digest is as you wrote it")
    async with app.state.service.database.sessions() as session:
        schedule = await managing.read(session, "digest")
    changed = schedule.definition
    assert (changed.timing.cron, changed.timing.every_seconds) == (None, 1000000.5)
    assert (changed.overlap, changed.payload) == ("skip", {"n": 1, "token": "s"})
    answer = await operator.post(edit, data=every | {"mark": mark})
    assert (answer.status_code, "changed meanwhile" in answer.text) == (409, True)
    page = await page_at(operator, edit)
    assert page.one("input", name="every_seconds").attributes["value"] == "1000000.5"


async def test_past_ticks_are_run_and_a_schedule_is_deleted_from_its_page(
    app: FastAPI, operator: httpx.AsyncClient
) -> None:
    await make(app, "a")
    past = {
        "name": "a",
        "from": "2026-03-01T00:00Z",
        "until": "2026-03-04T00:00Z",
        "overlap": "allow",
    }
    answer = await operator.post(f"{PATH}/backfill", data=past)
    assert said(answer) == "3 of 3 ticks run again"
    answer = await operator.post(f"{PATH}/backfill", data=past | {"from": "monday"})
    assert said(answer).startswith("from is 'monday': expected a time such as")
    answer = await operator.post(f"{PATH}/backfill", data=past | {"overlap": "all"})
    assert said(answer).startswith("overlap is 'all': expected one of skip")
    page = await page_at(operator, f"{PATH}/schedule?name=a")
    assert page.one("section", id="ticks").text.count("backfill by tester") == 3
    answer = await operator.post(f"{PATH}/delete", data={"name": "a"})
    assert said(answer) == "a is deleted; its jobs stay"
    answer = await operator.post(f"{PATH}/delete", data={"name": "a"})
    assert said(answer) == "There is no schedule a"


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
