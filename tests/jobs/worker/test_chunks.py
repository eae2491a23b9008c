"""Jobs that are handled in groups: how a chunk fills, and that each of its jobs is settled by itself."""

import asyncio
from typing import Any

import pytest
from pydantic import BaseModel

from service.audit import Actor
from service.db.engine import Database
from service.jobs import (
    Backoff,
    ChunkJob,
    NewJob,
    PermanentError,
    Registry,
    RetryAfter,
    StepError,
    cancel_job,
    enqueue_batch,
    process_due_jobs,
)
from service.jobs.core import payload_keys
from service.jobs.core.chunk import MAX_CHUNK_BYTES
from service.jobs.core.payload_keys import PayloadKeys
from service.jobs.queues import pause_queue
from service.jobs.worker import lease_clock
from service.jobs.worker.pipeline import Pipeline
from tests.jobs.claims import claim
from tests.jobs.conftest import Events, Put, Quick, StartWorker
from tests.jobs.waiting import occurs, until_ended, until_job, until_true

LONG = 60.0
"""Seconds that a chunk waits where something else shall start it."""


class Document(BaseModel):
    do: str


def act(job: ChunkJob[Document]) -> None:
    """Do what the payload says."""
    match job.payload.do:
        case "succeed":
            job.succeed({"n": 7})
        case "fail":
            job.fail(ValueError("bad luck"))
        case "permanent":
            job.fail(PermanentError("no use"))
        case "later":
            job.fail(RetryAfter(500))
        case "snooze":
            job.snooze(500)
        case "end":
            job.fail(GeneratorExit())
        case "no JSON":
            job.succeed(float("nan"))


@pytest.mark.parametrize("kind", ["coroutine", "thread", "encrypted"])
async def test_each_job_of_a_chunk_is_settled_by_itself(
    handlers: Registry,
    put: Put,
    sql: Any,
    database: Database,
    quick: Quick,
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
) -> None:
    monkeypatch.setattr(payload_keys, "_own", PayloadKeys(["A" * 43 + "="]))
    sizes: list[int] = []
    options: dict[str, Any] = {"chunk": 10, "chunk_seconds": LONG, "payload_model": Document}
    encrypt = ["do"] if kind == "encrypted" else None

    def handle(jobs: list[ChunkJob[Document]]) -> None:
        sizes.append(len(jobs))
        for job in jobs:
            act(job)

    async def handle_async(jobs: list[ChunkJob[Document]]) -> None:
        handle(jobs)

    handlers.handler("index", **options)(handle if kind == "thread" else handle_async)
    says = ("succeed", "nothing", "fail", "permanent", "later", "snooze", "end", "no JSON")
    jobs = {do: await put("index", {"do": do}, encrypt=encrypt) for do in says}
    refused = await put("index", {"do": ["no", "text"]}, encrypt=encrypt)
    await process_due_jobs(database, settings=quick(), handlers=handlers)
    assert sizes == [len(says)]
    found = {row["id"]: row for row in await sql.fetch("SELECT * FROM background_jobs")}
    row = found[refused]
    assert (row["status"], row["attempts"]) == ("FAILED", 1)
    assert "do: Input should be a valid string" in row["last_error"]
    of = {do: found[job_id] for do, job_id in jobs.items()}
    assert {do: (row["status"], row["attempts"], row["result"]) for do, row in of.items()} == {
        "succeed": ("SUCCESS", 1, {"n": 7}),
        "nothing": ("SUCCESS", 1, None),
        "fail": ("PENDING", 1, None),
        "permanent": ("FAILED", 1, None),
        "later": ("PENDING", 1, None),
        "snooze": ("PENDING", 0, None),
        "end": ("PENDING", 1, None),
        "no JSON": ("FAILED", 1, None),
    }
    (entry,) = of["fail"]["errors"]
    assert (entry["type"], entry["message"], entry["chunk"]) == ("ValueError", "bad luck", 8)
    assert entry["traceback"] == "ValueError: bad luck\n"


@pytest.mark.parametrize("error", [LookupError("the index is away"), GeneratorExit()])
async def test_an_error_of_the_handler_fails_those_of_which_nothing_was_said(
    handlers: Registry,
    put: Put,
    sql: Any,
    database: Database,
    quick: Quick,
    error: BaseException,
) -> None:
    @handlers.handler("index", chunk=10, chunk_seconds=LONG)
    async def handle(jobs: list[ChunkJob[Any]]) -> None:
        next(job for job in jobs if job.payload == "done").succeed()
        raise error

    done, again = await put("index", "done"), await put("index")
    last = await put("index", max_retries=0)
    await process_due_jobs(database, settings=quick(), handlers=handlers)
    found = {row["id"]: row for row in await sql.fetch("SELECT * FROM background_jobs")}
    assert {job_id: row["status"] for job_id, row in found.items()} == {
        done: "SUCCESS", again: "PENDING", last: "DEAD_LETTER",
    }  # fmt: skip
    (entry,) = found[again]["errors"]
    assert entry["traceback"].count("in handle") == 1
    assert "service" not in entry["traceback"]


async def test_a_job_that_breaks_the_handler_makes_no_other_a_dead_letter(
    handlers: Registry, put: Put, sql: Any, database: Database, quick: Quick
) -> None:
    sizes: list[int] = []
    at_once = Backoff(base_seconds=0, jitter=0)

    @handlers.handler("index", chunk=10, chunk_seconds=LONG, max_retries=2, backoff=at_once)
    async def handle(jobs: list[ChunkJob[Any]]) -> None:
        sizes.append(len(jobs))
        assert all(job.payload != "bad" for job in jobs)

    for payload in ("good", "bad", "good"):
        await put("index", payload)
    for _ in range(3):
        await process_due_jobs(database, settings=quick(), handlers=handlers)
    found = await sql.fetch("SELECT payload, status FROM background_jobs ORDER BY id")
    assert [tuple(row) for row in found] == [
        ("good", "SUCCESS"), ("bad", "DEAD_LETTER"), ("good", "SUCCESS"),
    ]  # fmt: skip
    assert sizes == [3, 3, 1, 1, 1]


async def test_a_job_is_settled_once_and_recorded_at_once(
    handlers: Registry, put: Put, sql: Any, database: Database, quick: Quick
) -> None:
    ended = asyncio.Event()

    @handlers.handler("index", chunk=2, chunk_seconds=0)
    async def handle(jobs: list[ChunkJob[Any]]) -> None:
        (job,) = jobs
        with pytest.raises(TypeError, match=r"job.fail\(RuntimeError\(message\)\)"):
            job.fail("text")  # type: ignore[arg-type]
        job.succeed(1)
        with pytest.raises(RuntimeError, match="settled already"):
            job.fail(ValueError())
        await until_job(sql, job.job_id, where="status = 'SUCCESS'")  # recorded while it runs
        with pytest.raises(StepError, match="no steps"):
            await job.step("one", print)
        ended.set()

    job_id = await put("index")
    await process_due_jobs(database, settings=quick(), handlers=handlers)
    job = await until_ended(sql, job_id)
    assert (job["status"], job["result"], ended.is_set()) == ("SUCCESS", 1, True)


async def test_a_chunk_is_of_one_queue_and_starts_when_it_is_full_or_has_waited(
    handlers: Registry, put: Put, sql: Any, start_worker: StartWorker
) -> None:
    chunks: list[list[str]] = []

    @handlers.handler("index", chunk=3, chunk_seconds=0.2)
    async def handle(jobs: list[ChunkJob[str]]) -> None:
        chunks.append(sorted(job.payload for job in jobs))

    for n in range(4):
        await put("index", f"a{n}", queue="a")
    await put("index", "b0", queue="b")
    await start_worker()
    await until_true(lambda: len(chunks) == 3)
    assert sorted(map(len, chunks)) == [1, 1, 3]
    assert [len({name[0] for name in chunk}) for chunk in chunks] == [1, 1, 1]


async def test_a_chunk_is_in_order_and_holds_payloads_of_so_many_bytes(
    handlers: Registry, put: Put, sql: Any, database: Database, quick: Quick
) -> None:
    chunks: list[list[str]] = []

    @handlers.handler("index", chunk=100, chunk_seconds=LONG)
    async def handle(jobs: list[ChunkJob[str]]) -> None:
        chunks.append([job.payload[0] for job in jobs])

    bytes_ = 250_000
    for n in range(MAX_CHUNK_BYTES // bytes_ + 1):
        await put("index", f"{n % 3}".ljust(bytes_, "x"), priority=n % 3)
    await process_due_jobs(database, settings=quick(), handlers=handlers)
    assert sorted(map(len, chunks)) == [1, MAX_CHUNK_BYTES // bytes_]
    assert [sorted(chunk) for chunk in chunks] == chunks


async def test_three_workers_share_jobs_in_groups_and_run_each_once(
    handlers: Registry, sql: Any, start_worker: StartWorker
) -> None:
    seen: list[int] = []

    @handlers.handler("index", chunk=10, chunk_seconds=0.05)
    async def handle(jobs: list[ChunkJob[Any]]) -> None:
        assert len(jobs) <= 10
        seen.extend(job.job_id for job in jobs)
        await asyncio.sleep(0.02)

    made = await enqueue_batch(sql, [NewJob("index") for _ in range(120)])
    for _ in range(3):
        await start_worker(worker_concurrency=20)
    for job in made:
        await until_ended(sql, job.id)
    ends = await sql.fetch("SELECT DISTINCT status, attempts FROM background_jobs")
    assert [tuple(row) for row in ends] == [("SUCCESS", 1)]
    assert sorted(seen) == [job.id for job in made]


@pytest.mark.parametrize(
    ("bounds", "jobs"), [({"worker_concurrency": 2}, 2), ({"worker_queues": ("default:3",)}, 3)]
)
async def test_a_chunk_that_can_get_no_more_starts_at_once(
    handlers: Registry,
    put: Put,
    sql: Any,
    start_worker: StartWorker,
    bounds: dict[str, Any],
    jobs: int,
) -> None:
    sizes: list[int] = []

    @handlers.handler("index", chunk=100, chunk_seconds=LONG)
    async def handle(given: list[ChunkJob[Any]]) -> None:
        sizes.append(len(given))

    for _ in range(jobs):
        last = await put("index")
    await start_worker(**bounds)
    await until_ended(sql, last)
    assert sizes == [jobs]


async def test_a_chunk_does_not_keep_slots_that_others_need(
    handlers: Registry, put: Put, sql: Any, start_worker: StartWorker
) -> None:
    sizes: list[int] = []
    released = asyncio.Event()

    @handlers.handler("index", chunk=100, chunk_seconds=LONG)
    async def handle(jobs: list[ChunkJob[Any]]) -> None:
        sizes.append(len(jobs))

    @handlers.handler("plain")
    async def plain(payload: Any) -> None:
        await released.wait()

    worker = await start_worker(worker_concurrency=4)
    for _ in range(2):
        await put("index")
    await until_true(lambda: worker.slots.used == 2)
    assert sizes == []
    waiting = [await put("plain") for _ in range(3)]  # one more than slots are free
    await until_true(lambda: sizes == [2])
    released.set()
    for job_id in waiting:
        assert (await until_ended(sql, job_id))["status"] == "SUCCESS"


async def test_a_chunk_of_a_queue_that_is_paused_waits_for_no_more(
    handlers: Registry, put: Put, sql: Any, database: Database, start_worker: StartWorker
) -> None:
    @handlers.handler("index", chunk=100, chunk_seconds=LONG)
    async def handle(jobs: list[ChunkJob[Any]]) -> None: ...

    worker = await start_worker()
    job_id = await put("index")
    await until_true(lambda: worker.slots.used == 1)
    async with database.sessions.begin() as session:
        await pause_queue(session, "default")
    assert (await until_ended(sql, job_id))["status"] == "SUCCESS"


async def test_a_key_has_no_more_jobs_in_a_chunk_than_its_limit(
    handlers: Registry, put: Put, sql: Any, database: Database, quick: Quick
) -> None:
    chunks: list[list[int]] = []

    @handlers.handler(
        "index", chunk=100, chunk_seconds=0.1, concurrency_key="{payload.of}", max_running_per_key=3
    )
    async def handle(jobs: list[ChunkJob[dict[str, int]]]) -> None:
        chunks.append([job.payload["of"] for job in jobs])

    for n in range(8):
        await put("index", {"of": n % 2}, concurrency_key=f"of:{n % 2}")
    for _ in range(3):
        await process_due_jobs(database, settings=quick(), handlers=handlers)
    assert sum(map(len, chunks)) == 8
    assert max(chunk.count(key) for chunk in chunks for key in (0, 1)) == 3


async def test_a_cancelled_job_leaves_its_chunk_and_the_others_go_on(
    handlers: Registry, put: Put, sql: Any, database: Database, start_worker: StartWorker
) -> None:
    began, told, go_on = asyncio.Event(), asyncio.Event(), asyncio.Event()
    given: list[int] = []

    @handlers.handler("index", chunk=3, chunk_seconds=LONG)
    async def handle(jobs: list[ChunkJob[Any]]) -> None:
        given.extend(job.job_id for job in jobs)
        began.set()
        await until_true(lambda: any(job.cancelled for job in jobs))
        told.set()
        await go_on.wait()

    first = await put("index")
    worker = await start_worker(lease_seconds=1.5, heartbeat_seconds=0.1)
    await until_true(lambda: worker.slots.used == 1)
    lease = await sql.fetchval("SELECT lease_until FROM jobs_live WHERE id = $1", first)
    await until_job(sql, first, where=f"lease_until > '{lease}'")
    await cancel(database, first)  # while the chunk fills
    row = await until_ended(sql, first)
    assert (row["status"], row["cancel"]["how"]) == ("CANCELLED", "not_started")
    ids = [await put("index") for _ in range(3)]
    await occurs(began)
    await cancel(database, ids[0])  # while it runs
    await occurs(told)
    go_on.set()
    rows = [await until_ended(sql, job_id) for job_id in ids]
    assert [row["status"] for row in rows] == ["CANCELLED", "SUCCESS", "SUCCESS"]
    assert (sorted(given), rows[0]["cancel"]["how"]) == (ids, "returned")


async def cancel(database: Database, job_id: Any) -> None:
    async with database.sessions.begin() as session:
        await cancel_job(session, job_id, actor=Actor("ann"))


async def test_a_lost_lease_takes_the_outcome_of_its_job_alone(
    handlers: Registry, put: Put, sql: Any, start_worker: StartWorker, events: Events
) -> None:
    began, told = asyncio.Event(), asyncio.Event()

    @handlers.handler("index", chunk=2, chunk_seconds=LONG)
    async def handle(jobs: list[ChunkJob[Any]]) -> None:
        began.set()
        await until_true(lambda: any(job.cancelled for job in jobs))
        told.set()
        for job in jobs:
            job.succeed(job.payload)

    lost, kept = await put("index", "lost"), await put("index", "kept")
    await start_worker(lease_seconds=1.5, heartbeat_seconds=0.1)
    await occurs(began)
    await sql.execute(
        "UPDATE jobs_live SET lease_token = lease_token + 1000,"
        " lease_until = now() + interval '1 hour' WHERE id = $1",
        lost,
    )
    await occurs(told)
    row = await until_ended(sql, kept)
    assert (row["status"], row["result"]) == ("SUCCESS", "kept")
    await until_true(lambda: events("stale_settle", "index", "lease_lost") == 1)
    assert await sql.fetchval("SELECT status FROM jobs_live WHERE id = $1", lost) == "RUNNING"


async def test_a_handler_that_goes_on_after_its_last_job_has_the_timeout_too(
    handlers: Registry, put: Put, sql: Any, start_worker: StartWorker
) -> None:
    ended = asyncio.Event()

    @handlers.handler("index", chunk=2, chunk_seconds=LONG, timeout=0.2)
    async def handle(jobs: list[ChunkJob[Any]]) -> None:
        for job in jobs:
            job.succeed()
        try:
            await asyncio.sleep(LONG)
        finally:
            ended.set()

    ids = [await put("index") for _ in range(2)]
    worker = await start_worker()
    for job_id in ids:
        assert (await until_ended(sql, job_id))["status"] == "SUCCESS"
    await occurs(ended)
    await until_true(lambda: worker.slots.used == 0)


async def test_a_job_whose_lease_is_nearly_over_is_given_back_and_not_waited_for(
    handlers: Registry, put: Put, sql: Any, database: Database, quick: Quick
) -> None:
    """The process stood still since its claim; the handler of the other job goes on to its timeout."""
    given: list[int] = []

    @handlers.handler("index", chunk=2, chunk_seconds=LONG, timeout=0.2)
    async def handle(jobs: list[ChunkJob[Any]]) -> None:
        given.extend(job.job_id for job in jobs)
        jobs[0].succeed()
        await asyncio.sleep(LONG)

    late, job_id = await put("index"), await put("index")
    pipeline = Pipeline(database, quick(lease_seconds=30, heartbeat_seconds=10), handlers=handlers)
    await pipeline.start()
    for job in await claim(database, ["index"]):
        pipeline.slots.take(job.queue)
        seconds = 1 if job.id == late else 30
        pipeline.executor.start(job, lease_deadline=lease_clock.now() + seconds)
    row = await until_job(sql, late, where="status = 'PENDING'")
    assert (row["attempts"], (await until_ended(sql, job_id))["status"]) == (0, "SUCCESS")
    await until_true(lambda: pipeline.slots.used == 0)
    assert given == [job_id]
    await pipeline.stop(grace_seconds=0)


async def test_each_job_has_its_own_timeout_and_the_handler_the_longest(
    handlers: Registry, put: Put, sql: Any, database: Database, quick: Quick
) -> None:
    cancelled = []

    @handlers.handler("index", chunk=2, chunk_seconds=LONG, max_retries=0)
    async def handle(jobs: list[ChunkJob[Any]]) -> None:
        try:
            await asyncio.sleep(LONG)
        except asyncio.CancelledError:
            cancelled.append(sorted(job.cancelled for job in jobs))
            raise

    await put("index", timeout_seconds=0.1)
    await put("index", timeout_seconds=0.3)
    await process_due_jobs(database, settings=quick(), handlers=handlers)
    found = await sql.fetch("SELECT status, last_error FROM background_jobs ORDER BY id")
    assert [row["status"] for row in found] == ["DEAD_LETTER", "DEAD_LETTER"]
    assert "timeout of 0.1 s" in found[0]["last_error"]
    assert "timeout of 0.3 s" in found[1]["last_error"]
    assert cancelled == [[True, True]]


async def test_a_stop_runs_what_fills_and_gives_back_what_does_not_end(
    handlers: Registry, put: Put, sql: Any, start_worker: StartWorker
) -> None:
    sizes: list[int] = []

    @handlers.handler("index", chunk=10, chunk_seconds=LONG)
    async def handle(jobs: list[ChunkJob[Any]]) -> None:
        sizes.append(len(jobs))
        jobs[0].succeed()
        await asyncio.sleep(LONG)

    for _ in range(3):
        await put("index")
    worker = await start_worker(shutdown_grace_seconds=0.2)
    await until_true(lambda: worker.slots.used == 3)
    await worker.stop()
    found = await sql.fetch("SELECT status, attempts FROM background_jobs ORDER BY status")
    assert (sizes, [tuple(row) for row in found]) == (
        [3], [("PENDING", 0), ("PENDING", 0), ("SUCCESS", 1)],
    )  # fmt: skip


async def test_a_job_that_lost_a_lease_runs_alone(
    handlers: Registry, put: Put, sql: Any, start_worker: StartWorker
) -> None:
    """It may be the one that killed its process."""
    chunks: list[list[str]] = []

    @handlers.handler("index", chunk=3, chunk_seconds=LONG)
    async def handle(jobs: list[ChunkJob[str]]) -> None:
        chunks.append([job.payload for job in jobs])

    for name in ("lost", "lost", "new", "new", "new"):
        await put("index", name)
    await sql.execute(
        "UPDATE jobs_live SET status = 'RUNNING', attempts = 1, lease_token = id,"
        " lease_until = now() - interval '1 s' WHERE payload = $1",
        "lost",
    )
    await start_worker()
    await until_true(lambda: len(chunks) == 3)
    assert sorted(chunks) == [["lost"], ["lost"], ["new", "new", "new"]]
