"""Sends requests to targets: connections are shared by destination, and every wait has a bound."""

import asyncio
import ssl
import time
from collections.abc import Mapping
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Final
from urllib.parse import urljoin

import httpcore
import httpx

from service.settings import Settings
from service.targets.answer import Answer, Body, joined, read_body
from service.targets.connections import KEEP_ALIVE_SECONDS, Connections
from service.targets.guard import Guard, TargetRefused
from service.targets.network import GuardedBackend, LookUp, Resolver
from service.targets.signature import SIGNATURE_HEADERS
from service.targets.url import Destination, Url, parse_url
from service.version import running_version

BODY_SECONDS: Final = 5.0
"""How long the body may take once its status, which decides, is known."""

BODY_MARGIN_SECONDS: Final = 0.02
"""The body is given up so long before the whole request would be."""

REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})
BODY_HEADERS: Final = SIGNATURE_HEADERS | frozenset(
    {"content-type", "content-length", "content-encoding", "content-language"}
)


class TargetUnreachable(Exception):
    """There was no answer; another try may get one."""

    def __init__(self, destination: Destination, words: str) -> None:
        super().__init__(f"{destination} {words}")
        self.destination = destination
        """The last one, after redirects."""
        self.words = words


@dataclass(frozen=True, slots=True)
class Sent:
    """A request as it goes out."""

    url: Url
    method: str
    headers: Mapping[str, str]
    body: bytes | None
    timeout_seconds: float
    connect_timeout_seconds: float
    redirects: int = 0
    """How many may be followed."""
    bound_headers: frozenset[str] = frozenset()
    """Names in lower case: they are for the first destination, and no redirect takes them to another."""


class TargetClient:
    """Sends requests; safe to use from many tasks at once, in one event loop.

    Proxies that the environment names are not used: they would look hosts up themselves.
    """

    def __init__(self, settings: Settings, *, look_up: LookUp | None = None) -> None:
        self._guard = Guard.of(settings)
        self._resolver = Resolver()
        self._look_up = look_up or self._resolver.look_up
        self._ca_file = settings.target_ca_file
        self._tls_context: ssl.SSLContext | None = None
        self.connections: Final = Connections(self._connection)
        self._agent = f"FinMind-Jobs/{running_version()}"

    async def send(self, request: Sent) -> Answer:
        """Send it, follow its redirects, and read the beginning of the answer.

        Raises:
            TargetRefused: it, or where a redirect leads, may not be called.
            TargetUnreachable: no connection, no answer in time, or one that is not HTTP.
        """
        began, redirects = time.monotonic(), 0
        until = asyncio.get_running_loop().time() + request.timeout_seconds
        try:
            async with asyncio.timeout_at(until):
                while True:
                    self._guard.check(request.url.destination)
                    answer = await self.exchange(request, until=until)
                    following = _following(request, answer)
                    if following is None:
                        break
                    request, redirects = following, redirects + 1
        except TimeoutError:
            raise TargetUnreachable(
                request.url.destination, f"did not answer within {request.timeout_seconds:g} s"
            ) from None
        return replace(answer, redirects=redirects, seconds=time.monotonic() - began)

    async def close(self) -> None:
        """Close every connection."""
        self._resolver.close()
        await self.connections.close()

    async def exchange(self, request: Sent, *, until: float) -> Answer:
        """Send one request, redirects not followed, and read the beginning of its answer.

        Raises:
            TargetRefused: the destination may not be called.
            TargetUnreachable: no connection, or an answer that is not HTTP.
            TimeoutError: no answer by `until`, a time of the event loop.
        """
        destination = request.url.destination
        connection, may_keep = await self.connections.take(destination), True
        try:
            response = await connection.handle_async_request(self._as_httpcore(request))
            async with aclosing(response):
                headers = joined(response.headers)
                may_keep = not _has_rest(response.status, headers)
                body = Body(headers.get("content-encoding", "").strip().lower())
                await _read(response, body, until=until)
                return Answer(request.url, 0, response.status, headers, body.kept, body.is_whole)
        except httpcore.TimeoutException:
            raise TargetUnreachable(destination, "accepted no connection in time") from None
        except httpcore.ConnectError as error:
            raise TargetUnreachable(destination, f"cannot be reached: {_why(error)}") from None
        except (httpcore.NetworkError, httpcore.ProtocolError) as error:
            # Without the words of the error: they quote what was sent.
            raise TargetUnreachable(
                destination,
                f"broke off, or answered something else than HTTP ({type(error).__name__})",
            ) from None
        finally:
            if may_keep:
                await self.connections.give_back(destination, connection)
            else:
                await connection.aclose()

    def _as_httpcore(self, request: Sent) -> httpcore.Request:
        destination = request.url.destination
        headers = {
            "Host": destination.authority,
            "User-Agent": self._agent,
            "Accept": "*/*",
            "Accept-Encoding": "identity",
        }
        given = {name.lower() for name in request.headers}
        headers = {name: value for name, value in headers.items() if name.lower() not in given}
        headers |= request.headers
        if request.body is not None or request.method in {"POST", "PUT", "PATCH"}:
            headers["Content-Length"] = str(len(request.body or b""))
        return httpcore.Request(
            request.method,
            httpcore.URL(
                scheme=destination.scheme,
                host=destination.host,
                port=destination.port,
                target=request.url.target,
            ),
            headers=[
                (name.encode("ascii"), value.encode("ascii")) for name, value in headers.items()
            ],
            content=request.body,
            extensions={
                "timeout": {
                    "connect": min(request.connect_timeout_seconds, request.timeout_seconds),
                    "read": request.timeout_seconds,
                    "write": request.timeout_seconds,
                }
            },
        )

    def _connection(self, destination: Destination) -> httpcore.AsyncHTTPConnection:
        return httpcore.AsyncHTTPConnection(
            httpcore.Origin(
                destination.scheme.encode("ascii"),
                destination.host.encode("ascii"),
                destination.port,
            ),
            ssl_context=self._tls() if destination.scheme == "https" else None,
            keepalive_expiry=KEEP_ALIVE_SECONDS,
            network_backend=GuardedBackend(destination, self._guard, self._look_up),
        )

    def _tls(self) -> ssl.SSLContext:
        if self._tls_context is None:  # slow to make
            self._tls_context = httpx.create_ssl_context(trust_env=False)
            if self._ca_file is not None:
                self._tls_context.load_verify_locations(self._ca_file.expanduser())
        return self._tls_context


async def _read(response: httpcore.Response, body: Body, *, until: float) -> None:
    """Read the body: one that stalls or breaks off makes no failure of what its status says."""
    now = asyncio.get_running_loop().time()
    try:
        async with asyncio.timeout_at(min(until - BODY_MARGIN_SECONDS, now + BODY_SECONDS)):
            await read_body(response.aiter_stream(), body)
    except (TimeoutError, httpcore.NetworkError, httpcore.ProtocolError, httpcore.TimeoutException):
        body.is_whole = False


def _has_rest(status: int, headers: Mapping[str, str]) -> bool:
    """Whether a body may stand behind an answer that has none: it would be read as the next answer."""
    return status in {204, 304} and headers.get("content-length", "0") != "0"


def _following(request: Sent, answer: Answer) -> Sent | None:
    """The request that the answer leads to; None: it is the last one.

    Raises:
        TargetRefused: it leads to what is no plain URL, or from https to http.
    """
    location = answer.headers.get("location")
    if answer.status not in REDIRECTS or request.redirects == 0 or location is None:
        return None
    before = request.url.destination
    try:
        url = parse_url(urljoin(str(request.url), location).partition("#")[0])
    except ValueError as error:
        raise TargetRefused(f"{before} redirects to what cannot be called: {error}") from None
    if before.scheme == "https" and url.destination.scheme == "http":
        raise TargetRefused(f"{before} redirects from https to http, which is not followed")
    dropped: frozenset[str] = frozenset()
    if url.destination != before:
        dropped |= request.bound_headers
    method, body = request.method, request.body
    if answer.status == 303 or (answer.status in {301, 302} and method == "POST"):
        method, body, dropped = (
            ("HEAD" if method == "HEAD" else "GET"),
            None,
            dropped | BODY_HEADERS,
        )
    headers = {
        name: value for name, value in request.headers.items() if name.lower() not in dropped
    }
    return replace(
        request, url=url, method=method, body=body, headers=headers, redirects=request.redirects - 1
    )


def _why(error: httpcore.ConnectError) -> str:
    """What a connection failed of, on one line; nothing that was sent stands in it."""
    line = " ".join("".join(c if c.isprintable() else " " for c in str(error)).split())
    return line[:200] or type(error).__name__
