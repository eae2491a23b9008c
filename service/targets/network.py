"""Connections to addresses that were checked: a network backend of httpcore's.

The name of a host is looked up here, each of its addresses is checked, and the connection goes to one of
those addresses. Nobody looks the name up again, so that a resolver cannot answer the check with one address
and the connection with another. TLS and the `Host` header keep the name.
"""

import asyncio
import socket
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from ipaddress import ip_address
from typing import Final

import httpcore

from service.targets.guard import Guard
from service.targets.url import Address, Destination

LOOK_UP_THREADS: Final = 16
"""Hosts that are looked up at the same time; one host takes one thread, however many ask for it. As many
threads again are for hosts that were not found yet, or not the last time: a name server that does not answer
keeps a thread for half a minute, and nobody can take it back."""

MAX_FOUND: Final = 10_000
"""Hosts that are known to be found; of more, those that were looked up longest ago are forgotten."""

MAX_ADDRESSES: Final = 4
"""Addresses of one host that are tried, in the order in which the resolver gives them."""

MAX_CHECKED: Final = 64
"""Addresses of one host that are checked: one that has more is not called."""

LookUp = Callable[[str, int], Awaitable[list[Address]]]
"""The addresses of a host; OSError where it has none."""


class Resolver:
    """Looks hosts up in threads of its own, each host once at a time.

    Args:
        find: the addresses of a host, in a thread; OSError where it has none.
    """

    def __init__(self, find: Callable[[str, int], list[Address]] | None = None) -> None:
        self._find = find or _addresses
        self._threads = ThreadPoolExecutor(LOOK_UP_THREADS, thread_name_prefix="target-look-up")
        self._doubtful = ThreadPoolExecutor(LOOK_UP_THREADS, thread_name_prefix="target-not-found")
        self._found: OrderedDict[str, None] = OrderedDict()
        """Hosts that were found the last time."""
        self._running: dict[tuple[str, int], asyncio.Future[list[Address]]] = {}

    async def look_up(self, host: str, port: int) -> list[Address]:
        """The addresses of a host, as the system's resolver knows them.

        Raises:
            OSError: it knows none.
        """
        key = (host, port)
        running = self._running.get(key)
        if running is None:
            loop = asyncio.get_running_loop()
            threads = self._threads if host in self._found else self._doubtful
            running = loop.run_in_executor(threads, self._find, host, port)
            self._running[key] = running
            running.add_done_callback(lambda done: self._forget(key, done))
        # Others may wait for it too.
        return await asyncio.shield(running)

    def close(self) -> None:
        """End the threads that wait for nothing; no other look-up begins."""
        for threads in (self._threads, self._doubtful):
            threads.shutdown(wait=False, cancel_futures=True)

    def _forget(self, key: tuple[str, int], done: asyncio.Future[list[Address]]) -> None:
        self._running.pop(key, None)
        self._found.pop(key[0], None)
        # Whoever asked may have gone meanwhile.
        if not done.cancelled() and done.exception() is None:
            self._found[key[0]] = None
            if len(self._found) > MAX_FOUND:
                self._found.popitem(last=False)


def _addresses(host: str, port: int) -> list[Address]:
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [ip_address(str(entry[4][0]).partition("%")[0]) for entry in found]


class GuardedBackend(httpcore.AsyncNetworkBackend):
    """Connects to one destination, at an address of it that may be called."""

    def __init__(
        self,
        destination: Destination,
        guard: Guard,
        look_up: LookUp,
        network: httpcore.AsyncNetworkBackend | None = None,
    ) -> None:
        self._destination = destination
        self._guard = guard
        self._look_up = look_up
        self._network = network or httpcore.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109 - the signature of httpcore
        local_address: str | None = None,  # noqa: ARG002 - the same
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """Look up, check, connect.

        Raises:
            TargetRefused: one of the addresses may not be called.
            httpcore.ConnectError: no address, or none that accepts a connection.
            httpcore.ConnectTimeout: it took too long.
        """
        if (host, port) != (self._destination.host, self._destination.port):
            raise httpcore.ConnectError("a connection to another destination")
        try:
            async with asyncio.timeout(timeout):
                return await self._connect(timeout, socket_options)
        except TimeoutError:
            raise httpcore.ConnectTimeout("no connection in time") from None

    async def _connect(
        self,
        timeout: float | None,  # noqa: ASYNC109 - as above
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None,
    ) -> httpcore.AsyncNetworkStream:
        addresses = await self._checked()
        for position, address in enumerate(addresses):
            left = len(addresses) - position
            try:
                return await self._network.connect_tcp(
                    str(address),
                    self._destination.port,
                    # Later addresses have their turn though an earlier one does not answer.
                    timeout=None if timeout is None or left == 1 else timeout / len(addresses),
                    socket_options=socket_options,
                )
            except (httpcore.ConnectError, httpcore.ConnectTimeout):
                if left == 1:
                    raise
        raise httpcore.ConnectError("the host has no address")

    async def _checked(self) -> list[Address]:
        own = self._destination.address
        if own is not None:
            addresses = [own]
        else:
            try:
                found = await self._look_up(self._destination.host, self._destination.port)
            except (OSError, UnicodeError) as error:
                raise httpcore.ConnectError(
                    f"the host is not known ({type(error).__name__})"
                ) from None
            addresses = list(dict.fromkeys(found))
        if len(addresses) > MAX_CHECKED:
            raise httpcore.ConnectError(f"the host has over {MAX_CHECKED} addresses")
        self._guard.check_addresses(self._destination, addresses)
        return addresses[:MAX_ADDRESSES]

    async def connect_unix_socket(
        self,
        path: str,
        timeout: float | None = None,  # noqa: ARG002, ASYNC109 - the signature of httpcore
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,  # noqa: ARG002
    ) -> httpcore.AsyncNetworkStream:
        """Refuse: targets are reached over the network alone.

        Raises:
            httpcore.ConnectError: always.
        """
        raise httpcore.ConnectError(f"{path!r} is a socket of this machine")

    async def sleep(self, seconds: float) -> None:
        """Wait."""
        await asyncio.sleep(seconds)
