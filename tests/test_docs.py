"""What the documentation says is what the code does."""

import os
import re
import runpy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from service.settings import Settings

DOCS = Path(__file__).parent.parent / "docs"


@pytest.mark.parametrize("name", ["configuration.md", "metrics.md"])
def test_a_page_made_from_the_code_is_up_to_date(name: str) -> None:
    page = runpy.run_path(str(DOCS / "generate.py"))["PAGES"][name]
    assert (DOCS / name).read_text(encoding="utf-8") == page(), "run `make docs`"


@pytest.fixture
def run_example(tmp_path: Path, pg_dsn: str) -> Callable[[str], str]:
    """Run the example of docs/handlers.md that begins with this file's name; what it prints."""
    examples = re.findall(
        r"```python\n# (\w+\.py)\n(.*?)```", (DOCS / "handlers.md").read_text(), re.DOTALL
    )

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


def test_every_setting_says_what_it_does() -> None:
    silent = [name for name, field in Settings.model_fields.items() if not field.description]
    assert silent == []
