"""The pipe between a worker process and its supervisor, as the worker sees it.

It tells the supervisor its port, and hears when to stop. Signals alone would not do: Ctrl-C and some
service managers send them to all processes, and a second signal ends a worker without waiting.
"""

import asyncio
import json
import os
import signal
import socket
import threading
import time
from typing import Final

from service.serving.process import Signals

STOP: Final = b"s"
LAST_WORDS_SECONDS: Final = 15.0
"""What a worker may take beyond its grace to stop, before it is killed: the database may not answer."""


class SupervisorPipe:
    """What a worker process says to its supervisor and hears from it."""

    def __init__(self, fd: int) -> None:
        os.set_inheritable(fd, False)
        self._socket = socket.socket(fileno=fd)

    def say_port(self, port: int) -> None:
        """Tell where this process serves health and metrics, now that it does."""
        self._socket.sendall(json.dumps({"port": port}).encode() + b"\n")

    def watch(self, signals: Signals, *, grace_seconds: float) -> None:
        """Stop when the supervisor says so, or is gone; in a thread, since the event loop may be blocked."""
        loop = asyncio.get_running_loop()
        threading.Thread(
            target=self._wait,
            args=(loop, signals, grace_seconds),
            name="finmind-supervisor",
            daemon=True,
        ).start()

    def _wait(
        self, loop: asyncio.AbstractEventLoop, signals: Signals, grace_seconds: float
    ) -> None:
        told = self._read()
        loop.call_soon_threadsafe(signals.stop)
        while told == STOP:
            told = self._read()
        # Nobody is left who would end a process that does not stop by itself.
        time.sleep(grace_seconds + LAST_WORDS_SECONDS)
        os.kill(os.getpid(), signal.SIGKILL)

    def _read(self) -> bytes:
        try:
            return self._socket.recv(1)
        except OSError:
            return b""
