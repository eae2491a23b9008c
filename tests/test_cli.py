"""The command line, as people and orchestrators run it: real processes."""

import asyncio
import json
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import asyncpg
import httpx
import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine

from service.auth.tokens import TokenVerifier
from service.settings import Settings
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
        shlex.split(admin),
        env={"DATA_DIR": str(tmp_path / "data"), "PYTHONPATH": str(ROOT)},
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


def test_the_greeting_names_the_embedded_database_for_sql_and_for_sqlalchemy(start: Start) -> None:
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
def test_people_are_greeted_on_standard_output_and_production_is_told_in_the_log(
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
            while sign not in file.read_text():  # the test's time-out bounds it
                assert server.poll() is None, log.read_text()
            server.terminate()
            assert server.wait(timeout=30) == 0
        finally:
            server.kill()
            server.wait(timeout=10)
    events = [json.loads(line)["event"] for line in log.read_text().splitlines()]
    assert ("listening" in events) == (where == "production")
    assert (said.read_text() == "") == (where == "production")


@pytest.mark.parametrize("command", [("serve",), ("worker",), ("enqueue", "demo.ok")])
def test_a_missing_schema_is_told_with_what_to_run_where_migrating_is_off(
    run: Run, empty_dsn: str, command: tuple[str, ...]
) -> None:
    settings = {"DATABASE_URL": empty_dsn, "AUTO_MIGRATE": "false"}
    done = run(*command, **settings, LOG_LEVEL="WARNING", WORKER_PORT="0")
    assert done.returncode == 2
    assert re.fullmatch(
        r"error: The database has no schema\. .* run `python -m service migrate` first\.\n",
        done.stderr,
    )
    assert run("migrate", **settings).returncode == 0
    left = run("enqueue", "demo.ok", **settings)
    assert (left.returncode, left.stderr) == (0, "")


def test_a_schema_that_is_behind_is_told_with_what_to_run(run: Run, empty_dsn: str) -> None:
    assert run("migrate", "--to", "0001", DATABASE_URL=empty_dsn).returncode == 0
    done = run("serve", DATABASE_URL=empty_dsn, AUTO_MIGRATE="false", LOG_LEVEL="WARNING")
    assert done.returncode == 2
    assert "is at revision 0001" in done.stderr
    assert "python -m service migrate" in done.stderr


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
        while True:  # the test's time-out bounds it
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
    answer = httpx.get(ready, timeout=10)
    assert answer.status_code == 200, answer.text
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


@pytest.mark.parametrize("password", ["hun#ter2", "hun@ter2", "hun/ter2", "hun?ter2"])
def test_a_database_url_that_cannot_be_read_is_one_sentence_with_the_way_out(
    run: Run, password: str
) -> None:
    done = run("serve", DATABASE_URL=f"postgresql://ada:{password}@127.0.0.1:1/jobs")
    assert done.returncode == 2
    assert done.stderr.startswith("error: Bad configuration:\n  DATABASE_URL: cannot be read")
    assert "percent-encoded" in done.stderr
    assert len(done.stderr.splitlines()) == 2
    assert "ter2" not in done.stdout + done.stderr


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


def test_production_refuses_to_start_and_names_all_that_is_missing(run: Run) -> None:
    done = run("serve", ENVIRONMENT="production")
    assert done.returncode == 2
    assert "DATABASE_URL" in done.stderr
    assert "JWT_SECRET" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_broken_handler_module_stops_the_start_with_its_name(run: Run, pg_dsn: str) -> None:
    done = run("worker", DATABASE_URL=pg_dsn, HANDLER_MODULES="no_such_module")
    assert done.returncode == 2
    assert "no_such_module" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_database_that_is_not_there_is_an_error_of_one_line(run: Run) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    done = run("migrate", DATABASE_URL=f"postgresql://nobody@127.0.0.1:{port}/none")
    assert done.returncode == 1
    assert re.fullmatch(r"error: the database does not answer: .*\n", done.stderr)


def test_migrate_prints_only_what_it_would_run(run: Run, pg_dsn: str, empty_dsn: str) -> None:
    everything = run("migrate", "--sql", DATABASE_URL=empty_dsn)
    assert "CREATE TABLE background_jobs" in everything.stdout, everything.stderr
    nothing = run("migrate", "--sql", DATABASE_URL=pg_dsn)
    assert (nothing.returncode, nothing.stdout) == (0, "-- nothing to do\n")


def test_migrate_goes_back_only_when_told_that_it_may(run: Run, pg_dsn: str) -> None:
    refused = run("migrate", "--to", "base", DATABASE_URL=pg_dsn)
    assert refused.returncode == 2
    assert "--back" in refused.stderr
    assert run("migrate", "--to", "base", "--back", DATABASE_URL=pg_dsn).returncode == 0
    assert run("migrate", DATABASE_URL=pg_dsn).returncode == 0
    assert run("enqueue", "demo.ok", DATABASE_URL=pg_dsn).returncode == 0


async def test_token_prints_a_token_that_holds(run: Run, settings: Settings) -> None:
    done = run("token", "--role", "operator", "--sub", "night-shift", JWT_SECRET=TEST_SECRET)
    principal = await TokenVerifier(settings).verify(done.stdout.strip())
    assert (principal.subject, principal.role) == ("night-shift", "operator")


def test_token_makes_no_secret_that_no_server_uses(run: Run, tmp_path: Path) -> None:
    done = run("token", "--role", "viewer")
    assert done.returncode == 2
    assert re.fullmatch(
        rf"error: No server has been started with {tmp_path}/data, .*\n", done.stderr
    )
    assert not (tmp_path / "data").exists()


def test_a_short_command_says_which_database_it_used_and_that_it_made_one(
    run: Run, tmp_path: Path
) -> None:
    first = run("enqueue", "demo.ok", LOG_LEVEL="WARNING")
    made = (
        f"No DATABASE_URL is set: a new, empty database was made in {tmp_path}/data (DATA_DIR).\n"
    )
    assert (first.returncode, first.stderr) == (0, made)
    second = run("enqueue", "demo.ok", LOG_LEVEL="WARNING")
    used = f"No DATABASE_URL is set: using the database in {tmp_path}/data (DATA_DIR).\n"
    assert (second.returncode, second.stderr) == (0, used)


def test_an_api_key_is_shown_once_listed_and_revoked(run: Run, pg_dsn: str) -> None:
    made = run("api-keys", "create", "billing", "--scope", "jobs:write", DATABASE_URL=pg_dsn)
    key = made.stdout.strip()
    prefix, _, secret = key.removeprefix("fmj_").partition(".")
    listed = run("api-keys", "list", DATABASE_URL=pg_dsn).stdout
    assert prefix in listed
    assert secret not in listed
    assert "revoked" in run("api-keys", "revoke", prefix, DATABASE_URL=pg_dsn).stdout


async def test_enqueue_prints_the_id_of_a_durable_job(
    run: Run, pg_dsn: str, session: AsyncSession
) -> None:
    arguments = ["--payload", '{"n": 1}', "--queue", "emails", "--priority", "0"]
    arguments += ["--run-at", "2031-03-01T09:00:00+01:00", "--timeout-seconds", "60"]
    done = run("enqueue", "mail.send", *arguments, "--unique-key", "k", DATABASE_URL=pg_dsn)
    row = (
        await session.execute(
            text(
                "SELECT job_type, queue, priority, payload, next_run_at, timeout_seconds"
                " FROM finmind_jobs.background_jobs WHERE id = :id"
            ),
            {"id": int(done.stdout)},
        )
    ).one()
    due = datetime(2031, 3, 1, 8, tzinfo=UTC)
    assert tuple(row) == ("mail.send", "emails", 0, {"n": 1}, due, 60.0)
    again = run("enqueue", "mail.send", "--unique-key", "k", DATABASE_URL=pg_dsn)
    assert again.stdout == done.stdout
    assert again.stderr == (
        f"Nothing was enqueued: job {int(done.stdout)} is live and has the unique key 'k'.\n"
    )


@pytest.mark.parametrize(
    "arguments",
    [
        ("x", "--payload", "{"),
        ("x y",),
        ("x", "--priority", "10"),
        ("x", "--queue", "a b"),
        ("x", "--run-at", "2031-03-01T09:00:00"),
    ],
)
def test_enqueue_refuses_bad_input_in_one_line(
    run: Run, pg_dsn: str, arguments: tuple[str, ...]
) -> None:
    done = run("enqueue", *arguments, DATABASE_URL=pg_dsn)
    assert done.returncode == 2
    assert re.fullmatch(r"error: .*\n", done.stderr)


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
    """Return once a worker holds a job; bounded by the time-out of the test."""

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


def test_what_postgresql_refuses_is_one_line_with_its_words(run: Run, pg_dsn: str) -> None:
    elsewhere = re.sub(r"/finmind_test\w+", "/no_such_database", pg_dsn)
    done = run("migrate", DATABASE_URL=elsewhere)
    assert done.returncode == 1
    expected = 'error: PostgreSQL refuses: database "no_such_database" does not exist\n'
    assert done.stderr == expected


def test_a_data_dir_that_is_a_file_is_named(run: Run, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    done = run("migrate", DATA_DIR=str(tmp_path / "file"))
    assert done.returncode == 1
    assert done.stderr == f"error: {tmp_path / 'file'}: File exists\n"
