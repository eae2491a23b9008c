"""The job types in the dashboard: rates, run times, retries to come, who serves them."""

from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from service.auth.principal import Role
from service.dashboard.pages.job_types import distribution
from service.jobs.core.job import JobId
from service.jobs.maintenance.rates import KeptRates
from service.jobs.read.rates import Durations
from tests.jobs.rows import add
from tests.pages.parsed import Element, parsed
from tests.pages.signing_in import browser

NOW = datetime.now(UTC)
LIST = "/dashboard/job-types"

ENDED = """
INSERT INTO finmind_jobs.job_rate_deltas (at, queue, job_type, outcome, jobs, timings) VALUES
  ($1, 'a', 'invoice', 'SUCCESS', 6, array_fill(3 * 128 + 20, ARRAY[6])::smallint[]),
  ($1, 'b', 'invoice', 'RETRIED', 2, array_fill(3 * 128 + 30, ARRAY[2])::smallint[]),
  ($1, 'b', 'sms', 'DEAD_LETTER', 3, array_fill(3 * 128 + 40, ARRAY[3])::smallint[])"""
WORKER = """
INSERT INTO finmind_jobs.job_workers (name, queues, job_types, concurrency)
VALUES ('here:1', '{*}', '{invoice,idle}', 5)"""

Put = Callable[..., Awaitable[JobId]]


@pytest.fixture(autouse=True)
def _as_of_this_test() -> None:
    """The tests of a run that takes minutes are collected before the first of them."""
    global NOW  # noqa: PLW0603 - read by helpers all over this file
    NOW = datetime.now(UTC)


@pytest.fixture
def put(app: FastAPI) -> Put:
    """Puts a row in, as SQL by hand would."""

    async def put(**values: Any) -> JobId:
        async with app.state.service.database.sessions.begin() as session:
            return await add(session, **values)

    return put


@pytest.fixture
async def viewer(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    async with await browser(app, Role.VIEWER) as client:
        yield client


@pytest.fixture
async def ended(app: FastAPI) -> None:
    """What ended a moment ago, and a worker."""
    link = app.state.service.database.link()
    await link.fetch(ENDED, datetime.now(UTC) - timedelta(minutes=1))
    await link.fetch(WORKER)
    await KeptRates(link, app.state.service.settings).fold()
    await link.close()


async def page_at(client: httpx.AsyncClient, path: str = LIST) -> Element:
    answer = await client.get(path)
    assert answer.status_code == 200, answer.text
    assert "style=" not in answer.text
    return parsed(answer.text)


def row(page: Element, name: str) -> dict[str, str]:
    """The cells of a type, by their titles."""
    found = page.one("tr", id=f"type-{name}")
    return {cell.attributes.get("data-title") or "Type": cell.text for cell in found.all("td")}


async def test_a_page_without_types_says_so(viewer: httpx.AsyncClient) -> None:
    assert "No job types yet" in (await page_at(viewer)).text


async def test_each_type_tells_how_its_attempts_ended_and_who_serves_it(
    viewer: httpx.AsyncClient, put: Put, ended: None
) -> None:
    await put(job_type="invoice", attempts=1, next_run_at=NOW + timedelta(hours=1))
    await put(job_type="invoice")
    await put(job_type="waits")
    page = await page_at(viewer)
    assert [text.split()[0] for text in page.rows] == ["invoice", "sms", "idle", "waits"]
    invoice = row(page, "invoice")
    assert invoice["Attempts"] == "8"
    assert invoice["Failures"] == "2"
    assert invoice["Failure share"] == "25 %"
    assert invoice["Pending"] == "2"
    assert invoice["Retries to come"] == "1"
    assert invoice["Workers"] == "1"
    assert invoice["Run time p50"].endswith(" ms")
    assert row(page, "sms")["Failed for good"] == "3"
    assert row(page, "waits")["Workers"] == "none"
    assert row(page, "idle")["Attempts"] == "0"


@pytest.mark.parametrize(
    ("query", "first"),
    [
        ("sort=dead", "sms"),
        ("sort=share", "sms"),
        ("sort=name", "invoice"),
        ("sort=odd", "invoice"),
    ],
)
async def test_rows_are_sorted_as_asked(
    viewer: httpx.AsyncClient, ended: None, query: str, first: str
) -> None:
    page = await page_at(viewer, f"{LIST}?{query}")
    assert page.rows[0].startswith(first)


async def test_types_are_found_by_a_part_of_their_name(
    viewer: httpx.AsyncClient, ended: None
) -> None:
    page = await page_at(viewer, f"{LIST}?named=VOI&window=24h")
    assert [text.split()[0] for text in page.rows] == ["invoice"]
    assert "No type has such a name" in (await page_at(viewer, f"{LIST}?named=zzz")).text


async def test_one_type_shows_its_distribution_and_its_slowest_jobs(
    viewer: httpx.AsyncClient, put: Put, ended: None
) -> None:
    for seconds in (1, 30, 5):
        await put(
            job_type="invoice", status="SUCCESS", started_at=NOW - timedelta(seconds=seconds),
            finished_at=NOW,
        )  # fmt: skip
    link = (await page_at(viewer)).links["invoice"]
    page = await page_at(viewer, link)
    bars = page.one("figure", id="distribution").one("tbody").all("tr")
    assert [bar.text for bar in bars] == ["100 ms 6", "316 ms 0", "1 s 2"]
    slow = page.one("section", id="slowest").one("tbody").all("tr")
    assert [one.text.split(" ", 1)[1].split(" s")[0] for one in slow] == ["30", "5", "1"]
    assert "8" in page.one("section", id="lately").text


async def test_a_type_that_nobody_knows_is_a_page_of_nothing(viewer: httpx.AsyncClient) -> None:
    page = await page_at(viewer, f"{LIST}?type=%3Cb%3Eno%2F..%3C%2Fb%3E")
    assert "<b>no/..</b>" in page.one("h1").text
    assert "No live worker serves this type" in page.text


def test_bars_of_a_distribution_hold_every_attempt() -> None:
    buckets = {0: 1, 1: 2, 5: 3, 6: 4, 80: 5}
    found = Durations.of(buckets)
    chart = distribution(found)
    assert [count for _, (count,) in chart.rows if count != "0"] == ["1", "5", "4", "5"]
    assert distribution(None).is_empty
