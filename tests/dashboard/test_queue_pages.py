"""Queues, workers, reminders and enqueueing in a real browser."""

import pytest
from playwright.async_api import expect

from service.jobs import NewJob, enqueue_batch
from service.jobs.core.job_types import JobTypePolicy, policies
from service.jobs.core.queue_limits import LimitChange, Rate
from service.jobs.queues import configure_queue, pause_queue, resume_queue
from tests import databases
from tests.api.test_workers import RUNS, WORKERS
from tests.dashboard.conftest import OpenPage
from tests.dashboard.looks import WINDOWS, Theme, misfits
from tests.dashboard.served import Served
from tests.dashboard.trouble import Trouble
from tests.pages.test_enqueue import Invoice
from tests.pages.test_reminders import ROWS

UNFOLD = "all => all.forEach((one) => { one.open = true; })"
LIMITS = LimitChange(
    max_running=40, max_running_per_key=3, rate=Rate(100, 60, 10), rate_per_key=Rate(5, 1), weight=5
)
HOSTILE = "<img src=x onerror=alert(1)>'\"{{7*7}}"
PAGES = (
    "/dashboard/queues",
    "/dashboard/queues/queue?name=mail",
    "/dashboard/workers",
    "/dashboard/reminders",
    "/dashboard/enqueue",
    "/dashboard/enqueue?type=invoice",
    "/dashboard/enqueue?type=other",
)


@pytest.fixture(autouse=True)
def known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(policies, "invoice", JobTypePolicy(payload_model=Invoice))


async def enqueue(served: Served, *jobs: NewJob) -> None:
    async with served.database.sessions.begin() as session:
        await enqueue_batch(session, jobs)


async def pause(served: Served, queue: str, reason: str) -> None:
    async with served.database.sessions.begin() as session:
        await pause_queue(session, queue, reason=reason)


@WINDOWS
async def test_the_pages_fit_and_axe_finds_nothing_with_and_without_data(
    open_page: OpenPage, served: Served, pg_dsn: str, width: int, theme: Theme
) -> None:
    page = await open_page(width=width, theme=theme)
    for filled in (False, True):
        if filled:
            await enqueue(served, NewJob("x", queue="mail"), NewJob("x", queue="q" * 100))
            await pause(served, "mail", "w" * 300)
            async with served.database.sessions.begin() as session:
                await configure_queue(session, "mail", **LIMITS)
            await databases.execute(pg_dsn, WORKERS)
            await databases.execute(pg_dsn, RUNS)
            await databases.execute(pg_dsn, ROWS)
        for path in PAGES:
            await page.goto(path)
            await page.eval_on_selector_all("main details", UNFOLD)
            assert await misfits(page) == [], (path, filled)


async def test_a_queue_is_paused_from_its_row_and_another_reader_sees_it_at_once(
    open_page: OpenPage, served: Served
) -> None:
    await enqueue(served, NewJob("x", queue="mail"))
    other = await open_page("/dashboard/queues", role="viewer")
    page = await open_page("/dashboard/queues", role="operator")
    row = page.locator("#queue-mail")
    await row.get_by_text("Pause", exact=True).click()
    await row.get_by_label("Reason").fill("the provider is down")
    await row.get_by_role("button", name="Pause mail").click()
    await expect(page.locator(".flash.done")).to_contain_text("mail is paused")
    await expect(row).to_contain_text("the provider is down")
    await expect(other.locator("#queue-mail")).to_contain_text("PAUSED", timeout=3000)
    assert await other.get_by_role("button", name="Pause mail").count() == 0
    async with served.database.sessions.begin() as session:
        await resume_queue(session, "mail")
    await expect(other.locator("#queue-mail")).not_to_contain_text("PAUSED", timeout=3000)


@pytest.mark.parametrize("scripts", [True, False], ids=["scripts", "no scripts"])
async def test_limits_are_set_by_keyboard_and_stay_in_the_form_when_refused(
    open_page: OpenPage, trouble: Trouble, *, scripts: bool
) -> None:
    page = await open_page(
        "/dashboard/queues/queue?name=mail", role="operator", java_script_enabled=scripts
    )
    await page.locator("#limits > summary").press("Enter")
    await page.get_by_label("Jobs that run at once").press_sequentially("0")
    await page.keyboard.press("Enter")
    await expect(page.get_by_role("alert")).to_contain_text("max_running is 0: expected")
    trouble.expect("answer: 422")
    trouble.expect("console error")
    await page.get_by_label("Jobs that run at once").press("ControlOrMeta+a")
    await page.keyboard.type("40")
    await page.get_by_label("A job that finds a limit").press("ArrowDown")
    await page.get_by_role("button", name="Set the limits of mail").press("Enter")
    await expect(page.locator(".flash.done")).to_contain_text("The limits of mail are set")
    words = "0 of 40 permits in use · at the limit a job is cancelled"
    await expect(page.locator("#standing")).to_contain_text(words)


async def test_what_somebody_writes_in_a_row_stays_while_the_list_changes(
    open_page: OpenPage, served: Served
) -> None:
    await enqueue(served, NewJob("x", queue="mail"))
    page = await open_page("/dashboard/queues", role="operator")
    row = page.locator("#queue-mail")
    await row.get_by_text("Pause", exact=True).click()
    await row.get_by_label("Reason").fill("half a sen")
    await enqueue(served, NewJob("x", queue="another"))
    await expect(page.locator("#queue-another")).to_be_visible(timeout=5000)
    await expect(row.get_by_label("Reason")).to_have_value("half a sen")


async def test_a_job_is_enqueued_by_its_form_and_an_error_stands_beside_its_box(
    open_page: OpenPage, served: Served, trouble: Trouble
) -> None:
    page = await open_page("/dashboard/enqueue", role="operator")
    await page.get_by_role("link", name="invoice").click()
    await page.get_by_label("number").fill("none")
    await page.get_by_label("to", exact=True).fill("Ann")
    button = page.get_by_role("button", name="Enqueue invoice")
    await button.click()
    await expect(page.locator("[id='error-payload.number']")).to_contain_text("whole number")
    await expect(page.get_by_label("to", exact=True)).to_have_value("Ann")
    trouble.expect("answer: 422")
    trouble.expect("console error")
    await page.get_by_label("number").fill("7")
    await button.dblclick()
    await expect(page.locator(".flash.done")).to_contain_text("is enqueued")
    async with served.database.sessions.begin() as session:
        connection = await session.connection()
        made = await connection.exec_driver_sql("SELECT count(*) FROM background_jobs")
        assert made.scalar() == 1


async def test_pages_work_without_scripts(open_page: OpenPage, served: Served) -> None:
    await enqueue(served, NewJob("x", queue="mail"))
    page = await open_page("/dashboard/queues", role="operator", java_script_enabled=False)
    row = page.locator("#queue-mail")
    await row.locator("summary").click()
    await row.get_by_role("button", name="Pause mail").click()
    await expect(row).to_contain_text("PAUSED")


async def test_names_and_reasons_that_look_like_markup_are_text(
    open_page: OpenPage, served: Served, pg_dsn: str
) -> None:
    await pause(served, HOSTILE, HOSTILE)
    connection = await databases.connect(pg_dsn)
    await connection.execute(
        "INSERT INTO job_workers (name, queues, job_types, concurrency, version)"
        " VALUES ($1, ARRAY[$1], ARRAY[$1], 1, $1)", HOSTILE,
    )  # fmt: skip
    await connection.execute(
        "INSERT INTO served_types (job_type, served_at, payload_schema) VALUES ($1, now(),"
        " jsonb_build_object('type', 'object', 'properties', jsonb_build_object($1::text,"
        " jsonb_build_object('description', $1::text, 'enum', jsonb_build_array($1::text)))))",
        HOSTILE,
    )
    await connection.execute(
        "INSERT INTO reminders (user_id, message, channel, recipient, send_at, last_error)"
        " VALUES ($1, $1, 'email', $1, now(), $1)", HOSTILE,
    )  # fmt: skip
    await connection.close()
    page = await open_page("/dashboard/queues")
    await page.get_by_role("link", name=HOSTILE).first.click()
    await expect(page.get_by_role("heading", level=1)).to_contain_text(HOSTILE)
    for path in ("/dashboard/workers", "/dashboard/reminders", "/dashboard/enqueue"):
        await page.goto(path)
        await expect(page.get_by_text(HOSTILE).first).to_be_attached()
    await page.get_by_role("link", name=HOSTILE).click()
    await expect(page.locator("main select").first).to_contain_text("onerror")
    assert await page.locator("main img").count() == 0
