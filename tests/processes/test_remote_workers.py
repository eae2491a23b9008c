"""The example workers against real processes of the service: killed, stalled, restarted."""

import asyncio
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import jwt
import pytest

from service.db.engine import Database
from tests.conftest import TEST_SECRET
from tests.processes.fleet import Fleet, Replica, until

EXAMPLES = Path(__file__).parents[2] / "examples" / "workers"
END_LEASES = "UPDATE jobs_live SET lease_until = now() - interval '1 second'"
HANDLERS = {
    "node": """
import { appendFileSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";
const note = (event, job) => appendFileSync(process.env.NOTES, `${event} ${job.id} ${job.attempt} ${process.pid}\\n`);
export async function task(payload, job) {
  note("start", job);
  await sleep(payload.seconds * 1000, undefined, { signal: job.signal });
  note("end", job);
  return { attempt: job.attempt };
}
""",
    "python": """
import os

def task(payload, job):
    _note("start", job)
    if job.stopped.wait(payload["seconds"]):
        raise RuntimeError(job.why)
    _note("end", job)
    return {"attempt": job.attempt}

class _Note:
    def __call__(self, event, job):
        with open(os.environ["NOTES"], "a") as notes:
            notes.write(f"{event} {job.id} {job.attempt} {os.getpid()}\\n")

_note = _Note()
""",
    "ruby": """
def task(payload, job)
  note("start", job)
  raise job.why if job.wait(payload["seconds"])
  note("end", job)
  { attempt: job.attempt }
end

private def note(event, job)
  File.write(ENV.fetch("NOTES"), "#{event} #{job.id} #{job.attempt} #{Process.pid}\\n", mode: "a")
end
""",
}
COMMANDS = {
    "node": ["node", "worker.mjs"],
    "python": [sys.executable, "worker.py"],
    "ruby": ["ruby", "worker.rb"],
}
Start = Callable[[Replica, str], "subprocess.Popen[bytes]"]


def headers() -> dict[str, str]:
    claims = {"sub": "test", "role": "admin", "exp": int(time.time()) + 600}
    return {"authorization": f"Bearer {jwt.encode(claims, TEST_SECRET, algorithm='HS256')}"}


@pytest.fixture(params=["node", "ruby", pytest.param("python", marks=pytest.mark.slow)])
def language(request: pytest.FixtureRequest) -> str:
    language: str = request.param
    if shutil.which(COMMANDS[language][0]) is None:
        pytest.skip(f"{language} is not installed")
    return language


@pytest.fixture
def notes(tmp_path: Path) -> Callable[[str], list[list[str]]]:
    """The lines that handlers have written of one event: job, attempt, process."""

    def read(event: str) -> list[list[str]]:
        path = tmp_path / "notes"
        lines = path.read_text().splitlines() if path.exists() else []
        return [line.split()[1:] for line in lines if line.startswith(f"{event} ")]

    return read


@pytest.fixture
def start(language: str, tmp_path: Path) -> Iterator[Start]:
    """Starts an example worker on a replica."""
    handlers = (tmp_path / "handlers").with_suffix(Path(COMMANDS[language][1]).suffix)
    handlers.write_text(HANDLERS[language])
    begun: list[subprocess.Popen[bytes]] = []

    def start(replica: Replica, key: str) -> "subprocess.Popen[bytes]":
        worker, script = COMMANDS[language][0], EXAMPLES / COMMANDS[language][1]
        environment = {
            "PATH": os.environ["PATH"],
            "FINMIND_URL": replica.url,
            "FINMIND_KEY": key,
            "CONCURRENCY": "1",
            "NOTES": str(tmp_path / "notes"),
            "WORKER_NAME": f"{language}:{len(begun)}",
        }
        with (tmp_path / "workers.log").open("ab") as log:
            begun.append(
                subprocess.Popen(
                    [worker, str(script), str(handlers)],
                    env=environment,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                )
            )
        return begun[-1]

    yield start
    for process in begun:
        process.kill()
        process.wait(timeout=10)


async def key_for(replica: Replica) -> str:
    """A key that works on these jobs alone."""
    body = {"name": "worker", "scopes": ["jobs:work"], "job_types": ["task"]}
    async with httpx.AsyncClient(base_url=replica.url, headers=headers(), timeout=20) as client:
        answer = await client.post("/admin/api-keys", json=body)
        key: str = answer.raise_for_status().json()["key"]
        return key


async def enqueue(replica: Replica, *seconds: float) -> list[int]:
    jobs = [{"job_type": "task", "payload": {"seconds": one}, "max_retries": 9} for one in seconds]
    async with httpx.AsyncClient(base_url=replica.url, headers=headers(), timeout=20) as client:
        answer = await client.post("/jobs/batch", json={"jobs": jobs})
        made: list[int] = answer.raise_for_status().json()["ids"]
        return made


async def succeed(connection: "asyncpg.Connection[Any]", ids: list[int]) -> dict[int, Any]:
    """The attempts of these jobs, once all have succeeded."""

    async def done() -> list[Any]:
        rows = await connection.fetch(
            "SELECT id, status, attempts, result::text FROM background_jobs WHERE id = ANY ($1)",
            ids,
        )
        return rows if {row["status"] for row in rows} == {"SUCCESS"} else []

    rows = await until_value(done)
    return {row["id"]: row["attempts"] for row in rows}


async def running_of(connection: "asyncpg.Connection[Any]", ids: list[int]) -> bool:
    """Whether all of these run, at a worker."""
    running = await connection.fetchval(
        "SELECT count(*) FROM jobs_live WHERE id = ANY ($1) AND status = 'RUNNING' AND worker_id > 0",
        ids,
    )
    return bool(running == len(ids))


async def until_value(look: Callable[[], Any], *, seconds: float = 60.0) -> Any:
    found: list[Any] = []

    async def some() -> bool:
        found[:] = [await look()]
        return bool(found[0])

    await until(some, seconds, what="what the test waits for")
    return found[0]


async def noted(notes: Callable[[str], list[list[str]]], event: str, count: int) -> None:
    async def enough() -> bool:
        return len(notes(event)) >= count

    await until(enough, 60.0, what=f"{count} times {event}")


@pytest.mark.timeout(180)
async def test_an_example_worker_survives_kills_stalls_and_a_restart_of_the_service(
    fleet: Fleet, database: Database, pg_dsn: str, start: Start, notes: Any
) -> None:
    (replica,) = await fleet.start(1, pg_dsn, SWEEP_SECONDS=0.5)
    connection = await database.connect()
    key = await key_for(replica)
    first = start(replica, key)
    # A kill: what it had runs again elsewhere, once its lease has ended.
    killed = await enqueue(replica, 60.0)
    await noted(notes, "start", 1)
    first.kill()
    first.wait(timeout=10)
    await connection.execute(END_LEASES + ", payload = '{\"seconds\": 0.2}'")
    second = start(replica, key)
    assert await succeed(connection, killed) == {killed[0]: 2}
    # A stall past the lease: another worker has the job by then, and the late report changes nothing.
    stalled = await enqueue(replica, 1.0)
    await noted(notes, "start", 3)
    second.send_signal(signal.SIGSTOP)
    third = start(replica, key)
    await connection.execute(END_LEASES)
    assert await succeed(connection, stalled) == {stalled[0]: 2}
    second.send_signal(signal.SIGCONT)
    # A restart of the service: the worker goes on with the job, and reports it to the new process.
    kept = await enqueue(replica, 1.0, 1.0)
    await until_value(lambda: running_of(connection, kept))
    port = replica.url.rpartition(":")[2]
    replica.kill()
    again = fleet.spawn(pg_dsn, PORT=port)
    await again.ready()
    assert await succeed(connection, kept) == dict.fromkeys(kept, 1)
    # A stop in good order: what does not end in time is given back, its attempt not counted.
    for worker in (second, third):
        worker.terminate()
        assert await asyncio.to_thread(worker.wait, 30) == 0
    await connection.close()
    assert len({tuple(one[:2]) for one in notes("end")}) >= 4
