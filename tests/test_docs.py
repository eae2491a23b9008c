"""What the documentation says is what the code does."""

import os
import re
import runpy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

import psutil
import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from service.db.engine import Database
from service.jobs import Registry, enqueue, process_due_jobs
from service.settings import Settings

DOCS = Path(__file__).parent.parent / "docs"
HANDLERS = (DOCS / "handlers.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", ["configuration.md", "metrics.md"])
def test_a_page_made_from_the_code_is_up_to_date(name: str) -> None:
    page = runpy.run_path(str(DOCS / "generate.py"))["PAGES"][name]
    assert (DOCS / name).read_text(encoding="utf-8") == page(), "run `make docs`"


@pytest.fixture
def run_example(tmp_path: Path, pg_dsn: str) -> Callable[[str], str]:
    """Run the example of docs/handlers.md that begins with this file's name; what it prints."""
    examples = re.findall(r"```python\n# (\w+\.py)\n(.*?)```", HANDLERS, re.DOTALL)

    def run(name: str) -> str:
        (code,) = [code for example, code in examples if example == name]
        (tmp_path / name).write_text(code)
        url = urlsplit(pg_dsn)._replace(scheme="postgresql+asyncpg").geturl()
        done = subprocess.run(
            [sys.executable, "-W", "error", name],
            env={
                "PATH": os.environ["PATH"],
                "PYTHONPATH": str(DOCS.parent),
                "DATABASE_URL": pg_dsn,
                "APP_DATABASE_URL": url,
            },
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=50,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert "Traceback" not in done.stderr, done.stderr
        return done.stdout

    return run


async def test_the_examples_of_enqueueing_and_of_running_without_a_worker_run(
    run_example: Callable[[str], str], session: AsyncSession
) -> None:
    run_example("invoices.py")
    enqueued = await session.scalar(text("SELECT count(*) FROM background_jobs"))
    assert enqueued == 1002
    assert run_example("run_due.py") == "50 taken, 1 succeeded, 49 failed\n"


async def test_the_example_of_a_child_process_leaves_none_behind_when_it_takes_too_long(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    database: Database,
    session: AsyncSession,
    settings: Settings,
) -> None:
    (code,) = re.findall(r"```python\n# convert\.py\n(.*?)```", HANDLERS, re.DOTALL)
    (tmp_path / "convert.py").write_text(code)
    child = tmp_path / "ffmpeg"
    child.write_text('#!/bin/sh\nsleep 300 &\necho $! > "$3"\nwait\n')
    child.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    registry = Registry()
    monkeypatch.setattr("service.jobs.register_handler", registry.handler)
    runpy.run_path(str(tmp_path / "convert.py"))
    grandchild = tmp_path / "pid"
    payload = {"from": "a", "to": str(grandchild)}
    await enqueue(session, "convert", payload, timeout_seconds=1, max_retries=0)
    await session.commit()
    summary = await process_due_jobs(database, settings=settings, handlers=registry)
    assert summary.dead_lettered == 1
    pid = int(grandchild.read_text())
    assert not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def test_every_setting_says_what_it_does() -> None:
    silent = [name for name, field in Settings.model_fields.items() if not field.description]
    assert silent == []
