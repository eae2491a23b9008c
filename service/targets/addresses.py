"""Addresses that no target may have, unless a setting allows it: everything but the public internet.

`ipaddress.is_global` alone would let through what is translated into other addresses (NAT64, 6to4, Teredo,
IPv4-mapped ones), multicast, and the public addresses behind which clouds keep their metadata.
"""

from collections.abc import Iterator
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_network
from typing import Final

from service.targets.url import Address

METADATA: Final = frozenset(
    map(
        ip_network,
        (
            "169.254.169.254/32",  # AWS, Azure, Google, Oracle, DigitalOcean and others
            "169.254.170.2/32",  # credentials of AWS tasks
            "169.254.170.23/32",  # credentials of AWS pods
            "168.63.129.16/32",  # Azure's own channel into each machine, in public space
            "100.100.100.200/32",  # Alibaba
            "192.0.0.192/32",  # Oracle's older one
            "fd00:ec2::254/128",  # AWS over IPv6
            "fd00:ec2::23/128",
            "fd20:ce::254/128",  # Google over IPv6
        ),
    )
)
"""Where clouds hand out the credentials of a machine: no setting allows them."""

_REFUSED: Final[tuple[tuple[str, str], ...]] = (
    # The registries of special addresses of IANA (RFC 6890), and those of the protocols beside each.
    ("0.0.0.0/8", "unspecified"),
    ("10.0.0.0/8", "private"),
    ("100.64.0.0/10", "shared by a carrier (CGNAT)"),
    ("127.0.0.0/8", "loopback"),
    ("169.254.0.0/16", "link-local"),
    ("172.16.0.0/12", "private"),
    ("192.0.0.0/24", "reserved for protocols"),
    ("192.0.2.0/24", "for documentation"),
    ("192.31.196.0/24", "reserved (AS112)"),
    ("192.52.193.0/24", "reserved (AMT)"),
    ("192.88.99.0/24", "a 6to4 relay"),
    ("192.168.0.0/16", "private"),
    ("192.175.48.0/24", "reserved (AS112)"),
    ("198.18.0.0/15", "for benchmarks"),
    ("198.51.100.0/24", "for documentation"),
    ("203.0.113.0/24", "for documentation"),
    ("224.0.0.0/4", "multicast"),
    ("240.0.0.0/4", "reserved"),
    ("::/128", "unspecified"),
    ("::1/128", "loopback"),
    ("64:ff9b::/96", "translated (NAT64)"),
    ("64:ff9b:1::/48", "translated (NAT64)"),
    ("100::/64", "discarded"),
    ("2001::/32", "a tunnel (Teredo)"),
    ("2001:db8::/32", "for documentation"),
    ("2001::/23", "reserved for protocols"),
    ("2002::/16", "a tunnel (6to4)"),
    ("2620:4f:8000::/48", "reserved (AS112)"),
    ("3fff::/20", "for documentation"),
    ("5f00::/16", "for segment routing"),
    ("fc00::/7", "private"),
    ("fe80::/10", "link-local"),
    ("fec0::/10", "private"),
    ("ff00::/8", "multicast"),
)
_NETWORKS: Final = tuple((ip_network(network), kind) for network, kind in _REFUSED)
_UNICAST: Final = IPv6Network("2000::/3")
"""All of IPv6 that is given out."""

_MAPPED: Final = IPv6Network("::ffff:0:0/96")
_TRANSLATED: Final = IPv6Network("::ffff:0:0:0/96")
_COMPATIBLE: Final = IPv6Network("::/96")
_ISATAP: Final = (0x00005EFE, 0x02005EFE)


@lru_cache(maxsize=1_024)
def kind_of(address: Address) -> str | None:
    """Why the address must not be called, in a word or two; None: it is on the public internet."""
    forms = list(forms_of(address))
    if leads_to_metadata(address):
        return "a cloud's metadata"
    for one in reversed(forms):  # what is hidden says more
        if (kind := _kind(one)) is not None:
            return kind if one == address else f"{kind}, in the form of another address"
    return None


@lru_cache(maxsize=1_024)
def leads_to_metadata(address: Address) -> bool:
    """Whether a cloud hands out credentials there, or at the address that is hidden in it."""
    return any(one in network for one in forms_of(address) for network in METADATA)


def forms_of(address: Address) -> Iterator[Address]:
    """The address, and the IPv4 address that is hidden in it where there is one."""
    yield address
    if isinstance(address, IPv4Address):
        return
    number = int(address)
    low = IPv4Address(number & 0xFFFFFFFF)
    if (
        address in _MAPPED
        or address in _TRANSLATED
        or address in IPv6Network("64:ff9b::/96")
        or (address in _COMPATIBLE and number > 1)
    ):
        yield low
    elif address.sixtofour is not None:
        yield address.sixtofour
    elif address.teredo is not None:
        yield from address.teredo
    elif (number >> 32) & 0xFFFFFFFF in _ISATAP:
        yield low


def _kind(address: Address) -> str | None:
    for network, kind in _NETWORKS:
        if address in network:
            return kind
    if isinstance(address, IPv6Address) and address not in _UNICAST:
        return "an IPv4 address in IPv6" if address in _MAPPED else "reserved"
    return None if address.is_global else "not public"
