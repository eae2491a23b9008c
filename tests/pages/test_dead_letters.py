"""The pages of causes of dead letters in the dashboard."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from sqlalchemy import text

from service.auth.principal import Role
from service.dashboard.sparkline import HEIGHT, Sparkline
from tests.jobs.rows import add
from tests.pages.parsed import Element, parsed
from tests.pages.signing_in import browser
from tests.pages.test_jobs import Put, page_at, put

__all__ = ["put"]

LIST = "/dashboard/dead-letters"
ENTRY = {
    "event": "error", "attempt": 1, "type": "ValueError", "message": "no 7", "worker": "web-1:831",
    "traceback": 'Traceback (most recent call last):\n  File "mail.py", line 3, in send\n',
}  # fmt: skip


@pytest.fixture
async def viewer(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    async with await browser(app, Role.VIEWER) as client:
        yield client


@pytest.fixture
async def operator(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    async with await browser(app, Role.OPERATOR) as client:
        yield client


async def die(put: Put, fingerprint: str, **values: Any) -> int:
    given = {"status": "DEAD_LETTER", "last_error": "ValueError: no 7", "errors": [ENTRY]} | values
    return int(await put(fingerprint=fingerprint, **given))


def lines(page: Element) -> list[str]:
    rows = page.one("tbody", id="rows").all("tr")
    return [(row.attributes["id"] or "").removeprefix("cause-") for row in rows]


async def test_without_dead_letters_it_says_so(viewer: httpx.AsyncClient) -> None:
    assert "No job has failed for good" in (await page_at(viewer, LIST)).text


async def test_a_cause_is_one_line_that_leads_to_its_group(
    viewer: httpx.AsyncClient, put: Put
) -> None:
    for _ in range(3):
        await die(put, "a")
    await die(put, "b", job_type="fax", last_error="OSError: gone", errors=None)
    page = await page_at(viewer, LIST)
    assert lines(page) == ["a", "b"]
    assert page.links["ValueError: no #"] == f"{LIST}/a"
    assert "3 in 24 hours" not in page.text  # the leader has not folded them yet
    assert page.one("tr", id="cause-a").text.startswith("ValueError: no # mail 3")


async def test_filters_stand_in_the_address_and_in_the_form(
    viewer: httpx.AsyncClient, put: Put
) -> None:
    await die(put, "a")
    await die(put, "b", job_type="fax")
    page = await page_at(viewer, f"{LIST}?job_type=fax&text=&sort=last_seen&state=all")
    assert lines(page) == ["b"]
    assert page.one("input", name="job_type").attributes["value"] == "fax"
    assert page.links["Clear"] == f"{LIST}?state=all&sort=last_seen"
    assert "No cause matches" in (await page_at(viewer, f"{LIST}?text=nothing")).text


@pytest.mark.parametrize("query", ["state=open", "sort=name", "cursor=x", "color=red"])
async def test_a_link_that_cannot_be_read_is_never_shown_as_no_causes(
    viewer: httpx.AsyncClient, put: Put, query: str
) -> None:
    await die(put, "a")
    page = await page_at(viewer, f"{LIST}?{query}", 422)
    assert "Nothing was searched" in page.one("div", role="alert").text
    assert "Nothing unresolved" not in page.text


async def test_pages_lead_to_all_causes(viewer: httpx.AsyncClient, put: Put, app: FastAPI) -> None:
    async with app.state.service.database.sessions.begin() as session:
        for number in range(60):
            await add(session, fingerprint=f"f{number:02}", status="FAILED", last_error="E: x")
    first = await page_at(viewer, LIST)
    second = await page_at(viewer, first.links["More"])
    assert sorted(lines(first) + lines(second)) == [f"f{number:02}" for number in range(60)]
    assert second.links["First"] == LIST


async def test_a_group_shows_why_since_when_and_its_jobs(
    viewer: httpx.AsyncClient, put: Put
) -> None:
    old = await die(put, "a", finished_at=datetime.now(UTC) - timedelta(hours=2))
    new = await die(put, "a")
    page = await page_at(viewer, f"{LIST}/a")
    assert "2 dead letters of type mail" in page.one("section", id="standing").text
    sample = page.one("section", id="sample").text
    assert "ValueError: no 7" in sample
    assert 'File "mail.py", line 3, in send' in sample
    assert f"Job {new} on web-1:831" in sample
    rows = page.one("tbody", id="rows").all("tr")
    assert [row.attributes["id"] for row in rows] == [f"job-{new}", f"job-{old}"]
    assert page.links["All 2 in the list of jobs"] == "/dashboard/jobs?q=fingerprint%3Aa"
    assert not page.all("div", id="actions")
    job = await page_at(viewer, f"/dashboard/jobs/{new}")
    assert job.links["All that failed for this cause"] == f"{LIST}/a"


async def test_a_group_shows_the_traceback_of_a_job_with_a_long_history(
    viewer: httpx.AsyncClient, put: Put
) -> None:
    long = [ENTRY | {"traceback": "x" * 8_000 + f" the end of {number}"} for number in range(12)]
    await die(put, "a", errors=long)
    sample = (await page_at(viewer, f"{LIST}/a")).one("section", id="sample")
    assert "the end of 11" in sample.text


async def test_a_group_that_is_not_there_says_so(viewer: httpx.AsyncClient) -> None:
    assert "There is no group x" in (await page_at(viewer, f"{LIST}/x", 404)).text


async def test_an_operator_resolves_ignores_and_reopens(
    operator: httpx.AsyncClient, put: Put, app: FastAPI
) -> None:
    await die(put, "a")

    async def decide(verb: str, **values: str) -> str:
        answer = await operator.post(f"{LIST}/a/{verb}", data=values)
        assert (answer.status_code, answer.headers["location"]) == (303, f"{LIST}/a")
        flash = f"__Host-finmind_flash={answer.cookies['__Host-finmind_flash']}"
        cookie = {"cookie": f"{operator.headers['cookie']}; {flash}"}
        return parsed((await operator.get(f"{LIST}/a", headers=cookie)).text).text

    assert "resolved 1 dead letter" in await decide("resolve", reason="fixed in 7")
    assert "fixed in 7" in await decide("ignore", until="7d", count="3", reason="fixed in 7")
    assert "Until 4 more die of it" in (await page_at(operator, f"{LIST}/a")).text
    assert "unresolved 1 dead letter" in await decide("reopen")
    assert "is not a time" in await decide("ignore", until="soon")
    assert "is not a number of jobs" in await decide("ignore", count="many")
    async with app.state.service.database.sessions() as session:
        actions = await session.scalars(
            text("SELECT action FROM audit_log WHERE subject_type = 'cause' ORDER BY id")
        )
        assert list(actions) == ["cause.resolve", "cause.ignore", "cause.reopen"]


async def test_its_dead_letters_are_retried_edited_and_deleted_as_one_after_a_preview(
    operator: httpx.AsyncClient, put: Put, app: FastAPI
) -> None:
    for _ in range(2):
        await die(put, "a b")
    links = (await page_at(operator, f"{LIST}/a%20b")).links
    canary = await page_at(operator, links["Retry 20 first…"])
    assert canary.one("input", name="canary_jobs").attributes["value"] == "20"
    for title in ("Retry all…", "Edit and retry…"):
        assert "Retry: 2 jobs" in (await page_at(operator, links[title])).text
    assert "Delete all…" not in links
    async with await browser(app, Role.ADMIN) as admin:
        links = (await page_at(admin, f"{LIST}/a%20b")).links
        assert "Delete: 2 jobs" in (await page_at(admin, links["Delete all…"])).text


@pytest.mark.parametrize("verb", ["resolve", "ignore", "reopen"])
async def test_a_nul_in_a_reason_is_replaced(
    operator: httpx.AsyncClient, put: Put, verb: str
) -> None:
    await die(put, "a" * 16)
    sent = {"reason": "fixed\0in 7", "days": "1", "until": "", "deaths": ""}
    answer = await operator.post(f"{LIST}/{'a' * 16}/{verb}", data=sent)
    assert answer.status_code < 500, answer.text
    assert "\0" not in (await operator.get(f"{LIST}/{'a' * 16}")).text


async def test_a_regressed_cause_says_what_was_said_when_it_was_resolved(
    viewer: httpx.AsyncClient, put: Put, app: FastAPI
) -> None:
    await die(put, "a")
    async with app.state.service.database.sessions.begin() as session:
        await session.execute(
            text("INSERT INTO causes (fingerprint, job_type, jobs, deaths, first_seen, last_seen,"
                 " regressed_at, changed_at, changed_by, reason)"
                 " VALUES ('a', 'mail', 0, 0, now(), now(), now(), now(), 'olga', 'fixed in 7')")
        )  # fmt: skip
    assert "regressed" in (await page_at(viewer, LIST)).one("tr", id="cause-a").text
    standing = (await page_at(viewer, f"{LIST}/a")).one("section", id="standing").text
    assert "by olga" in standing
    assert "What was said: fixed in 7" in standing


def test_a_sparkline_shows_one_death_beside_thousands_and_says_so_in_words() -> None:
    drawn = Sparkline.of_hours([0] * 20 + [1, 0, 9_000, 0], what="Died")
    assert drawn.path.count("M") == 2
    assert f"V{HEIGHT - 2.0:.1f}" in drawn.path
    assert drawn.words == "Died: 9\u202f001 in 24 hours, most 1 hour ago (9\u202f000)"
    assert Sparkline.of_hours([0] * 24, what="Died").words == "Died: none in 24 hours"
