"""Validates addresses of mail servers, web APIs and people.

An invalid address raises ValueError with what was expected. The message quotes nothing that may hold
a password.
"""

import re
from dataclasses import dataclass, field
from email.headerregistry import Address
from email.utils import getaddresses
from ipaddress import ip_address
from typing import Final
from urllib.parse import unquote, urlsplit

DEFAULT_SMTP_PORTS: Final = {"smtp": 25, "smtp+starttls": 587, "smtp+ssl": 465}
MAX_EMAIL_CHARS: Final = 254

# RFC 5321 §4.5.3.1: 64 octets before the @, 254 in a path that fits a command line. Only dot-atoms in
# ASCII: too many servers refuse quoted local parts and SMTPUTF8, and an international domain can be
# written in its xn-- form.
_ATOM = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+"
_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_EMAIL: Final = re.compile(
    rf"(?=[^@]{{1,64}}@){_ATOM}(?:\.{_ATOM})*@(?:(?:{_LABEL}\.)+{_LABEL}|localhost)"
)

# RFC 2047: a mail client would decode it in a header, to any text at all.
_ENCODED_WORD: Final = re.compile(r"=\?.*\?=")

# E.164: a plus, a country code that does not start with 0, at most fifteen digits.
_E164: Final = re.compile(r"\+[1-9][0-9]{6,14}")


def is_email(text: str) -> bool:
    """Whether the text is exactly one plain e-mail address."""
    return (
        len(text) <= MAX_EMAIL_CHARS
        and _EMAIL.fullmatch(text) is not None
        and _ENCODED_WORD.search(text) is None
    )


def is_e164(text: str) -> bool:
    """Whether the text is an international telephone number."""
    return _E164.fullmatch(text) is not None


def is_loopback(host: str) -> bool:
    """Whether the host is localhost or a loopback address."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def web_base(url: str) -> str:
    """The URL of a web API, without a trailing slash.

    Raises:
        ValueError: it is not an http or https URL, or has a user or a query.
    """
    parts = urlsplit(url)
    if parts.scheme not in {"http", "https"} or not parts.hostname or parts.query or parts.username:
        raise ValueError("expected https://host, without user or query")
    return url.rstrip("/")


def sender(text: str) -> Address:
    """The sender of mails, as `address` or `Name <address>`.

    Raises:
        ValueError: it is not one address.
    """
    (name, address), *more = getaddresses([text]) or [("", "")]
    if more or not text.isprintable() or not is_email(address):
        raise ValueError(f"{text!r}: expected address@example.org or Name <address@example.org>")
    return Address(display_name=name, addr_spec=address)


@dataclass(frozen=True, slots=True)
class SmtpServer:
    """A mail server and the credentials for it."""

    host: str
    port: int
    scheme: str
    username: str | None = field(repr=False)
    password: str | None = field(repr=False)

    @classmethod
    def from_url(cls, url: str) -> "SmtpServer":
        """Parse the URL of a mail server.

        Raises:
            ValueError: the URL is invalid.
        """
        wrong = ValueError(
            "expected smtp://, smtp+starttls:// or smtp+ssl:// with user:password@host:port "
            "(user, password and port may be left out; percent-encode @, : and / in them)"
        )
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError:
            raise wrong from None
        if (
            parts.scheme not in DEFAULT_SMTP_PORTS
            or not parts.hostname
            or parts.path not in {"", "/"}
        ):
            raise wrong
        if parts.query or parts.fragment or (parts.username and parts.password is None):
            raise wrong
        return cls(
            host=parts.hostname,
            port=port or DEFAULT_SMTP_PORTS[parts.scheme],
            scheme=parts.scheme,
            username=unquote(parts.username) if parts.username else None,
            password=unquote(parts.password) if parts.username and parts.password else None,
        )
