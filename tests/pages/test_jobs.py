"""The list of jobs in the dashboard."""

from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
from fastapi import FastAPI

from service.auth.principal import Role
from service.jobs.core.job import JobId
from tests.jobs.rows import add
from tests.pages.parsed import Element, parsed
from tests.pages.signing_in import browser

NOW = datetime.now(UTC).replace(microsecond=0)
LIST = "/dashboard/jobs"

Put = Callable[..., Awaitable[JobId]]


@pytest.fixture(autouse=True)
def _as_of_this_test() -> None:
    """The tests of a run that takes minutes are collected before the first of them."""
    global NOW  # noqa: PLW0603 - read by helpers all over this file
    NOW = datetime.now(UTC).replace(microsecond=0)


@pytest.fixture
def put(app: FastAPI) -> Put:
    """Puts a row in, as SQL by hand would."""

    async def put(**values: Any) -> JobId:
        async with app.state.service.database.sessions.begin() as session:
            return await add(session, **values)

    return put


@pytest.fixture
async def viewer(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    async with await browser(app, Role.VIEWER) as client:
        yield client


async def page_at(client: httpx.AsyncClient, path: str = LIST, status: int = 200) -> Element:
    answer = await client.get(path)
    assert answer.status_code == status, answer.text
    return parsed(answer.text)


def ids(page: Element) -> list[int]:
    rows = page.one("tbody", id="rows").all("tr")
    return [int((row.attributes["id"] or "").removeprefix("job-")) for row in rows]


def live_url(page: Element) -> str:
    return next(one.attributes["data-live-url"] or "" for one in page.all("section")
                if "data-live-url" in one.attributes)  # fmt: skip


def box(page: Element) -> str:
    return page.one("input", name="q").attributes["value"] or ""


async def test_a_page_without_jobs_says_so_in_words(viewer: httpx.AsyncClient) -> None:
    page = await page_at(viewer)
    assert "No jobs yet" in page.text
    assert "0 jobs match" in page.text


async def test_a_search_is_a_plain_form_and_its_address_finds_the_same_again(
    viewer: httpx.AsyncClient, put: Put
) -> None:
    await put(payload={"user": {"id": 2}})
    one = await put(payload={"user": {"id": 1}}, status="FAILED")
    form = (await page_at(viewer)).one("form", role="search")
    assert (form.attributes["method"], form.attributes["action"]) == ("get", LIST)
    page = await page_at(viewer, f"{LIST}?q=payload.user.id:1+status:failed")
    assert ids(page) == [one]
    assert box(page) == "payload.user.id:1 status:failed"


async def test_filters_of_the_api_in_a_link_stand_in_the_search_box(
    viewer: httpx.AsyncClient, put: Put
) -> None:
    await put(job_type="sms")
    one = await put(job_type="sms", status="FAILED")
    page = await page_at(
        viewer, f"{LIST}?q=status:FAILED&job_type=sms&created_after=2026-01-01T00:00Z"
    )
    assert ids(page) == [one]
    assert box(page) == "status:FAILED type:sms created:>2026-01-01T00:00:00Z"


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("q=stauts:FAILED", "did you mean status:?"),
        ("q=status:FAILED&status=PENDING", "give it once"),
        ("priority=11", "priority is '11'"),
        ("nonsense=1", "nonsense is '1'"),
        ("cursor=abc", "not one of this service"),
        ("payload=x", "user.id:1"),
        ("shown=x", "shown is 'x'"),
    ],
)
async def test_a_search_that_cannot_be_read_is_never_shown_as_no_results(
    viewer: httpx.AsyncClient, put: Put, query: str, words: str
) -> None:
    await put()
    page = await page_at(viewer, f"{LIST}?{query}", 422)
    alert = page.one("div", role="alert")
    assert "Nothing was searched" in alert.text
    assert words in alert.text
    assert "jobs match" not in page.text
    assert "No jobs" not in page.text
    assert box(page) == parse_qs(query).get("q", [""])[0]


async def test_a_search_cut_by_its_bound_says_how_far_it_looked_and_goes_on(
    app: FastAPI, put: Put, viewer: httpx.AsyncClient
) -> None:
    one = await put(payload={"n": 1})
    for _ in range(260):
        await put()
    settings = app.state.service.settings
    app.state.service.settings = settings.model_copy(update={"dashboard_scan_seconds": 1e-9})
    page = await page_at(viewer, f"{LIST}?q=payload.n:1")
    assert "Nothing found yet. Looked at the newest 250 jobs" in page.text
    assert "No jobs match" not in page.text
    page = await page_at(viewer, page.links["Search on"])
    assert ids(page) == [one]


async def test_tabs_count_jobs_by_status_and_keep_the_rest_of_the_search(
    viewer: httpx.AsyncClient, put: Put
) -> None:
    for status in ("PENDING", "FAILED", "FAILED", "SUCCESS"):
        await put(job_type="sms", status=status)
    await put(job_type="mail", status="FAILED")
    page = await page_at(viewer, f"{LIST}?q=type:sms+status:SUCCESS")
    tabs = page.one("nav", id="tabs")
    assert [one.text for one in tabs.all("a")] == [
        "All 4", "PENDING 1", "RUNNING 0", "SUCCESS 1", "FAILED 2", "DEAD_LETTER 0", "CANCELLED 0",
    ]  # fmt: skip
    assert [one.text for one in tabs.all("a", aria_current="true")] == ["SUCCESS 1"]
    failed = await page_at(viewer, tabs.links["FAILED 2"])
    assert (box(failed), len(ids(failed))) == ("type:sms status:FAILED", 2)


async def test_pages_skip_no_rows_with_equal_times(viewer: httpx.AsyncClient, put: Put) -> None:
    made = [await put(created_at=NOW, next_run_at=NOW) for _ in range(120)]
    seen: list[int] = []
    path: str | None = LIST
    while path is not None:
        page = await page_at(viewer, path)
        seen += ids(page)
        path = page.links.get("Older")
    assert seen == sorted(made, reverse=True)


async def test_jobs_that_come_do_not_move_the_rows_that_are_read(
    viewer: httpx.AsyncClient, put: Put, app: FastAPI
) -> None:
    rows = [await put() for _ in range(3)]
    page = await page_at(viewer)
    live = live_url(page)
    new = [await put(), await put()]
    page = await page_at(viewer, live)
    assert ids(page) == sorted(rows, reverse=True)
    assert "2 new jobs: show" in page.links
    page = await page_at(viewer, page.links["2 new jobs: show"])
    assert ids(page) == sorted(rows + new, reverse=True)
    # A row that no longer matches stays, and says how it stands now.
    live = f"{LIST}?q=status:PENDING&shown={rows[0]}&top={new[-1]}"
    async with app.state.service.database.sessions.begin() as session:
        await add(session, id=99, status="SUCCESS")
    page = await page_at(viewer, f"{LIST}?q=status:PENDING&shown=99&top=99")
    assert ids(page) == [99]
    assert ids(await page_at(viewer, live)) == [rows[0]]


async def test_a_live_page_without_rows_asks_for_what_came_since_alone(
    viewer: httpx.AsyncClient, put: Put
) -> None:
    await put()
    page = await page_at(viewer, f"{LIST}?q=type:sms+payload.n:1&deep=1")
    live = parse_qs(urlsplit(live_url(page)).query)
    assert live == {"q": ["type:sms payload.n:1"], "top": ["0"]}
    await put(job_type="sms", payload={"n": 1})
    assert "1 new job: show" in (await page_at(viewer, live_url(page))).links


async def test_every_row_says_when_its_retry_is_due_or_why_it_waits(
    viewer: httpx.AsyncClient, put: Put
) -> None:
    minute = timedelta(minutes=1)
    await put(job_type="a", attempts=1, next_run_at=NOW + 30 * minute)
    await put(job_type="b", next_run_at=NOW + 60 * 24 * 3 * minute)
    await put(job_type="c", next_run_at=NOW - 5 * minute)
    await put(job_type="d", status="RUNNING", started_at=NOW + 5 * minute)
    await put(job_type="e", status="FAILED", started_at=NOW, finished_at=NOW - minute)
    rows = (await page_at(viewer)).rows
    assert "retry in 29 min" in rows[4]
    assert "due in 2 d 23 h" in rows[3]
    assert "ago: no worker serves it" in rows[2]
    # Durations are never negative, whatever clocks say.
    assert "runs for 0 ms" in rows[1]
    assert "ran 0 ms" in rows[0]


async def test_chosen_columns_are_kept_for_the_next_page(
    viewer: httpx.AsyncClient, put: Put
) -> None:
    await put(unique_key="order-1", priority=7)
    answer = await viewer.get(f"{LIST}?columns=key&columns=priority")
    page = parsed(answer.text)
    viewer.headers["cookie"] += "; finmind_columns=" + answer.cookies["finmind_columns"]
    titles = [one.text for one in page.one("thead").all("th")]
    assert titles == ["Job", "Status", "Priority", "Unique key"]
    page = await page_at(viewer)
    assert [one.text for one in page.one("thead").all("th")] == titles
    assert "order-1" in page.rows[0]


async def test_what_jobs_hold_is_text_on_the_page(viewer: httpx.AsyncClient, put: Put) -> None:
    attack = "<script>alert(1)</script>\"'><img src=x onerror=alert(1)>"
    job = await put(last_error=attack, status="FAILED", unique_key=attack, errors=[attack])
    for path in (
        f"{LIST}?columns=error&columns=key",
        f'{LIST}?q=error:"<script>alert(1)</script>"',
    ):
        page = await page_at(viewer, path)
        assert ids(page) == [job]
        assert "<script>alert(1)</script>" in page.one("main").text
        assert page.all("img") == []


async def test_large_counts_are_exact_and_suggestions_name_what_there_is(
    viewer: httpx.AsyncClient, put: Put
) -> None:
    await put(job_type="send_invoice", queue="emails")
    page = await page_at(viewer)
    offered = {one.attributes["value"] for one in page.all("option")}
    assert {"status:DEAD_LETTER", "type:send_invoice", "queue:emails", "payload."} <= offered
    live = parse_qs(urlsplit(live_url(page)).query)
    assert live["top"] == live["shown"]


async def test_selected_jobs_or_all_that_match_lead_to_the_page_of_operations(
    app: FastAPI, viewer: httpx.AsyncClient, put: Put
) -> None:
    jobs = [await put(status="FAILED", last_error="boom") for _ in range(3)]
    path = f"{LIST}?q=status:FAILED+error:boom+created:<1h"
    page = await page_at(viewer, path)
    assert page.all("input", name="ids") == []
    assert "operations/new" not in (await viewer.get(path)).text
    async with await browser(app, Role.OPERATOR) as operator:
        page = await page_at(operator, path)
        assert [int(one.attributes["value"] or 0) for one in page.all("input", name="ids")] == [
            jobs[2], jobs[1], jobs[0],
        ]  # fmt: skip
        selected, everything = page.all("form", action="/dashboard/operations/new")
        # Only what failed jobs allow is offered.
        assert [one.attributes["value"] for one in selected.all("button")] == ["retry", "delete"]
        hidden = {
            one.attributes["name"] or "": one.attributes["value"] or ""
            for one in everything.all("input", type="hidden")
        }
        assert hidden.keys() == {"status", "error", "created_after"}
        assert (hidden["status"], hidden["error"]) == ("FAILED", "boom")
        for query in (hidden, {"ids": str(jobs[0])}):
            answer = await operator.get(
                "/dashboard/operations/new", params={"action": "retry"} | query
            )
            assert answer.status_code == 200, answer.text
