"""What a new job does where its `unique_key` is held: each policy, for a holder in each state."""

import asyncio
from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from service.db.engine import Database
from service.errors import InvalidInput, KeyHeld
from service.jobs import (
    Backoff,
    EnqueuedJob,
    JobId,
    NewJob,
    enqueue,
    enqueue_batch,
    enqueue_many,
    store,
)
from service.jobs.core.encoded_jobs import encode_jobs
from service.jobs.enqueue.insert import insert
from tests.jobs.conftest import Events
from tests.jobs.waiting import until

RUN = (
    "UPDATE jobs_live SET status = 'RUNNING', attempts = 1, lease_until = 'infinity' WHERE id = $1"
)
END = """
WITH gone AS (DELETE FROM jobs_live WHERE id = $1 RETURNING *)
INSERT INTO background_jobs (id, job_type, unique_key, status, finished_at)
SELECT id, job_type, unique_key, 'SUCCESS', now() FROM gone"""
HOLD = """
UPDATE jobs_live SET held_for = $2, held_since = now(), held_due_at = next_run_at,
  next_run_at = 'infinity' WHERE id = $1"""
FAILED_ONCE = """
UPDATE jobs_live SET attempts = 2, lost_leases = 1, last_error = 'ValueError', errors = '[{}]'
WHERE id = $1"""
LATER = datetime(2150, 1, 1, tzinfo=UTC)


async def put(sql: Any, n: int = 1, **options: Any) -> EnqueuedJob:
    return await enqueue(sql, "sync", {"n": n}, unique_key="k", **options)


async def row(sql: Any, job_id: JobId) -> Any:
    return await sql.fetchrow("SELECT * FROM background_jobs WHERE id = $1", job_id)


async def live(sql: Any) -> list[int]:
    return [one["id"] for one in await sql.fetch("SELECT id FROM jobs_live ORDER BY id")]


@pytest.mark.parametrize("policy", ["return", "reject", "replace", "extend", "keep_latest"])
async def test_a_job_whose_key_is_free_is_made_under_every_policy(
    sql: Any, policy: Any, events: Events
) -> None:
    job = await put(sql, on_conflict=policy)
    assert job.created
    stored = await row(sql, job.id)
    assert (stored["payload"], stored["unique_key"]) == ({"n": 1}, "k")
    assert events("enqueued", "sync") == 1
    await sql.execute(END, job.id)
    again = await put(sql, 2, on_conflict=policy)
    assert again.created
    assert again.id != job.id


@pytest.mark.parametrize("state", [None, RUN])
async def test_return_answers_with_the_holder_and_changes_nothing(
    sql: Any, state: str | None
) -> None:
    first = await put(sql)
    if state:
        await sql.execute(state, first.id)
    before = await row(sql, first.id)
    second = await put(sql, 2, on_conflict="return", priority=0)
    assert (second.id, second.created) == (first.id, False)
    assert await row(sql, first.id) == before


@pytest.mark.parametrize(("state", "word"), [(None, "PENDING"), (RUN, "RUNNING")])
async def test_reject_names_the_key_the_holder_its_status_and_the_way_out(
    sql: Any, state: str | None, word: str
) -> None:
    first = await put(sql)
    if state:
        await sql.execute(state, first.id)
    with pytest.raises(KeyHeld) as refused:
        await put(sql, 2, on_conflict="reject")
    assert f"unique_key 'k' is held by job {first.id}, which is {word}" in refused.value.detail
    assert "on_conflict 'return'" in refused.value.detail
    assert await live(sql) == [first.id]


async def test_replace_gives_the_waiting_job_all_that_the_new_one_says(sql: Any) -> None:
    first = await put(sql, priority=5, max_retries=9, timeout_seconds=5, concurrency_key="c")
    await sql.execute(FAILED_ONCE, first.id)
    second = await put(
        sql, 2, on_conflict="replace", queue="q", priority=1, run_at=LATER, backoff=Backoff()
    )
    assert (second.id, second.created, second.next_run_at) == (first.id, False, LATER)
    stored = await row(sql, first.id)
    assert (stored["payload"], stored["queue"], stored["priority"]) == ({"n": 2}, "q", 1)
    assert (stored["next_run_at"], stored["created_at"]) == (LATER, first.created_at)
    assert (stored["max_retries"], stored["timeout_seconds"]) == (None, None)
    assert (stored["concurrency_key"], stored["backoff"]["factor"]) == (None, 4.0)
    # The attempts were the other payload's.
    assert (stored["attempts"], stored["lost_leases"], stored["last_error"]) == (0, 0, None)
    assert stored["errors"] == [{}]


@pytest.mark.parametrize("policy", ["replace", "extend"])
async def test_a_running_holder_is_not_changed_and_the_answer_says_so(
    sql: Any, policy: Any
) -> None:
    first = await put(sql)
    await sql.execute(RUN, first.id)
    before = await row(sql, first.id)
    with pytest.raises(KeyHeld, match="which is RUNNING") as refused:
        await put(sql, 2, on_conflict=policy)
    assert policy in refused.value.detail
    assert await row(sql, first.id) == before


@pytest.mark.parametrize("policy", ["replace", "extend", "keep_latest"])
async def test_a_holder_of_another_type_is_not_changed(sql: Any, policy: Any) -> None:
    first = await put(sql)
    with pytest.raises(KeyHeld, match="of type 'sync'"):
        await enqueue(sql, "other", unique_key="k", on_conflict=policy)
    assert (await row(sql, first.id))["payload"] == {"n": 1}


async def test_extend_puts_the_waiting_job_off_and_keeps_its_payload(sql: Any) -> None:
    first = await put(sql, delay_seconds=10, priority=4)
    second = await put(sql, 2, on_conflict="extend", delay_seconds=60)
    assert (second.id, second.created) == (first.id, False)
    assert 59 < (second.next_run_at - first.created_at).total_seconds() < 70
    stored = await row(sql, first.id)
    assert (stored["next_run_at"], stored["payload"]) == (second.next_run_at, {"n": 1})
    assert stored["priority"] == 4


async def test_extend_never_makes_a_job_due_earlier(sql: Any) -> None:
    first = await put(sql, delay_seconds=600)
    second = await put(sql, on_conflict="extend", delay_seconds=5)
    assert second.next_run_at == first.next_run_at


async def test_extend_puts_no_job_off_beyond_its_bound_after_its_creation(sql: Any) -> None:
    first = await put(sql, delay_seconds=10)
    await put(sql, on_conflict="extend", delay_seconds=600, debounce_max_seconds=90)
    latest = first.created_at + timedelta(seconds=90)
    assert (await row(sql, first.id))["next_run_at"] == latest
    await put(sql, on_conflict="extend", delay_seconds=1e6)
    assert (await row(sql, first.id))["next_run_at"] == first.created_at + timedelta(hours=1)


@pytest.mark.parametrize("policy", ["replace", "extend", "keep_latest"])
async def test_a_job_that_a_limit_holds_leaves_the_hold_for_its_new_time(
    sql: Any, policy: Any
) -> None:
    first = await put(sql)
    await sql.execute(HOLD, first.id, "key:c")
    second = await put(sql, 2, on_conflict=policy, delay_seconds=60)
    stored = await row(sql, first.id)
    assert (stored["held_for"], stored["held_since"], stored["held_due_at"]) == (None, None, None)
    assert stored["next_run_at"] == second.next_run_at
    assert 59 < (second.next_run_at - first.created_at).total_seconds() < 70


@pytest.mark.parametrize("policy", ["replace", "extend"])
async def test_a_job_that_waits_for_others_still_does_at_its_new_time(
    sql: Any, policy: Any
) -> None:
    first = await put(sql)
    await sql.execute(HOLD, first.id, "after")
    second = await put(sql, 2, on_conflict=policy, delay_seconds=60)
    stored = await row(sql, first.id)
    assert (stored["held_for"], stored["held_due_at"]) == ("after", second.next_run_at)
    assert await sql.fetchval("SELECT next_run_at = 'infinity' FROM jobs_live")


async def test_jobs_of_one_batch_with_one_key_count_in_their_order(sql: Any) -> None:
    jobs = [
        NewJob("plain", {"n": 0}),
        NewJob("sync", {"n": 1}, unique_key="k"),
        NewJob("sync", {"n": 2}, unique_key="k", on_conflict="replace"),
        NewJob("sync", {"n": 3}, unique_key="a", on_conflict="replace"),
        NewJob("sync", {"n": 4}, unique_key="k", on_conflict="replace"),
        NewJob("sync", {"n": 5}, unique_key="k"),
        NewJob("sync", {"n": 6}, unique_key="other"),
    ]
    made = await enqueue_batch(sql, jobs)
    assert [job.created for job in made] == [True, True, False, True, False, False, True]
    assert len({made[at].id for at in (1, 2, 4, 5)}) == 1
    payloads = [(await row(sql, made[at].id))["payload"]["n"] for at in (0, 1, 3, 6)]
    assert payloads == [0, 4, 3, 6]


async def test_jobs_of_a_batch_whose_keys_are_free_are_stored_together(sql: Any) -> None:
    jobs = [NewJob("sync", {"n": n}, unique_key=f"{n}", on_conflict="replace") for n in range(50)]
    encoded, sent = encode_jobs(jobs, max_payload_bytes=1_000), Counter[str]()

    async def fetch(statement: str, *args: Any) -> Any:
        sent[statement] += 1
        return await sql.fetch(statement, *args)

    made = await insert(fetch, encoded)
    assert made.made == {"sync": 50}
    assert sent.total() == 1


async def test_a_batch_names_the_job_whose_key_is_held(sql: Any) -> None:
    await put(sql)
    jobs = [NewJob("sync"), NewJob("sync", unique_key="k", on_conflict="reject")]
    with pytest.raises(KeyHeld, match=r"^Job 1: unique_key 'k'"):
        async with sql.transaction():
            await enqueue_batch(sql, jobs)
    assert len(await live(sql)) == 1


async def test_enqueue_many_follows_the_policies(sql: Any) -> None:
    jobs = (NewJob("sync", {"n": n}, unique_key="k", on_conflict="replace") for n in range(5))
    assert await enqueue_many(sql, jobs, batch_size=2) == 1
    assert await sql.fetchval("SELECT payload FROM jobs_live") == {"n": 4}


@pytest.mark.parametrize(
    ("options", "field", "words"),
    [
        ({"on_conflict": "overwrite"}, "on_conflict", "expected one of return, reject"),
        ({"on_conflict": "replace", "unique_key": None}, "on_conflict", "give the unique_key"),
        ({"debounce_max_seconds": 5}, "debounce_max_seconds", "'extend' alone"),
        ({"on_conflict": "replace", "debounce_max_seconds": 5}, "debounce_max_seconds", "'extend'"),
        ({"on_conflict": "extend", "debounce_max_seconds": 0}, "debounce_max_seconds", "above 0"),
        ({"on_conflict": "extend", "debounce_max_seconds": 1e9}, "debounce_max_seconds", "a year"),
        ({"on_conflict": "extend", "debounce_max_seconds": True}, "debounce_max_seconds", "True"),
        ({"unique_scope": "forever"}, "unique_scope", "expected one of live, until_started"),
        (
            {"unique_scope": "until_started", "unique_key": None},
            "unique_scope",
            "give the unique_key",
        ),
        (
            {"on_conflict": "keep_latest", "unique_scope": "until_started"},
            "unique_scope",
            "of its own",
        ),
        ({"unique_for_seconds": 0}, "unique_for_seconds", "above 0"),
        (
            {"unique_for_seconds": 60, "on_conflict": "replace"},
            "unique_for_seconds",
            "nothing to change",
        ),
        (
            {"unique_for_seconds": 60, "unique_scope": "until_started"},
            "unique_for_seconds",
            "leave",
        ),
        ({"unique_by": ["queue"]}, "unique_by", "give one of them"),
        ({"on_conflict": "replace", "after": [1]}, "on_conflict", "give no after"),
    ],
)
async def test_an_option_that_makes_no_sense_is_refused_with_words(
    sql: Any, options: dict[str, Any], field: str, words: str
) -> None:
    with pytest.raises(InvalidInput, match=words) as refused:
        await enqueue(sql, "sync", **{"unique_key": "k"} | options)
    assert refused.value.field == field
    assert await live(sql) == []


@pytest.mark.parametrize("policy", ["replace", "extend"])
async def test_a_holder_that_is_just_being_claimed_is_not_locked_until_the_caller_commits(
    sql: Any, database: Database, policy: Any
) -> None:
    first = await put(sql)
    worker = await database.connect()
    async with database.sessions.begin() as session:
        claim = worker.transaction()
        await claim.start()
        await worker.execute(RUN, first.id)
        late = asyncio.create_task(put(session, 2, on_conflict=policy))
        await until(lambda: _waits_for_a_lock(sql))
        await claim.commit()
        with pytest.raises(KeyHeld, match="RUNNING"):
            await late
        await worker.execute("SET lock_timeout = '5s'")
        await worker.execute("UPDATE jobs_live SET lease_until = now() WHERE id = $1", first.id)
    await worker.close()


async def _waits_for_a_lock(sql: Any) -> bool:
    return bool(
        await sql.fetchval(
            "SELECT count(*) FROM pg_stat_activity"
            " WHERE datname = current_database() AND wait_event_type = 'Lock'"
        )
    )


# -- for some time ----------------------------------------------------------------------------------


async def test_a_key_is_held_for_its_time_after_its_job_has_ended(sql: Any) -> None:
    first = await put(sql, unique_for_seconds=3600)
    assert first.created
    await sql.execute(END, first.id)
    second = await put(sql, 2, unique_for_seconds=60)
    assert (second.id, second.created) == (first.id, False)
    assert (second.created_at, second.next_run_at) == (first.created_at, first.next_run_at)
    with pytest.raises(KeyHeld, match=f"job {first.id} until .*Z \\(unique_for_seconds\\)"):
        await put(sql, 2, unique_for_seconds=3600, on_conflict="reject")
    await sql.execute("UPDATE unique_windows SET until = now()")
    third = await put(sql, 3, unique_for_seconds=3600)
    assert third.created


async def test_who_names_no_time_is_asked_about_live_jobs_alone(sql: Any) -> None:
    first = await put(sql, unique_for_seconds=3600)
    assert not (await put(sql)).created
    await sql.execute(END, first.id)
    assert (await put(sql)).created


async def test_a_live_job_with_the_key_is_found_though_no_time_is_named_for_it(sql: Any) -> None:
    first = await put(sql)
    second = await put(sql, unique_for_seconds=3600)
    assert (second.id, second.created) == (first.id, False)
    await sql.execute(END, first.id)
    assert (await put(sql, unique_for_seconds=3600)).created


async def test_a_window_that_is_rolled_back_holds_nothing(sql: Any) -> None:
    transaction = sql.transaction()
    await transaction.start()
    await put(sql, unique_for_seconds=3600)
    await transaction.rollback()
    assert (await put(sql, unique_for_seconds=3600)).created


async def test_fifty_at_once_make_one_job_for_the_time(sql: Any, database: Database) -> None:
    async def one(n: int) -> EnqueuedJob:
        async with database.sessions.begin() as session:
            return await put(session, n, unique_for_seconds=3600)

    made = await asyncio.gather(*map(one, range(50)))
    assert sum(job.created for job in made) == 1
    assert len({job.id for job in made}) == 1


async def test_windows_that_are_over_are_dropped(sql: Any, database: Database) -> None:
    await put(sql, unique_for_seconds=3600)
    await sql.execute(
        "INSERT INTO unique_windows SELECT 'old', 1, now(), now(), NULL, now() - interval '2 hours'"
    )
    link = database.link()
    dropped = await store.retention.drop(
        link, store.retention.DROP_UNIQUE_WINDOWS, age=1, limit=100
    )
    await link.close()
    assert dropped == 1
    assert await sql.fetchval("SELECT key FROM unique_windows") == "k"


# -- made of the job --------------------------------------------------------------------------------


async def test_a_key_is_made_of_the_job(sql: Any) -> None:
    made = [
        await enqueue(sql, "sync", {"customer": {"id": n}}, unique_by=["payload.customer.id"])
        for n in (1, 1, 2)
    ]
    assert [job.created for job in made] == [True, False, True]
    assert (await row(sql, made[0].id))["unique_key"] == (
        'by:{"job_type":"sync","payload.customer.id":1}'
    )
    other = await enqueue(sql, "mail", {"customer": {"id": 1}}, unique_by=["payload.customer.id"])
    assert other.created
