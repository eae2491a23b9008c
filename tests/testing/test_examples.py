"""docs/testing.md shows what examples/testing does, and that passes as a reader runs it."""

import os
import re
import subprocess
import sys

import pytest

from tests.running import ROOT

EXAMPLES = ROOT / "examples" / "testing"
PAGE = (ROOT / "docs" / "testing.md").read_text(encoding="utf-8")
SHOWN: list[tuple[str, str]] = re.findall(r"```python\n# (\w+\.py)\n(.*?)```", PAGE, re.DOTALL)


@pytest.mark.parametrize(("name", "code"), SHOWN, ids=[name for name, _ in SHOWN])
def test_the_page_shows_what_the_examples_do(name: str, code: str) -> None:
    source = (EXAMPLES / name).read_text(encoding="utf-8")
    missing = [part for part in re.split(r"\n\n+", code.strip()) if part not in source]
    assert missing == []


@pytest.mark.whole
@pytest.mark.parametrize("embedded", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_the_examples_pass(empty_dsn: str, embedded: bool) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-m", "pytest", "-q", "-p", "no:cacheprovider", EXAMPLES],
        env={
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(ROOT),
            "JOBS_TEST_DATABASE_URL": "" if embedded else empty_dsn,
        },
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"^[1-9]\d* passed in", done.stdout, re.MULTILINE), done.stdout
