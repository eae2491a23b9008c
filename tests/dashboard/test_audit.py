"""The audit log and the API keys in a real browser."""

import re
from typing import Any

from playwright.async_api import expect

from service import audit
from service.audit import Actor
from service.auth.principal import Permission
from service.jobs import cancel_job, enqueue
from tests.dashboard.conftest import OpenPage
from tests.dashboard.looks import WINDOWS, Theme, misfits
from tests.dashboard.served import Served

UNFOLD = "all => all.forEach((one) => { one.open = true; })"


async def fill(served: Served) -> None:
    entries: list[dict[str, Any]] = [
        {"action": "job.edit", "subject_type": "job", "subject_id": "7", "reason": "why not " * 30,
         "before": {"payload": {"a": {"b": 1}}, "queue": "default"},
         "after": {"payload": {"a": {"b": 2}, "text": "x" * 300}, "queue": "slow"}},
        {"action": "access.refused", "subject_type": "route", "subject_id": "POST /x/{id}",
         "after": {"path": "/x/1"}, "outcome": audit.Outcome.REFUSED},
        {"action": "operation.start", "subject_type": "operation", "filter": {"queue": "m" * 90}},
    ]  # fmt: skip
    async with served.database.sessions.begin() as session:
        for entry in entries:
            await audit.record(session, Actor("ann@example.com", "r", "10.0.0.7"), **entry)


@WINDOWS
async def test_the_pages_fit_and_axe_finds_nothing(
    open_page: OpenPage, served: Served, width: int, theme: Theme
) -> None:
    await fill(served)
    keys = served.service.authenticator.api_keys
    for name in ("billing", "gone"):
        made = await keys.create(name, [Permission.JOBS_READ], created_by="ann@example.com")
    await keys.revoke(made.record.prefix, by="ann")
    page = await open_page("/dashboard/audit", width=width, theme=theme)
    for path in ("/dashboard/audit", "/dashboard/audit?actor=nobody", "/dashboard/audit/1",
                 "/dashboard/api-keys"):  # fmt: skip
        await page.goto(path)
        await page.eval_on_selector_all("main details", UNFOLD)
        assert await misfits(page) == [], path


async def test_from_the_list_to_an_entry_to_all_that_was_done_to_it_by_keys(
    open_page: OpenPage, served: Served
) -> None:
    await fill(served)
    page = await open_page("/dashboard/audit?subject_type=job")
    await page.keyboard.press("j")
    await page.keyboard.press("Enter")
    await expect(page.get_by_role("heading", level=1)).to_contain_text("job.edit")
    await expect(page.locator(".changes")).to_contain_text("queue")
    await page.get_by_role("link", name="All that was done to this job").click()
    await expect(page).to_have_url(re.compile(r"subject_id=7"))
    await expect(page.locator(".entries > li")).to_have_count(1)


async def test_a_key_is_made_shown_once_and_revoked(open_page: OpenPage) -> None:
    page = await open_page("/dashboard/api-keys")
    await page.get_by_text("Make a key").click()
    await page.get_by_label("Name").fill("billing")
    await page.get_by_label("enqueue jobs").check()
    await page.get_by_role("button", name="Make the key").click()
    await expect(page.locator("#key")).to_have_text(re.compile(r"^fmj_\w+\.\S{43}$"))
    await expect(page.get_by_role("button", name="Copy the key")).to_be_visible()
    await page.get_by_role("link", name="Done").click()
    await expect(page.locator("main")).not_to_contain_text("fmj_")
    await page.get_by_text("Revoke", exact=True).click()
    await page.get_by_role("button", name=re.compile("^Revoke")).click()
    await expect(page.get_by_role("status")).to_contain_text("works no more")
    await expect(page.get_by_text("No key works")).to_be_visible()


async def test_an_operator_saves_the_export(open_page: OpenPage, served: Served) -> None:
    await fill(served)
    page = await open_page("/dashboard/audit?actor=ann%40example.com", role="operator")
    async with page.expect_download() as saved:
        await page.get_by_role("link", name="Export as JSON lines").click()
    download = await saved.value
    assert re.fullmatch(r"audit-\d{8}T\d{6}Z\.jsonl", download.suggested_filename)
    assert len((await download.path()).read_text().splitlines()) == 3


async def test_new_entries_are_counted_and_move_no_row(open_page: OpenPage, served: Served) -> None:
    await fill(served)
    page = await open_page("/dashboard/audit?subject_type=job")
    await expect(page.locator("#live [role=status]")).to_have_text("Live")
    async with served.database.sessions.begin() as session:
        await cancel_job(session, (await enqueue(session, "mail")).id, actor=Actor("ben"))
    news = page.get_by_role("link", name="1 new entry: show")
    await expect(news).to_be_visible()
    await expect(page.locator(".entries > li")).to_have_count(1)
    await news.click()
    await expect(page.locator(".entries > li")).to_have_count(2)
    await expect(page.locator(".entries > li").first).to_contain_text("ben")
