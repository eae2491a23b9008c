"""What a handler logs shows on the page of its job while it runs."""

from playwright.async_api import expect

from service.jobs import enqueue
from tests.dashboard.conftest import OpenPage, Serve
from tests.dashboard.looks import axe_findings
from tests.dashboard.served import Served


async def demo(serve: Serve) -> Served:
    """A service that runs the demo's jobs."""
    return await serve(worker=True, handler_modules=("service.demo",))


async def test_lines_of_a_running_job_show_as_they_come(open_page: OpenPage, serve: Serve) -> None:
    served = await demo(serve)
    async with served.database.sessions.begin() as session:
        job = await enqueue(session, "demo.slow", {"seconds": 6}, delay_seconds=1.5)
    page = await open_page(f"{served.url}/dashboard/jobs/{job.id}")
    log = page.locator("#log")
    await expect(log).to_have_text("")
    for step in (
        1,
        2,
    ):  # the job ends so soon after the third that a slow page may show both at once
        await expect(log).to_contain_text(f"step {step} done")
        await expect(page.locator("#standing")).to_contain_text("RUNNING")
    await expect(page.locator("#standing")).to_contain_text("SUCCESS")
    await expect(log.locator("tbody tr")).to_have_count(5)  # a heading and four lines
    assert await axe_findings(page) == []


async def test_lines_are_told_apart_by_attempt(open_page: OpenPage, serve: Serve) -> None:
    served = await demo(serve)
    async with served.database.sessions.begin() as session:
        job = await enqueue(session, "demo.flaky", {"failures": 1})
    page = await open_page(f"{served.url}/dashboard/jobs/{job.id}")
    rows = page.locator("#log tbody tr")
    await expect(rows).to_have_count(5)
    assert [text.split("\t")[-1] for text in await rows.all_inner_texts()] == [
        "Attempt 1",
        'connecting { "number": 0 }',
        'the other side hung up { "attempt": 1 }',
        "Attempt 2",
        'connecting { "number": 0 }',
    ]
