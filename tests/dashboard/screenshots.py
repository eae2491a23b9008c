"""`make screenshots`: the pictures of README and docs, of a service that has worked for a while.

The jobs are made up, and run by handlers of this module on a database of their own; what lies further
back than they ran, the counts of a day, is written by SQL.
"""

import asyncio
import contextlib
import linecache
import socket
import sys
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final, Literal

from playwright.async_api import Page, async_playwright
from pydantic import SecretStr
from sqlalchemy import text

from service.audit import Actor
from service.db.embedded import EmbeddedServer
from service.jobs import NewJob, enqueue_batch
from service.jobs.queues import pause_queue
from service.observability.logging import configure_logging
from service.settings import Environment
from service.testing.settings import IsolatedSettings
from tests.conftest import TEST_SECRET
from tests.dashboard import chromium
from tests.dashboard.served import Served, serving

IMAGES: Final = Path(__file__).parents[2] / "docs" / "images"
MAX_BYTES: Final = 300_000
SIZE: Final[Any] = {"width": 1600, "height": 1000}
THEMES: Final[tuple[Literal["light", "dark"], ...]] = ("light", "dark")
SHOP: Final = Path(__file__).with_name("shop.py")
SHOWN_AS: Final = "/srv/shop/handlers.py"
"""Where the handlers lie, as tracebacks in the pictures say."""
HOST: Final = "worker-1"

HISTORY: Final = """
INSERT INTO finmind_jobs.job_rates (step, scope, at, queue, job_type, outcome, jobs, delays, runs)
SELECT step, scope, at, queue, job_type, outcome,
  round(share * weight * (60 + 25 * sin(extract(epoch FROM at) / 2400) + 20 * random()) * long)::bigint,
  jsonb_build_object('5', 50 + (random() * 20)::int, '10', 10, '20', 1),
  jsonb_build_object('14', 40, '22', 20 + (random() * 30)::int, '30', 2)
FROM (
  SELECT 'minute' AS step, date_trunc('minute', now()) - make_interval(mins => n) AS at, 1 AS long
  FROM generate_series(2, 180) n
  UNION ALL SELECT 'hour', date_trunc('hour', now()) - make_interval(hours => n), 55
  FROM generate_series(1, 24) n) times,
  (VALUES ('SUCCESS', 1.0), ('RETRIED', 0.03), ('DEAD_LETTER', 0.004), ('FAILED', 0.002)) o(outcome, share),
  (VALUES ('total', '', '', 1.0), ('queue', 'billing', '', 0.5), ('queue', 'sync', '', 0.3),
    ('queue', 'media', '', 0.2), ('pair', 'billing', 'send_invoice', 0.4),
    ('pair', 'billing', 'charge_card', 0.1), ('pair', 'sync', 'sync_contact', 0.3),
    ('pair', 'media', 'resize_image', 0.2)) s(scope, queue, job_type, weight)
ON CONFLICT DO NOTHING
"""
TRENDS: Final = """
WITH hours AS (
  INSERT INTO finmind_jobs.cause_hours (fingerprint, hour, deaths)
  SELECT fingerprint, date_trunc('hour', now()) - make_interval(hours => n), (jobs * random())::bigint
  FROM finmind_jobs.causes, generate_series(1, 23) n WHERE random() < 0.6 ON CONFLICT DO NOTHING)
UPDATE finmind_jobs.causes SET first_seen = now() - make_interval(mins => (200 + random() * 4000)::int)
"""


def open_shop() -> None:
    """Register the handlers as if they lay on a server: no picture names this machine."""
    source = SHOP.read_text(encoding="utf-8")
    linecache.cache[SHOWN_AS] = (len(source), None, source.splitlines(keepends=True), SHOWN_AS)
    exec(compile(source, SHOWN_AS, "exec"), {"__name__": "shop"})
    socket.gethostname = lambda: HOST


def some_jobs() -> list[NewJob]:
    """What an hour brings."""
    jobs: list[NewJob] = []
    for n in range(400):
        mail = {"invoice": 4000 + n, "pages": 1 + n % 3, "to": f"customer-{n}@example.org"}
        jobs.append(NewJob("send_invoice", mail, queue="billing"))
        jobs.append(NewJob("sync_contact", {"contact": 900 + n}, queue="sync"))
        jobs.append(NewJob("resize_image", {"image": 100 + n, "width": 640}, queue="media"))
        jobs.append(NewJob("import_feed", {"feed": n}, queue="sync"))
        if n % 8 == 0:
            jobs.append(NewJob("charge_card", {"order": n, "amount": n // 8}, queue="billing"))
        if n % 4 == 0:
            later = {"invoice": 5000 + n, "pages": 1, "to": f"customer-{n}@example.org"}
            jobs.append(NewJob("send_invoice", later, queue="billing", delay_seconds=600 + n * 60))
    jobs += [NewJob("render_report", {"report": f"2026-{n:02}"}, queue="reports") for n in range(3)]
    jobs += [NewJob("export_ledger", {"year": 2020 + n}, queue="ledger") for n in range(5)]
    return jobs


@contextlib.asynccontextmanager
async def lively() -> AsyncIterator[Served]:
    """A service with a worker that has run the jobs."""
    with tempfile.TemporaryDirectory(
        prefix="finmind-pictures-", ignore_cleanup_errors=True
    ) as folder:
        server = EmbeddedServer.start(Path(folder))
        try:
            settings = IsolatedSettings(
                environment=Environment.DEVELOPMENT, jwt_secret=SecretStr(TEST_SECRET),
                database_url=SecretStr(server.dsn), data_dir=Path(folder) / "data",
                dashboard_name="Staging EU", dashboard_colour="green", maintenance_seconds=0.5,
                shutdown_grace_seconds=1,
            )  # fmt: skip
            configure_logging(settings.model_copy(update={"log_level": "ERROR"}))
            async with serving(settings, worker=True) as served:
                await fill(served)
                yield served
        finally:
            server.stop()


async def fill(served: Served) -> None:
    """Run the jobs, and write what lies further back."""
    async with served.database.sessions.begin() as session:
        await session.execute(text(HISTORY))
        await pause_queue(
            session, "ledger", reason="the ledger is closed for the month", actor=Actor("j.ward")
        )
        await enqueue_batch(session, some_jobs())
    due = text(
        "SELECT count(*) FROM finmind_jobs.jobs_live WHERE next_run_at <= now() AND status = 'PENDING'"
        " AND queue <> 'ledger'"
    )
    async with served.database.sessions() as session, asyncio.timeout(60):
        while await session.scalar(due):
            await asyncio.sleep(0.5)
            await session.rollback()
    await asyncio.sleep(3)  # the leader folds its counts
    async with served.database.sessions.begin() as session:
        await session.execute(text(TRENDS))


async def dead_job(served: Served) -> int:
    """A dead job with a traceback."""
    async with served.database.sessions() as session:
        found = await session.scalar(
            text("SELECT max(id) FROM finmind_jobs.jobs_dead WHERE job_type = 'sync_contact'")
        )
    return int(found or 0)


async def take(page: Page, name: str, theme: str) -> None:
    """Take one picture of the window."""
    path = IMAGES / f"{name}-{theme}.png"
    await page.wait_for_timeout(700)  # until the page says that it is live
    await page.screenshot(path=path)
    size = path.stat().st_size
    print(f"{path.relative_to(IMAGES.parents[1])}: {size} bytes")
    assert size <= MAX_BYTES, f"{path.name} takes {size} bytes"


async def main() -> int:
    """Take every picture; the exit code."""
    browser_path = chromium.executable()
    if browser_path is None:
        print(chromium.MISSING, file=sys.stderr)
        return 1
    open_shop()
    async with lively() as served, async_playwright() as playwright:
        browser = await chromium.launch(playwright, browser_path)
        pages = {
            "overview": "/dashboard",
            "dead-letters": "/dashboard/dead-letters",
            "job": f"/dashboard/jobs/{await dead_job(served)}",
        }
        name, value = await served.cookie("admin", subject="m.okafor")
        for theme in THEMES:
            context = await browser.new_context(
                base_url=served.url, viewport=SIZE, color_scheme=theme, locale="en-GB",
                timezone_id="Europe/Berlin",
            )  # fmt: skip
            site = served.url.replace("http:", "https:")
            await context.add_cookies([{"name": name, "value": value, "url": site, "secure": True}])
            page = await context.new_page()
            for picture, path in pages.items():
                await page.goto(path)
                await take(page, picture, theme)
            await context.close()
        await browser.close()
    return 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
