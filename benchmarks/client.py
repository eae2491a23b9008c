"""A client of one HTTP connection that costs next to nothing, so that times are the server's."""

import asyncio
import json
import time
from typing import Any, Self

TIMEOUT_SECONDS = 30.0


class Client:
    """One connection, one request at a time."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, headers: dict[str, str]
    ) -> None:
        self._reader = reader
        self._writer = writer
        self._headers = "".join(f"{name}: {value}\r\n" for name, value in headers.items())

    @classmethod
    async def connect(cls, port: int, headers: dict[str, str]) -> Self:
        """Connect to a server on this machine; `headers` go with each request."""
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=2**24)
        return cls(reader, writer, headers)

    async def get(self, path: str) -> tuple[float, Any]:
        """GET `path`; how long the answer took, in seconds, and its JSON."""
        return await self.request("GET", path, b"")

    async def post(self, path: str, document: object) -> tuple[float, Any]:
        """POST JSON to `path`; how long the answer took, in seconds, and its JSON."""
        return await self.request("POST", path, json.dumps(document).encode())

    async def request(self, method: str, path: str, body: bytes) -> tuple[float, Any]:
        """Send one request.

        Raises:
            RuntimeError: the answer is not a 2xx.
        """
        head = f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n{self._headers}"
        if body:
            head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
        started = time.perf_counter()
        self._writer.write(f"{head}\r\n".encode() + body)
        async with asyncio.timeout(TIMEOUT_SECONDS):
            answer = await self._reader.readuntil(b"\r\n\r\n")
            length = int(answer.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
            content = await self._reader.readexactly(length)
        seconds = time.perf_counter() - started
        if not answer.startswith(b"HTTP/1.1 2"):
            raise RuntimeError(f"{method} {path}: {answer[:30]!r} {content[:500]!r}")
        return seconds, json.loads(content)

    def close(self) -> None:
        """Close the connection."""
        self._writer.close()
