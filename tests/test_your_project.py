"""docs/your-project.md, played as written: the wheel in an environment, and an empty directory."""

import asyncio
import os
import re
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import pytest

from tests.jobs.waiting import until
from tests.running import ROOT, Running

PAGE = (ROOT / "docs" / "your-project.md").read_text(encoding="utf-8")
FILES: list[tuple[str, str]] = re.findall(r"```python\n# (\S+\.py)\n(.*?)```", PAGE, re.DOTALL)
COMMANDS: list[str] = re.findall(r"^\$ (.*)$", PAGE, re.MULTILINE)


def command(part: str) -> str:
    """The first command of the page with `part` in it."""
    return next(line for line in COMMANDS if part in line)


@pytest.fixture(scope="module")
def environment_with_wheel(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A virtual environment with the wheel; its dependencies are those of the tests."""
    made = tmp_path_factory.mktemp("installed") / ".venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", made], check=True, timeout=50)
    (site_packages,) = made.glob("lib/python*/site-packages")
    (site_packages / "others.pth").write_text(sysconfig.get_path("purelib") + "\n")
    python = made / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    install = ["--python", str(python), "install", "--no-deps", "--no-index", str(wheel)]
    subprocess.run([*pip, *install], check=True, timeout=50)
    uvicorn = made / "bin" / "uvicorn"
    uvicorn.write_text(f'#!/bin/sh\nexec "{python}" -m uvicorn "$@"\n')
    uvicorn.chmod(0o755)
    return made


@pytest.fixture
def project(tmp_path: Path, environment_with_wheel: Path) -> Path:
    """The page's files in a directory that was empty."""
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / ".venv").symlink_to(environment_with_wheel)
    for name, code in FILES:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(code)
    return folder


class Shell:
    """Runs the page's commands in the project."""

    def __init__(self, folder: Path, dsn: str) -> None:
        self.folder = folder
        self.environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(folder),
            "DATABASE_URL": dsn,
            "PORT": "0",
        }
        self.started: list[Running] = []

    def run(self, line: str) -> str:
        done = subprocess.run(
            ["bash", "-ec", line],
            env=self.environment,
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=50,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def start(self, line: str) -> Running:
        process = subprocess.Popen(
            ["bash", "-c", f"exec env {line}"],
            env=self.environment,
            cwd=self.folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.started.append(Running(process))
        return self.started[-1]


@pytest.fixture
def shell(project: Path, empty_dsn: str) -> Iterator[Shell]:
    shell = Shell(project, empty_dsn)
    yield shell
    for running in shell.started:
        running.process.kill()
        running.process.communicate(timeout=10)


async def statuses(dsn: str, count: int) -> set[tuple[str, str]]:
    """The job types and statuses of the jobs, once `count` have ended."""
    connection = await asyncpg.connect(dsn, timeout=10)
    try:
        query = "SELECT * FROM finmind_jobs.background_jobs WHERE finished_at IS NOT NULL"

        async def ended() -> list[asyncpg.Record] | None:
            rows = await connection.fetch(query)
            return rows if len(rows) == count else None

        return {(row["job_type"], row["status"]) for row in await until(ended) or []}
    finally:
        await connection.close()


def test_the_handler_runs_what_the_script_and_the_application_enqueue(
    shell: Shell, empty_dsn: str
) -> None:
    shell.run(command("migrate"))
    server = shell.start(command("serve"))
    server.wait_for("Ctrl-C")
    printed = shell.run(command("welcome_all.py"))
    assert printed == "enqueued 100 jobs\n"
    assert printed in PAGE
    application = shell.start(command("uvicorn").replace("--port 8080", "--port 0"))
    base = application.wait_for(r"running on (http://\S+)")[1]
    answer = shell.run(command("curl").replace("http://127.0.0.1:8080", base))
    assert answer == '{"job_id":101}'
    assert answer in PAGE
    assert asyncio.run(statuses(empty_dsn, 101)) == {("send_welcome", "SUCCESS")}
    assert server.stop() == 0


def test_the_test_of_the_handler_passes(shell: Shell, empty_dsn: str) -> None:
    shell.environment["JOBS_TEST_DATABASE_URL"] = empty_dsn
    assert "2 passed" in shell.run(command("pytest -q"))


def test_the_types_reach_the_project(shell: Shell) -> None:
    mypy = f"{sys.executable} -m mypy --strict --python-executable .venv/bin/python -p shop"
    assert "Success" in shell.run(mypy)


def test_a_missing_module_is_named_with_where_it_was_searched(shell: Shell) -> None:
    shell.run(command("migrate"))
    server = shell.start(command("serve").replace("shop.jobs", "shops.jobs"))
    server.wait_for(rf"'shops.jobs' cannot be imported.*working directory, {shell.folder}, and on")
