"""One attempt: how the handler is called, and what its end makes of the job."""

import asyncio
import sys
import threading
from datetime import timedelta
from typing import Any

import pytest
from prometheus_client import REGISTRY
from pydantic import BaseModel, ConfigDict, field_validator

from service.db.engine import Database
from service.jobs import Backoff, JobContext, PermanentError, Registry, RetryAfter, Snooze
from service.jobs.worker import executor
from tests.jobs.conftest import Events, Put, StartWorker
from tests.jobs.waiting import occurs, until, until_ended, until_failed_once, until_job, until_true


async def make_due(sql: Any, job_id: int) -> None:
    await sql.execute("UPDATE jobs_live SET next_run_at = now() WHERE id = $1", job_id)


def deep(levels: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(levels):
        value = [value]
    return value


# -- success --------------------------------------------------------------------------------------


async def test_a_returned_value_is_the_result_of_a_job_that_succeeded(
    handlers: Registry, put: Put, sql: Any, start_worker: StartWorker, events: Events
) -> None:
    seen = []

    @handlers.handler("executor.good")
    async def handle(payload: Any) -> dict[str, Any]:
        seen.append(payload)
        return {"got": "ä"}

    job_id = await put("executor.good", {"n": [1, None, "x"]})
    await start_worker()
    job = await until_ended(sql, job_id)
    assert seen == [{"n": [1, None, "x"]}]
    assert (job["status"], job["result"], job["attempts"]) == ("SUCCESS", {"got": "ä"}, 1)
    assert (job["errors"], job["last_error"], job["lease_until"]) == (None, None, None)
    assert job["created_at"] <= job["started_at"] <= job["finished_at"]
    await until_true(lambda: events("succeeded", "executor.good") == 1)


async def test_a_handler_that_returns_nothing_succeeds_without_a_result(
    handlers: Registry, put: Put, sql: Any, start_worker: StartWorker
) -> None:
    @handlers.handler("mail")
    async def handle(payload: Any) -> None: ...

    job_id = await put("mail")
    await start_worker()
    job = await until_ended(sql, job_id)
    assert (job["status"], job["result"]) == ("SUCCESS", None)


async def test_a_plain_function_runs_in_a_thread_of_its_own(
    handlers: Registry, put: Put, sql: Any, start_worker: StartWorker
) -> None:
    @handlers.handler("mail")
    def handle(payload: Any) -> bool:
        return threading.current_thread() is threading.main_thread()

    job_id = await put("mail")
    await start_worker()
    job = await until_ended(sql, job_id)
    assert (job["status"], job["result"]) == ("SUCCESS", False)


async def test_a_handler_sees_its_attempt(
    handlers: Registry, put: Put, sql: Any, start_worker: StartWorker
) -> None:
    contexts: list[JobContext] = []

    @handlers.handler("mail", max_retries=1, backoff=Backoff(base_seconds=0, jitter=0))
    async def handle(payload: Any, ctx: JobContext) -> None:
        contexts.append(ctx)
        raise LookupError

    job_id = await put("mail")
    await start_worker()
    job = await until_ended(sql, job_id)
    assert [(ctx.attempt, ctx.is_last_attempt) for ctx in contexts] == [(1, False), (2, True)]
    assert {(ctx.job_id, ctx.job_type, ctx.cancelled) for ctx in contexts} == {
        (job_id, "mail", False)
    }
    assert contexts[0].lease_token < contexts[1].lease_token == job["lease_token"]


async def test_progress_is_there_to_see_until_the_job_succeeds(
    handlers: Registry, put: Put, sql: Any, start_worker: StartWorker
) -> None:
    told, go_on = asyncio.Event(), asyncio.Event()

    @handlers.handler("mail")
    async def handle(payload: Any, ctx: JobContext) -> None:
        assert await ctx.progress(0.5, "half way")
        told.set()
        await go_on.wait()

    job_id = await put("mail")
    await start_worker()
    await occurs(told)
    progress = await sql.fetchval("SELECT progress FROM background_jobs WHERE id = $1", job_id)
    assert progress == {"fraction": 0.5, "message": "half way"}
    go_on.set()
    job = await until_ended(sql, job_id)
    assert (job["status"], job["progress"]) == ("SUCCESS", None)


async def test_no_handler_runs_inside_an_open_transaction(
    database: Database, handlers: Registry, put: Put, sql: Any, start_worker: StartWorker
) -> None:
    open_ones = """
      SELECT count(*) = 0 FROM pg_stat_activity WHERE datname = current_database()
        AND pid <> pg_backend_pid()
        AND (backend_xid IS NOT NULL OR backend_xmin IS NOT NULL)"""

    own = await database.connect()

    @handlers.handler("mail")
    async def handle(payload: Any) -> bool:
        # Maintainer and heartbeats have short ones: there must be a moment with none.
        return await until(lambda: own.fetchval(open_ones))

    job_id = await put("mail")
    await start_worker()
    assert (await until_ended(sql, job_id))["result"] is True
    await own.close()


# -- failure and retries --------------------------------------------------------------------------


async def test_retries_wait_30_120_and_480_seconds_and_then_the_job_is_dead(
    handlers: Registry, put: Put, sql: Any, start_worker: StartWorker, events: Events
) -> None:
    @handlers.handler("executor.bad")
    async def handle(payload: Any) -> None:
        raise ValueError("no luck")

    before = await sql.fetchval("SELECT clock_timestamp()")
    job_id = await put("executor.bad")
    await start_worker()
    for attempt, delay in enumerate([30, 120, 480], start=1):
        where = f"status = 'PENDING' AND attempts = {attempt}"
        job = await until_job(sql, job_id, where=where)
        after = await sql.fetchval("SELECT clock_timestamp()")
        assert before <= job["next_run_at"] - timedelta(seconds=delay) <= after
        assert job["last_error"] == "ValueError: no luck"
        assert (job["lease_until"], job["worker_id"], job["started_at"]) == (None, None, None)
        before = after
        await make_due(sql, job_id)
    job = await until_ended(sql, job_id)
    assert (job["status"], job["attempts"]) == ("DEAD_LETTER", 4)
    assert job["last_error"] == "ValueError: no luck"
    await until_true(lambda: events("dead_lettered", "executor.bad", "error") == 1)
    assert events("retried", "executor.bad", "error") == 3


@pytest.mark.parametrize(
    ("job", "handler", "service", "attempts"), [(2, 1, 0, 3), (None, 1, 0, 2), (None, None, 0, 1)]
)
async def test_retries_are_the_jobs_else_its_types_else_the_services(
    handlers: Registry,
    put: Put,
    sql: Any,
    start_worker: StartWorker,
    job: int | None,
    handler: int | None,
    service: int,
    attempts: int,
) -> None:
    ran = []

    @handlers.handler("mail", max_retries=handler, backoff=Backoff(base_seconds=0, jitter=0))
    async def handle(payload: Any) -> None:
        ran.append(payload)
        raise ValueError

    job_id = await put("mail", max_retries=job)
    await start_worker(default_max_retries=service)
    row = await until_ended(sql, job_id)
    assert (row["status"], row["attempts"], len(ran)) == ("DEAD_LETTER", attempts, attempts)


@pytest.mark.parametrize(("job", "handler", "seconds"), [(500, 70, 500), (None, 70, 70)])
async def test_the_backoff_is_the_jobs_else_its_types(
    handlers: Registry,
    put: Put,
    sql: Any,
    start_worker: StartWorker,
    job: float | None,
    handler: float,
    seconds: float,
) -> None:
    @handlers.handler("mail", backoff=Backoff(base_seconds=handler, jitter=0))
    async def handle(payload: Any) -> None:
        raise ValueError

    before = await sql.fetchval("SELECT clock_timestamp()")
    job_id = await put("mail", backoff=Backoff(base_seconds=job, jitter=0) if job else None)
    await start_worker()
    row = await until_failed_once(sql, job_id)
    after = await sql.fetchval("SELECT clock_timestamp()")
    assert before <= row["next_run_at"] - timedelta(seconds=seconds) <= after


@pytest.mark.parametrize("backoff", ["7", '{"factor": -1}', '{"base_seconds": "soon"}'])
async def test_a_backoff_that_makes_no_sense_gives_way_to_the_types(
    handlers: Registry, sql: Any, start_worker: StartWorker, backoff: str
) -> None:
    @handlers.handler("mail", backoff=Backoff(base_seconds=70, jitter=0))
    async def handle(payload: Any) -> None:
        raise ValueError

    # Such as a row of a version before has, whose table did not refuse it.
    await sql.execute("SET session_replication_role = replica")
    job_id = await sql.fetchval(
        "INSERT INTO background_jobs (job_type, backoff) VALUES ('mail', $1::text::jsonb)"
        " RETURNING id",
        backoff,
    )
    await start_worker()
    row = await until_failed_once(sql, job_id)
    assert row["next_run_at"] - row["created_at"] >= timedelta(seconds=70), row["errors"]


async def test_every_failed_attempt_is_kept_with_all_that_is_known_of_it(
    handlers: Registry, put: Put, sql: Any, start_worker: StartWorker
) -> None:
    @handlers.handler("mail", max_retries=1, backoff=Backoff(base_seconds=0, jitter=0))
    async def handle(payload: Any, ctx: JobContext) -> None:
        raise LookupError(f"number {ctx.attempt}")

    job_id = await put("mail")
    worker = await start_worker()
    job = await until_ended(sql, job_id)
    first, second = job["errors"]
    assert (first["attempt"], first["message"]) == (1, "number 1")
    assert (second["attempt"], second["message"]) == (2, "number 2")
    for entry in (first, second):
        assert set(entry) == {
            "event", "attempt", "type", "message", "traceback", "started_at", "at", "worker", "by",
        }  # fmt: skip
        assert (entry["event"], entry["type"], entry["by"]) == ("error", "LookupError", None)
        assert entry["worker"] == worker.name
        assert "raise LookupError" in entry["traceback"]
        assert entry["started_at"] <= entry["at"]


async def test_the_error_history_keeps_the_newest_entries_only(
    handlers: Registry, put: Put, sql: Any, start_worker: StartWorker
) -> None:
    @handlers.handler("mail", max_retries=9, backoff=Backoff(base_seconds=0, jitter=0))
    async def handle(payload: Any) -> None:
        raise ValueError

    job_id = await put("mail")
    await start_worker(max_error_entries=4)
    job = await until_ended(sql, job_id)
    assert [entry["attempt"] for entry in job["errors"]] == [7, 8, 9, 10]


async def test_a_success_keeps_the_errors_that_came_before(
    handlers: Registry, put: Put, sql: Any, start_worker: StartWorker
) -> None:
    @handlers.handler("mail", backoff=Backoff(base_seconds=0, jitter=0))
    async def handle(payload: Any, ctx: JobContext) -> None:
        if ctx.attempt < 3:
            raise ValueError("not yet")

    job_id = await put("mail")
    await start_worker()
    job = await until_ended(sql, job_id)
    assert (job["status"], job["attempts"], len(job["errors"])) == ("SUCCESS", 3, 2)
    assert job["last_error"] == "ValueError: not yet"


class Mute(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no words")


@pytest.mark.whole
@pytest.mark.parametrize(
    "error",
    [
        ValueError("a\0b \ud800 " + "x" * 100_000),
        Mute(),
        SystemExit(3),
        KeyboardInterrupt(),
        StopIteration(),
        asyncio.CancelledError(),
        TimeoutError("of something else"),
        ExceptionGroup("several", [ValueError("a"), KeyError("b")]),
    ],
    ids=lambda error: type(error).__name__,
)
@pytest.mark.parametrize("plain", [False, True], ids=["async", "plain"])
async def test_whatever_a_handler_raises_fails_its_attempt_alone(
    handlers: Registry,
    put: Put,
    sql: Any,
    start_worker: StartWorker,
    error: BaseException,
    plain: bool,
) -> None:
    def fail(payload: Any) -> None:
        raise error

    async def fail_async(payload: Any) -> None:
        raise error

    @handlers.handler("good")
    async def handle(payload: Any) -> None: ...

    handlers.handler("bad")(fail if plain else fail_async)
    bad = await put("bad")
    worker = await start_worker(worker_concurrency=1)
    row = await until_failed_once(sql, bad)
    assert len(row["errors"]) == 1
    assert len(row["errors"][0]["message"]) <= 2_001
    assert len(row["errors"][0]["traceback"]) <= 8_001
    assert (await until_ended(sql, await put("good")))["status"] == "SUCCESS"
    assert worker.alive


# -- what a handler may ask for -------------------------------------------------------------------


async def test_a_permanent_error_fails_the_job_at_once(
    handlers: Registry, put: Put, sql: Any, start_worker: StartWorker, events: Events
) -> None:
    @handlers.handler("executor.permanent")
    async def handle(payload: Any) -> None:
        raise PermanentError("no such recipient")

    job_id = await put("executor.permanent")
    await start_worker()
    job = await until_ended(sql, job_id)
    assert (job["status"], job["attempts"]) == ("FAILED", 1)
    assert job["last_error"] == "PermanentError: no such recipient"
    await until_true(lambda: events("failed", "executor.permanent", "permanent") == 1)


async def test_retry_after_replaces_the_backoff_and_uses_an_attempt(
    handlers: Registry, put: Put, sql: Any, start_worker: StartWorker
) -> None:
    @handlers.handler("mail")
    async def handle(payload: Any) -> None:
        raise RetryAfter(777, "busy")

    before = await sql.fetchval("SELECT clock_timestamp()")
    job_id = await put("mail")
    await start_worker()
    job = await until_failed_once(sql, job_id)
    after = await sql.fetchval("SELECT clock_timestamp()")
    assert before <= job["next_run_at"] - timedelta(seconds=777) <= after
    assert (job["attempts"], job["last_error"]) == (1, "RetryAfter: busy")


async def test_retry_after_the_last_attempt_is_dead(
    handlers: Registry, put: Put, sql: Any, start_worker: StartWorker
) -> None:
    @handlers.handler("mail", max_retries=0)
    async def handle(payload: Any) -> None:
        raise RetryAfter(1)

    job_id = await put("mail")
    await start_worker()
    assert (await until_ended(sql, job_id))["status"] == "DEAD_LETTER"


async def test_a_snooze_uses_no_attempt_and_leaves_no_error(
    handlers: Registry, put: Put, sql: Any, start_worker: StartWorker, events: Events
) -> None:
    attempts = []

    @handlers.handler("executor.snooze", max_retries=0)
    async def handle(payload: Any, ctx: JobContext) -> None:
        attempts.append(ctx.attempt)
        raise Snooze(0 if len(attempts) < 3 else 999)

    before = await sql.fetchval("SELECT clock_timestamp()")
    job_id = await put("executor.snooze")
    await start_worker()
    job = await until_job(sql, job_id, where="next_run_at > now() + interval '500 s'")
    after = await sql.fetchval("SELECT clock_timestamp()")
    assert before <= job["next_run_at"] - timedelta(seconds=999) <= after
    assert (job["status"], job["attempts"], job["errors"]) == ("PENDING", 0, None)
    assert (job["last_error"], attempts) == (None, [1, 1, 1])
    await until_true(lambda: events("snoozed", "executor.snooze") == 3)


class OwnRetryAfter(RetryAfter):
    """As a handler's own class may be: it hands on what a server said."""

    def __init__(self, seconds: Any) -> None:
        super().__init__(1, "busy")
        self.seconds = seconds


class OwnSnooze(Snooze):
    def __init__(self, seconds: Any) -> None:
        super().__init__(1)
        self.seconds = seconds


class Blind(RetryAfter):
    @property
    def seconds(self) -> float:
        raise RuntimeError("no header")

    @seconds.setter
    def seconds(self, _: float) -> None: ...


@pytest.mark.parametrize(
    ("error", "why"),
    [
        (OwnRetryAfter("Wed, 21 Oct"), "'Wed, 21 Oct' (busy)"),
        (OwnRetryAfter(float("nan")), "it is nan (busy)"),
        (OwnRetryAfter(None), "NoneType"),
        (OwnRetryAfter(10**400), "too large"),
        (OwnSnooze("soon"), "'soon' (snoozed for 1 s)"),
        (OwnSnooze(float("inf")), "it is inf"),
        (Blind(1), "no header"),
    ],
    ids=str,
)
async def test_invalid_retry_after_or_snooze_seconds_fall_back_on_the_backoff(
    handlers: Registry, put: Put, sql: Any, start_worker: StartWorker, error: Exception, why: str
) -> None:
    @handlers.handler("bad", backoff=Backoff(base_seconds=70, jitter=0))
    async def fail(payload: Any) -> None:
        raise error

    @handlers.handler("good")
    async def handle(payload: Any) -> None: ...

    bad, good = await put("bad"), await put("good")
    await start_worker()
    row = await until_failed_once(sql, bad)
    assert timedelta(seconds=70) <= row["next_run_at"] - row["created_at"] < timedelta(seconds=90)
    assert row["last_error"].startswith(f"{type(error).__name__}: its `seconds` must be a finite")
    assert why in row["last_error"]
    assert (row["attempts"], len(row["errors"])) == (1, 1)
    assert (await until_ended(sql, good))["status"] == "SUCCESS"


async def test_seconds_that_came_as_text_are_taken_for_what_they_say(
    handlers: Registry, put: Put, sql: Any, start_worker: StartWorker
) -> None:
    @handlers.handler("mail")
    async def handle(payload: Any) -> None:
        raise OwnRetryAfter("777")

    before = await sql.fetchval("SELECT clock_timestamp()")
    job_id = await put("mail")
    await start_worker()
    job = await until_failed_once(sql, job_id)
    after = await sql.fetchval("SELECT clock_timestamp()")
    assert before <= job["next_run_at"] - timedelta(seconds=777) <= after
    assert job["last_error"] == "OwnRetryAfter: busy"


# -- timeouts -------------------------------------------------------------------------------------


async def forever() -> None:
    await asyncio.get_running_loop().create_future()


async def test_a_handler_that_takes_too_long_is_cancelled_and_retried(
    handlers: Registry, put: Put, sql: Any, start_worker: StartWorker, events: Events
) -> None:
    cancelled = asyncio.Event()

    @handlers.handler("executor.slow", timeout=0.05)
    async def handle(payload: Any) -> None:
        try:
            await forever()
        finally:
            cancelled.set()

    job_id = await put("executor.slow")
    await start_worker()
    job = await until_failed_once(sql, job_id)
    assert cancelled.is_set()
    assert job["last_error"].startswith("HandlerTimeout: the handler took longer than")
    assert "0.05 s" in job["last_error"]
    assert job["attempts"] == 1
    await until_true(lambda: events("retried", "executor.slow", "timeout") == 1)


@pytest.mark.parametrize(
    ("job", "handler", "service"), [(0.05, 60, 60), (None, 0.05, 60), (None, None, 0.05)]
)
async def test_the_timeout_is_the_jobs_else_its_types_else_the_services(
    handlers: Registry,
    put: Put,
    sql: Any,
    start_worker: StartWorker,
    job: float | None,
    handler: float | None,
    service: float,
) -> None:
    @handlers.handler("mail", timeout=handler, max_retries=0)
    async def handle(payload: Any) -> None:
        await forever()

    job_id = await put("mail", timeout_seconds=job)
    await start_worker(default_timeout_seconds=service)
    row = await until_ended(sql, job_id)
    assert "timeout of 0.05 s" in row["last_error"]


async def test_a_plain_function_sees_its_timeout(
    handlers: Registry, put: Put, sql: Any, start_worker: StartWorker
) -> None:
    stopped = threading.Event()

    @handlers.handler("mail", timeout=0.05)
    def handle(payload: Any, ctx: JobContext) -> None:
        waiting = threading.Event()
        for _ in range(1000):
            if ctx.cancelled:
                stopped.set()
                return
            waiting.wait(0.01)

    job_id = await put("mail")
    await start_worker()
    job = await until_failed_once(sql, job_id)
    assert job["last_error"].startswith("HandlerTimeout")
    await until_true(stopped.is_set)


@pytest.mark.whole
async def test_a_plain_function_waits_for_a_thread_on_nobodys_time(
    handlers: Registry, put: Put, sql: Any, start_worker: StartWorker
) -> None:
    waiting = threading.Event()

    @handlers.handler("mail", timeout=0.6, max_retries=0)
    def handle(payload: Any) -> None:
        waiting.wait(0.3)

    jobs = [await put("mail") for _ in range(4)]
    await start_worker(sync_handler_threads=1)
    ended = [(await until_ended(sql, job_id))["status"] for job_id in jobs]
    assert ended == ["SUCCESS"] * 4


async def test_a_result_after_the_timeout_does_not_count(
    handlers: Registry, put: Put, sql: Any, start_worker: StartWorker
) -> None:
    @handlers.handler("mail", timeout=0.05)
    async def handle(payload: Any) -> str:
        try:
            await forever()
        except asyncio.CancelledError:
            return "swallowed"
        return "never"

    job_id = await put("mail")
    await start_worker()
    job = await until_failed_once(sql, job_id)
    assert job["last_error"].startswith("HandlerTimeout")


async def test_a_handler_that_never_stops_is_recorded_and_keeps_its_slot(
    handlers: Registry,
    put: Put,
    sql: Any,
    start_worker: StartWorker,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(executor, "STUCK_AFTER_SECONDS", 0.1)
    release = asyncio.Event()

    @handlers.handler("mail", timeout=0.05)
    async def handle(payload: Any) -> str:
        while not release.is_set():
            try:
                await release.wait()
            except asyncio.CancelledError:
                continue
        return "late"

    stuck_before = REGISTRY.get_sample_value("finmind_handlers_stuck") or 0
    job_id = await put("mail")
    worker = await start_worker()
    job = await until_failed_once(sql, job_id)
    assert job["last_error"].startswith("HandlerTimeout")
    assert worker._pipeline.slots.used == 1
    assert REGISTRY.get_sample_value("finmind_handlers_stuck") == stuck_before + 1
    release.set()
    await until_true(lambda: worker._pipeline.slots.used == 0)
    assert REGISTRY.get_sample_value("finmind_handlers_stuck") == stuck_before
    job = await sql.fetchrow("SELECT * FROM background_jobs WHERE id = $1", job_id)
    assert (job["status"], job["result"], len(job["errors"])) == ("PENDING", None, 1)


async def test_a_thread_that_never_stops_is_recorded_and_keeps_its_slot(
    handlers: Registry,
    put: Put,
    sql: Any,
    start_worker: StartWorker,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(executor, "STUCK_AFTER_SECONDS", 0.1)
    release = threading.Event()

    @handlers.handler("mail", timeout=0.05)
    def handle(payload: Any) -> None:
        release.wait(20)

    job_id = await put("mail")
    worker = await start_worker(shutdown_grace_seconds=30)
    try:
        job = await until_failed_once(sql, job_id)
        assert job["last_error"].startswith("HandlerTimeout")
        assert worker._pipeline.slots.used == 1
        async with asyncio.timeout(10):
            await worker.stop()  # it has nothing to wait for: the grace is not used up
    finally:
        release.set()
    await until_true(lambda: worker._pipeline.slots.used == 0)


# -- payloads and results -------------------------------------------------------------------------


class Mail(BaseModel):
    to: str
    secret: int

    @field_validator("to")
    @classmethod
    def _named(cls, value: str) -> str:
        if "@" not in value:
            raise ValueError("needs an @")
        return value


async def test_a_payload_is_handed_over_as_its_model(
    handlers: Registry, put: Put, sql: Any, start_worker: StartWorker
) -> None:
    @handlers.handler("mail", payload_model=Mail)
    async def handle(payload: Mail) -> str:
        return payload.to

    job_id = await put("mail", Mail(to="a@b", secret=1))
    await start_worker()
    assert (await until_ended(sql, job_id))["result"] == "a@b"


async def test_an_invalid_payload_fails_the_job_and_shows_no_value(
    handlers: Registry, put: Put, sql: Any, start_worker: StartWorker, events: Events
) -> None:
    @handlers.handler("executor.model", payload_model=Mail)
    async def handle(payload: Mail) -> None: ...

    job_id = await put("executor.model", {"to": "hunter2", "secret": "hunter2"})
    await start_worker()
    job = await until_ended(sql, job_id)
    assert (job["status"], job["attempts"]) == ("FAILED", 1)
    assert job["last_error"].startswith("InvalidPayload: to: Value error, needs an @; secret: ")
    assert "hunter2" not in str(job["errors"])
    await until_true(lambda: events("failed", "executor.model", "bad_payload") == 1)


class Opaque(BaseModel):
    model_config = ConfigDict(arbitrary_types_allowed=True)

    thing: object


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (float("nan"), "not JSON"),
        ({"x": "\0"}, "NUL"),
        ({"x": "\ud800"}, "lone surrogate"),
        (deep(10_000), "nested too deep"),
        (object(), "not JSON"),
        (Opaque(thing=object()), "not JSON"),
        ("x" * 2_000, "at most 1024"),
    ],
    ids=["NaN", "NUL", "surrogate", "deep", "object", "model", "long"],
)
async def test_a_result_that_cannot_be_stored_fails_the_job_with_the_reason(
    handlers: Registry,
    put: Put,
    sql: Any,
    start_worker: StartWorker,
    value: Any,
    words: str,
) -> None:
    @handlers.handler("mail")
    async def handle(payload: Any) -> Any:
        return value

    job_id = await put("mail")
    await start_worker(max_payload_bytes=1024)
    job = await until_ended(sql, job_id)
    assert (job["status"], job["result"]) == ("FAILED", None)
    assert job["last_error"].startswith("PayloadError: The result")
    assert words in job["last_error"]


async def test_a_payload_too_deep_to_read_ends_its_job_failed_at_once(
    handlers: Registry, sql: Any, start_worker: StartWorker
) -> None:
    @handlers.handler("mail", max_retries=3)
    async def handle(payload: Any) -> None: ...

    levels = sys.getrecursionlimit() + 500
    job_id = await sql.fetchval(
        "INSERT INTO background_jobs (job_type, payload) VALUES ('mail', $1::text::jsonb)"
        " RETURNING id",
        "[" * levels + "]" * levels,
    )
    await start_worker()
    # The payload is left out: this process cannot read it either.
    ended = "SELECT status, attempts, last_error FROM jobs_dead WHERE id = $1"
    job = await until(lambda: sql.fetchrow(ended, job_id))
    assert (job["status"], job["attempts"]) == ("FAILED", 1)
    assert job["last_error"].startswith("InvalidPayload: the payload cannot be read")
