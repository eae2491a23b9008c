"""What may end the service: a signal, and nothing that a handler or its module does."""

import asyncio
import signal
import subprocess
from pathlib import Path

import asyncpg
import httpx
import pytest

from tests.jobs.waiting import until_ended
from tests.running import COMMAND, Run, Running, Start, postgres_ended

URL = r"API reference\s+(http://127\.0\.0\.1:\d+)/docs"

ON_THE_LOOP = """
import asyncio, signal
asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, print)
"""


def write_module(tmp_path: Path, code: str) -> dict[str, str]:
    """A handler module in the working directory; the environment that names it."""
    (tmp_path / "mine.py").write_text(code)
    return {"HANDLER_MODULES": "mine"}


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("import sys; sys.exit(0)", "SystemExit: 0"),
        ("raise KeyboardInterrupt", "KeyboardInterrupt"),
    ],
)
def test_a_module_that_exits_is_named(
    run: Run, tmp_path: Path, pg_dsn: str, code: str, words: str
) -> None:
    done = run("serve", DATABASE_URL=pg_dsn, **write_module(tmp_path, code))
    assert done.returncode == 2
    assert f"HANDLER_MODULES: module 'mine' cannot be imported: {words}" in done.stderr


@pytest.mark.parametrize(
    ("code", "named"),
    [
        ("import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)", True),
        ("import signal; signal.signal(signal.SIGTERM, lambda *_: exit(0))", True),
        (ON_THE_LOOP, False),
    ],
    ids=["ignored", "handler", "on the loop"],
)
def test_signals_stay_ours_whatever_a_module_does_with_them(
    start: Start, tmp_path: Path, pg_dsn: str, code: str, named: bool
) -> None:
    server = start("serve", DATABASE_URL=pg_dsn, **write_module(tmp_path, code))
    server.wait_for("Ctrl-C")
    assert server.stop() == 0
    told = [line for line in server.seen.splitlines() if "signal_handlers_undone" in line]
    assert bool(told) == named, server.seen
    if told:
        assert "mine" in told[0]
        assert "SIGTERM" in told[0]
    assert "service_stopped" in server.seen


EXITING = """
import asyncio
import sys

from service.jobs import register_handler


async def leave():
    sys.exit(3)


@register_handler("exits", max_retries=0)
async def exits(payload):
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(leave())


@register_handler("leaves_one_behind")
async def leaves_one_behind(payload):
    asyncio.get_running_loop().call_soon(sys.exit, 3)
    await asyncio.sleep(0.01)


@register_handler("stops_the_loop")
async def stops_the_loop(payload):
    asyncio.get_running_loop().stop()
    await asyncio.sleep(0.01)
"""


async def run_job(dsn: str, job_type: str) -> tuple[str, str | None]:
    """Status and last error of a job of this type, once it ended."""
    connection = await asyncpg.connect(dsn, timeout=10)
    try:
        job_id = await connection.fetchval(
            "INSERT INTO background_jobs (job_type) VALUES ($1) RETURNING id", job_type
        )
        job = await until_ended(connection, job_id)
        return job["status"], job["last_error"]
    finally:
        await connection.close()


def test_a_handlers_task_that_exits_fails_its_job_and_ends_nothing_else(
    start: Start, tmp_path: Path, pg_dsn: str
) -> None:
    server = start("serve", DATABASE_URL=pg_dsn, **write_module(tmp_path, EXITING))
    url = server.wait_for(URL)[1]
    server.wait_for("Ctrl-C")
    assert asyncio.run(run_job(pg_dsn, "exits")) == ("DEAD_LETTER", "SystemExit: 3")
    for job_type in ("leaves_one_behind", "stops_the_loop"):
        assert asyncio.run(run_job(pg_dsn, job_type)) == ("SUCCESS", None)
    assert httpx.get(f"{url}/health/live", timeout=10).status_code == 200
    assert server.stop() == 0, server.seen
    assert server.seen.count("exit_prevented") == 3
    assert "mine.py" in server.seen


def test_a_process_that_outlives_its_terminal_does_not_end_by_sighup(
    environment: dict[str, str], tmp_path: Path, pg_dsn: str
) -> None:
    process = subprocess.Popen(
        ["nohup", *COMMAND, "serve"],
        env=environment | {"DATABASE_URL": pg_dsn},
        cwd=tmp_path,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    server = Running(process)
    try:
        url = server.wait_for(URL)[1]
        server.wait_for("Ctrl-C")
        process.send_signal(signal.SIGHUP)
        assert httpx.get(f"{url}/health/ready", timeout=10).status_code == 200
        assert server.stop() == 0
        assert server.seen.count('"stopping"') + server.seen.count("stopping ") == 1
    finally:
        process.kill()
        process.communicate(timeout=10)


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGTERM, signal.SIGINT])
def test_a_command_that_is_cut_short_leaves_no_server(
    start: Start, tmp_path: Path, number: signal.Signals
) -> None:
    command = start("demo", "--jobs", "1000000")
    command.wait_for("schema_migrated")
    assert command.stop(number) == 128 + number
    assert postgres_ended(tmp_path)
