"""`/admin/jobs`: every answer that an operator can get."""

import asyncio
import re
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from service.api.stats_cache import StatsCache
from service.jobs.core.job import JobId, JobStatus
from service.jobs.handlers.registry import register_handler, registry
from service.jobs.read import list as lists
from service.settings import Settings
from tests.api.conftest import Auth
from tests.api.shapes import assert_problem, jobs_in
from tests.jobs.rows import add

NOW = datetime.now(UTC).replace(microsecond=0)


@pytest.fixture(autouse=True)
def _as_of_this_test() -> None:
    """The tests of a run that takes minutes are collected before the first of them."""
    global NOW  # noqa: PLW0603 - read by helpers all over this file
    NOW = datetime.now(UTC).replace(microsecond=0)


@pytest.fixture
def viewer(auth: Auth) -> dict[str, str]:
    return auth("viewer")


@pytest.fixture
def operator(auth: Auth) -> dict[str, str]:
    return auth("admin", "olga")


Put = Callable[..., Awaitable[JobId]]


@pytest.fixture
def put(app: FastAPI) -> Put:
    """Puts a row in, as SQL by hand would: `await put(status="FAILED", last_error="…")`."""

    async def put(**values: Any) -> JobId:
        async with app.state.service.database.sessions.begin() as session:
            return await add(session, **values)

    return put


async def ids(client: httpx.AsyncClient, headers: dict[str, str], **query: Any) -> list[int]:
    answer = await client.get("/admin/jobs", params=query, headers=headers)
    assert answer.status_code == 200, answer.text
    return [job["id"] for job in answer.json()["jobs"]]


# -- lists ------------------------------------------------------------------------------------


async def test_an_empty_list_is_a_page_like_any_other(
    client: httpx.AsyncClient, viewer: dict[str, str]
) -> None:
    answer = await client.get("/admin/jobs", headers=viewer)
    assert answer.status_code == 200
    assert answer.json() == {
        "jobs": [],
        "next_cursor": None,
        "total": 0,
        "total_exact": True,
        "complete": True,
    }


async def test_each_filter_leaves_exactly_its_jobs(
    client: httpx.AsyncClient, viewer: dict[str, str], put: Put, session: AsyncSession
) -> None:
    hour, day = timedelta(hours=1), timedelta(days=1)
    async with session.begin():
        worker = await session.scalar(text(A_WORKER))
    one = await put(
        queue="a",
        priority=0,
        created_at=NOW - 3 * hour,
        next_run_at=NOW - 2 * hour,
        unique_key="k",
        payload={"user": {"id": 1}},
    )
    two = await put(
        status="DEAD_LETTER",
        job_type="sms",
        created_at=NOW - 2 * hour,
        next_run_at=NOW - hour,
        last_error="OSError: 50%_of \\ it",
        unique_key="k",
        fingerprint="c0ffee0123456789",
    )
    three = await put(
        status="SUCCESS", created_at=NOW - hour, next_run_at=NOW, last_error="oserror: 50 of it"
    )
    four = await put(status="CANCELLED", queue="a", created_at=NOW, next_run_at=NOW + hour)
    five = await put(status="FAILED", created_at=NOW, next_run_at=NOW, last_error="no handler")
    six = await put(
        status="RUNNING", job_type="sms", created_at=NOW, next_run_at=NOW, worker_id=worker
    )
    expected: list[tuple[dict[str, Any], list[int]]] = [
        ({}, [six, five, four, three, two, one]),
        *(
            ({"status": status}, [int(job)])
            for status, job in zip(
                ("PENDING", "DEAD_LETTER", "SUCCESS", "CANCELLED", "FAILED", "RUNNING"),
                (one, two, three, four, five, six),
                strict=True,
            )
        ),
        ({"status": ["PENDING", "SUCCESS", "FAILED"]}, [five, three, one]),
        ({"job_type": "sms"}, [six, two]),
        ({"job_type": "sms", "status": "RUNNING"}, [six]),
        ({"queue": "a"}, [four, one]),
        ({"priority": 0}, [one]),
        ({"unique_key": "k"}, [two, one]),
        ({"fingerprint": "c0ffee0123456789"}, [two]),
        ({"fingerprint": "c0ffee0123456789", "status": "SUCCESS"}, []),
        ({"q": "fingerprint:c0ffee0123456789"}, [two]),
        ({"created_after": (NOW - hour).isoformat()}, [six, five, four, three]),
        ({"created_before": (NOW - hour).isoformat()}, [two, one]),
        (
            {
                "created_after": (NOW - 2 * hour).isoformat(),
                "created_before": NOW.isoformat(),
            },
            [three, two],
        ),
        ({"due_after": NOW.isoformat()}, [six, five, four, three]),
        ({"due_before": NOW.isoformat()}, [two, one]),
        ({"finished_after": (NOW - 3 * day).isoformat()}, [five, four, three, two]),
        ({"finished_after": (NOW + day).isoformat()}, []),
        ({"finished_before": (NOW + day).isoformat()}, [five, four, three, two]),
        ({"finished_before": (NOW - 3 * day).isoformat()}, []),
        (
            {
                "finished_after": (NOW - day).isoformat(),
                "finished_before": (NOW + day).isoformat(),
                "status": ["SUCCESS", "RUNNING"],
            },
            [three],
        ),
        ({"worker": "web-1:831"}, [six]),
        ({"worker": "nobody"}, []),
        ({"error": "OSERROR"}, [three, two]),
        ({"error": "50%_"}, [two]),
        ({"error": "\\"}, [two]),
        ({"error": "%"}, [two]),
        ({"ids": [int(six), int(one), 999]}, [six, one]),
        ({"idempotency_key": "nobodys"}, []),
        ({"payload": "user.id:1"}, [one]),
        ({"payload": ["user.id:1", "user.id:2"]}, []),
        ({"q": "payload.user.id:1"}, [one]),
        ({"q": "status:failed,success error:50"}, [three]),
        ({"q": f"{int(two)} type:sms"}, [two]),
        ({"q": "oserror", "status": "SUCCESS"}, [three]),
        ({"job_type": "nobody"}, []),
        ({"job_type": "'; DROP TABLE background_jobs; --"}, []),
        ({"status": "", "job_type": "", "error": ""}, [six, five, four, three, two, one]),
    ]
    for query, jobs in expected:
        answer = await client.get("/admin/jobs", params=query, headers=viewer)
        assert answer.status_code == 200, answer.text
        page = answer.json()
        assert [job["id"] for job in page["jobs"]] == jobs, query
        assert (page["total"], page["total_exact"], page["next_cursor"]) == (len(jobs), True, None)
        for limit in (1, 2):
            first = await client.get("/admin/jobs", params=query | {"limit": limit}, headers=viewer)
            assert [job["id"] for job in first.json()["jobs"]] == jobs[:limit]
            assert (first.json()["total"], first.json()["total_exact"]) == (len(jobs), True), query


async def test_a_search_that_cannot_be_read_is_refused_with_its_bad_part(
    client: httpx.AsyncClient, viewer: dict[str, str]
) -> None:
    for query, field, words in (
        ({"q": "stauts:FAILED"}, "query.q", "did you mean status:?"),
        ({"q": "status:FAILED", "status": "SUCCESS"}, "query.q", "give it once"),
        ({"payload": "user.id"}, "query.payload", "expected a path and a value such as user.id:1"),
    ):
        answer = await client.get("/admin/jobs", params=query, headers=viewer)
        assert answer.status_code == 422
        assert words in answer.text, answer.text
        assert field in answer.text, answer.text


async def test_a_time_with_an_unescaped_plus_is_understood(
    client: httpx.AsyncClient, viewer: dict[str, str], put: Put
) -> None:
    job = await put()
    answer = await client.get("/admin/jobs?created_after=2020-01-01T00:00:00+02:00", headers=viewer)
    assert [one["id"] for one in answer.json()["jobs"]] == [job]


A_WORKER = (
    "INSERT INTO job_workers (name, queues, job_types, concurrency)"
    " VALUES ('web-1:831', '{*}', '{mail}', 1) RETURNING id"
)


async def test_a_job_names_its_worker_and_the_limits_that_hold(
    client: httpx.AsyncClient, viewer: dict[str, str], put: Put, session: AsyncSession
) -> None:
    async with session.begin():
        worker = await session.scalar(text(A_WORKER))
    known = await put(status="RUNNING", job_type="send_reminder", worker_id=worker)
    foreign = await put(job_type="of.somebody.else", max_retries=7)
    shown = (await client.get(f"/admin/jobs/{known}", headers=viewer)).json()
    assert (shown["worker"], shown["max_retries"]) == ("web-1:831", None)
    assert shown["effective_max_retries"] == 3
    assert shown["effective_timeout_seconds"] > 0
    shown = (await client.get(f"/admin/jobs/{foreign}", headers=viewer)).json()
    assert (shown["worker"], shown["effective_max_retries"]) == (None, 7)
    assert shown["effective_timeout_seconds"] is None


@pytest.mark.parametrize("moment", ["0001-01-01T00:00:00+01:00", "9999-12-31T23:59:59-01:00"])
async def test_a_time_outside_the_calendar_is_refused_with_the_rule(
    client: httpx.AsyncClient, viewer: dict[str, str], moment: str
) -> None:
    answer = await client.get("/admin/jobs", params={"due_before": moment}, headers=viewer)
    assert answer.status_code == 422
    assert "years 1 to 9999 in UTC" in answer.text


@pytest.mark.parametrize("moment", ["0001-01-01T00:00:00Z", "9999-12-31T23:59:59Z"])
async def test_the_first_and_the_last_moment_of_all_are_times_too(
    client: httpx.AsyncClient,
    viewer: dict[str, str],
    put: Put,
    monkeypatch: pytest.MonkeyPatch,
    moment: str,
) -> None:
    """Also where the moments around them are asked for, in a table large enough."""
    monkeypatch.setattr(lists, "FIRST_STEP", 1)
    monkeypatch.setattr(lists, "JUMP_AFTER", 1)
    for _ in range(5):
        await put(status="SUCCESS")
    names = ("created", "due", "finished")
    for name in [f"{one}_{side}" for one in names for side in ("after", "before")]:
        query: dict[str, str | int] = {name: moment, "priority": 9, "limit": 1}
        answer = await client.get("/admin/jobs", params=query, headers=viewer)
        assert answer.status_code == 200, (name, answer.text)
        assert answer.json()["jobs"] == []


@pytest.mark.whole
@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("status=DONE", "query.status.0"),
        ("status=pending", "query.status.0"),
        ("limit=0", "query.limit"),
        ("limit=-1", "query.limit"),
        ("limit=201", "query.limit"),
        ("limit=1001", "query.limit"),
        ("limit=x", "query.limit"),
        ("priority=10", "query.priority"),
        ("priority=x", "query.priority"),
        ("created_after=yesterday", "query.created_after"),
        ("created_after=1700000000", "query.created_after"),
        ("due_before=2026-01-01T00:00:00", "query.due_before"),
        ("created_before=2026-01-01T00:00:00Z&created_after=2026-01-02T00:00:00Z", "query"),
        ("job_type=" + "a" * 101, "query.job_type"),
        ("job_type=%00", "query.job_type"),
        ("error=a%00b", "query.error"),
        ("error=" + "e" * 201, "query.error"),
        ("unique_key=" + "k" * 256, "query.unique_key"),
        ("cursor=nonsense", "query.cursor"),
        ("cursor=e30", "query.cursor"),
        ("cursor=" + "A" * 201, "query.cursor"),
        ("jobtype=mail", "query.jobtype"),
        ("offset=10", "query.offset"),
    ],
)
async def test_a_bad_filter_is_refused_by_name(
    client: httpx.AsyncClient, viewer: dict[str, str], query: str, field: str
) -> None:
    problem = assert_problem(await client.get(f"/admin/jobs?{query}", headers=viewer), 422)
    assert field in [error["field"] for error in problem["errors"]]


async def test_a_cursor_goes_with_its_own_filters_only(
    client: httpx.AsyncClient, viewer: dict[str, str], put: Put
) -> None:
    jobs = [await put() for _ in range(3)]
    first = await client.get(
        "/admin/jobs", params={"limit": 1, "status": "PENDING"}, headers=viewer
    )
    cursor = first.json()["next_cursor"]
    # The size of the page may change on the way.
    on = {"cursor": cursor, "status": "PENDING", "limit": 2}
    assert await ids(client, viewer, **on) == [jobs[1], jobs[0]]
    for other in ({}, {"status": "RUNNING"}, {"status": "PENDING", "queue": "a"}):
        answer = await client.get("/admin/jobs", params=other | {"cursor": cursor}, headers=viewer)
        assert_problem(answer, 422)


async def test_pages_show_each_job_once_while_others_are_enqueued(
    client: httpx.AsyncClient, viewer: dict[str, str], auth: Auth
) -> None:
    service = auth("service")

    async def enqueue(number: int) -> int:
        answer = await client.post("/jobs", json={"job_type": f"t{number % 2}"}, headers=service)
        return int(answer.json()["id"])

    before = sorted([await enqueue(number) for number in range(23)], reverse=True)
    seen: list[int] = []
    query: dict[str, Any] = {"limit": 5}
    for _ in range(20):
        page, _ = await asyncio.gather(
            client.get("/admin/jobs", params=query, headers=viewer),
            asyncio.gather(*(enqueue(number) for number in range(4))),
        )
        seen += [job["id"] for job in page.json()["jobs"]]
        if page.json()["next_cursor"] is None:
            break
        query["cursor"] = page.json()["next_cursor"]
    assert len(seen) == len(set(seen))
    assert [job for job in seen if job in before] == before
    assert seen == sorted(seen, reverse=True)


async def test_totals_come_from_the_kept_counts_while_these_answer_the_filter(
    client: httpx.AsyncClient, viewer: dict[str, str], put: Put, app: FastAPI
) -> None:
    for status in ("SUCCESS", "SUCCESS", "DEAD_LETTER", "PENDING"):
        await put(status=status)
    async with app.state.service.database.engine.begin() as connection:
        # Rows that the counts alone know of tell them from counted rows.
        await connection.execute(
            text("INSERT INTO job_stats VALUES ('a', 'x', 'SUCCESS', current_date, 1000000)")
        )
        await connection.execute(
            text("INSERT INTO job_stats VALUES ('a', 'x', 'SUCCESS', current_date, -400000)")
        )

    async def total(**query: Any) -> tuple[int, bool]:
        answer = await client.get("/admin/jobs", params=query | {"limit": 1}, headers=viewer)
        return answer.json()["total"], answer.json()["total_exact"]

    assert await total() == (600_004, True)
    assert await total(status=["SUCCESS", "PENDING"]) == (600_003, True)
    assert await total(status="SUCCESS") == (600_002, True)


class TestCappedCounts:
    """With a cap that a test can reach."""

    @pytest.fixture
    def api_settings(self, make_settings: Callable[..., Settings], pg_dsn: str) -> Settings:
        return make_settings(database_url=pg_dsn, count_cap=100)

    @pytest.fixture
    async def filled(self, app: FastAPI) -> None:
        async with app.state.service.database.engine.begin() as connection:
            await connection.execute(
                text(
                    "INSERT INTO background_jobs (job_type, priority) "
                    "SELECT 'mail', g % 2 FROM generate_series(1, 101) g"
                )
            )

    @pytest.mark.usefixtures("filled")
    async def test_a_total_over_the_cap_says_that_it_is_a_lower_bound(
        self, client: httpx.AsyncClient, viewer: dict[str, str], put: Put
    ) -> None:
        answer = await client.get("/admin/jobs", headers=viewer)
        assert (answer.json()["total"], answer.json()["total_exact"]) == (100, False)
        odd = {"priority": 1, "limit": 10}
        answer = await client.get("/admin/jobs", params=odd, headers=viewer)
        assert answer.json()["total_exact"] is False
        assert 10 <= answer.json()["total"] <= 51
        stats = (await client.get("/admin/jobs/stats", headers=viewer)).json()
        assert stats["total_exact"] is False
        assert 100 <= stats["by_status"]["PENDING"] <= 101

    @pytest.mark.usefixtures("filled")
    async def test_a_total_at_the_cap_is_exact(
        self, client: httpx.AsyncClient, viewer: dict[str, str], operator: dict[str, str]
    ) -> None:
        newest = (await ids(client, viewer, limit=1))[0]
        await client.delete(f"/admin/jobs/{newest}", headers=operator)
        answer = await client.get("/admin/jobs", headers=viewer)
        assert (answer.json()["total"], answer.json()["total_exact"]) == (100, True)


# -- statistics -------------------------------------------------------------------------------


async def test_statistics_of_an_empty_table_name_every_status(
    client: httpx.AsyncClient, viewer: dict[str, str]
) -> None:
    answer = await client.get("/admin/jobs/stats", headers=viewer)
    assert answer.status_code == 200
    stats = answer.json()
    assert stats.pop("as_of")
    assert stats == {
        "total": 0,
        "total_exact": True,
        "by_status": dict.fromkeys(JobStatus, 0),
        "by_type": {},
        "by_type_rest": 0,
        "by_queue": {},
        "by_queue_rest": 0,
        "due_now": 0,
        "oldest_due_seconds": None,
        "held": 0,
        "scheduled": 0,
        "running": 0,
        "days": [],
        "last_hour": {
            "succeeded": 0, "retried": 0, "dead_lettered": 0, "failed": 0, "cancelled": 0,
            "failure_share": None, "start_delay": None, "run_time": None,
        },
    }  # fmt: skip


async def test_statistics_are_at_most_a_second_old(
    client: httpx.AsyncClient, app: FastAPI, viewer: dict[str, str], auth: Auth
) -> None:
    now = 0.0
    app.state.stats_cache = StatsCache(clock=lambda: now)
    for total in range(1, 4):
        now += 1.01
        await client.post("/jobs", json={"job_type": "m"}, headers=auth("service"))
        stats = (await client.get("/admin/jobs/stats", headers=viewer)).json()
        assert (stats["total"], stats["by_status"]["PENDING"]) == (total, total)


async def test_an_operator_sees_in_the_statistics_what_they_did_just_before(
    client: httpx.AsyncClient, app: FastAPI, viewer: dict[str, str], operator: dict[str, str],
    put: Put,
) -> None:  # fmt: skip
    # The clock stands still: only an action drops an answer.
    app.state.stats_cache = StatsCache(clock=lambda: 0.0)

    async def counted() -> tuple[dict[str, int], list[dict[str, Any]]]:
        stats = (await client.get("/admin/jobs/stats", headers=viewer)).json()
        return {name: n for name, n in stats["by_status"].items() if n}, stats["days"]

    first, second, dead = await put(), await put(), await put(status="DEAD_LETTER")
    assert (await counted())[0] == {"PENDING": 2, "DEAD_LETTER": 1}
    await put()
    assert (await counted())[0] == {"PENDING": 2, "DEAD_LETTER": 1}
    await client.post(f"/admin/jobs/{first}/cancel", headers=operator)
    by_status, days = await counted()
    assert by_status == {"PENDING": 2, "CANCELLED": 1, "DEAD_LETTER": 1}
    assert days[0]["by_status"] == {"CANCELLED": 1, "DEAD_LETTER": 1}
    await client.delete(f"/admin/jobs/{second}", headers=operator)
    assert (await counted())[0] == {"PENDING": 1, "CANCELLED": 1, "DEAD_LETTER": 1}
    await client.post(f"/admin/jobs/{dead}/retry", headers=operator)
    assert (await counted())[0] == {"PENDING": 2, "CANCELLED": 1}
    await client.post("/admin/jobs/process", headers=operator)
    assert (await counted())[0] == {"FAILED": 2, "CANCELLED": 1}


# -- one job ----------------------------------------------------------------------------------


async def test_detail_shows_the_whole_job(
    client: httpx.AsyncClient, viewer: dict[str, str], put: Put
) -> None:
    entry = {
        "event": "error",
        "attempt": 1,
        "type": "ValueError",
        "message": "no",
        "traceback": "Traceback …",
        "started_at": "2026-01-01T00:00:00Z",
        "at": "2026-01-01T00:00:01Z",
        "worker": "w",
        "chunk": None,
        "by": None,
        "added_by_a_newer_version": 7,
    }
    job = await put(status="DEAD_LETTER", last_error="ValueError: no", errors=[entry])
    answer = await client.get(f"/admin/jobs/{job}", headers=viewer)
    assert answer.status_code == 200
    detail = answer.json()
    assert detail["errors"] == [entry]
    assert (
        detail.items()
        >= {
            "id": job,
            "status": "DEAD_LETTER",
            "last_error": "ValueError: no",
            "payload": {},
            "result": None,
            "lost_leases": 0,
            "lease_until": None,
            "backoff": None,
        }.items()
    )
    for absent in (job + 1, 2**63 - 1):
        assert_problem(await client.get(f"/admin/jobs/{absent}", headers=viewer), 404)
    assert_problem(await client.get("/admin/jobs/0", headers=viewer), 422)
    assert_problem(await client.get(f"/admin/jobs/{2**63}", headers=viewer), 422)


@pytest.mark.parametrize("status", ["DEAD_LETTER", "FAILED"])
async def test_a_dead_job_is_retried_with_its_history_kept(
    client: httpx.AsyncClient, operator: dict[str, str], put: Put, status: str
) -> None:
    entry = {"event": "error", "attempt": 4, "type": "OSError", "message": "down"}
    job = await put(
        status=status,
        attempts=4,
        errors=[entry],
        next_run_at=NOW - timedelta(days=1),
        finished_at=NOW,
        last_error="OSError: down",
    )
    answer = await client.post(f"/admin/jobs/{job}/retry", headers=operator)
    assert answer.status_code == 200
    detail = answer.json()
    assert (detail["id"], detail["status"], detail["attempts"]) == (job, "PENDING", 0)
    assert detail["finished_at"] is None
    assert abs(datetime.fromisoformat(detail["next_run_at"]) - datetime.now(UTC)) < timedelta(
        seconds=30
    )
    assert [error["event"] for error in detail["errors"]] == ["error", "manual_retry"]
    assert detail["errors"][-1]["by"] == "olga"
    assert_problem(await client.post(f"/admin/jobs/{job}/retry", headers=operator), 409)


@pytest.mark.parametrize("status", ["PENDING", "RUNNING", "SUCCESS", "CANCELLED"])
async def test_only_dead_jobs_are_retried(
    client: httpx.AsyncClient, operator: dict[str, str], put: Put, status: str
) -> None:
    job = await put(status=status)
    problem = assert_problem(await client.post(f"/admin/jobs/{job}/retry", headers=operator), 409)
    assert status in problem["detail"]
    assert (await client.get(f"/admin/jobs/{job}", headers=operator)).json()["status"] == status


async def test_a_retry_whose_unique_key_is_taken_is_a_conflict(
    client: httpx.AsyncClient, operator: dict[str, str], put: Put
) -> None:
    dead = await put(status="DEAD_LETTER", unique_key="k")
    live = await put(unique_key="k")
    problem = assert_problem(await client.post(f"/admin/jobs/{dead}/retry", headers=operator), 409)
    assert "unique_key" in problem["detail"]
    await client.delete(f"/admin/jobs/{live}", headers=operator)
    assert (await client.post(f"/admin/jobs/{dead}/retry", headers=operator)).status_code == 200


async def test_ten_retries_at_once_are_one(
    client: httpx.AsyncClient, operator: dict[str, str], put: Put
) -> None:
    job = await put(status="DEAD_LETTER")
    answers = await asyncio.gather(
        *(client.post(f"/admin/jobs/{job}/retry", headers=operator) for _ in range(10))
    )
    assert sorted(answer.status_code for answer in answers) == [200] + [409] * 9
    detail = (await client.get(f"/admin/jobs/{job}", headers=operator)).json()
    assert [error["event"] for error in detail["errors"]] == ["manual_retry"]


async def test_a_pending_job_is_cancelled_once(
    client: httpx.AsyncClient, operator: dict[str, str], put: Put
) -> None:
    job = await put()
    answer = await client.post(f"/admin/jobs/{job}/cancel", headers=operator)
    assert (answer.status_code, answer.json()["status"]) == (200, "CANCELLED")
    assert answer.json()["finished_at"]
    assert_problem(await client.post(f"/admin/jobs/{job}/cancel", headers=operator), 409)


@pytest.mark.parametrize("status", ["SUCCESS", "DEAD_LETTER", "FAILED", "CANCELLED"])
async def test_a_job_that_has_ended_is_not_cancelled(
    client: httpx.AsyncClient, operator: dict[str, str], put: Put, status: str
) -> None:
    job = await put(status=status)
    problem = assert_problem(await client.post(f"/admin/jobs/{job}/cancel", headers=operator), 409)
    assert status in problem["detail"]


@pytest.mark.parametrize("status", ["PENDING", "SUCCESS", "DEAD_LETTER", "FAILED", "CANCELLED"])
async def test_any_job_that_does_not_run_is_deleted(
    client: httpx.AsyncClient, operator: dict[str, str], put: Put, app: FastAPI, status: str
) -> None:
    job = await put(status=status)
    answer = await client.delete(f"/admin/jobs/{job}", headers=operator)
    assert (answer.status_code, answer.content) == (204, b"")
    assert await jobs_in(app) == []
    assert_problem(await client.delete(f"/admin/jobs/{job}", headers=operator), 404)
    stats = (await client.get("/admin/jobs/stats", headers=operator)).json()
    assert stats["total"] == 0


async def test_a_running_job_is_not_deleted(
    client: httpx.AsyncClient, operator: dict[str, str], put: Put, app: FastAPI
) -> None:
    job = await put(status="RUNNING")
    problem = assert_problem(await client.delete(f"/admin/jobs/{job}", headers=operator), 409)
    assert "RUNNING" in problem["detail"]
    assert await jobs_in(app) == [job]


@pytest.mark.parametrize(
    ("method", "path"), [("POST", "/retry"), ("POST", "/cancel"), ("DELETE", "")]
)
async def test_what_is_not_there_cannot_be_operated_on(
    client: httpx.AsyncClient, operator: dict[str, str], method: str, path: str
) -> None:
    async def status(job_id: object) -> httpx.Response:
        return await client.request(method, f"/admin/jobs/{job_id}{path}", headers=operator)

    assert_problem(await status(1), 404)
    for bad in (0, -1, "x", 2**63):
        assert_problem(await status(bad), 422)


# -- process ----------------------------------------------------------------------------------


async def test_process_runs_due_jobs_and_tells_how_they_ended(
    client: httpx.AsyncClient, operator: dict[str, str], auth: Auth, put: Put
) -> None:
    job = await put(job_type="test-api.nobody-handles-this")
    waits = await put(next_run_at=NOW + timedelta(days=1))
    answer = await client.post("/admin/jobs/process", headers=operator)
    assert answer.status_code == 200
    assert answer.json() == {
        "processed": 1,
        "succeeded": 0,
        "retried": 0,
        "failed": 1,
        "dead_lettered": 0,
    }
    detail = (await client.get(f"/admin/jobs/{job}", headers=operator)).json()
    assert detail["status"] == "FAILED"
    assert "test-api.nobody-handles-this" in detail["last_error"]
    assert (await client.get(f"/jobs/{waits}", headers=auth("service"))).json()[
        "status"
    ] == "PENDING"


async def test_process_counts_each_way_to_end_and_keeps_to_its_limit(
    client: httpx.AsyncClient, operator: dict[str, str], put: Put, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry, "_specs", dict(registry._specs))

    @register_handler("test-api.works")
    async def works(payload: dict[str, Any]) -> dict[str, Any]:
        return {"got": payload}

    @register_handler("test-api.breaks")
    async def breaks(payload: dict[str, Any]) -> None:
        raise OSError("down")

    done = await put(job_type="test-api.works", payload={"n": 1})
    later = await put(job_type="test-api.breaks", max_retries=1)
    dead = await put(job_type="test-api.breaks", max_retries=0)
    summed = dict.fromkeys(("processed", "succeeded", "retried", "failed", "dead_lettered"), 0)
    for limit, taken in ((2, 2), (2, 1), (2, 0)):
        answer = await client.post(f"/admin/jobs/process?limit={limit}", headers=operator)
        assert answer.json()["processed"] == taken
        summed = {name: summed[name] + jobs for name, jobs in answer.json().items()}
    assert summed == {
        "processed": 3,
        "succeeded": 1,
        "retried": 1,
        "failed": 0,
        "dead_lettered": 1,
    }
    read = {
        job: (await client.get(f"/admin/jobs/{job}", headers=operator)).json()
        for job in (done, later, dead)
    }
    assert [read[job]["status"] for job in (done, later, dead)] == [
        "SUCCESS",
        "PENDING",
        "DEAD_LETTER",
    ]
    assert read[done]["result"] == {"got": {"n": 1}}
    assert (read[dead]["errors"][0]["type"], read[dead]["errors"][0]["message"]) == (
        "OSError",
        "down",
    )


@pytest.mark.parametrize("limit", ["0", "1001", "-5", "x"])
async def test_process_takes_one_to_a_thousand_jobs(
    client: httpx.AsyncClient, operator: dict[str, str], limit: str
) -> None:
    answer = await client.post("/admin/jobs/process", params={"limit": limit}, headers=operator)
    problem = assert_problem(answer, 422)
    assert problem["errors"][0]["field"] == "query.limit"


# -- bounds -----------------------------------------------------------------------------------


class TestSlowDatabase:
    """With a table that somebody else has locked."""

    @pytest.fixture
    def api_settings(self, make_settings: Callable[..., Settings], pg_dsn: str) -> Settings:
        return make_settings(database_url=pg_dsn, query_timeout_seconds=0.2)

    async def test_a_query_over_its_time_is_503(
        self, client: httpx.AsyncClient, operator: dict[str, str], app: FastAPI
    ) -> None:
        async with app.state.service.database.engine.begin() as connection:
            await connection.execute(text("LOCK TABLE background_jobs IN ACCESS EXCLUSIVE MODE"))
            for path in ("/admin/jobs", "/admin/jobs/stats", "/admin/jobs/1", "/jobs/1"):
                headers = operator
                answer = await client.get(path, headers=headers)
                assert_problem(answer, 503)
                assert int(answer.headers["retry-after"]) >= 1


async def test_every_time_of_every_answer_ends_in_z(
    client: httpx.AsyncClient, auth: Auth, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry, "_specs", dict(registry._specs))

    @register_handler("test-api.breaks")
    async def breaks(payload: dict[str, Any]) -> None:
        raise OSError("down")

    admin = auth("admin")
    due = {"job_type": "test-api.breaks", "max_retries": 0}
    made = await client.post("/jobs", json=due, headers=admin)
    await client.post("/admin/jobs/process", headers=admin)
    path = f"/admin/jobs/{made.json()['id']}"
    later = {"run_at": "2030-01-01T09:00:00+02:00"}
    answers = [
        made,
        await client.post("/jobs", json=due | later, headers=admin),
        await client.get(path, headers=admin),
        await client.get("/admin/jobs", headers=admin),
        await client.get("/admin/jobs/stats", headers=admin),
        await client.post(f"{path}/retry", headers=admin),
        await client.post(
            "/admin/api-keys", json={"name": "n", "scopes": ["jobs:read"]}, headers=admin
        ),
        await client.post(
            "/reminders",
            json={
                "message": "m",
                "send_at": "2030-01-01T09:00:00+02:00",
                "channel": "log",
                "recipient": "ada",
            },
            headers=admin,
        ),
    ]
    for answer in answers:
        assert answer.is_success, answer.text
        times = re.findall(r'"(\d{4}-\d\d-\d\dT[^"]+)"', answer.text)
        assert times
        assert all(time.endswith("Z") for time in times), times
    # Those of the history too: what a handler raised, and what SQL wrote of the retry.
    assert [entry["event"] for entry in answers[5].json()["errors"]] == ["error", "manual_retry"]


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "DELETE"])
@pytest.mark.parametrize("path", ["/admin/jobs/retry", "/admin/jobs/1x", "/jobs/retry"])
async def test_a_word_instead_of_an_id_is_named(
    client: httpx.AsyncClient, operator: dict[str, str], path: str, method: str
) -> None:
    answer = await client.request(method, path, headers=operator)
    assert answer.status_code in (404, 422)
    problem = assert_problem(answer, answer.status_code)
    assert "such as 42" in problem["detail"]
