"""The card "Why is it not running?" in a real browser: what it names, where it leads, whoever wrote the names."""

from datetime import UTC, datetime, timedelta

import pytest
from playwright.async_api import expect
from sqlalchemy import text

from service.audit import Actor
from service.jobs.queues import pause_queue
from tests.dashboard.conftest import OpenPage
from tests.dashboard.looks import WINDOWS, Theme, misfits
from tests.dashboard.served import Served
from tests.dashboard.test_every_page import HOSTILE
from tests.jobs.read.test_explain import ended, held, permit, running, worker
from tests.jobs.rows import add

LONG = "w" * 240
UNCHECKED = {"lease_token": 0}
"""No lease has the token 0: it says that the row was checked."""


async def three_jobs(served: Served, word: str) -> list[int]:
    """One is held by a limit, one has no worker, one waits for a parent; each row has the word in its names."""
    now = datetime.now(UTC)
    name = word.encode()[:100].decode(errors="ignore")
    async with served.database.sessions.begin() as session:
        by = await worker(session, word, queues=name, types=name)
        await permit(session, f"key:{word}", limit=2, running=2)
        await running(
            session,
            now,
            by,
            permits=[f"key:{word}"],
            job_type=name,
            queue=name,
            **UNCHECKED,
        )
        await ended(session, now, 100, minutes_ago=3)
        await pause_queue(session, "letters", actor=Actor(word), reason=word)
        limited = await held(
            session, f"key:{word}", since=now, job_type=name, queue=name, concurrency_key=word,
            **UNCHECKED,
        )  # fmt: skip
        unserved = await add(
            session, job_type=f"{name[:90]} x", queue="letters", next_run_at=now - timedelta(hours=1),
            **UNCHECKED,
        )  # fmt: skip
        parent = await add(session, job_type=name, status="DEAD_LETTER", **UNCHECKED)
        child = await held(session, "after", since=now)
        await session.execute(
            text(
                "INSERT INTO job_dependencies (parent_id, child_id, on_parent_failure)"
                " VALUES (:parent, :child, 'hold')"
            ),
            {"parent": parent, "child": child},
        )
    return [limited, unserved, child]


async def test_a_held_job_leads_to_those_that_hold_the_permits_and_to_those_held_alike(
    open_page: OpenPage, served: Served
) -> None:
    job = (await three_jobs(served, "customer:7"))[0]
    page = await open_page(f"/dashboard/jobs/{job}")
    card = page.locator("#why")
    await expect(card.get_by_role("heading")).to_have_text("Why is it not running?")
    await expect(card).to_contain_text("2 jobs run under customer:7, of 2 that may")
    await card.get_by_role("link", name="all that are held for the same").click()
    await expect(page.locator("tbody tr")).to_have_count(1)
    await expect(page.locator("tbody tr")).to_contain_text("held: its limit is reached")
    await page.get_by_role("link", name=str(job)).click()
    await card.locator("ul.plain a").first.click()
    await expect(page.locator("#standing")).to_contain_text("RUNNING")
    await expect(page.locator("#why")).to_be_empty()


@WINDOWS
@pytest.mark.parametrize("word", [HOSTILE, LONG])
async def test_names_of_any_kind_are_text_that_fits(
    open_page: OpenPage, served: Served, word: str, width: int, theme: Theme
) -> None:
    jobs = await three_jobs(served, word)
    page = await open_page(width=width, theme=theme)
    found = {}
    for job in jobs:
        await page.goto(f"/dashboard/jobs/{job}")
        await expect(page.locator("#why")).to_contain_text("Why is it not running?")
        found[job] = (
            await page.locator("main img").count(),
            await misfits(page),
        )
    assert found == {job: (0, []) for job in jobs}
