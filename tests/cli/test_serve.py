"""The commands `serve` and `worker`, as people and orchestrators run them: real processes."""

import asyncio
import json
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import asyncpg
import httpx
import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine

from tests.conftest import TEST_SECRET
from tests.running import COMMAND, ROOT, Run, Start, postgres_ended, postgres_of

DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_serve_starts_from_nothing_and_stops_without_leaving_a_process(
    start: Start, tmp_path: Path, number: signal.Signals
) -> None:
    server = start("serve")
    url = server.wait_for(r"API reference\s+(http://127\.0\.0\.1:\d+)/docs")[1]
    admin = server.wait_for(r"Admin token\s+(.+)")[1]
    server.wait_for(r"Ctrl-C")
    assert httpx.get(f"{url}/health/live", timeout=10).status_code == 200
    assert len(postgres_of(tmp_path)) == 1
    token = subprocess.run(
        ["/bin/sh", "-c", admin],  # as it is typed into another terminal
        env={"PYTHONPATH": str(ROOT)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    ).stdout.strip()
    headers = {"authorization": f"Bearer {token}"}
    assert httpx.get(f"{url}/admin/api-keys", headers=headers, timeout=10).status_code == 200
    assert server.stop(number) == 0, server.seen
    assert postgres_ended(tmp_path)


def test_the_banner_names_the_embedded_database(start: Start) -> None:
    server = start("serve")
    dsn = server.wait_for(r"Database\s+(postgresql://\S+)")[1]
    url = server.wait_for(r"for SQLAlchemy\s+(postgresql\+asyncpg://\S+)")[1]
    server.wait_for("Ctrl-C")

    async def tables() -> tuple[object, object]:
        connection = await asyncpg.connect(dsn, timeout=10)
        first = await connection.fetchval(
            "SELECT to_regclass('finmind_jobs.background_jobs')::text"
        )
        await connection.close()
        engine = create_async_engine(url)
        async with engine.connect() as other:
            second = await other.scalar(
                text("SELECT to_regclass('finmind_jobs.background_jobs')::text")
            )
        await engine.dispose()
        return first, second

    assert asyncio.run(tables()) == ("finmind_jobs.background_jobs",) * 2
    assert server.stop() == 0, server.seen


@pytest.mark.parametrize("where", ["development", "production"])
def test_the_greeting_is_a_banner_or_in_production_a_log_line(
    environment: dict[str, str], tmp_path: Path, pg_dsn: str, where: str
) -> None:
    settings = {"ENVIRONMENT": where, "DATABASE_URL": pg_dsn, "JWT_SECRET": TEST_SECRET}
    log, said = tmp_path / "log", tmp_path / "said"
    with log.open("w") as errors, said.open("w") as output:
        server = subprocess.Popen(
            [*COMMAND, "serve"],
            env=environment | settings | {"LOG_FORMAT": "json"},
            cwd=tmp_path,
            stdout=output,
            stderr=errors,
        )
        try:
            file, sign = (log, "listening") if where == "production" else (said, "Ctrl-C")
            while sign not in file.read_text():  # the test's timeout bounds it
                assert server.poll() is None, log.read_text()
            server.terminate()
            assert server.wait(timeout=30) == 0
        finally:
            server.kill()
            server.wait(timeout=10)
    events = [json.loads(line)["event"] for line in log.read_text().splitlines()]
    assert ("listening" in events) == (where == "production")
    assert (said.read_text() == "") == (where == "production")


def test_serve_runs_what_demo_enqueues_and_keeps_it_through_kill_9(
    start: Start, run: Run, tmp_path: Path
) -> None:
    first = start("serve", "--no-worker")
    first.wait_for("Ctrl-C")
    assert run("demo", "--jobs", "30").returncode == 0
    first.stop(signal.SIGKILL)
    second = start("serve")
    url = second.wait_for(r"Metrics\s+(http\S+)/metrics")[1]
    second.wait_for("Ctrl-C")
    token = run("token", "--role", "viewer").stdout.strip()
    with httpx.Client(headers={"authorization": f"Bearer {token}"}, timeout=10) as client:
        while True:  # the test's timeout bounds it
            stats = client.get(f"{url}/admin/jobs/stats").raise_for_status().json()
            assert stats["total"] == 30
            if stats["by_status"]["SUCCESS"] >= 15:
                break
    assert second.stop() == 0, second.seen
    assert postgres_ended(tmp_path)


def test_worker_serves_health_and_metrics_alone_and_stops_cleanly(
    start: Start, pg_dsn: str
) -> None:
    worker = start("worker", DATABASE_URL=pg_dsn)
    ready = worker.wait_for(r"Health\s+(http://127\.0\.0\.1:\d+/health/ready)")[1]
    metrics = worker.wait_for(r"Metrics\s+(http://127\.0\.0\.1:\d+/metrics)")[1]
    worker.wait_for("Ctrl-C")
    # A machine that is slow stalls the event loop at its start, and readiness says so for 10 s.
    until = time.monotonic() + 60
    while (answer := httpx.get(ready, timeout=10)).status_code != 200:
        assert time.monotonic() < until, answer.text
        time.sleep(0.5)
    checks = {check["name"]: check["detail"] for check in answer.json()["checks"]}
    assert checks["worker"] == "looks for jobs"
    assert "finmind_worker_up 1.0" in httpx.get(metrics, timeout=10).text
    url = metrics.removesuffix("/metrics")
    assert httpx.get(f"{url}/health/live", timeout=10).status_code == 200
    for path in ("/jobs/1", "/admin/jobs", "/reminders", "/docs", "/openapi.json"):
        assert httpx.get(f"{url}{path}", timeout=10).status_code == 404
    assert worker.stop() == 0, worker.seen


def test_a_workers_metrics_can_be_closed(start: Start, run: Run, pg_dsn: str) -> None:
    worker = start("worker", DATABASE_URL=pg_dsn, METRICS_PUBLIC="false")
    metrics = worker.wait_for(r"Metrics\s+(http\S+)")[1]
    worker.wait_for("Ctrl-C")
    assert httpx.get(metrics, timeout=10).status_code == 401
    token = run("token", "--role", "viewer").stdout.strip()
    headers = {"authorization": f"Bearer {token}"}
    assert httpx.get(metrics, headers=headers, timeout=10).status_code == 200
    assert worker.stop() == 0, worker.seen


@pytest.mark.parametrize(
    ("command", "variable"), [("worker", "WORKER_PORT"), ("serve", "PORT")], ids=str
)
def test_the_images_health_check_tells_a_live_process_from_a_dead_one(
    start: Start, environment: dict[str, str], pg_dsn: str, command: str, variable: str
) -> None:
    (words,) = re.findall(r"HEALTHCHECK.*?CMD (\[.*?\])", DOCKERFILE, re.DOTALL)
    assert json.loads(words)[0] == "python"
    running = start(command, DATABASE_URL=pg_dsn)
    port = running.wait_for(r"Metrics\s+http://127\.0\.0\.1:(\d+)")[1]
    running.wait_for("Ctrl-C")
    closed = {"PORT": "1", "WORKER_PORT": "1", "HOST": "0.0.0.0"}

    def healthy() -> bool:
        probe = subprocess.run(
            [sys.executable, *json.loads(words)[1:]],
            env=environment | closed | {variable: port},
            cwd=ROOT,
            timeout=20,
            capture_output=True,
            text=True,
            check=False,
        )
        assert probe.stderr == ""
        return probe.returncode == 0

    assert healthy()
    assert running.stop() == 0, running.seen
    assert not healthy()


def test_a_stop_drains_requests_and_jobs_together_within_the_grace(
    start: Start, run: Run, pg_dsn: str
) -> None:
    grace = 4.0
    server = start("serve", DATABASE_URL=pg_dsn, SHUTDOWN_GRACE_SECONDS=str(grace))
    port = int(server.wait_for(r"Metrics\s+http://127\.0\.0\.1:(\d+)")[1])
    server.wait_for("Ctrl-C")
    job = run("enqueue", "demo.slow", "--payload", '{"seconds": 60}', DATABASE_URL=pg_dsn)
    assert job.returncode == 0, job.stderr
    wait_until_running(pg_dsn)
    with socket.create_connection(("127.0.0.1", port), timeout=30) as slow:
        slow.sendall(b"POST /jobs HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{")
        # Behind it on the same loop: when this is answered, the slow one has arrived.
        assert httpx.get(f"http://127.0.0.1:{port}/health/live", timeout=10).status_code == 200
        began = time.monotonic()
        assert server.stop() == 0, server.seen
        took = time.monotonic() - began
    assert grace - 0.5 < took < grace + 3, server.seen
    assert job_states(pg_dsn) == [("PENDING", 0)]


def test_a_second_signal_does_not_wait_for_running_jobs(
    start: Start, run: Run, pg_dsn: str
) -> None:
    worker = start("worker", DATABASE_URL=pg_dsn)
    worker.wait_for("Ctrl-C")
    job = run("enqueue", "demo.slow", "--payload", '{"seconds": 60}', DATABASE_URL=pg_dsn)
    assert job.returncode == 0, job.stderr
    wait_until_running(pg_dsn)
    worker.process.send_signal(signal.SIGTERM)
    worker.wait_for("stopping")
    began = time.monotonic()
    assert worker.stop() == 130, worker.seen
    assert time.monotonic() - began < 10  # SHUTDOWN_GRACE_SECONDS is 25, the job takes 60


def test_a_plain_function_that_never_returns_does_not_keep_the_process(
    start: Start, run: Run, pg_dsn: str, tmp_path: Path
) -> None:
    (tmp_path / "stuck.py").write_text(
        "import threading\n"
        "from service.jobs import register_handler\n"
        "@register_handler('stuck')\n"
        "def stuck(payload):\n"
        "    threading.Event().wait()\n"
    )
    environment = {
        "DATABASE_URL": pg_dsn,
        "HANDLER_MODULES": "stuck",
        "SHUTDOWN_GRACE_SECONDS": "0.1",
    }
    worker = start("worker", **environment)
    worker.wait_for("Ctrl-C")
    assert run("enqueue", "stuck", **environment).returncode == 0
    wait_until_running(pg_dsn)
    assert worker.stop() == 0, worker.seen


@pytest.mark.parametrize(("command", "variable"), [("serve", "PORT"), ("worker", "WORKER_PORT")])
def test_a_taken_port_is_an_error_of_one_line_that_names_the_setting(
    run: Run, pg_dsn: str, command: str, variable: str
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        given = run(command, "--port", port, DATABASE_URL=pg_dsn)
        read = run(command, DATABASE_URL=pg_dsn, **{variable: port})
    for done in (given, read):
        assert done.returncode == 2
        assert re.fullmatch(
            rf"error: Cannot listen on 127\.0\.0\.1:{port}: .* HOST or {variable} .*\n", done.stderr
        )


def test_a_broken_handler_module_stops_the_start_with_its_name(run: Run, pg_dsn: str) -> None:
    done = run("worker", DATABASE_URL=pg_dsn, HANDLER_MODULES="no_such_module")
    assert done.returncode == 2
    assert "no_such_module" in done.stderr
    assert "Traceback" not in done.stderr


def job_states(dsn: str) -> list[tuple[str, int]]:
    """Status and attempts of every job."""

    async def read() -> list[tuple[str, int]]:
        connection = await asyncpg.connect(dsn)
        try:
            rows = await connection.fetch(
                "SELECT status, attempts FROM finmind_jobs.background_jobs"
            )
            return [(row["status"], row["attempts"]) for row in rows]
        finally:
            await connection.close()

    return asyncio.run(read())


def wait_until_running(dsn: str) -> None:
    """Return once a worker holds a job; bounded by the timeout of the test."""

    async def poll() -> None:
        connection = await asyncpg.connect(dsn)
        try:
            while not await connection.fetchval(
                "SELECT count(*) FROM finmind_jobs.background_jobs WHERE status = 'RUNNING'"
            ):
                pass
        finally:
            await connection.close()

    asyncio.run(poll())
