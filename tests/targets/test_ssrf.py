"""No spelling of an address, and no resolver, leads a request to where it must not go."""

import asyncio
import socket
import threading
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import aclosing
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import Any

import httpcore
import pytest

from service.settings import Settings
from service.targets.addresses import kind_of
from service.targets.client import Sent, TargetClient
from service.targets.guard import Guard, TargetRefused
from service.targets.network import LOOK_UP_THREADS, GuardedBackend, Resolver
from service.targets.url import Address, parse_url

from .spellings import SPELLINGS

PUBLIC = "93.184.215.14"


@dataclass
class Trap:
    """A listener on loopback that nobody should call, and the names that were looked up."""

    port: int = 0
    calls: int = 0
    names: list[str] = field(default_factory=list)


@pytest.fixture
async def trap(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Trap]:
    """The system's resolver has every name lead to the trap, but for those that are looked up out of habit."""
    trap = Trap()

    async def take(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        trap.calls += 1
        writer.close()

    server = await asyncio.start_server(take, "127.0.0.1", 0)
    trap.port = server.sockets[0].getsockname()[1]
    look_up = socket.getaddrinfo

    def home(host: Any, port: Any, *args: Any, **options: Any) -> Any:
        trap.names.append(str(host))
        return look_up("127.0.0.1", port, *args, **options)

    monkeypatch.setattr(socket, "getaddrinfo", home)
    yield trap
    server.close()
    await server.wait_closed()


def sent(url: str) -> Sent:
    return Sent(parse_url(url), "GET", {}, None, timeout_seconds=5, connect_timeout_seconds=2)


def test_the_corpus_is_as_large_as_it_should_be() -> None:
    assert len(set(SPELLINGS)) >= 60


async def test_no_spelling_leads_home_though_every_name_does(
    trap: Trap, make_settings: Callable[..., Settings]
) -> None:
    settings = make_settings(target_ports=("1-65535",))
    async with aclosing(_Closing(TargetClient(settings))) as closing:
        for spelling in SPELLINGS:
            url = spelling.replace("{port}", str(trap.port))
            with pytest.raises((ValueError, TargetRefused)):
                await closing.client.send(sent(url))
    assert trap.calls == 0
    assert "localtest.me" in trap.names  # the resolver was asked, and its answer refused


@dataclass
class _Closing:
    client: TargetClient

    async def aclose(self) -> None:
        await self.client.close()


class Recorder(httpcore.AsyncNetworkBackend):
    """Connects nowhere, and notes where it should have."""

    def __init__(self) -> None:
        self.connected: list[str] = []

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109 - the signature of httpcore
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        self.connected.append(host)
        return httpcore.AsyncMockStream([])


def backend(settings: Settings, answers: list[list[str]]) -> tuple[GuardedBackend, Recorder]:
    """A backend whose resolver gives one of `answers` after the other."""
    recorder = Recorder()

    async def look_up(_host: str, _port: int) -> list[Address]:
        return [ip_address(text) for text in answers.pop(0)]

    destination = parse_url("https://rebinding.example/").destination
    return GuardedBackend(destination, Guard.of(settings), look_up, recorder), recorder


async def test_a_rebinding_resolver_is_asked_once_a_connection_and_checked_each_time(
    settings: Settings,
) -> None:
    network, recorder = backend(settings, [[PUBLIC], ["127.0.0.1"], [PUBLIC]])
    await network.connect_tcp("rebinding.example", 443, timeout=2)
    with pytest.raises(TargetRefused, match="loopback"):
        await network.connect_tcp("rebinding.example", 443, timeout=2)
    await network.connect_tcp("rebinding.example", 443, timeout=2)
    # The address itself: nobody looks the name up again.
    assert recorder.connected == [PUBLIC, PUBLIC]


async def test_hosts_that_no_name_server_answers_for_keep_no_known_host_from_its_look_up() -> None:
    """Of such hosts each keeps a thread for long, more of them than there are threads."""
    home, silent = [ip_address("93.184.215.14")], threading.Event()

    def find(host: str, _port: int) -> list[Address]:
        if host.startswith("silent"):
            silent.wait(20)
            raise OSError("no answer")
        return home

    resolver = Resolver(find)
    assert await resolver.look_up("crm.example.com", 443) == home
    waiting = [
        asyncio.create_task(resolver.look_up(f"silent{number}.example.com", 443))
        for number in range(2 * LOOK_UP_THREADS)
    ]
    await asyncio.sleep(0)
    try:
        async with asyncio.timeout(10):
            assert await resolver.look_up("crm.example.com", 443) == home
    finally:
        silent.set()
        resolver.close()
        found = await asyncio.gather(*waiting, return_exceptions=True)
    assert all(isinstance(one, OSError | asyncio.CancelledError) for one in found)


@pytest.mark.parametrize("hidden", ["10.0.0.1", "::ffff:10.0.0.1", "169.254.169.254", "fe80::1"])
async def test_one_bad_address_among_good_ones_is_enough(settings: Settings, hidden: str) -> None:
    network, recorder = backend(settings, [[PUBLIC, hidden]])
    with pytest.raises(TargetRefused):
        await network.connect_tcp("rebinding.example", 443, timeout=2)
    assert recorder.connected == []


async def test_no_other_host_is_connected_to_than_the_one_that_was_checked(
    settings: Settings,
) -> None:
    network, _ = backend(settings, [[PUBLIC]])
    with pytest.raises(httpcore.ConnectError):
        await network.connect_tcp("127.0.0.1", 443)
    with pytest.raises(httpcore.ConnectError):
        await network.connect_unix_socket("/var/run/docker.sock")


@pytest.mark.parametrize(
    "text",
    [PUBLIC, "1.1.1.1", "8.8.8.8", "2606:4700:4700::1111", "2a00:1450:4001:82b::200e", "172.15.0.1",
     "172.32.0.1", "100.63.255.255", "100.128.0.1", "192.0.1.1", "223.255.255.255", "11.0.0.1"],
)  # fmt: skip
def test_the_public_internet_may_be_called(text: str) -> None:
    assert kind_of(ip_address(text)) is None


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("127.8.8.8", "loopback"), ("10.255.0.1", "private"), ("100.64.0.0", "shared by a carrier (CGNAT)"),
        ("100.127.255.255", "shared by a carrier (CGNAT)"), ("169.254.0.1", "link-local"), ("0.1.2.3", "unspecified"),
        ("233.1.1.1", "multicast"), ("250.0.0.1", "reserved"), ("192.88.99.1", "a 6to4 relay"),
        ("::", "unspecified"), ("::1", "loopback"), ("fe80::1", "link-local"), ("fdff::1", "private"),
        ("64:ff9b::808:808", "translated (NAT64)"), ("64:ff9b:1:ffff::1", "translated (NAT64)"),
        ("2002:808:808::1", "a tunnel (6to4)"), ("2001:0:808:808:0:0:f7f7:f7f7", "a tunnel (Teredo)"),
        ("::ffff:8.8.8.8", "an IPv4 address in IPv6"), ("::8.8.8.8", "reserved"),
        ("::ffff:10.0.0.1", "private, in the form of another address"),
        ("169.254.169.254", "a cloud's metadata"), ("::ffff:168.63.129.16", "a cloud's metadata"),
    ],
)  # fmt: skip
def test_an_address_that_is_refused_is_told_by_its_kind(text: str, kind: str) -> None:
    assert kind_of(ip_address(text)) == kind


@pytest.mark.parametrize(
    ("allowed", "url", "address"),
    [
        ("crm.internal", "https://crm.internal/", "10.0.0.1"),
        (".svc.cluster.local", "https://a.b.svc.cluster.local/", "10.0.0.1"),
        ("10.0.0.0/8", "https://crm.internal/", "10.0.0.1"),
        ("fd12::/16", "https://[fd12::1]/", "fd12::1"),
        ("localhost:9000", "http://localhost:9000/", "127.0.0.1"),
        ("127.0.0.1:9000", "http://127.0.0.1:9000/", "127.0.0.1"),
        ("[::1]:9000", "http://[::1]:9000/", "::1"),
    ],
)
def test_what_is_allowed_may_be_called(
    make_settings: Callable[..., Settings], allowed: str, url: str, address: str
) -> None:
    destination = parse_url(url).destination
    for settings, may in (
        (make_settings(target_allowed=(allowed,)), True),
        (make_settings(), False),
    ):
        guard = Guard.of(settings)
        try:
            guard.check(destination)
            guard.check_addresses(destination, [ip_address(address)])
        except TargetRefused:
            assert not may
        else:
            assert may


@pytest.mark.parametrize(
    ("allowed", "url", "address"),
    [
        ("svc.cluster.local", "https://a.svc.cluster.local/", "10.0.0.1"),
        (".internal", "https://evilinternal/", "10.0.0.1"),
        ("crm.internal:8443", "https://crm.internal/", "10.0.0.1"),
        ("crm.internal", "http://crm.internal:8080/", "10.0.0.1"),
        ("10.0.0.0/8", "https://x.example/", "::ffff:10.0.0.1"),
        ("metadata.internal", "http://metadata.internal/", "169.254.169.254"),
        ("169.254.0.0/16", "http://169.254.169.254/", "169.254.169.254"),
    ],
)
def test_an_entry_allows_no_more_than_it_says(
    make_settings: Callable[..., Settings], allowed: str, url: str, address: str
) -> None:
    guard, destination = (
        Guard.of(make_settings(target_allowed=(allowed,))),
        parse_url(url).destination,
    )
    with pytest.raises(TargetRefused):  # noqa: PT012 - either may refuse it
        guard.check(destination)
        guard.check_addresses(destination, [ip_address(address)])


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("HTTPS://Example.COM", "https://example.com/"),
        ("https://example.com.:443/a?b=c", "https://example.com/a?b=c"),
        ("http://example.com:8080?x", "http://example.com:8080/?x"),
        ("https://bücher.example/", "https://xn--bcher-kva.example/"),
        ("http://[2606:4700::1111]:80/", "http://[2606:4700::1111]/"),
        ("https://a_b.example/%C3%A9;x=1/@:", "https://a_b.example/%C3%A9;x=1/@:"),
    ],
)
def test_a_url_has_one_spelling(text: str, read: str) -> None:
    assert str(parse_url(text)) == read
