"""The page of workers."""

from fastapi import FastAPI

from service.auth.principal import Role
from tests import databases
from tests.api.test_workers import RUNS, WORKERS
from tests.pages.parsed import parsed
from tests.pages.signing_in import browser
from tests.pages.test_queues import enqueue

PATH = "/dashboard/workers"


async def test_a_page_without_workers_says_what_to_do(app: FastAPI) -> None:
    async with await browser(app, Role.VIEWER) as client:
        page = parsed((await client.get(PATH)).text)
    assert "No worker is live" in page.text


async def test_live_lost_and_stopped_workers_are_shown_apart(app: FastAPI, pg_dsn: str) -> None:
    await databases.execute(pg_dsn, WORKERS)
    await enqueue(app, "a")
    await databases.execute(pg_dsn, RUNS)
    async with await browser(app, Role.VIEWER) as client:
        page = parsed((await client.get(PATH)).text)
    (card,) = page.all("article")
    assert "web-1 process 831" in card.text
    assert "1 of 4 slots in use" in card.text
    assert card.links["x 1"] == "/dashboard/jobs/1"
    assert [one.text for one in page.all("h2")][1:3] == [
        "Lost in the last day",
        "Stopped in the last day",
    ]


async def test_names_of_workers_are_text(app: FastAPI, pg_dsn: str) -> None:
    await databases.execute(
        pg_dsn, WORKERS.replace("web-1:831:aa", "<b>").replace("{x,y}", "{<i>}")
    )
    async with await browser(app, Role.VIEWER) as client:
        page = parsed((await client.get(PATH)).text)
    assert page.all("b") + page.all("i") == []
