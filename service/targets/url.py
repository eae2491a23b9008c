"""URLs of targets: one spelling, read once.

What is checked and what is called must be the same, so a URL is taken apart here and never again. Spellings
that other parsers read in another way are refused: they name the same hosts by nothing but accident.
"""

import re
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Final, TypeAlias

import idna

MAX_URL_CHARS: Final = 2_048
MAX_HOST_CHARS: Final = 253
DEFAULT_PORTS: Final = {"http": 80, "https": 443}

Address: TypeAlias = IPv4Address | IPv6Address

_PARTS: Final = re.compile(
    r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*)://(?P<authority>[^/?#]*)(?P<target>[^#]*)(?P<fragment>#.*)?"
)
_TARGET: Final = re.compile(r"(?:[A-Za-z0-9\-._~!$&'()*+,;=:@/?]|%[0-9A-Fa-f]{2})*")
_LABEL: Final = re.compile(r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?")
_NUMBER: Final = re.compile(r"[0-9]+|0x[0-9a-f]*")
"""What ends a host that browsers and C libraries read as an IPv4 address: `2130706433`, `0x7f.1`."""
_PORT: Final = re.compile(r"[1-9][0-9]{0,4}")


@dataclass(frozen=True, slots=True)
class Destination:
    """Where connections go: they are shared, limited and broken off by destination."""

    scheme: str
    host: str
    """In lower case, an international name in its ASCII form; of an IPv6 address without brackets."""
    port: int

    def __str__(self) -> str:
        """As in a URL, without a port that its scheme implies."""
        return f"{self.scheme}://{self.authority}"

    @property
    def authority(self) -> str:
        """The value of the `Host` header."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == DEFAULT_PORTS[self.scheme] else f"{host}:{self.port}"

    @property
    def address(self) -> Address | None:
        """The address, if the host is one."""
        return _address(self.host)


@dataclass(frozen=True, slots=True)
class Url:
    """A URL that may be looked at further."""

    destination: Destination
    target: str
    """Path and query, at least `/`."""

    @property
    def without_query(self) -> str:
        """For people to read: queries hold secrets."""
        return f"{self.destination}{self.target.partition('?')[0]}"

    def __str__(self) -> str:
        """The whole URL."""
        return f"{self.destination}{self.target}"


@lru_cache(maxsize=1_024)
def parse_url(text: str) -> Url:
    """The parts of a URL.

    Raises:
        ValueError: it is not an http or https URL, or not in its plain spelling; says what to write.
    """
    if len(text) > MAX_URL_CHARS:
        raise ValueError(f"it has {len(text)} characters: at most {MAX_URL_CHARS} are allowed")
    if "\\" in text or any(character <= " " or character == "\x7f" for character in text):
        raise ValueError(
            "it holds a backslash, a space or a control character: percent-encode them (%5C, %20)"
        )
    parts = _PARTS.fullmatch(text)
    scheme = parts["scheme"].lower() if parts else ""
    if parts is None or scheme not in DEFAULT_PORTS:
        raise ValueError("expected http://host/path or https://host/path")
    if parts["fragment"] is not None:
        raise ValueError("a fragment (#…) is never sent: leave it out, or percent-encode it as %23")
    authority, target = parts["authority"], parts["target"] or "/"
    if "@" in authority:
        raise ValueError(
            "it holds a user before the host: send credentials in the header Authorization"
        )
    if not _TARGET.fullmatch(target):
        raise ValueError(
            "path and query hold a character that must be percent-encoded, as in %C3%A9"
        )
    host, port = _split(authority)
    destination = Destination(scheme, _host(host), DEFAULT_PORTS[scheme] if port is None else port)
    return Url(destination, target if target[0] == "/" else f"/{target}")


def _split(authority: str) -> tuple[str, int | None]:
    host, colon, port = authority, "", ""
    if authority.startswith("["):
        host, bracket, rest = authority.partition("]")
        host += bracket
        colon, port = rest[:1], rest[1:]
        if not bracket or colon not in {"", ":"}:
            raise ValueError(
                "the IPv6 address is not closed: expected [2001:db8::1] or [2001:db8::1]:443"
            )
    elif ":" in authority:
        host, colon, port = authority.partition(":")
    if not colon:
        return host, None
    if not _PORT.fullmatch(port) or int(port) > 65_535:
        raise ValueError(
            f"the port {port[:20]!r} is not a number from 1 to 65535 without zeros before it"
        )
    return host, int(port)


def _host(text: str) -> str:
    if text.startswith("["):
        if "%" in text:
            raise ValueError(
                "the IPv6 address has a zone (%…): addresses of one link cannot be called"
            )
        try:
            return str(IPv6Address(text[1:-1]))
        except ValueError:
            raise ValueError(f"{text[:60]!r} is not an IPv6 address") from None
    host = (text if text.isascii() else _in_ascii(text)).lower()
    host = host.removesuffix(".")
    labels = host.split(".")
    if len(host) > MAX_HOST_CHARS or not all(map(_LABEL.fullmatch, labels)):
        raise ValueError(
            f"{text[:60]!r} is not a host name: expected letters, digits and hyphens between dots"
        )
    if _NUMBER.fullmatch(labels[-1]) and (
        not text.isascii() or not isinstance(_address(host), IPv4Address)
    ):
        raise ValueError(
            f"{text[:60]!r} is a number that some programs read as an address: write it as four decimal "
            "numbers without zeros before them, 192.0.2.7"
        )
    return host


def _in_ascii(text: str) -> str:
    try:
        return idna.encode(text, uts46=True, std3_rules=True).decode("ascii")
    except (idna.IDNAError, UnicodeError):
        raise ValueError(f"{text[:60]!r} is not an international host name") from None


def _address(host: str) -> Address | None:
    try:
        return ip_address(host)
    except ValueError:
        return None
