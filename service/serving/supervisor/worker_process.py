"""One worker process, as its supervisor sees it."""

import asyncio
import contextlib
import json
import os
import signal
import socket
import time
from collections.abc import Mapping, Sequence
from typing import Self

from service.serving.supervisor.pipe import STOP


class _Exit(asyncio.SubprocessProtocol):
    def __init__(self) -> None:
        self.happened = asyncio.Event()

    def process_exited(self) -> None:
        self.happened.set()


class WorkerProcess:
    """A worker process: told to stop over its pipe, killed by its id."""

    def __init__(
        self, transport: asyncio.SubprocessTransport, exit_: _Exit, pipe: socket.socket
    ) -> None:
        self._transport = transport
        self._exit = exit_
        self._pipe = pipe
        self.pid = transport.get_pid()
        self.started_at = time.monotonic()
        self.port: int | None = None
        """Where it serves health and metrics; None until it does."""

    @classmethod
    async def start(cls, command: Sequence[str], environment: Mapping[str, str]) -> Self:
        """Start one by this command, with these environment variables.

        Raises:
            OSError: the system starts no more processes.
        """
        ours, theirs = socket.socketpair()
        with theirs:
            ours.setblocking(False)
            # A session of its own: Ctrl-C is for the supervisor, which tells its workers.
            transport, exit_ = await asyncio.get_running_loop().subprocess_exec(
                _Exit,
                *command,
                "--supervised",
                str(theirs.fileno()),
                env=environment,
                pass_fds=(theirs.fileno(),),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=None,
                stderr=None,
                start_new_session=True,
            )
        return cls(transport, exit_, ours)

    @property
    def running(self) -> bool:
        """Whether it has not ended."""
        return not self._exit.happened.is_set()

    @property
    def exit_code(self) -> int | None:
        """What it ended with, below 0 by a signal; None while it runs."""
        return self._transport.get_returncode()

    async def listening(self) -> bool:
        """Wait until it serves; False if it ends before."""
        loop, line = asyncio.get_running_loop(), b""
        while not line.endswith(b"\n"):
            try:
                data = await loop.sock_recv(self._pipe, 1024)
            except OSError:
                data = b""
            if not data:
                return False
            line += data
        self.port = json.loads(line)["port"]
        return True

    async def ended(self) -> None:
        """Wait for its end."""
        await self._exit.happened.wait()
        self._transport.close()
        self._pipe.close()

    def stop(self) -> None:
        """Have it stop gracefully; once more changes nothing."""
        with contextlib.suppress(OSError):
            self._pipe.send(STOP)

    def kill(self) -> None:
        """End it now."""
        if self.running:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)
