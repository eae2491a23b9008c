"""/docs in a real browser."""

from playwright.async_api import expect
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from tests.dashboard.conftest import OpenPage
from tests.dashboard.served import Served


async def test_the_api_is_tried_from_its_page(
    open_page: OpenPage, served: Served, session: AsyncSession
) -> None:
    page = await open_page("/docs", role=None)
    await expect(page.get_by_role("heading", name="FinMind Jobs")).to_be_visible()
    await page.get_by_role("button", name="Authorize").click()
    dialog = page.locator(".modal-ux")
    await dialog.get_by_role("textbox").first.fill(served.token("service"))
    await dialog.get_by_label("Apply credentials").first.click()
    await dialog.locator(".btn-done").first.click()
    operation = page.locator(".opblock", has_text="Enqueue a job")
    await operation.get_by_role("button", name="Enqueue a job").click()
    await operation.get_by_role("button", name="Try it out").click()
    await operation.get_by_role("button", name="Execute").click()
    await expect(
        operation.locator(".live-responses-table .response-col_status").nth(1)
    ).to_contain_text("201")
    assert await session.scalar(text("SELECT count(*) FROM background_jobs")) == 1
