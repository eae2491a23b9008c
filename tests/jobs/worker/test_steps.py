"""A step that is done is not done again, and nothing of an attempt that lost its lease is stored."""

import asyncio
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from typing import Any, Final, cast

import pytest
from prometheus_client import REGISTRY
from sqlalchemy.ext.asyncio import AsyncSession

from service.db.connection import Link
from service.db.engine import Database
from service.jobs import Backoff, JobContext, Registry, delete_job, store
from service.jobs.core.steps import NewStep, StepKind
from service.jobs.maintenance.steps import Steps
from tests.jobs.claims import claim
from tests.jobs.conftest import Events, Put, StartWorker
from tests.jobs.proxy import Proxy
from tests.jobs.waiting import occurs, until_ended, until_true

AT_ONCE: Final = Backoff(0.001, 1, 0.001, 0)
STEPS: Final = "SELECT name, result::text FROM job_steps WHERE job_id = $1 ORDER BY started_at"
STEAL: Final = """
UPDATE jobs_live SET lease_token = nextval('background_job_lease_tokens'),
  lease_until = now() + interval '1 hour' WHERE id = $1"""


@dataclass
class Receipt:
    """What a function of a step returns."""

    number: int
    at: date


async def test_a_retry_returns_what_its_steps_have_stored_without_a_call(
    handlers: Registry, put: Put, sql: Any, start_worker: StartWorker
) -> None:
    calls: Counter[str] = Counter()
    seen: list[Any] = []

    async def charge(order: int, *, currency: str) -> Receipt:
        calls["charge"] += 1
        return Receipt(order, date(2026, 3, 1))

    def pack(order: int) -> dict[str, Any]:
        calls["pack"] += 1
        return {"z": 1e300, "a": [order, None], "thread": threading.current_thread().name[:15]}

    @handlers.handler("order", backoff=AT_ONCE)
    async def handle(payload: Any, ctx: JobContext) -> Any:
        receipt = await ctx.step("charge", charge, payload, currency="EUR")
        packed = await ctx.step("pack", pack, payload)
        nothing = await ctx.step("nothing", lambda: asyncio.sleep(0))
        seen.append((receipt, list(packed.items()), nothing))
        if len(seen) < 3:
            raise ValueError("not yet")
        return packed["a"]

    job_id = await put("order", 7)
    await start_worker()
    job = await until_ended(sql, job_id)
    assert (job["status"], job["attempts"], job["result"]) == ("SUCCESS", 3, [7, None])
    assert calls == {"charge": 1, "pack": 1}
    assert seen[0] == seen[1] == seen[2]  # to the order of keys
    assert seen[0][0] == {"number": 7, "at": "2026-03-01"}
    assert dict(seen[0][1])["thread"] == "finmind-handler"
    assert [row[0] for row in await sql.fetch(STEPS, job_id)] == ["charge", "pack", "nothing"]


async def test_a_step_that_raises_stores_nothing_and_fails_the_attempt_unless_it_is_caught(
    handlers: Registry, put: Put, sql: Any, start_worker: StartWorker
) -> None:
    calls: Counter[str] = Counter()

    def flaky(name: str) -> int:
        calls[name] += 1
        if calls[name] == 1:
            raise ConnectionError(f"{name} does not answer")
        return calls[name]

    @handlers.handler("order", backoff=AT_ONCE)
    def handle(payload: Any, ctx: JobContext) -> Any:
        try:
            ctx.step_sync("caught", flaky, "caught")
        except ConnectionError:
            ctx.step_sync("caught", flaky, "caught")
        return ctx.step_sync("raised", flaky, "raised")

    job_id = await put("order")
    await start_worker()
    job = await until_ended(sql, job_id)
    assert (job["status"], job["attempts"], job["result"]) == ("SUCCESS", 2, 2)
    assert job["errors"][0]["message"] == "raised does not answer"
    assert calls == {"caught": 2, "raised": 2}
    assert await sql.fetch(STEPS, job_id) == [("caught", "2"), ("raised", "2")]


async def work(value: Any = None) -> Any:
    return value


async def twice(ctx: JobContext) -> None:
    await ctx.step("charge", work)
    await ctx.step("charge", work)


def _plain(ctx: JobContext) -> Any:
    return ctx.step_sync("charge", work)


async def many(ctx: JobContext) -> None:
    for n in range(4):
        await ctx.step(f"send:{n}", work)


async def at_once(ctx: JobContext) -> None:
    await asyncio.gather(*(ctx.step(f"send:{n}", work) for n in range(4)))


MISUSES: Final[dict[str, tuple[Callable[[JobContext], Any], str]]] = {
    "twice": (twice, "has had a step 'charge'"),
    "coroutine": (lambda ctx: ctx.step("charge", work()), "not ctx.step('charge', charge(order))"),  # type: ignore[arg-type]
    "no_name": (lambda ctx: ctx.step("", work), "'' is not a name of a step: expected 1 to 200"),
    "odd_name": (lambda ctx: ctx.step("a\0b", work), "is not a name of a step"),
    "no_json": (lambda ctx: ctx.step("charge", work, float("nan")), "The result of step 'charge' is not"),
    "too_large": (lambda ctx: ctx.step("charge", work, "x" * 5000), "(JOB_STEP_BYTES) with that of"),
    "too_many": (many, "at most 3 are allowed (JOB_STEPS)"),
    "too_many_at_once": (at_once, "at most 3 are allowed (JOB_STEPS)"),
    "in_a_thread": (lambda ctx: asyncio.to_thread(_plain, ctx), "is a coroutine function"),
}  # fmt: skip


async def test_what_a_retry_could_not_help_fails_the_job_and_says_what_to_do(
    handlers: Registry, put: Put, sql: Any, start_worker: StartWorker
) -> None:
    @handlers.handler("misuse")
    async def handle(payload: str, ctx: JobContext) -> None:
        await MISUSES[payload][0](ctx)

    jobs = {name: await put("misuse", name) for name in MISUSES}
    await start_worker(job_steps=3, job_step_bytes=4096)
    for name, job_id in jobs.items():
        job = await until_ended(sql, job_id)
        assert (job["status"], job["attempts"]) == ("FAILED", 1), name
        assert job["last_error"].startswith("StepError: ")
        assert MISUSES[name][1] in job["last_error"]


async def test_a_step_under_a_lost_lease_is_not_stored_and_is_counted(
    handlers: Registry, put: Put, sql: Any, start_worker: StartWorker, events: Events
) -> None:
    running, go_on, refused = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def charge() -> int:
        running.set()
        await go_on.wait()
        return 1

    @handlers.handler("order")
    async def handle(payload: Any, ctx: JobContext) -> None:
        try:
            await ctx.step("charge", charge)
        finally:
            refused.set()

    job_id = await put("order")
    await start_worker()
    await occurs(running)
    await sql.execute(STEAL, job_id)
    go_on.set()
    await occurs(refused)
    assert await sql.fetch(STEPS, job_id) == []
    assert events("stale_step", "order", "lease_lost") == 1
    await until_true(lambda: events("stale_settle", "order", "lease_lost") == 1)


async def test_a_claim_waits_for_a_step_that_is_being_stored_and_reads_it(
    database: Database, put: Put, sql: Any
) -> None:
    job_id = await put("order")
    (job,) = await claim(database, ["order"], lease_seconds=0)
    step = NewStep(job.lease, "order", "charge", StepKind.CALL, 1, 0.0, "1")
    link, other = database.link(), database.link()
    async with link.transaction() as connection:

        class Open:
            """A link whose statement is not committed yet."""

            async def fetch(self, sql: str, *args: object) -> Any:
                return await connection.fetch(link.render(sql), *args)

        assert await store.steps.store(cast("Link", Open()), [step])
        assert await claim(database, ["order"]) == []  # although its lease is over
    (taken,) = await claim(database, ["order"])
    assert (await store.steps.of_job(other, job_id))["charge"].result == "1"
    assert await store.steps.store(other, [step]) == {}
    assert taken.lease != job.lease
    await link.close()
    await other.close()


@pytest.mark.whole
async def test_a_result_waits_for_a_database_that_is_away_and_its_function_runs_once(
    proxy: Proxy, proxied: Database, handlers: Registry, put: Put, sql: Any,
    start_worker: StartWorker,
) -> None:  # fmt: skip
    labels = {"operation": "steps"}
    failed = REGISTRY.get_sample_value("finmind_database_errors_total", labels) or 0.0
    calls = []

    async def charge() -> int:
        calls.append(1)
        await proxy.cut()
        asyncio.get_running_loop().call_later(0.2, go_on.set)
        return 1

    @handlers.handler("order")
    async def handle(payload: Any, ctx: JobContext) -> Any:
        async with asyncio.TaskGroup() as group:
            step = group.create_task(ctx.step("charge", charge))
            await go_on.wait()
            await proxy.start()
        return step.result()

    go_on = asyncio.Event()
    job_id = await put("order")
    await start_worker(database=proxied)
    job = await until_ended(sql, job_id)
    assert (job["status"], job["attempts"], job["result"], len(calls)) == ("SUCCESS", 1, 1, 1)
    assert (REGISTRY.get_sample_value("finmind_database_errors_total", labels) or 0) > failed


async def test_a_worker_that_stops_stores_what_a_step_in_a_thread_has_returned(
    handlers: Registry, put: Put, sql: Any, start_worker: StartWorker
) -> None:
    running, go_on = threading.Event(), threading.Event()
    calls = []

    def charge() -> int:
        calls.append(1)
        running.set()
        assert go_on.wait(15)
        return 1

    @handlers.handler("order")
    async def handle(payload: Any, ctx: JobContext) -> Any:
        asyncio.get_running_loop().call_later(0.1, go_on.set)
        return await ctx.step("charge", charge)

    job_id = await put("order")
    worker = await start_worker(shutdown_grace_seconds=0)
    await until_true(running.is_set)
    await worker.stop()
    assert await sql.fetch(STEPS, job_id) == [("charge", "1")]
    await start_worker()
    job = await until_ended(sql, job_id)
    assert (job["status"], job["attempts"], len(calls)) == ("SUCCESS", 1, 1)


async def test_steps_and_events_go_with_their_job(
    database: Database, session: AsyncSession, put: Put, sql: Any
) -> None:
    deleted, kept = await put("order"), await put("order")
    gone = kept + 1  # as if its day had been dropped
    for job_id in (deleted, kept, gone):
        await sql.execute(
            "INSERT INTO job_steps (job_id, name, kind, attempt, lease_token, started_at)"
            " VALUES ($1, 'charge', 'call', 1, 1, now())",
            job_id,
        )
        await sql.execute("INSERT INTO job_events (job_id, name) VALUES ($1, 'paid')", job_id)
    left = "SELECT array_agg(DISTINCT job_id) FROM (SELECT job_id FROM job_steps UNION ALL SELECT job_id FROM job_events) s"
    async with session.begin():
        await delete_job(session, deleted)
    assert await sql.fetchval(left) == [kept, gone]
    link = database.link()
    await Steps(link).drop_of_no_job()
    await link.close()
    assert await sql.fetchval(left) == [kept]
