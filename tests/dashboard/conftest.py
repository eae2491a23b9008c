"""What tests of pages use: a browser, the service over HTTP, pages that are watched for trouble.

    async def test_a_job_is_seen(served: Served, open_page: OpenPage) -> None:
        page = await open_page("/dashboard", role="viewer", theme="dark", width=390)
        await expect(page.get_by_role("heading", name="Overview")).to_be_visible()
        assert await axe_findings(page) == []

    async def test_a_form_is_refused(served: Served) -> None:
        async with await served.browse("viewer") as client:
            answer = await client.post("/dashboard/jobs/1/retry")

All that is asynchronous here, tests too, runs in one event loop a session: a browser belongs to the
loop that started it, and starting one takes a second.
"""

import contextlib
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any, Literal, Protocol

import pytest
import pytest_asyncio
from playwright.async_api import Browser, Page, async_playwright, expect
from pydantic import SecretStr
from sqlalchemy.ext.asyncio import AsyncSession

from service.db.engine import Database
from service.settings import Settings
from tests.dashboard import chromium
from tests.dashboard.served import Served, serving
from tests.dashboard.trouble import Trouble

HERE = Path(__file__).parent
BROWSER_FIXTURES = frozenset({"browser"})
PAGE_TIMEOUT_MILLISECONDS = 30_000
"""How long a page may take for anything: many times what it takes, for a busy machine."""

Serve = Callable[..., Awaitable[Served]]


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """One loop for the session; the marks of what drives a browser."""
    for item in items:
        if HERE not in item.path.parents or not isinstance(item, pytest.Function):
            continue
        if inspect.iscoroutinefunction(item.obj):
            item.add_marker(pytest.mark.asyncio(loop_scope="session"), append=False)
        if not BROWSER_FIXTURES.isdisjoint(item.fixturenames):
            item.add_marker(pytest.mark.browser)
            item.add_marker(pytest.mark.whole)


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def browser() -> AsyncIterator[Browser]:
    """The browser, started once; skips the test where there is none."""
    path = chromium.executable()
    if path is None:
        pytest.skip(chromium.MISSING)
    expect.set_options(timeout=PAGE_TIMEOUT_MILLISECONDS)
    async with async_playwright() as playwright:
        browser = await chromium.launch(playwright, path)
        yield browser
        await browser.close()


@pytest_asyncio.fixture(loop_scope="session")
async def serve(make_settings: Callable[..., Settings], pg_dsn: str) -> AsyncIterator[Serve]:
    """Serve this test's database: `await serve(worker=True, lease_seconds=3)`. Ends after the test."""
    async with contextlib.AsyncExitStack() as stack:

        async def serve(*, worker: bool = False, **overrides: Any) -> Served:
            settings = make_settings(database_url=SecretStr(pg_dsn), **overrides)
            return await stack.enter_async_context(serving(settings, worker=worker))

        yield serve


@pytest_asyncio.fixture(loop_scope="session")
async def served(serve: Serve) -> Served:
    """The service over HTTP on this test's database, without a worker."""
    return await serve()


@pytest_asyncio.fixture(loop_scope="session")
async def database(served: Served) -> Database:
    """The database of `served`."""
    return served.database


@pytest_asyncio.fixture(loop_scope="session")
async def session(database: Database) -> AsyncIterator[AsyncSession]:
    """A session on this test's database, not in a transaction."""
    async with database.sessions() as session:
        yield session


@pytest.fixture
def trouble() -> Trouble:
    """What went wrong in this test's pages; `trouble.expect(pattern)` strikes out what shall."""
    return Trouble()


class OpenPage(Protocol):
    """Opens a page of `served` in a context of its own, signed in by role; None: as a stranger."""

    async def __call__(
        self,
        path: str = ...,
        *,
        role: str | None = ...,
        width: int = ...,
        theme: Literal["light", "dark"] = ...,
        **context: Any,
    ) -> Page:
        """The page at `path`, loaded. `context`: more arguments of `browser.new_context`."""
        ...


async def settled(page: Page) -> None:
    """Wait until the browser has told what happened so far."""
    if not page.is_closed():
        await page.evaluate("() => 0")  # no timer: those rest where scripts are off


@pytest_asyncio.fixture(loop_scope="session")
async def browser_page(open_page: OpenPage) -> Page:
    """The first page of the dashboard, signed in as an admin."""
    return await open_page()


@pytest_asyncio.fixture(loop_scope="session")
async def open_page(browser: Browser, served: Served, trouble: Trouble) -> AsyncIterator[OpenPage]:
    """Open pages; the test fails if anything went wrong in one of them that it did not expect."""
    opened: list[Page] = []
    async with contextlib.AsyncExitStack() as stack:

        async def open_page(
            path: str = "/dashboard",
            *,
            role: str | None = "admin",
            width: int = 1600,
            theme: Literal["light", "dark"] = "light",
            **options: Any,
        ) -> Page:
            context = await browser.new_context(
                base_url=served.url,
                viewport={"width": width, "height": 1000},
                color_scheme=theme,
                locale="en-GB",
                timezone_id="Europe/Berlin",
                **options,
            )
            stack.push_async_callback(context.close)
            context.set_default_timeout(PAGE_TIMEOUT_MILLISECONDS)
            await trouble.watch(context)
            if role is not None:
                name, value = await served.cookie(role)
                # As if it had come by https: the tool refuses a `Secure` cookie else, browsers do not.
                site = served.url.replace("http:", "https:")
                await context.add_cookies(
                    [{"name": name, "value": value, "url": site, "secure": True}]
                )
            page = await context.new_page()
            opened.append(page)
            await page.goto(path)
            return page

        yield open_page
        for page in opened:
            await settled(page)
    assert trouble.found == []
