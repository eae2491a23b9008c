"""The page of reminders."""

import httpx
import pytest
from fastapi import FastAPI

from service.auth.principal import Role
from service.dashboard.pages import reminders
from tests import databases
from tests.pages.parsed import Element, parsed
from tests.pages.signing_in import browser
from tests.pages.test_queues import told

PATH = "/dashboard/reminders"
ROWS = """
INSERT INTO reminders (user_id, message, channel, recipient, send_at, status, sent_at, last_error)
SELECT 'u' || n % 2, 'secret <b>' || n, 'email', 'somebody' || n || '@example.com',
  now() - interval '1 min', 'scheduled', NULL, NULL FROM generate_series(1, 3) n
UNION ALL SELECT 'u1', 'gone', 'email', 'x@example.com', now(), 'sent', now(), NULL"""


async def page_at(client: httpx.AsyncClient, path: str = PATH) -> Element:
    answer = await client.get(path)
    assert answer.status_code == 200, answer.text
    return parsed(answer.text)


def ids(page: Element) -> list[str]:
    return [row.all("td")[0].text for row in page.one("tbody", id="rows").all("tr")]


async def test_a_page_without_reminders_says_so(app: FastAPI) -> None:
    async with await browser(app, Role.VIEWER) as client:
        assert "No reminders yet" in (await page_at(client)).text
        assert "No reminder matches" in (await page_at(client, f"{PATH}?user=nobody")).text


async def test_reminders_are_found_by_status_and_user(app: FastAPI, pg_dsn: str) -> None:
    await databases.execute(pg_dsn, ROWS)
    async with await browser(app, Role.VIEWER) as client:
        page = await page_at(client)
        assert ids(page) == ["4", "3", "2", "1"]
        assert "no job yet" in page.one("tr", id="reminder-3").text
        sent = await page_at(client, page.links["sent"])
        assert ids(sent) == ["4"]
        assert ids(await page_at(client, f"{PATH}?user=u0&status=scheduled")) == ["2"]


async def test_what_is_personal_is_shown_to_those_who_may_see_it_alone(
    app: FastAPI, pg_dsn: str
) -> None:
    await databases.execute(pg_dsn, ROWS)
    for role, shown in ((Role.VIEWER, False), (Role.OPERATOR, False), (Role.ADMIN, True)):
        async with await browser(app, role) as client:
            answer = await client.get(PATH)
        assert ("secret" in answer.text, "@example.com" in answer.text) == (shown, shown), role
        assert "<b>" not in answer.text


async def test_pages_skip_no_reminder(
    app: FastAPI, pg_dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reminders, "PAGE_ROWS", 3)
    await databases.execute(pg_dsn, ROWS)
    async with await browser(app, Role.VIEWER) as client:
        first = await page_at(client)
        second = await page_at(client, first.links["Older"])
        assert ids(first) + ids(second) == ["4", "3", "2", "1"]
        assert "Older" not in second.links


async def test_what_is_due_gets_its_jobs_at_once(app: FastAPI, pg_dsn: str) -> None:
    await databases.execute(pg_dsn, ROWS)
    async with await browser(app, Role.OPERATOR) as client:
        answer = await client.post(f"{PATH}/run")
        assert told(answer) == "done: 3 due reminders got their jobs"
        page = await page_at(client)
        assert "3 are on the way" in page.text
        assert page.one("tr", id="reminder-1").all("td")[-1].links
