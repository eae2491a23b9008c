"""One process of handlers, as its worker sees it: started, spoken to, killed."""

import asyncio
import contextlib
import json
import os
import signal
import sys
from typing import Any, Final, Self, cast

from service.jobs.core.elsewhere import EncodedResult, HandlerDied
from service.jobs.handlers.context import JobContext
from service.jobs.handlers.importable import Importable
from service.jobs.worker.handler_process.ending import result_of
from service.jobs.worker.handler_process.messages import (
    Answer,
    Cancel,
    Frames,
    Load,
    Run,
    Start,
    TooLong,
    ToProcess,
    to_process,
)
from service.observability.logging import get_logger
from service.settings import Settings

PROGRAM: Final = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
    "from service.jobs.worker.handler_process.main import run; run()"
)
"""A fresh interpreter, with the import path of this one. It runs the module that was started no second
time, as `multiprocessing` does."""

START_SECONDS: Final = 60.0
"""Limit on the start of a process, and on the import of a handler in it."""
EXIT_SECONDS: Final = 5.0
"""How long a process may take to end that was killed."""
CLOSE_SECONDS: Final = 1.0
"""How long one may take to clean up in which nothing runs; then it is killed."""
LAST_DATA_SECONDS: Final = 0.2
"""How long what a process wrote before it ended may take to come out of the pipe."""
MESSAGE_BYTES: Final = 262_144
"""Limit on a message beside a result: an error with its traceback, or a line of a log."""
GROWTH: Final = 6
"""How many times as long text can be in a message: as `\\uXXXX`."""

_log = get_logger(__name__)


class _Pipes(asyncio.SubprocessProtocol):
    """Gathers the messages of a process, and notices its end."""

    def __init__(self, *, max_bytes: int) -> None:
        self.messages: asyncio.Queue[dict[str, Any] | None] = asyncio.Queue()
        """None: no more comes."""
        self.exited = asyncio.Event()
        self._frames = Frames(max_bytes=max_bytes)

    def pipe_data_received(self, _fd: int, data: bytes) -> None:
        """Take what the process wrote."""
        try:
            for body in self._frames.take(data):
                self.messages.put_nowait(json.loads(body))
        except TooLong as error:
            _log.error("handler_process_message_refused", detail=str(error))
            self.messages.put_nowait(None)

    def pipe_connection_lost(self, fd: int, _exc: Exception | None) -> None:
        """Nothing more comes out of a pipe."""
        if fd == 1:
            self.messages.put_nowait(None)

    def process_exited(self) -> None:
        """Note the end; a process that a handler forked may hold the pipe open."""
        self.exited.set()
        loop = asyncio.get_running_loop()
        loop.call_later(LAST_DATA_SECONDS, self.messages.put_nowait, None)


class HandlerProcess:
    """A process that runs handlers, one at a time."""

    def __init__(self, transport: asyncio.SubprocessTransport, pipes: _Pipes) -> None:
        self._transport = transport
        self._pipes = pipes
        self._loaded: set[Importable] = set()
        self.pid = transport.get_pid()
        self.runs = 0
        """How many attempts it has begun."""

    @classmethod
    async def start(cls, settings: Settings) -> Self:
        """Start one.

        Raises:
            HandlerDied: it does not come up.
            OSError: the system starts no more processes.
        """
        # A session of its own: what a handler starts is killed with it, and Ctrl-C is for the worker alone.
        transport, pipes = await asyncio.get_running_loop().subprocess_exec(
            lambda: _Pipes(max_bytes=MESSAGE_BYTES + GROWTH * settings.max_payload_bytes),
            sys.executable,
            "-c",
            PROGRAM,
            json.dumps(sys.path),
            str(os.getpid()),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=None,
            start_new_session=True,
        )
        process = cls(transport, pipes)
        try:
            async with asyncio.timeout(START_SECONDS):
                await process._next()
        except BaseException as error:
            await process.kill()
            if isinstance(error, TimeoutError):
                raise HandlerDied(
                    f"a process for it did not start within {START_SECONDS:g} s"
                ) from None
            raise
        process._send(
            Start(
                {
                    name: getattr(settings, name)
                    for name in (
                        "log_level",
                        "log_format",
                        "job_log_lines",
                        "job_log_bytes",
                        "max_payload_bytes",
                    )
                }
            )
        )
        return process

    @property
    def alive(self) -> bool:
        """Whether it has not ended."""
        return not self._pipes.exited.is_set()

    async def load(self, function: Importable, model: Importable | None) -> None:
        """Have it import a handler; that is no part of the attempt's time.

        Raises:
            RaisedElsewhere: the import raised.
            HandlerDied: the process ended, or the import takes too long.
        """
        if function in self._loaded:
            return
        self._send(Load(function, model))
        try:
            async with asyncio.timeout(START_SECONDS):
                while "lease" in (message := await self._next()):
                    self._refuse(message)
        except TimeoutError:
            raise HandlerDied(
                f"the import of {function.module} took longer than {START_SECONDS:g} s"
            ) from None
        if message["kind"] != "loaded":
            result_of(message)
        self._loaded.add(function)

    async def run(self, job: Run, context: JobContext) -> EncodedResult | None:
        """Run one attempt to its end.

        Raises:
            RaisedElsewhere: the handler raised.
            HandlerDied: the process ended before it.
        """
        self.runs += 1
        self._send(job)
        while True:
            message = await self._next()
            if message.get("lease", job.lease_token) != job.lease_token:
                self._refuse(message)
                continue
            match message["kind"]:
                case "log":
                    context.keep_line(message["level"], message["message"], message["fields"] or {})
                case "ask":
                    self._send(await _answer(context, message))
                case _:
                    return result_of(message)

    def _refuse(self, message: dict[str, Any]) -> None:
        """Take nothing of a thread that goes on after its handler has returned: another job runs now."""
        if message["kind"] == "ask":
            self._send(Answer(message["id"], error="the handler that asks this has returned"))

    def cancel(self) -> None:
        """Tell the handler that somebody asked for the cancel of its job."""
        self._send(Cancel())

    async def close(self) -> None:
        """End a process in which no handler runs: it may clean up after itself."""
        stdin = self._transport.get_pipe_transport(0)
        if stdin is not None:
            stdin.close()
        if await self._exited(CLOSE_SECONDS):
            self._transport.close()
        else:
            await self.kill()

    async def kill(self) -> None:
        """End it now, with all that its handler has started."""
        # Also where it is dead already: its group has the number for as long as others are in it.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)
        if not await self._exited():
            _log.error("handler_process_stuck", pid=self.pid)
        self._transport.close()

    async def _exited(self, seconds: float = EXIT_SECONDS) -> bool:
        try:
            async with asyncio.timeout(seconds):
                await self._pipes.exited.wait()
        except TimeoutError:
            return False
        return True

    async def _next(self) -> dict[str, Any]:
        message = await self._pipes.messages.get()
        if message is None:
            await self._exited()
            raise HandlerDied(how_it_ended(self._transport.get_returncode()))
        return message

    def _send(self, message: ToProcess) -> None:
        stdin = cast("asyncio.WriteTransport | None", self._transport.get_pipe_transport(0))
        if stdin is not None and not stdin.is_closing():
            stdin.write(to_process(message))


async def _answer(context: JobContext, message: dict[str, Any]) -> Answer:
    """What the handler asked for through its context."""
    argument = message["argument"]
    value: object = None
    try:
        match message["what"]:
            case "progress":
                value = await context.progress(argument["fraction"], argument["message"])
            case "parents":
                value = await context.parents(after_id=argument)
            case "tick":
                value = await context.tick()
    except Exception as error:
        return Answer(message["id"], error=f"{type(error).__name__}: {error}")
    return Answer(message["id"], value)


def how_it_ended(code: int | None) -> str:
    """How a process ended, in words for the job's history."""
    if code is None:
        return "the process of the handler closed its pipe to the worker"
    if code >= 0:
        return f"the process of the handler exited with code {code} before the handler returned"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    why = {
        "SIGKILL": ": memory may have run out, or somebody killed it",
        "SIGSEGV": ": native code has crashed",
        "SIGABRT": ": native code has given up",
    }.get(name, "")
    return f"the process of the handler was ended by {name}{why}"
