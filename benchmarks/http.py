"""HTTP: `POST /jobs` of one serving process, beside a bare FastAPI endpoint with one INSERT."""

import asyncio
import json
import os
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from benchmarks.scenario import PAYLOAD, Report, Scale, fresh_database, interleaved, settings
from service.auth.principal import Role
from service.auth.tokens import make_token

SECRET = "a-secret-for-the-benchmark-alone-0123456789"
CONNECTIONS = 32


async def measure(dsn: str, report: Report, scale: Scale) -> None:
    """Ours and the floor in turn, and their ratio."""
    token = make_token(SECRET, role=Role.SERVICE, subject="bench", hours=1)
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
    body = json.dumps({"job_type": "noop", "payload": PAYLOAD}).encode()

    async def one(name: str, *command: str) -> None:
        async with (
            fresh_database(dsn, settings()) as database,
            serving(database.dsn, *command) as port,
        ):
            await _load(port, headers, body, seconds=min(scale.seconds, 1.0))
            times = sorted(await _load(port, headers, body, seconds=scale.seconds))
        report.figure(f"{name}, {CONNECTIONS} connections", "req/s").runs.append(
            len(times) / scale.seconds
        )
        report.figure(f"{name}, p99", "ms", better="lower").runs.append(
            1000 * times[int(0.99 * (len(times) - 1))]
        )

    await interleaved(
        scale.runs,
        lambda: one("POST /jobs", "-m", "service", "serve", "--no-worker", "--port", "0"),
        lambda: one("bare FastAPI and one INSERT", "-m", "benchmarks.bare_app"),
    )
    report.ratio(
        "POST /jobs: ours / floor",
        f"POST /jobs, {CONNECTIONS} connections",
        f"bare FastAPI and one INSERT, {CONNECTIONS} connections",
    )


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


async def _load(port: int, headers: dict[str, str], body: bytes, *, seconds: float) -> list[float]:
    """Requests back to back on every connection; the time of each, in seconds."""
    head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    request = (
        f"POST /jobs HTTP/1.1\r\nHost: 127.0.0.1\r\n{head}Content-Length: {len(body)}\r\n\r\n"
    ).encode() + body
    end = time.perf_counter() + seconds
    times: list[float] = []

    async def connection() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        while (started := time.perf_counter()) < end:
            writer.write(request)
            answer = await reader.readuntil(b"\r\n\r\n")
            if not answer.startswith(b"HTTP/1.1 201"):
                raise RuntimeError(f"expected 201: {answer[:200]!r}")
            length = int(answer.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
            await reader.readexactly(length)
            times.append(time.perf_counter() - started)
        writer.close()

    async with asyncio.timeout(seconds + 30), asyncio.TaskGroup() as group:
        for _ in range(CONNECTIONS):
            group.create_task(connection())
    return times
