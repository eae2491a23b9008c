"""A job that waits at a step has no slot, comes back when that is over, and waits for it once."""

import asyncio
import time
from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import pytest
from sqlalchemy.ext.asyncio import AsyncSession

from service.db.engine import Database
from service.errors import Conflict, InvalidInput, NotFound, PayloadError
from service.jobs import (
    Backoff,
    EventTimeout,
    JobContext,
    JobId,
    NewJob,
    Registry,
    cancel_job,
    enqueue_batch,
    get_job,
    retry_dead_letter_job,
    send_event,
    store,
)
from service.jobs.core.outcomes import Suspended
from service.jobs.core.steps import NewStep, StepKind
from service.jobs.read.advice import advice, summary
from service.jobs.read.explain import explain
from service.jobs.read.waiting import waiting_for
from tests.jobs.claims import claim
from tests.jobs.conftest import Events, Put, StartWorker
from tests.jobs.waiting import until, until_ended, until_job

AT_ONCE: Final = Backoff(0.001, 1, 0.001, 0)
WAITS: Final = (
    "status = 'PENDING' AND attempts = 0 AND EXISTS (SELECT FROM job_steps s WHERE s.job_id = id)"
)
HOUR: Final = 3600.0


async def test_a_sleep_frees_the_slot_and_is_slept_once(
    handlers: Registry, put: Put, sql: Any, start_worker: StartWorker, events: Events
) -> None:
    calls: Counter[str] = Counter()
    slept: list[float] = []

    @handlers.handler("sleep", backoff=AT_ONCE)
    async def handle(payload: Any, ctx: JobContext) -> Any:
        calls["runs"] += 1
        began = await ctx.step("began", time.time)
        await ctx.sleep(0.5)
        slept.append(time.time() - began)
        await ctx.sleep_until(datetime.now(UTC) - timedelta(days=1), name="past")
        if len(slept) == 1:
            raise ValueError("the sleep is not begun anew")
        return ctx.attempt

    @handlers.handler("mail")
    def other(payload: Any, ctx: JobContext) -> Any:
        ctx.sleep_sync(timedelta(seconds=0.2))
        return "slept"

    job_id = await put("sleep")
    await start_worker(worker_concurrency=1)
    waiting = await until_job(sql, job_id, where=WAITS)
    assert waiting["lease_until"] is None
    assert waiting["errors"] is None
    assert (await until_ended(sql, await put("mail")))["result"] == "slept"  # in the one slot
    job = await until_ended(sql, job_id)
    assert (job["status"], job["result"], calls["runs"]) == ("SUCCESS", 2, 3)
    assert slept[0] >= 0.5
    assert events("suspended", "sleep", "sleep") == 1


async def test_an_event_makes_the_job_that_waits_for_it_due_at_once(
    handlers: Registry, put: Put, sql: Any, session: AsyncSession, start_worker: StartWorker
) -> None:
    calls: Counter[str] = Counter()

    @handlers.handler("order")
    async def handle(payload: Any, ctx: JobContext) -> Any:
        await ctx.step("offer", lambda: calls.update(["offer"]))
        early = await ctx.wait_for_event("signed", timeout=timedelta(days=30))
        try:
            paid = await ctx.wait_for_event("paid", timeout=HOUR)
        except Exception:  # a suspension is none
            calls["caught"] += 1
            raise
        return [early, paid]

    job_id = await put("order")
    async with session.begin():
        sent = await send_event(session, job_id, "signed", {"by": "ann"})
    assert (sent.is_new, sent.was_awaited, sent.sent_by) == (True, False, "python")
    await start_worker()
    waiting = await until_job(sql, job_id, where=WAITS)
    left = (waiting["next_run_at"] - datetime.now(UTC)).total_seconds()
    assert HOUR - 60 < left <= HOUR
    async with session.begin():
        assert (await send_event(session, job_id, "paid", 12)).was_awaited
        again = await send_event(session, job_id, "paid", 12)
        assert (again.is_new, again.data) == (False, 12)
        with pytest.raises(Conflict, match="has had an event 'paid' with other data"):
            await send_event(session, job_id, "paid", 13)
    job = await until_ended(sql, job_id)
    assert (job["status"], job["attempts"], job["result"]) == ("SUCCESS", 1, [{"by": "ann"}, 12])
    assert calls == {"offer": 1}


async def test_an_event_that_does_not_come_is_a_timeout_in_every_attempt_until_a_retry_by_hand(
    handlers: Registry, put: Put, sql: Any, session: AsyncSession, start_worker: StartWorker
) -> None:
    outcomes: list[Any] = []

    @handlers.handler("order", backoff=AT_ONCE)
    def handle(payload: Any, ctx: JobContext) -> Any:
        try:
            outcomes.append(ctx.wait_for_event_sync("paid", timeout=0.1))
        except TimeoutError as error:
            outcomes.append(type(error))
            if len(outcomes) == 1:
                raise ValueError("the timeout is not begun anew") from None
            raise
        return outcomes[-1]

    job_id = await put("order")
    await start_worker()
    job = await until_ended(sql, job_id)
    assert outcomes == [EventTimeout, EventTimeout]
    assert job["status"] == "FAILED"
    assert job["last_error"] == "EventTimeout: No event 'paid' was sent to the job in time"
    async with session.begin():
        with pytest.raises(Conflict, match="a job that has ended takes no events"):
            await send_event(session, job_id, "paid", 1)
        await retry_dead_letter_job(session, job_id)
        await send_event(session, job_id, "paid", 2)
    assert (await until_ended(sql, job_id))["result"] == 2


@pytest.mark.parametrize("awaited", ["event", "sleep"])
async def test_an_event_that_comes_while_the_job_is_put_back_is_not_missed(
    database: Database, session: AsyncSession, put: Put, sql: Any, awaited: str
) -> None:
    """The statement that puts it back began before the event was there, and waits for its sender."""
    job_id = await put("order")
    (job,) = await claim(database, ["order"])
    link = database.link()
    wait = NewStep(job.lease, "order", "paid", StepKind(awaited), 1, 0.0, wait_seconds=HOUR)
    await store.steps.store(link, [wait])
    async with session.begin():
        await send_event(session, job_id, "paid", 1)
        putting_back = asyncio.ensure_future(
            store.settle.requeue(link, [(job, Suspended("paid", awaited))], max_errors=20)
        )
        await until(
            lambda: sql.fetchval(
                "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
                " AND datname = current_database()"
            )
        )
    assert await putting_back == set()
    row = await sql.fetchrow("SELECT status, next_run_at <= now() AS due FROM jobs_live")
    assert tuple(row) == ("PENDING", awaited == "event")
    await link.close()


async def test_events_are_refused_in_words(session: AsyncSession, put: Put) -> None:
    job_id = await put("order")
    async with session.begin():
        with pytest.raises(
            InvalidInput, match="'a b' is not a name of an event: expected 1 to 100"
        ):
            await send_event(session, job_id, "a b")
        with pytest.raises(PayloadError, match="at most 100 are allowed"):
            await send_event(session, job_id, "paid", "x" * 200, max_bytes=100)
        with pytest.raises(NotFound):
            await send_event(session, JobId(4711), "paid")
        await send_event(session, job_id, "first", max_events=1)
        await send_event(session, job_id, "first", max_events=1)
        with pytest.raises(Conflict, match="has 1 events, and takes no more"):
            await send_event(session, job_id, "second", max_events=1)
        await cancel_job(session, job_id)
        with pytest.raises(Conflict, match="is CANCELLED"):
            await send_event(session, job_id, "late")
        assert not (await send_event(session, job_id, "first", max_events=1)).is_new


WRONG_WAITS: Final[dict[str, tuple[Any, str]]] = {
    "negative": (lambda ctx: ctx.sleep(-1), "The sleep is -1: expected seconds or a timedelta"),
    "text": (lambda ctx: ctx.sleep("soon"), "The sleep is 'soon'"),
    "no_zone": (lambda ctx: ctx.sleep_until(datetime(2026, 3, 1)),  # noqa: DTZ001 - the mistake
        "a time with a zone"),
    "too_far": (lambda ctx: ctx.sleep_until(datetime(2199, 1, 1, tzinfo=UTC)), "from 0 to 366 days"),
    "event_name": (lambda ctx: ctx.wait_for_event("a b", timeout=1), "not a name of an event"),
    "forever": (
        lambda ctx: ctx.wait_for_event("a", timeout=float("inf")), "The timeout of event 'a' is inf",
    ),
}  # fmt: skip


async def test_waits_that_cannot_be_fail_the_job_and_say_why(
    handlers: Registry, put: Put, sql: Any, start_worker: StartWorker
) -> None:
    @handlers.handler("misuse")
    async def handle(payload: str, ctx: JobContext) -> None:
        await WRONG_WAITS[payload][0](ctx)

    jobs = {name: await put("misuse", name) for name in WRONG_WAITS}
    await start_worker()
    for name, job_id in jobs.items():
        job = await until_ended(sql, job_id)
        assert job["status"] == "FAILED", name
        assert WRONG_WAITS[name][1] in job["last_error"]


async def test_a_handler_that_catches_everything_waits_all_the_same(
    handlers: Registry, put: Put, sql: Any, start_worker: StartWorker
) -> None:
    after = []

    @handlers.handler("order")
    async def handle(payload: Any, ctx: JobContext) -> str:
        try:
            await ctx.sleep(0.1)
        except BaseException:
            await ctx.step("after", lambda: after.append("too early"))
        return "slept"

    job_id = await put("order")
    await start_worker()
    job = await until_ended(sql, job_id)
    assert (job["status"], job["result"], after) == ("SUCCESS", "slept", [])


async def test_a_job_that_waits_at_a_step_says_for_what(
    handlers: Registry, put: Put, sql: Any, session: AsyncSession, start_worker: StartWorker
) -> None:
    @handlers.handler("order")
    async def handle(payload: str, ctx: JobContext) -> None:
        if payload == "paid":
            await ctx.wait_for_event("paid", timeout=HOUR)
        await ctx.sleep(HOUR, name="pause")

    jobs = [
        await put("order", "paid"),
        await put("order", "pause"),
        await put("order", delay_seconds=HOUR),
    ]
    await start_worker()
    for job_id in jobs[:2]:
        await until_job(sql, job_id, where=WAITS)
    now = datetime.now(UTC)
    async with session.begin():
        rows = [await get_job(session, job_id) for job_id in jobs]
        found = await waiting_for(session, rows, now=now, alive_seconds=30)
        assert list(found.values()) == ["event", "sleep", "time"]
        said = [
            await explain(session, job, now=now, alive_seconds=30, max_lost_leases=5)
            for job in rows
        ]
    assert [one.waiting_for for one in said] == ["event", "sleep", "time"]
    assert summary(said[0]).startswith("It waits for event paid since ")
    assert advice(said[0]) == [
        f"Send the event (POST /jobs/{jobs[0]}/events/paid), or wait for it."
    ]
    assert summary(said[1]).endswith("at step pause of its handler.")
    assert said[0].since is not None


async def test_of_three_workers_whoever_comes_next_goes_on_behind_the_steps(
    handlers: Registry, sql: Any, session: AsyncSession, start_worker: StartWorker
) -> None:
    calls: Counter[tuple[int, str]] = Counter()

    @handlers.handler("order", backoff=AT_ONCE)
    async def handle(payload: int, ctx: JobContext) -> list[Any]:
        for name in ("charge", "pack"):
            await ctx.step(name, count, payload, name)
            await ctx.sleep(0.05, name=f"after {name}")
        paid = await ctx.wait_for_event("paid", timeout=HOUR)
        if await ctx.step("failed", work, ctx.attempt) == ctx.attempt:
            raise ValueError("once more")
        return [payload, paid, ctx.attempt]

    def count(payload: int, name: str) -> None:
        calls[payload, name] += 1

    async def work(value: int) -> int:
        return value

    jobs = await enqueue_batch(sql, [NewJob("order", number) for number in range(20)])
    for _ in range(3):
        await start_worker(worker_concurrency=2)
    for job in jobs:
        async with session.begin():
            await send_event(session, job.id, "paid", job.id)
    for number, job in enumerate(jobs):
        ended = await until_ended(sql, job.id)
        assert ended["result"] == [number, job.id, 2]
    assert calls == dict.fromkeys(((n, name) for n in range(20) for name in ("charge", "pack")), 1)
