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
    """Of each request, in ascending order."""
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
    """One request after another until `end`; an answer other than 201 ends it with an error."""

    def __init__(self, request: bytes, end: float, times: list[float]) -> None:
        self._request = request
        self._end = end
        self._times = times
        self._started = 0.0
        self._received = b""
        self._transport: asyncio.Transport | None = None
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

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
        self._times.append(time.perf_counter() - self._started)
        self._send()

    def connection_lost(self, exc: Exception | None) -> None:
        self._finish(exc or RuntimeError("the server closed a connection"))

    def _send(self) -> None:
        assert self._transport is not None
        self._started = time.perf_counter()
        if self._started < self._end:
            self._transport.write(self._request)
        else:
            self._finish(None)

    def _finish(self, error: Exception | None) -> None:
        if self.done.done():
            return
        if error is None:
            self.done.set_result(None)
        else:
            self.done.set_exception(error)
        if self._transport is not None:
            self._transport.close()


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
    started, cpu = time.perf_counter(), time.process_time()
    async with asyncio.timeout(seconds + 30):
        made = [
            await loop.create_connection(
                lambda: _Connection(request, started + seconds, times), "127.0.0.1", port
            )
            for _ in range(connections)
        ]
        await asyncio.gather(*(connection.done for _, connection in made))
    return Answers(sorted(times), time.perf_counter() - started, time.process_time() - cpu)
