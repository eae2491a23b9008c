"""The page of one job in the dashboard."""

import re
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import httpx
import pytest
from fastapi import FastAPI
from sqlalchemy import text

from service.audit import Actor, AuditFilters
from service.audit.repository import newest
from service.auth.principal import Role
from service.dashboard.job_rows import WAITING_WORDS
from service.db.engine import Database
from service.jobs import store
from service.jobs.core.claimed_job import ClaimedJob
from service.jobs.core.job import JobId, LeaseToken
from service.jobs.core.outcomes import Cancelled, HowCancelled
from service.jobs.queues import pause_queue
from service.jobs.read.waiting import Waiting
from tests.api.conftest import Auth
from tests.api.test_odd_rows import ODD, insert
from tests.jobs.rows import add
from tests.pages.parsed import Element, parsed
from tests.pages.signing_in import browser
from tests.pages.test_jobs import Put, page_at, put

__all__ = ["put"]

NOW = datetime.now(UTC).replace(microsecond=0)
MINUTE = timedelta(minutes=1)

ERROR = {
    "event": "error", "attempt": 1, "type": "ValueError", "message": "no such customer",
    "traceback": "Traceback (most recent call last):\n  File \"mail.py\", line 3\nValueError: no",
    "started_at": (NOW - 3 * MINUTE).isoformat(), "at": (NOW - 2 * MINUTE).isoformat(),
    "worker": "web-1:831", "by": None,
}  # fmt: skip


@pytest.fixture(autouse=True)
def _as_of_this_test() -> None:
    """The tests of a run that takes minutes are collected before the first of them."""
    global NOW  # noqa: PLW0603 - read by helpers all over this file
    NOW = datetime.now(UTC).replace(microsecond=0)


@pytest.fixture
async def viewer(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    async with await browser(app, Role.VIEWER) as client:
        yield client


@pytest.fixture
async def operator(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    async with await browser(app, Role.OPERATOR) as client:
        yield client


@pytest.fixture
async def admin(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    async with await browser(app, Role.ADMIN) as client:
        yield client


async def job_page(client: httpx.AsyncClient, job_id: int, status: int = 200) -> Element:
    return await page_at(client, f"/dashboard/jobs/{job_id}", status)


def happened(page: Element) -> list[str]:
    return [
        one.text for one in page.one("ol", class_="timeline").content if isinstance(one, Element)
    ]


def leaves(page: Element, section: str) -> list[str]:
    return [one.text for one in page.one("section", id=section).all("div", class_="json")]


async def test_all_that_happened_stands_in_one_timeline(
    app: FastAPI, operator: httpx.AsyncClient, put: Put
) -> None:
    error = ERROR | {"chunk": 40}
    job = await put(
        status="DEAD_LETTER", errors=[error], last_error="ValueError: no such customer", attempts=1,
        created_at=NOW - 9 * MINUTE, enqueued_by="billing", started_at=NOW - 3 * MINUTE,
    )  # fmt: skip
    answer = await operator.post(
        f"/dashboard/jobs/{job}/retry", data={"reason": "customer is back"}
    )
    assert (answer.status_code, answer.headers["location"]) == (303, f"/dashboard/jobs/{job}")
    page = await job_page(operator, job)
    retried, failed, enqueued = happened(page)
    assert retried.startswith("Retried by hand")
    assert "by tester" in retried
    assert "customer is back" in retried
    assert "status DEAD_LETTER → PENDING" in retried
    assert failed.startswith("Attempt 1 failed")
    assert "ran 1 min on web-1:831" in failed
    assert "ValueError: no such customer" in failed
    assert "In a chunk of 40 jobs" in " ".join(failed.split())
    assert 'File "mail.py", line 3' in failed
    assert "by billing" in enqueued


async def test_steps_stand_in_the_timeline_and_in_the_api(
    app: FastAPI, operator: httpx.AsyncClient, auth: Auth, client: httpx.AsyncClient, put: Put
) -> None:
    hour = 60 * MINUTE
    failure = ERROR | {"at": (NOW - 2 * MINUTE).isoformat()}
    job = await put(
        status="PENDING", errors=[failure], created_at=NOW - 9 * MINUTE, next_run_at=NOW + hour
    )
    steps: list[tuple[str, str, datetime, datetime | None, datetime | None, bool, str | None]] = [
        ("charge", "call", NOW - 8 * MINUTE, NOW - 7 * MINUTE, None, False, '{"password": "s", "n": 1}'),
        ("night", "sleep", NOW - 6 * MINUTE, None, NOW - 5 * MINUTE, False, None),
        ("signed", "event", NOW - 5 * MINUTE, NOW - 4 * MINUTE, NOW - 4 * MINUTE, True, None),
        ("<b>paid", "event", NOW - MINUTE, None, NOW + hour, False, None),
    ]  # fmt: skip
    async with app.state.service.database.engine.begin() as connection:
        for name, kind, began, ended, until, timed_out, result in steps:
            await connection.execute(
                text("INSERT INTO job_steps VALUES (:id, :n, :k, 1, 1, :b, :u, :e, :t, :r)"),
                {"id": job, "n": name, "k": kind, "b": began, "u": until, "e": ended, "t": timed_out,
                 "r": result},
            )  # fmt: skip
    page = await job_page(operator, job)
    waits, failed, signed, slept, charged, enqueued = happened(page)
    assert waits.startswith("Waits for event <b>paid")
    assert failed.startswith("Attempt 1 failed")
    assert signed.startswith("Event signed did not come in time")
    assert slept.startswith("Slept at step night")
    assert charged.startswith("Step charge done")
    assert "ran 1 min" in charged
    assert '"n": 1' in charged
    assert '"s"' not in charged
    assert enqueued.startswith("Enqueued")
    assert "Waits for event <b>paid, until" in page.one("section", id="standing").text
    assert page.one("input", name="name").attributes["value"] == "<b>paid"
    sent = await operator.post(
        f"/dashboard/jobs/{job}/send-event", data={"name": "cancelled", "data": " [1, "}
    )
    assert sent.status_code == 303
    sent = await operator.post(
        f"/dashboard/jobs/{job}/send-event",
        data={"name": "cancelled", "data": "", "reason": "by phone"},
    )
    assert happened(await job_page(operator, job))[0].startswith("Event sent")
    told = (await client.get(f"/admin/jobs/{job}", headers=auth("viewer"))).json()
    assert told["waiting_for"] == "event"
    assert [(one["name"], one["timed_out"]) for one in told["steps"]] == [
        ("charge", False), ("night", False), ("signed", True), ("<b>paid", False),
    ]  # fmt: skip


async def test_a_long_history_shows_its_newest_attempts_with_their_tracebacks(
    viewer: httpx.AsyncClient, put: Put
) -> None:
    def failed(attempt: int, chars: int) -> dict[str, object]:
        trace = "x" * chars + f"\nValueError: the end of {attempt}"
        return ERROR | {"attempt": attempt, "traceback": trace, "at": NOW.isoformat()}

    job = await put(status="DEAD_LETTER", errors=[failed(number, 8_000) for number in range(1, 13)])
    *shown, _ = happened(await job_page(viewer, job))
    assert "ValueError: the end of 12" in shown[1]
    assert [one.partition(" failed")[0] for one in shown[1:]] == [
        f"Attempt {number}" for number in range(12, 0, -1)
    ]

    edited = ERROR | {"event": "manual_retry", "payload_before": "y" * 500_000}
    history = [failed(number, 8_000) for number in range(1, 90)]
    job = await put(status="DEAD_LETTER", errors=[*history, edited, failed(90, 8_000)])
    page = await job_page(viewer, job)
    assert "ValueError: the end of 90" in happened(page)[1]
    assert happened(page)[2].startswith("Retried by hand")
    assert "older entries are too long to show here" in page.text
    assert 40 < len(happened(page)) < 60


@pytest.mark.parametrize("errors", [None, [], {}, 7, [7, None], "x" * 100_000, ["z" * 100_000]])
async def test_a_history_that_is_not_one_breaks_no_page(
    viewer: httpx.AsyncClient, put: Put, errors: object
) -> None:
    job = await put(status="FAILED", errors=errors)
    assert happened(await job_page(viewer, job))[-1].startswith("Enqueued")


async def test_an_attempt_that_ended_well_says_how_long_it_waited_and_ran(
    viewer: httpx.AsyncClient, put: Put
) -> None:
    job = await put(
        status="SUCCESS", attempts=2, next_run_at=NOW - 2 * MINUTE, started_at=NOW - MINUTE,
        finished_at=NOW, result={"sent": True},
    )  # fmt: skip
    page = await job_page(viewer, job)
    assert happened(page)[0].startswith("Attempt 2 succeeded")
    assert "ran 1 min, started 1 min after it was due" in happened(page)[0]
    assert leaves(page, "result") == ["sent: true"]


async def test_durations_are_never_negative(viewer: httpx.AsyncClient, put: Put) -> None:
    late = ERROR | {"started_at": NOW.isoformat()}
    job = await put(
        status="SUCCESS", errors=[late], next_run_at=NOW, started_at=NOW - MINUTE,
        finished_at=NOW - 2 * MINUTE,
    )  # fmt: skip
    text_of = (await job_page(viewer, job)).text
    assert "ran 0 ms, started 0 ms after it was due" in text_of
    assert re.search(r"-\d+ (ms|s|min)", text_of) is None


async def test_json_is_exact_and_its_keys_are_sorted(
    viewer: httpx.AsyncClient, app: FastAPI
) -> None:
    async with app.state.service.database.sessions.begin() as session:
        job = await session.scalar(
            text(
                "INSERT INTO background_jobs (job_type, payload) VALUES ('mail', CAST(:payload AS"
                " jsonb)) RETURNING id"
            ),
            # PostgreSQL puts short keys first.
            {"payload": '{"ccc": [], "aa": {"z": 9007199254740993}, "b": 12345678901234567890.10}'},
        )
    page = await job_page(viewer, job)
    assert leaves(page, "payload") == [
        "z: 9007199254740993", "b: 12345678901234567890.10", "ccc: []",
    ]  # fmt: skip
    assert "aa: { 1 }" in page.one("section", id="payload").text
    assert "12345678901234567890.10" in page.text.split("curl -X POST")[1]


async def test_masked_fields_are_shown_on_request_alone_and_the_audit_log_says_to_whom(
    viewer: httpx.AsyncClient, operator: httpx.AsyncClient, put: Put, app: FastAPI
) -> None:
    secret = {"user": {"Password": "hunter2", "name": "Ada"}, "token": {"a": ["hunter2"]}}
    job = await put(
        payload=secret, status="SUCCESS", result={"api_key": "hunter2"}, progress=secret
    )
    for client in (viewer, operator):
        for path in (f"/dashboard/jobs/{job}", f"/dashboard/jobs/{job}/payload.txt"):
            assert "hunter2" not in (await client.get(path)).text
    page = await job_page(viewer, job)
    assert "Password: ••••••" in leaves(page, "payload")
    assert "reveal" not in (await viewer.get(f"/dashboard/jobs/{job}")).text
    assert (await viewer.post(f"/dashboard/jobs/{job}/reveal")).status_code == 403
    answer = await operator.post(
        f"/dashboard/jobs/{job}/reveal", data={"what": "masked", "reason": "ticket 7"}
    )
    assert 'Password: "hunter2"' in leaves(parsed(answer.text), "payload")
    async with app.state.service.database.sessions() as session:
        entries = await newest(session, AuditFilters(action="payload.reveal"), limit=5)
    done = [(one.actor, one.subject_id, one.reason) for one in entries if one.outcome == "done"]
    assert done == [("tester", str(job), "ticket 7")]


async def test_values_are_hidden_where_the_setting_says_so(
    app: FastAPI, viewer: httpx.AsyncClient, operator: httpx.AsyncClient, put: Put
) -> None:
    job = await put(payload={"n": "visible", "token": "hunter2"})
    settings = app.state.service.settings
    app.state.service.settings = settings.model_copy(update={"dashboard_hide_payloads": True})
    page = await job_page(viewer, job)
    assert "visible" not in page.text
    assert "Hidden: 36 characters" in page.one("section", id="payload").text
    assert (await viewer.get(f"/dashboard/jobs/{job}/payload.txt")).status_code == 403
    answer = await operator.post(f"/dashboard/jobs/{job}/reveal", data={"what": "payload"})
    assert "visible" in answer.text
    assert "hunter2" not in answer.text


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        ("PENDING", {"run-now", "edit", "reschedule", "clone", "cancel", "delete"}),
        ("RUNNING", {"clone", "cancel"}),
        ("SUCCESS", {"clone", "delete"}),
        ("FAILED", {"retry", "edit", "clone", "delete"}),
        ("DEAD_LETTER", {"retry", "edit", "clone", "delete"}),
        ("CANCELLED", {"clone", "delete"}),
    ],
)
async def test_buttons_are_those_of_the_status_and_of_what_one_may_do(
    viewer: httpx.AsyncClient,
    operator: httpx.AsyncClient,
    admin: httpx.AsyncClient,
    put: Put,
    status: str,
    expected: set[str],
) -> None:
    job = await put(status=status, next_run_at=NOW + 9 * MINUTE)
    here = f"/dashboard/jobs/{job}/"

    async def forms(client: httpx.AsyncClient) -> set[str]:
        page = await job_page(client, job)
        leads = [one.attributes.get("action") for one in page.all("form")]
        leads += [one.attributes.get("href") for one in page.all("a")]
        return {one.removeprefix(here) for one in leads if one and one.startswith(here)}

    assert await forms(admin) == expected
    assert await forms(operator) == expected - {"delete"}
    assert await forms(viewer) == set()


async def test_actions_tell_what_they_did_or_why_not(
    admin: httpx.AsyncClient, put: Put, database: Database
) -> None:
    job = await put()

    async def send(action: str, **data: str) -> tuple[str, str]:
        answer = await admin.post(f"/dashboard/jobs/{job}/{action}", data=data)
        assert answer.status_code == 303
        cookie = f"{admin.headers['cookie']}; __Host-finmind_flash={answer.cookies['__Host-finmind_flash']}"
        path = answer.headers["location"]
        shown = await admin.get(path, headers={"cookie": cookie})
        return path, parsed(shown.text).one("p", role="status").text

    assert await send("retry") == (
        f"/dashboard/jobs/{job}",
        f"Job {job} is PENDING: only DEAD_LETTER and FAILED jobs can be retried by hand",
    )
    assert "is not a time. Write 10m" in (await send("reschedule", run_at="soon"))[1]
    assert (
        "is now due at 2031-05-01 08:00:00 UTC"
        in (await send("reschedule", run_at="2031-05-01T10:00+02:00"))[1]
    )
    assert "is now due at" in (await send("reschedule", run_at="10m"))[1]
    assert "2000 and 2200" in (await send("reschedule", run_at="1999-01-01"))[1]
    assert (await send("cancel", reason="x"))[1] == f"Job {job} is cancelled"
    assert await send("delete", reason="sent twice") == (
        "/dashboard/jobs",
        f"Job {job} was deleted",
    )
    page = await job_page(admin, job, 404)
    assert "tester deleted it at" in page.text
    assert "Reason: sent twice" in page.text


async def test_a_running_job_is_cancelled_and_shows_what_came_of_it(
    operator: httpx.AsyncClient, put: Put, database: Database
) -> None:
    job = await put(status="RUNNING", attempts=1, started_at=NOW)
    async with database.sessions.begin() as session:
        await session.execute(
            text("UPDATE jobs_live SET lease_token = 7, lease_until = now() + interval '1 minute'")
        )
    answer = await operator.post(f"/dashboard/jobs/{job}/cancel", data={"reason": "withdrawn"})
    assert answer.status_code == 303
    page = await job_page(operator, job)
    assert "cancelling, asked for" in page.one("section", id="standing").text
    assert "by tester" in page.one("section", id="standing").text
    history = page.one("section", id="history").text
    assert "Its cancel was asked for by hand" in history
    assert "withdrawn" in history
    assert f"/dashboard/jobs/{job}/cancel" not in page.text, "it is asked for once"
    link = database.link()
    claim = ClaimedJob(
        JobId(job), LeaseToken(7), "default", "mail", 2, 1, None, None, 0, 0.0, 0.0, "{}", None
    )
    cancelled = Cancelled(HowCancelled.IGNORED, time.monotonic())
    assert await store.cancel.end(link, [(claim, cancelled)], max_errors=1) == set()
    await link.close()
    history = (await job_page(operator, job)).one("section", id="history").text
    assert "Its handler ran on after CANCEL_GRACE_SECONDS" in history
    assert "Its worker knew" in history


async def test_a_job_says_whom_it_calls_and_that_its_result_was_dropped(
    viewer: httpx.AsyncClient, put: Put
) -> None:
    url = "https://shop.example.com/<b>?key=1"
    ended = {"status": "SUCCESS", "finished_at": NOW - 2 * MINUTE, "result": {"word": "gone"}}
    dropped = await put(callback={"url": url}, result_ttl_seconds=60.0, **ended)
    kept = await put(callback="not an object", result_ttl_seconds=600.0, **ended)
    for job_id, call, words, shown in (
        (dropped, url, "dropped, 1 min after its end", False),
        (kept, "not an object", "kept, 10 min from its end", True),
    ):
        page = await job_page(viewer, job_id)
        facts = page.one("section", id="facts").text
        assert call in facts
        assert words in facts
        assert ("gone" in page.text) is shown
        text = await viewer.get(f"/dashboard/jobs/{job_id}/result.txt")
        assert (text.status_code == 200) is shown


async def test_a_job_that_is_not_there_says_what_may_have_become_of_it(
    viewer: httpx.AsyncClient,
) -> None:
    page = await job_page(viewer, 4711, 404)
    assert "There is no job 4711" in page.text
    assert "RETENTION_DAYS" in page.text


async def test_a_due_job_says_why_it_does_not_run_and_what_to_do(
    viewer: httpx.AsyncClient, put: Put, app: FastAPI
) -> None:
    jobs = [await put(job_type=name, queue="emails") for name in ("served", "elsewhere", "nowhere")]
    async with app.state.service.database.sessions.begin() as session:
        for name, queue in (("served", "*"), ("elsewhere", "billing")):
            await session.execute(
                text(
                    "INSERT INTO job_workers (name, queues, job_types, concurrency)"
                    " VALUES (:name, ARRAY[:queue], ARRAY[:name], 1)"
                ),
                {"name": name, "queue": queue},
            )
    pages = [await job_page(viewer, job) for job in jobs]
    standing = [page.one("section", id="standing").text for page in pages]
    why = [page.one("section", id="why").text for page in pages]
    assert "waits for a free worker" in standing[0]
    assert "no worker serves it" in standing[1]
    assert "none of them its queue" in why[1]
    assert "WORKER_QUEUES" in why[1]
    assert "no worker serves it" in standing[2]
    assert "serves its type" in why[2]
    assert "HANDLER_MODULES" in why[2]


async def test_a_job_of_a_paused_queue_says_who_paused_it_and_why(
    app: FastAPI, viewer: httpx.AsyncClient, put: Put
) -> None:
    job = await put(queue="emails")
    async with app.state.service.database.sessions.begin() as session:
        await pause_queue(session, "emails", actor=Actor("olga"), reason="mail server is away")
    page = await job_page(viewer, job)
    assert "its queue is paused" in page.one("section", id="standing").text
    why = page.one("section", id="why").text
    assert "by olga: mail server is away" in why
    assert "Resume the queue emails" in why
    assert "its queue is paused" in (await page_at(viewer)).rows[0]


def test_every_reason_to_wait_has_words() -> None:
    assert WAITING_WORDS.keys() == {None, *Waiting}


async def test_the_nearest_jobs_of_its_type_are_one_click_away(
    viewer: httpx.AsyncClient, put: Put
) -> None:
    jobs = [
        await put(job_type="mail" if number % 2 else "sms", status=status)
        for number, status in enumerate(
            ("SUCCESS", "PENDING", "FAILED", "RUNNING", "CANCELLED") * 2
        )
    ]
    for at, job in enumerate(jobs):
        links = (await job_page(viewer, job)).links
        older = f"Older: {jobs[at - 2]}" if at >= 2 else None
        newer = f"Newer: {jobs[at + 2]}" if at + 2 < len(jobs) else None
        found = {name for name in links if name.startswith(("Older", "Newer"))}
        assert found == {one for one in (older, newer) if one is not None}


@pytest.mark.whole
@pytest.mark.parametrize("status", ["PENDING", "FAILED", "SUCCESS"])
async def test_no_page_fails_for_what_a_row_holds(
    app: FastAPI, viewer: httpx.AsyncClient, database: Database, status: str
) -> None:
    sql = await database.connect()
    await sql.execute("SET session_replication_role = replica")
    await sql.execute("ALTER TABLE jobs_live DROP CONSTRAINT jobs_live_timeout_seconds_check,"
                      " DROP CONSTRAINT jobs_live_max_retries_check,"
                      " DROP CONSTRAINT jobs_live_priority_check")  # fmt: skip
    more = [
        ("payload", f'{{"text": "{"x" * 1_000_000}"}}'),
        ("payload", "[" * 2000 + "]" * 2000),
        ("result", '{"a":' * 2000 + "1" + "}" * 2000),
        ("payload", str([0] * 150_000).replace(" ", "")),
        ("progress", '{"fraction": 1e400, "message": 5}'),
        ("progress", '{"fraction": "abc", "message": null}'),
        ("job_type", "<b>\u202e😀"),
        ("errors", '[{"event": "{x}{0}", "attempt": 1}]'),
        ("errors", f'["{"x" * 300_000}"]'),
    ]
    jobs = {await insert(sql, status=status, **{name: value}): name for name, value in ODD + more}
    await sql.close()
    for job_id, name in jobs.items():
        page = await job_page(viewer, job_id)
        assert page.one("h1").text.endswith(str(job_id)), name
        for column in ("payload", "result"):
            answer = await viewer.get(f"/dashboard/jobs/{job_id}/{column}.txt")
            assert answer.status_code in {200, 404}, (name, answer.text)
    every = "&".join(
        f"columns={name}"
        for name in (
            "type",
            "queue",
            "state",
            "attempts",
            "created",
            "due",
            "started",
            "finished",
            "delay",
            "run",
            "key",
            "error",
        )
    )
    page = await page_at(viewer, f"/dashboard/jobs?{every}")
    assert len(page.rows) == 50


async def test_what_a_job_holds_is_text_on_its_page(
    viewer: httpx.AsyncClient, app: FastAPI
) -> None:
    attack = "</script><script>alert(1)</script>\"'><img src=x onerror=alert(1)>"
    error = ERROR | dict.fromkeys(("event", "type", "message", "traceback", "worker", "by"), attack)
    async with app.state.service.database.sessions.begin() as session:
        job = await add(
            session, status="FAILED", payload={attack: attack}, result=attack, errors=[error],
            last_error=attack, unique_key=attack, enqueued_by=attack,
        )  # fmt: skip
        await session.execute(text("SET LOCAL session_replication_role = replica"))
        await session.execute(text("UPDATE jobs_dead SET queue = :attack"), {"attack": attack})
    page = await job_page(viewer, job)
    assert page.all("img") == []
    assert [one.attributes.get("src") for one in page.all("script") if one.content] == []
    assert page.text.count("<script>alert(1)</script>") >= 10


async def test_a_copy_is_one_click_and_leads_to_it(operator: httpx.AsyncClient, put: Put) -> None:
    job = await put(status="SUCCESS", payload={"n": 1}, queue="emails")
    answer = await operator.post(f"/dashboard/jobs/{job}/clone")
    assert answer.headers["location"] == f"/dashboard/jobs/{job + 1}"
    page = await job_page(operator, job + 1)
    assert leaves(page, "payload") == ["n: 1"]
    assert "PENDING" in page.one("section", id="standing").text


async def test_a_scheduled_job_is_made_due_at_once(operator: httpx.AsyncClient, put: Put) -> None:
    job = await put(next_run_at=NOW + 9 * MINUTE)
    assert "in 8 min" in (await job_page(operator, job)).one("section", id="standing").text
    await operator.post(f"/dashboard/jobs/{job}/run-now", data={"reason": "cannot wait"})
    page = await job_page(operator, job)
    assert "no worker serves it" in page.one("section", id="standing").text
    assert "cannot wait" in happened(page)[0]


class Editor:
    """The edit form of one job, filled in and sent."""

    def __init__(self, client: httpx.AsyncClient, job_id: int, page: Element) -> None:
        self.client, self.path = client, f"/dashboard/jobs/{job_id}/edit"
        self.fields = {
            one.attributes["name"] or "": one.attributes.get("value") or ""
            for one in page.one("form", class_="card edit").all("input")
        }
        self.fields["payload"] = "".join(map(str, page.one("textarea", name="payload").content))

    async def send(self, step: str, **changed: str) -> httpx.Response:
        return await self.client.post(self.path, data=self.fields | changed | {"step": step})


async def edit(client: httpx.AsyncClient, job_id: int) -> Editor:
    return Editor(client, job_id, await page_at(client, f"/dashboard/jobs/{job_id}/edit"))


async def test_edit_and_retry_shows_the_difference_and_keeps_the_payload_before(
    operator: httpx.AsyncClient, put: Put
) -> None:
    job = await put(
        status="DEAD_LETTER", errors=[ERROR], payload={"user": {"id": 7}, "amount": 12.5}
    )
    form = await edit(operator, job)
    changed = form.fields["payload"].replace("7", "9007199254740993")
    shown = parsed((await form.send("preview", payload=changed)).text)
    difference = shown.one("pre", class_="difference")
    assert not difference.all("span", class_="skipped")
    assert [one.text for one in difference.all("span", class_="removed")] == ['- "id": 7']
    assert [one.text for one in difference.all("span", class_="added")] == [
        '+ "id": 9007199254740993'
    ]
    # Nothing has happened yet.
    assert "DEAD_LETTER" in (await job_page(operator, job)).one("section", id="standing").text
    answer = await form.send("send", payload=changed, reason="wrong customer", max_retries="9")
    assert (answer.status_code, answer.headers["location"]) == (303, f"/dashboard/jobs/{job}")
    page = await job_page(operator, job)
    assert "id: 9007199254740993" in leaves(page, "payload")
    assert "0 of 10" in page.one("section", id="facts").text
    retried = happened(page)[0]
    assert "wrong customer" in retried
    assert '- "id": 7' in retried
    assert '+ "id": 9007199254740993' in retried


async def test_a_pending_job_is_edited_where_it_waits(
    operator: httpx.AsyncClient, put: Put
) -> None:
    job = await put(payload={"n": 1}, next_run_at=NOW + 9 * MINUTE)
    form = await edit(operator, job)
    answer = await form.send("send", queue="slow", priority="7", run_at="2031-01-01")
    assert answer.status_code == 303
    page = await job_page(operator, job)
    facts = page.one("section", id="facts").text
    assert "Queue slow" in facts
    assert "Priority 7" in facts
    assert "2031-01-01" in facts
    assert leaves(page, "payload") == ["n: 1"]


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({}, "Nothing differs"),
        ({"payload": '{"n": 1'}, "line 1, column 8"),
        ({"payload": "null"}, "it is null"),
        ({"payload": '{"n": NaN}'}, "NaN is not JSON"),
        ({"payload": '{"n": 0.12345678901234567890}'}, "0.12345678901234567890 has more digits"),
        ({"payload": "[" * 5000 + "]" * 5000}, "nested deeper"),
        ({"run_at": "soon"}, "'soon' is not a time"),
        ({"max_retries": "-1"}, "max_retries is '-1'"),
        ({"max_retries": "1001"}, "max_retries is 1001"),
        ({"queue": "my queue"}, "queue"),
        ({"priority": "x"}, "priority is 'x'"),
        ({"original": "of before", "payload": "{}"}, "changed meanwhile"),
    ],
)
async def test_an_edit_that_breaks_a_rule_is_refused_and_kept_in_the_form(
    operator: httpx.AsyncClient, put: Put, changed: dict[str, str], words: str
) -> None:
    job = await put(payload={"n": 1})
    form = await edit(operator, job)
    for step in ("preview", "send"):
        answer = await form.send(step, **changed)
        assert answer.status_code in {409, 422}
        page = parsed(answer.text)
        assert words in page.one("p", role="alert").text
        kept = Editor(operator, job, page).fields
        assert {name: kept[name].strip() for name in changed.keys() - {"original"}} == {
            name: value for name, value in changed.items() if name != "original"
        }
    assert leaves(await job_page(operator, job), "payload") == ["n: 1"]


async def test_editing_masked_values_is_audited_before_they_are_shown(
    app: FastAPI, operator: httpx.AsyncClient, viewer: httpx.AsyncClient, put: Put
) -> None:
    job = await put(status="FAILED", payload={"password": "hunter2", "n": 1})
    path = f"/dashboard/jobs/{job}/edit"
    assert (await viewer.get(path)).status_code == 403
    assert "hunter2" not in (await operator.get(path)).text
    # Nor by what a refused form says of the payload: sent again, it is refused again.
    fields = {"step": "preview", "payload": "{}"}
    for _ in range(3):
        answer = await operator.post(path, data=fields)
        assert answer.status_code == 409
        assert "hunter2" not in answer.text
        inputs = parsed(answer.text).all("input")
        fields |= {
            one.attributes["name"] or "": one.attributes.get("value") or "" for one in inputs
        }
    answer = await operator.post(path, data={"step": "open", "reason": "fix it"})
    assert "hunter2" in answer.text
    async with app.state.service.database.sessions() as session:
        entries = await newest(session, AuditFilters(action="payload.reveal"), limit=5)
    assert [(one.outcome, one.reason) for one in entries] == [("done", "fix it")]
    form = Editor(operator, job, parsed(answer.text))
    changed = form.fields["payload"].replace("1", "2")
    assert (await form.send("send", payload=changed)).status_code == 303
    page = await job_page(viewer, job)
    assert '+ "n": 2' in page.text
    assert "hunter2" not in page.text


async def test_an_edit_overwrites_no_payload_that_changed_meanwhile_however_often_it_is_sent(
    operator: httpx.AsyncClient, put: Put
) -> None:
    job = await put(payload={"n": 1}, next_run_at=NOW + 9 * MINUTE)
    mine, theirs = await edit(operator, job), await edit(operator, job)
    assert (await theirs.send("send", payload='{"n": 99}')).status_code == 303
    for _ in range(2):
        answer = await mine.send("send", payload='{"n": 2}')
        assert answer.status_code == 409
        mine = Editor(operator, job, parsed(answer.text))
    assert leaves(await job_page(operator, job), "payload") == ["n: 99"]


async def test_what_an_operation_did_leads_to_the_operation_that_says_why(
    viewer: httpx.AsyncClient, put: Put
) -> None:
    entry = ERROR | {
        "event": "manual_retry",
        "by": "ada (operation 7)",
        "message": "retried by hand",
    }
    page = await job_page(viewer, await put(errors=[entry | {"type": "FAILED", "traceback": None}]))
    (link,) = [one for one in page.all("a") if one.text == "see why"]
    assert link.attributes["href"] == "/dashboard/operations/7"
    assert "FAILED: retried by hand" not in page.text


@pytest.mark.parametrize("size", [10, 20_000])
async def test_an_edit_of_a_pending_job_shows_the_payload_before_whole(
    operator: httpx.AsyncClient, put: Put, size: int
) -> None:
    job = await put(payload={"text": "x" * size}, next_run_at=NOW + 9 * MINUTE)
    form = await edit(operator, job)
    assert (await form.send("send", payload='{"n": 2}')).status_code == 303
    page = await job_page(operator, job)
    told = [one for one in happened(page) if one.startswith("Edited")]
    # The audit log cuts what is long: then the entry of the history shows the whole beside it.
    assert len(told) == (1 if size == 10 else 2)
    assert "x" * size in page.text
