"""Handlers with `executor="process"`: their outcomes, their context, and how they are stopped."""

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import REGISTRY

from service.audit import Actor
from service.db.engine import Database
from service.jobs import JobId, Registry, cancel_job
from service.jobs.worker.handler_process.messages import LENGTH, Frames, TooLong, from_process
from service.jobs.worker.handler_process.process import how_it_ended
from tests.jobs.conftest import Events, Put, StartWorker
from tests.jobs.waiting import until, until_ended, until_failed_once, until_job, until_true
from tests.jobs.worker import process_handlers
from tests.jobs.worker.test_leases import STEAL


def ended(why: str) -> float:
    return REGISTRY.get_sample_value("finmind_handler_processes_ended_total", {"why": why}) or 0.0


def runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().split(") ")[1][0] != "Z"
    except OSError:
        return False


async def pids_in(told: Path) -> list[int]:
    """The process of the handler, and the one that this started."""
    await until_true(told.exists)
    return _read(told)


def _read(told: Path) -> list[int]:
    found = [int(pid) for pid in told.read_text().split()]
    told.unlink()
    return found


@pytest.mark.whole
async def test_an_attempt_in_a_process_ends_as_any_other(
    handlers: Registry, put: Put, sql: Any, start_worker: StartWorker, events: Events
) -> None:
    register = handlers.handler
    register(
        "resize", executor="process", payload_model=process_handlers.Image, capture_logging=True
    )(process_handlers.resize)
    register("async", executor="process")(process_handlers.resize_async)
    register("end", executor="process", max_retries=1, queue="images")(process_handlers.end_as)
    register("thread", executor="process")(process_handlers.leave_a_thread)
    worker = await start_worker(handler_processes=1)
    assert worker.slots.queues.limits == {"images": 2}, "others can take what waits"

    job = await until_ended(sql, await put("resize", {"width": 640}))
    assert (job["status"], job["attempts"]) == ("SUCCESS", 1), job["errors"]
    pid = job["result"].pop("pid")
    assert pid != os.getpid()
    assert job["result"] == {"width": 320, "held": True, "attempt": 1}

    async def lines() -> Any:
        found = await sql.fetch(
            "SELECT message, fields::jsonb FROM job_logs WHERE job_id = $1", job["id"]
        )
        return {row["message"]: row["fields"] for row in found} if len(found) == 2 else None

    assert await until(lines) == {"resized": {"width": 640}, "captured": {"logger": "library"}}
    refused = await until_ended(sql, await put("resize", {"width": "wide"}))
    assert (refused["status"], refused["errors"][0]["type"]) == ("FAILED", "InvalidPayload")
    assert "wide" not in refused["last_error"]
    job = await until_ended(sql, await put("async"))
    assert job["result"] == {"pid": pid, "parents": [], "tick": None}

    for how, error in (
        ("permanent", "PermanentError"),
        ("steps", "StepError"),
        ("no_json", "PayloadError"),
        ("too_large", "PayloadError"),
    ):
        job = await until_ended(sql, await put("end", how))
        assert (job["status"], job["errors"][0]["type"]) == ("FAILED", error), job["errors"]
    for how, error in (
        ("error", "LookupError: no such colour"),
        ("exit", "SystemExit: 3"),
        ("retry_after", "RetryAfter: asked to be retried in 7200 s"),
    ):
        job = await until_failed_once(sql, await put("end", how))
        assert (job["last_error"], job["attempts"]) == (error, 1)
        trace = job["errors"][0]["traceback"]
        assert "in end_as" in trace
        assert "handler_process" not in trace, "where the engine called it says nothing"
    job = await until_job(sql, await put("end", "snooze"), where="next_run_at > now() + '1 min'")
    assert (job["attempts"], job["errors"]) == (0, None)
    assert events("failed", "end", "bad_result") == 2

    await until_ended(sql, await put("thread", "leave"))
    job = await until_ended(sql, await put("thread", "next"))
    assert job["result"] == ["the handler that asks this has returned"]

    async def logged() -> Any:
        found = await sql.fetch("SELECT message FROM job_logs WHERE job_id = $1", job["id"])
        return [row["message"] for row in found]

    assert await until(logged) == ["my own"]
    assert runs(pid), "all of these ran in one process"


@pytest.mark.whole
async def test_a_process_is_killed_with_what_it_started_when_its_handler_must_stop(
    handlers: Registry,
    put: Put,
    sql: Any,
    database: Database,
    start_worker: StartWorker,
    events: Events,
    tmp_path: Path,
) -> None:
    told = tmp_path / "pids"
    for name, timeout in (("compute", 60.0), ("late", 1.0)):
        handlers.handler(name, executor="process", timeout=timeout)(process_handlers.compute)
    worker = await start_worker(
        handler_processes=1,
        cancel_grace_seconds=0.5,
        shutdown_grace_seconds=0.1,
        heartbeat_seconds=0.2,
    )
    killed, died = ended("killed"), ended("died")

    async def cancelled(job_id: JobId) -> Any:
        async with database.sessions.begin() as session:
            await cancel_job(session, job_id, actor=Actor("ann"))
        return await until_ended(sql, job_id)

    job_id = await put("compute", {"file": str(told), "obeys": True})
    pid, _ = await pids_in(told)
    job = await cancelled(job_id)
    assert (job["status"], job["cancel"]["how"], job["result"]) == ("CANCELLED", "stopped", None)
    assert runs(pid), "it stopped by itself"
    assert ended("killed") == killed

    job_id = await put("late", {"file": str(told)})
    pids = await pids_in(told)
    assert pids[0] == pid, "the process is used again"
    job = await until_failed_once(sql, job_id)
    assert (job["errors"][0]["type"], job["attempts"]) == ("HandlerTimeout", 1)
    await until_true(lambda: not any(map(runs, pids)))

    job_id = await put("compute", {"file": str(told)})
    pids = await pids_in(told)
    job = await cancelled(job_id)
    assert (job["status"], job["cancel"]["how"]) == ("CANCELLED", "stopped")
    await until_true(lambda: not any(map(runs, pids)))

    job_id = await put("compute", {"file": str(told)})
    pids = await pids_in(told)
    os.kill(pids[0], signal.SIGKILL)
    job = await until_failed_once(sql, job_id)
    assert (job["errors"][0]["type"], job["attempts"]) == ("HandlerDied", 1)
    assert "ended by SIGKILL: memory may have run out" in job["last_error"]
    await until_true(lambda: not any(map(runs, pids)))
    assert events("retried", "compute", "died") == 1

    await sql.execute("UPDATE jobs_live SET next_run_at = now() WHERE id = $1", job_id)
    pids = await pids_in(told)
    await sql.execute(STEAL, job_id)
    await until_true(lambda: not any(map(runs, pids)))
    status = await sql.fetchval("SELECT status FROM jobs_live WHERE id = $1", job_id)
    assert status == "RUNNING", "the other worker's"

    job_id = await put("compute", {"file": str(told)})
    pids = await pids_in(told)
    await worker.stop()
    assert not any(map(runs, pids))
    job = await sql.fetchrow("SELECT status, attempts FROM jobs_live WHERE id = $1", job_id)
    assert tuple(job) == ("PENDING", 0), "given back, its attempt not counted"
    assert (ended("killed") - killed, ended("died") - died) == (4, 1)


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (0, "exited with code 0 before the handler returned"),
        (-signal.SIGSEGV, "ended by SIGSEGV: native code has crashed"),
        (-signal.SIGKILL, "ended by SIGKILL: memory may have run out"),
        (-63, "ended by signal 63"),
        (None, "closed its pipe"),
    ],
)
def test_the_end_of_a_process_is_told_in_words(code: int | None, words: str) -> None:
    assert words in how_it_ended(code)


def test_messages_come_out_of_a_pipe_in_whatever_pieces_they_went_in() -> None:
    sent = b"".join(from_process(kind="log", message=f"é\ud800 {n}") for n in range(3))
    frames = Frames(max_bytes=100)
    pieces = [sent[at : at + 7] for at in range(0, len(sent), 7)]
    found = [json.loads(body)["message"] for piece in pieces for body in frames.take(piece)]
    assert found == ["é\ud800 0", "é\ud800 1", "é\ud800 2"]
    with pytest.raises(TooLong):
        list(frames.take(LENGTH.pack(101)))
