"""A service whose log nobody reads."""

import asyncio
import re
import subprocess
import time
from pathlib import Path

import asyncpg
import httpx

from tests.running import COMMAND

JOBS = 600


async def enqueue_and_await(dsn: str) -> int:
    """How many failing jobs ended, once all have."""
    connection = await asyncpg.connect(dsn, timeout=10)
    try:
        await connection.execute(
            "INSERT INTO background_jobs (job_type, payload)"
            " SELECT 'demo.permanent', '{}' FROM generate_series(1, $1::int)",
            JOBS,
        )
        ended = 0
        while ended < JOBS:  # the test's timeout bounds it
            ended = await connection.fetchval("SELECT count(*) FROM jobs_dead")
            await asyncio.sleep(0.02)
        return ended
    finally:
        await connection.close()


def test_a_service_whose_log_nobody_reads_keeps_working(
    environment: dict[str, str], tmp_path: Path, pg_dsn: str
) -> None:
    said = tmp_path / "said"
    with said.open("w") as output:
        server = subprocess.Popen(
            [*COMMAND, "serve"],
            env=environment | {"DATABASE_URL": pg_dsn},
            cwd=tmp_path,
            stdout=output,
            stderr=subprocess.PIPE,
        )
    try:
        while "Ctrl-C" not in said.read_text():
            assert server.poll() is None
            time.sleep(0.02)
        found = re.search(r"http://127\.0\.0\.1:\d+", said.read_text())
        assert found
        assert asyncio.run(enqueue_and_await(pg_dsn)) == JOBS
        live = httpx.get(f"{found[0]}/health/live", timeout=10)
        assert live.status_code == 200
        server.terminate()
        assert server.wait(timeout=30) == 0
    finally:
        server.kill()
        server.communicate(timeout=10)
