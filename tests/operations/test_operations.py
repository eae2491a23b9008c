"""Operations: each job is acted on once, what cannot be is skipped and named, and the set is fixed."""

from datetime import UTC, datetime
from typing import Any

import pytest

from service.db.engine import Database
from service.errors import Conflict, InvalidInput
from service.jobs.core.bulk_action import BulkAction, Verb, merged
from service.jobs.core.filters import JobFilters
from service.jobs.core.job import JobStatus
from service.jobs.core.job_types import JobTypePolicy, policies
from service.operations import repository, starting
from service.operations.model import Operation
from service.operations.starting import OperationRequest
from service.settings import Settings
from tests.operations.conftest import ADA, Fill, Start, Until

LATER = datetime(2030, 1, 1, tzinfo=UTC)
CHANGED = "status = 'PENDING' AND job_type = 'mail'"


async def count(sql: Any, where: str) -> int:
    found: int = await sql.fetchval(f"SELECT count(*) FROM background_jobs WHERE {where}")
    return found


async def skipped(database: Database, operation: Operation) -> dict[int, str]:
    async with database.sessions() as session:
        return {one.job_id: one.reason for one in await repository.skips(session, operation.id)}


async def test_every_dead_letter_that_matches_is_retried_and_no_other(
    operator: None, fill: Fill, start: Start, until: Until, sql: Any
) -> None:
    await fill(250)
    await fill(30, job_type="other")
    operation = await start(Verb.RETRY, JobFilters(job_type="mail"))
    done = await until(operation, "done")
    assert (done.changed, done.skipped, done.expected) == (250, {}, 250)
    assert await count(sql, "job_type = 'mail' AND status = 'PENDING' AND attempts = 0") == 250
    assert await count(sql, "job_type = 'other' AND status = 'DEAD_LETTER'") == 30
    history = await sql.fetchval(
        "SELECT errors FROM background_jobs WHERE status = 'PENDING' LIMIT 1"
    )
    assert [entry["event"] for entry in history] == ["manual_retry"]
    assert history[0]["by"] == f"ada (operation {operation.id})"


@pytest.mark.parametrize(
    ("verb", "values", "status", "expected"),
    [
        (Verb.CANCEL, {}, "PENDING", "status = 'CANCELLED'"),
        (Verb.RESCHEDULE, {"run_at": LATER}, "PENDING", "next_run_at = '2030-01-01Z'"),
        (Verb.MOVE, {"queue": "slow"}, "PENDING", "queue = 'slow'"),
        (Verb.SET_PRIORITY, {"priority": 9}, "PENDING", "priority = 9"),
        (
            Verb.RETRY,
            {"payload_merge": {"fixed": True}, "max_retries": 1, "run_at": LATER},
            "FAILED",
            "payload = payload || '{\"fixed\": true}' AND payload ? 'n' AND max_retries = 1",
        ),
    ],
    ids=str,
)
@pytest.mark.usefixtures("operator")
async def test_each_action_does_what_it_says(
    fill: Fill, start: Start, until: Until, sql: Any, verb: Verb, values: dict[str, Any], status: str,
    expected: str,
) -> None:  # fmt: skip
    await fill(120, status=status)
    done = await until(await start(verb, **values), "done")
    assert (done.changed, done.skipped_total) == (120, 0)
    assert await count(sql, expected) == 120
    noted = f"errors -> -1 ->> 'by' = 'ada (operation {done.id})'"
    assert await count(sql, f"jsonb_array_length(errors) = 1 AND {noted}") == 120


async def test_an_edited_retry_keeps_the_payload_before(
    operator: None, fill: Fill, start: Start, until: Until, sql: Any
) -> None:
    await fill(3)
    await until(await start(Verb.RETRY, payload_merge={"n": None, "fixed": True}), "done")
    for row in await sql.fetch("SELECT payload, errors FROM jobs_live WHERE job_type = 'mail'"):
        assert row["payload"] == {"fixed": True}
        assert row["errors"][-1]["payload_before"].keys() == {"n"}


async def test_keys_that_are_made_of_the_payload_follow_an_edit(
    operator: None,
    fill: Fill,
    start: Start,
    until: Until,
    sql: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rule = JobTypePolicy(concurrency_key="customer:{payload.customer}")
    monkeypatch.setitem(policies, "mail", rule)
    await fill(3)
    await sql.execute(
        "UPDATE jobs_dead SET payload = jsonb_build_object('customer', 7), concurrency_key ="
        " CASE WHEN id = (SELECT min(id) FROM jobs_dead) THEN 'mine' ELSE 'customer:7' END"
    )
    await until(await start(Verb.RETRY, payload_merge={"customer": 8}), "done")
    keys = "SELECT concurrency_key FROM jobs_live WHERE job_type = 'mail' ORDER BY id"
    assert [row[0] for row in await sql.fetch(keys)] == ["mine", "customer:8", "customer:8"]


async def test_an_edit_keeps_every_digit_of_the_numbers_that_it_leaves_alone(
    operator: None, fill: Fill, start: Start, until: Until, sql: Any
) -> None:
    await fill(1)
    kept = '"n": 12345678901234567890.10, "all": [0.12345678901234567890, -1e-7, "1"]'
    await sql.execute(f"UPDATE jobs_dead SET payload = '{{{kept}, \"x\": 1}}'")
    done = await until(await start(Verb.RETRY, payload_merge={"x": 2}), "done")
    assert done.changed == 1
    stored = await sql.fetchval(
        "SELECT payload::text FROM jobs_live WHERE job_type = 'mail' AND payload = $1::text::jsonb",
        f'{{{kept}, "x": 2}}',
    )
    assert "12345678901234567890.10" in stored


async def test_deleted_jobs_are_gone_and_their_counts_and_log_lines_as_well(
    operator: None, fill: Fill, start: Start, until: Until, sql: Any
) -> None:
    await fill(100, status="SUCCESS")
    await fill(5, status="RUNNING")
    await sql.execute(
        "INSERT INTO job_logs (job_id, lease_token, line, attempt, at, level, message)"
        " SELECT id, 1, 1, 1, now(), 'info', status FROM background_jobs"
    )
    done = await until(await start(Verb.DELETE, JobFilters(job_type="mail")), "done")
    assert await sql.fetchval("SELECT count(*) FROM job_logs WHERE message <> 'RUNNING'") == 0
    assert done.changed == 100
    assert await count(sql, "job_type = 'mail'") == 5
    assert await sql.fetchval("SELECT sum(jobs) FROM job_stats WHERE job_type = 'mail'") == 0


async def test_jobs_that_come_later_are_not_touched(
    operator: None, fill: Fill, start: Start, until: Until, sql: Any, database: Database
) -> None:
    await fill(50)
    await fill(50, status="PENDING", job_type="waits")
    operation = await start(Verb.RETRY, rate=1)
    async with database.sessions.begin() as session:
        await starting.pause(session, operation.id, actor=ADA)
    await fill(10)
    # Jobs that stood there when it began, and die now.
    await sql.execute(
        "WITH gone AS (DELETE FROM jobs_live WHERE job_type = 'waits' RETURNING *)"
        " INSERT INTO background_jobs (id, job_type, status, finished_at)"
        " SELECT id, job_type, 'FAILED', clock_timestamp() FROM gone"
    )
    await sql.execute("UPDATE operations SET rate = NULL")
    async with database.sessions.begin() as session:
        await starting.resume(session, operation.id, actor=ADA)
    done = await until(operation, "done")
    assert done.changed == 50
    assert await count(sql, "status = 'DEAD_LETTER'") == 10
    assert await count(sql, "status = 'FAILED'") == 50


async def test_named_jobs_are_all_accounted_for(
    operator: None, fill: Fill, start: Start, until: Until, sql: Any, database: Database
) -> None:
    await fill(3)
    await fill(1, status="SUCCESS")
    ids = [row[0] for row in await sql.fetch("SELECT id FROM background_jobs")]
    pending = await sql.fetchval("INSERT INTO background_jobs (job_type) VALUES ('x') RETURNING id")
    operation = await start(Verb.RETRY, JobFilters(ids=[*ids, pending, 999_999]))
    done = await until(operation, "done")
    assert (done.changed, done.skipped) == (3, {"status": 2, "no_such_job": 1})
    assert (await skipped(database, operation))[999_999] == "no_such_job"


async def test_a_taken_unique_key_costs_only_its_own_job(
    operator: None, fill: Fill, start: Start, until: Until, sql: Any, database: Database
) -> None:
    await fill(40, keyed=True)
    await fill(40, keyed=True)  # the same keys, dead as well
    live = await sql.fetchval(
        "INSERT INTO background_jobs (job_type, unique_key, next_run_at)"
        " VALUES ('mail', 'key-7', '2030-01-01Z') RETURNING id"
    )
    operation = await start(Verb.RETRY, JobFilters(statuses=frozenset({JobStatus.DEAD_LETTER})))
    done = await until(operation, "done")
    assert (done.changed, done.skipped) == (39, {"unique_key": 41})
    named = await skipped(database, operation)
    assert len(named) == 41
    assert live not in named


async def test_one_odd_row_is_named_and_costs_no_other_its_turn(
    operator: None, fill: Fill, start: Start, until: Until, sql: Any, database: Database
) -> None:
    await fill(100)
    odd = await sql.fetchval(
        "INSERT INTO background_jobs (job_type, status, finished_at, timeout_seconds)"
        " VALUES ('mail', 'FAILED', clock_timestamp(), -5) RETURNING id"
    )
    await fill(100)
    operation = await start(Verb.RETRY)
    done = await until(operation, "done")
    assert (done.changed, done.skipped) == (200, {"row": 1})
    assert await skipped(database, operation) == {odd: "row"}


async def test_a_payload_that_cannot_be_merged_or_stored_is_skipped(
    operator: None, fill: Fill, start: Start, until: Until, sql: Any
) -> None:
    await fill(10)
    await sql.execute(
        "UPDATE jobs_dead SET payload = '[1]' WHERE id = (SELECT min(id) FROM jobs_dead)"
    )
    await sql.execute(
        "UPDATE jobs_dead SET payload = jsonb_build_object('x', repeat('x', 262000))"
        " WHERE id = (SELECT max(id) FROM jobs_dead)"
    )
    done = await until(await start(Verb.RETRY, payload_merge={"more": "x" * 1000}), "done")
    assert (done.changed, done.skipped) == (8, {"payload": 2})


async def test_a_job_that_another_transaction_holds_is_skipped_and_stops_nothing(
    operator: None, fill: Fill, start: Start, until: Until, sql: Any, database: Database
) -> None:
    await fill(20, status="PENDING")
    held = await sql.fetchval("SELECT min(id) FROM jobs_live")
    async with database.sessions.begin() as session:
        await (await session.connection()).exec_driver_sql(
            f"SELECT FROM background_jobs WHERE id = {held} FOR UPDATE"
        )
        operation = await start(Verb.SET_PRIORITY, JobFilters(job_type="mail"), priority=0)
        done = await until(operation, "done")
    assert (done.changed, done.skipped) == (19, {"locked": 1})


async def test_a_preview_counts_and_shows_and_changes_nothing(
    fill: Fill, sql: Any, database: Database, settings: Settings
) -> None:
    await fill(12)
    await fill(3, status="PENDING")
    async with database.sessions() as session:
        found = await starting.preview(session, Verb.RETRY, JobFilters(), settings)
    assert (found.count, found.exact, len(found.sample)) == (12, True, 5)
    assert await count(sql, "status = 'DEAD_LETTER'") == 12


@pytest.mark.parametrize(
    ("action", "filters", "words"),
    [
        (BulkAction(verb=Verb.RETRY), JobFilters(), "The filter is empty"),
        (BulkAction(verb=Verb.MOVE), JobFilters(queue="a"), "move needs queue"),
        (BulkAction(verb=Verb.CANCEL, queue="a"), JobFilters(queue="a"), "does not belong"),
        (BulkAction(verb=Verb.MOVE, queue="a b"), JobFilters(queue="a"), "letters"),
        (
            BulkAction(verb=Verb.RETRY),
            JobFilters(statuses=frozenset({JobStatus.PENDING})),
            "the filter asks for PENDING",
        ),
    ],
    ids=lambda value: str(value)[:40],
)
async def test_what_cannot_be_meant_is_refused_with_words(
    database: Database, settings: Settings, action: BulkAction, filters: JobFilters, words: str
) -> None:
    request = OperationRequest(action=action, filters=filters)
    with pytest.raises(InvalidInput, match=words):
        async with database.sessions.begin() as session:
            await starting.start(session, request, settings, actor=ADA)


async def test_a_paused_operation_changes_nothing_and_a_cancelled_one_never_again(
    operator: None, fill: Fill, start: Start, until: Until, sql: Any, database: Database
) -> None:
    await fill(2_000)
    operation = await start(Verb.RETRY, JobFilters(job_type="mail"), rate=200)

    async def changed_when(action: Any) -> int:
        """How many jobs were changed when it was answered; by then some were."""
        before = await count(sql, CHANGED)
        while await count(sql, CHANGED) == before:
            pass
        async with database.sessions.begin() as session:
            await action(session, operation.id, actor=ADA, reason="wait")
        return await count(sql, CHANGED)

    async def job_has_ended() -> None:
        while await count(sql, "job_type = 'finmind.operation' AND status <> 'SUCCESS'"):
            pass

    at_pause = await changed_when(starting.pause)
    await job_has_ended()
    assert await count(sql, CHANGED) == at_pause
    async with database.sessions.begin() as session:
        with pytest.raises(Conflict, match="is paused"):
            await starting.pause(session, operation.id, actor=ADA)
        resumed = await starting.resume(session, operation.id, actor=ADA)
    assert (resumed.state, resumed.note) == ("running", None)
    at_cancel = await changed_when(starting.cancel)
    await job_has_ended()
    assert at_pause < at_cancel == await count(sql, CHANGED) < 2_000
    async with database.sessions.begin() as session:
        with pytest.raises(Conflict, match="is cancelled"):
            await starting.resume(session, operation.id, actor=ADA)


async def test_an_operation_whose_job_is_gone_says_so_and_can_be_resumed(
    fill: Fill, start: Start, until: Until, sql: Any, database: Database
) -> None:
    await fill(5)
    operation = await start(Verb.RETRY)
    await sql.execute("DELETE FROM jobs_live WHERE job_type = 'finmind.operation'")
    failed = await until(operation, "failed")
    assert failed.note == f"job {operation.job_id}, which carried it out, is gone"
    async with database.sessions.begin() as session:
        resumed = await starting.resume(session, operation.id, actor=ADA)
    assert (resumed.state, resumed.job_id == operation.job_id) == ("running", False)


async def test_start_pause_resume_cancel_and_finish_are_in_the_audit_log(
    operator: None, fill: Fill, start: Start, until: Until, sql: Any, database: Database
) -> None:
    await fill(3)
    operation = await start(Verb.RETRY)
    await until(operation, "done")
    other = await start(Verb.CANCEL, rate=1)
    async with database.sessions.begin() as session:
        await starting.pause(session, other.id, actor=ADA)
        await starting.resume(session, other.id, actor=ADA)
        await starting.cancel(session, other.id, actor=ADA)
    rows = await sql.fetch("SELECT actor, action, filter FROM audit_log ORDER BY id")
    assert [(row["actor"], row["action"]) for row in rows] == [
        ("ada", "operation.start"),
        (f"operation {operation.id}", "operation.finish"),
        ("ada", "operation.start"),
        ("ada", "operation.pause"),
        ("ada", "operation.resume"),
        ("ada", "operation.cancel"),
    ]
    assert rows[0]["filter"] == {"status": ["DEAD_LETTER", "FAILED"]}


def test_a_merge_patch_sets_replaces_and_removes() -> None:
    value = {"a": 1, "b": {"c": 2, "d": 3}, "e": [1]}
    patch = {"a": None, "b": {"c": 9}, "e": [2, 3], "f": {"g": {"h": None}}}
    assert merged(value, patch) == {"b": {"c": 9, "d": 3}, "e": [2, 3], "f": {"g": {}}}
