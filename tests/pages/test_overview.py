"""The first page: what needs attention in words, and what ended lately."""

from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from service.auth.principal import Role
from service.jobs.core.job import JobId
from service.jobs.maintenance.rates import KeptRates
from tests.jobs.rows import add
from tests.jobs.waiting import until
from tests.pages.parsed import Element, parsed
from tests.pages.signing_in import browser

NOW = datetime.now(UTC)

PAUSE = """
INSERT INTO finmind_jobs.queues VALUES ('meant', now(), 'ops', 'the bank is down')
"""

DECIDE = """
INSERT INTO finmind_jobs.causes
  (fingerprint, job_type, kind, title, jobs, deaths, first_seen, last_seen, state, regressed_at)
VALUES ($1, 'sms', 'TimeoutError', 'no answer', 0, 0, now() - interval '2 days', '-infinity', $2, $3)
"""
MANY_DIE = """
INSERT INTO finmind_jobs.jobs_dead (job_type, status, finished_at, last_error, fingerprint)
SELECT 'noisy', 'DEAD_LETTER', now(), 'ValueError: known', $1 FROM generate_series(1, $2::int)
"""
OPERATION = """
INSERT INTO finmind_jobs.operations
  (action, parameters, filter, state, note, before_id, expected, expected_exact, actor)
VALUES ('retry', '{}', '{}', $1, '7 of 10 failed again', 1, 100, true, 'ops')
"""

Put = Callable[..., Awaitable[JobId]]
Sql = Callable[..., Awaitable[None]]


@pytest.fixture(autouse=True)
def _as_of_this_test() -> None:
    """The tests of a run that takes minutes are collected before the first of them."""
    global NOW  # noqa: PLW0603 - read by helpers all over this file
    NOW = datetime.now(UTC)


@pytest.fixture
def put(app: FastAPI) -> Put:
    """Puts a row in, as SQL by hand would."""

    async def put(**values: Any) -> JobId:
        async with app.state.service.database.sessions.begin() as session:
            return await add(session, **values)

    return put


@pytest.fixture
def sql(app: FastAPI) -> Sql:
    """Runs a statement."""

    async def run(statement: str, *args: object) -> None:
        link = app.state.service.database.link()
        await link.fetch(statement, *args)
        await link.close()

    return run


@pytest.fixture
async def viewer(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    async with await browser(app, Role.VIEWER) as client:
        yield client


STALLED = "This process: event loop"
"""What the page says of a machine that is too busy with other tests; it passes within ten seconds."""


async def page_at(client: httpx.AsyncClient, path: str = "/dashboard") -> Element:
    async def calm() -> Element | None:
        answer = await client.get(path)
        assert answer.status_code == 200, answer.text
        assert "style=" not in answer.text  # the policy of the page would drop it
        return None if STALLED in answer.text else parsed(answer.text)

    page = await until(calm)
    assert page is not None
    return page


def attention(page: Element) -> list[Element]:
    return page.one("ul", class_="attention").all("li")


async def test_where_all_is_well_the_page_says_what_was_looked_at(
    viewer: httpx.AsyncClient,
) -> None:
    page = await page_at(viewer)
    assert "Nothing. No job failed for good" in page.text
    assert page.text.count("Nothing in this time") == 4


async def test_jobs_that_died_lately_are_told_by_type_with_a_link_that_finds_them(
    viewer: httpx.AsyncClient, put: Put
) -> None:
    for number in range(3):
        await put(
            job_type="invoice", status=("FAILED", "DEAD_LETTER")[number % 2],
            finished_at=NOW - timedelta(minutes=9 * number + 1), last_error=f"bad {number}",
        )  # fmt: skip
    await put(job_type="sms", status="DEAD_LETTER", finished_at=NOW, last_error="<b>no</b>")
    await put(job_type="old", status="DEAD_LETTER", finished_at=NOW - timedelta(hours=2))
    first, second = attention(await page_at(viewer))
    assert "3 jobs of type invoice failed for good in the last hour" in first.text
    assert "first 19 min" in first.text
    assert "bad 0" in first.text
    assert "1 job of type sms failed" in second.text
    assert "<b>no</b>" in second.text
    found = await viewer.get(first.one("a").attributes["href"] or "")
    assert "3 jobs match" in found.text


async def test_jobs_that_died_of_one_cause_are_one_line(
    viewer: httpx.AsyncClient, put: Put, sql: Sql
) -> None:
    for _ in range(3):
        await put(
            job_type="sms", status="FAILED", finished_at=NOW, fingerprint="f" * 16,
            last_error="TimeoutError: no answer",
        )  # fmt: skip
    (one,) = attention(await page_at(viewer))
    assert "3 jobs of type sms failed for good of one cause, the last" in one.text
    assert "TimeoutError: no answer" in one.text
    await sql(DECIDE, "f" * 16, "unresolved", NOW - timedelta(seconds=65))
    (one,) = attention(await page_at(viewer))
    assert "of one cause after it was resolved, the last" in one.text
    assert "again 1 min" in one.text
    found = await viewer.get(one.one("a").attributes["href"] or "")
    assert "3 dead letters" in parsed(found.text).text


async def test_a_cause_needs_attention_until_somebody_deals_with_it(
    viewer: httpx.AsyncClient, put: Put, sql: Sql
) -> None:
    for minutes in (61, 60 * 26):
        await put(
            job_type="sms", status="DEAD_LETTER", fingerprint="f" * 16,
            finished_at=NOW - timedelta(minutes=minutes),
        )  # fmt: skip
    await put(job_type="fax", status="DEAD_LETTER", fingerprint="e" * 16, finished_at=NOW)
    fresh, stale = attention(await page_at(viewer))
    assert "1 job of type fax failed for good" in fresh.text
    assert fresh.attributes["class"] == "broken"
    assert "2 jobs of type sms failed for good of one cause, the last 1 h 1 min ago" in stale.text
    assert stale.attributes["class"] == "warning"
    await sql(DECIDE, "f" * 16, "resolved", None)
    (one,) = attention(await page_at(viewer))
    assert "type fax" in one.text


@pytest.mark.parametrize("state", ["resolved", "ignored"])
async def test_a_cause_that_somebody_has_dealt_with_hides_no_other_however_noisy(
    viewer: httpx.AsyncClient, put: Put, sql: Sql, state: str
) -> None:
    await put(
        job_type="fax", status="FAILED", fingerprint="new", finished_at=NOW - timedelta(minutes=1)
    )
    await put(job_type="tax", status="FAILED", finished_at=NOW - timedelta(minutes=1))
    await sql(MANY_DIE, "dealt-with", 10_001)
    await sql(DECIDE, "dealt-with", state, None)
    texts = [one.text for one in attention(await page_at(viewer))]
    assert len(texts) == 2
    assert "1 job of type fax" in texts[0]
    assert "1 job of type tax" in texts[1]


async def test_causes_beyond_the_worst_are_summed_in_one_line(
    viewer: httpx.AsyncClient, put: Put
) -> None:
    for number, jobs in enumerate((4, 3, 2, 2, 1)):
        for _ in range(jobs):
            await put(
                job_type=f"t{number}", status="FAILED", finished_at=NOW, fingerprint=f"c{number}"
            )
    *worst, rest = [one.text for one in attention(await page_at(viewer))]
    assert [text.split(" failed")[0] for text in worst] == [
        "4 jobs of type t0", "3 jobs of type t1", "2 jobs of type t2",
    ]  # fmt: skip
    assert "3 jobs failed for good of 2 other causes" in rest


async def test_an_operation_that_its_canary_stopped_is_told(
    viewer: httpx.AsyncClient, sql: Sql
) -> None:
    for state in ("stopped", "paused"):
        await sql(OPERATION, state)
    (one,) = attention(await page_at(viewer))
    assert "(retry, by ops) stopped: its canary failed" in one.text
    assert "7 of 10 failed again" in one.text


async def test_queues_that_stand_still_or_are_paused_are_told_and_listed(
    viewer: httpx.AsyncClient, put: Put, sql: Sql
) -> None:
    for minutes in (4, 7):
        await put(queue=f"after-{minutes}", next_run_at=NOW - timedelta(minutes=minutes))
    await put(queue="meant", next_run_at=NOW - timedelta(minutes=20))
    await put(queue="meant", status="DEAD_LETTER", finished_at=NOW - timedelta(hours=3))
    await sql(
        "INSERT INTO finmind_jobs.job_workers (name, queues, job_types, concurrency)"
        " VALUES ('here:1', '{*}', '{mail}', 5)"
    )
    await sql(PAUSE)
    page = await page_at(viewer)
    late, paused = attention(page)
    assert "Queue after-7: its oldest due job has waited 7 min" in late.text
    assert "1 job due, 0 running, 1 worker for it" in late.text
    assert "Queue meant is paused by ops: 1 job waits paused" in paused.text
    assert "the bank is down" in paused.text
    rows = page.one("section", id="queues").rows
    assert [row.split()[0] for row in rows] == ["meant", "after-7", "after-4"]
    assert rows[0].startswith("meant paused 1 20 min")


async def test_a_type_that_nobody_serves_any_more_is_told(
    viewer: httpx.AsyncClient, put: Put, sql: Sql
) -> None:
    await put(job_type="away", next_run_at=NOW - timedelta(minutes=2))
    await put(job_type="away", next_run_at=NOW + timedelta(minutes=5))
    await put(job_type="here", next_run_at=NOW - timedelta(minutes=2))
    await sql(
        "INSERT INTO finmind_jobs.served_types VALUES ('away', $1), ('here', $1)",
        NOW - timedelta(hours=2),
    )
    await sql(
        "INSERT INTO finmind_jobs.job_workers (name, queues, job_types, concurrency)"
        " VALUES ('here:1', '{*}', '{here}', 5)"
    )
    (one,) = attention(await page_at(viewer))
    assert "No worker serves away: 1 job of it waits" in one.text
    assert "last served 2 h" in one.text


async def test_workers_that_vanished_are_named(
    viewer: httpx.AsyncClient, put: Put, sql: Sql
) -> None:
    await put(next_run_at=NOW - timedelta(minutes=1))
    await sql(
        "INSERT INTO finmind_jobs.job_workers (name, queues, job_types, concurrency, seen_at, stopped_at)"
        " VALUES ('gone:1', '{*}', '{mail}', 5, now() - interval '9 min', NULL),"
        " ('stopped:1', '{*}', '{mail}', 5, now() - interval '9 min', now() - interval '9 min')"
    )
    texts = [one.text for one in attention(await page_at(viewer))]
    assert "No worker is alive, and 1 job is due" in texts[0]
    assert "1 worker vanished without stopping last seen 9 min" in texts[1]
    assert "gone:1" in texts[1]
    assert "stopped:1" not in texts[1]


async def test_what_ended_lately_is_drawn_with_the_same_figures_as_a_table(
    app: FastAPI, viewer: httpx.AsyncClient, sql: Sql
) -> None:
    await sql(
        "INSERT INTO finmind_jobs.job_rate_deltas (at, queue, job_type, outcome, jobs, timings)"
        " VALUES ($1, 'q', 't', 'SUCCESS', 3, '{148,148,286}'), ($1, 'q', 't', 'RETRIED', 1, '{20}')",
        NOW - timedelta(minutes=2),
    )
    link = app.state.service.database.link()
    await KeptRates(link, app.state.service.settings).fold()
    await link.close()
    for path in ("/dashboard", "/dashboard?window=24h", "/dashboard?window=7d"):
        page = await page_at(viewer, path)
        chart = page.one("figure", id="throughput")
        assert chart.one("svg").attributes["aria-label"].endswith(": 3 succeeded")  # type: ignore[union-attr]
        assert [row.text[-2:] for row in chart.one("tbody").all("tr")] == [" 3"]
        assert "25 %" in page.text


async def test_names_from_data_are_shown_as_text(viewer: httpx.AsyncClient, put: Put) -> None:
    evil = "<script>alert(1)</script>"
    await put(job_type=evil, queue=evil, status="FAILED", finished_at=NOW, last_error=evil)
    answer = await viewer.get("/dashboard")
    assert "<script>alert" not in answer.text
    assert evil in parsed(answer.text).text


async def test_a_window_that_is_none_is_refused_as_a_page(viewer: httpx.AsyncClient) -> None:
    answer = await viewer.get("/dashboard?window=1y")
    assert answer.status_code == 422
    assert "text/html" in answer.headers["content-type"]
