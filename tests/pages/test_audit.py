"""The audit log in the dashboard."""

import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from service import audit
from service.audit import Actor
from service.auth.principal import Role
from tests.api.conftest import Auth
from tests.pages.parsed import Element, parsed
from tests.pages.signing_in import FROM_OUR_PAGE, browser

LOG = "/dashboard/audit"
ANN = Actor("ann", "request-7", "10.0.0.7")


@pytest.fixture
async def viewer(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    async with await browser(app, Role.VIEWER) as client:
        yield client


async def write(app: FastAPI, count: int = 1, **entry: Any) -> None:
    given: dict[str, Any] = {"action": "job.edit", "subject_type": "job", "subject_id": "7"} | entry
    actor = given.pop("actor", ANN)
    async with app.state.service.database.sessions.begin() as session:
        for _ in range(count):
            await audit.record(session, actor, **given)


async def page_at(client: httpx.AsyncClient, path: str = LOG, status: int = 200) -> Element:
    answer = await client.get(path)
    assert answer.status_code == status, answer.text
    return parsed(answer.text)


def entries(page: Element) -> list[Element]:
    found = page.all("ol", data_rows="")
    return found[0].all("li") if found else []


async def of_job(client: httpx.AsyncClient, **query: str) -> Element:
    """The entries about jobs: not the sign-in of the test."""
    answer = await client.get(LOG, params={"subject_type": "job"} | query)
    assert answer.status_code == 200, answer.text
    return parsed(answer.text)


async def test_an_entry_shows_the_difference_and_leads_to_its_subject(
    app: FastAPI, viewer: httpx.AsyncClient
) -> None:
    await write(
        app,
        before={"queue": "default", "priority": 5, "payload": {"n": 1, "tags": ["a", "b"]}},
        after={"queue": "slow", "priority": 5, "payload": {"n": 1, "tags": ["a", "c"]}},
        reason="too many",
    )
    (row,) = entries(await of_job(viewer))
    difference = "payload.tags was a, b →now a, c queue was default →now slow"
    assert row.text.endswith(f"ann job.edit 7 too many {difference}")
    assert "priority" not in row.text
    assert row.links["7"] == "/dashboard/jobs/7"
    page = await page_at(viewer, row.all("a")[0].attributes["href"] or "")
    assert "too many" in page.text
    assert "10.0.0.7" in page.text
    assert "request-7" in page.text
    assert [heading.text for heading in page.one("main", id="main").all("h2")][1:] == [
        "Before",
        "After",
    ]


async def test_what_payloads_hide_is_hidden_here(app: FastAPI, viewer: httpx.AsyncClient) -> None:
    secret = "hunter2-" * 2
    cut = {"payload": {"$cut": f'{{"password": "{secret}"', "$characters": 99_999}}
    for before in ({"payload": {"user": {"Password": secret}}}, cut):
        await write(app, before=before, after={"payload": {"n": 1}})
    page = await of_job(viewer)
    assert secret not in page.text
    for row in entries(page):
        answer = await viewer.get(row.all("a")[0].attributes["href"] or "")
        assert answer.status_code == 200
        assert secret not in answer.text
    service = app.state.service
    service.settings = service.settings.model_copy(update={"dashboard_hide_payloads": True})
    await write(app, before={"payload": {"n": "plain"}}, after={"payload": {"n": 2}})
    assert "plain" not in (await of_job(viewer)).text


async def test_pages_go_on_where_the_last_one_ended(
    app: FastAPI, viewer: httpx.AsyncClient
) -> None:
    await write(app, 120)
    seen: list[str] = []
    path: str | None = f"{LOG}?subject_type=job"
    while path:
        page = await page_at(viewer, path)
        seen += [row.attributes["id"] or "" for row in entries(page)]
        await write(app, 2)
        path = page.links.get("Older")
    assert len(seen) == len(set(seen)) == 120


async def test_each_filter_is_in_the_link_and_in_the_form(
    app: FastAPI, viewer: httpx.AsyncClient
) -> None:
    await write(app)
    await write(app, actor=Actor("ben"), action="job.cancel", subject_id="8")
    await write(app, outcome=audit.Outcome.REFUSED, subject_id="9")
    for query, count in (
        ({}, 3),
        ({"actor": "ben"}, 1),
        ({"action": "job.cancel"}, 1),
        ({"subject_id": "7"}, 1),
        ({"outcome": "refused"}, 1),
        ({"when": "<1h"}, 3),
        ({"when": ">1h"}, 0),
        ({"actor": " ben ", "action": ""}, 1),
    ):
        page = await of_job(viewer, **query)
        assert len(entries(page)) == count, query
        for name, value in query.items():
            if name != "outcome":
                assert page.one("input", name=name).attributes["value"] == value.strip()
    assert "No entry matches" in (await of_job(viewer, actor="nobody")).text


@pytest.mark.parametrize("query", ["when=yesterday", "outcome=x", "cursor=x"])
async def test_a_filter_that_cannot_be_read_is_no_empty_list(
    viewer: httpx.AsyncClient, query: str
) -> None:
    page = await page_at(viewer, f"{LOG}?{query}", 422)
    assert "Nothing was searched." in page.text
    assert "No entry matches" not in page.text


async def test_an_operator_exports_what_the_filters_find(
    app: FastAPI, viewer: httpx.AsyncClient
) -> None:
    await write(app)
    await write(app, actor=Actor("ben"))
    assert "Export as JSON lines" not in (await page_at(viewer)).links
    assert (await viewer.get(f"{LOG}/export")).status_code == 403
    async with await browser(app, Role.OPERATOR) as operator:
        page = await of_job(operator, actor="ben")
        answer = await operator.get(page.links["Export as JSON lines"])
        (line,) = answer.text.splitlines()
        assert json.loads(line)["actor"] == "ben"
        (row,) = entries(await page_at(operator, f"{LOG}?action=audit.export"))
    assert "actor: ben" in row.text


async def test_a_sign_in_without_the_permission_is_a_refused_attempt(
    app: FastAPI, client: httpx.AsyncClient, auth: Auth, viewer: httpx.AsyncClient
) -> None:
    token = auth("service", "eve")["authorization"].removeprefix("Bearer ")
    answer = await client.post(
        "/dashboard/sign-in", data={"credential": token}, headers=FROM_OUR_PAGE
    )
    assert answer.status_code == 403
    (row,) = entries(await page_at(viewer, f"{LOG}?outcome=refused"))
    assert "eve access.refused refused route POST /dashboard/sign-in" in row.text
    assert "permission admin:read" in row.text


async def test_an_entry_that_is_gone_says_so(viewer: httpx.AsyncClient) -> None:
    assert "AUDIT_RETENTION_DAYS" in (await page_at(viewer, f"{LOG}/999999", 404)).text
    await page_at(viewer, f"{LOG}/0", 422)


async def test_whatever_an_entry_holds_is_text(app: FastAPI, viewer: httpx.AsyncClient) -> None:
    script = "<script>alert(1)</script>"
    await write(
        app, actor=Actor(script, script, script), action=script, subject_id=script, reason=script,
        filter={script: script}, before={script: script}, after={script: [script]},
    )  # fmt: skip
    page = await of_job(viewer)
    (row,) = entries(page)
    one = await page_at(viewer, row.all("a")[0].attributes["href"] or "")
    for shown in (page, one):
        assert script in shown.text
        assert all("alert" not in script.text for script in shown.all("script"))
