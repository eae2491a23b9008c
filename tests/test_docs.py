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
from tests.jobs.waiting import until
from tests.running import Start

DOCS = Path(__file__).parent.parent / "docs"
HANDLERS = (DOCS / "handlers.md").read_text(encoding="utf-8")
EXAMPLES = dict(re.findall(r"```python\n# (\w+\.py)\n(.*?)```", HANDLERS, re.DOTALL))


@pytest.mark.parametrize("name", ["configuration.md", "metrics.md"])
def test_a_page_made_from_the_code_is_up_to_date(name: str) -> None:
    page = runpy.run_path(str(DOCS / "generate.py"))["PAGES"][name]
    assert (DOCS / name).read_text(encoding="utf-8") == page(), "run `make docs`"


@pytest.fixture
def run_example(tmp_path: Path, pg_dsn: str) -> Callable[[str], str]:
    """Run the example of docs/handlers.md that begins with this file's name; what it prints.

    The others stand beside it, as in a reader's directory.
    """
    for example, code in EXAMPLES.items():
        (tmp_path / example).write_text(code)

    def run(name: str) -> str:
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


@pytest.mark.whole
async def test_the_examples_of_enqueueing_and_of_running_without_a_worker_run(
    run_example: Callable[[str], str], session: AsyncSession
) -> None:
    run_example("invoices.py")
    enqueued = await session.scalar(text("SELECT count(*) FROM background_jobs"))
    assert enqueued == 1002
    assert run_example("run_due.py") == "50 taken, 50 succeeded, 0 failed\n"


async def test_what_the_examples_enqueue_is_served_by_the_examples_handlers(
    run_example: Callable[[str], str], start: Start, pg_dsn: str, session: AsyncSession
) -> None:
    run_example("invoices.py")
    (insert,) = re.findall(r"```sql\n(.*?)```", HANDLERS, re.DOTALL)
    await session.execute(text(insert.replace(":", "\\:")))
    await enqueue(session, "resize_image", {})
    await enqueue(session, "import_file", {"parts": ["a", "b"]})
    await enqueue(session, "thumbnails", {"sizes": [64, 128]})
    await session.commit()
    serve = start("serve", DATABASE_URL=pg_dsn, HANDLER_MODULES="billing,images,imports,thumbnails")
    serve.wait_for("Ctrl-C")

    async def ended() -> dict[str, set[str]] | None:
        rows = await session.execute(
            text("SELECT status, array_agg(DISTINCT job_type) FROM background_jobs GROUP BY 1")
        )
        await session.commit()
        found = {status: set(job_types) for status, job_types in rows}
        return found if found.get("PENDING") == {"remind"} and "RUNNING" not in found else None

    assert await until(ended) == {
        "PENDING": {"remind"},  # due in a day
        "SUCCESS": {"send_invoice", "index", "resize_image", "import_file", "thumbnails"},
    }
    assert serve.stop() == 0


def test_every_example_of_python_has_a_file_name_and_is_known_here() -> None:
    assert HANDLERS.count("```python") == len(EXAMPLES)
    assert set(EXAMPLES) == {
        "billing.py", "convert.py", "images.py", "imports.py", "invoices.py", "run_due.py",
        "thumbnails.py",
    }  # fmt: skip


async def test_the_example_of_a_child_process_leaves_none_behind(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    database: Database,
    session: AsyncSession,
    settings: Settings,
) -> None:
    (tmp_path / "convert.py").write_text(EXAMPLES["convert.py"])
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
