"""What is owed for a job that has ended: its callback, once for each end, and the end of its result."""

import asyncio
from typing import Any

import pytest
from sqlalchemy.ext.asyncio import AsyncSession

from service.db.engine import Database
from service.errors import InvalidInput
from service.jobs import (
    NewJob,
    PermanentError,
    Registry,
    cancel_job,
    enqueue,
    enqueue_batch,
    retry_dead_letter_job,
    store,
)
from service.jobs.core.callback import MAX_RESULT_BYTES
from service.jobs.flow.endings import act
from service.jobs.flow.owed import pay
from service.jobs.maintenance import retention
from tests.jobs.conftest import Put, StartWorker
from tests.jobs.waiting import until, until_ended

URL = "https://shop.example.com/jobs?key=1"
CALLBACK = {"url": URL, "sign_with": "shop"}
CALLS = """
SELECT payload, queue, enqueued_by, status FROM background_jobs WHERE job_type = 'http.request' ORDER BY id"""

CALLED = "SELECT count(*) = $1 FROM jobs_live WHERE job_type = 'http.request'"


async def calls(sql: Any) -> list[dict[str, Any]]:
    rows = await sql.fetch(CALLS)
    return [row["payload"]["json"]["job"] for row in rows]


async def test_each_end_of_a_job_is_told_once(
    handlers: Registry, put: Put, sql: Any, session: AsyncSession, start_worker: StartWorker
) -> None:
    @handlers.handler("mail")
    async def handle(payload: dict[str, Any]) -> Any:
        if payload.get("fails"):
            raise PermanentError("no such address")
        result: Any = "x" * payload.get("size", 2)
        for _ in range(payload.get("depth", 0)):
            result = [result]
        return result

    good = await put("mail", {}, callback=CALLBACK)
    await put("mail", {"n": "tells nobody"})
    large = await put("mail", {"size": MAX_RESULT_BYTES + 1_000_000}, callback=CALLBACK)
    deep = await put("mail", {"depth": 700}, callback=CALLBACK)
    bad = await put("mail", {"fails": True}, callback=CALLBACK)
    await start_worker(max_payload_bytes=4_000_000)
    await until(lambda: sql.fetchval(CALLED, 4))
    found = {call["id"]: call for call in await calls(sql)}
    assert found[good]["status"] == "SUCCESS"
    assert (found[good]["result"], found[good]["attempts"]) == ("xx", 1)
    for left_out in (large, deep):
        assert (found[left_out]["result"], found[left_out]["result_left_out"]) == (None, True)
    assert (found[bad]["status"], found[bad]["result"]) == ("FAILED", None)
    assert "no such address" in found[bad]["last_error"]
    (first, *_) = await sql.fetch(CALLS)
    assert (first["payload"]["method"], first["payload"]["url"]) == ("POST", URL)
    assert first["payload"]["sign_with"] == "shop"
    async with session.begin():
        await retry_dead_letter_job(session, bad)
    await until(lambda: sql.fetchval(CALLED, 5))
    assert [call["id"] for call in await calls(sql)].count(bad) == 2
    assert await sql.fetchval("SELECT count(*) FROM job_endings") == 0


async def test_of_many_that_act_on_an_end_one_enqueues_its_callback(
    database: Database, sql: Any, session: AsyncSession
) -> None:
    async with session.begin():
        made = await enqueue_batch(session, [NewJob("mail", callback=CALLBACK) for _ in range(30)])
        for one in made:
            await cancel_job(session, one.id)
    links = [database.link() for _ in range(5)]
    taken = await store.dependencies.take_endings(links[0], limit=100, again_seconds=10)
    # Each is cut off behind what it paid, and before it drops the end.
    await asyncio.gather(*(pay(link, taken) for link in links))
    await sql.execute("UPDATE job_endings SET taken_at = NULL")
    for link in links:
        await act(link, max_errors=20)
        await link.close()
    assert sorted(call["id"] for call in await calls(sql)) == [one.id for one in made]
    assert {call["status"] for call in await calls(sql)} == {"CANCELLED"}


async def test_a_process_that_knows_no_callbacks_does_not_drop_them(
    database: Database, sql: Any, put: Put, session: AsyncSession
) -> None:
    job_id = await put("mail", callback=CALLBACK)
    async with session.begin():
        await cancel_job(session, job_id)
    link = database.link()
    taken = await store.dependencies.take_endings(link, limit=100, again_seconds=10)
    dropped, _ = await store.batches.settle_endings(link, [one.id for one in taken])
    assert dropped == set()  # of the version before: it acted on the end, and paid nothing
    await sql.execute("UPDATE job_endings SET taken_at = NULL")
    await act(link, max_errors=20)
    await link.close()
    assert [call["id"] for call in await calls(sql)] == [job_id]
    assert await sql.fetchval("SELECT count(*) FROM job_endings") == 0


async def test_a_callback_that_cannot_be_stored_keeps_no_other_from_its_turn(
    database: Database, sql: Any, put: Put, session: AsyncSession
) -> None:
    bad, good = await put("mail", callback=CALLBACK), await put("mail", callback=CALLBACK)
    await sql.execute(
        "UPDATE jobs_live SET callback = $2 WHERE id = $1", bad, {"url": "x" * 300_000}
    )
    async with session.begin():
        for one in (bad, good):
            await cancel_job(session, one)
    link = database.link()
    await act(link, max_errors=20)
    await link.close()
    assert [call["id"] for call in await calls(sql)] == [good]
    assert await sql.fetchval("SELECT count(*) FROM job_endings") == 0
    assert (
        await sql.fetchval("SELECT status FROM background_jobs WHERE id = $1", bad) == "CANCELLED"
    )


async def test_a_result_is_dropped_when_its_time_is_over_and_its_job_stays(
    handlers: Registry, put: Put, sql: Any, database: Database, start_worker: StartWorker
) -> None:
    @handlers.handler("mail")
    async def handle(_: Any) -> str:
        return "done"

    brief = await put("mail", result_ttl_seconds=3600.0)
    usual = await put("mail")
    worker = await start_worker()
    for job_id in (brief, usual):
        await until_ended(sql, job_id)
    await until(lambda: sql.fetchval("SELECT count(*) FROM result_drops"))
    await worker.stop()
    link = database.link()
    results = "SELECT result FROM background_jobs WHERE id = ANY ($1::bigint[]) ORDER BY id"
    for expected, hours in (("done", 0), (None, 2)):
        await sql.execute(
            "UPDATE result_drops SET drop_at = drop_at - $1 * interval '1 hour'", hours
        )
        await retention.drop_results(link)
        rows = await sql.fetch(results, [brief, usual])
        assert [row["result"] for row in rows] == [expected, "done"]
    assert await sql.fetchval("SELECT count(*) FROM result_drops") == 0
    await link.close()


@pytest.mark.parametrize(
    "callback",
    [
        "https://a.example", {}, {"url": 1}, {"url": "ftp://a.example"}, {"url": "https://"},
        {"url": "https://u:p@a.example"}, {"url": "https://a.example/#x"}, {"url": "https://a b.example"},
        {"url": "https://[a.example"}, {"url": "https://é.example"}, {"url": "https://a.example", "more": 1},
        {"url": "https://a.example", "sign_with": ""},
        {"url": "https://a.example/" + "x" * 2_000},
    ],
)  # fmt: skip
async def test_a_callback_that_leads_nowhere_is_refused(
    session: AsyncSession, callback: Any
) -> None:
    with pytest.raises(InvalidInput, match="callback") as refused:
        await enqueue(session, "mail", callback=callback)
    assert refused.value.field in {"callback", "callback.url", "callback.sign_with"}


@pytest.mark.parametrize("seconds", [0, -1.0, float("nan"), float("inf")])
async def test_a_time_that_no_result_can_have_is_refused(
    session: AsyncSession, seconds: float
) -> None:
    with pytest.raises(InvalidInput, match="result_ttl_seconds"):
        await enqueue(session, "mail", result_ttl_seconds=seconds)
