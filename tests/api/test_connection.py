"""Every byte of a connection is bounded: trailers, framing, answers that nobody reads."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Callable

import pytest
from fastapi import FastAPI

from service.settings import Settings
from tests.api.conftest import Auth
from tests.api.shapes import jobs_in
from tests.api.shell import real_server, shell_app

CHUNKED = b"POST /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
BIG = 30_000_000
BOUND_SECONDS = 10.0


async def big() -> str:
    return "x" * BIG


@contextlib.asynccontextmanager
async def connected(
    url: str, **options: int
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    port = int(url.rpartition(":")[2])
    reader, writer = await asyncio.open_connection("127.0.0.1", port, **options)
    try:
        yield reader, writer
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


@pytest.fixture
async def url(make_settings: Callable[..., Settings]) -> AsyncIterator[str]:
    async with real_server(shell_app(make_settings(), big), read_seconds=0.5) as url:
        yield url


async def sent_until_closed(url: str, start: bytes, piece: bytes) -> int:
    """How much was sent until the other side closed the connection."""
    sent = 0
    async with connected(url) as (_, writer), asyncio.timeout(BOUND_SECONDS):
        writer.write(start)
        with contextlib.suppress(ConnectionError):
            while True:
                writer.write(piece)
                await writer.drain()
                sent += len(piece)
    return sent


@pytest.mark.parametrize(
    ("start", "piece"),
    [
        (CHUNKED + b"1\r\na\r\n0\r\nX-A: ", b"b" * 10_000),
        (CHUNKED + b"1\r\na\r\n0\r\n", b"b" * 10_000),
        (CHUNKED + b"1\r\na\r\n0\r\n", b"X-A: b\r\n" * 1000),
        (CHUNKED + b"1;", b"b" * 10_000),
        (CHUNKED, b"1;" + b"b" * 1000 + b"\r\na\r\n"),
        (CHUNKED, b"0" * 10_000),
    ],
    ids=["one-value", "one-name", "many", "extension", "extensions", "zeros"],
)
async def test_what_frames_a_body_has_the_bound_of_a_head(
    url: str, start: bytes, piece: bytes
) -> None:
    # What the sockets of both sides hold comes on top.
    assert await sent_until_closed(url, start, piece) < 12_000_000


async def test_a_body_in_chunks_of_one_byte_is_taken(url: str) -> None:
    async with connected(url) as (reader, writer), asyncio.timeout(BOUND_SECONDS):
        writer.write(CHUNKED + b"1\r\na\r\n" * 100_000 + b"0\r\n\r\n")
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200 ")
        assert await reader.readexactly(16) == b'{"bytes":100000}'


async def test_a_trailer_is_refused_and_is_no_credential(app: FastAPI, auth: Auth) -> None:
    token = auth("service")["authorization"].encode()
    body = b'{"job_type": "mail"}'
    request = (
        b"POST /jobs HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\nAuthorization: %b\r\n\r\n"
    ) % (len(body), body, token)
    async with real_server(app) as url, connected(url) as (reader, writer):
        writer.write(request)
        said = await asyncio.wait_for(reader.read(), BOUND_SECONDS)
    assert said.startswith(b"HTTP/1.1 400 ")
    assert said.count(b"HTTP/1.1 ") == 1
    assert await jobs_in(app) == []


async def test_requests_sent_ahead_are_bounded(url: str) -> None:
    request = b"GET /nowhere HTTP/1.1\r\nHost: x\r\n\r\n"
    last = b"GET /nowhere HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    for ahead, answered in ((50, True), (2000, False)):
        async with connected(url) as (reader, writer), asyncio.timeout(BOUND_SECONDS):
            writer.write(request * ahead + last)
            with contextlib.suppress(ConnectionError):
                assert ((await reader.read()).count(b"HTTP/1.1 404 ") == ahead + 1) == answered


@pytest.mark.parametrize("ending", [b"", b"Connection: close\r\n"], ids=["kept", "closed"])
async def test_a_client_that_does_not_read_is_cut(
    url: str, ending: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    with socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2]))) as deaf:
        deaf.sendall(b"GET /fail HTTP/1.1\r\nHost: x\r\n" + ending + b"\r\n")
        async with asyncio.timeout(BOUND_SECONDS):
            while not any(record.msg == "client_does_not_read" for record in caplog.records):  # noqa: ASYNC110 - the log has no event for it
                await asyncio.sleep(0.05)
        got = await asyncio.to_thread(_rest, deaf)
    assert got < BIG


def _rest(connection: socket.socket) -> int:
    got = 0
    with contextlib.suppress(ConnectionError):
        while piece := connection.recv(1_000_000):
            got += len(piece)
    return got


async def test_a_client_that_reads_gets_the_whole_of_a_large_answer(url: str) -> None:
    async with connected(url) as (reader, writer), asyncio.timeout(30):
        writer.write(b"GET /fail HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert len(await reader.read()) > BIG
