"""Progress and log lines of jobs that run: gathered from any thread, sent a moment later."""

import asyncio
import json
import threading
from collections import deque
from dataclasses import dataclass, field
from typing import Any, Final

from finmind_client.errors import FinMindError
from finmind_client.worker import calls
from finmind_client.worker.claimed import Lease
from finmind_client.worker.connection import Connection, is_refused_content, log

GATHER_SECONDS: Final = 0.5
"""How long what is told gathers before it is sent."""
MAX_LINES: Final = 1_000
"""Lines of one attempt that wait to be sent; further ones are dropped, and that is said."""
MAX_BYTES: Final = 262_144
"""The same in bytes."""
MAX_CALL_BYTES: Final = 400_000
"""Of one call; the service takes a million."""


@dataclass(slots=True)
class _Told:
    """What one attempt has told, and was not sent yet."""

    lines: deque[tuple[int, dict[str, Any]]] = field(default_factory=deque)
    """With their sizes."""
    progress: dict[str, Any] | None = None
    bytes: int = 0
    number: int = 0
    """Of the last line."""
    dropped: int = 0
    full: bool = False
    """Whether the service keeps no more lines of it."""


class Notes:
    """What attempts tell, until it is sent."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._loop = asyncio.get_running_loop()
        self._some = asyncio.Event()
        self._sending = asyncio.Lock()
        self._lock = threading.Lock()
        self._told: dict[Lease, _Told] = {}
        """Of attempts that run."""
        self._waiting: dict[Lease, None] = {}
        """Those of them that have told something, the earliest first."""

    def sink(self, lease: Lease) -> "Sink":
        """Where one attempt tells."""
        self._told[lease] = _Told()
        return Sink(self, lease)

    def drop(self, lease: Lease) -> None:
        """The attempt is over: nothing more of it can be sent."""
        with self._lock:
            self._told.pop(lease, None)
            self._waiting.pop(lease, None)

    def progress(self, lease: Lease, fraction: float, message: str) -> None:
        """The newest counts."""
        with self._lock:
            told = self._told.get(lease)
            if told is None:
                return
            told.progress = {"fraction": fraction, "message": message}
            self._waits(lease)

    def log(self, lease: Lease, line: dict[str, Any]) -> None:
        """One more line, if there is room."""
        size = len(json.dumps(line))
        with self._lock:
            told = self._told.get(lease)
            if told is None or told.full:
                return
            if len(told.lines) >= MAX_LINES or told.bytes + size > MAX_BYTES:
                told.dropped += 1
                return
            if told.dropped:
                line["message"] = (
                    f"({told.dropped} lines before this were dropped) " + line["message"]
                )
                told.dropped = 0
            told.number += 1
            told.lines.append((size, line | {"line": told.number}))
            told.bytes += size
            self._waits(lease)

    async def run(self) -> None:
        """Send what gathers until cancelled."""
        while True:
            await self._some.wait()
            await asyncio.sleep(GATHER_SECONDS)
            self._some.clear()
            if not await self.flush():
                await asyncio.sleep(GATHER_SECONDS)

    def settled(self, lease: Lease) -> None:
        """The attempt has ended: its lines are still to be sent, and nobody asks how far it is."""
        with self._lock:
            told = self._told.get(lease)
            if told is not None:
                told.progress = None
                if not told.lines:
                    self._waiting.pop(lease, None)

    async def flush(self) -> bool:
        """Send what there is, by one attempt; whether nothing is left."""
        async with self._sending:
            while self._waiting:
                progress, lines = self._take()
                if not await self._send(progress, lines):
                    return False
        return True

    def _waits(self, lease: Lease) -> None:
        if lease in self._waiting:
            return
        self._waiting[lease] = None
        try:
            self._loop.call_soon_threadsafe(self._some.set)
        except RuntimeError:  # the worker has stopped, and the handler has not
            self._waiting.clear()

    def _take(self) -> tuple[dict[Lease, dict[str, Any]], dict[Lease, list[tuple[int, Any]]]]:
        """Of a few attempts what one call of each kind holds; what is left of one waits behind the others."""
        progress: dict[Lease, dict[str, Any]] = {}
        lines: dict[Lease, list[tuple[int, Any]]] = {}
        size = 0
        with self._lock:
            for lease in list(self._waiting)[: calls.MAX_LOGGING]:
                told = self._told[lease]
                if told.progress is not None:
                    progress[lease], told.progress = told.progress, None
                while told.lines and size < MAX_CALL_BYTES:
                    if len(lines.setdefault(lease, [])) >= calls.MAX_LOGGING:
                        break
                    taken = told.lines.popleft()
                    size += taken[0]
                    told.bytes -= taken[0]
                    lines[lease].append(taken)
                del self._waiting[lease]
                if told.lines:
                    self._waiting[lease] = None
        return progress, lines

    async def _send(
        self,
        progress: dict[Lease, dict[str, Any]],
        lines: dict[Lease, list[tuple[int, Any]]],
    ) -> bool:
        worker = self._connection.worker
        try:
            if progress:
                await self._connection.send(calls.progress(worker, list(progress.items())))
                progress = {}
            if lines:
                told = [
                    (lease, {"lines": [one for _, one in taken]}) for lease, taken in lines.items()
                ]
                for one in await self._connection.send(calls.log(worker, told)):
                    if one.full:
                        self._full(one.lease)
        except FinMindError as error:
            if is_refused_content(error):
                log.warning(
                    "Lines or progress of %d jobs are dropped: %s", len(lines | progress), error
                )
                return True
            self._put_back(progress, lines)
            return False
        return True

    def _full(self, lease: Lease) -> None:
        with self._lock:
            if (told := self._told.get(lease)) is not None:
                told.full = True
                told.lines.clear()
                told.bytes = 0

    def _put_back(
        self,
        progress: dict[Lease, dict[str, Any]],
        lines: dict[Lease, list[tuple[int, Any]]],
    ) -> None:
        with self._lock:
            for lease in [*progress, *lines]:
                told = self._told.get(lease)
                if told is None:
                    continue
                told.progress = told.progress or progress.get(lease)
                for taken in reversed(lines.pop(lease, [])):
                    told.lines.appendleft(taken)
                    told.bytes += taken[0]
                self._waits(lease)


class Sink:
    """Where one attempt tells; a `NoteSink`."""

    def __init__(self, notes: Notes, lease: Lease) -> None:
        self._notes = notes
        self._lease = lease

    def progress(self, fraction: float, message: str) -> None:
        """How far it is."""
        self._notes.progress(self._lease, fraction, message)

    def log(self, line: dict[str, Any]) -> None:
        """One line."""
        self._notes.log(self._lease, line)
