"""The process in which one handler runs at a time: orders come by standard input, one a line.

It ends, with all that it has started, when the worker that began it is gone: its input ends then.
"""

import asyncio
import importlib.util
import json
import os
import signal
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from queue import SimpleQueue
from types import FrameType, ModuleType
from typing import Any, BinaryIO, Final

from finmind_client.worker.claimed import Claimed, Stop
from finmind_client.worker.context import JobContext
from finmind_client.worker.outcomes import Outcome

is_child = False
"""Whether this process is such a one."""

Order = dict[str, Any]

_SCRIPT: Final = "__finmind_worker__"
"""What a script is called here: not `__main__`, so that it starts no worker of its own."""


class _Pipe:
    """Tells the worker what happens; a `NoteSink`."""

    def __init__(self, out: BinaryIO) -> None:
        self._out = out
        self._lock = threading.Lock()

    def send(self, message: dict[str, Any]) -> None:
        text = json.dumps(message).encode() + b"\n"
        with self._lock:
            self._out.write(text)
            self._out.flush()

    def progress(self, fraction: float, message: str) -> None:
        self.send({"progress": [fraction, message]})

    def log(self, line: dict[str, Any]) -> None:
        self.send({"log": line})


class _Running:
    """The job that runs, for signals to stop."""

    def __init__(self) -> None:
        self._context: JobContext | None = None
        self._cancel: Callable[[], object] | None = None

    def run(self, order: Order, pipe: _Pipe) -> Outcome:
        """Load the handler, and run it to its end."""
        claimed = Claimed.of(order["job"])
        self._context = context = JobContext(claimed, pipe)
        try:
            function = _load(order["module"], order["name"], is_file=order["is_file"])
            arguments = (claimed.payload, context) if order["takes_context"] else (claimed.payload,)
            result = (
                asyncio.run(self._await(function, arguments))
                if order["is_async"]
                else function(*arguments)
            )
        except BaseException as error:  # SystemExit ends the attempt, not the process
            return Outcome.of_error(error)
        finally:
            self._context = self._cancel = None
        return Outcome.of_result(result, max_bytes=order["max_result_bytes"])

    def stop_of(self, reason: Stop) -> Callable[[], None]:
        """What stops the job that runs now, and no later one."""
        context, cancel = self._context, self._cancel

        def stop() -> None:
            if context is not None:
                context._stop(reason)  # noqa: SLF001 - not for handlers
            if cancel is not None:
                cancel()

        return stop

    async def _await(self, function: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
        task = asyncio.current_task()
        assert task is not None
        loop = asyncio.get_running_loop()

        def cancel() -> None:
            with suppress(RuntimeError):  # it has ended, and the loop is closed
                loop.call_soon_threadsafe(task.cancel)

        self._cancel = cancel
        if self._context is not None and self._context.cancelled:
            raise asyncio.CancelledError
        return await function(*arguments)


def main() -> None:
    """Run orders until the worker is gone."""
    global is_child  # noqa: PLW0603 - the process is what it is
    is_child = True
    orders, pipe = _take_pipes()
    running = _Running()
    reasons: Final[dict[int, Stop]] = {signal.SIGTERM: "shutdown", signal.SIGUSR1: "cancel"}

    stops: SimpleQueue[Callable[[], None]] = SimpleQueue()

    def told(number: int, _: FrameType | None) -> None:
        # Between two steps of the handler, which may hold any lock: others are safe to be taken elsewhere.
        stops.put(running.stop_of(reasons[number]))

    def stop() -> None:
        while True:
            stops.get()()

    threading.Thread(target=stop, name="finmind-stops", daemon=True).start()
    for number in reasons:
        signal.signal(number, told)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    pipe.send({"ready": os.getpid()})
    while True:
        pipe.send({"ended": running.run(orders.get(), pipe).document()})


def _take_pipes() -> tuple["SimpleQueue[Order]", _Pipe]:
    """What came in and goes out by the standard streams; handlers print to standard error instead."""
    source = os.fdopen(os.dup(0), "rb")
    out = os.fdopen(os.dup(1), "wb")
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.dup2(2, 1)
    os.close(nothing)
    orders: SimpleQueue[Order] = SimpleQueue()

    def read() -> None:
        for line in source:
            orders.put(json.loads(line))
        os.killpg(0, signal.SIGKILL)  # a session of its own: this process and its children

    threading.Thread(target=read, name="finmind-orders", daemon=True).start()
    return orders, _Pipe(out)


def _load(module: str, name: str, *, is_file: bool) -> Callable[..., Any]:
    found: Any = _script(module) if is_file else importlib.import_module(module)
    for part in name.split("."):
        found = getattr(found, part)
    loaded: Callable[..., Any] = found
    return loaded


def _script(file: str) -> ModuleType:
    """A file that was run as a script, as a module."""
    if _SCRIPT not in sys.modules:
        spec = importlib.util.spec_from_file_location(_SCRIPT, file)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[_SCRIPT] = module
        try:
            spec.loader.exec_module(module)
        except BaseException:
            del sys.modules[_SCRIPT]
            raise
    return sys.modules[_SCRIPT]
