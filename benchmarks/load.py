"""HTTP load: requests back to back on some connections, at little cost to the machine.

A protocol and no streams: at thousands of requests a second the load would else take from the
server the time that it measures. How much it took is part of the answer.
"""

import asyncio
import time
from dataclasses import dataclass
from typing import cast

CONTENT_LENGTH = b"content-length: "


@dataclass(frozen=True, slots=True)
class Answers:
    """What one load met with."""

    seconds: list[float]
    """Of each request but the first of each connection, in ascending order."""
    slowest_first: float
    """Seconds to the last of the connections' first answers: a busy server is slow to accept."""
    elapsed: float
    cpu_seconds: float
    """Of this process, which shares the cores with the server."""

    @property
    def rate(self) -> float:
        """Requests a second."""
        return len(self.seconds) / self.elapsed

    @property
    def cpu_share(self) -> float:
        """Of one core, in percent."""
        return 100 * self.cpu_seconds / self.elapsed

    def quantile(self, share: float) -> float:
        """In milliseconds."""
        return 1000 * self.seconds[int(share * (len(self.seconds) - 1))]


class _Connection(asyncio.Protocol):
    """One request, and from `begin` on one after another; any answer but a 201 is an error."""

    def __init__(self, request: bytes) -> None:
        self._request = request
        self._end = 0.0
        self._times: list[float] = []
        self._started = 0.0
        self._received = b""
        self._transport: asyncio.Transport | None = None
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """The first answer has come; after `begin`: the last one has."""

    def begin(self, end: float, times: list[float]) -> None:
        """Send until `end`; the time of each request goes into `times`."""
        self._end, self._times = end, times
        self.done = asyncio.get_running_loop().create_future()
        self._send()

    def close(self) -> None:
        """Cut the connection."""
        if self._transport is not None:
            self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is no subclass
        self._send()

    def data_received(self, data: bytes) -> None:
        self._received = received = self._received + data if self._received else data
        head = received.find(b"\r\n\r\n")
        if head < 0:
            return
        if not received.startswith(b"HTTP/1.1 201"):
            self._finish(RuntimeError(f"expected 201: {received[:200]!r}"))
            return
        place = received.lower().index(CONTENT_LENGTH) + len(CONTENT_LENGTH)
        length = int(received[place : received.index(b"\r\n", place)])
        if len(received) < head + 4 + length:
            return
        self._received = b""
        now = time.perf_counter()
        self._times.append(now - self._started)
        if now < self._end:
            self._send()
        else:
            self._finish(None)

    def connection_lost(self, exc: Exception | None) -> None:
        self._finish(exc or RuntimeError("the server closed a connection"))

    def _send(self) -> None:
        assert self._transport is not None
        self._started = time.perf_counter()
        self._transport.write(self._request)

    def _finish(self, error: Exception | None) -> None:
        if self.done.done():
            return
        if error is None:
            self.done.set_result(None)
        else:
            self.done.set_exception(error)


def post(path: str, headers: dict[str, str], body: bytes) -> bytes:
    """A request as it goes over the wire."""
    lines = [f"POST {path} HTTP/1.1", "Host: 127.0.0.1", f"Content-Length: {len(body)}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return ("\r\n".join(lines) + "\r\n\r\n").encode() + body


async def load(port: int, request: bytes, *, connections: int, seconds: float) -> Answers:
    """Send `request` back to back on every connection for some seconds.

    Raises:
        RuntimeError: an answer was not 201, or a connection was cut.
    """
    loop = asyncio.get_running_loop()
    times: list[float] = []
    made: list[_Connection] = []
    async with asyncio.timeout(seconds + 60):
        try:
            opened = time.perf_counter()
            for _ in range(connections):
                _, connection = await loop.create_connection(
                    lambda: _Connection(request), "127.0.0.1", port
                )
                made.append(connection)
            await asyncio.gather(*(connection.done for connection in made))
            started, cpu = time.perf_counter(), time.process_time()
            for connection in made:
                connection.begin(started + seconds, times)
            await asyncio.gather(*(connection.done for connection in made))
            elapsed, used = time.perf_counter() - started, time.process_time() - cpu
        finally:
            for connection in made:
                connection.close()
    return Answers(sorted(times), started - opened, elapsed, used)
