"""What holds on every page of the dashboard, whoever adds one: tests/dashboard/every_page.py finds them."""

import pytest
from playwright.async_api import Dialog, Page

from tests.dashboard.conftest import OpenPage
from tests.dashboard.every_page import pages, paths, seed
from tests.dashboard.looks import WINDOWS, Theme, misfits
from tests.dashboard.served import Served
from tests.dashboard.trouble import Trouble

SCRIPT = "<script>alert(1)</script>"
HOSTILE = f"\"><img src=x onerror=alert(1)>'{SCRIPT}{{{{7*7}}}}</title>"
"""Breaks out of attributes and elements, and of templates, wherever it is not escaped."""

PLACES = {
    "/dashboard": 8,  # what needs attention, queues, workers
    "/dashboard/api-keys": 3,  # name, who made it
    "/dashboard/audit": 5,  # actor, subject, reason
    "/dashboard/audit/{entry_id}": 13,  # and address, filter, before, after
    "/dashboard/batches": 2,  # name, who
    "/dashboard/batches/{batch_id}": 3,  # and who cancelled it
    "/dashboard/dead-letters": 2,  # title, type
    "/dashboard/dead-letters/{fingerprint}": 13,  # and traceback, payload, workers, reason
    "/dashboard/enqueue": 1,  # the types that workers serve
    "/dashboard/job-types": 1,
    "/dashboard/jobs": 3,  # type, queue, error
    "/dashboard/jobs/{job_id}": 40,  # timeline, values, log lines, as curl and as Python
    "/dashboard/jobs/{job_id}/edit": 1,
    "/dashboard/operations": 2,  # selection, who
    "/dashboard/operations/new": 7,  # the jobs of the preview
    "/dashboard/operations/{operation_id}": 5,  # selection, note, what it skipped
    "/dashboard/queues": 4,  # name, who paused it and why
    "/dashboard/queues/queue": 4,
    "/dashboard/reminders": 1,  # the user; message and recipient for who may see them
    "/dashboard/schedules": 6,  # name, rule, zone, type, who paused it and why
    "/dashboard/schedules/edit": 3,  # name, owner; boxes hold the rest
    "/dashboard/schedules/new": 0,
    "/dashboard/schedules/schedule": 12,  # and queue, key, who made it, owns it and changed it, payload, ticks
    "/dashboard/sign-in": 0,
    "/dashboard/targets": 2,  # name, error
    "/dashboard/workers": 4,  # name, version, queues, types
}
"""How many texts of the database each page shows, at least."""

UNFOLD = "() => document.querySelectorAll('main details').forEach((one) => { one.open = true })"


@WINDOWS
@pytest.mark.timeout(180)
async def test_every_page_is_accessible_and_as_wide_as_the_window(
    open_page: OpenPage, served: Served, width: int, theme: Theme
) -> None:
    parameters = await seed(served.database, "send_invoice_reminder")
    page = await open_page(theme=theme, width=width)
    found: dict[str, list[str]] = {}
    for path in paths(served.app, parameters):
        await page.goto(path)
        await page.evaluate(UNFOLD)
        if wrong := await misfits(page):
            found[path] = wrong
    assert found == {}


@pytest.mark.parametrize("role", ["viewer", "admin"])
@pytest.mark.timeout(180)
async def test_a_script_in_any_text_of_the_database_shows_as_text(
    open_page: OpenPage, served: Served, trouble: Trouble, role: str
) -> None:
    parameters = await seed(served.database, HOSTILE)
    page = await open_page(role=role)
    page.on("dialog", lambda dialog: refuse(dialog, trouble))
    shown: dict[str, int] = {}
    for template, path in pages(served.app, parameters).items():
        answer = await page.goto(path)
        assert answer is not None
        if answer.status == 403:
            trouble.found.clear()
            continue
        assert answer.status == 200, path
        await page.evaluate(UNFOLD)
        shown[template] = await count_shown(page)
        assert await page.locator("main img, main iframe, body > script").count() == 0, path
        assert trouble.found == [], path
    assert PLACES.keys() == pages(served.app, parameters).keys()
    assert {template: count for template, count in shown.items() if count < PLACES[template]} == {}
    assert len(shown) > len(PLACES) / 2


async def count_shown(page: Page) -> int:
    """How often the text can be read on the page, as it was written."""
    return (await page.locator("body").inner_text()).count(SCRIPT)


async def refuse(dialog: Dialog, trouble: Trouble) -> None:
    trouble.found.append(f"dialog: {dialog.message}")
    await dialog.dismiss()


async def test_every_page_can_be_read_without_scripts(open_page: OpenPage, served: Served) -> None:
    parameters = await seed(served.database, "send_invoice_reminder")
    page = await open_page(java_script_enabled=False)
    for path in paths(served.app, parameters):
        await page.goto(path)
        assert await page.locator("main h1").count() == 1, path


async def test_every_page_says_in_words_that_there_is_nothing(
    open_page: OpenPage, served: Served
) -> None:
    page = await open_page()
    for path in paths(served.app, dict.fromkeys(NAMES, "0")):
        if "/0" in path or "schedules/schedule?" in path or "schedules/edit?" in path:
            continue  # of one job, queue, schedule or entry
        answer = await page.goto(path)
        assert answer is not None
        assert answer.status == 200, path
        assert len(await page.locator("main").inner_text()) > 20, path


NAMES = (
    "job_id", "column", "queue", "name", "job_type", "entry_id", "prefix", "fingerprint", "operation_id",
    "batch_id",
)  # fmt: skip
