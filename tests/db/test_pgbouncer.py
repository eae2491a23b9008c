"""Behind PgBouncer in transaction mode, with the settings that docs/operations.md names."""

import os
import pwd
import shutil
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import pytest
from sqlalchemy import text

from service.db.engine import Database
from service.jobs import JobContext, PermanentError, Registry, Worker, enqueue, get_job_stats
from service.jobs.core.filters import JobFilters
from service.jobs.read.list import list_jobs
from service.settings import Settings
from tests.jobs.waiting import until

pytestmark = pytest.mark.whole

PGBOUNCER = shutil.which("pgbouncer", path=f"{os.environ['PATH']}:/usr/sbin")
POOLED = {"database_prepared_statements": False, "database_listen": False}


def server_of(dsn: str) -> str:
    """PgBouncer's words for the server of a DSN."""
    url = urlsplit(dsn)
    host = parse_qs(url.query).get("host", [url.hostname or "127.0.0.1"])[0]
    words = f"host={host} port={url.port or 5432} user={unquote(url.username or 'postgres')}"
    return words + (f" password={unquote(url.password)}" if url.password else "")


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


@pytest.fixture
def pooled_dsn(pg_dsn: str, tmp_path: Path) -> Iterator[str]:
    """This test's database, through PgBouncer in transaction mode."""
    if PGBOUNCER is None:
        pytest.skip("pgbouncer is not installed")
    port = free_port()
    server = server_of(pg_dsn)
    config = tmp_path / "pgbouncer.ini"
    config.write_text(
        f"[databases]\n* = {server}\n[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\n"
        "auth_type = any\npool_mode = transaction\nunix_socket_dir =\n"
    )
    options = [str(config)]
    if os.geteuid() == 0:  # it refuses to be root: it becomes whoever may use the socket
        folder = server.split()[0].removeprefix("host=")
        owner = Path(folder).stat().st_uid if folder.startswith("/") else 0
        options = ["-u", pwd.getpwuid(owner).pw_name if owner else "nobody", *options]
    process = subprocess.Popen(
        [PGBOUNCER, *options], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    try:
        assert process.stdout is not None
        seen = ""
        while "process up" not in seen:
            line = process.stdout.readline()
            assert line, f"pgbouncer ended: {seen}"
            seen += line
        yield f"postgresql://postgres@127.0.0.1:{port}{urlsplit(pg_dsn).path}"
    finally:
        process.terminate()
        process.communicate(timeout=10)


async def test_the_engine_works_behind_pgbouncer_in_transaction_mode(
    pooled_dsn: str, make_settings: Callable[..., Settings]
) -> None:
    handlers = Registry()

    @handlers.handler("mail")
    async def handle(payload: Any, ctx: JobContext) -> str:
        assert await ctx.progress(0.5)
        if payload["n"] % 5 == 0:
            raise PermanentError("no use")
        return "done"

    settings = make_settings(poll_max_seconds=0.1, **POOLED)
    database = Database(pooled_dsn, settings)
    worker = Worker(database, settings, handlers=handlers)
    await worker.start()
    try:
        async with database.sessions.begin() as session:
            for n in range(50):
                await enqueue(session, "mail", {"n": n}, unique_key=f"k{n % 45}")
        ended = (
            "SELECT count(*) = 45 FROM finmind_jobs.background_jobs WHERE finished_at IS NOT NULL"
        )

        async def all_ended() -> bool:
            async with database.sessions() as session:
                return bool(await session.scalar(text(ended)))

        await until(all_ended)
        async with database.sessions() as session:
            page = await list_jobs(session, JobFilters(), limit=100)
            stats = await get_job_stats(session)
        assert len(page.jobs) == 45
        assert {str(status): count for status, count in stats.by_status.items() if count} == {
            "SUCCESS": 36,
            "FAILED": 9,
        }
    finally:
        await worker.stop()
        await database.close()


@pytest.mark.parametrize("read", ["list", "stats"])
async def test_no_list_is_compiled_where_connections_cannot_turn_that_off(
    pg_dsn: str, make_settings: Callable[..., Settings], read: str
) -> None:
    database = Database(pg_dsn, make_settings(**POOLED))
    try:
        async with database.sessions() as session:
            # As the server has it that a pooler connects to.
            await session.execute(text("SET jit = on"))
            await session.commit()
            if read == "list":
                await list_jobs(session, JobFilters(), limit=1)
            else:
                await get_job_stats(session)
            assert await session.scalar(text("SHOW jit")) == "off"
            await session.rollback()
            assert await session.scalar(text("SHOW jit")) == "on"
    finally:
        await database.close()
