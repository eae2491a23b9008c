"""`enqueue_job` and `enqueue_jobs` of SQL, called by the role that may call nothing else."""

import asyncio
import json
import re
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from service.db.engine import Database
from service.jobs import Registry, create_batch
from service.jobs.handlers.published import publish_types
from service.settings import Settings
from tests import databases
from tests.jobs.conftest import StartWorker
from tests.jobs.waiting import until, until_true

PAGE = (Path(__file__).parents[3] / "docs" / "sql.md").read_text(encoding="utf-8")
RUN = "UPDATE jobs_live SET status = 'RUNNING', lease_until = 'infinity' WHERE id = $1"

STEP = """
WITH event AS (
  INSERT INTO job_events (job_id, name) VALUES ($1, 'paid') ON CONFLICT DO NOTHING)
INSERT INTO job_steps (job_id, name, kind, attempt, lease_token, started_at, finished_at)
VALUES ($1, 'charge', 'call', 1, 1, now(), now()) ON CONFLICT DO NOTHING"""


@pytest.fixture
async def connect(pg_dsn: str) -> AsyncIterator[Callable[[], Any]]:
    """Connects as a role with the rights of `finmind_client`, in no search_path of ours."""
    opened: list[Any] = []
    async with databases.client_role(pg_dsn) as (_, dsn):

        async def connect() -> Any:
            opened.append(await asyncpg.connect(dsn))
            return opened[-1]

        yield connect
        for connection in opened:
            await connection.close(timeout=5)


@pytest.fixture
async def shop(connect: Callable[[], Any]) -> Any:
    """One such connection."""
    return await connect()


async def enqueue(connection: Any, *arguments: Any, more: str = "") -> int:
    places = ", ".join(f"${n}" for n, _ in enumerate(arguments, 1))
    made: int = await connection.fetchval(
        f"SELECT finmind_jobs.enqueue_job({places}{', ' + more if more else ''})", *arguments
    )
    return made


async def many(connection: Any, *jobs: dict[str, Any]) -> list[tuple[int, bool]]:
    rows = await connection.fetch("SELECT * FROM finmind_jobs.enqueue_jobs($1)", json.dumps(jobs))
    return [tuple(row) for row in rows]


async def test_a_job_of_sql_is_there_once_its_transaction_commits_and_starts_at_once(
    shop: Any, sql: Any, start_worker: StartWorker, handlers: Registry
) -> None:
    ran: list[Any] = []
    handlers.handler("mail")(ran.append)
    # Were it not for the notification, it would start in half a minute.
    await start_worker(poll_min_seconds=10, poll_max_seconds=30, sweep_seconds=30)
    transaction = shop.transaction()
    await transaction.start()
    await enqueue(shop, "mail", '{"n": 1}')
    await transaction.rollback()
    async with shop.transaction():
        made = await enqueue(shop, "mail", '{"n": 2}', more="queue => 'letters', priority => 7")
        assert await sql.fetchval("SELECT count(*) FROM background_jobs") == 0

    await until_true(lambda: bool(ran))
    assert ran == [{"n": 2}]
    assert await sql.fetchval("SELECT array_agg(id) FROM background_jobs") == [made]


async def test_what_waits_for_other_jobs_or_belongs_to_a_batch_does_so_by_sql_as_well(
    shop: Any, sql: Any, database: Database, start_worker: StartWorker, handlers: Registry
) -> None:
    async with database.sessions.begin() as session:
        batch = await create_batch(session, "invoices")
    (parent, _), (other, _) = await many(
        shop, {"job_type": "mail", "batch_id": batch}, {"job_type": "lost", "delay_seconds": 60}
    )
    child = await enqueue(shop, "mail", more=f"after => '{{{parent}}}', batch_id => {batch}")
    orphan = await enqueue(
        shop, "mail", more=f"after => '{{{parent}, {other}}}', on_parent_failure => 'run'"
    )
    held = "SELECT array_agg(id ORDER BY id) FROM jobs_live WHERE held_for = 'after'"
    assert await sql.fetchval(held) == [child, orphan]
    handlers.handler("mail")(lambda _: None)
    await start_worker()
    succeeded = "SELECT array_agg(id ORDER BY id) FROM background_jobs WHERE status = 'SUCCESS'"
    counted = "SELECT jobs = 2 AND succeeded = 2 FROM batches"

    async def both_ended() -> bool:
        ended = await sql.fetchval(succeeded) == [parent, child]
        return ended and bool(await sql.fetchval(counted))

    await until(both_ended, seconds=30)
    assert await sql.fetchval(held) == [orphan]
    await sql.execute("UPDATE batches SET closed_at = now()")
    with pytest.raises(asyncpg.ObjectNotInPrerequisiteStateError, match="Batch 1 is closed"):
        await enqueue(shop, "mail", more=f"batch_id => {batch}")


async def test_three_workers_run_each_job_of_three_clients_once_and_each_key_once(
    connect: Callable[[], Any],
    sql: Any,
    settings: Settings,
    pg_dsn: str,
    start_worker: StartWorker,
    handlers: Registry,
) -> None:
    ran: list[int] = []
    handlers.handler("mail")(lambda payload: ran.append(payload["n"]))
    others = [Database(pg_dsn, settings) for _ in range(3)]
    for one in others:
        await start_worker(database=one)
    clients = [await connect() for _ in range(3)]
    keyed = [{"job_type": "mail", "payload": {"n": n}, "unique_key": f"{n}", "delay_seconds": 1}
             for n in range(50)]  # fmt: skip
    plain = [{"job_type": "mail", "payload": {"n": n}} for n in range(50, 350)]
    made = await asyncio.gather(
        many(clients[0], *plain, *keyed),
        many(clients[1], *reversed(keyed)),
        many(clients[2], *keyed[::2], *keyed[1::2]),
    )
    assert sum(created for answers in made for _, created in answers) == 350
    assert {job_id for job_id, _ in made[1]} == {job_id for job_id, _ in made[2]}
    await until(lambda: _ended(sql, 350), seconds=40)
    assert sorted(ran) == list(range(350))
    for one in others:
        await one.close()


async def _ended(sql: Any, count: int) -> bool:
    query = "SELECT count(*) FROM background_jobs WHERE status = 'SUCCESS'"
    return bool(await sql.fetchval(query) == count)


async def test_a_call_that_is_refused_names_the_job_the_value_the_rule_and_stores_nothing(
    shop: Any, sql: Any
) -> None:
    with pytest.raises(asyncpg.InvalidParameterValueError) as refused:
        await many(shop, {"job_type": "mail"}, {"job_type": "mail", "priority": 11})
    assert refused.value.message == "Job 1: priority is '11': expected 0 (most urgent) to 9"
    assert (refused.value.column_name, refused.value.schema_name) == (
        "jobs.1.priority", "finmind_jobs",
    )  # fmt: skip
    for jobs in ("[]", "{}", "null", json.dumps([{"job_type": "mail"}] * 10_001)):
        with pytest.raises(asyncpg.InvalidParameterValueError, match="expected a JSON array of 1"):
            await shop.fetch("SELECT * FROM finmind_jobs.enqueue_jobs($1)", jobs)
    with pytest.raises(asyncpg.InvalidParameterValueError, match="has not the key"):
        await enqueue(shop, "mail", more="encrypt => '{card}'")
    with pytest.raises(asyncpg.InvalidParameterValueError, match="after names jobs that do not"):
        await enqueue(shop, "mail", more="after => '{7}'")
    assert await sql.fetchval("SELECT count(*) FROM background_jobs") == 0


async def test_a_job_of_a_client_of_rest_is_neither_changed_nor_told_of_by_sql(
    shop: Any, sql: Any
) -> None:
    made = await enqueue(shop, "mail", '{"n": 1}', more="unique_key => 'k', delay_seconds => 60")
    await sql.execute("UPDATE jobs_live SET enqueued_by = 'ann'")
    assert await enqueue(shop, "mail", '{"n": 1}', more="unique_key => 'k'") == made
    for policy in ("return", "reject", "replace", "extend", "keep_latest"):
        with pytest.raises(asyncpg.UniqueViolationError) as refused:
            await enqueue(shop, "mail", more=f"unique_key => 'k', on_conflict => '{policy}'")
        assert refused.value.message == (
            "unique_key 'k' is held by a job of another caller: use a key that begins with a name"
            " of your own"
        )
    assert await sql.fetchval("SELECT payload FROM jobs_live") == {"n": 1}


async def test_a_holder_that_runs_is_not_locked_by_a_caller_that_may_not_change_it(
    connect: Callable[[], Any], sql: Any
) -> None:
    shop, other = await connect(), await connect()
    made = await enqueue(shop, "mail", more="unique_key => 'k', unique_scope => 'until_started'")
    await sql.execute(RUN, made)
    await sql.execute("UPDATE jobs_live SET unique_key = NULL")
    async with other.transaction():
        later = await enqueue(other, "mail", more="unique_key => 'k', on_conflict => 'keep_latest'")
        locked = "SELECT id FROM jobs_live WHERE id = $1 FOR UPDATE NOWAIT"
        assert await sql.fetchval(locked, made) == made
    # One runs and one waits.
    assert await sql.fetchval("SELECT held_for FROM jobs_live WHERE id = $1", later) == "unique"
    with pytest.raises(asyncpg.UniqueViolationError, match="of type 'mail'"):
        await enqueue(shop, "sms", more="unique_key => 'k', on_conflict => 'replace'")


async def test_what_a_handler_sets_for_its_jobs_holds_for_sql_or_is_asked_for(
    shop: Any, sql: Any, database: Database
) -> None:
    def run(_: Any) -> None:
        """Never called."""

    handlers = Registry()
    handlers.handler("sync", queue="slow", concurrency_key="c:{payload.id}/{payload.to.n}")(run)
    handlers.handler("asked", concurrency_key=str)(run)
    handlers.handler("own", internal=True)(run)
    link = database.link()
    await publish_types(link, handlers)
    await enqueue(shop, "sync", '{"id": true, "to": {"n": 7}}')
    await enqueue(shop, "sync", '{"id": 1}', more="queue => 'q', concurrency_key => 'k'")
    rows = await sql.fetch("SELECT queue, concurrency_key FROM jobs_live ORDER BY id")
    assert [tuple(row) for row in rows] == [("slow", "c:True/7"), ("q", "k")]
    with pytest.raises(asyncpg.InvalidParameterValueError, match=r"payload\.to\.n is missing"):
        await enqueue(shop, "sync", '{"id": 1}')
    with pytest.raises(asyncpg.InvalidParameterValueError, match="give concurrency_key"):
        await enqueue(shop, "asked")
    with pytest.raises(asyncpg.InsufficientPrivilegeError, match="belongs to the service"):
        await enqueue(shop, "own")
    await publish_types(link, Registry())
    await link.close()


async def test_a_payload_may_be_as_long_as_workers_take_it(shop: Any, database: Database) -> None:
    def handle(_: Any) -> None:
        """Never called."""

    payload = json.dumps({"x": "y" * 300_000})
    handlers, link = Registry(), database.link()
    handlers.handler("mail")(handle)
    with pytest.raises(asyncpg.InvalidParameterValueError, match="at most 262144 are allowed"):
        await enqueue(shop, "mail", payload)
    await shop.execute("SET finmind_jobs.max_payload_bytes = 400000")  # nothing that a caller sets
    with pytest.raises(asyncpg.InvalidParameterValueError, match=r"allowed \(MAX_PAYLOAD_BYTES\)"):
        await enqueue(shop, "mail", payload)
    await publish_types(link, handlers, max_payload_bytes=400_000)
    for job_type in ("mail", "served_by_nobody"):
        await enqueue(shop, job_type, payload)
    await publish_types(link, handlers, max_payload_bytes=2_000)
    with pytest.raises(asyncpg.InvalidParameterValueError, match="at most 2000 are allowed"):
        await enqueue(shop, "mail", json.dumps({"x": "y" * 2_000}))
    await publish_types(link, Registry())
    await link.close()


async def test_an_old_sessions_reading_of_backslashes_changes_nothing(shop: Any) -> None:
    if shop.get_server_version().major > 18:
        pytest.skip("PostgreSQL 19 has no other reading")
    await shop.execute("SET standard_conforming_strings = off")
    await many(shop, {"job_type": "mail", "run_at": "2030-01-31T09:00:00.5+01:00"})
    with pytest.raises(asyncpg.InvalidParameterValueError, match="names 'payloadXid'"):
        await enqueue(shop, "mail", '{"id": 1}', more="unique_by => '{payloadXid}'")


async def test_a_job_that_gets_another_payload_by_sql_begins_without_its_steps(
    shop: Any, sql: Any
) -> None:
    made = await enqueue(shop, "order", more="unique_key => 'k', delay_seconds => 60")
    for policy, kept in (("extend", 1), ("replace", 0), ("keep_latest", 0)):
        await sql.execute(STEP, made)
        await enqueue(shop, "order", more=f"unique_key => 'k', on_conflict => '{policy}'")
        assert await sql.fetchval("SELECT count(*) FROM job_steps") == kept, policy
        assert await sql.fetchval("SELECT count(*) FROM job_events") == kept, policy


async def test_the_statements_of_the_documentation_run(shop: Any, sql: Any) -> None:
    statements = re.findall(r"```sql\n(.*?)```", PAGE, re.DOTALL)
    for statement in statements:
        await shop.execute(statement)
    assert len(statements) == 2
    assert await sql.fetchval("SELECT count(*) FROM background_jobs") == 4
