"""The pages of batches, and what a job's page says of other jobs."""

from collections.abc import AsyncIterator

import httpx
import pytest
from fastapi import FastAPI

from service.auth.principal import Role
from service.jobs import NewJob, create_batch, enqueue, enqueue_chain
from tests.pages.parsed import Element, parsed
from tests.pages.signing_in import browser

PATH = "/dashboard/batches"
HOSTILE = '<b onclick="x">&amp;/ ä'


@pytest.fixture
async def operator(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    async with await browser(app, Role.OPERATOR) as client:
        yield client


async def page_at(client: httpx.AsyncClient, path: str) -> Element:
    answer = await client.get(path)
    assert answer.status_code == 200, answer.text
    return parsed(answer.text)


async def new_batch(app: FastAPI, name: str, jobs: int = 0) -> int:
    async with app.state.service.database.sessions.begin() as session:
        batch_id = await create_batch(session, name)
        for _ in range(jobs):
            await enqueue(session, "mail", batch_id=batch_id, delay_seconds=3600)
    return batch_id


async def test_batches_are_listed_newest_first_with_how_far_they_are(
    app: FastAPI, operator: httpx.AsyncClient
) -> None:
    assert "No batches yet" in (await page_at(operator, PATH)).text
    for number in range(52):
        await new_batch(app, HOSTILE if number == 51 else str(number), jobs=number == 51)
    page = await page_at(operator, PATH)
    first = page.one("tbody").all("tr")[0].text
    assert HOSTILE in first
    assert "0 of 1 ended" in first
    older = page.one("a", rel="next").attributes["href"]
    assert older is not None
    assert [
        row.all("td")[1].text for row in (await page_at(operator, older)).one("tbody").all("tr")
    ] == [
        "1",
        "0",
    ]


async def test_an_operator_cancels_a_batch_and_a_viewer_cannot(
    app: FastAPI, operator: httpx.AsyncClient
) -> None:
    batch_id = await new_batch(app, "letters", jobs=3)
    async with await browser(app, Role.VIEWER) as viewer:
        assert not (await page_at(viewer, f"{PATH}/{batch_id}")).all(
            "form", action=f"{PATH}/{batch_id}/cancel"
        )
        answer = await viewer.post(f"{PATH}/{batch_id}/cancel")
        assert answer.status_code == 403
    page = await page_at(operator, f"{PATH}/{batch_id}")
    assert "3 jobs wait, 0 run" in page.text
    answer = await operator.post(f"{PATH}/{batch_id}/cancel", data={"reason": "a mistake"})
    assert answer.status_code == 303
    page = await page_at(operator, f"{PATH}/{batch_id}")
    assert "cancelled" in page.one("section", id="progress").text
    assert (await operator.get(f"{PATH}/99")).status_code == 404


async def test_the_page_of_a_job_links_what_it_comes_after_and_what_comes_after_it(
    app: FastAPI, operator: httpx.AsyncClient
) -> None:
    batch_id = await new_batch(app, "letters")
    async with app.state.service.database.sessions.begin() as session:
        jobs = [NewJob("mail", batch_id=batch_id) for _ in range(3)]
        first, second, third = [job.id for job in await enqueue_chain(session, jobs)]
    page = await page_at(operator, f"/dashboard/jobs/{second}")
    links = {
        link.attributes["href"]: link.text for link in page.one("section", id="relatives").all("a")
    }
    assert links == {f"/dashboard/jobs/{first}": str(first), f"/dashboard/jobs/{third}": str(third)}
    facts = page.one("section", id="facts")
    assert f"{PATH}/{batch_id}" in [link.attributes["href"] for link in facts.all("a")]
