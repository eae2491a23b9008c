"""The pages of jobs in a real browser: keys, suggestions, live rows, copying, accessibility."""

import re
from typing import Any

from playwright.async_api import Page, expect

from service.audit import Actor
from service.jobs.actions import cancel_job, delete_job
from service.jobs.core.job import JobId
from tests.dashboard.conftest import OpenPage, settled
from tests.dashboard.looks import WINDOWS, Theme, misfits
from tests.dashboard.served import Served
from tests.dashboard.trouble import Trouble
from tests.jobs.rows import add

LIST = "/dashboard/jobs"
ERROR = {
    "event": "error", "attempt": 1, "type": "ValueError", "message": "no such customer",
    "traceback": 'Traceback (most recent call last):\n  File "mail.py", line 3\nValueError: no',
}  # fmt: skip


async def put(served: Served, **values: Any) -> int:
    async with served.database.sessions.begin() as session:
        return await add(session, **values)


async def some_jobs(served: Served) -> list[int]:
    """Three jobs; the second is dead."""
    return [
        await put(served, job_type="send_invoice", payload={"user": {"id": 1}}),
        await put(
            served, job_type="send_invoice", status="DEAD_LETTER", errors=[ERROR], attempts=1,
            last_error="ValueError: no such customer", payload={"password": "x", "n": [1, {}]},
        ),
        await put(served, job_type="report", progress={"fraction": 0.5, "message": "half"}),
    ]  # fmt: skip


def search_box(page: Page) -> Any:
    return page.get_by_role("combobox", name="Search jobs")


async def focused_row(page: Page) -> str:
    return str(await page.evaluate("document.activeElement.closest('tr')?.id"))


async def test_a_dead_job_is_found_and_retried_by_keys_alone(
    open_page: OpenPage, served: Served
) -> None:
    jobs = await some_jobs(served)
    page = await open_page(LIST, role="operator")
    await page.keyboard.press("/")
    await expect(search_box(page)).to_be_focused()
    await page.keyboard.type("status:dead")
    await page.keyboard.press("ArrowDown")
    await page.keyboard.press("Enter")
    await expect(search_box(page)).to_have_value("status:DEAD_LETTER ")
    await page.keyboard.press("Enter")
    await expect(page.locator("tbody tr")).to_have_count(1)
    await page.keyboard.press("j")
    await page.keyboard.press("Enter")
    await expect(page).to_have_url(re.compile(rf"/dashboard/jobs/{jobs[1]}$"))
    await expect(page.get_by_text('File "mail.py", line 3')).to_be_visible()
    await page.get_by_text("Retry", exact=True).focus()
    await page.keyboard.press("Enter")
    await page.get_by_label("Reason, for the audit log").first.fill("fixed")
    await page.keyboard.press("Enter")
    await expect(page.get_by_text(f"Job {jobs[1]} is PENDING again, due now")).to_be_visible()
    await expect(page.locator("#standing")).to_contain_text("PENDING")


async def test_j_and_k_move_along_the_rows(open_page: OpenPage, served: Served) -> None:
    jobs = await some_jobs(served)
    page = await open_page(LIST)
    for key, job in (("j", jobs[2]), ("j", jobs[1]), ("j", jobs[0]), ("k", jobs[1])):
        await page.keyboard.press(key)
        assert await focused_row(page) == f"job-{job}"


async def test_suggestions_complete_the_term_that_is_typed(
    open_page: OpenPage, served: Served
) -> None:
    await some_jobs(served)
    page = await open_page(LIST)
    box = search_box(page)
    await box.fill("status:FAILED type:sen")
    offered = page.get_by_role("option", name="type:send_invoice")
    await expect(offered).to_be_visible()
    await offered.click()
    await expect(box).to_have_value("status:FAILED type:send_invoice ")
    await box.press("Escape")
    await expect(page.get_by_role("listbox")).to_be_hidden()


async def test_rows_change_where_they_stand_and_new_ones_are_counted(
    open_page: OpenPage, served: Served
) -> None:
    jobs = await some_jobs(served)
    page = await open_page(f"{LIST}?q=status:PENDING")
    rows = page.locator("tbody tr")
    await expect(rows).to_have_count(2)
    await page.keyboard.press("j")
    await page.locator(f"#job-{jobs[0]}").evaluate("(row) => { row.dataset.mine = 'kept' }")
    new = await put(served, job_type="new")
    async with served.database.sessions.begin() as session:
        await cancel_job(session, JobId(jobs[0]))
    await expect(page.get_by_role("link", name="1 new job: show")).to_be_visible()
    await expect(page.locator(f"#job-{jobs[0]}")).to_contain_text("CANCELLED")
    await expect(rows).to_have_count(2)
    assert await focused_row(page) == f"job-{jobs[2]}"
    await page.get_by_role("link", name="1 new job: show").click()
    await expect(page.locator(f"#job-{new}")).to_be_visible()


async def test_a_job_that_ends_changes_its_buttons_by_itself_and_nothing_that_is_typed(
    open_page: OpenPage, served: Served
) -> None:
    job = await put(served, job_type="report", payload={"a": {"b": {"c": 1}}})
    page = await open_page(f"{LIST}/{job}", role="operator")
    await page.get_by_text("{ 1 }").last.click()
    await expect(page.get_by_text("c: 1")).to_be_visible()
    await page.get_by_text("Clone", exact=True).click()
    reason = page.locator("form[action$='/clone'] [name=reason]")
    await reason.fill("half a sent")
    async with served.database.sessions.begin() as session:
        await cancel_job(session, JobId(job))
    await expect(page.locator("#standing")).to_contain_text("CANCELLED")
    await expect(page.get_by_text("Cancel", exact=True)).to_have_count(0)
    # What was folded out, and what was typed, stays.
    await expect(page.get_by_text("c: 1")).to_be_visible()
    await expect(reason).to_have_value("half a sent")


async def test_a_job_that_is_deleted_meanwhile_says_who_deleted_it(
    open_page: OpenPage, served: Served, trouble: Trouble
) -> None:
    job = await put(served)
    page = await open_page(f"{LIST}/{job}")
    await expect(page.locator("#live [role=status]")).to_have_text("Live")
    async with served.database.sessions.begin() as session:
        await delete_job(session, JobId(job), actor=Actor("olga"), reason="sent twice")
        await cancel_job(session, JobId(await add(session)))  # pages hear of what jobs do
    await expect(page.get_by_text("olga deleted it at")).to_be_visible()
    await settled(page)
    trouble.expect(rf"answer: 404 to GET .*/dashboard/jobs/{job}|console error: .*404")


async def test_text_is_copied_over_plain_http(open_page: OpenPage, served: Served) -> None:
    jobs = await some_jobs(served)
    page = await open_page(f"{LIST}/{jobs[1]}")
    # What browsers leave out where a page came by plain HTTP from another machine.
    await page.evaluate("Object.defineProperty(navigator, 'clipboard', { value: undefined })")
    traceback = page.locator("details.source", has_text="Traceback").first
    await traceback.get_by_role("button", name="Copy").click()
    await page.goto(LIST)
    await search_box(page).focus()
    await page.keyboard.press("Control+V")
    assert "ValueError: no" in await search_box(page).input_value()


async def test_pages_work_without_scripts(open_page: OpenPage, served: Served) -> None:
    jobs = await some_jobs(served)
    page = await open_page(LIST, role="operator", java_script_enabled=False)
    await page.locator("input[name=q]").fill("payload.user.id:1")
    await page.get_by_role("button", name="Search", exact=True).click()
    await page.get_by_role("link", name=str(jobs[0]), exact=True).click()
    await page.get_by_text("Cancel", exact=True).click()
    await page.get_by_role("button", name=f"Cancel job {jobs[0]}").click()
    await page.get_by_text(f"Job {jobs[0]} is cancelled").wait_for()
    await page.goto(f"{LIST}/{jobs[1]}/edit")
    await page.get_by_role("button", name="Show the payload and edit it").click()
    await page.get_by_label("Payload").fill('{"n": 2}')
    await page.get_by_role("button", name="Show what changes").click()
    await page.get_by_role("button", name="Retry with this").click()
    await page.get_by_text("with what you changed").wait_for()


@WINDOWS
async def test_pages_keep_nobody_out_and_fit_their_window(
    open_page: OpenPage, served: Served, theme: Theme, width: int
) -> None:
    jobs = await some_jobs(served)
    page = await open_page(LIST, width=width, theme=theme)
    for path in (
        LIST,
        f"{LIST}?q=status:SUCCESS",
        f"{LIST}?columns=key&columns=error&columns=due",
        *(f"{LIST}/{job}" for job in jobs),
        f"{LIST}/{jobs[0]}/edit",
    ):
        await page.goto(path)
        await page.evaluate(
            "() => { for (const one of document.querySelectorAll('main details')) one.open = true }"
        )
        assert await misfits(page) == [], path
