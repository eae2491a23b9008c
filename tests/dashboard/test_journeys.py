"""What an operator comes for, from the sign-in to the repair, with a worker that runs the jobs."""

import re

import pytest
import pytest_asyncio
from playwright.async_api import Page, expect

from service.jobs import NewJob, enqueue_batch
from tests.dashboard.conftest import OpenPage, Serve
from tests.dashboard.every_page import paths, seed
from tests.dashboard.served import Served
from tests.dashboard.trouble import Trouble

pytestmark = pytest.mark.timeout(120)

UNABLE = {"number": 7, "failures": 100}


@pytest_asyncio.fixture(loop_scope="session")
async def demo(serve: Serve) -> Served:
    """A service that runs the demo's jobs, and counts their causes at once."""
    return await serve(worker=True, handler_modules=("service.demo",), maintenance_seconds=0.2)


async def fail(demo: Served, count: int) -> None:
    """Jobs that die at once, of one cause, until their payload is edited."""
    jobs = [NewJob("demo.flaky", UNABLE, max_retries=0) for _ in range(count)]
    async with demo.database.sessions.begin() as session:
        await enqueue_batch(session, jobs)


async def sign_in(open_page: OpenPage, demo: Served) -> Page:
    """Sign in by hand, with a token; the first page."""
    page = await open_page(f"{demo.url}/dashboard", role=None)
    await page.get_by_label("Token or API key").fill(demo.token("operator"))
    await page.keyboard.press("Enter")
    await expect(page.get_by_role("heading", name="Overview")).to_be_visible()
    return page


async def test_from_the_sign_in_to_the_cause_to_the_repaired_job(
    open_page: OpenPage, demo: Served
) -> None:
    page = await sign_in(open_page, demo)
    await fail(demo, 1)
    attention = page.locator("#attention")
    await expect(attention).to_contain_text("demo.flaky failed for good")
    await attention.get_by_role("link").first.click()
    await expect(page.locator("#sample pre")).to_contain_text("raise ConnectionError")
    await page.locator("#sample").get_by_role("link", name=re.compile("Job")).click()
    await page.get_by_role("link", name="Edit and retry").click()
    payload = page.get_by_label("Payload")
    await payload.fill((await payload.input_value()).replace("100", "0"))
    await page.get_by_role("button", name="Show what changes").click()
    await expect(page.get_by_role("heading", name="What changes in the payload")).to_be_visible()
    await page.get_by_role("button", name="Retry with this").click()
    await expect(page.locator("#standing")).to_contain_text("SUCCESS")
    await expect(page.locator("#history")).to_contain_text("tester")


async def test_a_cause_is_tried_on_a_few_and_then_repaired_as_a_whole(
    open_page: OpenPage, demo: Served
) -> None:
    await fail(demo, 30)
    page = await open_page(f"{demo.url}/dashboard/dead-letters", role="operator")
    await expect(page.locator("tbody tr")).to_have_count(1)
    await expect(page.locator("tbody tr")).to_contain_text("30")
    await page.locator("tbody a").first.click()
    await page.get_by_role("link", name=re.compile(r"Retry \d+ first")).click()
    await expect(page.get_by_role("heading", level=1)).to_contain_text("30 jobs")
    await page.get_by_label("Reason, for the audit log").fill("is it over?")
    await page.get_by_role("button", name=re.compile("30 jobs")).click()
    progress = page.locator("#progress")
    await expect(progress).to_contain_text("stopped", timeout=60_000)
    await page.goto(f"{demo.url}/dashboard/dead-letters")
    await expect(page.locator("tbody tr")).to_contain_text("30")  # nothing was lost by it
    await page.locator("tbody a").first.click()
    await page.get_by_role("link", name="Edit and retry").click()
    await page.get_by_label("Change of each payload").fill('{"failures": 0}')
    await page.get_by_role("button", name=re.compile("30 jobs")).click()
    await expect(progress).to_contain_text("30 changed", timeout=60_000)
    await page.goto(f"{demo.url}/dashboard")
    succeeded = page.locator("#counts .figure", has_text="SUCCESS").locator("dd")
    await expect(succeeded).to_have_text(re.compile(r"^3\d"))  # and the jobs of the operations


async def test_a_job_is_cancelled_by_keys_alone(open_page: OpenPage, demo: Served) -> None:
    async with demo.database.sessions.begin() as session:
        await enqueue_batch(session, [NewJob("demo.ok", {}, delay_seconds=3600)])
    page = await open_page(f"{demo.url}/dashboard", role="operator")
    await page.keyboard.press("g")
    await page.keyboard.press("j")
    await expect(page.locator("tbody tr")).to_have_count(1)
    await page.keyboard.press("j")
    await page.keyboard.press("Enter")
    await expect(page.locator("#standing")).to_contain_text("PENDING")
    for _ in range(60):
        await page.keyboard.press("Tab")
        if await page.evaluate("document.activeElement.textContent") == "Cancel":
            break
    await page.keyboard.press("Enter")
    await page.keyboard.press("Tab")
    await page.keyboard.type("not needed")
    await page.keyboard.press("Enter")
    await expect(page.locator("#standing")).to_contain_text("CANCELLED")
    await expect(page.locator("#history")).to_contain_text("not needed")


async def test_a_viewer_is_offered_nothing_that_changes_something(
    open_page: OpenPage, served: Served, trouble: Trouble
) -> None:
    parameters = await seed(served.database, "send_invoice_reminder")
    page = await open_page(role="viewer")
    refused = 0
    for path in paths(served.app, parameters):
        if path == "/dashboard/sign-in":
            continue
        answer = await page.goto(path)
        assert answer is not None
        if answer.status == 403:
            refused += 1
            trouble.expect("403")
        forms = page.locator("main form[method=post]")
        assert await forms.count() == 0, path
    assert 0 < refused < 10


async def test_two_readers_see_one_pause_at_once(open_page: OpenPage, demo: Served) -> None:
    async with demo.database.sessions.begin() as session:
        await enqueue_batch(session, [NewJob("demo.ok", {}, queue="mail", delay_seconds=3600)])
    acting = await open_page(f"{demo.url}/dashboard/queues", role="operator")
    reading = await open_page(f"{demo.url}/dashboard", role="viewer", width=390, theme="dark")
    await expect(reading.locator("#live [role=status]")).to_have_text("Live")
    row = acting.locator("tr", has_text="mail")
    await row.get_by_text("Pause", exact=False).first.click()
    await row.get_by_label("Reason", exact=False).fill("the mail server moves")
    await acting.keyboard.press("Enter")
    await expect(reading.locator("#attention")).to_contain_text("the mail server moves")
