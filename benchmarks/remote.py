"""Workers over HTTP: claims of 100 jobs and their reports, and a thousand claims that wait."""

import asyncio
import json
import time
from typing import Any, Final

import httpx

from benchmarks.drain import fill
from benchmarks.http import OUR_SERVER, SECRET, serving
from benchmarks.load import post
from benchmarks.scenario import Report, Scale, fresh_database, settings
from service.auth.principal import Role
from service.auth.tokens import make_token

HEADERS: Final = {
    "Authorization": f"Bearer {make_token(SECRET, role=Role.ADMIN, subject='bench', hours=1)}",
    "Content-Type": "application/json",
}
WORKERS: Final = 4
LIMIT: Final = 100
REPORTED: Final = 1000
"""Jobs of one report."""
WAITING: Final = 1000
SETTLED_SECONDS: Final = 5.0
"""Until all of them wait."""
SERVED_SECONDS: Final = 30.0
SERVED: Final = 200
"""Jobs that come while so many claims wait."""


async def measure(dsn: str, report: Report, scale: Scale) -> None:
    """What one serving process hands out and takes back, and how soon it answers claims that wait."""
    for _ in range(scale.runs):
        async with (
            fresh_database(dsn, settings()) as database,
            serving(database.dsn, *OUR_SERVER) as port,
            _client(port) as client,
        ):
            await fill(database, scale.jobs)
            started = time.perf_counter()
            jobs = await _claim_all(client, scale.jobs)
            took = time.perf_counter() - started
            report.figure(f"claims of {LIMIT}, {WORKERS} workers", "jobs/s").runs.append(
                len(jobs) / took
            )
            started = time.perf_counter()
            for first in range(0, len(jobs), REPORTED):
                await _complete(client, jobs[first : first + REPORTED])
            took = time.perf_counter() - started
            report.figure(f"reports of {REPORTED}", "jobs/s").runs.append(len(jobs) / took)
            name = f"{SERVED} jobs to {WAITING} waiting claims, the last"
            seconds = await _serve_waiting(client, port)
            report.figure(name, "ms", better="lower").runs.append(1000 * seconds)


def _client(port: int) -> httpx.AsyncClient:
    return httpx.AsyncClient(
        base_url=f"http://127.0.0.1:{port}",
        headers=HEADERS,
        timeout=60,
    )


async def _call(client: httpx.AsyncClient, path: str, **body: Any) -> Any:
    answer = await client.post(path, json=body)
    return answer.raise_for_status().json()


async def _claim_all(client: httpx.AsyncClient, count: int) -> list[dict[str, Any]]:
    jobs: list[dict[str, Any]] = []

    async def work(worker: str) -> None:
        while len(jobs) < count:
            asked = {"worker": worker, "job_types": ["noop"], "limit": LIMIT, "wait_seconds": 1.0}
            jobs.extend((await _call(client, "/worker/claim", **asked))["jobs"])

    await asyncio.gather(*(work(f"bench:{number}") for number in range(WORKERS)))
    return jobs


async def _complete(client: httpx.AsyncClient, jobs: list[dict[str, Any]]) -> None:
    leases = [{"id": job["id"], "lease_token": job["lease_token"]} for job in jobs]
    told = (await _call(client, "/worker/complete", jobs=leases))["jobs"]
    if {one["outcome"] for one in told} != {"recorded"}:
        raise RuntimeError("a report was not recorded")


async def _serve_waiting(client: httpx.AsyncClient, port: int) -> float:
    """Seconds from the answer to an enqueue until the last of its jobs is at a worker."""
    served: list[float] = []

    async def wait(worker: str) -> None:
        # By hand: the client's pool looks at all of its connections for each request.
        asked = {"worker": worker, "job_types": ["rare"], "wait_seconds": 20.0}
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            writer.write(post("/worker/claim", HEADERS, json.dumps(asked).encode()))
            if b'"jobs":[{' in await reader.readuntil(b'"drain"'):
                served.append(time.perf_counter())
        finally:
            writer.close()

    waiting = [asyncio.create_task(wait(f"waiting:{number}")) for number in range(WAITING)]
    await asyncio.sleep(SETTLED_SECONDS)
    await _call(client, "/jobs/batch", jobs=[{"job_type": "rare"}] * SERVED)
    enqueued = time.perf_counter()
    async with asyncio.timeout(SERVED_SECONDS):
        while len(served) < SERVED:  # noqa: ASYNC110 - the clients run in this very loop
            await asyncio.sleep(0.005)
    for task in waiting:
        task.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
    return max(served) - enqueued
