"""Operations on many jobs in a real browser: from the list of jobs to what was done."""

from typing import Any

from playwright.async_api import expect

from service.audit import Actor
from service.jobs.core.bulk_action import BulkAction, Verb
from service.jobs.core.filters import JobFilters
from service.operations import starting
from service.operations.model import Canary
from tests.dashboard.conftest import OpenPage
from tests.dashboard.looks import WINDOWS, Theme, misfits
from tests.dashboard.served import Served
from tests.jobs.rows import add

UNFOLD = "all => all.forEach((one) => { one.open = true; })"
NEW = "/dashboard/operations/new?action="


async def put(served: Served, count: int, **values: Any) -> None:
    row = {"status": "DEAD_LETTER", "last_error": "TimeoutError: " + "no answer " * 40} | values
    async with served.database.sessions.begin() as session:
        for _ in range(count):
            await add(session, **row)


async def start(served: Served) -> str:
    request = starting.OperationRequest(
        action=BulkAction(verb=Verb.RETRY, payload_merge={"a": "b" * 300}),
        filters=JobFilters(job_type="mail", error="x" * 150),
        canary=Canary(5, 10, 60),
        reason="w" * 300,
    )
    async with served.database.sessions.begin() as session:
        made = await starting.start(
            session, request, served.app.state.service.settings, actor=Actor("a" * 200)
        )
    return f"/dashboard/operations/{made.id}"


@WINDOWS
async def test_the_pages_fit_and_axe_finds_nothing(
    open_page: OpenPage, served: Served, width: int, theme: Theme
) -> None:
    page = await open_page(width=width, theme=theme)
    await page.goto("/dashboard/operations")
    assert await misfits(page) == []
    await put(served, 7)
    one = await start(served)
    for path in ("/dashboard/operations", one, *(f"{NEW}{verb}" for verb in Verb)):
        await page.goto(path)
        await page.eval_on_selector_all("main details", UNFOLD)
        assert await misfits(page) == [], path


async def test_all_that_match_are_retried_after_a_preview_that_names_their_count(
    open_page: OpenPage, served: Served
) -> None:
    await put(served, 7)
    await put(served, 2, job_type="other")
    page = await open_page("/dashboard/jobs?q=type:mail", role="operator")
    await page.get_by_text("All 7 that match").click()
    await page.locator(".menu.all").get_by_role("button", name="Retry").click()
    await expect(page.locator("h1")).to_have_text("Retry: 7 jobs")
    await page.get_by_label("Reason").fill("it is mended")
    await page.get_by_role("button", name="Retry: 7 jobs").click()
    await expect(page.locator(".flash.done")).to_contain_text("has begun")
    await expect(page.locator("#progress")).to_contain_text("running")


async def test_a_reader_sees_live_that_it_was_paused(open_page: OpenPage, served: Served) -> None:
    await put(served, 3)
    one = await start(served)
    reader = await open_page(one, role="viewer")
    operator = await open_page(one, role="operator")
    await expect(reader.locator("#progress")).to_contain_text("running")
    await operator.get_by_text("Pause…").click()
    await operator.locator("#buttons").get_by_label("Reason").first.fill("lunch")
    await operator.get_by_role("button", name="Pause it").click()
    await expect(operator.locator(".flash.done")).to_contain_text("is paused")
    await expect(reader.locator("#progress")).to_contain_text("paused", timeout=4000)
    await expect(reader.locator("#progress")).to_contain_text("lunch")
