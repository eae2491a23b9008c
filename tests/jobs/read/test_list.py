"""Lists, one job and statistics: right at every size, and served by indexes on every partition."""

from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncSession

from service.db.engine import Database
from service.db.session import bound_queries
from service.errors import NotFound
from service.jobs.core.filters import JobFilters
from service.jobs.core.job import DEAD, DONE, LIVE, MAX_ID, JobId, JobStatus
from service.jobs.core.payload_field import PayloadField
from service.jobs.read import list as lists
from service.jobs.read.get import get_job
from service.jobs.read.list import count_newer, list_jobs
from service.jobs.store import listing
from service.jobs.store.listing_index import is_driven
from tests.jobs.rows import add

NOW = datetime.now(UTC)

FILL = """
INSERT INTO background_jobs (id, job_type, queue, priority, status, created_at, next_run_at,
  finished_at, last_error, unique_key, fingerprint)
SELECT g, CASE WHEN g % 500 = 9 THEN 'rare' ELSE 'type-' || g % 20 END,
  CASE WHEN g % 500 = 9 THEN 'aside' ELSE 'queue-' || g % 5 END, g % 10, :status,
  now() - interval '1 s' * (:last - g), now() - interval '1 s' * (:last - g), now(),
  CASE WHEN g % 1000 = 7 THEN 'ValueError: 100% of_it \\ lost ' || g END,
  CASE WHEN g % 10 = 3 THEN 'key-' || g END,
  CASE WHEN :status IN ('FAILED', 'DEAD_LETTER') THEN 'cause-' || g % 12 END
FROM generate_series(CAST(:first AS bigint), CAST(:last AS bigint)) g"""


@pytest.fixture(autouse=True)
def _as_of_this_test() -> None:
    """The tests of a run that takes minutes are collected before the first of them."""
    global NOW  # noqa: PLW0603 - read by helpers all over this file
    NOW = datetime.now(UTC)


async def fill(session: AsyncSession, *, first: int, last: int, status: str) -> None:
    await session.execute(text(FILL), {"first": first, "last": last, "status": status})


@pytest.fixture
async def filled(database: Database) -> AsyncIterator[AsyncSession]:
    """50,000 finished jobs on three leaves, 5,000 dead ones, 5,000 live ones; analysed."""
    async with database.sessions() as session:
        for name, days in (("jobs_done_a", 3), ("jobs_done_b", 2)):
            await session.execute(
                text(
                    f"CREATE TABLE {name} PARTITION OF jobs_done FOR VALUES "
                    f"FROM ('{(NOW - timedelta(days=days)).isoformat()}') "
                    f"TO ('{(NOW - timedelta(days=days - 1)).isoformat()}')"
                )
            )
            await session.execute(text(f"ALTER TABLE {name} ADD PRIMARY KEY (id)"))
        await fill(session, first=1, last=49_000, status="SUCCESS")
        await fill(session, first=49_001, last=50_000, status="CANCELLED")
        await fill(session, first=50_001, last=54_500, status="DEAD_LETTER")
        await fill(session, first=54_501, last=55_000, status="FAILED")
        await fill(session, first=55_001, last=60_000, status="PENDING")
        for start, ago in ((1, 2.5), (15_001, 1.5)):
            await session.execute(
                text(
                    "UPDATE background_jobs SET finished_at = :at, created_at = created_at - "
                    "interval '3 days', next_run_at = next_run_at - interval '3 days' "
                    "WHERE status = 'SUCCESS' AND id BETWEEN :first AND :first + 14999"
                ),
                {"at": NOW - timedelta(days=ago), "first": start},
            )
        await session.commit()
        connection = await session.connection(execution_options={"isolation_level": "AUTOCOMMIT"})
        await connection.execute(text("VACUUM ANALYZE background_jobs"))
        await session.commit()
        yield session


def scans(plan: dict[str, Any]) -> Iterator[tuple[str, str | None]]:
    """Every node of a plan that reads a table: what it is, and of which table."""
    if plan["Node Type"].endswith("Scan") and "Relation Name" in plan:
        yield plan["Node Type"], plan["Relation Name"]
    for child in plan.get("Plans", ()):
        yield from scans(child)


async def explain(session: AsyncSession, filters: JobFilters, **step: int) -> dict[str, Any]:
    statement, values = listing.look_sql(filters)
    row = await session.execute(
        text(f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {statement.text}"),
        values | {"before": MAX_ID, "above": -1, "scan": 250, "want": 51} | step,
    )
    return row.scalar_one()[0]["Plan"]  # type: ignore[no-any-return]


def _filters_of(group: frozenset[JobStatus]) -> list[tuple[str, dict[str, Any]]]:
    """Every look-up of an operator, on one partition."""
    return [
        ("all", {"statuses": group}),
        *(
            (f"{status}-due", {"statuses": {status}, "due_before": NOW - timedelta(hours=1)})
            for status in sorted(group)
        ),
        *((f"{status}", {"statuses": {status}}) for status in sorted(group)),
        ("job_type", {"statuses": group, "job_type": "type-7"}),
        ("rare-job_type", {"statuses": group, "job_type": "rare"}),
        ("queue", {"statuses": group, "queue": "queue-3"}),
        ("rare-queue", {"statuses": group, "queue": "aside"}),
        ("unique_key", {"statuses": group, "unique_key": "key-13"}),
        ("concurrency_key", {"statuses": group, "concurrency_key": "k"}),
        ("created", {"statuses": group, "created_after": NOW - timedelta(hours=2)}),
        ("priority", {"statuses": group, "priority": 4}),
        ("error", {"statuses": group, "error": "100%"}),
        ("ids", {"statuses": group, "ids": {7, 50_007, 55_007}}),
        ("idempotency_key", {"statuses": group, "idempotency_key": "order-1"}),
        ("payload", {"statuses": group, "payload": (PayloadField(("a",), "1"),)}),
    ]


LOOKUPS = [
    (f"{name}-{label}", JobFilters(**filters), group)
    for group, name in ((LIVE, "live"), (DEAD, "dead"), (DONE, "done"))
    for label, filters in _filters_of(group)
] + [(f"held-{name}", JobFilters(held_for=name), LIVE) for name in ("*", "key", "key:k")]


@pytest.mark.whole
async def test_no_look_up_reads_a_partition_from_end_to_end(filled: AsyncSession) -> None:
    """Every filter on every partition, as planned for its values and as planned for any."""
    for mode in ("force_custom_plan", "force_generic_plan"):
        await filled.execute(text(f"SET LOCAL plan_cache_mode = {mode}"))
        for case, filters, group in LOOKUPS:
            plan = await explain(filled, filters)
            found = list(scans(plan))
            assert found, (mode, case)
            assert all(kind != "Seq Scan" for kind, _ in found), (mode, case, found)
            leaves = {LIVE: "jobs_live", DEAD: "jobs_dead", DONE: "jobs_done"}[group]
            mine = (leaves, "idempotency_keys")
            assert all(str(name).startswith(mine) for _, name in found), (mode, case, found)


@pytest.mark.whole
async def test_a_step_of_a_driven_look_up_reads_no_more_rows_than_it_returns(
    filled: AsyncSession,
) -> None:
    await listing.plan_by_index(filled)
    for filters in (
        JobFilters(),
        JobFilters(statuses=DONE, job_type="rare"),
        JobFilters(statuses=DONE, queue="aside"),
        JobFilters(statuses=DEAD, job_type="rare"),
        JobFilters(statuses=DEAD, queue="aside"),
        JobFilters(statuses={JobStatus.FAILED}),
        JobFilters(statuses={JobStatus.CANCELLED}),
        JobFilters(unique_key="key-13"),
        JobFilters(unique_key="nobodys"),
        JobFilters(ids={7, 50_007, 55_007, 99_999}),
        JobFilters(idempotency_key="order-1"),
        JobFilters(fingerprint="cause-7"),
    ):
        assert is_driven(filters), filters
        plan = await explain(filled, filters, scan=51)
        # 51 rows, each a heap page at worst and a few index pages for every leaf.
        touched = plan["Shared Hit Blocks"] + plan["Shared Read Blocks"]
        assert touched < 200, (filters, touched)
        assert removed(plan) == 0, filters


def removed(plan: dict[str, Any]) -> int:
    own = int(plan.get("Rows Removed by Filter", 0))
    return own + sum(removed(child) for child in plan.get("Plans", ()))


@pytest.mark.whole
async def test_jobs_of_one_name_are_never_looked_for_among_those_of_others(
    filled: AsyncSession,
) -> None:
    """However many are asked for, and however expensive the planner expects scattered rows to be."""
    await listing.plan_by_index(filled)
    await filled.execute(text("SET LOCAL random_page_cost = 40"))
    for mode in ("force_custom_plan", "force_generic_plan"):
        await filled.execute(text(f"SET LOCAL plan_cache_mode = {mode}"))
        for statuses in (DEAD, DONE):
            for names in ({"job_type": "type-7"}, {"queue": "queue-3"}, {"job_type": "nobodys"}):
                filters = JobFilters(statuses=statuses, **names)  # type: ignore[arg-type]
                plan = await explain(filled, filters, scan=16_000)
                assert removed(plan) == 0, (mode, names)


@pytest.mark.whole
async def test_a_count_reads_no_partition_from_end_to_end(
    filled: AsyncSession,
) -> None:
    await listing.plan_by_index(filled)
    await filled.execute(text("SET LOCAL random_page_cost = 40"))
    for filters in (JobFilters(), JobFilters(statuses=LIVE), JobFilters(priority=4)):
        statement, values = listing.count_sql(filters)
        row = await filled.execute(
            text(f"EXPLAIN (ANALYZE, FORMAT JSON) {statement.text}"),
            values | {"before": MAX_ID, "above": -1, "scan": 100_000},
        )
        found = list(scans(row.scalar_one()[0]["Plan"]))
        assert found
        assert all("Index" in kind for kind, _ in found), (filters, found)


@pytest.mark.whole
async def test_every_job_is_on_exactly_one_page_and_newest_come_first(filled: AsyncSession) -> None:
    filters = JobFilters(queue="queue-3", priority=8)
    seen: list[int] = []
    before: JobId | None = None
    while True:
        page = await list_jobs(filled, filters, limit=200, before_id=before)
        seen += [job.id for job in page.jobs]
        before = page.next_before_id
        if before is None:
            break
    expected = (
        await filled.scalars(
            text(
                "SELECT id FROM background_jobs WHERE queue = 'queue-3' AND priority = 8 "
                "ORDER BY id DESC"
            )
        )
    ).all()
    assert len(expected) == 6000
    assert seen == list(expected)


@pytest.mark.whole
async def test_matches_far_from_the_top_fill_the_page(filled: AsyncSession) -> None:
    page = await list_jobs(filled, JobFilters(error="lost 7"), limit=3)
    expected = [
        job_id for job_id in range(59_007, 0, -1000) if f"lost {job_id}".startswith("lost 7")
    ]
    assert [job.id for job in page.jobs] == expected == [7007, 7]
    assert page.next_before_id is None
    assert (page.total, page.total_exact) == (2, True)


@pytest.mark.whole
async def test_a_page_out_of_time_comes_short_with_a_cursor(
    filled: AsyncSession,
) -> None:
    filters = JobFilters(error="lost 7007")
    page = await list_jobs(filled, filters, limit=10, scan_seconds=0.0)
    assert page.jobs == []
    steps = 1
    while page.next_before_id is not None and not page.jobs:
        page = await list_jobs(
            filled, filters, limit=10, before_id=page.next_before_id, scan_seconds=0.0
        )
        steps += 1
        assert steps < 1000
    assert [job.id for job in page.jobs] == [7007]
    assert steps > 2


async def test_creation_times_say_where_to_look_in_a_large_table(
    filled: AsyncSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lists, "JUMP_AFTER", 1)
    after = NOW - timedelta(days=3, hours=13)
    before = NOW - timedelta(days=3, hours=12)
    condition = "created_at >= :after AND created_at < :before"
    expected = (
        await filled.scalars(
            text(f"SELECT id FROM background_jobs WHERE {condition} ORDER BY id DESC LIMIT 50"),
            {"after": after, "before": before},
        )
    ).all()
    assert len(expected) == 50
    looked: list[int] = []
    original = lists._narrow

    async def narrow(*args: Any, **kwargs: Any) -> tuple[int, int]:
        bounds = await original(*args, **kwargs)
        looked.append(bounds[0] - bounds[1])
        return bounds

    monkeypatch.setattr(lists, "_narrow", narrow)
    page = await list_jobs(filled, JobFilters(created_after=after, created_before=before), limit=50)
    assert [job.id for job in page.jobs] == list(expected)
    # An hour of jobs, one a second, and the slack of an hour on both sides.
    assert looked
    assert 3600 <= looked[0] <= 3 * 3600 + 60


async def test_a_text_of_errors_is_looked_for_in_jobs_that_failed_alone(
    filled: AsyncSession,
) -> None:
    plan = await explain(filled, JobFilters(statuses=DONE, error="lost 7"), scan=4000)
    assert looked_at(plan) == 50
    assert removed(plan) <= 50


def looked_at(plan: dict[str, Any]) -> int:
    """Rows that the scans of tables gave."""
    own = int(plan["Actual Rows"]) if "Relation Name" in plan else 0
    return own + sum(looked_at(child) for child in plan.get("Plans", ()))


async def test_days_before_a_job_was_due_are_not_read_for_those_that_succeeded(
    filled: AsyncSession,
) -> None:
    due = JobFilters(statuses=DONE, due_after=NOW + timedelta(days=1))
    for mode in ("force_custom_plan", "force_generic_plan"):
        await filled.execute(text(f"SET LOCAL plan_cache_mode = {mode}"))
        for names in ({}, {"job_type": "type-7"}, {"queue": "queue-3"}, {"error": "lost"}):
            succeeded = replace(due, statuses={JobStatus.SUCCESS}, **names)  # type: ignore[arg-type]
            found = set(scans(await explain(filled, succeeded)))
            assert {name for _, name in found} == {"jobs_done_default"}, (mode, names)
            # Of those days cancelled jobs alone are looked at: here there are none.
            plan = await explain(filled, replace(due, **names))  # type: ignore[arg-type]
            days = [node for node in nodes(plan) if "Relation Name" in node]
            days = [node for node in days if node["Relation Name"] != "jobs_done_default"]
            assert len(days) == 2, (mode, names)
            assert sum(looked_at(node) + removed(node) for node in days) == 0, (mode, names)


def nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for child in plan.get("Plans", ()):
        yield from nodes(child)


@pytest.mark.whole
async def test_a_look_by_due_time_finds_jobs_however_they_ended(filled: AsyncSession) -> None:
    """Cancelled days before they were due, or settled by a clock that was set back meanwhile."""
    ago = {"finished_at": NOW - timedelta(days=2.5), "job_type": "late"}
    later = NOW + timedelta(days=9)
    cancelled = await add(filled, id=70_001, status="CANCELLED", next_run_at=later, **ago)
    scheduled = await add(filled, id=70_002, next_run_at=later, job_type="late")
    midnight = NOW.replace(hour=0, minute=0, second=0, microsecond=0)
    succeeded = await add(
        filled,
        id=70_003,
        status="SUCCESS",
        job_type="late",
        next_run_at=midnight,
        finished_at=midnight - timedelta(minutes=50),
    )
    await add(filled, id=70_004, status="SUCCESS", next_run_at=ago["finished_at"], **ago)
    for after, expected in (
        (later, [scheduled, cancelled]),
        (midnight, [succeeded, scheduled, cancelled]),
    ):
        for names in ({}, {"job_type": "late"}, {"queue": "default"}):
            filters = JobFilters(due_after=after, priority=2, **names)  # type: ignore[arg-type]
            page = await list_jobs(filled, filters, limit=200, scan_seconds=60)
            found = [job.id for job in page.jobs if job.job_type == "late"]
            assert found == expected, (after, names)


@pytest.mark.whole
async def test_a_look_by_due_time_gives_the_same_pages_in_every_way(filled: AsyncSession) -> None:
    after = NOW - timedelta(days=2, hours=30)
    await filled.execute(
        text("UPDATE background_jobs SET finished_at = :at WHERE id BETWEEN 49001 AND 49300"),
        {"at": NOW - timedelta(days=2.5)},
    )
    statement = text(
        "SELECT id FROM background_jobs WHERE next_run_at >= :after AND priority = 4"
        " ORDER BY id DESC"
    )
    expected = list((await filled.scalars(statement, {"after": after})).all())
    seen: list[int] = []
    before: JobId | None = None
    while True:
        filters = JobFilters(due_after=after, priority=4)
        page = await list_jobs(filled, filters, limit=200, before_id=before)
        seen += [job.id for job in page.jobs]
        before = page.next_before_id
        if before is None:
            break
    assert len(expected) > 2000
    assert seen == expected


@pytest.mark.whole
async def test_a_total_that_was_never_counted_is_not_called_exact(filled: AsyncSession) -> None:
    page = await list_jobs(filled, JobFilters(statuses={JobStatus.SUCCESS}), limit=10)
    assert len(page.jobs) == 10
    assert (page.total, page.total_exact) == (11, False)


@pytest.mark.whole
async def test_one_job_is_found_by_primary_keys_alone(filled: AsyncSession) -> None:
    row = await filled.execute(
        text("EXPLAIN (FORMAT JSON) SELECT * FROM background_jobs WHERE id = 777")
    )
    found = list(scans(row.scalar_one()[0]["Plan"]))
    assert {kind for kind, _ in found} == {"Index Scan"}
    for job_id, status in ((777, "SUCCESS"), (49_777, "CANCELLED"), (54_777, "FAILED")):
        assert (await get_job(filled, JobId(job_id))).status == status


async def test_a_job_that_is_not_there_is_not_found(session: AsyncSession) -> None:
    with pytest.raises(NotFound, match="999"):
        await get_job(session, JobId(999))


async def test_a_job_read_again_shows_what_was_written_meanwhile(session: AsyncSession) -> None:
    job_id = await add(session)
    assert (await get_job(session, job_id)).attempts == 0
    await session.execute(text("UPDATE background_jobs SET attempts = 3"))
    assert (await get_job(session, job_id)).attempts == 3


async def test_bounded_queries_end_at_their_limit(session: AsyncSession) -> None:
    before = await session.scalar(text("SHOW statement_timeout"))
    await bound_queries(session, 0.05)
    with pytest.raises(DBAPIError, match="statement timeout"):
        await session.execute(text("SELECT pg_sleep(20)"))
    await session.rollback()
    # The limit went with its transaction.
    assert await session.scalar(text("SHOW statement_timeout")) == before


async def test_days_on_which_no_job_that_is_asked_for_ended_are_not_read(
    filled: AsyncSession,
) -> None:
    since = JobFilters(statuses=DONE, finished_after=NOW + timedelta(days=2))
    until = JobFilters(statuses=DONE, finished_before=NOW - timedelta(days=30))
    for mode in ("force_custom_plan", "force_generic_plan"):
        await filled.execute(text(f"SET LOCAL plan_cache_mode = {mode}"))
        for filters in (since, until):
            for names in ({}, {"job_type": "type-7"}, {"queue": "queue-3"}, {"error": "lost"}):
                asked = replace(filters, **names)  # type: ignore[arg-type]
                found = {name for _, name in scans(await explain(filled, asked))}
                assert found <= {"jobs_done_default"}, (mode, asked)


PAYLOADS: list[object] = [
    {"user": {"id": 1}},
    {"user": {"id": "1"}},
    {"user": {"id": 1.0, "name": "Ada L."}},
    {"user": {"id": 12}},
    {"user": [{"id": 1}]},
    {"user": 1},
    {"user": {"id": True}},
    {"user": {"id": None}},
    {"user": {"id": "true"}},
    ["a", {"id": 1}],
    "text",
    1,
]


async def payload_matches(session: AsyncSession, *fields: str) -> list[int]:
    asked = tuple(map(PayloadField.parse, fields))
    page = await list_jobs(session, JobFilters(payload=asked), limit=50, scan_seconds=60)
    assert page.complete
    assert page.total == len(page.jobs)
    return sorted(job.id for job in page.jobs)


async def test_a_payload_field_is_found_in_every_form_of_its_value(session: AsyncSession) -> None:
    for number, payload in enumerate(PAYLOADS):
        status = ("PENDING", "FAILED", "SUCCESS")[number % 3]
        await add(session, id=number + 1, payload=payload, status=status)
    found = {
        asked: await payload_matches(session, asked)
        for asked in (
            "user.id:1",
            'user.id:"1"',
            "user.id:true",
            "user.id:null",
            "user:1",
            "1.id:1",
        )
    }
    assert found == {
        "user.id:1": [1, 2, 3],
        'user.id:"1"': [2],
        "user.id:true": [7, 9],
        "user.id:null": [8],
        "user:1": [6],
        "1.id:1": [10],
    }
    assert await payload_matches(session, "user.0.id:1") == [5]
    assert await payload_matches(session, "user.id:1", "user.name:Ada L.") == [3]


async def test_large_numbers_of_a_payload_are_compared_exactly(session: AsyncSession) -> None:
    near = [9007199254740993, 9007199254740992]
    for number, value in enumerate(near, 1):
        await add(session, id=number, payload={"n": value})
    assert await payload_matches(session, f"n:{near[0]}") == [1]


async def test_jobs_are_found_by_their_ids_and_by_the_key_of_their_request(
    session: AsyncSession,
) -> None:
    for number in range(1, 7):
        await add(session, id=number, status=("PENDING", "FAILED", "SUCCESS")[number % 3])
    owners = [("ada", "{1,2}"), ("bob", "{3}"), ("eve", "{}")]
    for owner, job_ids in owners:
        await session.execute(
            text(
                "INSERT INTO idempotency_keys (owner, key, body_hash, job_ids)"
                " VALUES (:owner, 'order-1', '', CAST(CAST(:ids AS text) AS bigint[]))"
            ),
            {"owner": owner, "ids": job_ids},
        )
    for filters, expected in (
        (JobFilters(ids={1, 3, 5, 99}), [5, 3, 1]),
        (JobFilters(ids=set()), []),
        (JobFilters(ids={1, 3, 5}, statuses={JobStatus.FAILED}), [1]),
        (JobFilters(idempotency_key="order-1"), [3, 2, 1]),
        (JobFilters(idempotency_key="order-1", ids={2, 4}), [2]),
        (JobFilters(idempotency_key="order-2"), []),
    ):
        page = await list_jobs(session, filters, limit=50)
        assert [job.id for job in page.jobs] == expected, filters
        assert (page.total, page.total_exact) == (len(expected), True), filters


@pytest.mark.whole
async def test_a_page_out_of_time_says_that_it_is_not_complete(filled: AsyncSession) -> None:
    nobody = JobFilters(payload=(PayloadField(("a",), "1"),))
    page = await list_jobs(filled, nobody, limit=10, scan_seconds=0.0)
    assert (page.jobs, page.complete) == ([], False)
    assert 0 < page.looked < 1000
    page = await list_jobs(filled, nobody, limit=10, scan_seconds=60)
    assert (page.jobs, page.complete, page.looked) == ([], True, 60_000)


async def test_jobs_that_came_since_are_counted_up_to_a_cap(session: AsyncSession) -> None:
    for number in range(1, 8):
        await add(session, id=number, job_type="ab"[number % 2])
    assert await count_newer(session, JobFilters(job_type="a"), JobId(2), cap=10) == (2, True)
    assert await count_newer(session, JobFilters(), JobId(2), cap=3) == (3, False)
