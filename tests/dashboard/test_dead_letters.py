"""Dead letters in a browser: found by their cause, read, and decided about."""

from playwright.async_api import expect

from service.jobs.maintenance.causes import Causes
from tests.dashboard.conftest import OpenPage
from tests.dashboard.looks import WINDOWS, Theme, misfits
from tests.dashboard.served import Served

FILL = """
INSERT INTO finmind_jobs.jobs_dead (job_type, status, finished_at, last_error, errors, fingerprint)
SELECT 'send_invoice_' || n % 2, 'DEAD_LETTER', now() - make_interval(mins => n), 'ValueError: ' || words || n,
  jsonb_build_array(jsonb_build_object('event', 'error', 'type', 'ValueError', 'message', words || n,
    'traceback', 'Traceback (most recent call last):' || chr(10) || '  File "/app/mail.py", line 3, in send')),
  'cause-' || place
FROM unnest(ARRAY['no address of customer ', repeat('long', 60), '<script>alert(1)</script>'])
  WITH ORDINALITY AS w(words, place), generate_series(1, 12 / place::int) n
"""


async def fill(served: Served) -> None:
    link = served.database.link()
    await link.fetch(FILL)
    await Causes(link, served.service.settings).fold()
    await link.close()


@WINDOWS
async def test_causes_are_accessible_and_fit_their_window(
    served: Served, open_page: OpenPage, width: int, theme: Theme
) -> None:
    await fill(served)
    page = await open_page("/dashboard/dead-letters", role="operator", theme=theme, width=width)
    await expect(page.locator("#rows tr")).to_have_count(3)
    assert await misfits(page) == []
    await page.get_by_role("link", name="ValueError: no address").click()
    await page.get_by_text("Ignore", exact=True).click()
    await page.get_by_text("As a table").first.click()
    assert await misfits(page) == []


async def test_a_cause_is_found_read_and_resolved(served: Served, open_page: OpenPage) -> None:
    await fill(served)
    page = await open_page("/dashboard", role="operator")
    await page.get_by_role("link", name="Dead letters").click()
    await page.get_by_placeholder("Text in the error").fill("ADDRESS")
    await page.keyboard.press("Enter")
    await expect(page.locator("#rows tr")).to_have_count(1)
    await page.locator("#rows a").click()
    await expect(page.locator("#sample pre")).to_contain_text(
        'File "/app/mail.py", line 3, in send'
    )
    await page.get_by_text("Resolve", exact=True).click()
    await page.locator("#actions details[open]").get_by_label("Reason").fill("fixed in 7")
    await page.get_by_role("button", name="Call it resolved").click()
    await expect(page.locator("#standing")).to_contain_text("fixed in 7")
    await page.get_by_role("link", name="All causes").click()
    await expect(page.locator("#tabs")).to_contain_text("Resolved 1")
