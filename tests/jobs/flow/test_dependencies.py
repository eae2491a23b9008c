"""Jobs that run after other jobs, on a real worker."""

import asyncio
import time
from typing import Any

import pytest
from sqlalchemy.ext.asyncio import AsyncSession

from service.db.engine import Database
from service.errors import InvalidInput
from service.jobs import (
    JobContext,
    JobId,
    NewJob,
    PermanentError,
    Registry,
    cancel_job,
    delete_job,
    enqueue,
    enqueue_batch,
    enqueue_chain,
    enqueue_many,
    process_due_jobs,
    retry_dead_letter_job,
)
from service.jobs.handlers.parents import ParentJob
from service.jobs.maintenance.leader import Leader
from tests.jobs.conftest import Put, Quick, StartWorker
from tests.jobs.waiting import ENDED, occurs, until, until_ended, until_job

FAR: Any = {"delay_seconds": 3600}


@pytest.fixture
def order(handlers: Registry) -> list[str]:
    """The names of the jobs that ran, in order; "bad" fails while it is there."""
    ran: list[str] = []

    @handlers.handler("step", max_retries=0)
    async def step(payload: Any) -> dict[str, Any]:
        if payload.get("fails"):
            raise PermanentError("as told")
        ran.append(payload["name"])
        return {"of": payload["name"]}

    return ran


async def row(sql: Any, job_id: JobId) -> Any:
    return await sql.fetchrow("SELECT * FROM background_jobs WHERE id = $1", job_id)


async def leftovers(sql: Any) -> int:
    count: int = await sql.fetchval("SELECT count(*) FROM job_endings")
    return count


async def settled(sql: Any) -> None:
    """Wait until no end waits for anybody."""

    async def none_left() -> bool:
        return await leftovers(sql) == 0

    await until(none_left)


async def test_a_child_starts_once_its_parents_have_succeeded(
    order: list[str], put: Put, sql: Any, start_worker: StartWorker
) -> None:
    first = await put("step", {"name": "first"})
    second = await put("step", {"name": "second"})
    child = await put("step", {"name": "child"}, after=[first, second, first])
    held = await row(sql, child)
    assert (held["status"], held["held_for"]) == ("PENDING", "after")
    assert held["held_due_at"] <= held["held_since"]
    await start_worker()
    job = await until_ended(sql, child)
    assert job["status"] == "SUCCESS"
    assert order[-1] == "child"
    assert sorted(order) == ["child", "first", "second"]
    assert (job["held_for"], job["held_due_at"]) == (None, None)
    await settled(sql)


async def test_a_parent_that_ended_before_counts_at_once(
    order: list[str], put: Put, sql: Any, start_worker: StartWorker
) -> None:
    parent = await put("step", {"name": "parent"})
    await start_worker()
    await until_ended(sql, parent)
    child = await put("step", {"name": "child"}, after=[parent], **FAR)
    assert (await row(sql, child))["held_for"] is None
    [link] = await sql.fetch("SELECT * FROM job_dependencies")
    assert (link["outcome"], link["met"]) == ("SUCCESS", True)


async def test_a_parent_that_runs_when_it_is_named_is_not_locked_and_not_missed(
    handlers: Registry, put: Put, sql: Any, session: AsyncSession, start_worker: StartWorker
) -> None:
    begun, go = asyncio.Event(), asyncio.Event()

    @handlers.handler("waits")
    async def waits(payload: Any) -> None:
        begun.set()
        await go.wait()

    @handlers.handler("child")
    async def run(payload: Any) -> None: ...

    parent = await put("waits")
    await start_worker()
    await occurs(begun)
    async with session.begin():
        child = (await enqueue(session, "child", after=[parent])).id
        go.set()
        # It is settled while the caller's transaction is open.
        assert (await until_ended(sql, parent))["status"] == "SUCCESS"
    assert (await until_ended(sql, child))["status"] == "SUCCESS"


async def test_a_parent_that_fails_cancels_its_children_and_theirs(
    order: list[str], put: Put, sql: Any, start_worker: StartWorker
) -> None:
    parent = await put("step", {"fails": True})
    other = await put("step", {"name": "other"}, **FAR)
    child = await put("step", {"name": "child"}, after=[parent, other])
    grandchild = await put("step", {"name": "grandchild"}, after=[child])
    await start_worker()
    job = await until_ended(sql, grandchild)
    assert job["status"] == "CANCELLED"
    assert job["errors"][-1]["event"] == "parent_failed"
    assert job["errors"][-1]["parent_id"] == child
    cancelled = await row(sql, child)
    assert cancelled["status"] == "CANCELLED"
    assert f"job {parent}," in cancelled["errors"][-1]["message"]
    assert cancelled["next_run_at"] < cancelled["finished_at"]
    assert order == []


async def test_a_child_that_runs_whatever_becomes_of_its_parents_waits_for_all_of_them(
    order: list[str], put: Put, sql: Any, start_worker: StartWorker
) -> None:
    bad = await put("step", {"fails": True})
    good = await put("step", {"name": "good"}, delay_seconds=0.3)
    child = await put("step", {"name": "child"}, after=[bad, good], on_parent_failure="run")
    await start_worker()
    await until_ended(sql, child)
    assert order == ["good", "child"]


async def test_a_held_child_goes_once_its_parent_is_retried_and_succeeds(
    order: list[str], put: Put, sql: Any, session: AsyncSession, start_worker: StartWorker
) -> None:
    parent = await put("step", {"name": "parent", "fails": True})
    child = await put("step", {"name": "child"}, after=[parent], on_parent_failure="hold")
    await start_worker()
    await until_ended(sql, parent)
    late = await put("step", {"name": "late"}, after=[parent], on_parent_failure="hold")
    await settled(sql)
    assert (await row(sql, child))["held_for"] == "after"
    await sql.execute('UPDATE jobs_dead SET payload = \'{"name": "parent"}\'')
    async with session.begin():
        await retry_dead_letter_job(session, parent)
    await until_ended(sql, child)
    await until_ended(sql, late)
    assert order[0] == "parent"
    assert sorted(order[1:]) == ["child", "late"]


@pytest.mark.parametrize("policy", ["cancel", "hold"])
@pytest.mark.parametrize("act", [cancel_job, delete_job])
@pytest.mark.usefixtures("order")
async def test_a_parent_that_is_cancelled_or_deleted_cancels_its_children(
    put: Put, sql: Any, session: AsyncSession, start_worker: StartWorker,
    database: Database, quick: Quick, act: Any, policy: str,
) -> None:  # fmt: skip
    """At once, and not by the leader's round: here nobody's is."""
    leader = Leader(database, quick())
    assert await leader.lead()
    parent = await put("step", {"name": "parent"}, **FAR)
    child = await put("step", {"name": "child"}, after=[parent], on_parent_failure=policy)
    await start_worker()
    async with session.begin():
        await act(session, parent)
    assert (await until_ended(sql, child))["status"] == "CANCELLED"
    await leader.close()


async def test_a_parent_that_is_deleted_after_its_success_counts_as_successful(
    order: list[str], put: Put, sql: Any, session: AsyncSession, start_worker: StartWorker
) -> None:
    parent = await put("step", {"name": "parent"})
    child = await put("step", {"name": "child"}, after=[parent])
    await sql.execute(
        "WITH gone AS (DELETE FROM jobs_live WHERE id = $1 RETURNING *)"
        " INSERT INTO background_jobs (id, job_type, queue, payload, status, has_children, finished_at)"
        " SELECT id, job_type, queue, payload, 'SUCCESS', has_children, now() FROM gone",
        parent,
    )
    await sql.execute("INSERT INTO job_endings (job_id, status) VALUES ($1, 'SUCCESS')", parent)
    async with session.begin():
        await delete_job(session, parent)
    await start_worker()
    assert (await until_ended(sql, child))["status"] == "SUCCESS"


async def test_a_child_that_runs_although_it_was_held_is_left_alone(
    handlers: Registry, order: list[str], put: Put, sql: Any, session: AsyncSession,
    start_worker: StartWorker,
) -> None:  # fmt: skip
    begun, go_on = asyncio.Event(), asyncio.Event()

    @handlers.handler("slow")
    async def slow(payload: Any) -> None:
        begun.set()
        await go_on.wait()

    parent = await put("step", {"name": "parent"}, **FAR)
    child = await put("slow", after=[parent])
    await sql.execute("UPDATE jobs_live SET next_run_at = now() WHERE id = $1", child)
    await start_worker()
    await occurs(begun)
    async with session.begin():
        await cancel_job(session, parent)
    await settled(sql)
    go_on.set()
    assert (await until_ended(sql, child))["status"] == "SUCCESS"


async def test_a_child_of_a_parent_that_had_failed_before_is_cancelled_a_moment_later(
    order: list[str], put: Put, sql: Any, start_worker: StartWorker
) -> None:
    parent = await put("step", {"fails": True})
    await start_worker()
    await until_ended(sql, parent)
    child = await put("step", {"name": "child"}, after=[parent])
    assert (await until_ended(sql, child))["status"] == "CANCELLED"


async def test_unknown_parents_are_named_and_nothing_is_enqueued(put: Put, sql: Any) -> None:
    known = await put("step")
    with pytest.raises(
        InvalidInput, match=r"after names jobs that do not exist.*: 97, 98"
    ) as error:
        await put("step", after=[97, known, 98])
    assert error.value.field == "after"
    assert await sql.fetchval("SELECT count(*) FROM background_jobs") == 1


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"after": [0]}, "after"),
        ({"after": ["1"]}, "after"),
        ({"after": "12"}, "after"),
        ({"after": list(range(1, 10_002))}, "after"),
        ({"after": [1], "on_parent_failure": "ignore"}, "on_parent_failure"),
        ({"on_parent_failure": "run"}, "on_parent_failure"),
    ],
)
async def test_bad_parents_are_refused_by_name(
    put: Put, sql: Any, options: dict[str, Any], field: str
) -> None:
    with pytest.raises(InvalidInput) as error:
        await put("step", **options)
    assert error.value.field == field


async def test_many_jobs_in_a_stream_cannot_name_parents(sql: Any) -> None:
    with pytest.raises(InvalidInput, match="enqueue_batch"):
        await enqueue_many(sql, [NewJob("step", after=[1])])


async def test_a_chain_runs_in_its_order_and_ends_with_the_first_that_fails(
    order: list[str], sql: Any, session: AsyncSession, start_worker: StartWorker
) -> None:
    names = ["a", "b", "c", "d", "e"]
    async with session.begin():
        good = await enqueue_chain(session, [NewJob("step", {"name": name}) for name in names])
        payloads = [{"name": "x"}, {"name": "y", "fails": True}, {"name": "z"}]
        bad = await enqueue_chain(session, [NewJob("step", payload) for payload in payloads])
    await start_worker()
    await until_ended(sql, good[-1].id)
    assert [name for name in order if name in names] == names
    assert (await until_ended(sql, bad[-1].id))["status"] == "CANCELLED"
    assert "z" not in order


async def test_a_child_keeps_its_own_due_time(
    order: list[str], put: Put, sql: Any, start_worker: StartWorker
) -> None:
    parent = await put("step", {"name": "parent"})
    child = await put("step", {"name": "child"}, after=[parent], **FAR)
    due = (await row(sql, child))["held_due_at"]
    await start_worker()
    free = await until_job(sql, child, where="held_for IS NULL")
    assert (free["status"], free["next_run_at"]) == ("PENDING", due)


async def test_a_child_that_somebody_has_locked_goes_later_and_holds_nobody_up(
    order: list[str], put: Put, sql: Any, session: AsyncSession, start_worker: StartWorker,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr("service.jobs.flow.endings.AGAIN_SECONDS", 0.2)
    parent = await put("step", {"name": "parent"})
    locked = await put("step", {"name": "locked"}, after=[parent])
    free = await put("step", {"name": "free"}, after=[parent])
    async with session.begin():
        await cancel_job(session, locked)  # rolled back below
        await start_worker()
        await until_ended(sql, free)
        await session.rollback()
    assert (await until_ended(sql, locked))["status"] == "SUCCESS"


async def test_a_handler_reads_what_became_of_its_parents_page_by_page(
    handlers: Registry, put: Put, sql: Any, start_worker: StartWorker,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr("service.jobs.handlers.parents.MAX_PARENTS_PAGE", 2)
    seen: dict[str, list[ParentJob]] = {}

    @handlers.handler("number", max_retries=0)
    async def number(payload: Any) -> int:
        if payload["n"] == 2:
            raise PermanentError("two")
        return 10 * int(payload["n"])

    @handlers.handler("sum")
    async def total(payload: Any, ctx: JobContext) -> None:
        page = await ctx.parents()
        seen["async"] = page[:]
        while page := await ctx.parents(after_id=page[-1].id):
            seen["async"] += page

    @handlers.handler("plain")
    def plain(payload: Any, ctx: JobContext) -> None:
        seen["sync"] = ctx.parents_sync()

    ids = [await put("number", {"n": n}) for n in (1, 2, 3)]
    async_id = await put("sum", after=ids, on_parent_failure="run")
    sync_id = await put("plain", after=ids[:1])
    await start_worker()
    await until_ended(sql, async_id)
    await until_ended(sql, sync_id)
    told = [(one.id, one.job_type, one.status, one.result) for one in seen["async"]]
    assert told == [
        (ids[0], "number", "SUCCESS", 10),
        (ids[1], "number", "FAILED", None),
        (ids[2], "number", "SUCCESS", 30),
    ]
    assert [one.result for one in seen["sync"]] == [10]


@pytest.mark.whole
async def test_ten_thousand_parents_let_their_child_go_once_and_soon(
    handlers: Registry, put: Put, sql: Any, session: AsyncSession, start_worker: StartWorker
) -> None:
    runs: list[float] = []
    last = [0.0]

    @handlers.handler("part")
    async def part(payload: Any) -> None:
        last[0] = time.monotonic()

    @handlers.handler("whole")
    async def whole(payload: Any) -> None:
        runs.append(time.monotonic())

    async with session.begin():
        parts: list[JobId] = []
        for _ in range(10):
            made = await enqueue_batch(session, [NewJob("part") for _ in range(1_000)])
            parts += [job.id for job in made]
        child = (await enqueue(session, "whole", after=parts)).id
    await start_worker()
    await until(lambda: _has_ended(sql, child), seconds=60)
    assert len(runs) == 1
    assert runs[0] - last[0] < 2.0
    await settled(sql)
    assert await sql.fetchval("SELECT count(*) FROM job_dependencies WHERE met") == 10_000


@pytest.mark.whole
async def test_one_parent_lets_a_hundred_thousand_children_go_in_parts(
    handlers: Registry, put: Put, sql: Any, start_worker: StartWorker
) -> None:
    @handlers.handler("parent")
    async def parent(payload: Any) -> None: ...

    first = await put("parent")
    await sql.execute("UPDATE jobs_live SET has_children = true")
    await sql.execute(
        "INSERT INTO jobs_live (job_type, payload, next_run_at, held_for, held_since, held_due_at,"
        " lease_token) SELECT 'nobody', '{}', 'infinity', 'after', now(), now(), 0"
        " FROM generate_series(1, 100000)"
    )
    await sql.execute(
        "INSERT INTO job_dependencies (parent_id, child_id, on_parent_failure)"
        " SELECT $1, id, 'cancel' FROM jobs_live WHERE held_for = 'after'",
        first,
    )
    await start_worker()

    async def all_gone() -> bool:
        left = await sql.fetchval("SELECT count(*) FROM jobs_live WHERE held_for = 'after'")
        return bool(left == 0)

    await until(all_gone, seconds=60)
    assert await sql.fetchval("SELECT count(*) FROM jobs_live") == 100_000


async def _has_ended(sql: Any, job_id: JobId) -> bool:
    status: str = (await row(sql, job_id))["status"]
    return status in ENDED


async def test_one_pass_without_a_worker_runs_a_whole_chain(
    order: list[str], database: Database, handlers: Registry, session: AsyncSession, quick: Quick
) -> None:
    async with session.begin():
        await enqueue_chain(session, [NewJob("step", {"name": name}) for name in "abc"])
    summary = await process_due_jobs(database, handlers=handlers, settings=quick())
    assert (order, summary.succeeded) == (["a", "b", "c"], 3)
