"""Parses DATABASE_URL in the forms that people, hosting providers and other libraries write.

An invalid URL raises ValueError with what was expected. The message quotes no part of the URL that
may hold a password.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Self
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit, urlunsplit

DEFAULT_PORT: Final = 5432

_PASSED_ON: Final = frozenset(
    {
        *("user", "password", "dbname", "database", "passfile", "service", "krbsrvname", "gsslib"),
        *("sslmode", "sslcert", "sslkey", "sslrootcert", "sslnegotiation", "sslcrl", "sslpassword"),
        *("ssl_min_protocol_version", "ssl_max_protocol_version", "target_session_attrs"),
        *("options", "search_path"),
    }
)
"""Parameters that asyncpg reads, and session settings that a URL usually carries."""

_SSL: Final = {"true": "require", "1": "require", "false": "disable", "0": "disable"}
"""Values of `ssl` in URLs of other drivers. SQLAlchemy with asyncpg takes those of `sslmode`."""

_WORDS: Final = {
    "sslmode": ("disable", "allow", "prefer", "require", "verify-ca", "verify-full"),
    "sslnegotiation": ("postgres", "direct"),
    "gsslib": ("gssapi", "sspi"),
    "ssl_min_protocol_version": ("TLSv1", "TLSv1.1", "TLSv1.2", "TLSv1.3"),
    "ssl_max_protocol_version": ("TLSv1", "TLSv1.1", "TLSv1.2", "TLSv1.3"),
    "target_session_attrs": (
        *("any", "primary", "read-write", "standby", "read-only", "prefer-standby"),
    ),
}
_FILES: Final = ("sslcert", "sslkey", "sslrootcert", "sslcrl")

UNREADABLE: Final = (
    "cannot be read: expected postgresql://user:password@host:port/name, where @ : / ? # and % in the "
    "user and the password are percent-encoded (%40 %3A %2F %3F %23 %25)"
)


@dataclass(frozen=True, slots=True)
class Host:
    """One server: a name or address, or the directory of its socket."""

    name: str
    port: int

    def __str__(self) -> str:
        """As logs show it."""
        return f"{self.name}:{self.port}"


@dataclass(frozen=True, slots=True)
class DatabaseUrl:
    """The parts of a database URL."""

    dsn: str = field(repr=False)
    """User, password, database and parameters in asyncpg's form, without hosts."""
    hosts: tuple[Host, ...]
    """In the order given. If empty, the driver's default applies."""
    connect_timeout_seconds: float | None
    application_name: str | None
    system_roots: bool
    """Whether to verify certificates against the roots that the machine trusts."""
    ignored: tuple[str, ...]
    """Parameters that the service does not know."""

    @classmethod
    def parse(cls, url: str) -> Self:
        """Parse `url`.

        Raises:
            ValueError: the URL is malformed, or a parameter has an invalid value.
        """
        netloc, path, query = _split(url)
        credentials, _, authority = netloc.rpartition("@")
        given, hosts_given, ports_given = _parameters(query)
        hosts = _hosts(authority or hosts_given, ports_given)
        connect_timeout = _seconds(given.pop("connect_timeout", ""))
        application_name = given.pop("application_name", None)
        if "ssl" in given:
            mode = given.pop("ssl")
            given.setdefault("sslmode", _SSL.get(mode.lower(), mode))
        system_roots = given.get("sslrootcert") == "system"
        if system_roots:
            del given["sslrootcert"]
            given["sslmode"] = "verify-full"  # as in libpq, which refuses anything weaker
        if len(hosts) > 1:
            # A standby accepts connections but none of our statements.
            given.setdefault("target_session_attrs", "read-write")
        passed = {name: value for name, value in given.items() if name in _PASSED_ON}
        _check(passed)
        dsn = urlunsplit(
            ("postgresql", f"{credentials}@" if credentials else "", path, urlencode(passed), "")
        )
        ignored = tuple(sorted(given.keys() - passed))
        return cls(dsn, hosts, connect_timeout, application_name, system_roots, ignored)


def _split(url: str) -> tuple[str, str, str]:
    """Authority, path and query. Refuses a URL whose password contains unencoded separators."""
    try:
        parts = urlsplit(url.strip())
    except ValueError:  # its message quotes the authority
        raise ValueError(UNREADABLE) from None
    if parts.scheme.partition("+")[0] not in {"postgresql", "postgres"}:
        raise ValueError(
            "is not a PostgreSQL URL: expected postgresql://user:password@host:port/name"
        )
    raw = "#" in url or parts.netloc.count("@") > 1 or "@" in parts.path
    if raw or not (unquote(url).isprintable() and url.partition(":")[2].startswith("//")):
        raise ValueError(UNREADABLE)
    return parts.netloc, parts.path, parts.query


def _parameters(query: str) -> tuple[dict[str, str], str, str]:
    """The parameters, where the last of a name wins; all hosts and all ports, comma-separated."""
    try:
        pairs = parse_qsl(query, keep_blank_values=True, strict_parsing=bool(query))
    except ValueError:
        raise ValueError(UNREADABLE) from None
    if any("@" in name or "/" in name for name, _ in pairs):
        raise ValueError(UNREADABLE)
    given = {name: value for name, value in pairs if value}
    given.pop("host", None), given.pop("port", None)
    # SQLAlchemy repeats a parameter for several hosts, libpq separates them by commas.
    listed = [",".join(value for name, value in pairs if name == key) for key in ("host", "port")]
    return given, listed[0], listed[1]


def _hosts(names: str, ports: str) -> tuple[Host, ...]:
    if not names:
        if ports:
            raise ValueError(
                "names a port without a host: add host=… or write //user@host:port/name"
            )
        return ()
    try:
        common = [int(port or DEFAULT_PORT) for port in ports.split(",")] if ports else []
        split = [_host(name) for name in names.split(",")]
    except ValueError:  # its message may quote the beginning of a password
        raise ValueError(UNREADABLE) from None
    if len(common) not in {0, 1, len(split)}:
        raise ValueError(
            f"has {len(split)} hosts and {len(common)} ports: expected one port each, or one for all"
        )
    if len(common) == 1:
        common *= len(split)
    hosts = tuple(
        Host(name, port or (common[at] if common else DEFAULT_PORT))
        for at, (name, port) in enumerate(split)
    )
    if not all(host.name and 0 < host.port < 65536 for host in hosts):
        raise ValueError(UNREADABLE)
    return hosts


def _host(text: str) -> tuple[str, int | None]:
    """Name and port of `name:port` or `[address]:port`; the directory of a socket."""
    if text.startswith("["):
        name, bracket, port = text[1:].partition("]")
        if not bracket or (port and not port.startswith(":")):
            raise ValueError(text)
        port = port[1:]
    elif text.startswith("/") or text.lower().startswith("%2f"):
        name, port = text, ""
    else:
        name, _, port = text.partition(":")
    return unquote(name), int(port) if port else None


def _seconds(text: str) -> float | None:
    if not text.isdecimal():
        if text:
            raise ValueError("has a connect_timeout that is not a whole number of seconds")
        return None
    return float(text) or None  # 0 sets no timeout


def _check(passed: dict[str, str]) -> None:
    for name, words in _WORDS.items():
        if passed.get(name, words[0]) not in words:
            raise ValueError(
                f"has an invalid {name}: expected {', '.join(words[:-1])} or {words[-1]}"
            )
    for name in _FILES:
        if name in passed and not Path(passed[name]).is_file():
            raise ValueError(
                f"has an {name} that cannot be read: expected the path of a readable file"
            )
