"""The page of targets."""

from collections.abc import AsyncIterator

import httpx
import pytest
from fastapi import FastAPI

from service.auth.principal import Role
from service.targets import repository
from service.targets.repository import Use
from tests.pages.parsed import Element, parsed
from tests.pages.signing_in import browser

PATH = "/dashboard/targets"
FLASH = "__Host-finmind_flash"
HOSTILE = '<b onclick="x">&amp;/ ä:443'


@pytest.fixture
async def operator(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    async with await browser(app, Role.OPERATOR) as client:
        yield client


async def page_at(client: httpx.AsyncClient, path: str) -> Element:
    answer = await client.get(path)
    assert answer.status_code == 200, answer.text
    return parsed(answer.text)


async def test_targets_are_listed_by_name_with_what_they_fail_of(
    app: FastAPI, operator: httpx.AsyncClient
) -> None:
    assert "No targets yet" in (await page_at(operator, PATH)).text
    sessions = app.state.service.database.sessions
    async with sessions.begin() as session:
        await repository.write_uses(
            session, {f"{n:02}.example:443": Use(succeeded=3) for n in range(51)}
        )
        await repository.open_breaker(session, HOSTILE, error=HOSTILE, pause=60, longest=60)
    first = await page_at(operator, PATH)
    more = first.one("a", rel="next").attributes["href"]
    assert more is not None
    second = await page_at(operator, more)
    rows = [*first.one("tbody").all("tr"), *second.one("tbody").all("tr")]
    assert len(rows) == 52
    (failing,) = [row.text for row in rows if HOSTILE in row.text]
    assert "open failing since" in failing
    assert failing.count(HOSTILE) >= 2  # its name, and what it failed of
    only = await page_at(operator, f"{PATH}?state=open")
    assert len(only.one("tbody").all("tr")) == 1


async def test_an_operator_resets_a_breaker_and_a_viewer_has_no_button(
    app: FastAPI, operator: httpx.AsyncClient
) -> None:
    async with app.state.service.database.sessions.begin() as session:
        await repository.open_breaker(session, HOSTILE, error="broke off", pause=60, longest=60)
    async with await browser(app, Role.VIEWER) as viewer:
        assert "Reset" not in (await page_at(viewer, PATH)).text
    assert "Reset" in (await page_at(operator, PATH)).text
    for name, words in ((HOSTILE, "is tried again"), (HOSTILE, "is closed"), ("x:1", "no target")):
        answer = await operator.post(f"{PATH}/reset", data={"name": name})
        assert answer.status_code == 303
        flash = f"{FLASH}={answer.cookies[FLASH]}"
        seen = await operator.get(
            PATH, headers={"cookie": f"{operator.headers['cookie']}; {flash}"}
        )
        assert words in parsed(seen.text).text
    assert "Reset" not in (await page_at(operator, PATH)).text
