"""The applications in `examples`, started as their README says, at a service that runs their jobs."""

import asyncio
import os
import re
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator

import httpx
import pytest
from pydantic import SecretStr

from finmind_client import AsyncClient
from service.settings import Settings
from tests.dashboard.served import Served, serving
from tests.running import ROOT, Running

README = (ROOT / "examples" / "README.md").read_text(encoding="utf-8")
COMMANDS: list[str] = re.findall(r"^\$ (.*)$", README, re.MULTILINE)
APPLICATIONS = {"fastapi": "uvicorn", "flask": "flask --app", "django": "runserver"}


def command(part: str) -> str:
    """The one command with this in it, for the Python of the tests."""
    (line,) = [line for line in COMMANDS if part in line]
    return line.replace(".venv/bin/", f"{sys.prefix}/bin/")


class Shell:
    """Runs commands in the clone."""

    def __init__(self, dsn: str) -> None:
        self.environment = {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(ROOT),
            "PYTHONUNBUFFERED": "1",
            "DATABASE_URL": dsn,
        }
        self.started: list[Running] = []

    def run(self, line: str, **environment: str) -> str:
        done = subprocess.run(
            ["bash", "-ec", line],
            env=self.environment | environment,
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=50,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def start(self, line: str) -> Running:
        process = subprocess.Popen(
            ["bash", "-c", f"exec {line}"],
            env=self.environment,
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.started.append(Running(process))
        return self.started[-1]


@pytest.fixture
def shell(pg_dsn: str) -> Iterator[Shell]:
    shell = Shell(pg_dsn)
    yield shell
    for running in shell.started:
        running.process.kill()
        running.process.communicate(timeout=10)


def sign_up_twice(name: str, shell: Shell) -> int:
    """Start an application and call it twice with the same; the job of the first call."""
    if name == "django":
        shell.run(command("--run-syncdb"))
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    line = re.sub(r"\b81\d\d$", str(port), command(APPLICATIONS[name]))
    shell.start(line).wait_for(rf"http://127\.0\.0\.1:{port}")
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30) as http:
        first, second = (http.post("/users", json={"email": f"{name}@example.com"}) for _ in "12")
    assert first.status_code == 201, first.text
    assert second.status_code == 409, second.text
    return int(first.json()["job_id"])


def welcome_by_script(shell: Shell, served: Served) -> str:
    token = served.token("service")
    return shell.run(command("welcome_all.py"), FINMIND_URL=served.url, FINMIND_KEY=token)


@pytest.mark.whole
async def test_what_each_example_enqueues_is_done_and_what_it_rolls_back_is_not(
    make_settings: Callable[..., Settings], pg_dsn: str, shell: Shell
) -> None:
    settings = make_settings(
        database_url=SecretStr(pg_dsn), handler_modules=("examples.welcome",), database_pool_size=3
    )
    async with serving(settings, worker=True) as served, asyncio.TaskGroup() as group:
        script = group.create_task(asyncio.to_thread(welcome_by_script, shell, served))
        signed_up = {
            name: group.create_task(asyncio.to_thread(sign_up_twice, name, shell))
            for name in APPLICATIONS
        }
        async with (
            AsyncClient(served.url, token=served.token("service")) as jobs,
            AsyncClient(served.url, token=served.token("admin")) as operator,
        ):
            results = [
                (await jobs.wait(await job, timeout_seconds=60)).result
                for job in signed_up.values()
            ]
            assert results == [{"sent_to": f"{name}@example.com"} for name in APPLICATIONS]
            printed = (await script).splitlines()
            assert [line.partition(": ")[2] for line in printed] == [
                "SUCCESS {'sent_to': 'ada@example.com'}",
                "SUCCESS {'sent_to': 'grace@example.com'}",
            ]
            assert len([job async for job in operator.admin.jobs()]) == 5
