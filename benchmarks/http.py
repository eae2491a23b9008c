"""HTTP: `POST /jobs` of one serving process, beside a bare FastAPI endpoint with one INSERT."""

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from benchmarks.load import Answers, load, post
from benchmarks.scenario import PAYLOAD, Report, Scale, fresh_database, interleaved, settings
from service.auth.principal import Role
from service.auth.tokens import make_token

SECRET = "a-secret-for-the-benchmark-alone-0123456789"
CONNECTIONS = 32
ALL_CONNECTIONS = (1, 32, 256)
BATCH = 100
BATCH_CONNECTIONS = 4
OURS = "POST /jobs"
FLOOR = "bare FastAPI and one INSERT"
OUR_SERVER = ("-m", "service", "serve", "--no-worker", "--port", "0")
BARE_SERVER = ("-m", "benchmarks.bare_app")
JOB = {"job_type": "noop", "payload": PAYLOAD}


async def measure(dsn: str, report: Report, scale: Scale) -> None:
    """Ours and the floor in turn, and their ratio, at 32 connections."""
    await _compare(dsn, report, scale, (CONNECTIONS,))


async def measure_connections(dsn: str, report: Report, scale: Scale) -> None:
    """The same at 1, 32 and 256 connections; then batches of 100 jobs a request."""
    await _compare(dsn, report, scale, ALL_CONNECTIONS)
    request = _post("/jobs/batch", {"jobs": [JOB] * BATCH})
    for _ in range(scale.runs):
        async with _server(dsn, OUR_SERVER) as port:
            answers = await load(
                port, request, connections=BATCH_CONNECTIONS, seconds=scale.seconds
            )
        name = f"POST /jobs/batch of {BATCH}, {BATCH_CONNECTIONS} connections"
        _record(report, name, answers)
        report.figure(f"{name}, jobs", "jobs/s").runs.append(BATCH * answers.rate)


async def _compare(
    dsn: str, report: Report, scale: Scale, connection_counts: tuple[int, ...]
) -> None:
    request = _post("/jobs", JOB)

    async def one(name: str, server: tuple[str, ...]) -> None:
        async with _server(dsn, server) as port:
            for count in connection_counts:
                await load(port, request, connections=count, seconds=min(scale.seconds, 1.0))
                answers = await load(port, request, connections=count, seconds=scale.seconds)
                _record(report, _at(name, count), answers)

    await interleaved(scale.runs, lambda: one(OURS, OUR_SERVER), lambda: one(FLOOR, BARE_SERVER))
    for count in connection_counts:
        report.ratio(f"{_at(OURS, count)}: ours / floor", _at(OURS, count), _at(FLOOR, count))


def _at(name: str, connections: int) -> str:
    return f"{name}, {connections} connection{'s' if connections > 1 else ''}"


def _post(path: str, body: object) -> bytes:
    token = make_token(SECRET, role=Role.SERVICE, subject="bench", hours=1)
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
    return post(path, headers, json.dumps(body).encode())


def _record(report: Report, name: str, answers: Answers) -> None:
    report.figure(name, "req/s").runs.append(answers.rate)
    for label, share in (("p50", 0.5), ("p99", 0.99)):
        report.figure(f"{name}, {label}", "ms", better="lower").runs.append(answers.quantile(share))
    first = report.figure(f"{name}, first answers", "ms", better="lower")
    first.runs.append(1000 * answers.slowest_first)
    # On two cores the load itself holds the server back: by how much is said beside the figure.
    figure = report.figure(f"{name}, load generator", "% of a core", better="lower")
    figure.runs.append(answers.cpu_share)


@asynccontextmanager
async def _server(dsn: str, command: tuple[str, ...]) -> AsyncIterator[int]:
    async with (
        fresh_database(dsn, settings()) as database,
        serving(database.dsn, *command) as port,
    ):
        yield port


@asynccontextmanager
async def serving(dsn: str, *command: str) -> AsyncIterator[int]:
    """A serving process of its own; the port that it says it listens on."""
    environment = os.environ | {
        "DATABASE_URL": dsn,
        "JWT_SECRET": SECRET,
        "ENVIRONMENT": "test",
        "PORT": "0",
        "LOG_LEVEL": "WARNING",
        "PYTHONUNBUFFERED": "1",
    }
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *command,
        env=environment,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        assert process.stdout is not None
        async with asyncio.timeout(30):
            while True:
                line = (await process.stdout.readline()).decode()
                if not line:
                    raise RuntimeError(f"{command} ended before it listened")
                if "http://127.0.0.1:" in line:
                    port = int(line.split("http://127.0.0.1:")[1].split("/")[0].split()[0])
                    break
            await _listening(port)
        yield port
    finally:
        if process.returncode is None:
            process.terminate()
            async with asyncio.timeout(30):
                await process.wait()


async def _listening(port: int) -> None:
    while True:
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
        except ConnectionRefusedError:
            await asyncio.sleep(0.05)
        else:
            writer.close()
            return
