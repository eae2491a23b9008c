"""What a newcomer types, as the README and the tutorial have it: in a real shell, at a real service."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.running import ROOT, Start

LISTENS = r"Metrics\s+(http\S+)/metrics"


def commands(page: str, section: str) -> list[str]:
    """The commands of a section's console blocks, without the answers that they show."""
    text = (ROOT / page).read_text(encoding="utf-8")
    (body,) = re.findall(
        rf"^## {re.escape(section)}\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL
    )
    blocks = re.findall(r"```console\n(.*?)```", body, re.DOTALL)
    found: list[str] = []
    for line in "".join(blocks).splitlines():
        if line.startswith("$ "):
            found.append(line[2:])
        elif found and (found[-1].endswith("\\") or found[-1].count("'") % 2):
            found[-1] += "\n" + line
    return found


def play(lines: list[str], *, base: str, environment: dict[str, str], folder: Path) -> str:
    """Type the lines into bash in a folder that has `.venv`; what they print."""
    script = "\n".join(["shopt -s expand_aliases", "set -e", *lines]) + "\n"
    script = script.replace("http://127.0.0.1:8000", base)
    done = subprocess.run(
        ["bash"],
        input=script,
        env=environment,
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where `make run` was: the environment is there, and nothing else."""
    (tmp_path / ".venv").symlink_to(sys.prefix)
    return tmp_path


def test_the_readmes_first_job_and_its_dead_letters_are_there(
    start: Start, environment: dict[str, str], folder: Path
) -> None:
    serve = start("serve")
    base = serve.wait_for(LISTENS)[1]
    serve.wait_for("Ctrl-C")
    lines = commands("README.md", "A first job in a minute")
    lines = lines[: next(n for n, line in enumerate(lines) if "DEAD_LETTER" in line) + 1]
    printed = play(lines, base=base, environment=environment, folder=folder).strip().splitlines()
    assert '"job_type":"demo.flaky"' in printed[0]
    assert '"by_status"' in printed[1]
    assert '"job_type":"demo.dies"' in printed[2]
    assert serve.stop() == 0


def test_the_tutorials_reminder_says_why_it_is_not_sent(
    start: Start, environment: dict[str, str], folder: Path, unused_tcp_port: int
) -> None:
    smtp = {
        "SMTP_URL": f"smtp://127.0.0.1:{unused_tcp_port}",
        "EMAIL_FROM": "reminders@example.com",
    }
    serve = start("serve", BACKOFF_BASE_SECONDS="5", **smtp)
    base = serve.wait_for(LISTENS)[1]
    serve.wait_for("Ctrl-C")
    page = "docs/getting-started.md"
    preamble = [
        line for line in commands(page, "Start it") if not line.startswith(("export", "make"))
    ]
    reminder = commands(page, "A reminder, while the mail server is down")
    waits = 'until curl $BASE/reminders/$REMINDER -H "$ADA" | grep -q last_error.:.The; do sleep 0.2; done'
    printed = play(
        [*preamble, *reminder[:2], waits, *reminder[2:]],
        base=base,
        environment=environment,
        folder=folder,
    )
    assert '"status":"retrying","sent":false' in printed
    assert "The mail server could not be reached" in printed
    assert serve.stop() == 0


def test_a_python_without_the_packages_says_which_one_to_use(tmp_path: Path) -> None:
    bare = (
        f"import runpy, sys; sys.path.insert(0, {str(ROOT)!r});"
        "runpy.run_module('service', run_name='__main__')"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", bare],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    assert done.returncode == 1
    assert re.fullmatch(r"error: .* has no package .* \.venv/bin/python .*\n", done.stderr)


def test_the_pages_tell_one_way_to_call_the_service() -> None:
    pages = [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]
    aliases = {
        line
        for page in pages
        for line in re.findall(r"alias curl=.*?\"(?= |$)", page.read_text(), re.MULTILINE)
    }
    assert aliases == {"alias curl=\"curl -sw '\\n'\""}
    assert [
        page.name for page in pages if re.search(r"curl.*localhost:8000", page.read_text())
    ] == []
